"""Changes one key of config.json at a time and compares logits with transformers.

    python tests/peft/config_keys.py --lorakit target/release/lorakit [--only llama] [--show]

Tiny llama, qwen2 and gpt2 models are made here. Each case has one key changed, added or left out. It passes when lorakit computes
what transformers computes (largest difference of a logit under 1e-4 of f32), or refuses naming that key; where transformers
refuses, anything but a crash passes. Two changed weights must be seen as different, or the comparison proves nothing.
Prints "N passed, N failed".
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config
from transformers.utils import logging

from reference import last_logits, load_base

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)
parser = argparse.ArgumentParser()
parser.add_argument("--lorakit", required=True)
parser.add_argument("--only", help="one family")
parser.add_argument("--show", action="store_true", help="every case with its outcome")
args = parser.parse_args()

GONE = "__gone__"
TOLERANCE = 1e-4
PROMPTS = {"prompts": [{"ids": [3, 17, 40, 5, 9, 22, 31, 8, 4, 60, 2, 33]}, {"ids": [7] * 3 + list(range(10, 40))}]}
ROTARY = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=128, tie_word_embeddings=False, rms_norm_eps=1e-5, initializer_range=0.3,
              bos_token_id=1, eos_token_id=2, pad_token_id=0)
BASES = {
    "llama": LlamaConfig(**ROTARY, head_dim=8),
    "qwen2": Qwen2Config(**{**ROTARY, "rms_norm_eps": 1e-6}),
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3,
                       resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2),
}
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)

# Keys for all families: (key, values).
COMMON = [
    ("transformers_version", ["4.0.0", GONE]), ("architectures", [[], GONE]), ("dtype", ["bfloat16", "float16", GONE]),
    ("torch_dtype", ["float16"]), ("use_cache", [False, True, GONE]), ("return_dict", [True]), ("output_hidden_states", [True]),
    ("chunk_size_feed_forward", [0, 4]), ("is_encoder_decoder", [False, True]), ("id2label", [{"0": "a"}]), ("problem_type", [None]),
    ("initializer_range", [0.5, GONE]), ("bos_token_id", [5, None, GONE]), ("eos_token_id", [5, [3, 4], GONE]),
    ("pad_token_id", [5, None, GONE]), ("tie_word_embeddings", [True, False, GONE]), ("vocab_size", [63, 65, GONE]),
    ("final_logit_softcapping", [None, 1.0]), ("attn_logit_softcapping", [None, 1.0]), ("attention_multiplier", [None, 0.5]),
    ("logit_scale", [1.0, 0.5]), ("logits_scaling", [1.0, 2.0]), ("embedding_multiplier", [1.0, 2.0]), ("residual_multiplier", [0.5]),
    ("rope_local_base_freq", [100.0]), ("partial_rotary_factor", [1.0, 0.5, None]), ("rotary_pct", [0.25]), ("use_qk_norm", [True]),
    ("quantization_config", [None]), ("layer_types", [None, ["full_attention"] * 2, ["full_attention"], ["full_attention", "sliding_attention"]]),
    ("sliding_window", [None, 4, 128, 4096]), ("use_sliding_window", [True, False]), ("max_window_layers", [0, 1]),
    ("attention_bias", [True, False]), ("mlp_bias", [True, False]), ("query_pre_attn_scalar", [4]), ("num_local_experts", [4]),
    ("unheard_of", [1, "x", {"a": 1}]), ("per_layer_config", [{}, None]), ("pruned_heads", [{}, {"0": [1]}]),
    ("rms_norm_eps", [0.1, 0.0, 1, GONE]), ("layer_norm_epsilon", [0.1, GONE]), ("norm_eps", [0.1]), ("layer_norm_eps", [0.1]),
    ("hidden_act", ["gelu", "gelu_new", "swish", "relu", "nonsense", GONE]),
    ("activation_function", ["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python", "gelu_accurate", "gelu_10", "quick_gelu",
                             "relu", "relu2", "silu", "tanh", "linear", "nonsense", GONE]),
    ("scale_attn_weights", [False, True, GONE]), ("scale_attn_by_inverse_layer_idx", [True, False, GONE]),
    ("reorder_and_upcast_attn", [True, False, GONE]), ("add_cross_attention", [False, True, GONE]), ("attention_dropout", [0.5]),
    ("attn_pdrop", [0.5, GONE]), ("resid_pdrop", [0.5, GONE]), ("embd_pdrop", [0.5, GONE]), ("summary_type", ["mean"]),
    ("pretraining_tp", [1, 2]), ("head_dim", [8, 16, 4, None, GONE]), ("num_key_value_heads", [2, 1, 4, None, GONE]),
    ("num_attention_heads", [4, 2, 8, 3, GONE]), ("n_head", [4, 2, 8, 3, GONE]), ("n_embd", [32, 16, GONE]), ("hidden_size", [32, 16, GONE]),
    ("n_layer", [1, 2, 3, GONE]), ("num_hidden_layers", [1, 2, 3, GONE]), ("n_inner", [None, 128, 64, GONE]),
    ("intermediate_size", [48, 64, None, GONE]), ("n_positions", [128, 64, GONE]), ("max_position_embeddings", [128, 64, 256, GONE]),
    ("rope_theta", [100.0, 10000.0]), ("rope_scaling", [None, {}, {"type": "linear", "factor": 2.0}]),
]
# For the rotary families.
ROPE = [
    ("rope_parameters", [
        None, {}, GONE, {"rope_theta": 100.0}, {"rope_type": "default", "rope_theta": 100.0}, {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}, {"rope_type": "linear"}, {"type": "linear", "factor": 4},
        {"rope_type": "linear", "factor": 0.5}, {"rope_type": "default", "type": "linear", "factor": 2.0}, {**LLAMA3, "rope_theta": 100.0},
        LLAMA3, {k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"}, {**LLAMA3, "factor": 2},
        {"rope_type": "yarn", "factor": 2.0, "rope_theta": 100.0}, {"rope_type": "dynamic", "factor": 2.0}, {"rope_type": "nonsense"},
        {"rope_type": "default", "partial_rotary_factor": 0.5}, {"rope_type": "default", "factor": 3.0}, {"rope_theta": 100.0, "unheard_of": 1},
        {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 64},
        {"full_attention": {"rope_type": "linear", "factor": 2.0}}, {"rope_theta": None}, {"rope_type": None},
    ]),
    ("rope_scaling", [
        {"type": "linear", "factor": 3.0}, {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}, LLAMA3, {"type": "dynamic", "factor": 2.0},
        {"rope_type": "default"}, {"type": "yarn", "factor": 2.0}, {"rope_theta": 10000.0}, {"rope_theta": 100.0}, {"type": "mrope", "mrope_section": [1, 1, 2]},
    ]),
    ("original_max_position_embeddings", [16, 64]),
]


def cases(family):
    """(key, value, further changes), one a case."""
    for key, values in COMMON + (ROPE if family != "gpt2" else []):
        for value in values:
            yield key, value, {}
    if family == "gpt2":
        return
    gone = {"rope_parameters": GONE}
    for table in ({"type": "linear", "factor": 2.0}, LLAMA3, {"rope_type": "default"}, {"type": "dynamic", "factor": 2.0}):
        yield "rope_scaling", table, gone
        yield "rope_scaling", table, {**gone, "rope_theta": 100.0}
        yield "rope_scaling", table, {"rope_parameters": {"rope_theta": 100.0, "rope_type": "default"}}
    yield "rope_theta", 100.0, gone
    yield "rope_theta", None, gone
    yield "original_max_position_embeddings", 16, {"rope_parameters": LLAMA3}
    yield "original_max_position_embeddings", 16, {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}
    for more in ({"max_window_layers": 1}, {"max_window_layers": 2}, {"sliding_window": None}, {"sliding_window": 128, "max_window_layers": 0},
                 {"sliding_window": GONE, "max_window_layers": 0}, {"layer_types": ["full_attention"] * 2}, {"max_window_layers": GONE}):
        yield "use_sliding_window", True, {"layer_types": GONE, "sliding_window": 4, **more}


def changed(config, changes):
    config = dict(config)
    for key, value in changes.items():
        config.pop(key, None)
        if value != GONE:
            config[key] = value
    return config


def theirs(directory):
    try:
        return last_logits(load_base(directory), PROMPTS["prompts"]), ""
    except Exception as error:  # Whatever transformers says: it does not compute this config.
        return None, f"{type(error).__name__}: {str(error)[:120]}"


def ours(directory, prompts):
    out = directory / "out.json"
    out.unlink(missing_ok=True)
    run = subprocess.run([args.lorakit, "compare", "logits", "--model", directory, "--prompts", prompts, "--out", out,
                          "--threads", "1"],
                         capture_output=True, text=True)
    if run.returncode == 0:
        return [torch.tensor(p["last_logits"]) for p in json.loads(out.read_text())["prompts"]], ""
    said = [line for line in run.stderr.splitlines() if not line.startswith("base: ")]
    return None, f"exit {run.returncode}: {' '.join(said)}"


def difference(a, b):
    return max((x - y).abs().max().item() if x.shape == y.shape else float("inf") for x, y in zip(a, b, strict=True))


def judge(directory, prompts, keys):
    (want, why), (got, refusal) = theirs(directory), ours(directory, prompts)
    if want is not None and not all(torch.isfinite(w).all() for w in want):
        want, why = None, "transformers computes no numbers"
    if got is not None and want is not None:
        diff = difference(want, got)
        return diff <= TOLERANCE, f"computed, differs by {diff:.1e}"
    if got is not None:
        return True, f"only lorakit computes it ({why})"
    if not refusal.startswith("exit 2:"):
        return False, refusal
    named = any(key in refusal for key in keys) or want is None
    return named, f"{'both refuse' if want is None else 'refused'}: {refusal}"


def tally(outcomes, text):
    kind = text.split(",")[0].split(" (")[0].split(":")[0]
    outcomes[kind] = outcomes.get(kind, 0) + 1


def weights(family, directory):
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(BASES[family])
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    model.save_pretrained(directory)
    Tokenizer(models.WordLevel({f"t{i}": i for i in range(64)}, unk_token="t0")).save(str(directory / "tokenizer.json"))
    return json.loads((directory / "config.json").read_text())


passed = failed = 0
outcomes = {}
for family in [f for f in BASES if args.only in (None, f)]:
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        base = weights(family, directory)
        prompts = directory / "prompts.json"
        prompts.write_text(json.dumps(PROMPTS))
        plain = theirs(directory)[0]
        # The control: a model that is another one must be seen.
        (directory / "config.json").write_text(json.dumps(changed(base, {"rms_norm_eps": 0.5, "layer_norm_epsilon": 0.5})))
        assert difference(plain, ours(directory, prompts)[0]) > 1e-2, "the comparison sees nothing"
        for key, value, more in cases(family):
            (directory / "config.json").write_text(json.dumps(changed(base, {**more, key: value})))
            ok, text = judge(directory, prompts, [key, *more, "tensor `"])
            passed, failed = passed + ok, failed + (not ok)
            tally(outcomes, text)
            if args.show or not ok:
                print(f"{'ok' if ok else 'FAILED'} {family} {key} = {json.dumps(value)} {json.dumps(more) if more else ''}: {text}", flush=True)
for kind, count in sorted(outcomes.items()):
    print(f"{count:5} {kind}")
print(f"{passed} passed, {failed} failed")
sys.exit(bool(failed))
