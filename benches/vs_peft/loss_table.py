"""Writes lorakit's and PEFT's loss of each step side by side; fails when one differs by more than 1e-3 of it (bf16: 2e-2).

    python benches/vs_peft/loss_table.py EVENTS.jsonl LOSSES.json OUT.md f32|bf16
"""
import importlib.metadata
import json
import sys
from pathlib import Path

events, losses, out, compute = sys.argv[1:]
TOLERANCE = {"f32": 1e-3, "bf16": 2e-2}[compute]
ours = [e for e in map(json.loads, Path(events).read_text().splitlines()) if e["event"] == "step"]
peft = json.loads(Path(losses).read_text())
versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft"))
rows, worst = [], 0.0
for step, loss, norm in zip(ours, peft["losses"], peft["grad_norms"], strict=True):
    relative = abs(step["loss"] - loss) / loss
    worst = max(worst, relative)
    rows.append(f"| {step['step']} | {step['lr']:.3e} | {step['loss']:.6f} | {loss:.6f} | {relative:.1e} "
                f"| {step['grad_norm']:.4f} | {norm:.4f} |")
text = f"""# Loss by step, lorakit and PEFT

Made by `benches/vs_peft/loss_trace.sh`: thirty steps of the quickstart's recipe, PEFT in f32 and lorakit in {compute}, the same rows in the same order,
the same initial A and B, AdamW with gradients clipped to norm 1 ({versions}). Losses are means over trained tokens in nats, before the step.

Largest relative difference of a loss: **{worst:.1e}** (allowed: {TOLERANCE:.0e}).

| step | learning rate | lorakit | PEFT | relative difference | gradient norm, lorakit | PEFT |
|---|---|---|---|---|---|---|
""" + "\n".join(rows) + "\n"
Path(out).write_text(text)
print(f"largest relative difference of a loss over {len(rows)} steps: {worst:.2e}")
sys.exit(not worst <= TOLERANCE)
