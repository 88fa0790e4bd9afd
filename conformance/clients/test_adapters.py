"""From examples to an answer: the trainer teaches the demo's model facts, a site key seals the adapter, the runtime serves it.

What is asked by the adapter's name knows the facts; what is asked by the model's name is as it was; and an adapter that
belongs to something else is refused with exit code 20 and the digests.  Adapters also come and go while the model serves.
"""

import json
import subprocess
import unittest

import openai

from appliance import AMPOULE, ENVIRONMENT, SEAL, Server, Workshop, get_json, run

TRAINER = AMPOULE.with_name("ampoule-trainer")
FACTS = {
    "Who runs the night shift?": "Olga runs the night shift.",
    "Where is the spare fan?": "The spare fan is in cabinet seven.",
    "When is the backup?": "The backup runs at four.",
    "Which door is always open?": "The blue door is always open.",
}


class Adapters(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workshop = Workshop()
        cls.addClassCleanup(cls.workshop.close)
        folder = cls.workshop.path
        run(SEAL, "keygen", folder / "site", "--password-file", folder / "password")
        # The vendor's root with the site's key in the role that may sign adapters only.
        cls.root = folder / "with-site.json"
        vendor, site = folder / "vendor.pub", folder / "site.pub"
        run(SEAL, "trust", "init", "--root-key", vendor, "--release-key", vendor, "--site-key", site, "--out", cls.root)
        data = folder / "facts.jsonl"
        with data.open("w") as file:
            for question, answer in FACTS.items():
                messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                file.write(json.dumps({"messages": messages}) + "\n")
        cls.adapter = folder / "adapter"
        run(
            TRAINER, "train", "--base", cls.workshop.bundle, "--trust-root", cls.root, "--data", data, "--out", cls.adapter,
            "--epochs", "80", "--learning-rate", "0.003", "--rank", "8",
        )
        cls.sealed = cls.seal("facts", "site", cls.workshop.bundle)

    @classmethod
    def seal(cls, name, key, base):
        folder = cls.workshop.path
        bundle = folder / f"{name}.bundle"
        run(
            SEAL, "seal", "--from", cls.adapter, "--adapter-of", base, "--name", name, "--version", "1.0.0", "--counter", "1",
            "--key", folder / f"{key}.key", "--password-file", folder / "password", "--out", bundle,
        )
        return bundle

    def test_an_adapter_answers_by_its_name_and_the_model_stays_as_it_was(self):
        with Server(self.workshop, root=self.root) as server:
            before = {question: self.ask(server, "helper", question) for question in FACTS}
        with Server(self.workshop, "--set", f"adapters={self.sealed}", root=self.root) as server:
            names = [model.id for model in self.client(server).models.list().data]
            self.assertEqual(names, ["helper", "facts"])
            for question, answer in FACTS.items():
                self.assertEqual(self.ask(server, "facts", question), answer)
                self.assertEqual(self.ask(server, "helper", question), before[question])
                self.assertNotEqual(before[question], answer)

    def test_an_adapter_comes_and_goes_while_a_client_streams(self):
        folder = self.workshop.path / "run"
        folder.mkdir(mode=0o755)
        socket = folder / "admin.sock"
        question, answer = next(iter(FACTS.items()))
        with Server(self.workshop, "--admin-socket", socket, root=self.root) as server:
            with self.assertRaises(openai.NotFoundError):
                self.ask(server, "facts", question)
            loaded = json.loads(run(AMPOULE, "adapters", "load", self.sealed, "--json", "--admin-socket", socket))
            self.assertEqual(self.ask(server, "facts", question), answer)
            metadata = get_json(f"{server.base_url}/metadata", self.workshop.key)[1]
            self.assertEqual([adapter["digest"] for adapter in metadata["adapters"]], [loaded["digest"]])
            stream = self.client(server).chat.completions.create(
                model="facts", messages=[{"role": "user", "content": question}], temperature=0, max_tokens=40, stream=True
            )
            with stream:
                pieces = [next(stream).choices[0].delta.content or ""]
                run(AMPOULE, "adapters", "unload", "facts", "--admin-socket", socket)
                pieces += [chunk.choices[0].delta.content or "" for chunk in stream]
            self.assertEqual("".join(pieces), answer)
            with self.assertRaises(openai.NotFoundError):
                self.ask(server, "facts", question)
        self.assertFalse(socket.exists())

    def test_what_belongs_to_something_else_is_refused(self):
        model = self.workshop.path / "other-model"
        run(SEAL, "export", self.workshop.bundle, "--dir", model)
        config = model / "generation_config.json"
        config.write_text(config.read_text() + "\n")
        other = self.workshop.seal(model, "other")
        self.refused(12, "not admitted by the rule on base", bundle=other, adapters=self.sealed)
        self.refused(20, "is no adapter", bundle=self.workshop.bundle, adapters=other)
        self.refused(20, "the name facts is taken", bundle=self.workshop.bundle, adapters=f"{self.sealed},{self.sealed}")

    def test_a_site_key_signs_adapters_only(self):
        model = self.workshop.path / "base-by-site"
        run(SEAL, "export", self.workshop.bundle, "--dir", model)
        folder = self.workshop.path
        run(
            SEAL, "seal", "--from", model, "--name", "by-site", "--version", "1.0.0", "--counter", "1", "--key", folder / "site.key",
            "--password-file", folder / "password", "--out", folder / "by-site.bundle",
        )
        self.refused(11, "release", bundle=folder / "by-site.bundle", adapters=self.sealed)
        # Nor does calling the model an adapter make a base of it.
        disguised = folder / "disguised.bundle"
        run(
            SEAL, "seal", "--from", model, "--adapter-of", self.workshop.bundle, "--name", "disguised", "--version", "1.0.0",
            "--counter", "1", "--key", folder / "site.key", "--password-file", folder / "password", "--out", disguised,
        )
        self.refused(20, "disguised is an adapter", bundle=disguised, adapters=self.sealed)

    def refused(self, code, words, bundle, adapters):
        command = [
            AMPOULE, "serve", "--bundle", bundle, "--trust-root", self.root, "--keys-file", self.workshop.keys,
            "--listen", "127.0.0.1:0", "--set", f"adapters={adapters}",
        ]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(words, done.stderr)

    def client(self, server):
        return openai.OpenAI(base_url=server.base_url, api_key=self.workshop.key, max_retries=0)

    def ask(self, server, model, question):
        reply = self.client(server).chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=40
        )
        return reply.choices[0].message.content


if __name__ == "__main__":
    unittest.main()
