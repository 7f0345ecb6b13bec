#!/usr/bin/env python3
"""Eight rows under eight adapters in one batch, decoding: PEFT's `adapter_names` beside lorakit, in turn.

  mixed_batch.py HFDIR GGUF ADAPTERS LORAKIT [ROUNDS]

HFDIR is the base for PEFT (bf16, its faster precision), GGUF the same base for lorakit, ADAPTERS a folder of eight PEFT adapters. Prints tokens a second
of all rows, and the ratio of medians.
"""
import json, os, statistics, subprocess, sys, time
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

hf, gguf, folder, lorakit = sys.argv[1:5]
rounds = int(sys.argv[5]) if len(sys.argv) > 5 else 2
paths = [f"{folder}/{name}" for name in sorted(os.listdir(folder))[:8]]
TOKENS = 48

torch.set_num_threads(2)
model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.bfloat16)
model = PeftModel.from_pretrained(model, paths[0], adapter_name="a0", autocast_adapter_dtype=False)
for i, path in enumerate(paths[1:], 1):
    model.load_adapter(path, adapter_name=f"a{i}", autocast_adapter_dtype=False)
model.to(torch.bfloat16).eval()
names = [f"a{i}" for i in range(8)]


def peft():
    ids = torch.randint(5, 40000, (8, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        out = model(input_ids=ids, use_cache=True, adapter_names=names)
        cache, following = out.past_key_values, out.logits[:, -1:].argmax(-1)
        began = time.perf_counter()
        for _ in range(TOKENS):
            out = model(input_ids=following, past_key_values=cache, use_cache=True, adapter_names=names)
            following = out.logits[:, -1:].argmax(-1)
        return 8 * TOKENS / (time.perf_counter() - began)


def ours():
    adapters = [word for path in paths for word in ("--adapter", path)]
    command = [lorakit, "--threads", "2", "bench", "decode", "--model", gguf, "--rows", "8", "--tokens", str(TOKENS), "--json", *adapters]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["tok_s"]


peft()
found = {"PEFT": [], "lorakit": []}
for _ in range(rounds):
    found["PEFT"].append(peft())
    found["lorakit"].append(ours())
for name, rates in found.items():
    print(f"{name:8} {', '.join(f'{rate:.1f}' for rate in rates)} tokens/s")
print(f"{statistics.median(found['lorakit']) / statistics.median(found['PEFT']):.1f}x")
