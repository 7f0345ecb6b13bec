"""Trains a small adapter with PEFT and writes the logits that lorakit must give with it.

    python tests/peft/make.py --model HFDIR --out DIR [--method plain|rslora|dora] [--targets q_proj,v_proj]

DIR/adapter holds what PEFT saves, DIR/logits.json {"prompts": [{"ids": [...], "last_logits": [...]}]} with the adapter
active, DIR/base_logits.json the same without it.
"""
import argparse
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from reference import last_logits, load_base, read_prompts, write_logits

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True, help="Hugging Face directory of the base")
parser.add_argument("--out", required=True, type=Path)
parser.add_argument("--method", choices=["plain", "rslora", "dora"], default="plain")
parser.add_argument("--targets", default="q_proj,v_proj")
parser.add_argument("--rank", type=int, default=4)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--lr", type=float, default=5e-3)
args = parser.parse_args()

prompts = read_prompts()
base = load_base(args.model)
args.out.mkdir(parents=True, exist_ok=True)
before = last_logits(base, prompts)
write_logits(args.out / "base_logits.json", prompts, before)

model = get_peft_model(base, LoraConfig(
    task_type="CAUSAL_LM", r=args.rank, lora_alpha=2 * args.rank, target_modules=args.targets.split(","),
    use_rslora=args.method == "rslora", use_dora=args.method == "dora"))
params = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(params, lr=args.lr, weight_decay=0.0)
model.train()
for step in range(args.steps):
    ids = torch.tensor([prompts[step % len(prompts)]["ids"]])
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step} loss {loss.item():.5f}")

model.save_pretrained(args.out / "adapter")
after = last_logits(model, prompts)
write_logits(args.out / "logits.json", prompts, after)
moved = max((a - b).abs().max().item() for a, b in zip(after, before, strict=True))
print(f"the adapter moves a logit by up to {moved:.3f}; written to {args.out}")
