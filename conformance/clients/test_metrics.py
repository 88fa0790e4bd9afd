"""What ships for watching an appliance, in a real Prometheus: the page is clean, every query of the dashboard has an answer,
and no alert fires at an appliance that is well."""

import json
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.parse
import urllib.request

import openai

from appliance import ROOT, START_SECONDS, Server, Workshop

SHIPPED = ROOT / "packaging/observability"
QUESTION = [{"role": "user", "content": "What is Ampoule?"}]
# What Grafana would fill in.  Short, because the test is: a scrape each half second, and a rate over ten of them.
VARIABLES = {"$__rate_interval": "5s", "$instance": ".*", "$job": ".*"}


def setUpModule():
    global workshop
    workshop = Workshop("--expires", "2100-01-01T00:00:00Z")


def tearDownModule():
    workshop.close()


@unittest.skipUnless(shutil.which("prometheus"), "prometheus is missing")
class Metrics(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(workshop, "--metrics-listen", "127.0.0.1:0")
        cls.client = openai.OpenAI(base_url=cls.server.base_url, api_key=workshop.key, max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def test_the_page_is_as_prometheus_wants_it(self):
        self.client.chat.completions.create(model="helper", messages=QUESTION, max_tokens=4)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.metrics_port}/metrics", timeout=30) as response:
            page = response.read()
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=60)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))

    def test_every_query_of_the_dashboard_has_an_answer_and_no_alert_fires(self):
        dashboard = json.loads((SHIPPED / "grafana-dashboard.json").read_text())
        targets = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
        self.assertGreater(len(targets), 20)
        with Prometheus(self.server.metrics_port) as prometheus:
            for _ in range(8):
                self.client.chat.completions.create(model="helper", messages=QUESTION, max_tokens=16)
                time.sleep(0.5)
            for title, expression in targets:
                with self.subTest(panel=title):
                    for name, value in VARIABLES.items():
                        expression = expression.replace(name, value)
                    series = prometheus.query(expression)
                    self.assertTrue(series, f"no answer to {expression}")
                    for one in series:
                        self.assertNotEqual(one["value"][1], "NaN", expression)
            self.assertTrue(prometheus.query("sum(rate(ampoule_generation_tokens_total[5s])) > 1"))
            rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
            alerts = {rule["name"]: rule["state"] for rule in rules if rule["type"] == "alerting"}
            self.assertEqual({rule["health"] for rule in rules}, {"ok"})
            self.assertEqual(set(alerts.values()), {"inactive"}, alerts)


class Prometheus:
    """A Prometheus that scrapes one appliance and evaluates the shipped rules, as a context manager."""

    def __init__(self, target):
        self._folder = tempfile.TemporaryDirectory(prefix="ampoule-prometheus-")
        folder = pathlib.Path(self._folder.name)
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(SHIPPED / "alerts.yaml")],
            "scrape_configs": [{"job_name": "ampoule", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
        }
        # JSON is YAML too.
        (folder / "prometheus.json").write_text(json.dumps(config))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._log = open(folder / "log", "w+")
        self._process = subprocess.Popen(
            [
                "prometheus", f"--config.file={folder}/prometheus.json", f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL,
        )

    def __enter__(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if self.query("up == 1") and self.query("ampoule:failures:increase5m"):
                    return self
            except OSError:
                pass
            time.sleep(0.2)
        self._log.seek(0)
        log = self._log.read()
        self.__exit__()
        raise AssertionError(f"prometheus does not scrape:\n{log}")

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(timeout=START_SECONDS)
        self._log.close()
        self._folder.cleanup()

    def query(self, expression):
        return self.get("query?" + urllib.parse.urlencode({"query": expression}))["result"]

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=30) as response:
            return json.load(response)["data"]


if __name__ == "__main__":
    unittest.main()
