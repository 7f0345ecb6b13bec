#!/usr/bin/env python3
"""Tiny GGUF models: gen_gguf.py OUT [FULL]. OUT gets NAME.gguf (matrices in F16) and NAME.safetensors (ids and transformers' logits), and of one case
of each form of the conversion a file without it; FULL gets each case in F32, which llama.cpp multiplies as it is, beside it NAME.without THING.gguf with
one thing left out, and NAME.safetensors where llama.cpp's GELU, a table in F16 of the tanh form, or its norm of keys would show: with that.

Names, keys and forms follow llama.cpp's converter (conversion/*.py), written anew here. Needs torch, transformers, gguf."""
import math, re, sys
from tiny import *
from contextlib import contextmanager
import gguf
import numpy as np
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen3_5
from gguf_cases import CASES, LARGE
from gen_families import eager
tf.utils.logging.disable_progress_bar()

TOP = {"embed_tokens.weight": "token_embd.weight", "embed_in.weight": "token_embd.weight", "wte.weight": "token_embd.weight", "wpe.weight": "position_embd.weight",
       "embed_tokens_per_layer.weight": "per_layer_token_embd.weight", "per_layer_model_projection": "per_layer_model_proj",
       "per_layer_projection_norm": "per_layer_proj_norm", "norm": "output_norm", "final_layer_norm": "output_norm", "ln_f": "output_norm", "lm_head.weight": "output.weight", "embed_out.weight": "output.weight"}
PART = {"input_layernorm": "attn_norm", "ln_1": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "self_attn.qkv_proj": "attn_qkv", "attention.query_key_value": "attn_qkv", "attn.c_attn": "attn_qkv",
        "attention.dense": "attn_output", "attn.c_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
        "self_attn.q_layernorm": "attn_q_norm", "self_attn.k_layernorm": "attn_k_norm", "ln_2": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "mlp.dense_h_to_4h": "ffn_up",
        "mlp.dense_4h_to_h": "ffn_down", "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
        "post_self_attn_layernorm": "post_attention_norm", "post_mlp_layernorm": "post_ffw_norm", "mlp.gate": "ffn_gate_inp", "mlp.router": "ffn_gate_inp",
        "router.proj": "ffn_gate_inp", "per_layer_input_gate": "inp_gate", "per_layer_projection": "proj", "post_per_layer_input_norm": "post_norm",
        "linear_attn.in_proj_qkv": "attn_qkv", "linear_attn.in_proj_z": "attn_gate", "linear_attn.in_proj_a": "ssm_alpha", "linear_attn.in_proj_b": "ssm_beta",
        "linear_attn.out_proj": "ssm_out", "linear_attn.conv1d": "ssm_conv1d", "linear_attn.norm": "ssm_norm",
        "post_feedforward_layernorm_1": "post_ffw_norm_1", "pre_feedforward_layernorm_2": "pre_ffw_norm_2", "post_feedforward_layernorm_2": "post_ffw_norm_2"}
BARE = {"self_attn.sinks": "attn_sinks.weight", "layer_scalar": "layer_output_scale.weight", "router.scale": "ffn_gate_inp.scale",
        "router.per_expert_scale": "ffn_down_exps.scale", "linear_attn.A_log": "ssm_a", "linear_attn.dt_bias": "ssm_dt.bias"}
INTERLEAVED = {"llama", "mistral3", "granite", "smollm3"}
POST_NORMED = {"gemma2", "gemma3", "gemma4", "olmo2"}      # their post_attention_layernorm is the norm of what attention gives
LESS_ONE = {"gemma", "gemma2", "gemma3", "qwen35"}
FORMS = ("interleaved", "one", "by kind", "in turn", "tiled")
CONTROLS = ("llama", "gemma", "gptneox", "gpt-oss", "qwen35")
MXFP4, Q8_0 = gguf.GGMLQuantizationType.MXFP4, gguf.GGMLQuantizationType.Q8_0


def placed(arch, name):
    """llama.cpp's name."""
    name = re.sub(r"^(model|gpt_neox|transformer)\.", "", name)
    if (m := re.fullmatch(r"layers\.(\d+)\.(.+)", name)) and m[2] in BARE: return f"blk.{m[1]}.{BARE[m[2]]}"
    if m := re.fullmatch(r"(?:layers|h)\.(\d+)\.(.+)\.(weight|bias)", name):
        layer, part, kind = m.groups()
        if part == "post_attention_layernorm": part = "post_attention_norm" if arch in POST_NORMED or arch in ("gpt-oss", "qwen35") else "ffn_norm"
        else: part = PART[part]
        return f"blk.{layer}.{part}.{kind}"
    for theirs, ours in TOP.items():
        if name == theirs or name.startswith(theirs + "."): return ours + name[len(theirs):]
    raise KeyError(name)


def of_experts(arch, part, v, without):
    """llama.cpp's tensors of a parameter of all experts: outputs before inputs, gate and up apart (Gemma 4: together)."""
    kind = "bias" if part.endswith("_bias") else "weight"
    if arch == "gpt-oss" and kind == "weight": v = v.transpose(1, 2)
    if part.startswith("down"): return {f"ffn_down_exps.{kind}": v}
    if arch == "gemma4": return {"ffn_gate_up_exps.weight": v}
    gate, up = (v[:, ::2], v[:, 1::2]) if arch == "gpt-oss" and without != "in turn" else v.chunk(2, 1)
    return {f"ffn_gate_exps.{kind}": gate, f"ffn_up_exps.{kind}": up}


def of_delta(c, name, v, without):
    """A gated delta rule's, with value heads in turn of their key heads."""
    if name.endswith("A_log"): v = -v.exp()
    if name.endswith("conv1d.weight"): v = v.squeeze(1)
    if without == "tiled" or name.endswith("linear_attn.norm.weight"): return v
    first = 2 * c.linear_num_key_heads * c.linear_key_head_dim if re.search(r"qkv|conv1d", name) else 0
    size = c.linear_value_head_dim if re.search(r"qkv|conv1d|_z|out_proj", name) else 1
    dim = 1 if "out_proj" in name else 0
    kept, heads = v.split([first, v.shape[dim] - first], dim)
    return torch.cat([kept, heads.unflatten(dim, (c.linear_num_key_heads, -1, size)).transpose(dim, dim + 1).flatten(dim, dim + 2)], dim)


def ahead(c, tensors):
    """A layer behind the others that predicts further tokens, of the parts of one of full attention."""
    of, g = c.layer_types.index("full_attention"), torch.Generator().manual_seed(7)
    like = lambda *shape: torch.randn(shape, generator=g).half().float().numpy()
    more = {"eh_proj": like(c.hidden_size, 2 * c.hidden_size)} | {k: 1 + 0.2 * like(c.hidden_size) for k in ("enorm", "hnorm", "shared_head_norm")}
    own = {k.replace(f"blk.{of}.", f"blk.{c.num_hidden_layers}."): v for k, v in tensors.items() if k.startswith(f"blk.{of}.")}
    return own | {f"blk.{c.num_hidden_layers}.nextn.{k}.weight": v for k, v in more.items()}


def converted(arch, model, without):
    """Tensors in llama.cpp's form, in numpy."""
    c = model.config
    heads, kv = c.num_attention_heads, getattr(c, "num_key_value_heads", c.num_attention_heads)
    state = {k: v for k, v in model.state_dict().items() if not (k.startswith("lm_head") and c.tie_word_embeddings)}
    out = {}
    for name, value in state.items():
        v = value.to(torch.float32)
        if m := re.fullmatch(r"(.*_layernorm)\.norms\.(\d+)\.weight", name):
            out.setdefault(placed(arch, m[1] + ".weight"), []).append(v)
            continue
        if m := re.fullmatch(r"model\.layers\.(\d+)\.(?:mlp\.)?experts\.(\w+)", name):
            out |= {f"blk.{m[1]}.{k}": t for k, t in of_experts(arch, m[2], v, without).items()}
            continue
        if "linear_attn." in name: v = of_delta(c, name, v, without)
        elif arch in LESS_ONE and name.endswith("norm.weight") and without != "one": v = v + 1
        if arch in INTERLEAVED and re.search(r"\.[qk]_proj\.", name) and without != "interleaved":
            n = heads if ".q_proj." in name else kv
            v = v.reshape(n, 2, v.shape[0] // n // 2, *v.shape[1:]).swapaxes(1, 2).reshape(v.shape)
        if "query_key_value" in name and without != "by kind":
            v = v.reshape(heads, 3, v.shape[0] // heads // 3, *v.shape[1:]).swapaxes(0, 1).reshape(v.shape)
        if re.search(r"\.c_(attn|proj|fc)\.weight", name) and arch == "gpt2": v = v.t()
        out[placed(arch, name)] = v
    out = {k: (torch.stack(v) if isinstance(v, list) else v).contiguous().numpy() for k, v in out.items()}
    return out | ahead(c, out) if getattr(c, "mtp_num_hidden_layers", 0) else out


def rope_keys(c, arch):
    """Keys under `rope.` and the tensors of longrope."""
    parameters = getattr(c, "rope_parameters", None)
    if not parameters: return {}, {}
    full = parameters.get("full_attention", parameters)
    head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    keys, tensors = {"rope.freq_base": float(full["rope_theta"]), "rope.dimension_count": int(head * full.get("partial_rotary_factor", 1.0))}, {}
    if arch == "gemma4":
        size = of_full(c)["head_dim"]
        turning = int(size * full["partial_rotary_factor"] / 2)
        keys |= {"rope.dimension_count": size, "rope.dimension_count_swa": c.head_dim}
        tensors = {"rope_freqs.weight": np.array([1.0] * turning + [1e30] * (size // 2 - turning), np.float32)}
    if arch == "qwen35": keys["rope.dimension_sections"] = full["mrope_section"] + [0]
    if "sliding_attention" in parameters: keys["rope.freq_base_swa"] = float(parameters["sliding_attention"]["rope_theta"])
    kind = full["rope_type"]
    if kind in ("linear", "yarn"): keys |= {"rope.scaling.type": kind, "rope.scaling.factor": float(full["factor"])}
    if kind == "yarn":
        keys["rope.scaling.original_context_length"] = full["original_max_position_embeddings"]
        for name in ("beta_fast", "beta_slow"):
            if full.get(name) is not None: keys[f"rope.scaling.yarn_{name}"] = float(full[name])
        if "llama_4_scaling_beta" in full:
            keys |= {"rope.scaling.yarn_log_multiplier": float(full["mscale_all_dim"]), "attention.temperature_scale": float(full["llama_4_scaling_beta"])}
    if kind == "longrope":
        original = c.original_max_position_embeddings
        factor = math.sqrt(1 + math.log(c.max_position_embeddings / original) / math.log(original))
        keys |= {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": factor, "rope.scaling.type": "longrope"}
        tensors = {f"rope_factors_{k}.weight": np.array(full[f"{k}_factor"], np.float32) for k in ("short", "long")}
    if arch in ("command-r", "cohere2"): keys["rope.scaling.type"] = "none"
    return keys, tensors


def of_full(c):
    """What layers of Gemma 4 that see everything have of their own."""
    return c.to_dict()["per_layer_config"][str(c.layer_types.index("full_attention"))]


def of_kinds(c):
    """Keys of what kinds of layers differ in."""
    slides, first = [t == "sliding_attention" for t in c.layer_types], c.num_hidden_layers - c.num_kv_shared_layers
    keys = {"attention.shared_kv_layers": c.num_kv_shared_layers, "embedding_length_per_layer_input": c.hidden_size_per_layer_input or 0,
            "final_logit_softcapping": c.final_logit_softcapping}
    for of in ("key", "value"): keys |= {f"attention.{of}_length": of_full(c)["head_dim"], f"attention.{of}_length_swa": c.head_dim}
    if c.use_double_wide_mlp: keys["feed_forward_length"] = [c.intermediate_size * (1 if i < first else 2) for i in range(c.num_hidden_layers)]
    if kv := of_full(c).get("num_key_value_heads"): keys["attention.head_count_kv"] = [c.num_key_value_heads if slide else kv for slide in slides]
    return keys


def keys_of(c, arch):
    """Metadata of the architecture, and further tensors."""
    keys = {"block_count": c.num_hidden_layers, "context_length": c.max_position_embeddings, "embedding_length": c.hidden_size,
            "feed_forward_length": getattr(c, "intermediate_size", None) or c.n_inner, "attention.head_count": c.num_attention_heads}
    if (kv := getattr(c, "num_key_value_heads", None)) and arch != "gptneox": keys["attention.head_count_kv"] = kv
    if arch not in ("gpt2", "gptneox") and getattr(c, "head_dim", None): keys |= {"attention.key_length": c.head_dim, "attention.value_length": c.head_dim}
    if hasattr(c, "rms_norm_eps"): keys["attention.layer_norm_rms_epsilon"] = float(c.rms_norm_eps)
    for name in ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"):
        if hasattr(c, name): keys["attention.layer_norm_epsilon"] = float(getattr(c, name))
    if arch == "gemma4": keys |= of_kinds(c)
    if arch == "qwen35":
        keys |= {"ssm.conv_kernel": c.linear_conv_kernel_dim, "ssm.state_size": c.linear_key_head_dim, "ssm.group_count": c.linear_num_key_heads,
                 "ssm.time_step_rank": c.linear_num_value_heads, "ssm.inner_size": c.linear_num_value_heads * c.linear_value_head_dim,
                 "full_attention_interval": c.layer_types.index("full_attention") + 1}
        if n := getattr(c, "mtp_num_hidden_layers", 0): keys |= {"nextn_predict_layers": n, "block_count": c.num_hidden_layers + n}
    if count := getattr(c, "num_local_experts", None) or (getattr(c, "num_experts", None) if getattr(c, "enable_moe_block", True) else None):
        keys |= {"expert_count": count, "expert_used_count": getattr(c, "top_k_experts", None) or c.num_experts_per_tok}
        if arch != "llama": keys["expert_feed_forward_length"] = getattr(c, "moe_intermediate_size", None) or c.intermediate_size
    window = getattr(c, "sliding_window", None)
    if arch in ("gemma2", "gemma3", "gemma4", "cohere2", "gpt-oss") or (arch == "olmo2" and window): keys["attention.sliding_window"] = window
    if arch == "gemma4" or (arch == "olmo2" and window): keys["attention.sliding_window_pattern"] = [t == "sliding_attention" for t in c.layer_types]
    if arch == "phi3": keys["attention.sliding_window"] = window or 0
    if arch == "gemma2": keys |= {"attn_logit_softcapping": c.attn_logit_softcapping, "final_logit_softcapping": c.final_logit_softcapping}
    if arch == "granite":
        keys |= {"embedding_scale": c.embedding_multiplier, "residual_scale": c.residual_multiplier, "attention.scale": c.attention_multiplier, "logit_scale": c.logits_scaling}
    if arch in ("command-r", "cohere2"): keys["logit_scale"] = c.logit_scale
    if arch in ("stablelm", "gptneox"): keys["use_parallel_residual"] = c.use_parallel_residual
    if arch in ("llama", "granite", "mistral3", "cohere2"): keys["vocab_size"] = c.vocab_size
    if arch != "gpt2":
        rope, tensors = rope_keys(c, arch)
        return keys | rope, tensors
    return keys, {}


def vocabulary(w, n):
    """A byte-level tokenizer."""
    w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre("default")
    w.add_token_list([*(f"<{i}>" for i in range(3)), *(chr(94 + i) for i in range(3, n - 1)), "ab"])
    w.add_token_types([3] * 3 + [1] * (n - 3)); w.add_token_merges(["a b"])
    w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_pad_token_id(0)


def write(path, arch, c, tensors, without=None, full=False, packed=None):
    w = gguf.GGUFWriter(path, arch)
    keys, more = keys_of(c, arch)
    for key, value in keys.items():
        if key == without: continue
        name = f"{arch}.{key}"
        if isinstance(value, bool): w.add_bool(name, value)
        elif isinstance(value, str): w.add_string(name, value)
        elif isinstance(value, list): w.add_array(name, value)
        elif isinstance(value, float): w.add_float32(name, value)
        else: w.add_uint32(name, value)
    vocabulary(w, c.vocab_size)
    for name, value in {**more, **tensors}.items():
        if name.split(".")[0] == without: continue
        if kind := packed and packed(name, value):
            w.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
            continue
        half = not full and value.ndim >= 2 and "norm" not in name and "conv1d" not in name and not name.endswith("bias")
        w.add_tensor(name, np.ascontiguousarray(value.astype(np.float16 if half else np.float32)))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


def packs(name, v):
    """The blocks that a tensor is packed in, if it is: as published files of gpt-oss are."""
    if v.shape[-1] % 32 or name.endswith("bias") or "norm" in name or "ffn_gate_inp" in name or "router" in name: return None
    return {2: Q8_0, 3: MXFP4}.get(v.ndim)


def unpacked(name, p):
    """What is left of a parameter in blocks."""
    v = p.transpose(1, 2) if p.ndim == 3 else p
    kind = packs(name, v)
    if kind: v = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(v.contiguous().numpy(), kind), kind))
    return v.transpose(1, 2) if p.ndim == 3 else v


def packs_output(name, _):
    """The output projections of delta rules alone."""
    return Q8_0 if name.endswith(("ssm_out.weight", "linear_attn.out_proj.weight")) else None


def stepped(v):
    """Steps of 1/512, up to 127 of them in each block: numbers that Q8_0 and F16 hold."""
    v = (v * 512).round().clamp(-127, 127)
    v[:, ::32] = 127
    return v / 512


# What is written in blocks, and which.
PACKED = {"gpt-oss-mxfp4": packs, "qwen35-blocks": packs_output}


def made(case, seed, packed=None):
    """The model with matrices that F16 holds, or blocks do."""
    torch.manual_seed(seed)
    m = eager(tf.AutoModelForCausalLM.from_config(case.make(), attn_implementation="eager", dtype=torch.float32), case)
    m.config.allow_global_per_layer_attribute_access = True
    m = randomise(m, seed, case.zero_centred, case.embedding or (0.15 if m.config.tie_word_embeddings else 0.4))
    with torch.no_grad():
        for name, p in m.named_parameters():
            if p.ndim >= 2: p.copy_(p.half().float())
            if packed is packs: p.copy_(unpacked(name, p).clone())
            elif packed and packed(name, p): p.copy_(stepped(p))
    return m


class TableGelu(torch.nn.Module):
    """ggml's GELU on a CPU."""
    def forward(self, x):
        y = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
        return torch.where(x.abs() < 10, y, x.clamp(min=0))


def with_table(m):
    """Whether the model has a GELU, which is llama.cpp's from now on."""
    found = False
    for module in m.modules():
        for name in ("act_fn", "act"):
            if "GELU" in type(getattr(module, name, None)).__name__: setattr(module, name, TableGelu()); found = True
    return found


@contextmanager
def with_norm(c, arch):
    """llama.cpp's norm of queries and keys of delta rules: with the epsilon of the other norms in place of 1e-6."""
    norm = qwen3_5.l2norm
    if arch == "qwen35": qwen3_5.l2norm = lambda x, dim=-1, eps=1e-6: norm(x, dim, c.rms_norm_eps)
    try: yield arch == "qwen35"
    finally: qwen3_5.l2norm = norm


def steps(arch):
    found = {"interleaved": arch in INTERLEAVED, "one": arch in LESS_ONE, "by kind": arch == "gptneox", "in turn": arch == "gpt-oss", "tiled": arch == "qwen35"}
    return [s for s, there in found.items() if there]


def controls(arch, c):
    """What a file is written without, and differs then: steps of the conversion, and keys that llama.cpp has other values for."""
    keys = ["rope.scaling.type", "attention.scale", "embedding_scale", "residual_scale", "attn_logit_softcapping", "rope.freq_base",
            "rope.freq_base_swa", "rope.dimension_count", "attention.sliding_window", "attention.sliding_window_pattern", "attention.temperature_scale",
            "rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_beta_fast", "rope.scaling.attn_factor"]
    return steps(arch) + [k for k in keys if keys_of(c, arch)[0].get(k)]


def main(out, full):
    for d in filter(None, (out, full)): os.makedirs(d, exist_ok=True)
    ids = batch("gguf", 0, 24)["input_ids"][:1]
    of = lambda m: m(input_ids=ids).logits.detach()
    for name, (arch, case) in (CASES | (LARGE if full else {})).items():
        packed = PACKED.get(name)
        m = made(case, 0, packed)
        logits, tensors = of(m), converted(arch, m, None)
        print(f"{name}: {sum(v.size for v in tensors.values())} numbers, logits of deviation {logits.std().item():.2f}")
        if name in CASES:
            write(f"{out}/{name}.gguf", arch, m.config, tensors, packed=packed)
            save(f"{out}/{name}.safetensors", {"input_ids": ids, "logits": logits})
            if name in CONTROLS:
                for step in steps(arch): write(f"{out}/{name}.without {step}.gguf", arch, m.config, converted(arch, m, step))
        if full:
            write(f"{full}/{name}.gguf", arch, m.config, tensors, full=True)
            for left in controls(arch, m.config):
                changed = converted(arch, m, left) if left in FORMS else tensors
                write(f"{full}/{name}.without {left}.gguf", arch, m.config, changed, left, full=True)
            with with_norm(m.config, arch) as normed:
                if with_table(m) or normed or name in LARGE: save(f"{full}/{name}.safetensors", {"input_ids": ids, "logits": of(m)})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
