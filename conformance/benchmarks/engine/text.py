"""Prompts for the models of the comparison, and the answers that they must get."""

import json
import random


class Text:
    """The words of one model: after a word comes the next one of its cycle."""

    def __init__(self, folder):
        found = json.loads((folder / "text.json").read_text())
        self._cycles = found["cycles"]
        self._spelling = {int(token): text for token, text in found["spelling"].items()}
        self._next = {
            token: following for cycle in self._cycles for token, following in zip(cycle, [*cycle[1:], cycle[0]])
        }

    def random_prompt(self, seed, length):
        """Words that follow no cycle: nothing in the prompt tells what comes next, and the answer repeats nothing."""
        chosen = random.Random(seed)
        return [chosen.choice(chosen.choice(self._cycles)) for _ in range(length)]

    def repeated_prompt(self, seed, length):
        """A passage from a cycle, and the beginning of the same passage again: the answer is the rest of it."""
        chosen = random.Random(seed)
        cycle, start = chosen.choice(self._cycles), chosen.randrange(len(self._cycles[0]))
        passage = [cycle[(start + step) % len(cycle)] for step in range(length)]
        return passage + passage[:8]

    def answer(self, prompt, length):
        """The tokens that come after a prompt."""
        found = [prompt[-1]]
        for _ in range(length):
            found.append(self._next[found[-1]])
        return found[1:]

    def spelled(self, tokens):
        return "".join(self._spelling[token] for token in tokens)
