#!/usr/bin/env python3
"""An epoch of a ragged instruction set: PyTorch + PEFT with dynamic padding against lorakit with packing.

    python benches/vs_peft/ragged.py --model HFDIR --data ROWS.jsonl --lorakit target/release/lorakit [--limit 300] [--rounds 1]

HFDIR is a bf16 Hugging Face directory of the base. LoRA r8 on q and v, at most 512 tokens, loss on the answers only, one
optimiser step a batch. `lorakit compare run` writes the tokens and labels of the examples; PEFT gets exactly these, in batches of
8, shuffled, each padded to its longest; `lorakit train` runs the same recipe with packing, four rows of 512 a step. Counted is
the time of the steps: models are loaded before, and PEFT does one batch before that is not counted. Needs torch, transformers, peft.
"""
import argparse, json, os, random, statistics, sys, tempfile, time

SETTINGS = ["bf16-sdpa", "bf16-eager"]
RECIPE = """
[base]
model = {model}
[adapter]
rank = 8
alpha = 16
targets = ["q_proj", "v_proj"]
[data]
train = {{ path = {data}{limit} }}
heldout_fraction = 0.01
[train]
epochs = 1.0
lr = 2e-4
max_length = 512
batch_size = 4
packing = true
[eval]
limit = 1
samples = 0
"""


def peft_run(model, examples, setting, threads):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rows = [(b["input_ids"][0], b["labels"][0]) for b in json.load(open(examples))["batches"]]
    random.Random(0).shuffle(rows)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16, attn_implementation=setting.split("-")[1])
    net = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    net.train()
    params = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=2e-4, weight_decay=0.0)
    pad = lambda of, fill, n: torch.tensor([row + [fill] * (n - len(row)) for row in of])

    def step(batch):
        longest = max(len(ids) for ids, _ in batch)
        labels = pad([labels for _, labels in batch], -100, longest)
        mask = pad([[1] * len(ids) for ids, _ in batch], 0, longest)
        loss = net(input_ids=pad([ids for ids, _ in batch], 0, longest), attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        trained = int((labels[:, 1:] != -100).sum())
        return trained, float(loss) * trained, mask.numel()

    batches = [rows[i:i + 8] for i in range(0, len(rows), 8)]
    step(batches[0])
    start = time.perf_counter()
    trained, loss, padded = map(sum, zip(*map(step, batches)))
    seconds = time.perf_counter() - start
    real = sum(len(ids) for ids, _ in rows)
    print(json.dumps({"steps": len(batches), "tokens": real, "slots": padded, "trained": trained, "seconds": seconds, "loss": loss / trained}))


def child(command, threads):
    """Its output, the most memory it held in MB, and how many cores it had on average: below the threads, others took them."""
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), RAYON_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1")
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        actions = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, err.fileno(), 2)]
        start = time.perf_counter()
        pid = os.posix_spawnp(command[0], command, env, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
        for file in (out, err):
            file.seek(0)
        if status != 0:
            sys.exit(f"{' '.join(command)}\n{err.read()[-2000:]}")
        cores = (usage.ru_utime + usage.ru_stime) / (time.perf_counter() - start)
        return out.read(), {"peak": usage.ru_maxrss * 1024 / 1e6, "cores": cores}


def lorakit_run(binary, recipe, out, threads):
    _, usage = child([binary, "--threads", str(threads), "train", recipe, "--overwrite", "--out", out, "--json"], threads)
    events = [json.loads(line) for line in open(os.path.join(out, "events.jsonl"))]
    steps = [e for e in events if e["event"] == "step"]
    total = {k: sum(s[k] for s in steps) for k in ("tokens", "trained", "seconds")}
    fill = json.load(open(os.path.join(out, "trace.json")))["packing"]
    loss = sum(s["loss"] * s["trained"] for s in steps) / total["trained"]
    return dict(total, steps=len(steps), slots=fill["rows"] * fill["room"], loss=loss, **usage)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--data")
    p.add_argument("--lorakit", default="target/release/lorakit")
    p.add_argument("--limit", type=int, default=0, help="a sample of so many rows, the same on both sides (0: all)")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--peft", nargs=2, metavar=("SETTING", "EXAMPLES"), help="run one PEFT setting")
    a = p.parse_args()
    if a.peft:
        return peft_run(a.model, a.peft[1], a.peft[0], a.threads)
    a.data or p.error("--data names the rows")
    work = tempfile.TemporaryDirectory()
    at = lambda name: os.path.join(work.name, name)
    limit = f", limit = {a.limit}" if a.limit else ""
    text = RECIPE.format(model=json.dumps(os.path.abspath(a.model)), data=json.dumps(os.path.abspath(a.data)), limit=limit)
    open(at("ragged.toml"), "w").write(text)
    one_each = ["--set", "train.packing=false", "--set", "train.batch_size=1"]
    child([a.lorakit, "compare", "run", at("ragged.toml"), *one_each, "--out", at("init")], a.threads)
    runs = {name: [] for name in [*(f"PEFT {s}" for s in SETTINGS), "lorakit, packed"]}
    for _ in range(a.rounds):
        for s in SETTINGS:
            command = [sys.executable, __file__, "--model", a.model, "--threads", str(a.threads), "--peft", s, at("init/batches.json")]
            out, usage = child(command, a.threads)
            runs[f"PEFT {s}"].append(dict(json.loads(out.strip().splitlines()[-1]), **usage))
            runs["lorakit, packed"].append(lorakit_run(a.lorakit, at("ragged.toml"), at("run"), a.threads))
    report(runs, a.threads)


def report(runs, threads):
    first = [r[0] for r in runs.values()]
    if len({(r["tokens"], r["trained"]) for r in first}) != 1:
        sys.exit(f"the sides did not train the same tokens: {first}")
    # One summary, the median time; the rate and the ratio follow from it. All times and cores are shown beside it.
    seconds = {name: statistics.median(r["seconds"] for r in all) for name, all in runs.items()}
    rate = {name: all[0]["trained"] / seconds[name] for name, all in runs.items()}
    print("| | steps | tokens | full | trained tokens | seconds | of runs | cores | trained tokens/s | mean loss | peak MB |\n" + "|---" * 11 + "|")
    for name, all in runs.items():
        r = all[0]
        each, cores = (", ".join(f"{x[k]:.{d}f}" for x in all) for k, d in (("seconds", 1), ("cores", 2)))
        print(f"| {name} | {r['steps']} | {r['tokens']} | {r['tokens'] / r['slots']:.1%} | {r['trained']} | {seconds[name]:.1f} | {each} "
              f"| {cores} | {rate[name]:.0f} | {r['loss']:.5f} | {max(x['peak'] for x in all):.0f} |")
    ours = rate.pop("lorakit, packed")
    best = max(rate, key=rate.get)
    doubts = []
    for name, all in runs.items():
        times, cores = [r["seconds"] for r in all], min(r["cores"] for r in all)
        if max(times) > 1.15 * min(times):
            doubts.append(f"{name} took {min(times):.1f} to {max(times):.1f} s for the same work")
        if cores < 0.7 * threads:
            doubts.append(f"{name} had {cores:.2f} of {threads} cores")
    said = "NOT ESTABLISHED, " if doubts else ""
    print(f"\n{said}lorakit against the best of PEFT's settings ({best}): {ours / rate[best]:.2f}× the trained tokens a second")
    if doubts:
        print("Run it on a quiet machine: " + "; ".join(doubts))


if __name__ == "__main__":
    main()
