#!/usr/bin/env python3
"""One key of a `config.json` changed at a time: computed as transformers does, or refused by name.

Of each tiny model of `tests/data/scripts/families.py` (the families of `lorakit inspect`), in the spelling of transformers 5 and in
that of version 4, every change of `changes` is made alone.  Weights are made from the changed configuration (`base weights`: from the
unchanged one), both programs read the same files, and `lorakit conform` compares logits, loss, padded rows and a continuation.

    tests/families/one_key.py --lorakit target/release/lorakit [--names llama-bias qwen3] [--keys sliding_window] [--every 3] [--log FILE]

Exit status 1 if anything was computed differently, or refused without naming the key.
"""
import argparse, collections, copy, re, subprocess, sys, tempfile, warnings
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data/scripts"))
from tiny import *
import families, gen_families, gen_models
from families import Case, rope, shape, yarn, layers
warnings.filterwarnings("ignore")
tf.utils.logging.set_verbosity_error(); tf.utils.logging.disable_progress_bar()

GPT2 = dict(vocab_size=families.VOCAB, n_positions=64, n_embd=18, n_layer=3, n_head=3, n_inner=10, bos_token_id=1, eos_token_id=2, pad_token_id=0)
MORE = {
    "llama-short": Case(tf.LlamaConfig, dict(shape(16, 4, 2, 10, longest=16, head_dim=6, rms_norm_eps=0.02), **rope(50.0))),
    "llama-llama3": Case(tf.LlamaConfig, dict(shape(24, 4, 1, 10, rms_norm_eps=0.02), **rope(
        70.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16))),
    "qwen2-plain": Case(tf.Qwen2Config, dict(shape(24, 4, 2, 10, tie=True, rms_norm_eps=0.02), **rope(50.0))),
    "gemma2": Case(tf.Gemma2Config, dict(shape(16, 4, 1, 10, 4, tie=True, head_dim=10, attention_bias=True, rms_norm_eps=0.02, query_pre_attn_scalar=5,
                   sliding_window=5, attn_logit_softcapping=2.0, final_logit_softcapping=1.5), **rope(60.0)), zero_centred=True, embedding=0.06),
    "gpt2": Case(tf.GPT2Config, dict(GPT2, layer_norm_epsilon=0.02, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)),
}
CASES = families.CASES | MORE

REMOVED = "(removed)"
Change = collections.namedtuple("Change", "spelling path value base_weights", defaults=(False,))


# ---------------------------------------------------------------------------------------------------------------- what is changed

def pairs(j):
    """Pairs of elements of a head that turn."""
    table = j.get("rope_parameters") or {}
    table = table.get("full_attention", table)
    part = table.get("partial_rotary_factor", j.get("partial_rotary_factor", j.get("rotary_pct"))) or 1.0
    return int((j.get("head_dim") or j["hidden_size"] // j["num_attention_heads"]) * part) // 2


def tables(j, key="rope_type"):
    """Tables of rotary scaling, of every kind; 24 tokens are more than some of the lengths before scaling."""
    n = pairs(j)
    short, long = [1.0 + 0.3 * i for i in range(n)], [1.5 + 1.1 * i for i in range(n)]
    original = {"original_max_position_embeddings": 8}
    yarn = {key: "yarn", "factor": 4.0, **original}
    freq = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, **original}
    return [
        {key: "default"}, {key: "linear", "factor": 3.0}, {key: "linear"}, {key: "linear", "factor": None}, {key: "linear", "factor": 0.5},
        {key: "dynamic", "factor": 2.0}, {key: "dynamic", "factor": 2.0, **original},
        {key: "llama3", "factor": 8.0, **freq}, {key: "llama3", "factor": 8.0, **original},
        yarn, {key: "yarn", "factor": 4.0}, {key: "yarn", **original}, {**yarn, "factor": None}, {**yarn, "attention_factor": 1.0}, {**yarn, "attention_factor": None},
        {**yarn, "beta_fast": 2.0, "beta_slow": 0.2}, {**yarn, "beta_fast": None}, {**yarn, "mscale": 1.0, "mscale_all_dim": 0.4}, {**yarn, "mscale": 0.7},
        {**yarn, "mscale": 0.7, "mscale_all_dim": 0.0}, {**yarn, "truncate": False, "beta_fast": 1.3, "beta_slow": 0.21}, {**yarn, "finetuned": True},
        {**yarn, "factor": 0.5}, {**yarn, "factor": 1.0},
        {key: "longrope", "short_factor": short, "long_factor": long, "original_max_position_embeddings": 40},
        {key: "longrope", "short_factor": short, "long_factor": long, **original},
        {key: "longrope", "short_factor": short, "long_factor": long, "factor": 4.0, "original_max_position_embeddings": 40},
        {key: "longrope", "short_factor": short, "long_factor": long, "attention_factor": 1.3, "original_max_position_embeddings": 40},
        {key: "longrope", "short_factor": short + [2.0], "long_factor": long, "original_max_position_embeddings": 40},
        {key: "su", "short_factor": short, "long_factor": long, "original_max_position_embeddings": 40},
        {key: "mrope", "mrope_section": [1, 1, 1]}, {key: "default", "mrope_section": [1, 1, 1]}, {key: "proportional"}, {key: "ntk", "alpha": 2.0},
        {key: "linear", "factor": 2.0, "alpha": 3.0}, {},
    ]


def both_types():
    return [{"type": "linear", "factor": 2.0}, {"type": "linear", "rope_type": "default", "factor": 2.0}, {"type": "default", "rope_type": "linear", "factor": 2.0},
            {"rope_type": None, "factor": 2.0}]


# Settings, with values of which those that a configuration has already are left out.  Most are keys of some other family.
VALUES = {
    "attention_bias": [True, False, None], "mlp_bias": [True, False, None], "use_bias": [True, False], "use_qkv_bias": [True, False], "qkv_bias": [True],
    "tie_word_embeddings": [True, False, None], "attention_dropout": [0.5], "hidden_dropout": [0.5], "use_cache": [False], "dtype": ["bfloat16"], "torch_dtype": ["float16"],
    "initializer_range": [0.5], "pretraining_tp": [2], "architectures": [["LlamaForSequenceClassification"]], "transformers_version": ["4.30.0"],
    "pad_token_id": [None, 3], "eos_token_id": [[2, 3], None], "bos_token_id": [None], "vocab_size": [31], "vocab_size:base": [31],
    "max_position_embeddings": [16, 4096, None], "num_hidden_layers": [2, 4], "num_hidden_layers:base": [2],
    "sliding_window": [3, 24, None, 0, -1, 1], "use_sliding_window": [True, False, None], "max_window_layers": [0, 1, 99, None], "sliding_window_pattern": [2, None],
    "attention_chunk_size": [8], "use_bidirectional_attention": [True, False], "is_causal": [False], "is_decoder": [True, False], "is_encoder_decoder": [True], "add_cross_attention": [True],
    "attn_logit_softcapping": [1.0, None], "final_logit_softcapping": [1.0, None, 0.0], "query_pre_attn_scalar": [3, 64, None],
    "embedding_multiplier": [2.0, 1.0, None], "residual_multiplier": [0.5, None], "logits_scaling": [2.0, 1.0, None], "attention_multiplier": [0.3, None], "logit_scale": [0.25, 1.0, None],
    "scale_emb": [12], "scale_depth": [1.4], "clip_qkv": [0.5, None], "use_qk_norm": [True, False], "use_qk_norm:base": [True, False], "qk_layernorm": [True, False], "qk_layernorm:base": [True, False],
    "use_parallel_residual": [True, False, None], "parallel_attn": [True], "alibi": [True], "partial_rotary_factor": [0.5, 1.0, None], "rotary_pct": [0.5], "rope_interleaved": [True],
    "rope_theta": [900.0, None, 0], "rotary_emb_base": [900], "rope_local_base_freq": [30.0], "original_max_position_embeddings": [8],
    "no_rope_layers": ["no_rope", None, []], "no_rope_layer_interval": [2], "mrope_section": [[1, 1, 1]],
    "num_experts": [3, 0], "num_local_experts": [3, 0], "num_experts_per_tok": [1, 3, 9], "norm_topk_prob": [False, True], "moe_intermediate_size": [4], "mlp_only_layers": [[0, 2], [], None],
    "decoder_sparse_step": [2, 0], "output_router_logits": [True], "router_aux_loss_coef": [0.5], "router_jitter_noise": [0.1], "n_routed_experts": [4], "n_shared_experts": [1],
    "some_new_scale": [2.0], "quantization_config": [{"quant_method": "bitsandbytes", "load_in_4bit": True}, None], "_name_or_path": ["x/y"], "auto_map": [{"AutoConfig": "x.y"}],
    "lm_head_bias": [False, True], "full_attn_mod": [1], "interpolate_factor": [1], "_sliding_window_pattern": [2], "attention_softmax_in_fp32": [True], "scale_attention_softmax_in_fp32": [True],
    "is_llama_config": [True], "rope_pct": [0.5], "norm_eps": [0.3], "use_mrope": [False, True], "cache_implementation": ["hybrid"], "attn_implementation": ["eager"], "embd_pdrop": [0.5], "tokenizer_class": ["X"], "temperature": [0.5],
    "norm_type": ["layer_norm"], "mlp_type": ["gated"], "head_dim": [4, 8, None, 5], "num_key_value_heads": ["heads", 1, 2, None], "num_key_value_heads:base": [1], "num_attention_heads": [2, 5],
    "hidden_size": [28], "intermediate_size": [12, None], "llama_4_scaling_beta": [0.3], "attn_temperature_tuning": [True], "kv_lora_rank": [4], "num_kv_shared_layers": [1],
    "attention_bias:base": [True, False], "mlp_bias:base": [True, False], "use_bias:base": [False], "use_qkv_bias:base": [True, False], "tie_word_embeddings:base": [True, False],
    "rms_norm_eps": [0.3, 1e-6, 1, 0, None], "layer_norm_eps": [0.3, 1e-6, None], "norm_epsilon": [0.3, None], "layer_norm_epsilon": [0.3, None],
    "n_positions": [32], "n_inner": [None, 12], "n_head": [2], "n_layer": [2], "activation_function": ["gelu", "relu", "silu", "tanh"], "scale_attn_weights": [False], "scale_attn_by_inverse_layer_idx": [True],
    "reorder_and_upcast_attn": [True], "n_ctx": [16], "resid_pdrop": [0.5], "model_type": ["no_such"],
    "layer_types": ["alternate", "full", "sliding", "chunked", "short", None],
    # Of encoders with decoders.
    "feed_forward_proj": ["gated-gelu", "gated-relu", "gelu", "gated-silu", "gated-gelu-new", None], "dense_act_fn": ["relu", "silu", "tanh"], "is_gated_act": [True, False],
    "is_gated_act:base": [True, False], "num_decoder_layers": [1, None, 0], "num_layers": [2], "num_heads": [2], "d_model": [20], "d_kv": [4, 5], "d_ff": [10], "d_ff:base": [10],
    "relative_attention_num_buckets": [4, 32, 2, 1, 9], "relative_attention_max_distance": [8, 64, 1, 2], "scale_decoder_outputs": [True, False], "decoder_start_token_id": [3, None, 99],
    "dropout_rate": [0.5], "classifier_dropout": [0.3], "initializer_factor": [2.0], "output_past": [True],
}
ACTIVATIONS = ["gelu", "relu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", "silu", "swish", "quick_gelu", "relu2", "tanh", "gelu_10", "laplace", "linear", None]
# Of keys that no class of a family has, values are tried of some families each: all are refused by the same rule.
COMMON = {"hidden_act", "hidden_activation", "attention_bias", "mlp_bias", "sliding_window", "layer_types", "partial_rotary_factor", "tie_word_embeddings", "head_dim", "num_key_value_heads",
          "quantization_config", "some_new_scale", "max_position_embeddings", "rope_theta", "norm_eps", "attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "use_sliding_window"}


def named(value, j):
    n, heads = j.get("num_hidden_layers", j.get("n_layer", j.get("num_layers"))), j.get("num_attention_heads", j.get("n_head", j.get("num_heads")))
    if value == "heads": return heads
    if value == "no_rope": return [i % 2 for i in range(n)]
    full, sliding = "full_attention", "sliding_attention"
    return {"alternate": [[full, sliding][i % 2] for i in range(n)], "full": [full] * n, "sliding": [sliding] * n, "short": [full] * (n - 1),
            "chunked": ["chunked_attention"] * n}.get(value, value) if isinstance(value, str) else value


def at(j, path):
    for part in path: j = j.get(part, REMOVED) if isinstance(j, dict) else REMOVED
    return j


def put(j, path, value):
    j = copy.deepcopy(j); table = j
    if not path: return j
    for part in path[:-1]: table = table[part]
    if value == REMOVED: table.pop(path[-1])
    else: table[path[-1]] = value
    return j


def changes(name, case, new, old):
    """All changes of a case; of those that mean nothing to its class, a choice that depends on its name alone."""
    fields = set(case.config.__dataclass_fields__) | set(new)
    chance = sum(map(ord, name))
    def settings():
        for i, (key, values) in enumerate(VALUES.items()):
            key, _, base = key.partition(":")
            if base and key not in fields: continue
            if key not in fields and key not in COMMON and (chance + i) % 5: continue
            for value in values: yield Change("5", (key,), named(value, new), bool(base))
        activation = next((k for k in ("hidden_activation", "activation_function", "hidden_act") if k in fields), "hidden_act")
        for value in ACTIVATIONS: yield Change("5", (activation,), value)
        for key in ("hidden_act", "hidden_activation"): yield Change("5", (key,), "relu")
        for key in new:
            if key not in ("model_type", "architectures", "vocab_size", "hidden_size", "transformers_version", "dtype", "bos_token_id", "eos_token_id", "pad_token_id"): yield Change("5", (key,), REMOVED)
    def rotary():
        table = new.get("rope_parameters")
        if not table: return
        parts = [p for p in ("full_attention", "sliding_attention") if p in table]
        wheres = [("rope_parameters", p) for p in parts] or [("rope_parameters",)]
        for where in wheres:
            given = at(new, where)
            kept = {k: given[k] for k in ("rope_theta", "partial_rotary_factor") if k in given}
            for i, t in enumerate(tables(new) + both_types()):
                if (i + chance) % 3 and name not in ("llama-bias", "llama-short", "phi3", "gemma3_text", "olmo3", "ministral3", "stablelm"): continue
                yield Change("5", where, {**kept, **t})
            for key, value in given.items():
                for other in [REMOVED, None, *([value * 2, 0, -value, str(value)] if isinstance(value, (int, float)) and not isinstance(value, bool) else [])]:
                    yield Change("5", (*where, key), other)
            for key, value in (("partial_rotary_factor", 0.5), ("rope_theta", 900.0), ("beta", 2.0), ("factor", 7.0), ("type", "linear"), ("attention_factor", 1.2), ("max_position_embeddings", 16)):
                if key not in given or key == "partial_rotary_factor": yield Change("5", (*where, key), value)
        yield Change("5", ("rope_parameters",), None)
        yield Change("5", ("rope_parameters",), {"rope_type": "default", "rope_theta": 33.0})
        yield Change("5", ("rope_parameters",), {"full_attention": {"rope_type": "default", "rope_theta": 33.0}})
        for t in (tables(new)[1], tables(new)[9], {"type": "linear", "factor": 2.0}): yield Change("5", ("rope_scaling",), t)
    def older():
        scaled = old.get("rope_scaling")
        theta = "rotary_emb_base" if "rotary_emb_base" in old else "rope_theta"
        part = "rotary_pct" if "rotary_emb_base" in old else "partial_rotary_factor"
        if theta not in old: return
        for value in (900.0, 1000000, None, REMOVED): yield Change("4", (theta,), value)
        yield Change("4", ("rope_theta",), 900.0); yield Change("4", ("rotary_emb_base",), 900.0)
        for value in (0.5, 1.0, 1.5, None): yield Change("4", (part,), value)
        for key in ("type", "rope_type"):
            for i, t in enumerate(tables(old, key)):
                if (i + chance + len(key)) % 3 == 0 or name in ("llama-short", "phi3", "gemma3_text"): yield Change("4", ("rope_scaling",), t)
        for t in [None, *both_types()]: yield Change("4", ("rope_scaling",), t)
        for key in scaled or {}: yield Change("4", ("rope_scaling", key), REMOVED)
        yield Change("4", ("rope_parameters",), {"rope_type": "default", "rope_theta": 33.0})
        for key in ("rope_local_base_freq", "original_max_position_embeddings", "sliding_window", "layer_types", "use_sliding_window", "max_window_layers"):
            if key in old: yield Change("4", (key,), REMOVED)
    seen = set()
    yield Change("5", (), None)
    yield Change("4", (), None)
    turned = [] if new.get("is_encoder_decoder") else [*rotary(), *older()]
    for change in [*settings(), *turned]:
        base = new if change.spelling == "5" else old
        shown = repr(change)
        same = json.dumps(at(base, change.path)) == json.dumps(change.value)
        if not same and shown not in seen:
            seen.add(shown)
            yield change


# -------------------------------------------------------------------------------------------------------------- what comes of each

def eager(m):
    m.config._experts_implementation = "eager"
    return m.eval()


def auto(c):
    return tf.AutoModelForSeq2SeqLM if c.model_type == "t5" else tf.AutoModelForCausalLM


def built(case, c):
    torch.manual_seed(0)
    m = eager(auto(c).from_config(c, attn_implementation="eager", dtype=torch.float32))
    return randomise(m, 0, case.zero_centred, case.embedding or (0.15 if c.tie_word_embeddings else 0.4))


def texts(name, n):
    """Two rows of `n` ids; labels mask the prompts."""
    b = {k: v[:, :n].clone() for k, v in batch(name.split("-")[0] if name.startswith("t5") else name, 0, families.VOCAB).items()}
    if n < 24:
        b["labels"] = b["input_ids"].clone(); b["labels"][:, :n // 4] = -100
    return b


def expected(m, b):
    """What `gen_models.expected` says of texts of any length, each id of the continuation of a pass without cache; and the least lead of one of them."""
    if m.config.is_encoder_decoder:
        e = gen_models.expected(m, b)
        return e, gen_families.margin(m, e)
    e, n = dict(b), b["input_ids"].shape[1]
    with torch.no_grad():
        o = m(**b); e["logits"] = o.logits; e["loss"] = torch.nn.functional.cross_entropy(o.logits[:, :-1].reshape(-1, o.logits.shape[-1]), b["labels"][:, 1:].reshape(-1)).reshape(1)
        for side, pads in (("right", slice(n - n // 3, n)), ("left", slice(0, n // 3))):
            mask, ids = torch.ones(2, n, dtype=torch.long), b["input_ids"].clone()
            mask[1, pads] = 0; ids[1, pads] = 0
            at = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if m.config.model_type == "gpt2" or side == "left" else {}
            e |= {f"{side}pad.input_ids": ids, f"{side}pad.attention_mask": mask, f"{side}pad.logits": m(input_ids=ids, attention_mask=mask, **at).logits}
        e["greedy_prompt"] = b["input_ids"][:1, :n // 2]; ids, lead = e["greedy_prompt"], float("inf")
        for _ in range(16 if n == 24 else n - n // 2):
            best = m(input_ids=ids, use_cache=False).logits[0, -1].topk(2)
            ids, lead = torch.cat([ids, best.indices[:1][None]], 1), min(lead, (best.values[0] - best.values[1]).item())
        e["greedy_ids"] = ids
        lb = b["labels"][:, 1:]
        e["label_logps"] = torch.log_softmax(o.logits[:, :-1], -1).gather(-1, lb.clamp(min=0).unsqueeze(-1)).squeeze(-1) * (lb != -100)
    return e, lead


def first_line(e):
    return f"{type(e).__name__}: " + " ".join(str(e).split())[:160]


# Sizes that a change makes impossible or contradicts, which a message may name in its place.
PART = {"partial_rotary_factor", "rotary_pct"}
FOLLOWS = {"rope_parameters": PART, "rope_scaling": PART, "partial_rotary_factor": PART, "hidden_size": {"num_attention_heads", "n_head", "head_dim"}, "num_attention_heads": {"head_dim", "num_key_value_heads"},
           "n_head": {"head_dim"}}


class Bench:
    def __init__(self, lorakit, root, name, case):
        self.lorakit, self.root, self.name, self.case = lorakit, Path(root), name, case
        self.base = built(case, case.make()); self.base.save_pretrained(self.root / "base")
        self.new = json.loads((self.root / "base/config.json").read_text())
        self.old = legacy_config(self.new)
        if name == "olmo3": self.old["rope_theta"] = 500000.0      # the one theta that versions 4 and 5 read alike
        self.usual, _ = expected(self.base, texts(name, 24))

    def transformers(self, d, change, config):
        """Writes the case; (what transformers says against it, the least lead, whether the change shows)."""
        shutil.rmtree(d, ignore_errors=True)
        try:
            if change.base_weights: raise LookupError
            built(self.case, self.case.config.from_dict(copy.deepcopy(config))).save_pretrained(d)
        except Exception:      # then the reading below says what it is
            shutil.rmtree(d, ignore_errors=True); self.base.save_pretrained(d)
        for f in ("generation_config.json",): (d / f).unlink(missing_ok=True)
        (d / "config.json").write_text(json.dumps(config, indent=1))
        return self.compute(d, 24)

    def compute(self, d, n):
        """Writes what is expected of texts of `n` ids."""
        try:
            m, info = auto(self.base.config).from_pretrained(d, attn_implementation="eager", dtype=torch.float32, output_loading_info=True)
            missing = sorted(info["missing_keys"])
            if missing: raise ValueError(f"weights are missing: {missing[0]}")
            e, lead = expected(eager(m), texts(self.name, n))
            if not e["logits"].isfinite().all(): raise ValueError("logits are not finite")
        except Exception as e:
            save(str(d / "expected.safetensors"), self.usual)
            return first_line(e), 0.0, False
        save(str(d / "expected.safetensors"), e)
        usual = self.usual["logits"][:, :n]
        shows = e["logits"].shape != usual.shape or (e["logits"] - usual).abs().max().item() > 1e-3
        return None, lead, shows

    def conform(self, d):
        """(checks that failed, or `None`; what was said)."""
        p = subprocess.run([self.lorakit, "conform", str(d), "--json", "--threads", "1", "--device", "cpu"], capture_output=True, text=True)
        try: of = json.loads(p.stdout)["cases"][0]
        except (json.JSONDecodeError, IndexError): return None, p.stderr
        return (None, of["unsupported"]) if of["unsupported"] else ([c for c in of["checks"] if not c["pass"]], "")

    def run(self, change):
        config = put(self.new if change.spelling == "5" else self.old, change.path, change.value)
        d = self.root / "case"
        against, lead, shows = self.transformers(d, change, config)
        failed, said = self.conform(d)
        shorter = re.search(r"the model takes at most (\d+) tokens", said)
        if shorter and not against and int(shorter[1]) >= 8:      # than the texts, whose length it refuses: shorter ones are computed
            against, lead, shows = self.compute(d, min(24, int(shorter[1])))
            failed, said = self.conform(d)
        if failed is not None and lead < 2e-3: failed = [c for c in failed if c["name"] != "greedy ids"]      # ambiguous
        verdict = self.verdict(change, against, failed, said)
        if shorter and verdict == "same": verdict = "same, shorter"
        detail = said if failed is None else ", ".join(f"{c['name']} off by {c['error']:.2g}" for c in failed) or "computed"
        return verdict, shows, against, " ".join(detail.split())

    def verdict(self, change, against, failed, said):
        if failed is not None: return "same" if not against and not failed else "WRONG" if not against else "transformers refuses, lorakit does not"
        if against: return "both refuse"
        quoted = [part for found in re.findall(r"`([^`]*)`", said) for part in re.split(r"[.=\s]", found)]
        tensor = change.base_weights and re.search(r"tensors?[: ]", said)      # one that the configuration does not describe
        if not change.path: return "WRONG"
        if tensor or change.path[-1] in quoted or change.path[0] in quoted: return "refused by name"
        return "refused by what follows" if FOLLOWS.get(change.path[-1], FOLLOWS.get(change.path[0], set())) & set(quoted) else "refused, UNNAMED"


SHORT_NAMES = {"same": "same", "same, shorter": "shorter", "refused by name": "named", "refused by what follows": "follows", "both refuse": "both",
               "transformers refuses, lorakit does not": "tf only", "refused, UNNAMED": "unnamed", "WRONG": "WRONG"}
VERDICTS = list(SHORT_NAMES)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--lorakit", default="target/release/lorakit"); p.add_argument("--names", nargs="*", default=list(CASES))
    p.add_argument("--keys", nargs="*"); p.add_argument("--every", type=int, default=1, help="each so-many-th change"); p.add_argument("--log", help="a line of JSON a case")
    a = p.parse_args()
    counts, bad, log = {}, [], open(a.log, "w") if a.log else None
    with tempfile.TemporaryDirectory() as root:
        for name in a.names:
            bench = Bench(a.lorakit, f"{root}/{name}", name, CASES[name])
            of = counts[name] = collections.Counter()
            for i, change in enumerate(changes(name, CASES[name], bench.new, bench.old)):
                if i % a.every or a.keys and not set(a.keys) & set(change.path): continue
                verdict, shows, against, detail = bench.run(change)
                of[verdict] += 1; of["shown"] += verdict.startswith("same") and bool(shows)
                line = dict(case=name, spelling=change.spelling, key=".".join(change.path), value=change.value, base_weights=change.base_weights, verdict=verdict, shows=bool(shows), transformers=against, lorakit=detail)
                if log: print(json.dumps(line), file=log, flush=True)
                if verdict in VERDICTS[5:]: bad.append(line)
            print(f"{name}: {sum(of[v] for v in VERDICTS)} changes", file=sys.stderr, flush=True)
            shutil.rmtree(f"{root}/{name}")
    print(f"{'':20} {'changes':>8} {'(shown)':>8} " + " ".join(f"{short:>8}" for short in SHORT_NAMES.values()))
    total = collections.Counter()
    for name, of in [*counts.items(), ("total", total)]:
        if of is not total: total.update(of)
        print(f"{name:20} {sum(of[v] for v in VERDICTS):8} {of['shown']:8} " + " ".join(f"{of[v]:8}" for v in VERDICTS))
    print("shown: computed alike, and otherwise than without the change; shorter: on texts as short as the file says, longer ones are refused; "
          "follows: refused, naming a size that the change made impossible; both: refused by both; tf only: refused by transformers alone")
    for line in bad:
        print(f"\n{line['verdict']}: {line['case']} (spelling of {line['spelling']}{', base weights' if line['base_weights'] else ''}) {line['key']} = {json.dumps(line['value'])}\n  transformers: {line['transformers'] or 'computes'}\n  lorakit: {line['lorakit']}")
    return 1 if total["WRONG"] or total["refused, UNNAMED"] else 0


if __name__ == "__main__":
    sys.exit(main())
