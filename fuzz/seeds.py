"""Writes the seeds in corpus/: small files that each target accepts, and some that it must refuse.

    python3 fuzz/seeds.py

Needs Python alone. What a run finds stays outside corpus/ (see README.md).
"""

import gzip
import json
import struct
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "tests/data"


def seed(target, name, content):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def safetensors(tensors, metadata=None):
    """`tensors`: name -> (dtype, shape); values are zeros and ones by turns."""
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, (dtype, shape) in tensors.items():
        count = 1
        for size in shape:
            count *= size
        one = {"F32": b"\0\0\x80\x3f", "F16": b"\0\x3c", "BF16": b"\x80\x3f", "I64": b"\1" + b"\0" * 7}[dtype]
        values = b"".join(one if i % 2 else b"\0" * len(one) for i in range(count))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def adapters():
    for case in ["llama/plain", "llama/layers", "llama/rslora"]:
        folder = DATA / "golden/adapters" / case
        config = (folder / "adapter_config.json").read_bytes()
        seed("adapter_dir", case.replace("/", "_"), config + b"\0" + (folder / "adapter_model.safetensors").read_bytes())
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"], "layers_to_transform": [0]}
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_%s.weight"
    for name, change in {
        "small": {},
        "regex": {"target_modules": ".*q_proj", "layers_to_transform": None},
        "all_linear": {"target_modules": "all-linear"},
        "patterns": {"rank_pattern": {"q_proj": 1}, "alpha_pattern": {"^model.*q_proj": 3.5}, "use_rslora": True},
        "full": {"modules_to_save": ["lm_head"]},
        "dora": {"use_dora": True},
    }.items():
        for dtype in ["F32", "BF16"]:
            tensors = {key % "A": (dtype, [1, 64]), key % "B": (dtype, [64, 1])}
            content = json.dumps(config | change).encode() + b"\0" + safetensors(tensors, {"format": "pt"})
            seed("adapter_dir", f"{name}_{dtype.lower()}", content)
    for name, (a, b) in {
        "no_rank": ([0, 64], [64, 0]),
        "no_inputs": ([1, 0], [64, 1]),
        "no_outputs": ([1, 64], [0, 1]),
        "vectors": ([64], [64]),
    }.items():
        tensors = {key % "A": ("F32", a), key % "B": ("F32", b)}
        seed("adapter_dir", name, json.dumps(config).encode() + b"\0" + safetensors(tensors))
    tensors = {"base_model.model.lm_head.weight": ("F32", []), "base_model.model.x.weight": ("F16", [0])}
    seed("adapter_dir", "full_odd", json.dumps(config).encode() + b"\0" + safetensors(tensors))


def llama(dtype="F32", kv=4, layers=1):
    tensors = {"model.embed_tokens.weight": (dtype, [4, 4]), "model.norm.weight": (dtype, [4])}
    for i in range(layers):
        for part, rows in [("q", 4), ("k", kv), ("v", kv), ("o", 4)]:
            tensors[f"model.layers.{i}.self_attn.{part}_proj.weight"] = (dtype, [rows, 4])
        for part in ["gate", "up", "down"]:
            tensors[f"model.layers.{i}.mlp.{part}_proj.weight"] = (dtype, [4, 4])
        for part in ["input_layernorm", "post_attention_layernorm"]:
            tensors[f"model.layers.{i}.{part}.weight"] = (dtype, [4])
    return tensors


def models():
    config = {"model_type": "llama", "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "vocab_size": 4, "tie_word_embeddings": True, "max_position_embeddings": 16}
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 8192
    cases = {
        "default": (b"", llama()),
        "f16": (b"", llama("F16")),
        "bf16": (config, llama("BF16")),
        "grouped": (config | {"num_key_value_heads": 1}, llama(kv=2)),
        "two_layers": (config | {"num_hidden_layers": 2}, llama(layers=2)),
        "head": (config | {"tie_word_embeddings": False}, llama() | {"lm_head.weight": ("F32", [4, 4])}),
        "llama3_rope": (config | {"rope_scaling": rope, "rope_theta": 500000.0}, llama()),
        "linear_rope": (config | {"rope_scaling": {"type": "linear", "factor": 2.0}}, llama()),
        "left_over": (config, llama() | {"stray": ("I64", [2])}),
        "no_elements": (config, {"model.embed_tokens.weight": ("F32", [0, 4])}),
        "gpt2": ({"model_type": "gpt2", "n_embd": 4, "n_head": 2, "n_layer": 1, "vocab_size": 4, "n_positions": 4}, llama()),
    }
    for name, (config, tensors) in cases.items():
        config = config if isinstance(config, bytes) else json.dumps(config).encode()
        seed("safetensors_header", name, config + b"\0" + safetensors(tensors))
    seed("safetensors_header", "cut_off", b"\0" + safetensors(llama())[:200])
    seed("safetensors_header", "huge_header", b"\0" + b"\xff" * 8 + b"{}")


def text(s):
    return struct.pack("<Q", len(s.encode())) + s.encode()


def array(kind, items):
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def gguf(keys, tensors, kind=0):
    """`keys`: name -> (type number, bytes); `tensors`: name -> dimensions, innermost first."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, (number, value) in keys.items():
        head += text(key) + struct.pack("<I", number) + value
    data = b""
    for name, dims in tensors.items():
        head += text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
        head += struct.pack("<IQ", kind, len(data))
        count = 1
        for size in dims:
            count *= size
        size = {0: 4 * count, 1: 2 * count, 8: 34 * count // 32}[kind]
        data += (b"\0\x3c" * size)[:size]
        data += b"\0" * (-len(data) % 32)
    return head + b"\0" * (-len(head) % 32) + data


def ggufs():
    def keys(arch="llama", model="gpt2", width=4, heads=2, more=None):
        number = lambda n: (4, struct.pack("<I", n))
        found = {"general.architecture": (8, text(arch))}
        for key, n in [("block_count", 1), ("context_length", 16), ("embedding_length", width), ("feed_forward_length", width)]:
            found[f"{arch}.{key}"] = number(n)
        found[f"{arch}.attention.head_count"] = number(heads)
        found[f"{arch}.attention.head_count_kv"] = number(heads)
        found[f"{arch}.attention.layer_norm_rms_epsilon"] = (6, struct.pack("<f", 1e-5))
        pieces = ["<s>", "a", "b", "c", "ab", "abc"] if model == "gpt2" else ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a"]
        kinds = [3, 1, 1, 1, 1, 1] if model == "gpt2" else [2, 3, 3, 6, 1, 1]
        found["tokenizer.ggml.model"] = (8, text(model))
        found["tokenizer.ggml.tokens"] = (9, array(8, [text(p) for p in pieces]))
        found["tokenizer.ggml.token_type"] = (9, array(5, [struct.pack("<i", k) for k in kinds]))
        if model == "gpt2":
            found["tokenizer.ggml.merges"] = (9, array(8, [text("a b"), text("ab c")]))
        else:
            found["tokenizer.ggml.scores"] = (9, array(6, [struct.pack("<f", -i) for i in range(6)]))
        found["tokenizer.ggml.bos_token_id"] = number(0)
        return found | (more or {})

    def tensors(width=4, biases=False, head=False):
        found = {"token_embd.weight": [width, 6], "output_norm.weight": [width]}
        for part in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]:
            found[f"blk.0.{part}.weight"] = [width, width]
        for part in ["attn_norm", "ffn_norm"]:
            found[f"blk.0.{part}.weight"] = [width]
        if biases:
            found |= {f"blk.0.attn_{p}.bias": [width] for p in "qkv"}
        return found | ({"output.weight": [width, 6]} if head else {})

    template = (8, text("{% for m in messages %}{{ m.content }}{% endfor %}"))
    seed("gguf", "llama", gguf(keys(), tensors()))
    seed("gguf", "llama_f16", gguf(keys(), tensors(), 1))
    seed("gguf", "llama_q8_0", gguf(keys(width=32), tensors(32), 8))
    seed("gguf", "llama_head", gguf(keys(), tensors(head=True)))
    seed("gguf", "llama_spm", gguf(keys(model="llama"), tensors()))
    seed("gguf", "qwen2", gguf(keys("qwen2"), tensors(biases=True)))
    seed("gguf", "qwen2_split", gguf(keys("qwen2", more={"tokenizer.ggml.pre": (8, text("qwen2"))}), tensors(biases=True)))
    seed("gguf", "template", gguf(keys(more={"tokenizer.chat_template": template}), tensors()))
    seed("gguf", "rope", gguf(keys(more={"llama.rope.scaling.type": (8, text("linear"))}), tensors()))
    seed("gguf", "rope_factors", gguf(keys(), tensors() | {"rope_freqs.weight": [1]}))
    seed("gguf", "alignment", gguf(keys(more={"general.alignment": (4, struct.pack("<I", 1 << 20))}), tensors()))
    seed("gguf", "split", gguf(keys(more={"split.count": (2, struct.pack("<H", 2))}), tensors()))
    seed("gguf", "heads_of_one", gguf(keys(heads=4), tensors()))
    seed("gguf", "cut_off", gguf(keys(), tensors())[:300])
    seed("gguf", "many_keys", b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60))


def recipes():
    head = '[base]\nmodel = "m"\n\n[data]\ntrain = "train.jsonl"\n'
    for name, more in {
        "least": "",
        "heldout": 'heldout = "heldout.jsonl"\n',
        "pattern": 'heldout_fraction = 0.5\n',
        "tables": '\n[[data.sources]]\npath = "train.jsonl"\nlimit = 3\n',
        "adapter": '\n[adapter]\nrank = 4\nalpha = 8.0\ntargets = "all-linear"\nmethod = "rslora"\ndropout = 0.1\n',
        "targets": '\n[adapter]\ntargets = ["q_proj", "v_proj"]\nlayers = [0, 1]\nrank_pattern = { "q_proj" = 2 }\n',
        "train": '\n[train]\nsteps = 4\nlr = 1e-3\nwarmup = 0.1\nschedule = "linear"\npacking = true\nmax_length = 64\n',
        "epochs": "\n[train]\nepochs = 0.5\nbatch_size = 1\naccumulate = 3\nclip = 0\nseed = 18446744073709551615\n",
        "template": '\n[template]\nkind = "alpaca"\nsystem = "Be short."\nroles_to_train = ["assistant"]\ntrain_on_eos = "last"\n',
        "output": '\n[output]\ndir = "out"\nname = "n"\nlicense = "MIT"\n\n[eval]\nexact_match = true\n',
        "mixture": '\n[data.mixture]\nstrategy = "proportional"\ncap = 10\ntemperature = 2\n',
        "replay": '\n[data.replay]\nsources = ["heldout.jsonl"]\nfraction = 0.2\n',
        "wrong_key": "\n[train]\nlrr = 1\n",
        "wrong_type": '\n[train]\nlr = "fast"\n',
        "nan": "\n[train]\nlr = nan\nclip = inf\nweight_decay = -1\n",
        "huge": "\n[train]\nsteps = 9223372036854775807\nmax_length = 9223372036854775807\n",
        "broken": "\n[train\n",
    }.items():
        seed("recipe", name, head + more)
    sources = '[base]\nmodel = "m"\n\n[data]\ntrain = [{ path = "train.jsonl", shape = "%s" }, "*.jsonl"]\n'
    for shape in ["alpaca", "sharegpt", "completion"]:
        seed("recipe", f"shape_{shape}", sources % shape)


def rows():
    chat = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]
    lines = {
        "messages": {"messages": chat},
        "sharegpt": {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes."}]},
        "alpaca": {"instruction": "Say.", "input": "it", "output": "It."},
        "completion": {"prompt": "a", "completion": "b"},
        "text": {"text": "Once."},
        "preference": {"prompt": "a", "chosen": chat[1:], "rejected": [{"role": "assistant", "content": "No."}]},
        "kto": {"prompt": chat[:1], "completion": chat[1:], "label": True},
        "tools": {"messages": chat[:1] + [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}], "tools": []},
        "ranked": {"instruction": "a", "replies": ["b", "c"], "scores": [1, 2]},
        "superni": {"Definition": ["Say it."], "Positive Examples": [], "Negative Examples": [], "Instances": [{"input": "a", "output": ["b"]}]},
        "flan": {"inputs": "a", "targets": "b", "task_name": "t"},
    }
    for name, row in lines.items():
        seed("rows", name, "0" + json.dumps(row) + "\n" + json.dumps(row) + "\n")
    two = [lines["alpaca"]] * 2
    seed("rows", "json_array", "1" + json.dumps(two, indent=1))
    seed("rows", "json_data", "1" + json.dumps({"version": 1, "data": two}))
    seed("rows", "csv", '2instruction,input,output\r\nSay,"it, now","It.\nYes"\r\n')
    seed("rows", "tsv", "3prompt\tcompletion\na\tb\n")
    seed("rows", "txt", "4One.\n\nTwo.\n")
    seed("rows", "md", "5# One\n\nTwo.\n")
    seed("rows", "parquet", b"6" + (DATA / "parquet/rows.parquet").read_bytes())
    seed("rows", "gzip", b"7" + gzip.compress(json.dumps(lines["text"]).encode() + b"\n", mtime=0))
    seed("rows", "mixed", "0" + json.dumps(lines["text"]) + "\n" + json.dumps(lines["alpaca"]) + "\n")
    seed("rows", "nested", "0" + '{"messages": ' + "[" * 200 + "]" * 200 + "}\n")
    seed("rows", "no_json", "0{\"prompt\": \n")
    seed("rows", "no_utf8", b"0{\"text\": \"\xff\"}\n")


def templates():
    said = "\0Hi?\nYes."
    chatml = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    for name, source in {
        "chatml": chatml + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        "llama2": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]{% else %} {{ m.content.strip() }}{{ eos_token }}{% endif %}{% endfor %}",
        "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
        "raise": "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}",
        "tojson": "{{ messages | tojson(indent=4, sort_keys=true) }}{{ tools | tojson }}",
        "huge_indent": "{{ messages | tojson(indent=99999999999999999) }}",
        "nested": "{% set ns = namespace(x=[]) %}{% for i in range(9) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "macro": "{% macro turn(m) %}<{{ m.role }}>{{ m.content }}{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}",
        "loop": "{% for a in range(99) %}{% for b in range(9) %}{{ a }}{% endfor %}{% endfor %}",
        "methods": "{{ 'abc'.title().center(9).split('b', 1) | join('-') }}{{ 'x'.zfill(3) }}{{ {'a': 1}.items() | list }}",
        "slices": "{{ messages[::-1] | length }}{{ 'abc'[1:] }}{{ messages | map(attribute='role') | list }}",
        "clock": "{{ strftime_now('%d %b %Y %%') }}",
        "format": "{{ '%05.2f %s' | format(1.5, 'x') }}{{ 1e300 * 1e10 }}{{ 7 // 2 }}{{ -7 % 3 }}",
        "calls": "{% for m in messages %}{% if m.tool_calls is defined %}{{ m.tool_calls[0].function | tojson }}{% endif %}{{ loop.index0 }}{% endfor %}",
        "replace": "{{ messages[0].content | replace('H', 'x' * 100) | indent(4) | truncate(9) }}",
        "syntax": "{% if %}",
    }.items():
        seed("chat_template", name, source + said)


adapters()
models()
ggufs()
recipes()
rows()
templates()
