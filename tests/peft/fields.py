"""Sets every field of PEFT's LoraConfig to something that is not its default, and compares the logits of PEFT and lorakit.

    python tests/peft/fields.py --model HFDIR --lorakit PATH [--tolerance 1e-4] [--keep DIR]

HFDIR is a tiny llama. Each case is an adapter with random matrices that PEFT saved and loads again; where PEFT cannot make
one here (another library, statistics of data), the field is written into a plain adapter's adapter_config.json. Right is:
the same logits, or exit code 2 with the field's name. A field of LoraConfig without a case fails.
"""
import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import config as lora

from reference import last_logits, load_base, write_logits

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--lorakit", default="lorakit")
parser.add_argument("--tolerance", type=float, default=1e-4)
parser.add_argument("--keep", type=Path, help="folder for the adapters; else a temporary one")
args = parser.parse_args()
warnings.simplefilter("ignore")

PROMPTS = [{"ids": [5, 9, 31, 70, 2]}, {"ids": [100, 7, 7, 63, 201, 11, 90]}]
PLAIN = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
# Field → values; a dict of more fields where one needs another.
CASES = {
    "task_type": ["SEQ_2_SEQ_LM", None, "FEATURE_EXTRACTION"],
    "peft_type": ["LOHA"],
    "auto_mapping": [{"base_model_class": "LlamaForCausalLM", "parent_library": "transformers"}],
    "peft_version": ["0.30.0"],
    "base_model_name_or_path": ["someone/else"],
    "revision": ["abc"],
    "inference_mode": [True],
    "r": [1, 16],
    "target_modules": [
        "all-linear", r".*\.(q|v)_proj", r"^(model)(?!.*(lm_head|emb)).*\.(q_proj|down_proj)$", ["q_proj", "absent"],
        ["lm_head", "q_proj"], ["lm_head"], ["embed_tokens", "q_proj"], ["model.layers.0.self_attn.q_proj"],
    ],
    "exclude_modules": [[], ["v_proj"], ["vision_tower"], r".*layers\.0.*", r"(?!.*q_proj).*"],
    "lora_alpha": [3, 11.3137],
    "lora_dropout": [0.3],
    "fan_in_fan_out": [True],
    "bias": ["all", "lora_only"],
    "use_rslora": [True, {"rank_pattern": {"q_proj": 9}}],
    "modules_to_save": [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"], ["lm_head", "lm_head"], []],
    "init_lora_weights": [
        False, "gaussian", "eva", "orthogonal", "mica", "pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga",
    ],
    "layers_to_transform": [[1], 0, [], [0, 99]],
    "layers_pattern": ["layers", ["h", "layers"], "model.layers", []],
    "rank_pattern": [{"q_proj": 2}, {"absent": 3}, {r"layers\.1\..*": 7, "v_proj": 2}, {"q_proj|v_proj": 5}],
    "alpha_pattern": [{"q_proj": 2}, {"absent": 3}, {r".*\.1\.(?!mlp).*": 7, "v_proj": 2.5}],
    "megatron_config": [{"hidden_size": 4}],
    "megatron_core": ["other.core"],
    "trainable_token_indices": [[1, 2], {"embed_tokens": [3]}],
    "loftq_config": [{"loftq_bits": 4}],
    "eva_config": [lora.EvaConfig(rho=1.5)],
    "corda_config": [lora.CordaConfig(corda_method="kpm")],
    "lora_ga_config": [lora.LoraGAConfig()],
    "use_dora": [True],
    "velora_config": [lora.VeloraConfig()],
    "alora_invocation_tokens": [[7, 63]],
    "use_qalora": [True],
    "qalora_group_size": [8],
    "monteclora_config": [lora.MontecloraConfig()],
    "layer_replication": [[[0, 1], [0, 2]]],
    "runtime_config": [lora.LoraRuntimeConfig(ephemeral_gpu_offload=True)],
    "lora_bias": [True],
    "target_parameters": [["mlp.gate_proj.weight"]],
    "use_bdlora": [lora.BdLoraConfig(target_modules_bd_b=["q_proj", "v_proj"], nblocks=2)],
    "arrow_config": [lora.ArrowConfig()],
    "kasa_config": [lora.KasaConfig()],
    "ensure_weight_tying": [True],
}
NEEDS = {
    "layers_pattern": {"layers_to_transform": [1]},
    "ensure_weight_tying": {"modules_to_save": ["embed_tokens"]},
    "eva_config": {},
    "use_qalora": {"qalora_group_size": 8},
}


def fill(model):
    """Random values in everything that is trained, so that each matrix shows in the logits."""
    generator = torch.Generator().manual_seed(1)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = parameter.data + noise.to(parameter.dtype) * 0.1


def plain_json(value):
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


def make(out, fields):
    """Saves with PEFT and gives the logits of what PEFT loads again."""
    torch.manual_seed(0)
    model = get_peft_model(load_base(args.model), LoraConfig(**(PLAIN | fields)))
    fill(model)
    model.save_pretrained(out)
    return last_logits(PeftModel.from_pretrained(load_base(args.model), out), PROMPTS)


def edit(out, fields, plain):
    """A plain adapter whose file says `fields`."""
    logits = make(out, {})
    path = out / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {k: plain_json(v) for k, v in fields.items()}))
    return logits


def case(out, field, value):
    fields = NEEDS.get(field, {}) | ({field: True} | value if field == "use_rslora" and isinstance(value, dict) else {field: value})
    how = "PEFT"
    if field in ("peft_type", "peft_version", "inference_mode", "base_model_name_or_path", "auto_mapping"):
        expected, how = edit(out, fields, PLAIN), "edited"
    else:
        try:
            expected = make(out, fields)
        except Exception:  # PEFT itself cannot make it on this machine
            expected, how = edit(out, fields, PLAIN), "edited"
    answer = out / "ours.json"
    command = [args.lorakit, "compare", "logits", "--model", args.model, "--adapter", out, "--prompts", out.parent / "prompts.json"]
    done = subprocess.run([*command, "--out", answer], capture_output=True, text=True)
    if done.returncode == 2:
        line = next((line for line in done.stderr.splitlines() if line.startswith("error")), "")
        return how, f"refused: {line[7:]}"[:150], field in done.stderr
    if done.returncode:
        return how, f"exit code {done.returncode}: {done.stderr[-100:]}", False
    ours = [torch.tensor(p["last_logits"]) for p in json.loads(answer.read_text())["prompts"]]
    off = max((a - b).abs().max().item() for a, b in zip(expected, ours, strict=True))
    moved = max((a - b).abs().max().item() for a, b in zip(expected, BEFORE, strict=True))
    return how, f"off by {off:.1e}, the adapter moves a logit by {moved:.2f}", off <= args.tolerance and moved > 100 * args.tolerance


BEFORE = last_logits(load_base(args.model), PROMPTS)
root = args.keep or Path(tempfile.mkdtemp())
root.mkdir(parents=True, exist_ok=True)
write_logits(root / "prompts.json", PROMPTS, BEFORE)
names = [field.name for field in dataclasses.fields(LoraConfig)]
passed = failed = 0
for missing in [name for name in names if name not in CASES]:
    print(f"FAILED  {missing}: no case")
    failed += 1
for field, values in CASES.items():
    for number, value in enumerate(values):
        how, said, right = case(root / f"{field}-{number}", field, value)
        passed, failed = passed + right, failed + (not right)
        print(f"{'ok    ' if right else 'FAILED'}  {field} = {str(plain_json(value))[:50]} ({how}): {said}", flush=True)
print(f"{passed} passed, {failed} failed")
sys.exit(bool(failed))
