#!/usr/bin/env python3
"""A PEFT adapter of a llama model as llama.cpp's LoRA file: lora_to_gguf.py ADAPTER_DIR HEADS KEY_HEADS OUT.gguf (needs gguf, numpy, safetensors)."""
import json, re, sys
import gguf
import numpy as np
from safetensors.numpy import load_file

SITES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def turned(b, heads):
    """Rows of q and k in llama.cpp's order of rotary pairs."""
    return b.reshape(heads, 2, b.shape[0] // heads // 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)


directory, heads, key_heads, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
config = json.load(open(f"{directory}/adapter_config.json"))
writer = gguf.GGUFWriter(out, "llama")
writer.add_type("adapter")
writer.add_string("adapter.type", "lora")
writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
for name, value in load_file(f"{directory}/adapter_model.safetensors").items():
    layer, site, part = re.fullmatch(r"base_model\.model\.model\.layers\.(\d+)\.(\S+)\.lora_([AB])\.weight", name).groups()
    value = value.astype(np.float32)
    if part == "B" and site.endswith(("q_proj", "k_proj")):
        value = turned(value, heads if site.endswith("q_proj") else key_heads)
    writer.add_tensor(f"blk.{layer}.{SITES[site]}.weight.lora_{part.lower()}", np.ascontiguousarray(value))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
