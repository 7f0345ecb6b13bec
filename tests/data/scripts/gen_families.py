#!/usr/bin/env python3
"""Cases of many families: a model in `families/NAME`, adapters in `families/NAME/adapters/VARIANT`; prints what every switch does to the logits."""
import argparse, re
from tiny import *
from families import CASES, VOCAB
from gen_adapters import rounding, variants, write_adapter
from gen_models import continued, expected, write_model
tf.utils.logging.disable_progress_bar()
ZEROED = (*BIASES, "relative_attention_bias.weight", "per_layer_projection.weight")
VARIANTS = ["plain", "rslora", "dora", "all_linear", "pattern"]
# Of families whose files have a tensor of all experts.
PARAMETERS = dict(r=2, lora_alpha=8, target_parameters=["experts.gate_up_proj", "experts.down_proj"], target_modules=[], task_type="CAUSAL_LM")

def eager(m, case):
    """Its experts one after another, and its head apart from the embedding if the case has it so."""
    m.config._experts_implementation = "eager"
    if case.untied and m.lm_head.weight is m.shared.weight:
        m.config.tie_word_embeddings = False
        m.lm_head.weight = torch.nn.Parameter(m.lm_head.weight.detach().clone())
    return m.eval()

def make(case, seed, **changed):
    c = case.make(**changed)
    cls = tf.AutoModelForSeq2SeqLM if c.is_encoder_decoder else tf.AutoModelForCausalLM
    torch.manual_seed(seed)
    m = eager(cls.from_config(c, attn_implementation="eager", dtype=torch.float32), case)
    tied = c.tie_word_embeddings and not case.untied
    return randomise(m, seed, case.zero_centred, case.embedding or (0.15 if tied else 0.4))

def logits(m, b):
    with torch.no_grad(): return m(**b).logits

def neutral(name, t, zero_centred):
    """The tensor as if the thing were not there: no bias, norms of weight one."""
    if name.endswith(ZEROED): return torch.zeros_like(t)
    return torch.full_like(t, 0.0 if zero_centred and not name.endswith("linear_attn.norm.weight") else 1.0)

def effects(m, case, seed, b):
    """(thing, largest change of a logit without it): of each change of the configuration, of biases and norms by their names."""
    want, state, found = logits(m, b), {k: v.clone() for k, v in m.state_dict().items()}, []
    for label, changed in case.controls.items():
        other = make(case, seed, **changed)
        fits = {k: v for k, v in state.items() if k in (o := other.state_dict()) and o[k].shape == v.shape}
        other.load_state_dict(fits, strict=False)
        found.append((label, (logits(other, b) - want).abs().max().item()))
    groups = {}
    for n, t in state.items():
        if t.ndim == 1 or n.endswith((*ZEROED, *NORMS)): groups.setdefault(re.sub(r"\.\d+\.", ".*.", re.sub(r"\.\d+\.", ".*.", n)), []).append(n)
    for group, names in groups.items():
        m.load_state_dict(state | {n: neutral(n, state[n], case.zero_centred) for n in names})
        found.append((group, (logits(m, b) - want).abs().max().item()))
        m.load_state_dict(state)
    return found

def margin(m, e):
    """The least lead of an id of the continuation over the second best."""
    ids, start = e["greedy_ids"], e["greedy_prompt"].shape[1]
    b = {"input_ids": e["greedy_prompt"], "decoder_input_ids": ids[:, :-1]} if m.config.is_encoder_decoder else {"input_ids": ids[:, :-1]}
    top = logits(m, b)[0, 0 if m.config.is_encoder_decoder else start - 1:].topk(2).values
    return (top[:, 0] - top[:, 1]).min().item()

def check_older_spelling(d, name, case, m, b):
    if name == "olmo3": return    # transformers 5 gives the sliding layers its default theta there, version 4 the one of the file
    config = type(m.config).from_dict(json.load(open(f"{d}/config_v4.json")))
    other = eager(type(m)._from_config(config, attn_implementation="eager", dtype=torch.float32), case)
    other.load_state_dict(m.state_dict())
    assert torch.equal(logits(other, b), logits(m, b)), f"{name}: config_v4.json is another model"

def write_case(out, name):
    case, d = CASES[name], f"{out}/families/{name}"
    b = batch("t5" if case.kind == "t5" else name, 0, VOCAB)
    for seed in range(case.first_seed, case.first_seed + 20):      # an unambiguous continuation
        m = make(case, seed); e = expected(m, b)
        if margin(m, e) > 2e-3: break
    else: raise RuntimeError(f"{name}: every continuation is ambiguous")
    write_model(m, d); save(d + "/expected.safetensors", e)
    again = eager(type(m).from_pretrained(d, attn_implementation="eager", dtype=torch.float32), case)
    assert torch.equal(logits(again, b), e["logits"]), f"{name}: the saved model is another one"
    if os.path.exists(f"{d}/generation_config.json"): os.remove(f"{d}/generation_config.json")
    check_older_spelling(d, name, case, m, b)
    print(f"\n{name}: seed {seed} params {sum(p.numel() for p in m.parameters())} loss {e['loss'].item():.4f} logit std {e['logits'].std().item():.2f} margin {margin(m, e):.4f}")
    for thing, change in effects(m, case, seed, b):
        print(f"  without {thing:60s} {change:.4f}")
        assert change > (5e-4 if "gelu" in thing else 1e-2), (name, thing)      # the two GELUs differ by 5e-4 at most
    of_kind, names = variants(case.kind, r=2), VARIANTS if case.first else ["plain", "all_linear"]
    if name in ("gpt_oss", "gemma4_text-moe"): of_kind["parameters"] = PARAMETERS; names = [*names, "parameters"]
    for i, vn in enumerate(names):
        for more in range(5):      # one whose merged weights give the same logits: rounding is not blown up
            build, kw, where, own = lambda: make(case, seed), of_kind[vn], f"{d}/adapters/{vn}", 100 + i + 10 * more
            off = write_adapter(build, b, kw, where, "../..", own, f"{name} {vn}", False)
            if off < 1e-5 and (case.rounding is None or rounding(build, b, kw, where, own) < case.rounding): break
        else: raise RuntimeError(f"{name} {vn}: every adapter is ill-conditioned")

if __name__ == "__main__":
    p = argparse.ArgumentParser(); p.add_argument("--names", nargs="*", default=list(CASES)); a = p.parse_args()
    for name in a.names: write_case(OUT, name)
