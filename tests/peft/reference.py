"""What make.py and check.py share: the model as PEFT sees it, and its logits at the end of each prompt.

f32 on the CPU with eager attention, one prompt at a time, so no padding enters the comparison.
"""
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

PROMPTS = Path(__file__).resolve().parent / "prompts.json"


def load_base(model_dir):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="eager", local_files_only=True)


def read_prompts(path=PROMPTS):
    """A list of {"ids": [...]}, with "last_logits" where the file holds them."""
    return json.loads(Path(path).read_text())["prompts"]


@torch.no_grad()
def last_logits(model, prompts):
    """One (vocab,) tensor a prompt: the logits that choose the next token."""
    model.eval()
    return [model(torch.tensor([prompt["ids"]])).logits[0, -1] for prompt in prompts]


def write_logits(path, prompts, logits):
    rows = [{"ids": p["ids"], "last_logits": row.tolist()} for p, row in zip(prompts, logits, strict=True)]
    Path(path).write_text(json.dumps({"prompts": rows}))
