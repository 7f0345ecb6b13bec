"""What scripts/gpu/suite.py needs of PyTorch: models of random weights, and PEFT's steps.

    python scripts/gpu/torch_side.py make --shape JSON --out DIR [--cpu]
    python scripts/gpu/torch_side.py train --model DIR --rows 8 --seq 1024 --steps 10 [--cpu]

Each prints one JSON line. `train`: LoRA r16 on all linear layers of a bf16 base, sdpa attention, half of each row carries loss, AdamW;
medians of the steps after one that is not timed, with gradient checkpointing and without.
"""
import argparse
import gc
import json
import resource
import statistics
import time

import torch


def make(args):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**json.loads(args.shape))
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(args.device):
        model = LlamaForCausalLM(config)
    model.save_pretrained(args.out, max_shard_size="50GB")
    values = sum(p.numel() for p in model.parameters())
    print(json.dumps({"values": values, "bytes": values * 2}))


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def steps(args, checkpoint):
    """Trains a fresh adapter; figures of the timed steps."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.bfloat16, attn_implementation="sdpa", local_files_only=True).to(args.device)
    base.config.use_cache = False
    if checkpoint:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        base.enable_input_require_grads()
    net = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    net.train()
    params = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0)
    ids = torch.randint(0, base.config.vocab_size, (args.rows, args.seq)).to(args.device)
    labels = ids.clone()
    labels[:, : args.seq // 2] = -100
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times, losses = [], []
    for _ in range(args.steps + 1):
        synchronize(args.device)
        start = time.perf_counter()
        loss = net(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        synchronize(args.device)
        times.append(time.perf_counter() - start)
        losses.append(loss.item())
    median = statistics.median(times[1:])
    figures = {"tok_s": args.rows * args.seq / median, "ms_step": median * 1e3, "trained_values": sum(p.numel() for p in params)}
    if args.device == "cuda":
        figures["peak_allocated_mb"] = torch.cuda.max_memory_allocated() / 1e6
        figures["peak_reserved_mb"] = torch.cuda.max_memory_reserved() / 1e6
    figures["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {**figures, "losses": losses}


def train(args):
    found = {}
    # The one that needs less memory first: a process's largest resident set only grows.
    for name, checkpoint in [("checkpointing", True), ("plain", False)]:
        try:
            found[name] = steps(args, checkpoint)
        except torch.OutOfMemoryError as error:
            found[name] = {"error": str(error).splitlines()[0]}
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()
        # Each is kept even if the next one is stopped.
        print(json.dumps(found), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["make", "train"])
    parser.add_argument("--shape", help="arguments of LlamaConfig, as JSON")
    parser.add_argument("--out")
    parser.add_argument("--model")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--seq", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--cpu", dest="device", action="store_const", const="cpu", default="cuda")
    args = parser.parse_args()
    {"make": make, "train": train}[args.verb](args)


if __name__ == "__main__":
    main()
