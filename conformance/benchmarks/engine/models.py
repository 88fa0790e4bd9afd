#!/usr/bin/env python3
"""Writes the models of the comparison: models.py [--shapes NAME …] [--out FOLDER].

For each shape, under target/peers/models/NAME, from a fixed seed and one tensor at a time:

    hugging-face/   BF16 safetensors, config.json and a real tokenizer
    bf16.gguf       the same weights, and q8_0.gguf, q4_0.gguf, q4_k_m.gguf by llama.cpp's own llama-quantize
    openvino-int4/, openvino-int8/    the folder as optimum-intel converts it
    text.json       the words that follow one another, their tokens and their spelling (shapes.py tells why)

What is there is kept: a file or folder appears whole, or not at all.
"""

import argparse
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys

import gguf
import numpy

import shapes
from vocabulary import Vocabulary

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
PEERS = REPOSITORY / "target/peers"
QUANTIZED = {"q8_0": "Q8_0", "q4_0": "Q4_0", "q4_k_m": "Q4_K_M"}
OPENVINO = {
    "int4": ["--weight-format", "int4", "--group-size", "64", "--ratio", "1.0"],
    "int8": ["--weight-format", "int8"],
}
CONVERSION_SECONDS = 3600


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=shapes.SHAPES, default=["llama-1b", "qwen-0.5b"])
    parser.add_argument("--out", type=pathlib.Path, default=PEERS / "models")
    parser.add_argument("--peers", type=pathlib.Path, default=PEERS, help="what peers.sh has made")
    parser.add_argument("--vocabularies", type=pathlib.Path, default=REPOSITORY.parent / "shared/fixtures/vocab",
                        help="the folder of llama.cpp's vocabularies, ggml-vocab-*.gguf")
    parser.add_argument("--without-openvino", action="store_true", help="leave the conversions for OpenVINO out")
    arguments = parser.parse_args()
    for name in arguments.shapes:
        shape, folder = shapes.SHAPES[name], arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = Vocabulary(arguments.vocabularies, shape.vocabulary)
        write(shape, vocabulary, folder)
        for made, format in QUANTIZED.items():
            whole(folder / f"{made}.gguf", lambda partial: quantize(arguments.peers, folder, partial, format))
        if not arguments.without_openvino:
            for made, flags in OPENVINO.items():
                whole(folder / f"openvino-{made}", lambda partial: convert(arguments.peers, folder, partial, flags))
    return 0


def whole(path, make):
    """Makes a file or a folder beside its place and moves it there."""
    if path.exists():
        return
    print(f"making {path}", flush=True)
    partial = path.with_name(f"{path.name}.partial")
    if partial.is_dir():
        shutil.rmtree(partial)
    make(partial)
    partial.rename(path)


def write(shape, vocabulary, folder):
    """Writes the three files that come from this script: each tensor is made once and goes into both formats."""
    made = [folder / "hugging-face", folder / "bf16.gguf", folder / "text.json"]
    if all(path.exists() for path in made):
        return
    print(f"making {folder}", flush=True)
    for path in made:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    partial = folder / "hugging-face.partial"
    partial.mkdir(exist_ok=True)
    cycles = vocabulary.cycles()
    tensors = shapes.tensors(shape, cycles)
    written = Safetensors(partial / "model.safetensors", tensors)
    other = gguf_writer(shape, vocabulary, folder / "bf16.gguf.partial", tensors)
    for tensor in tensors:
        values = tensor.make()
        written.add(bfloat16(values))
        other.write_tensor_data(as_in_gguf(tensor, values))
    written.close()
    other.close()
    vocabulary.write_to(partial)
    (partial / "config.json").write_text(json.dumps(configuration(shape, vocabulary), indent=1))
    (folder / "bf16.gguf.partial").rename(folder / "bf16.gguf")
    (folder / "text.json").write_text(json.dumps({"cycles": cycles, "spelling": vocabulary.spelling(cycles)}))
    partial.rename(folder / "hugging-face")


class Safetensors:
    """One safetensors file of BF16 tensors, written from its beginning to its end."""

    def __init__(self, path, tensors):
        header, end = {"__metadata__": {"format": "pt"}}, 0
        for tensor in tensors:
            begin, end = end, end + 2 * int(numpy.prod(tensor.shape))
            header[tensor.hugging_face] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._file = open(path, "wb")
        self._file.write(struct.pack("<Q", len(text)) + text)

    def add(self, values):
        values.tofile(self._file)

    def close(self):
        self._file.close()


def bfloat16(values):
    """The upper halves of single-precision numbers, rounded to the nearest, ties to even."""
    found = numpy.empty(values.shape, numpy.uint16)
    # In parts: the temporary 32-bit copies of a whole embedding would take gigabytes.
    for part, out in zip(numpy.array_split(values, 64), numpy.array_split(found, 64)):
        bits = part.view(numpy.uint32)
        out[...] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return found


def as_in_gguf(tensor, values):
    """GGUF keeps vectors in single precision, and the rows of Llama's queries and keys in pairs that turn together."""
    if values.ndim == 1:
        return values
    if tensor.rope_heads:
        rows, columns = values.shape
        pairs = values.reshape(tensor.rope_heads, 2, rows // tensor.rope_heads // 2, columns)
        values = numpy.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)
    return bfloat16(values)


def gguf_writer(shape, vocabulary, path, tensors):
    """A GGUF file of which everything but the tensors' values is written."""
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_name(shape.name)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_rope_dimension_count(shape.head)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_vocab_size(shape.vocabulary_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    vocabulary.add_to(writer)
    for tensor in tensors:
        elements = int(numpy.prod(tensor.shape))
        if len(tensor.shape) == 1:
            writer.add_tensor_info(tensor.gguf, tensor.shape, numpy.dtype(numpy.float32), 4 * elements)
        else:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor_info(tensor.gguf, tensor.shape, numpy.dtype(numpy.uint16), 2 * elements, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer


def configuration(shape, vocabulary):
    return {
        "architectures": ["LlamaForCausalLM" if shape.architecture == "llama" else "Qwen2ForCausalLM"],
        "model_type": shape.architecture, "torch_dtype": "bfloat16", "hidden_act": "silu", "tie_word_embeddings": True,
        "vocab_size": shape.vocabulary_size, "hidden_size": shape.hidden, "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head, "max_position_embeddings": shape.context, "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.norm_epsilon, "bos_token_id": vocabulary.begin, "eos_token_id": vocabulary.end,
        "use_cache": True,
        **({"attention_bias": False, "mlp_bias": False} if shape.architecture == "llama" else {}),
    }


def quantize(peers, folder, partial, format):
    run(peers / "llama.cpp/bin/llama-quantize", folder / "bf16.gguf", partial, format)


def convert(peers, folder, partial, flags):
    run(peers / "conversion/bin/optimum-cli", "export", "openvino", "--model", folder / "hugging-face",
        "--task", "text-generation-with-past", *flags, partial)


def run(*command):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=environment, timeout=CONVERSION_SECONDS)
    if done.returncode != 0:
        sys.exit(f"{command} ended with {done.returncode}\n{done.stdout}")


if __name__ == "__main__":
    sys.exit(main())
