"""The two servers of the comparison, and the commands that measure one stream on each."""

import json
import pathlib
import re
import subprocess

from servers import ENVIRONMENT, Server, free_port

COMMAND_SECONDS = 600
SEALING_SECONDS = 3600


class Ampoule:
    """Our side. Models are sealed once, with a key made for this, from the GGUF files that llama.cpp reads."""

    name = "ampoule"

    def __init__(self, binaries, peers, threads, settings):
        self._ampoule, self._seal = binaries / "ampoule", binaries / "ampoule-seal"
        self._place, self._models = peers / "sealed", peers / "models"
        self._threads = threads
        self._settings = [setting.format(threads=threads) for setting in settings]
        self._root, self._keys = self._place / "root.json", self._place / "keys.jsonl"
        if not (self._place / "key.txt").exists():
            self._make_keys()
        self._key = (self._place / "key.txt").read_text()

    def _make_keys(self):
        self._place.mkdir(parents=True, exist_ok=True)
        (self._place / "password").write_text("correct horse battery staple\n")
        vendor = self._place / "vendor"
        run(self._seal, "keygen", vendor, "--password-file", self._place / "password")
        run(self._seal, "trust", "init", "--root-key", f"{vendor}.pub", "--release-key", f"{vendor}.pub",
            "--out", self._root)
        printed = run(self._ampoule, "keys", "add", "peers", "--keys-file", self._keys)
        (self._place / "key.txt").write_text(re.search(r"amp-[\w-]+", printed).group(0))

    def seal(self, name, source, *flags):
        """The bundle of a model, made if it is not there."""
        bundle = self._place / f"{name}.bundle"
        if not bundle.exists():
            run(self._seal, "seal", "--from", source, "--name", name, "--version", "1.0.0", "--counter", "1",
                "--key", self._place / "vendor.key", "--password-file", self._place / "password", "--out", bundle,
                *flags, seconds=SEALING_SECONDS)
        return bundle

    def sealed_model(self, model, format):
        return self.seal(f"{model}-{format}", self._models / model / f"{format}.gguf")

    def prepare(self, model, format):
        """Makes the file and reads it once, so that every start finds it in memory."""
        read(self.sealed_model(model, format))

    def bench(self, model, format, prompt, generate):
        """One measurement of one stream, and of the machine's limits at the same time."""
        printed = run(self._ampoule, "bench", self.sealed_model(model, format), "--trust-root", self._root,
                      "--set", f"inference.threads={self._threads}", "--prompt", prompt, "--generate", generate,
                      "--batch", "1", "--rounds", "1", "--json")
        found = json.loads(printed)
        found["decode"] = found["decode"][0]
        return found

    def server(self, model, format, parallel, context):
        return self.serve(self.sealed_model(model, format), f"{model}-{format}", parallel, context)

    def serve(self, bundle, name, parallel, context):
        port = free_port()
        limits = {"running_requests": parallel, "token_budget": parallel * context}
        settings = [*self._settings, *(f"limits.{key}={value}" for key, value in limits.items())]
        command = [self._ampoule, "serve", "--bundle", bundle, "--trust-root", self._root, "--keys-file", self._keys,
                   "--listen", f"127.0.0.1:{port}", *(part for setting in settings for part in ["--set", setting])]
        return Server(self.name, command, port, name, self._key)


class LlamaCpp:
    """llama.cpp as it comes, with the number of threads given and nothing else changed."""

    name = "llama.cpp"

    def __init__(self, peers, threads):
        self._programs, self._models, self._threads = peers / "llama.cpp/bin", peers / "models", threads

    def _file(self, model, format):
        return self._models / model / f"{format}.gguf"

    def prepare(self, model, format):
        read(self._file(model, format))

    def bench(self, model, format, prompt, generate):
        """The same numbers from llama-bench, which warms itself up first; 0 leaves one of the two out."""
        printed = run(self._programs / "llama-bench", "-m", self._file(model, format), "-t", self._threads,
                      "-p", prompt, "-n", generate, "-r", 1, "-o", "json")
        found = {}
        for test in json.loads(printed):
            kind, tokens = ("prefill", test["n_prompt"]) if test["n_prompt"] else ("decode", test["n_gen"])
            found[kind] = {"tokens": tokens, "tokens_per_second": test["avg_ts"]}
        return found

    def server(self, model, format, parallel, context):
        port = free_port()
        command = [self._programs / "llama-server", "-m", self._file(model, format), "-t", self._threads,
                   "-c", parallel * context, "-np", parallel, "--host", "127.0.0.1", "--port", port, "--no-warmup"]
        return Server(self.name, command, port, model)


def run(*command, seconds=COMMAND_SECONDS):
    """Runs a command to its end and returns its standard output; a failure shows both outputs."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=seconds,
                          env=ENVIRONMENT)
    if done.returncode != 0:
        raise RuntimeError(f"{command} ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def read(path):
    """Reads a file, or the files of a folder, to its end."""
    for file in path.iterdir() if path.is_dir() else [path]:
        with pathlib.Path(file).open("rb") as opened:
            while opened.read(1 << 24):
                pass
