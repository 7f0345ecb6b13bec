#!/usr/bin/env python3
"""Losses of several passes' log-probabilities, by PyTorch and PEFT over the golden models and adapters beside this: the policy is one
adapter, the reference the base (`dpo`: Rafailov et al. 2023, equation 7) or another adapter, which learns too (`both`)."""
import os
import torch, torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")
out = os.environ.get("GOLDEN_OUT", here)
BETA = 0.3

def model(name, variant=None, learns=True):
    base = AutoModelForCausalLM.from_pretrained(f"{here}/models/{name}", dtype=torch.float32, attn_implementation="eager")
    if variant is None:
        return base.eval()
    return PeftModel.from_pretrained(base, f"{here}/adapters/{name}/{variant}", is_trainable=learns).eval()

def logps(m, rows, prompts):
    """Sum over the answer's tokens, a row; each row alone, without padding."""
    sums = []
    for ids, n in zip(rows, prompts):
        lp = F.log_softmax(m(input_ids=torch.tensor([ids])).logits[0, :-1], -1)
        sums.append(lp.gather(1, torch.tensor(ids[1:])[:, None])[n - 1:, 0].sum())
    return torch.stack(sums)

def grads(m):
    return {n.replace(".default", ""): q.grad.clone() for n, q in m.named_parameters() if q.requires_grad}

for name in ["llama", "gpt2"]:
    g = torch.Generator().manual_seed(11)
    # Pairs: the same prompt, a chosen and a rejected answer; of many lengths.
    rows, prompts = [], []
    for p, c, r in [(5, 9, 4), (12, 3, 17), (2, 20, 20), (30, 1, 8)]:
        prompt = torch.randint(0, 320, (p,), generator=g).tolist()
        for n in (c, r):
            rows.append(prompt + torch.randint(0, 320, (n,), generator=g).tolist()); prompts.append(p)
    policy, other, base = model(name, "plain"), model(name, "all_linear"), model(name)
    with torch.no_grad():
        ref = logps(base, rows, prompts)
    pi = logps(policy, rows, prompts)
    d = pi - ref
    dpo = -F.logsigmoid(BETA * (d[0::2] - d[1::2])).mean()
    dpo.backward()
    e = {"dpo.loss": dpo.detach().reshape(1), "logps.policy": pi.detach(), "logps.base": ref}
    e |= {"dpo.grad." + n: v for n, v in grads(policy).items()}
    policy.zero_grad()
    pi, mu = logps(policy, rows, prompts), logps(other, rows, prompts)
    d = pi - mu
    both = -F.logsigmoid(BETA * (d[0::2] - d[1::2])).mean() + 0.01 * (mu ** 2).mean()
    both.backward()
    e |= {"both.loss": both.detach().reshape(1)}
    e |= {"both.policy." + n: v for n, v in grads(policy).items()}
    e |= {"both.other." + n: v for n, v in grads(other).items()}
    e["ids"] = torch.tensor(sum(rows, []), dtype=torch.int32)
    e["lengths"] = torch.tensor([len(r) for r in rows], dtype=torch.int32)
    e["prompts"] = torch.tensor(prompts, dtype=torch.int32)
    os.makedirs(f"{out}/losses", exist_ok=True)
    save_file({k: v.contiguous() for k, v in e.items()}, f"{out}/losses/{name}.safetensors")
    print(name, dpo.item(), both.item(), len(e))
