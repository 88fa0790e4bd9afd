"""The stock `openai` package against the appliance, with nothing changed but `base_url` and the key."""

import os
import ssl
import subprocess
import threading
import unittest

import httpx2
import openai

from appliance import AMPOULE, CertificateAuthority, Server, Workshop, get_json

QUESTION = [{"role": "user", "content": "What is Ampoule?"}]


def setUpModule():
    global workshop
    workshop = Workshop()


def tearDownModule():
    workshop.close()


def client_of(server, **changes):
    return openai.OpenAI(**{"base_url": server.base_url, "api_key": workshop.key, "max_retries": 0, **changes})


class Chat(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(workshop)
        cls.client = client_of(cls.server)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, "a drained server ends with 0"

    def test_models_are_listed_and_retrieved(self):
        listed = self.client.models.list()
        self.assertEqual([model.id for model in listed], ["helper"])
        self.assertEqual(self.client.models.retrieve("helper").id, "helper")

    def test_a_chat_is_answered(self):
        reply = self.client.chat.completions.create(model="helper", messages=QUESTION, temperature=0)
        self.assertIn("ampoule", reply.choices[0].message.content.lower())
        self.assertEqual(reply.choices[0].message.role, "assistant")
        self.assertEqual(reply.choices[0].finish_reason, "stop")
        self.assertEqual(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens)
        self.assertTrue(reply.system_fingerprint)

    def test_a_stream_holds_the_same_text_and_ends_with_its_usage(self):
        whole = self.client.chat.completions.create(model="helper", messages=QUESTION, temperature=0)
        stream = self.client.chat.completions.create(
            model="helper", messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True},
        )
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual([chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1], "stop")
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertGreater(len(chunks), 3, "a stream that arrives as one piece is no stream")

    def test_a_seed_fixes_the_answer(self):
        def ask(seed):
            reply = self.client.chat.completions.create(
                model="helper", messages=QUESTION, temperature=1.5, seed=seed, max_tokens=24,
            )
            return reply.choices[0].message.content
        self.assertEqual(ask(7), ask(7))
        self.assertGreater(len({ask(seed) for seed in range(8)}), 1, "different seeds give different answers")

    def test_max_tokens_and_stop_end_an_answer(self):
        short = self.client.chat.completions.create(model="helper", messages=QUESTION, max_tokens=3, temperature=0)
        self.assertEqual(short.choices[0].finish_reason, "length")
        self.assertEqual(short.usage.completion_tokens, 3)
        whole = self.client.chat.completions.create(model="helper", messages=QUESTION, temperature=0)
        text = whole.choices[0].message.content
        stop = text[10:14]
        stopped = self.client.chat.completions.create(model="helper", messages=QUESTION, temperature=0, stop=[stop])
        self.assertEqual(stopped.choices[0].message.content, text[: text.index(stop)])
        self.assertEqual(stopped.choices[0].finish_reason, "stop")

    def test_log_probabilities(self):
        reply = self.client.chat.completions.create(
            model="helper", messages=QUESTION, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3,
        )
        content = reply.choices[0].logprobs.content
        self.assertEqual(len(content), 4)
        for step in content:
            self.assertEqual(len(step.top_logprobs), 3)
            self.assertEqual(step.token, step.top_logprobs[0].token, "greedy takes the most probable token")
            self.assertLessEqual(step.logprob, 0.0)

    def test_completions(self):
        reply = self.client.completions.create(model="helper", prompt="Ampoule is", max_tokens=4, temperature=0)
        self.assertEqual(reply.object, "text_completion")
        self.assertEqual(reply.usage.completion_tokens, 4)
        stream = self.client.completions.create(
            model="helper", prompt="Ampoule is", max_tokens=4, temperature=0, stream=True,
        )
        self.assertEqual("".join(chunk.choices[0].text for chunk in stream if chunk.choices), reply.choices[0].text)

    def test_each_error_has_its_exception_class(self):
        cases = [
            (openai.BadRequestError, 400, {"temperature": -1}),
            (openai.BadRequestError, 400, {"messages": []}),
            (openai.BadRequestError, 400, {"max_tokens": -5}),
            (openai.NotFoundError, 404, {"model": "no-such-model"}),
        ]
        for wanted, status, change in cases:
            with self.subTest(change=change), self.assertRaises(wanted) as caught:
                self.client.chat.completions.create(**{"model": "helper", "messages": QUESTION, **change})
            self.assertEqual(caught.exception.status_code, status)
            self.assertTrue(caught.exception.body["message"])
            self.assertEqual(caught.exception.body["param"], next(iter(change)))

    def test_a_wrong_key_and_no_key_are_refused_alike(self):
        bodies = []
        for key in ["amp-wrong", workshop.key + "x"]:
            with self.assertRaises(openai.AuthenticationError) as caught:
                client_of(self.server, api_key=key).models.list()
            bodies.append({**caught.exception.body, "request_id": None})
        self.assertEqual(bodies[0], bodies[1])

    def test_an_oversized_body_is_413(self):
        with self.assertRaises(openai.APIStatusError) as caught:
            huge = [{"role": "user", "content": "a" * 5_000_000}]
            self.client.chat.completions.create(model="helper", messages=huge)
        self.assertEqual(caught.exception.status_code, 413)

    def test_embeddings_of_a_generator_are_a_bad_request(self):
        with self.assertRaises(openai.BadRequestError):
            self.client.embeddings.create(model="helper", input="text")

    def test_what_is_running_is_told_by_digest(self):
        status, metadata = get_json(f"{self.server.base_url}/metadata", workshop.key)
        self.assertEqual(status, 200)
        text = str(metadata)
        for wanted in ["helper", "1.0.0", "sha256:"]:
            self.assertIn(wanted, text)


class Overload(unittest.TestCase):
    def test_a_full_queue_is_a_rate_limit_error(self):
        environment = {"AMPOULE_LIMITS__QUEUED_REQUESTS": "1", "AMPOULE_LIMITS__RUNNING_REQUESTS": "1"}
        with Server(workshop, environment=environment) as server:
            outcomes = []

            def ask():
                try:
                    client_of(server).completions.create(model="helper", prompt="Ampoule", max_tokens=150, temperature=1.5)
                    outcomes.append("answered")
                except openai.RateLimitError as error:
                    outcomes.append("refused" if error.response.headers.get("retry-after") else "no retry-after")

            threads = [threading.Thread(target=ask) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(set(outcomes), {"answered", "refused"})
            client_of(server).models.list()


class Https(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.authority = CertificateAuthority(workshop.path, "site-authority")
        cls.stranger = CertificateAuthority(workshop.path, "other-authority")

    def test_a_private_authority_is_enough_and_a_wrong_one_fails(self):
        tls = ["--tls-certificate-file", self.authority.server_certificate, "--tls-key-file", self.authority.server_key]
        with Server(workshop, *tls, scheme="https") as server:
            trusting = httpx2.Client(verify=ssl.create_default_context(cafile=self.authority.certificate))
            reply = client_of(server, http_client=trusting).chat.completions.create(model="helper", messages=QUESTION)
            self.assertTrue(reply.choices[0].message.content)
            doubting = httpx2.Client(verify=ssl.create_default_context(cafile=self.stranger.certificate))
            with self.assertRaises(openai.APIConnectionError):
                client_of(server, http_client=doubting).models.list()

    def test_plain_http_beyond_loopback_is_refused_at_start(self):
        command = [
            AMPOULE, "serve", "--bundle", workshop.bundle, "--trust-root", workshop.root, "--keys-file", workshop.keys,
            "--listen", "0.0.0.0:0",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 78, done.stderr)
        self.assertIn("allow_plain_http_beyond_loopback", done.stderr.replace("-", "_"))


class Embeddings(unittest.TestCase):
    def test_a_real_embedding_model(self):
        bundle, root = os.environ["CONFORMANCE_EMBEDDING_BUNDLE"], os.environ["CONFORMANCE_EMBEDDING_ROOT"]
        with Server(workshop, bundle=bundle, root=root) as server:
            client = client_of(server)
            name = next(iter(client.models.list())).id
            texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "The bond market fell sharply."]
            reply = client.embeddings.create(model=name, input=texts)
            cat, kitten, bonds = [item.embedding for item in reply.data]
            self.assertEqual(len(cat), 384)
            self.assertAlmostEqual(dot(cat, cat), 1.0, places=4)
            self.assertGreater(dot(cat, kitten), dot(cat, bonds) + 0.2)
            plain = client.embeddings.create(model=name, input=texts[0], encoding_format="float")
            for one, other in zip(plain.data[0].embedding, cat):
                self.assertAlmostEqual(one, other, places=5)
            with self.assertRaises(openai.BadRequestError):
                client.chat.completions.create(model=name, messages=QUESTION)


def dot(one, other):
    return sum(x * y for x, y in zip(one, other))


if __name__ == "__main__":
    unittest.main()
