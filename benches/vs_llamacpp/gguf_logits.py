#!/usr/bin/env python3
"""Log-probabilities of llama.cpp (xllamacpp) against those that transformers gave: gguf_logits.py FULL EXPECTED [NAME …].

FULL and EXPECTED are the folders of tests/data/scripts/gen_gguf.py (logits in FULL, with llama.cpp's own GELU, are preferred). Each position of a case is asked for in turn, as token ids, with a cache in F32
and without flash attention. NAME.gguf must agree; NAME.without THING.gguf must not, unless llama.cpp has the same value where the key is not there."""
import json, sys, urllib.request
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file
import xllamacpp as x


def serve(path):
    p = x.CommonParams()
    p.model.path, p.n_parallel, p.n_ctx, p.port, p.warmup = str(path), 1, 256, 0, False
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
    p.cache_type_k = p.cache_type_v = x.ggml_type.GGML_TYPE_F32
    p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return x.Server(p)


def logps(server, ids, vocabulary):
    body = {"prompt": ids, "n_predict": 1, "n_probs": vocabulary, "temperature": 0.0, "cache_prompt": False, "ignore_eos": False}
    ask = urllib.request.Request(server.listening_address + "/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
    answer = json.load(urllib.request.urlopen(ask))
    found = answer.get("completion_probabilities")
    if not found: return None                     # the likeliest id ends the text
    out = np.full(vocabulary, np.nan)
    for t in found[0]["top_logprobs"]: out[t["id"]] = t["logprob"]
    return out


def compared(path, expected):
    """The largest difference, and of how many positions."""
    try: server = serve(path)
    except Exception as e: return None, str(e)
    ids, want = expected["input_ids"][0].tolist(), expected["logits"][0].astype(np.float64)
    want -= np.log(np.exp(want).sum(-1, keepdims=True))
    worst, count = 0.0, 0
    for n in range(1, len(ids) + 1):
        got = logps(server, ids[:n], want.shape[1])
        if got is not None: worst, count = max(worst, np.abs(got - want[n - 1]).max()), count + 1
    return worst, count


def main():
    full, folder, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    for name in sorted({path.stem for of in (folder, full) for path in of.glob("*.safetensors")}):
        if names and name not in names: continue
        table = full / f"{name}.safetensors"
        expected = load_file(table if table.exists() else folder / f"{name}.safetensors")
        for file in [full / f"{name}.gguf", *sorted(full.glob(f"{name}.without *.gguf"))]:
            worst, count = compared(file, expected)
            print(f"{file.stem:45} " + (f"{worst:.2e} at {count} positions" if worst is not None else f"refused: {count}"), flush=True)


if __name__ == "__main__":
    main()
