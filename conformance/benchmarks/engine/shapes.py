"""The models of the comparison: random weights in real shapes, and a text that such a model writes.

What a matrix of random numbers answers falls into a loop within a few tokens, and a server that guesses tokens ahead
would win by that alone. So each model here knows one thing by construction: its words lie on cycles of `CYCLE` words,
and after a word it says the next one of the same cycle. A prompt of random words gets an answer without any
repetition, a prompt that holds a whole cycle gets an answer that repeats the prompt, and in both cases the right
answer is known, so that each side is held to have done the work.

How: the embedding of a cycle's k-th word is R^k e, where e is random and R turns pairs of coordinates by random
multiples of 1/CYCLE of a whole turn. Coordinate 0 is the same for every word, so the last layer's gate, which looks
at nothing else, is open for all of them alike, and its feed-forward part adds R times its input. All other matrices
are random, scaled so that what they add stays below the signal; the kernels see ordinary numbers in every block."""

import dataclasses
import zlib

import numpy

SEED = 1
CYCLE = 512

# Coordinate 0 of each embedding, large beside the others' 1, and how strongly the last layer answers.
CONSTANT, ANSWER = 8.0, 4.0
# What one attention or feed-forward part of a random layer adds to each coordinate.
NOISE = 0.05


@dataclasses.dataclass(frozen=True)
class Shape:
    """A decoder as its published configuration describes it."""

    name: str
    architecture: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    vocabulary: str
    vocabulary_size: int
    rope_theta: float
    norm_epsilon: float
    qkv_bias: bool
    context: int = 8192
    head: int = 64

    @property
    def matrix_elements(self):
        """Elements of the layers' matrices, each of which takes one multiplication and one addition a token."""
        attention = self.hidden * self.head * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.feed_forward)

    def prefill_operations(self, tokens):
        """What the matrices of a prompt take; logits are needed for its last token alone."""
        return 2 * (tokens * self.matrix_elements + self.vocabulary_size * self.hidden)


SHAPES = {
    shape.name: shape
    for shape in [
        Shape("llama-1b", "llama", 16, 2048, 8192, 32, 8, "llama-bpe", 128256, 500000.0, 1e-5, qkv_bias=False),
        Shape("qwen-0.5b", "qwen2", 24, 896, 4864, 14, 2, "qwen2", 151936, 1000000.0, 1e-6, qkv_bias=True),
        # For trying out the scripts; nothing is measured with it.
        Shape("tiny", "llama", 3, 256, 768, 4, 2, "llama-bpe", 128256, 500000.0, 1e-5, qkv_bias=False),
    ]
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor: its names in both formats, its shape, and the function that makes its values."""

    hugging_face: str
    gguf: str
    shape: tuple
    make: object
    # The heads of a query or key matrix whose rows GGUF's Llama keeps in another order.
    rope_heads: int = 0


def tensors(shape, cycles):
    """All tensors of a model, in the order in which they are written; values are made when they are asked for."""
    found = [
        Tensor("model.embed_tokens.weight", "token_embd.weight", (shape.vocabulary_size, shape.hidden),
               lambda: embeddings(shape, cycles)),
    ]
    for layer in range(shape.layers):
        found += layer_tensors(shape, layer)
    found.append(ones("model.norm.weight", "output_norm.weight", shape.hidden))
    return found


def layer_tensors(shape, layer):
    ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
    hidden, queries, keys = shape.hidden, shape.heads * shape.head, shape.kv_heads * shape.head
    turned = shape.architecture == "llama"

    def matrix(name, gguf, rows, columns, deviation, rope_heads=0):
        name = f"{ours}.{name}.weight"
        return Tensor(name, f"{theirs}.{gguf}.weight", (rows, columns),
                      lambda: random(name, (rows, columns), deviation), rope_heads if turned else 0)

    found = [
        ones(f"{ours}.input_layernorm.weight", f"{theirs}.attn_norm.weight", hidden),
        matrix("self_attn.q_proj", "attn_q", queries, hidden, hidden**-0.5, shape.heads),
        matrix("self_attn.k_proj", "attn_k", keys, hidden, hidden**-0.5, shape.kv_heads),
        matrix("self_attn.v_proj", "attn_v", keys, hidden, hidden**-0.5),
        matrix("self_attn.o_proj", "attn_output", hidden, queries, NOISE * queries**-0.5),
        ones(f"{ours}.post_attention_layernorm.weight", f"{theirs}.ffn_norm.weight", hidden),
    ]
    if shape.qkv_bias:
        for part, gguf, rows in [("q", "attn_q", queries), ("k", "attn_k", keys), ("v", "attn_v", keys)]:
            name = f"{ours}.self_attn.{part}_proj.bias"
            found.append(Tensor(name, f"{theirs}.{gguf}.bias", (rows,),
                                lambda name=name, rows=rows: random(name, (rows,), 0.1)))
    # Half of the squares of SiLU times a random number are left, so the deviation of what is added is about NOISE.
    deviations = {"gate": hidden**-0.5, "up": hidden**-0.5, "down": 1.7 * NOISE * shape.feed_forward**-0.5}
    answers = dict(zip(deviations, answer_matrices(shape))) if layer == shape.layers - 1 else {}
    for part, deviation in deviations.items():
        rows, columns = (hidden, shape.feed_forward) if part == "down" else (shape.feed_forward, hidden)
        tensor = matrix(f"mlp.{part}_proj", f"ffn_{part}", rows, columns, deviation)
        if part in answers:
            tensor = dataclasses.replace(tensor, make=lambda tensor=tensor, part=part: answers[part](tensor.make()))
        found.append(tensor)
    return found


def ones(name, gguf, size):
    return Tensor(name, gguf, (size,), lambda: numpy.ones(size, numpy.float32))


def random(name, shape, deviation):
    """Normal numbers that depend on the seed and the tensor's name alone."""
    generator = numpy.random.Generator(numpy.random.SFC64([SEED, zlib.crc32(name.encode())]))
    values = generator.standard_normal(shape, numpy.float32)
    values *= numpy.float32(deviation)
    return values


def turns(shape):
    """By what multiples of 1/CYCLE of a whole turn R turns the pairs of coordinates from the second pair on."""
    generator = numpy.random.Generator(numpy.random.SFC64([SEED, shape.hidden]))
    return generator.integers(1, CYCLE, shape.hidden // 2 - 1) / CYCLE


def embeddings(shape, cycles):
    # Words on no cycle have half the length of the others and are never the nearest.
    values = random("embeddings", (shape.vocabulary_size, shape.hidden), 0.5)
    first = random("first words", (len(cycles), shape.hidden - 2), 1.0).view(numpy.complex64)
    words = numpy.array(cycles)
    for step in range(CYCLE):
        turned = first * numpy.exp(2j * numpy.pi * step * turns(shape)).astype(numpy.complex64)
        values[words[:, step], 2:] = turned.view(numpy.float32)
    values[:, 0], values[:, 1] = CONSTANT, 0.0
    return values


def answer_matrices(shape):
    """What makes gate, up and down of the last layer from random matrices; the first `hidden` units are R."""
    size = shape.hidden

    def gate(values):
        values[:size] = 0.0
        values[:size, 0] = 1.0
        return values

    def up(values):
        values[:size] = numpy.eye(size, dtype=numpy.float32)
        return values

    def down(values):
        # SiLU of the constant is about the constant.
        cosines = ANSWER / CONSTANT * numpy.cos(2 * numpy.pi * turns(shape))
        sines = ANSWER / CONSTANT * numpy.sin(2 * numpy.pi * turns(shape))
        values[:, :size] = 0.0
        even = numpy.arange(2, size, 2)
        values[even, even] = values[even + 1, even + 1] = cosines
        values[even, even + 1], values[even + 1, even] = -sines, sines
        return values

    return gate, up, down
