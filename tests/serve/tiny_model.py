"""Writes a random llama of two layers with a byte-level tokenizer and a chat template that writes calls of tools, and two adapters.

    python tests/serve/tiny_model.py DIR

DIR/model is the base, DIR/adapters/{red,blue} are PEFT adapters on it. The same files every time.
"""
import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCAB, WIDTH, KV, INNER, LAYERS, RANK = 256 + len(SPECIAL), 32, 16, 48, 2, 4
# Of each linear layer: outputs and inputs.
LINEAR = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (KV, WIDTH),
    "self_attn.v_proj": (KV, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
# Shortened from Qwen2.5's.
TEMPLATE = """{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\\n\\n' }}{%- endif %}
{{- "# Tools\\n<tools>" }}
{%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
{{- "\\n</tools>\\nAnswer with:\\n<tool_call>\\n{\\"name\\": NAME, \\"arguments\\": {}}\\n</tool_call><|im_end|>\\n" }}
{%- elif messages[0]['role'] == 'system' %}
{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if not (loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content %}{{- message.content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def write_tokenizer(folder):
    """Every byte a token, behind the special ones."""
    # GPT-2's table: every byte as one printable character.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    characters = [chr(b) if b in plain else chr(next(spare)) for b in range(256)]
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(SPECIAL + characters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def values(rng, shape):
    """Large enough that rounding decides no token."""
    return rng.uniform(-0.4, 0.4, shape).astype(np.float32)


def write_model(folder):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(17)
    tensors = {
        "model.embed_tokens.weight": values(rng, (VOCAB, WIDTH)),
        "lm_head.weight": values(rng, (VOCAB, WIDTH)),
        "model.norm.weight": np.ones(WIDTH, np.float32),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}.{norm}.weight"] = np.ones(WIDTH, np.float32)
        for name, shape in LINEAR.items():
            tensors[f"{at}.{name}.weight"] = values(rng, shape)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2))
    write_tokenizer(folder)


def write_adapter(folder, seed):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for name, (rows, cols) in LINEAR.items():
            at = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{at}.lora_A.weight"] = values(rng, (RANK, cols))
            tensors[f"{at}.lora_B.weight"] = values(rng, (rows, RANK))
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": sorted(name.split(".")[1] for name in LINEAR),
        "base_model_name_or_path": "tiny",
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))


def write(folder):
    """All of it below `folder`; returns the paths of the base and of the adapters' folder."""
    folder = Path(folder)
    write_model(folder / "model")
    for seed, name in enumerate(["red", "blue"]):
        write_adapter(folder / "adapters" / name, seed)
    return folder / "model", folder / "adapters"


if __name__ == "__main__":
    write(sys.argv[1])
