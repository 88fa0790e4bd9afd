"""A server that was started for the comparison: its process, its memory, and the way to talk to it."""

import http.client
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time

START_SECONDS = 300
# An unknown AMPOULE_ variable is an error of configuration.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("AMPOULE_")}


class Server:
    """A server of the OpenAI API on loopback, as a context manager."""

    def __init__(self, side, command, port, model, key=None, environment=None):
        self.side, self.model, self._port = side, model, port
        self.headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._log = tempfile.TemporaryFile(mode="w+")
        self.started = time.perf_counter()
        self._process = subprocess.Popen([str(part) for part in command], stdout=self._log, stderr=self._log,
                                         env={**ENVIRONMENT, **(environment or {})})

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def first_token(self, prompt):
        """Asks until there is an answer; returns the seconds from the start of the program to the first token."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "stream": True}
        seconds, reply = self.first_reply("/v1/completions", body)
        if not reply.startswith(b"data: {"):
            raise RuntimeError(f"{self.side} answered {reply[:1000]}")
        return seconds

    def first_reply(self, path, body):
        """The first reply to a request that is repeated until the server is ready, and the seconds until then."""
        while time.perf_counter() - self.started < START_SECONDS:
            if self._process.poll() is not None:
                self._log.seek(0)
                raise RuntimeError(f"{self.side} ended with {self._process.returncode}:\n{self._log.read()[-4000:]}")
            try:
                reply = self.ask(path, body)
            except (ConnectionError, http.client.RemoteDisconnected):
                reply = None
            if reply is not None:
                return time.perf_counter() - self.started, reply
            time.sleep(0.005)
        raise RuntimeError(f"{self.side} was not ready within {START_SECONDS} s")

    def ask(self, path, body):
        """The body of the reply; None while the model is loaded."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=START_SECONDS)
        try:
            connection.request("POST", path, json.dumps(body), self.headers)
            response = connection.getresponse()
            reply = response.read()
        finally:
            connection.close()
        if response.status not in [200, 503]:
            raise RuntimeError(f"{self.side} answered {response.status}: {reply[:1000]}")
        return reply if response.status == 200 else None

    def peak_bytes(self):
        """The most memory that the process and its children have held, file pages included."""
        return sum(peak(process) for process in family(self._process.pid))


def family(process):
    """A process and all that descend from it."""
    children = []
    for task in pathlib.Path(f"/proc/{process}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    return [process, *(one for child in children for one in family(child))]


def peak(process):
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
