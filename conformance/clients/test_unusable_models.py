"""Models that are signed by the right key and yet cannot be served: each is refused before `ready`, with exit code 20.

A signature says who sealed a model, not that the model is well made.  Whatever is wrong with it must end in words that
name it, never in a crash, and never in a server that answers nonsense.
"""

import json
import shutil
import struct
import subprocess
import unittest

from appliance import AMPOULE, ENVIRONMENT, START_SECONDS, Workshop


def setUpModule():
    global workshop
    workshop = Workshop()


def tearDownModule():
    workshop.close()


class Unusable(unittest.TestCase):
    def refused(self, words, change):
        """Seals the demo's model after `change` to its folder, and requires that `serve` refuses it with `words`."""
        name = self.id().rpartition(".")[2].replace("_", "-")
        model = workshop.path / name
        shutil.copytree(workshop.path / "model", model, ignore=shutil.ignore_patterns("model.sig"))
        change(model)
        done = subprocess.run(
            [
                AMPOULE, "serve", "--bundle", workshop.seal(model, name), "--trust-root", workshop.root,
                "--keys-file", workshop.keys, "--listen", "127.0.0.1:0",
            ],
            capture_output=True, text=True, timeout=START_SECONDS, env=ENVIRONMENT,
        )
        self.assertEqual(done.returncode, 20, done.stderr[-1000:])
        self.assertNotIn('"serving"', done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def test_a_shape_that_the_weights_do_not_have(self):
        self.refused(["model.embed_tokens.weight"], lambda model: set_config(model, hidden_size=64))

    def test_an_architecture_that_nobody_knows(self):
        self.refused(["mystery"], lambda model: set_config(model, model_type="mystery"))

    def test_weights_that_compute_no_numbers(self):
        self.refused(["computes NaN"], spoil_weights)

    def test_a_template_that_is_no_template(self):
        self.refused(["chat template", "line 1"], lambda model: set_template(model, "{% for %}"))

    def test_a_template_of_endless_nesting(self):
        self.refused(["chat template"], lambda model: set_template(model, "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}"))

    def test_a_template_that_is_too_long(self):
        self.refused(["chat template", "262144"], lambda model: set_template(model, "{{ " + "not " * 70_000 + "1 }}"))


def set_config(model, **changes):
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def set_template(model, source):
    (model / "chat_template.jinja").write_text(source)


def spoil_weights(model):
    """Overwrites the last norm's weights with NaN, in whichever type they are."""
    path = model / "model.safetensors"
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", content)
    tensor = json.loads(content[8 : 8 + length])["model.norm.weight"]
    begin, end = (8 + length + offset for offset in tensor["data_offsets"])
    nan = {"F32": b"\x00\x00\xc0\x7f", "F16": b"\x00\x7e", "BF16": b"\xc0\x7f"}[tensor["dtype"]]
    content[begin:end] = nan * ((end - begin) // len(nan))
    path.write_bytes(content)


if __name__ == "__main__":
    unittest.main()
