"""Loads an adapter that lorakit trained in PEFT and compares the logits of the two.

    python tests/peft/check.py --model HFDIR --adapter DIR --logits LORAKIT.json [--tolerance 1e-3] [--out PEFT.json]

LORAKIT.json is {"prompts": [{"ids": [...], "last_logits": [...]}]}; the ids are read from it. Without --logits the
prompts of prompts.json are used and PEFT's logits only written. Fails on a larger difference, and on an adapter that
PEFT loads without using every tensor or that changes nothing.
"""
import argparse
import sys
import warnings

import torch
from peft import PeftModel
from safetensors import safe_open

from reference import PROMPTS, last_logits, load_base, read_prompts, write_logits

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True, help="Hugging Face directory of the base")
parser.add_argument("--adapter", required=True)
parser.add_argument("--logits", help="JSON written by lorakit")
parser.add_argument("--out", help="where PEFT's own logits go, in the same form")
parser.add_argument("--tolerance", type=float, default=1e-3)
args = parser.parse_args()

prompts = read_prompts(args.logits or PROMPTS)
base = load_base(args.model)
before = last_logits(base, prompts)
# PEFT only warns of keys that are missing; here that is a failure.
warnings.filterwarnings("error", message=".*missing adapter keys.*")
model = PeftModel.from_pretrained(base, args.adapter)
after = last_logits(model, prompts)

failures = []
with safe_open(f"{args.adapter}/adapter_model.safetensors", "pt") as file:
    keys = set(file.keys())
used = {name.replace(".modules_to_save.default", "").replace(".default", "") for name, _ in model.named_parameters()}
# DoRA's magnitude is stored as `lora_magnitude_vector` and held as `lora_magnitude_vector.weight`.
unused = sorted(k for k in keys if k not in used and f"{k}.weight" not in used)
if unused:
    failures.append(f"{len(unused)} tensors that PEFT does not use, first {unused[0]}")
moved = max((a - b).abs().max().item() for a, b in zip(after, before, strict=True))
print(f"{len(keys)} tensors; the adapter moves a logit by up to {moved:.4f}")
if moved == 0.0:
    failures.append("the adapter changes no logit")

if args.logits:
    ours = [torch.tensor(p["last_logits"]) for p in prompts]
    diffs = [(a - b).abs().max().item() for a, b in zip(after, ours, strict=True)]
    for prompt, diff, a, b in zip(prompts, diffs, after, ours, strict=True):
        print(f"{len(prompt['ids']):4} ids  max |diff| {diff:.2e}  top token {a.argmax()} / {b.argmax()}")
    print(f"max |PEFT - lorakit| = {max(diffs):.3e}")
    if not max(diffs) <= args.tolerance:
        failures.append(f"logits differ by {max(diffs):.3e}, more than {args.tolerance:.0e}")
if args.out:
    write_logits(args.out, prompts, after)
for failure in failures:
    print(f"FAILED: {failure}", file=sys.stderr)
sys.exit(bool(failures))
