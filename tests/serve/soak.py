#!/usr/bin/env python3
"""What must hold of a server over hours, in minutes: soak.py LORAKIT MODEL.gguf ADAPTERS CHECK [N]

Checks: identity N (the same tokens and log-probabilities alone, 64 at once, with kept prefixes), swaps N (latency and memory), disconnects N
(rows are free again), overload SECONDS (ten times as many askers as rows), sigterms N (exit 0 within the grace time, under load).
Standard library only; each prints its figures and ends with "N passed, N failed".
"""
import concurrent.futures, http.client, json, os, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, threading, time
from urllib.parse import urlparse

lorakit, model, adapters, check = sys.argv[1:5]
n = int(sys.argv[5]) if len(sys.argv) > 5 else 0


class Server:
    def __init__(self, *options):
        self.root = tempfile.mkdtemp()
        for name in os.listdir(adapters):
            if not name.startswith("."):
                shutil.copytree(f"{adapters}/{name}", f"{self.root}/{name}")
        self.names = sorted(os.listdir(self.root))
        command = [lorakit, "serve", "--model", model, "--adapters", self.root, "--listen", "127.0.0.1:0", "--name", "base", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if line.startswith("listening on "):
                self.url = urlparse(line.split()[2])
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def connect(self):
        return http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=600)

    def ask(self, path, body, connection=None):
        connection = connection or self.connect()
        connection.request("POST" if body is not None else "GET", path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read()

    def gauge(self, name):
        text = self.ask("/metrics", None)[1].decode()
        return float(re.search(rf"^{name}\S* (\S+)$", text, re.M)[1])

    def rss(self):
        return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{self.process.pid}/status").read())[1]) / 1024

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.root)


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))]


def many(count, work, workers):
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, range(count)))


def identity():
    """Each prompt under its own adapter or the base, some with a common beginning."""
    common = "The keeper of the lighthouse wrote in his book every evening: ships, weather, birds, and what the sea had brought. " * 2
    def body(i, server):
        prompt = (common if i % 3 == 0 else "") + f"Entry {i}: at {i % 24} o'clock, {i * 7919 % 997} ships."
        sampled = {"temperature": 0.8, "seed": i} if i % 2 else {"temperature": 0}
        return {"model": (["base"] + server.names)[i % (1 + len(server.names))], "prompt": prompt, "max_tokens": 8, "logprobs": 1, **sampled}

    def answers(server, workers):
        def one(i):
            status, text = server.ask("/v1/completions", body(i, server))
            assert status == 200, text
            choice = json.loads(text)["choices"][0]
            return choice["text"], json.dumps(choice["logprobs"])
        return many(n, one, workers)

    alone = Server("--rows", "1", "--queue", "1024")
    first = answers(alone, 1)
    kept = answers(alone, 1)
    alone.stop()
    together = Server("--rows", "64", "--queue", "1024")
    batched = answers(together, 64)
    again = answers(together, 64)
    together.stop()
    differ = [sum(a != b for a, b in zip(first, other)) for other in (kept, batched, again)]
    print(f"{n} prompts, {len(set(first))} different answers; differ: kept prefixes {differ[0]}, 64 at once {differ[1]}, both {differ[2]}")
    return sum(differ) == 0 and len(set(first)) > n * 0.9


def swaps():
    server = Server()
    a, b = server.names[:2]
    stop = threading.Event()

    def load():
        while not stop.is_set():
            server.ask("/v1/completions", {"model": "swapped", "prompt": "Once", "max_tokens": 8})

    status, text = server.ask("/v1/load_lora_adapter", {"lora_name": "swapped", "lora_path": a})
    assert status == 200, text
    askers = [threading.Thread(target=load, daemon=True) for _ in range(4)]
    [asker.start() for asker in askers]
    connection, disk, loaded, memory = server.connect(), [], [], []
    listed = json.loads(server.ask("/v1/lora_adapters", None)[1])["data"]
    ids = {entry["id"]: entry["generation"] for entry in listed}
    for i in range(n):
        began = time.perf_counter()
        if i % 2:
            body = {"lora_name": "swapped", "generation": ids[[a, b][i // 2 % 2]]}
            status, text = server.ask("/v1/rollback_lora_adapter", body, connection) if i > 2 else (200, b"")
        else:
            body = {"lora_name": "swapped", "lora_path": [a, b][i // 2 % 2], "load_inplace": True}
            status, text = server.ask("/v1/load_lora_adapter", body, connection)
        assert status == 200, text
        (loaded if i % 2 else disk).append((time.perf_counter() - began) * 1e3)
        if i % max(1, n // 10) == n // 20:
            memory.append(server.rss())
    stop.set()
    [asker.join() for asker in askers]
    server.stop()
    print(f"{n} swaps under load; from files p50 {statistics.median(disk):.1f} p99 {quantile(disk, 0.99):.1f} ms, of what is in memory p50 {statistics.median(loaded):.2f} p99 {quantile(loaded, 0.99):.2f} ms (acknowledged and durable)")
    print(f"resident memory over time, MB: {[round(m) for m in memory]}")
    half = memory[len(memory) // 2]
    print(f"second half of them: {memory[-1] / half:.3f}x")
    return memory[-1] <= 1.02 * half


def disconnects():
    server = Server("--rows", "4")
    waits = []
    long = "word " * 1500
    for i in range(n):
        body = {"model": "base", "prompt": [long, "Once upon"][i % 2] + str(i), "max_tokens": 400, "ignore_eos": True, "stream": i % 4 < 2}
        connection = server.connect()
        connection.request("POST", "/v1/completions", json.dumps(body))
        deadline = time.time() + 20
        while server.gauge("vllm:num_requests_running") == 0 and time.time() < deadline:
            time.sleep(0.002)
        time.sleep(0.03 * (i % 3))
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        began = time.perf_counter()
        while server.gauge("vllm:num_requests_running") > 0 and time.perf_counter() - began < 20:
            time.sleep(0.002)
        waits.append((time.perf_counter() - began) * 1e3)
    server.stop()
    print(f"{n} connections dropped; the row is free after p50 {statistics.median(waits):.0f}, p99 {quantile(waits, 0.99):.0f}, most {max(waits):.0f} ms")
    return max(waits) < 20_000


def overload():
    server = Server("--rows", "8", "--queue", "16")
    def run(workers, seconds):
        end, tokens, refusals, late = time.time() + seconds, [0], [], [0]
        def one(_):
            while time.time() < end:
                began = time.perf_counter()
                status, text = server.ask("/v1/completions", {"model": "base", "prompt": "Once upon a time", "max_tokens": 32, "ignore_eos": True})
                if status == 200:
                    tokens[0] += json.loads(text)["usage"]["completion_tokens"]
                else:
                    assert status == 429, text
                    refusals.append((time.perf_counter() - began) * 1e3)
                    # As Retry-After says.
                    time.sleep(1)
        many(workers, one, workers)
        return tokens[0] / seconds, refusals
    peak, _ = run(24, min(20, n))
    good, refusals = run(80, n)
    server.stop()
    print(f"24 askers {peak:.0f} tokens/s; 80 askers {good:.0f} ({good / peak:.2f}x), {len(refusals)} refusals, after p50 {statistics.median(refusals):.1f} p99 {quantile(refusals, 0.99):.1f} ms")
    return good >= 0.9 * peak and len(refusals) > 0


def sigterms():
    took, codes = [], []
    for i in range(n):
        server = Server("--grace", "2")
        askers = [threading.Thread(target=lambda: quietly(server), daemon=True) for _ in range(8)]
        [asker.start() for asker in askers]
        time.sleep(0.1 + 0.05 * (i % 8))
        began = time.perf_counter()
        server.process.send_signal(signal.SIGTERM)
        codes.append(server.process.wait(timeout=30))
        took.append(time.perf_counter() - began)
        shutil.rmtree(server.root)
    print(f"{n} SIGTERMs under load, grace time 2 s: exit codes {sorted(set(codes))}, after p50 {statistics.median(took):.2f}, most {max(took):.2f} s")
    return set(codes) == {0} and max(took) < 3


def quietly(server):
    try:
        server.ask("/v1/completions", {"model": "base", "prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "stream": True})
    except (OSError, http.client.HTTPException):
        pass


held = {"identity": identity, "swaps": swaps, "disconnects": disconnects, "overload": overload, "sigterms": sigterms}[check]()
print("1 passed, 0 failed" if held else "0 passed, 1 failed")
sys.exit(not held)
