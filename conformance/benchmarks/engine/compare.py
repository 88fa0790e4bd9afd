#!/usr/bin/env python3
"""Ampoule's engine beside llama.cpp, OpenVINO GenAI and onnxruntime: the same models, threads and prompts, taking
turns.

    cargo build --release --locked --workspace
    target/peers/python/bin/python conformance/benchmarks/engine/compare.py --out FOLDER

after `peers.sh`, `models.py` and `minilm.py` (README.md). FOLDER gets raw.csv, one row for each number, and summary.md;
rows of parts that are not measured anew are kept. Parts:

    single        prefill of 512 tokens and decode of 128, one stream, with the machine's limits from the same round
    served        closed loops of 4, 8 and 16 clients, 256 tokens in and 128 out
    speculation   one client whose answer repeats its prompt
    start         from the start of the program to the first token
    memory        the server's peak with a context of 4096
    embeddings    all-MiniLM-L6-v2, 32 texts of 128 tokens
"""

import argparse
import os
import sys
from pathlib import Path

import embeddings
import parts
import report
import samples
from sides import Ampoule, LlamaCpp
from text import Text

REPOSITORY = Path(__file__).resolve().parents[3]
SIDES = ["ampoule", "llama.cpp", "openvino", "onnxruntime"]
SERVER_PARTS = {"served": parts.served, "speculation": parts.speculation, "start": parts.start, "memory": parts.memory}
PARTS = ["single", *SERVER_PARTS, "embeddings"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the folder for raw.csv and summary.md")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="which parts")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="whom to measure")
    parser.add_argument("--models", nargs="+", default=["llama-1b", "qwen-0.5b"], help="the models of one stream")
    parser.add_argument("--formats", nargs="*", default=["q4_k_m", "q4_0", "q8_0", "bf16"], help="their formats")
    parser.add_argument("--openvino-formats", nargs="*", default=["int4", "int8"])
    parser.add_argument("--served-model", default="llama-1b", help="the model of the parts with servers")
    parser.add_argument("--served-format", default="q4_k_m")
    parser.add_argument("--minilm", nargs="+", choices=embeddings.SEALING, default=list(embeddings.SEALING),
                        help="the kinds of weights that our side embeds with")
    parser.add_argument("--clients", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2, help="requests of each client in a round (default 2)")
    parser.add_argument("--minutes", type=float, default=40, help="a model's part begins no round after so long")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side (default 2)")
    parser.add_argument("--setting", nargs="*", default=["inference.threads={threads}"], metavar="KEY=VALUE",
                        help="what our server is told with --set")
    release = REPOSITORY / "target/x86_64-unknown-linux-gnu/release"
    parser.add_argument("--binaries", type=Path, default=release, help="the folder of our built programs")
    parser.add_argument("--peers", type=Path, default=REPOSITORY / "target/peers", help="what peers.sh has made")
    return compare(parser.parse_args())


def compare(arguments):
    has = set(arguments.sides)
    ampoule = None
    if "ampoule" in has:
        ampoule = Ampoule(arguments.binaries, arguments.peers, arguments.threads, arguments.setting)
    llama = LlamaCpp(arguments.peers, arguments.threads) if "llama.cpp" in has else None
    kept = samples.read(arguments.out / "raw.csv", arguments.only) if arguments.out else []
    found = samples.Samples(kept)

    def comparison(model):
        return parts.Comparison(arguments, ampoule, llama, Text(arguments.peers / "models" / model), found)

    def save():
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            found.write(arguments.out / "raw.csv")
            (arguments.out / "summary.md").write_text(report.summary(found, arguments.threads))

    print(f"load of the machine: {' '.join(f'{load:.1f}' for load in os.getloadavg())}", flush=True)
    if "single" in arguments.only:
        for model in arguments.models:
            parts.single(comparison(model), model, arguments.formats, arguments.openvino_formats)
            save()
    for name, part in SERVER_PARTS.items():
        if name in arguments.only:
            model = arguments.served_model
            part(comparison(model), model, arguments.served_format, arguments.openvino_formats)
            save()
    if "embeddings" in arguments.only:
        embeddings.embeddings(comparison(arguments.served_model))
        save()
    print(report.summary(found, arguments.threads))
    return 0


if __name__ == "__main__":
    sys.exit(main())
