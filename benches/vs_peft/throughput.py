#!/usr/bin/env python3
"""The same training steps in PyTorch + PEFT and in lorakit, in turn, and the ratios.

    python benches/vs_peft/throughput.py --model HFDIR --lorakit target/release/lorakit [--threads 2] [--rounds 2]

HFDIR is a bf16 Hugging Face directory of the base. One process is one configuration; half of each row carries loss; medians of
five steps after one that is not timed. PEFT runs in each of its settings and its best one counts. Needs torch, transformers, peft.
"""
import argparse, json, os, resource, statistics, subprocess, sys, time

WORK = {  # name: (batch, seq, targets, rank)
    "4x256 q/v r8": (4, 256, "q_proj,v_proj", 8),
    "8x128 q/v r8": (8, 128, "q_proj,v_proj", 8),
    "1x512 q/v r8": (1, 512, "q_proj,v_proj", 8),
    "4x256 all-linear r16": (4, 256, "all-linear", 16),
}
SETTINGS = ["bf16-sdpa", "bf16-eager", "autocast-sdpa"]


def peft_run(model, batch, seq, targets, rank, setting, threads):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    precision, attention = setting.split("-")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    base = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation=attention)
    modules = targets if targets == "all-linear" else targets.split(",")
    net = get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules, task_type="CAUSAL_LM"))
    net.train()
    params = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0)
    ids = torch.randint(0, base.config.vocab_size, (batch, seq))
    labels = ids.clone()
    labels[:, : seq // 2] = -100
    times = []
    for _ in range(6):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            loss = net(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps({"tok_s": batch * seq / statistics.median(times[1:]), "peak_rss_mb": peak}))


def child(command, threads):
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), RAYON_NUM_THREADS=str(threads))
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--lorakit", default="target/release/lorakit")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--peft", nargs=5, metavar=("BATCH", "SEQ", "TARGETS", "RANK", "SETTING"), help="run one PEFT configuration")
    a = p.parse_args()
    if a.peft:
        batch, seq, targets, rank, setting = a.peft
        return peft_run(a.model, int(batch), int(seq), targets, int(rank), setting, a.threads)
    print("| work | PEFT, best setting, tokens/s (MB) | lorakit, tokens/s (MB) | speed | memory |\n|---|---|---|---|---|")
    for name, (batch, seq, targets, rank) in WORK.items():
        shape = ["--batch", str(batch), "--seq", str(seq), "--targets", targets, "--rank", str(rank)]
        ours, theirs = [], {s: [] for s in SETTINGS}
        for _ in range(a.rounds):
            for setting in SETTINGS:
                one = ["--peft", str(batch), str(seq), targets, str(rank), setting]
                theirs[setting].append(child([sys.executable, __file__, "--model", a.model, "--threads", str(a.threads), *one], a.threads))
                ours.append(child([a.lorakit, "--threads", str(a.threads), "bench", "train", "--model", a.model, *shape, "--json"], a.threads))
        rate = lambda runs: statistics.median(r["tok_s"] for r in runs)
        peak = lambda runs: max(r["peak_rss_mb"] for r in runs)
        best = max(SETTINGS, key=lambda s: rate(theirs[s]))
        t, o = theirs[best], ours
        print(f"| {name} | {rate(t):.0f} ({peak(t):.0f}) {best} | {rate(o):.0f} ({peak(o):.0f}) "
              f"| {rate(o) / rate(t):.2f}× | {peak(o) / peak(t):.2f}× |", flush=True)


if __name__ == "__main__":
    main()
