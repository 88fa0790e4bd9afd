"""MiniLM beside onnxruntime: 32 texts of 128 tokens, given as token ids to both.

Ours answers through its API, which counts against it; onnxruntime computes within a process of its own.
"""

import base64
import json
import random
import statistics
import struct
import tempfile
import time
from pathlib import Path

import minilm

TEXTS, TOKENS, PASSES = 32, 128, 8
# Ordinary words of MiniLM's vocabulary.
WORD_PIECES = range(2000, 29000)
# How our side seals the model for each kind of weights.
SEALING = {"f32": [], "int8": ["--quantize", "q8_0"]}
LEAST_COSINE = 0.999


def embeddings(run):
    """A round: each kind of weights on each side, held against the exact vectors."""
    folder = run.arguments.peers / "minilm"
    with tempfile.TemporaryDirectory() as place:
        if run.ampoule:
            source = minilm.unpack(Path(place))
            bundles = {kind: run.ampoule.seal(f"minilm-{kind}", source, *SEALING[kind])
                       for kind in run.arguments.minilm}
    for number in run.rounds("embeddings"):
        chosen = random.Random(number)
        texts = [chosen.choices(WORD_PIECES, k=TOKENS) for _ in range(TEXTS)]
        exact = None
        for kind in ["f32", "int8"]:
            found = run.in_process(task="embeddings", model=str(folder / f"{kind}.onnx"), texts=texts, passes=PASSES)
            exact = exact or found["vectors"]
            add_embeddings(run, kind, "onnxruntime", number, found["seconds"], exact, found["vectors"])
            if run.ampoule and kind in run.arguments.minilm:
                with run.ampoule.serve(bundles[kind], f"minilm-{kind}", TEXTS, TOKENS) as server:
                    seconds, vectors = embed(server, texts)
                add_embeddings(run, kind, "ampoule", number, seconds, exact, vectors)


def add_embeddings(run, kind, side, number, seconds, exact, vectors):
    cosines = [sum(x * y for x, y in zip(one, other)) for one, other in zip(exact, vectors)]
    if side == "ampoule" and min(cosines) < LEAST_COSINE:
        raise RuntimeError(f"the vectors of {kind} are {min(cosines)} from those of onnxruntime f32")
    speed = TEXTS * TOKENS / statistics.median(seconds)
    run.samples.add("embeddings", f"minilm {kind}", side, number, {"tokens_per_second": speed, "cosine": min(cosines)})


def embed(server, texts):
    body = {"model": server.model, "input": texts, "encoding_format": "base64"}
    server.first_reply("/v1/embeddings", body)
    seconds = []
    for _ in range(PASSES):
        started = time.perf_counter()
        reply = server.ask("/v1/embeddings", body)
        seconds.append(time.perf_counter() - started)
    vectors = [base64.b64decode(item["embedding"]) for item in json.loads(reply)["data"]]
    return seconds, [struct.unpack(f"<{len(vector) // 4}f", vector) for vector in vectors]
