"""Servers for the checks of this folder, and how checks are counted."""
import contextlib
import json
import os
import re
import subprocess
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request
from pathlib import Path

import tiny_model

LORAKIT = os.environ.get("LORAKIT", "target/release/lorakit")
LISTENING = re.compile(r"listening on (http://\S+)")
HERE = str(Path(__file__).parent)
START_TIME, STOP_TIME = 120, 40


class Served:
    """A server at `url`."""

    def __init__(self, url, process):
        self.url, self.process = url, process

    def ask(self, path, body=None, key=None):
        """Status and text of a GET, or of a POST of `body` as JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def json(self, path, body=None, key=None):
        """The JSON of a 200."""
        status, text = self.ask(path, body, key)
        assert status == 200, f"{path}: {status} {text[:300]}"
        return json.loads(text)


@contextlib.contextmanager
def serving(*options):
    """A server on a free port, ended by SIGTERM; it must then exit with 0."""
    command = [LORAKIT, "serve", "--listen", "127.0.0.1:0", *map(str, options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    said = []
    url = threading.Event()

    def read():
        for line in process.stderr:
            said.append(line)
            if LISTENING.search(line):
                url.set()
        url.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        url.wait(START_TIME)
        found = LISTENING.search("".join(said))
        assert found, f"{' '.join(command)}: does not listen: {''.join(said)}"
        yield Served(found.group(1), process)
        assert process.poll() is None, f"the server ended while it was asked: {''.join(said[-20:])}"
        process.terminate()
        code = process.wait(STOP_TIME)
        assert code == 0, f"the server ended with {code}: {''.join(said[-20:])}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def tiny(*options):
    """A server of the tiny base, called `tiny`, and its adapters `red` and `blue`."""
    with tempfile.TemporaryDirectory() as folder:
        model, adapters = tiny_model.write(Path(folder))
        with serving("--model", model, "--name", "tiny", "--adapters", adapters, *options) as served:
            yield served


def until(what, seconds=10.0):
    """Waits until `what()` holds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


class Checks:
    """Functions that are run and counted."""

    def __init__(self):
        self.passed = self.failed = 0

    def run(self, name, work, *args):
        try:
            said = work(*args)
        except Exception as error:
            self.failed += 1
            # Where in this folder it was, and what was wrong: the frames of clients say nothing.
            own = [f"{f.name}:{f.lineno} {f.line}" for f in traceback.extract_tb(error.__traceback__)[1:] if HERE in f.filename]
            print(f"FAILED {name}: {' / '.join(own)}: {type(error).__name__}: {str(error)[:2000]}", flush=True)
        else:
            self.passed += 1
            print(f"ok {name}{f': {said}' if said else ''}", flush=True)

    def close(self):
        """Prints the sums; the exit status."""
        print(f"{self.passed} passed, {self.failed} failed")
        return int(self.failed > 0)
