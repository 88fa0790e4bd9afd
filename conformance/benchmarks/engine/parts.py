"""The parts of the comparison. In each round every side has one turn, and each round begins with another side."""

import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import gguf

from client import closed_loop, load_metrics
from shapes import SHAPES
from sides import read, run as run_command

PROMPT, GENERATE = 512, 128
SERVED_PROMPT, SERVED_CONTEXT = 256, 512
START_PROMPT, MEMORY_CONTEXT = 8, 4096
OPENVINO_CACHE_GIB = 2


class Comparison:
    """The sides and what is common to all parts."""

    def __init__(self, arguments, ampoule, llama, texts, found):
        self.arguments, self.ampoule, self.llama, self.texts, self.samples = arguments, ampoule, llama, texts, found
        self.servers = [side for side in [ampoule, llama] if side]

    def rounds(self, part):
        """The numbers of the rounds; a part that takes too long ends after the round that it is in."""
        started = time.monotonic()
        for number in range(1, self.arguments.rounds + 1):
            yield number
            if time.monotonic() - started > 60 * self.arguments.minutes and number < self.arguments.rounds:
                print(f"{part}: ended after {number} rounds, {self.arguments.minutes} minutes are over", flush=True)
                return

    def in_turn(self, number, turns):
        first = number % max(1, len(turns))
        for turn in [*turns[first:], *turns[:first]]:
            turn()

    def openvino(self, model, format):
        return str(self.arguments.peers / "models" / model / f"openvino-{format}")

    def in_process(self, **task):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"threads": self.arguments.threads, **task}, file)
            file.flush()
            program = Path(__file__).with_name("in_process.py")
            return json.loads(run_command(sys.executable, program, file.name).splitlines()[-1])

    def check(self, side, prompt, tokens):
        """A side that answers anything else has not done the work."""
        if tokens != self.texts.answer(prompt, len(tokens)):
            raise RuntimeError(f"{side} gives a wrong answer: {self.texts.spelled(tokens[:16])} …")


def single(run, model, formats, openvino_formats):
    """Prefill and decode of one stream; the machine's limits in the same round."""
    for format in formats:
        for side in run.servers:
            side.prepare(model, format)
        file = gguf.GGUFReader(run.arguments.peers / "models" / model / f"{format}.gguf")
        run.samples.add("single", f"{model} {format}", "model", 0, {
            "bytes": sum(tensor.n_bytes for tensor in file.tensors),
            "prefill_operations": SHAPES[model].prefill_operations(PROMPT),
        })
    if "openvino" in run.arguments.sides:
        for format in openvino_formats:
            read(Path(run.openvino(model, format)))
    for number in run.rounds("single"):
        for format in formats:
            run.in_turn(number, [lambda side=side: bench(run, side, model, format, number) for side in run.servers])
        if "openvino" in run.arguments.sides:
            for format in openvino_formats:
                openvino_single(run, model, format, number)


def bench(run, side, model, format, number):
    found = side.bench(model, format, PROMPT, GENERATE)
    metrics = {kind: found[kind]["tokens_per_second"] for kind in ["prefill", "decode"]}
    run.samples.add("single", f"{model} {format}", side.name, number, {**metrics, **found.get("peaks", {})})


def openvino_single(run, model, format, number):
    prompt = run.texts.random_prompt(number, PROMPT)
    found = run.in_process(task="single", model=run.openvino(model, format), prompt=prompt, generate=GENERATE,
                           warm_prompt=run.texts.random_prompt(-number, PROMPT))
    run.check("openvino", prompt, found["tokens"])
    metrics = {"prefill": PROMPT / found["first_token_seconds"], "decode": 1 / found["token_seconds"]}
    run.samples.add("single", f"{model} {format}", "openvino", number, metrics)


def served(run, model, format, openvino_formats):
    """A closed loop of clients, each server with as many places as there are clients."""
    for clients in run.arguments.clients:
        case = f"{model} {format}, {clients} clients"
        with ExitStack() as stack:
            servers = [stack.enter_context(side.server(model, format, clients, SERVED_CONTEXT)) for side in run.servers]
            for server in servers:
                server.first_token(run.texts.random_prompt(0, START_PROMPT))
            for number in run.rounds("served"):
                seeds = range(1000 * number, 1000 * number + clients * run.arguments.requests)
                prompts = [run.texts.random_prompt(seed, SERVED_PROMPT) for seed in seeds]
                run.in_turn(number, [
                    lambda server=server: load(run, server, prompts, clients, case, number) for server in servers
                ])
                if "openvino" in run.arguments.sides:
                    for other in openvino_formats:
                        openvino_batch(run, model, other, prompts[:clients], number)


def load(run, server, prompts, clients, case, number):
    answers = closed_loop(server, prompts, clients, GENERATE)
    texts = {answer.text for answer in answers}
    if texts != {run.texts.spelled(run.texts.answer(prompt, GENERATE)) for prompt in prompts}:
        raise RuntimeError(f"{server.side} gives a wrong answer among {texts}")
    run.samples.add("served", case, server.side, number, load_metrics(answers, SERVED_PROMPT))


def openvino_batch(run, model, format, prompts, number):
    """OpenVINO has no server in these packages: all requests are there at once, which spares it the waiting."""
    found = run.in_process(task="batch", model=run.openvino(model, format), prompts=prompts, generate=GENERATE,
                           warm_prompt=run.texts.random_prompt(0, SERVED_PROMPT), cache_gib=OPENVINO_CACHE_GIB)
    for prompt, answer in zip(prompts, found):
        run.check("openvino", prompt, answer["tokens"])
    answers = [OfBatch(answer["seconds"]) for answer in found]
    metrics = load_metrics(answers, SERVED_PROMPT)
    run.samples.add("served", f"{model} {format}, {len(prompts)} clients", "openvino", number, metrics)


class OfBatch:
    """An answer of a batch in the words of `client.Answer`."""

    def __init__(self, seconds):
        self.intended, self.arrivals, self.ended, self.first_token = 0.0, seconds, seconds[-1], seconds[0]
        self.gaps = [later - earlier for earlier, later in zip(seconds, seconds[1:])]


def speculation(run, model, format, _):
    """One client whose answer repeats its prompt, and the same client with a prompt that tells nothing."""
    case = f"{model} {format}"
    with ExitStack() as stack:
        servers = [stack.enter_context(side.server(model, format, 1, SERVED_CONTEXT)) for side in run.servers]
        for server in servers:
            server.first_token(run.texts.random_prompt(0, START_PROMPT))

        def turn(server, prompt, metric, number):
            answer, = closed_loop(server, [prompt], 1, GENERATE)
            if answer.text != run.texts.spelled(run.texts.answer(prompt, GENERATE)):
                raise RuntimeError(f"{server.side} gives a wrong answer: {answer.text}")
            seconds = answer.arrivals[-1] - answer.arrivals[0]
            run.samples.add("speculation", case, server.side, number, {metric: (GENERATE - 1) / seconds})

        for number in run.rounds("speculation"):
            for metric, make in [("repeated", run.texts.repeated_prompt), ("plain", run.texts.random_prompt)]:
                prompt = make(number, SERVED_PROMPT)
                run.in_turn(number, [lambda server=server: turn(server, prompt, metric, number) for server in servers])


def start(run, model, format, _):
    """From the start of the program to the first token, with the file in the page cache."""
    for side in run.servers:
        side.prepare(model, format)

    def turn(side, number):
        with side.server(model, format, 1, SERVED_CONTEXT) as server:
            seconds = server.first_token(run.texts.random_prompt(number, START_PROMPT))
        run.samples.add("start", f"{model} {format}", side.name, number, {"seconds": seconds})

    for number in run.rounds("start"):
        run.in_turn(number, [lambda side=side: turn(side, number) for side in run.servers])


def memory(run, model, format, _):
    """The peak of the server's memory, file pages included, after a request that fills a context of 4096."""

    def turn(side, number):
        with side.server(model, format, 1, MEMORY_CONTEXT) as server:
            server.first_token(run.texts.random_prompt(0, START_PROMPT))
            prompt = run.texts.random_prompt(number, MEMORY_CONTEXT - GENERATE - START_PROMPT)
            closed_loop(server, [prompt], 1, GENERATE)
            run.samples.add("memory", f"{model} {format}", side.name, number, {"bytes": server.peak_bytes()})

    for number in run.rounds("memory"):
        run.in_turn(number, [lambda side=side: turn(side, number) for side in run.servers])
