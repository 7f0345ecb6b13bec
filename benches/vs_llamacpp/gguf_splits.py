#!/usr/bin/env python3
"""Ids that llama.cpp (xllamacpp) and `lorakit serve` make of texts, by `tokenizer.ggml.pre`: gguf_splits.py LORAKIT VOCABULARY.gguf TEXT…

VOCABULARY is a byte-level one (`ggml-vocab-gpt-2.gguf`); a tiny random model is put around it under each name."""
import json, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path
import gguf
import numpy as np
import xllamacpp as x

NAMES = ["gpt-2", "olmo", "smollm", "starcoder", "refact", "command-r", "llama-bpe", "smaug-bpe", "dbrx", "glm4", "chatglm-bpe", "qwen2", "stablelm2", "qwen35", "tekken", "gpt-4o"]
SIZES = {"block_count": 1, "context_length": 256, "embedding_length": 16, "feed_forward_length": 16, "attention.head_count": 2, "attention.head_count_kv": 2}


def model(path, vocabulary, name):
    """A llama of one layer with this vocabulary."""
    w = gguf.GGUFWriter(path, "llama")
    for key, value in SIZES.items(): w.add_uint32(f"llama.{key}", value)
    w.add_layer_norm_rms_eps(1e-5)
    f = vocabulary.fields
    tokens = f["tokenizer.ggml.tokens"].contents()
    w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre(name); w.add_add_bos_token(False)
    w.add_token_list(tokens); w.add_token_types(f["tokenizer.ggml.token_type"].contents()); w.add_token_merges(f["tokenizer.ggml.merges"].contents())
    w.add_bos_token_id(len(tokens) - 1); w.add_eos_token_id(len(tokens) - 1)
    random = np.random.default_rng(0)
    for tensor in ["token_embd", "output_norm", *(f"blk.0.{part}" for part in ("attn_norm", "ffn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"))]:
        shape = (len(tokens), 16) if tensor == "token_embd" else (16,) if "norm" in tensor else (16, 16)
        w.add_tensor(f"{tensor}.weight", random.standard_normal(shape).astype(np.float32))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


def post(address, path, body):
    ask = urllib.request.Request(address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(ask))


def compared(lorakit, path, texts):
    p = x.CommonParams()
    p.model.path, p.n_parallel, p.n_ctx, p.port, p.warmup = path, 1, 256, 0, False
    theirs = x.Server(p)
    ours, process = "http://127.0.0.1:18479", subprocess.Popen([lorakit, "serve", "--model", path, "--listen", "127.0.0.1:18479"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try: name = json.load(urllib.request.urlopen(ours + "/v1/models"))["data"][0]["id"]; break
            except OSError: time.sleep(0.1)
        differ = []
        for text in texts:
            a = post(ours, "/tokenize", {"model": name, "prompt": text, "add_special_tokens": False})["tokens"]
            if a != post(theirs.listening_address, "/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]: differ.append(text)
        return differ
    finally:
        process.terminate(); process.wait()


def main():
    lorakit, vocabulary, texts = sys.argv[1], gguf.GGUFReader(sys.argv[2]), []
    for file in sys.argv[3:]:
        text = Path(file).read_text(encoding="utf-8", errors="ignore")[:400_000]
        texts += [text[i:i + 400] for i in range(0, len(text), 1600)]
    with tempfile.TemporaryDirectory() as d:
        for name in NAMES:
            model(f"{d}/m.gguf", vocabulary, name)
            differ = compared(lorakit, f"{d}/m.gguf", texts)
            print(f"{name:12} {len(differ)} of {len(texts)} pieces of text differ", *(repr(t[:50]) for t in differ[:2]), flush=True)


if __name__ == "__main__":
    main()
