"""Sums of log-probabilities by PyTorch. Reads [[[ids, how many are the question's], …], …], writes [[sum, …], …].

    python tests/serve/torch_scores.py HFDIR [ADAPTER] < ROWS
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
if len(sys.argv) > 2:
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, sys.argv[2]).eval()


@torch.no_grad()
def score(ids, before):
    logps = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return logps.gather(1, torch.tensor(ids[1:])[:, None])[before - 1 :].sum().item()


json.dump([[score(ids, before) for ids, before in row] for row in json.load(sys.stdin)], sys.stdout)
