"""The stages of scripts/gpu.sh, which says what they are for.

    python scripts/gpu/suite.py --binary LORAKIT --out FILE.json [--seconds 480] [--cpu]

Needs only Python itself; what needs torch is torch_side.py. The JSON is written after every stage:
"stages" (name, command, seconds, exit, ok, figures, the end of what was said), "left_out" (what, why), "ratios" (the table).
"""
import argparse
import glob
import importlib.metadata
import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
GOLDEN = ROOT / "tests/data/golden"
SIDE = str(Path(__file__).with_name("torch_side.py"))
# A loss may differ from PEFT's by so much of it, as in benches/vs_peft/loss_table.py.
LOSS_TOLERANCE = 1e-3

LLAMA = {"rope_theta": 500000.0, "rms_norm_eps": 1e-5, "max_position_embeddings": 8192}
LARGE = {**LLAMA, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}
TINY = {**LLAMA, "hidden_size": 64, "intermediate_size": 112, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320}
SIZES = {
    "gpu": {
        "models": {
            "1B": {**LARGE, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "tie_word_embeddings": True},
            "8B, 8 layers": {**LARGE, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 8},
        },
        "train": [("1B", 8, 1024, 10), ("8B, 8 layers", 4, 1024, 5)],  # model, rows, tokens of a row, timed steps
        "one": "1B",
        "decode": 128,
    },
    "cpu": {
        "models": {
            "tiny": {**TINY, "num_hidden_layers": 2, "tie_word_embeddings": True},
            "tiny, untied": {**TINY, "num_hidden_layers": 2},
        },
        "train": [("tiny", 8, 64, 3), ("tiny, untied", 4, 64, 3)],
        "one": "tiny",
        "decode": 16,
    },
}
# Wanted on a GPU, but no verb of lorakit does it, or nothing here has the file.
NEVER = [
    ("every operation against its CPU twin", "no verb of lorakit does it; conform covers them through whole models"),
    ("packed against padded rows", "`bench train` makes rows of one length"),
    ("lorakit with and without recomputation", "`bench train` has no flag for it on made-up rows: lorakit chooses"),
    ("a quantised base", "no .gguf file of these shapes is at hand, and lorakit writes none"),
]


class DeviceMemory:
    """The most memory that the GPU had in use, less what it had before, sampled by nvidia-smi; nothing where there is none."""

    def __init__(self, wanted):
        self.peak, self.process = None, None
        if not wanted or not shutil.which("nvidia-smi"):
            return
        query = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        try:
            self.before = int(subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.split()[0])
        except (subprocess.SubprocessError, ValueError, IndexError):
            return
        self.process = subprocess.Popen([*query, "--loop-ms=50"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.peak = max(self.peak or 0, int(line) - self.before)

    def stop(self):
        """MB (10^6 bytes) or None."""
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.thread.join(timeout=5)
        return None if self.peak is None else self.peak * 1.048576


class Suite:
    def __init__(self, args):
        self.args, self.began = args, time.monotonic()
        self.no_lorakit = self.no_torch = None
        self.env = dict(os.environ, HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
        if args.cpu:
            self.env["CUDA_VISIBLE_DEVICES"] = ""
        self.lorakit_env = dict(self.env)
        if not args.cpu and (libraries := cuda_libraries()):
            self.lorakit_env["LD_LIBRARY_PATH"] = ":".join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), *libraries]))
        self.report = {
            "format": 1,
            "on": "cpu" if args.cpu else "gpu",
            "note": "tiny sizes on the CPU, to try the script: no ratio says anything" if args.cpu else "",
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "commit": commit(),
            "seconds_allowed": args.seconds,
            "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
            "machine": {},
            "stages": [],
            "left_out": [{"what": what, "why": why} for what, why in NEVER],
            "ratios": [],
        }
        missing = [name for name, found in self.report["versions"].items() if found is None]
        if missing:
            self.no_torch = f"this Python has no {', '.join(missing)}"

    def left(self):
        return self.args.seconds - (time.monotonic() - self.began)

    def leave_out(self, what, why):
        print(f"  --  {what}: left out, {why}", flush=True)
        self.report["left_out"].append({"what": what, "why": why})
        self.write()

    def lorakit(self, name, command, **how):
        return self.stage(name, [self.args.binary, *command], env=self.lorakit_env, without=self.no_lorakit, **how)

    def python(self, name, command, **how):
        return self.stage(name, [sys.executable, *command], env=self.env, without=self.no_torch, **how)

    def stage(self, name, command, *, limit, needs=5, keep=0, read=None, env=None, without=None, device_memory=False, partly=False):
        """Runs `command` for at most `limit` seconds and takes the figures that `read` finds in its output.

        None if it failed (unless `partly`: what it said until then counts) or was left out: because of `without`, or because
        fewer than `needs` seconds would remain beside the `keep` of later stages.
        """
        room = self.left() - keep
        if without:
            return self.leave_out(name, without)
        if room < min(needs, limit):
            return self.leave_out(name, f"{self.left():.0f} s were left, {needs + keep} wanted")
        seconds = max(1, int(min(limit, room)))
        memory = DeviceMemory(device_memory and not self.args.cpu)
        began = time.monotonic()
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            try:
                limited = ["timeout", "-k", "5", str(seconds), *command]
                status = subprocess.run(limited, stdout=out, stderr=err, env=env, cwd=ROOT).returncode
            except OSError as error:
                status = 127
                err.write(str(error))
            took, peak = time.monotonic() - began, memory.stop()
            for file in (out, err):
                file.seek(0)
            said, complained = out.read(), err.read()
        figures, problem = {}, None
        try:
            figures = read(said) if read else {}
        except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
            problem = f"its output cannot be read: {type(error).__name__}: {error}"
        if peak is not None:
            figures["peak_device_mb"] = peak
        problem = figures.pop("problem", problem)
        if status != 0:
            problem = "it took too long" if status in (124, 137) else f"exit status {status}"
        ok = status == 0 and problem is None
        entry = {"name": name, "command": " ".join(map(str, command)), "seconds": round(took, 2), "limit": seconds, "exit": status,
                 "timed_out": status in (124, 137), "ok": ok, "figures": figures}
        if not ok:
            entry["problem"] = problem
            entry["said"] = (complained.strip() or ("" if figures else said.strip()))[-1500:]
        self.report["stages"].append(entry)
        print(f"{'ok  ' if ok else 'FAIL'}  {name}: {took:.1f} s{'' if ok else ': ' + entry['problem']}", flush=True)
        self.write()
        return figures if ok or (partly and figures) else None

    def write(self):
        stages = self.report["stages"]
        self.report["seconds"] = round(time.monotonic() - self.began, 1)
        self.report["passed"] = sum(s["ok"] for s in stages)
        self.report["failed"] = sum(not s["ok"] for s in stages)
        path = Path(self.args.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(self.report, indent=1) + "\n")
        part.replace(path)

    def flag(self, verb, flag):
        """Whether a verb of this lorakit has a flag."""
        try:
            done = subprocess.run([self.args.binary, *verb, "--help"], capture_output=True, text=True, timeout=20, env=self.lorakit_env)
        except (OSError, subprocess.SubprocessError):
            return False
        return f"{flag} " in done.stdout or f"{flag}\n" in done.stdout

    def machine_flag(self, verb):
        """On a GPU the default; with --cpu the tensor operations, where the verb can be told so."""
        if not self.args.cpu or self.no_lorakit:
            return []
        if self.flag(verb, "--machine"):
            return ["--machine", "candle"]
        self.leave_out(f"{' '.join(verb)} through tensor operations", "it has no --machine; with --cpu the CPU's kernels were timed")
        return []


def commit():
    try:
        return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cuda_libraries():
    """Folders of the CUDA libraries that PyTorch's wheels bring, for a machine that has no others."""
    spec = importlib.util.find_spec("nvidia")
    return [p for at in (spec.submodule_search_locations if spec else []) or [] for p in sorted(glob.glob(f"{at}/*/lib"))]


def last_json(said):
    return json.loads(said.strip().splitlines()[-1])


def machine(suite):
    """nvidia-smi and doctor; without a GPU behind it, lorakit's stages would time the CPU, so they are left out."""
    if suite.args.cpu:
        suite.leave_out("nvidia-smi", "--cpu")
    else:
        def rows(said):
            name, driver, total, used = [cell.strip() for cell in said.strip().splitlines()[0].split(",")]
            return {"gpu": name, "driver": driver, "memory_mib": int(total), "used_mib": int(used)}

        query = ["nvidia-smi", "--id=0", "--query-gpu=name,driver_version,memory.total,memory.used", "--format=csv,noheader,nounits"]
        suite.report["machine"].update(suite.stage("nvidia-smi", query, limit=20, read=rows) or {})

    def found(said):
        doctor = json.loads(said)
        found = {key: doctor.get(key) for key in ("version", "cpu", "threads", "accelerators", "device", "problems")}
        if not suite.args.cpu and not str(found["device"]).lower().startswith("cuda"):
            found["problem"] = f"the device is {found['device']}"
        return found

    # Of a base that is here: the quickstart's is no concern of this run.
    suite.lorakit("doctor", ["doctor", "--model", str(GOLDEN / "models/llama"), "--json"], limit=60, read=found)
    entry = suite.report["stages"][-1]
    suite.report["machine"]["lorakit"] = entry["figures"]
    device = str(entry["figures"].get("device"))
    if not suite.args.cpu and not device.lower().startswith("cuda"):
        suite.no_lorakit = f"doctor names the device {device}: this binary, or the libraries that it needs, see no GPU"


def conform(suite):
    where = ["--machine", "candle"] if suite.args.cpu else []

    def cases(said):
        report = json.loads(said)
        broken = [f"{Path(c['dir']).relative_to(ROOT)}: {k['name']} {k['error']:.3g} of {k['tolerance']:.3g}"
                  for c in report["cases"] for k in c["checks"] if not k["pass"]]
        unsupported = [c["dir"] for c in report["cases"] if c["unsupported"]]
        return {"cases": len(report["cases"]), "cases_failed": report["failed"], "checks_failed": broken, "unsupported": unsupported}

    for dtype in ("f32", "bf16"):
        suite.lorakit(f"conform {dtype}", ["conform", str(GOLDEN), "--dtype", dtype, *where, "--json"], limit=60, read=cases)


def models(suite, sizes, work):
    """Directories of the models that could be made, by name."""
    made = {}
    for i, (name, shape) in enumerate(sizes["models"].items()):
        at = work / f"model{i}"
        shape = {**shape, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        command = [SIDE, "make", "--shape", json.dumps(shape), "--out", str(at), *cpu(suite)]
        if suite.python(f"model {name}", command, limit=90, needs=10, read=last_json) is not None:
            # lorakit wants one beside the weights; its ids are fewer than the model's.
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(GOLDEN / "models/llama" / file, at)
            made[name] = at
    return made


def cpu(suite):
    return ["--cpu"] if suite.args.cpu else []


def bench_train(suite, flags, name, model, rows, seq, steps, keep):
    def figures(said):
        report = json.loads(said)
        # The share of the peak is of the CPU's.
        wanted = ("tok_s", "ms_step", "ms_forward", "ms_backward", "ms_optimizer", "peak_rss_mb", "losses")
        found = {key: report[key] for key in wanted}
        if not all(isinstance(loss, float) and math.isfinite(loss) for loss in found["losses"]):
            found["problem"] = "a loss is no number"
        return found

    command = ["bench", "train", "--model", str(model), "--batch", str(rows), "--seq", str(seq), "--targets", "all-linear",
               "--rank", "16", "--compute", "bf16", "--steps", str(steps), *flags, "--json"]
    return suite.lorakit(name, command, limit=60, needs=10, keep=keep, read=figures, device_memory=True)


def speed(suite, sizes, made):
    """Two rounds of lorakit and PEFT in turn on each shape; the runs, by shape and side."""
    flags = suite.machine_flag(["bench", "train"]) if made else []
    runs = {}
    for at, (name, rows, seq, steps) in enumerate(sizes["train"]):
        if name not in made:
            suite.leave_out(f"speed {name}", "there is no such model")
            continue
        runs[name] = {"rows": rows, "seq": seq, "lorakit": [], "PEFT": [], "fewer": None}
        tried = True
        for turn in (1, 2):
            # What later stages want: the second shape, the losses, decoding.
            keep = 0 if suite.args.cpu else (110 if at else 200) - 30 * (turn == 1)
            what = f"{name}, {rows}x{seq}, round {turn}"
            if tried:
                ours = bench_train(suite, flags, f"lorakit {what}", made[name], rows, seq, steps, keep)
                if ours:
                    runs[name]["lorakit"].append(ours)
                elif suite.report["stages"][-1]["name"] == f"lorakit {what}":
                    # It failed, for lack of memory perhaps: one row, once.
                    tried = False
                    fewer = bench_train(suite, flags, f"lorakit {name}, 1x{seq}", made[name], 1, seq, steps, keep)
                    runs[name]["fewer"] = fewer
            else:
                suite.leave_out(f"lorakit {what}", "round 1 failed")
            shape = ["--rows", str(rows), "--seq", str(seq), "--steps", str(steps)]
            theirs = suite.python(f"PEFT {what}", [SIDE, "train", "--model", str(made[name]), *shape, *cpu(suite)], limit=90, needs=25,
                                  keep=keep, read=peft_figures, device_memory=True, partly=True)
            if theirs:
                runs[name]["PEFT"].append(theirs)
    return runs


def peft_figures(said):
    found = last_json(said)
    if not any("tok_s" in setting for setting in found.values()):
        found["problem"] = "neither setting ran: " + "; ".join(setting.get("error", "") for setting in found.values())
    return found


def losses(suite, sizes, made, work):
    """Thirty losses in f32 against PEFT's, from the same batches and the same initial A and B; the largest relative difference."""
    if sizes["one"] not in made:
        return suite.leave_out("losses against PEFT's", "there is no model")
    suite.machine_flag(["train"])
    model, init, run, theirs = made[sizes["one"]], work / "init", work / "run", work / "losses.json"
    recipe = str(ROOT / "tests/data/tiny/recipe.toml")
    values = [f"base.model={json.dumps(str(model))}", "base.compute=f32", "train.steps=30", "train.warmup=3", "train.lr=1e-3",
              "train.eval_every=0", "eval.exact_match=false", "eval.limit=2", "eval.samples=0"]
    told = [part for value in values for part in ("--set", value)]
    keep = 0 if suite.args.cpu else 25
    if suite.lorakit("losses: batches", ["compare", "run", recipe, *told, "--out", str(init)], limit=40, keep=keep) is None:
        return None

    def events(_):
        steps = [e for e in map(json.loads, (run / "events.jsonl").read_text().splitlines()) if e["event"] == "step"]
        return {"losses": [s["loss"] for s in steps], "grad_norms": [s["grad_norm"] for s in steps]}

    ours = suite.lorakit("losses: lorakit", ["train", recipe, *told, "--out", str(run)], limit=60, needs=10, keep=keep, read=events)
    if ours is None:
        return None

    def compared(_):
        peft = json.loads(theirs.read_text())
        if len(ours["losses"]) != len(peft["losses"]):
            return {**peft, "problem": f"{len(ours['losses'])} steps here, {len(peft['losses'])} there"}
        worst = max(abs(a - b) / b for a, b in zip(ours["losses"], peft["losses"]))
        found = {**peft, "steps": len(peft["losses"]), "largest_relative_difference": worst, "tolerance": LOSS_TOLERANCE}
        if not worst <= LOSS_TOLERANCE:
            found["problem"] = f"a loss differs from PEFT's by {worst:.1e} of it"
        return found

    command = [str(ROOT / "benches/vs_peft/loss_trace.py"), "--model", str(model), "--init", str(init / "adapter"),
               "--batches", str(init / "batches.json"), "--out", str(theirs), "--device", "cpu" if suite.args.cpu else "cuda"]
    suite.python("losses: PEFT", command, limit=60, needs=15, keep=0, read=compared)
    return suite.report["stages"][-1]["figures"].get("largest_relative_difference")


def decode(suite, sizes, made):
    """Tokens a second by number of rows."""
    if sizes["one"] not in made:
        suite.leave_out("decoding", "there is no model")
        return {}
    flags, found = suite.machine_flag(["bench", "decode"]), {}
    for rows in (1, 8, 64):
        command = ["bench", "decode", "--model", str(made[sizes["one"]]), "--rows", str(rows), "--tokens", str(sizes["decode"]),
                   "--compute", "bf16", *flags, "--json"]
        if figures := suite.lorakit(f"decode {rows} rows", command, limit=45, read=json.loads, device_memory=True):
            found[rows] = figures
    return found


def median(runs, key):
    values = [r[key] for r in runs if r.get(key) is not None]
    return statistics.median(values) if values else None


def ratio(a, b):
    return a / b if a is not None and b else None


def table(suite, runs, worst, decoded):
    """The lines of the table: what, lorakit's figure, the other's, and lorakit's over the other's."""
    lines = []

    def line(what, unit, ours, other, theirs):
        lines.append({"what": what, "unit": unit, "lorakit": ours, "against": other, "other": theirs, "ratio": ratio(ours, theirs)})

    for name, of in runs.items():
        shape = f"{name}, {of['rows']}x{of['seq']}"
        ours = of["lorakit"]
        for setting in ("plain", "checkpointing"):
            theirs = [r[setting] for r in of["PEFT"] if "tok_s" in r.get(setting, {})]  # without those that had no memory
            if not (ours or theirs):
                continue
            line(f"train {shape}", "tokens/s", median(ours, "tok_s"), f"PEFT, {setting}", median(theirs, "tok_s"))
            if suite.args.cpu:
                line(f"memory {shape}", "MB, resident", median(ours, "peak_rss_mb"), f"PEFT, {setting}", median(theirs, "peak_rss_mb"))
            else:
                # All that lorakit's process holds on the device, its CUDA context too, against what PyTorch allocated.
                allocated = median(theirs, "peak_allocated_mb")
                line(f"memory {shape}", "MB, device", median(ours, "peak_device_mb"), f"PEFT, {setting}, allocated", allocated)
        if of["fewer"]:
            line(f"train {name}, 1x{of['seq']}", "tokens/s", of["fewer"]["tok_s"], None, None)
    if worst is not None:
        line("losses, f32", "largest relative difference", worst, "allowed", LOSS_TOLERANCE)
    for rows, figures in decoded.items():
        one = decoded.get(1)
        other = ("lorakit, 1 row", one["tok_s"]) if one and rows != 1 else (None, None)
        line(f"decode {rows} rows", "tokens/s", figures["tok_s"], *other)
    return lines


def show(lines):
    number = lambda value: "-" if value is None else f"{value:.1e}" if value < 0.01 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
    rows = [(x["what"], x["unit"], number(x["lorakit"]), x["against"] or "-", number(x["other"]),
             "-" if x["ratio"] is None else f"{x['ratio']:.2f}x") for x in lines]
    rows.insert(0, ("what", "unit", "lorakit", "against", "other", "ratio"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", type=int, default=480)
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    suite, sizes = Suite(args), SIZES["cpu" if args.cpu else "gpu"]
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        machine(suite)
        conform(suite)
        made = models(suite, sizes, work)
        runs = speed(suite, sizes, made)
        worst = losses(suite, sizes, made, work)
        decoded = decode(suite, sizes, made)
    suite.report["ratios"] = table(suite, runs, worst, decoded)
    suite.write()
    print()
    show(suite.report["ratios"])
    report = suite.report
    note = f"{report['note']}\n" if report["note"] else ""
    print(f"\n{note}all stages took {report['seconds']:.0f} s, {len(report['left_out'])} things were left out: {args.out}")
    print(f"{report['passed']} passed, {report['failed']} failed")
    sys.exit(report["failed"] > 0)


if __name__ == "__main__":
    main()
