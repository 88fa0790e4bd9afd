"""Clients of the OpenAI API that measure: a closed loop, each request timed from the moment when it was to be sent."""

import asyncio
import dataclasses
import json
import time

import aiohttp

REQUEST_SECONDS = 600


@dataclasses.dataclass
class Answer:
    """One streamed answer: its text, and when each token of it came, in seconds from the intended start."""

    intended: float
    text: str
    arrivals: list
    ended: float

    @property
    def first_token(self):
        return self.arrivals[0]

    @property
    def gaps(self):
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:])]


def closed_loop(server, prompts, clients, generate):
    """So many clients, each of which sends its next prompt when it has had its last answer; returns all answers."""
    return asyncio.run(run_clients(server, [prompts[client::clients] for client in range(clients)], generate))


async def run_clients(server, prompts, generate):
    # A connection each and no limit on them, so that nothing waits inside the client.
    # A connection for each request: llama-server may close one that was used at the moment in which it is used again.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=server.headers) as session:
        answers = await asyncio.gather(*(one_client(session, server, mine, generate) for mine in prompts))
    return [answer for mine in answers for answer in mine]


async def one_client(session, server, prompts, generate):
    answers, intended = [], time.perf_counter()
    for prompt in prompts:
        answers.append(await complete(session, server, prompt, generate, intended))
        intended = time.perf_counter()
    return answers


async def complete(session, server, prompt, generate, intended):
    body = {"model": server.model, "prompt": prompt, "max_tokens": generate, "temperature": 0, "stream": True}
    text, arrivals, finished = "", [], None
    async with session.post(f"{server.url}/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"{server.side} answered {response.status}: {await response.text()}")
        async for line in response.content:
            now = time.perf_counter()
            event = line.decode().strip()
            if not event.startswith("data: {"):
                continue
            choice = json.loads(event[len("data: "):]).get("choices") or [None]
            if choice[0] is None:
                continue
            text += choice[0]["text"]
            # Each word of an answer is one token and begins with a space; an event may hold several.
            arrivals += [now - intended] * choice[0]["text"].count(" ")
            finished = choice[0].get("finish_reason") or finished
    if finished != "length" or len(arrivals) != generate:
        raise RuntimeError(f"{server.side} sent {len(arrivals)} tokens and not {generate}, and ended with {finished}")
    return Answer(intended, text, arrivals, time.perf_counter())


def percentile(values, share):
    """The smallest value that at least this share of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-round(share * 1000) * len(ordered) // 1000) - 1)]


def load_metrics(answers, prompt_tokens):
    """What a site would say of such a load."""
    seconds = max(answer.ended for answer in answers) - min(answer.intended for answer in answers)
    tokens = sum(prompt_tokens + len(answer.arrivals) for answer in answers)
    first, gaps = [answer.first_token for answer in answers], [gap for answer in answers for gap in answer.gaps]
    return {
        "tokens_per_second": tokens / seconds,
        "first_token_p50": percentile(first, 0.5), "first_token_p95": percentile(first, 0.95),
        "gap_p95": percentile(gaps, 0.95), "gap_max": max(gaps),
    }
