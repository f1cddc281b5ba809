"""A headless Chromium, driven by the DevTools protocol over its pipe, which needs no package and no port."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")

#: What Chromium reads commands from and writes answers to.
_READS, _WRITES = 3, 4


class Browser:
    """One page of a running Chromium."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = os.fdopen(commands, "wb", buffering=0)
        self._answers = os.fdopen(answers, "rb")
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}
        self.errors: list[str] = []
        """Errors of the console, of scripts and of loading since the last :meth:`open`."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """The result of a command; events that come before it are noted."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters, **self._session}
        self._commands.write(json.dumps(command).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]

    def open(self, page: Path, *, width: int, dark: bool = False) -> None:
        """Load a page in a window of this width, in CSS pixels, and wait until it is there."""
        self.errors.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="", features=[scheme])
        self.call("Page.navigate", url=page.resolve().as_uri())
        while self._message().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, script: str) -> Any:
        """The value of an expression, or of the promise that it is."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def pdf(self) -> bytes:
        """The page as it prints, on the paper that its style sheet asks for."""
        printed = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(printed["data"])

    def picture(self) -> bytes:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def _message(self) -> Any:
        read = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            read += byte
        message = json.loads(read)
        match message.get("method"), message.get("params"):
            case "Runtime.exceptionThrown", said:
                self.errors.append(str(said["exceptionDetails"]))
            case "Runtime.consoleAPICalled", said if said["type"] in {"error", "assert"}:
                self.errors.append(str(said["args"]))
            case "Log.entryAdded", said if said["entry"]["level"] == "error":
                self.errors.append(str(said["entry"]))
        return message


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium with an empty profile, and end it."""
    assert PROGRAM is not None
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()

    def pipes() -> None:
        # First out of the way: one of the two can have the number that the other gets.
        first, second = os.dup(their_in), os.dup(their_out)
        os.dup2(first, _READS)
        os.dup2(second, _WRITES)

    # Chromium refuses to run as root in its sandbox, and shares memory in /dev/shm, which is small in containers.
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--hide-scrollbars",
    ]
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [PROGRAM, *options, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            command,
            preexec_fn=pipes,  # noqa: PLW1509 (it calls dup alone, and takes no lock)
            pass_fds=(_READS, _WRITES),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)
        try:
            browser = Browser(our_out, our_in)
            yield browser
            with suppress(BrokenPipeError):
                browser.call("Browser.close")
        finally:
            process.terminate()
            process.wait(timeout=30)
