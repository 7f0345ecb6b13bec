#!/usr/bin/env python3
"""One base, several LoRA adapters, over HTTP: lorakit beside llama.cpp, in turn, two threads each.

  serving.py LORAKIT MODEL.gguf ADAPTERS LORAS PYTHON [ROUNDS]

ADAPTERS is a folder of PEFT adapters (eight are used), LORAS the same as GGUF files (lora_to_gguf.py), PYTHON one that has xllamacpp.
Rows: one stream without and with an adapter; a prompt of 512 tokens; eight streams of one adapter, and of eight. llama.cpp answers
requests of different adapters one after another: that is what it is compared by. Tokens a second, and ratios of medians at the end.
"""
import glob, http.client, json, os, statistics, subprocess, sys, threading, time
from urllib.parse import urlparse

lorakit, model, adapters, loras, python = sys.argv[1:6]
rounds = int(sys.argv[6]) if len(sys.argv) > 6 else 2
names = sorted(os.listdir(adapters))[:8]
files = sorted(glob.glob(f"{loras}/*.gguf"))[:8]
TOKENS = 128


def post(address, path, body, first=None):
    """The answer's last event; when its first text came is put into `first`."""
    url = urlparse(address)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=600)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"{address}{path}: {response.status} {response.read()[:300]}")
    for line in response:
        if line.startswith(b"data: {") and first is not None and not first:
            first.append(time.perf_counter())
    connection.close()


def run(address, bodies):
    """Seconds for all bodies at once, and until the first text of the first."""
    firsts = [[] for _ in bodies]
    threads = [threading.Thread(target=post, args=(address, *body, first)) for body, first in zip(bodies, firsts)]
    began = time.perf_counter()
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return time.perf_counter() - began, firsts[0][0] - began


class Ours:
    name = "lorakit"

    def __init__(self):
        command = [lorakit, "--threads", "2", "serve", "--model", model, "--adapters", adapters, "--listen", "127.0.0.1:0", "--name", "base"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if line.startswith("listening on "):
                self.address = line.split()[2]
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def body(self, prompt, adapter, n):
        which = "base" if adapter is None else names[adapter]
        return "/v1/completions", {"model": which, "prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True, "stream": True}

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Theirs:
    name = "llama.cpp"

    def __init__(self):
        command = [python, f"{os.path.dirname(os.path.abspath(__file__))}/llamacpp_server.py", model, "8", *files]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout:
            if line.startswith("address "):
                self.address = line.split()[1]
                break

    def body(self, prompt, adapter, n):
        lora = [] if adapter is None else [{"id": adapter, "scale": 1.0}]
        return "/completion", {"prompt": prompt, "n_predict": n, "temperature": 0, "ignore_eos": True, "stream": True, "cache_prompt": False, "lora": lora}

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def prompt(seed, words):
    return " ".join(["Once upon a time there was a lighthouse keeper who"] + [f"counted {(seed * 7919 + i * 104729) % 997} ships and" for i in range(words)])


def measure(side):
    ids = {}
    out = {}
    run(side.address, [side.body("warm up", 0, 8)])
    for row, adapter in [("one stream", None), ("one stream, an adapter", 0)]:
        seconds, first = run(side.address, [side.body(prompt(1, 2), adapter, TOKENS)])
        out[row] = (TOKENS - 1) / (seconds - first)
    for row, adapter in [("prompt", None), ("prompt, an adapter", 0)]:
        text = prompt(int(time.time()) % 1000, 85)
        ids[row] = text
        _, first = run(side.address, [side.body(text, adapter, 1)])
        out[row] = count(text) / first
    for row, which in [("eight streams, one adapter", [0] * 8), ("eight streams, eight adapters", range(8))]:
        seconds, _ = run(side.address, [side.body(prompt(i, 2), a, TOKENS) for i, a in enumerate(which)])
        out[row] = 8 * TOKENS / seconds
    return out


def count(text):
    """Tokens of a text, as our server counts them once."""
    if text not in count.known:
        url = urlparse(count.address)
        connection = http.client.HTTPConnection(url.hostname, url.port)
        connection.request("POST", "/tokenize", json.dumps({"content": text}))
        count.known[text] = json.load(connection.getresponse())["count"]
    return count.known[text]


count.known = {}
found = {}
counter = Ours()
count.address = counter.address
for turn in range(rounds):
    for kind in (Ours, Theirs):
        side = kind()
        for row, rate in measure(side).items():
            found.setdefault(row, {}).setdefault(side.name, []).append(rate)
            print(f"round {turn + 1} {side.name:10} {row:32} {rate:8.1f} tokens/s", flush=True)
        side.stop()
counter.stop()
print()
for row, sides in found.items():
    ours, theirs = (statistics.median(sides[name]) for name in ("lorakit", "llama.cpp"))
    print(f"{row:32} {ours:8.1f} / {theirs:8.1f}  {ours / theirs:5.2f}x")
