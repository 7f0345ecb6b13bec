"""Trains adapters on the parameters of all experts with lorakit and compares their logits with PEFT's under transformers 5.

    python tests/peft/target_parameters.py --lorakit target/release/lorakit

The bases are the tiny mixtral, qwen3_moe, gpt_oss and gemma4_text with experts of tests/data/golden. PEFT must use every tensor, the two must agree to 1e-4 of a logit, and
the same adapter with its experts in the other order must be seen as another one, or the comparison proves nothing.
"""
import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.utils import logging

from reference import last_logits, load_base

logging.set_verbosity_error()
logging.disable_progress_bar()
parser = argparse.ArgumentParser()
parser.add_argument("--lorakit", required=True, type=Path)
args = parser.parse_args()
LORAKIT = args.lorakit.resolve()
GOLDEN = Path(__file__).resolve().parents[1] / "data/golden/families"
TOLERANCE = 1e-4
PROMPTS = [{"ids": [3, 17, 14, 5, 9, 22, 21, 8, 4, 20, 2, 13]}, {"ids": [7] * 3 + list(range(10, 22))}, {"ids": list(range(3, 23))}]
EXPERTS = '["experts.gate_up_proj", "experts.down_proj"]'
CASES = {
    "experts alone": f"target_parameters = {EXPERTS}",
    "with attention": f'target_parameters = {EXPERTS}\ntargets = ["q_proj", "v_proj"]',
    "down alone": 'target_parameters = ["mlp.experts.down_proj"]\ntargets = ["o_proj"]',
    "gate and up alone": 'target_parameters = ["gate_up_proj"]',
    "with the router": 'target_parameters = ["gate_up_proj", "down_proj", "gate.weight"]',
    "router alone": 'target_parameters = ["mlp.gate.weight"]',
    "beside all linear layers": f'target_parameters = {EXPERTS}\ntargets = "all-linear"',
    "one layer": 'target_parameters = ["layers.2.mlp.experts.gate_up_proj", "layers.0.mlp.experts.down_proj"]',
    "rslora and patterns": f'target_parameters = {EXPERTS}\nmethod = "rslora"\nrank_pattern = {{ "gate_up_proj" = 5 }}\n'
                           'alpha_pattern = { "layers.0.mlp.experts.down_proj" = 3 }',
}
# By base, what `mlp.experts` and `gate.weight` above are called in it.
NAMES = {"mixtral": ("mlp.experts", "gate.weight"), "qwen3_moe": ("mlp.experts", "gate.weight"), "gpt_oss": ("mlp.experts", "router.weight"),
         "gemma4_text-moe": ("experts", "proj.weight")}
# Its dense layer has modules whose names PEFT takes for the experts'.
DENSE = ("qwen3_moe", "beside all linear layers")
# What PEFT makes of pairs at single experts is told, not judged: (label, targets by the place of their names, more of [adapter]).
ALL = [("", 0), ("", 1), ("", 2)]
SINGLE = [("plain", ALL, ""), ("down alone", ALL[2:], ""), ("rslora", ALL, 'method = "rslora"'), ("dropout", ALL, "dropout = 0.1"),
          ("one expert", [("experts.0.", 0), ("experts.0.", 1)], "")]
warnings.filterwarnings("error", message=".*missing adapter keys.*")


def run(*command):
    done = subprocess.run([LORAKIT, *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def ours(base, adapter, out):
    prompts = out.with_suffix(".prompts.json")
    prompts.write_text(json.dumps({"prompts": PROMPTS}))
    run("compare", "logits", "--model", base, "--adapter", adapter, "--prompts", prompts, "--out", out, "--threads", 1)
    return [torch.tensor(p["last_logits"]) for p in json.loads(out.read_text())["prompts"]]


def transformers(base):
    model = load_base(base)
    model.config._experts_implementation = "eager"      # the grouped product of torch takes no odd widths
    return model


def theirs(base, adapter):
    model = PeftModel.from_pretrained(transformers(base), adapter)
    used = {name.replace(".default", "") for name, _ in model.named_parameters()}
    unused = set(load_file(adapter / "adapter_model.safetensors")) - used
    assert not unused, f"PEFT leaves out {sorted(unused)}"
    return last_logits(model, PROMPTS)


def difference(a, b):
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


def folder(name, to):
    """The golden base with a tokenizer of a word a token, and rows to train on."""
    base = to / name
    base.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name / file, base / file)
    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(24)}, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(base / "tokenizer.json"))
    words = [" ".join(f"t{(7 * row + 3 * i + i * i) % 21 + 3}" for i in range(20)) for row in range(16)]
    (base / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in words))
    return base


def trained(base, adapter, out):
    recipe = out.with_suffix(".toml")
    recipe.write_text(
        f'[base]\nmodel = "{base}"\n[adapter]\nrank = 2\nalpha = 8\n{adapter}\n[data]\ntrain = "rows.jsonl"\nheldout_fraction = 0.2\n'
        "[train]\nsteps = 12\nlr = 0.05\nwarmup = 0\nbatch_size = 4\nmax_length = 48\neval_every = 0\n[eval]\nmax_new_tokens = 2\n")
    run("train", recipe, "--out", out)


def theirs_of_single(base, adapter, got):
    try:
        return f"off by {difference(last_logits(PeftModel.from_pretrained(transformers(base), adapter), PROMPTS), got):.1e}"
    except (ValueError, UserWarning, RuntimeError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:100]


def reordered(adapter, to):
    """The adapter with the experts of B in the order of A's: what a reader with the wrong order would take."""
    shutil.copytree(adapter, to)
    file = to / "adapter_model.safetensors"
    tensors, rank = load_file(file), json.loads((to / "adapter_config.json").read_text())["r"]
    for key, t in tensors.items():
        if ".experts." in key and ".lora_B." in key:
            tensors[key] = t.reshape(t.shape[0], rank, -1).transpose(1, 2).reshape(t.shape).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    return to


def main():
    failures = []
    with tempfile.TemporaryDirectory() as directory:
        for name, (experts, router) in NAMES.items():
            base = folder(name, Path(directory))
            plain = last_logits(transformers(base), PROMPTS)
            for number, (label, adapter) in enumerate(CASES.items()):
                out = base / f"run{number}"
                names = {"mlp.experts": experts, "mlp.gate.weight": router, '"gate.weight': f'"{router}'}
                for ours_is, theirs_is in names.items():
                    adapter = adapter.replace(ours_is, theirs_is)
                trained(base, adapter, out)
                if (name, label) == DENSE:
                    print(f"told {name}, {label}: {theirs_of_single(base, out, ours(base, out, base / 'dense.json'))}", flush=True)
                    continue
                want, got = theirs(base, out), ours(base, out, base / f"{number}.json")
                off, moved = difference(want, got), difference(want, plain)
                text = f"{name}, {label}: off by {off:.1e}, the adapter moves a logit by up to {moved:.2f}"
                ok = off < TOLERANCE and moved > 1e-2
                if label == "experts alone":
                    control = difference(theirs(base, reordered(out, base / "reordered")), got)
                    ok = ok and control > 1e-3
                    text += f", experts in the other order {control:.2f}"
                print("ok" if ok else "FAILED", text, flush=True)
                failures += [] if ok else [text]
            for number, (label, targets, more) in enumerate(SINGLE if name in ("mixtral", "qwen3_moe") else []):
                out = base / f"single{number}"
                matrices = ["w1", "w3", "w2"] if name == "mixtral" else ["gate_proj", "up_proj", "down_proj"]
                trained(base, f"targets = {json.dumps([prefix + matrices[i] for prefix, i in targets])}\n{more}", out)
                got = ours(base, out, base / "single.json")
                print(f"told {name}, pairs at single experts, {label}: {theirs_of_single(base, out, got)}", flush=True)
    print(f"{len(NAMES) * len(CASES) - 1 - len(failures)} passed, {len(failures)} failed")
    sys.exit(bool(failures))


main()
