"""The status page as a person meets it: a browser, a key, a look at what runs, a question and its answer."""

import os
import time
import unittest
import urllib.parse

from appliance import Server, Workshop, get_json
from browser import CHROMIUM, Browser


def setUpModule():
    global workshop
    workshop = Workshop()


def tearDownModule():
    workshop.close()


@unittest.skipUnless(CHROMIUM, "chromium is missing")
class StatusPage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(workshop)
        cls.origin = f"http://localhost:{cls.server.port}"

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def unlocked(self, browser):
        browser.open(self.origin)
        browser.type_into("#key", workshop.key)
        browser.wait_for("document.querySelector('#state').textContent === 'ready'", "the key is accepted")

    def stayed_at_home(self, browser):
        """No console error, and no request to anybody but the appliance."""
        self.assertEqual(browser.problems, [])
        origins = {urllib.parse.urlsplit(url)[:2] for url in browser.requests if not url.startswith("data:")}
        self.assertEqual(origins, {("http", f"localhost:{self.server.port}")})

    def test_a_key_shows_what_runs_and_a_question_is_answered_as_it_is_generated(self):
        _, metadata = get_json(f"{self.server.base_url}/metadata", workshop.key)
        with Browser() as browser:
            browser.open(self.origin)
            self.assertEqual(browser.text_of("#state"), "locked")
            self.assertNotIn("helper", browser.text_of("body"), "nothing is told before the key")
            self.unlocked(browser)
            identity = browser.text_of("#identity")
            bundle = metadata["bundle"]
            for wanted in ["helper 1.0.0", bundle["digest"], bundle["signers"][0], f"{bundle['counter']} in epoch"]:
                self.assertIn(wanted, identity)
            self.assertTrue(identity.count("Expires"), identity)
            self.assertIn("never", identity)

            # Every length that the answer had on its way, as the page itself saw it.
            browser.value_of(
                "window.lengths = []; new MutationObserver(() => lengths.push(document.querySelector('.assistant')"
                "?.textContent.length ?? 0)).observe(document.querySelector('#talk'),"
                " { childList: true, subtree: true, characterData: true }); true"
            )
            browser.type_into("#question", "What is Ampoule?")
            browser.wait_for("document.querySelector('#timing').textContent.includes('First token')", "it is answered")
            answer = browser.text_of("#talk .assistant")
            self.assertIn("ampoule", answer.lower())
            lengths = sorted(set(browser.value_of("lengths")))
            self.assertGreater(len(lengths), 3, f"the answer did not arrive in pieces: {lengths}")
            self.assertEqual(lengths[-1], len(browser.value_of("document.querySelector('.assistant').textContent")))

            browser.wait_for("document.querySelector('#health').innerText.includes('Requests ended\\n1')", "it is counted")
            browser.wait_for("document.querySelector('#line').getAttribute('points') !== ''", "throughput is drawn")
            self.keep_pictures(browser)
            self.stayed_at_home(browser)

    def test_the_key_outlives_a_reload_and_not_the_wish_to_forget_it(self):
        with Browser() as browser:
            self.unlocked(browser)
            browser.open(self.origin)
            browser.wait_for("document.querySelector('#state').textContent === 'ready'", "the tab still has the key")
            self.assertEqual(browser.value_of("localStorage.length + document.cookie.length"), 0)
            browser.click("#forget")
            browser.wait_for("document.querySelector('#state').textContent === 'locked'", "the key is forgotten")
            self.assertEqual(browser.value_of("sessionStorage.length"), 0)
            self.assertNotIn("helper", browser.text_of("body"))
            browser.open(self.origin)
            self.assertEqual(browser.text_of("#state"), "locked")
            self.stayed_at_home(browser)

    def test_what_the_page_does_not_need_is_forbidden_to_it(self):
        attempts = {
            "connect-src": "fetch('http://127.0.0.1:1/').catch(() => {})",
            "style-src": "document.body.setAttribute('style', 'color: red')",
            "img-src": "document.body.append(Object.assign(document.createElement('img'), { src: '/livez' }))",
            "TrustedScriptURL": "try { document.createElement('script').src = '/v1/models' } catch {}",
            "TrustedHTML": "try { document.body.innerHTML = '<p>' } catch {}",
        }
        with Browser() as browser:
            self.unlocked(browser)
            self.assertEqual(browser.problems, [])
            for directive, attempt in attempts.items():
                with self.subTest(directive=directive):
                    before = len(browser.problems)
                    browser.value_of(f"{attempt}; 0")
                    # What is logged comes by itself, and may come after the value.
                    deadline = time.monotonic() + 10
                    while not any(directive in text for text in browser.problems[before:]):
                        self.assertLess(time.monotonic(), deadline, browser.problems[before:])
                        time.sleep(0.02)

    def test_a_wrong_key_is_refused_in_words(self):
        with Browser() as browser:
            browser.open(self.origin)
            for wrong in [workshop.key[:-1], "Schlüssel"]:
                browser.value_of("document.querySelector('#key').value = ''")
                browser.type_into("#key", wrong)
                browser.wait_for("document.querySelector('#refusal').innerText !== ''", "the refusal is shown")
                self.assertFalse(browser.is_shown("#open"))
                self.assertEqual(browser.value_of("sessionStorage.length"), 0)

    def test_an_answer_can_be_stopped_and_the_conversation_begun_anew(self):
        with Browser() as browser:
            self.unlocked(browser)
            browser.type_into("#question", "Stop it at once.")
            browser.value_of("document.querySelector('#stop').click()")
            browser.wait_for("document.querySelector('#stop').hidden", "the answer is stopped")
            browser.click("#clear")
            self.assertEqual(browser.text_of("#talk"), "")
            browser.type_into("#question", "What is Ampoule?")
            browser.wait_for("document.querySelector('#timing').textContent.includes('First token')", "it is answered")
            self.assertEqual(browser.value_of("document.querySelectorAll('.turn').length"), 2)
            self.stayed_at_home(browser)

    def keep_pictures(self, browser):
        """In the folder that CONFORMANCE_PICTURES names, if it does."""
        folder = os.environ.get("CONFORMANCE_PICTURES")
        for scheme in ["light", "dark"] if folder else []:
            browser.prefer(scheme)
            browser.picture(f"{folder}/status-page-{scheme}.png")


if __name__ == "__main__":
    unittest.main()
