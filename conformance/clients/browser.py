"""Drives a headless Chromium over its DevTools protocol, with the standard library alone.

Chromium speaks the protocol on two inherited pipes (`--remote-debugging-pipe`): JSON messages that end with a zero byte.
So no driver, no client package and no port is needed, and nothing but the page under test can reach the browser.
"""

import base64
import fcntl
import json
import os
import pathlib
import queue
import shutil
import subprocess
import tempfile
import threading
import time

CHROMIUM = shutil.which("chromium")
PATIENCE_SECONDS = 30
# The sandbox needs rights that a container seldom gives; the only page that is opened is our own.  The rest keeps the
# browser from asking anybody for anything of its own accord.
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--remote-debugging-pipe", "--window-size=1200,1400",
]


def beyond_the_first_ten(end):
    """Moves a pipe's end to a number that is in nobody's way."""
    moved = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(end)
    return moved


class Browser:
    """One browser with one page, as a context manager.  Keeps all that the page logs and all that it requests."""

    def __init__(self):
        self._profile = tempfile.TemporaryDirectory(prefix="ampoule-browser-", ignore_cleanup_errors=True)
        to_browser, self._to_browser = (beyond_the_first_ten(end) for end in os.pipe())
        self._from_browser, from_browser = (beyond_the_first_ten(end) for end in os.pipe())
        # The browser expects its ends at 3 and 4; a shell puts them there.
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser} {to_browser}<&- {from_browser}>&-'
        profile = f"--user-data-dir={self._profile.name}"
        command = ["bash", "-c", script, "bash", CHROMIUM, *ARGUMENTS, profile, "about:blank"]
        # Without a home of its own it would read and write the user's.
        environment = {**os.environ, "HOME": self._profile.name}
        self._process = subprocess.Popen(
            command, pass_fds=[to_browser, from_browser], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=environment,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._replies, self._number, self._session = queue.Queue(), 0, None
        self.problems, self.requests = [], []
        threading.Thread(target=self._listen, daemon=True).start()
        page = next(target for target in self.call("Target.getTargets")["targetInfos"] if target["type"] == "page")
        attach = {"targetId": page["targetId"], "flatten": True}
        self._session = self.call("Target.attachToTarget", attach)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(timeout=PATIENCE_SECONDS)
        os.close(self._to_browser)
        os.close(self._from_browser)
        self._profile.cleanup()

    def call(self, method, parameters=None):
        """Sends one command and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters or {}}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to_browser, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._replies.get(timeout=PATIENCE_SECONDS)
            if reply.get("id") == self._number:
                break
        if "error" in reply:
            raise AssertionError(f"{method}: {reply['error']}")
        return reply["result"]

    def open(self, url):
        self.call("Page.navigate", {"url": url})
        self.wait_for("document.readyState === 'complete'", "the page is loaded")

    def value_of(self, expression):
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True})
        if "exceptionDetails" in result:
            raise AssertionError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def text_of(self, selector):
        return self.value_of(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def is_shown(self, selector):
        return self.value_of(f"document.querySelector({json.dumps(selector)})?.checkVisibility() ?? false")

    def wait_for(self, expression, what):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.value_of(expression):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain until {what}; {self.problems}\n{self.text_of('body')}")
            time.sleep(0.02)

    def type_into(self, selector, text):
        """Types as a person would: the keyboard goes to the field that has the focus."""
        self.value_of(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", {"text": text})
        for kind in ["keyDown", "keyUp"]:
            key = {"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
            self.call("Input.dispatchKeyEvent", key)

    def click(self, selector):
        """Clicks in the middle of an element, as a mouse does, so that whatever covers it would be hit instead."""
        box = self.value_of(
            f"(() => {{ const element = document.querySelector({json.dumps(selector)}); element.scrollIntoView();"
            " const box = element.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ["mousePressed", "mouseReleased"]:
            place = {"type": kind, "x": box[0], "y": box[1], "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", place)

    def prefer(self, scheme):
        """Tells the page that its reader wants `light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def picture(self, path):
        """Keeps a picture of the whole page, for a person to look at."""
        result = self.call("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        pathlib.Path(path).write_bytes(base64.b64decode(result["data"]))

    def _listen(self):
        waiting = b""
        while chunk := self._read():
            *messages, waiting = (waiting + chunk).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._replies.put(message)
                else:
                    self._note(message["method"], message["params"])

    def _read(self):
        try:
            return os.read(self._from_browser, 1 << 16)
        except OSError:
            return b""

    def _note(self, method, parameters):
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ["warning", "error"]:
            self.problems.append(parameters["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(parameters["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ["warning", "error", "assert"]:
            self.problems.append(str(parameters["args"]))
