#!/usr/bin/env python3
"""llama.cpp's server through xllamacpp, two threads: llamacpp_server.py MODEL.gguf SLOTS [LORA.gguf …]; prints its address, ends with its input."""
import sys
import xllamacpp as x

params = x.CommonParams()
params.model.path, params.n_parallel = sys.argv[1], int(sys.argv[2])
params.n_ctx, params.port = 2048 * params.n_parallel, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
params.lora_init_without_apply = True
loras = []
for path in sys.argv[3:]:
    lora = x.CommonAdapterLoraInfo(path, 0.0)
    loras.append(lora)
params.lora_adapters = loras
server = x.Server(params)
print("address", server.listening_address, flush=True)
sys.stdin.read()
