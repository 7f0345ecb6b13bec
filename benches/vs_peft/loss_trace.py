"""The loss of each training step in PEFT, from the same batches and the same initial A and B as lorakit.

    python benches/vs_peft/loss_trace.py --model HFDIR --init ADAPTER_DIR --batches BATCHES.json --out LOSSES.json [--device cuda]

BATCHES.json: {"lrs": [...], "batches": [{"input_ids": [[...]], "labels": [[...]], "attention_mask": [[...]]}]}; rows of a
batch are right-padded to one length, label -100 carries no loss, "attention_mask" may be left out when nothing is
padded. Step i takes lrs[i] and batches[i % len(batches)]. LOSSES.json: {"losses": [...], "grad_norms": [...]}, each loss
taken before its step's update and each norm before clipping.
"""
import argparse
import json
import time
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def summed_loss(model, batch):
    """Cross-entropy summed over the counted labels, and their number; label t is predicted at position t - 1."""
    tensor = lambda rows: torch.tensor(rows, device=model.device)
    ids, labels = tensor(batch["input_ids"]), tensor(batch["labels"])[:, 1:]
    mask = tensor(batch["attention_mask"]) if "attention_mask" in batch else torch.ones_like(ids)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    total = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    return total, (labels != -100).sum()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="Hugging Face directory of the base, loaded in f32")
    parser.add_argument("--init", required=True, help="adapter directory in PEFT's format: the A and B at step 0")
    parser.add_argument("--batches", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    data = json.loads(args.batches.read_text())
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, local_files_only=True).to(args.device)
    base.config.use_cache = False
    # from_pretrained leaves the model in eval mode, so the adapter's dropout stays off.
    model = PeftModel.from_pretrained(base, args.init, is_trainable=True)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)

    losses, norms, started = [], [], time.perf_counter()
    for step, lr in enumerate(data["lrs"]):
        total, count = summed_loss(model, data["batches"][step % len(data["batches"])])
        loss = total / count
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(params, 1.0).item())
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        print(f"step {step} lr {lr:.3e} loss {losses[-1]:.6f} norm {norms[-1]:.4f} {time.perf_counter() - started:.1f} s", flush=True)
    args.out.write_text(json.dumps({"losses": losses, "grad_norms": norms}))


if __name__ == "__main__":
    main()
