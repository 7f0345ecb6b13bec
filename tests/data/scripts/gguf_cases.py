"""One tiny model a GGUF architecture: what llama.cpp can compute of its family, with every switch on."""
from families import Case, GEMMA4_ROPE, LN_EPS, LONG, SHORT, VOCAB, by_layer, layers, rope, shape, yarn
import transformers as tf

MISTRAL3 = dict(mscale=1.0, llama_4_scaling_beta=0.6, beta_fast=0.5, beta_slow=0.1)
GPT_OSS = dict(shape(16, 4, 1, 12, 4, longest=2048, head_dim=10, rms_norm_eps=0.02, num_local_experts=4, num_experts_per_tok=2, sliding_window=5, attention_bias=True),
               **layers("sfsf"))
QWEN35 = dict(shape(16, 4, 1, 10, 4, head_dim=10, rms_norm_eps=0.02, linear_num_key_heads=2, linear_num_value_heads=6), **layers("llfl"),
              **rope(50.0, partial_rotary_factor=0.6, mrope_section=[1, 1, 1], mrope_interleaved=True))
LONGEST, ORIGINAL = 1000, 512      # llama.cpp takes the short factors up to the length before scaling; its contexts begin at 256


def linear(theta, factor):
    return rope(theta, "linear", factor=factor)


# name: (architecture, configuration)
CASES = {
    "llama": ("llama", Case(tf.LlamaConfig, dict(shape(18, 6, 3, 10, head_dim=6, rms_norm_eps=0.02, attention_bias=True, mlp_bias=True), **rope(50.0)))),
    "llama-yarn": ("llama", Case(tf.LlamaConfig, dict(shape(16, 4, 1, 10, longest=128, head_dim=10, rms_norm_eps=0.02), **yarn(70.0, 32)))),
    "mistral": ("llama", Case(tf.MistralConfig, dict(shape(18, 6, 3, 10, head_dim=6, rms_norm_eps=0.02, sliding_window=None), **rope(50.0)))),
    "mistral3": ("mistral3", Case(tf.Ministral3Config, dict(shape(16, 4, 1, 10, head_dim=10, rms_norm_eps=0.02, sliding_window=None),
                 **yarn(70.0, 8, mscale_all_dim=0.4, **MISTRAL3)))),
    "mistral3-plain": ("mistral3", Case(tf.MistralConfig, dict(shape(18, 6, 3, 10, head_dim=6, rms_norm_eps=0.02, sliding_window=None), **rope(50.0)))),
    "qwen2": ("qwen2", Case(tf.Qwen2Config, dict(shape(24, 4, 1, 10, rms_norm_eps=0.02), **rope(50.0)))),
    "qwen3": ("qwen3", Case(tf.Qwen3Config, dict(shape(18, 6, 3, 10, head_dim=6, rms_norm_eps=0.02), **rope(50.0)))),
    "qwen3moe": ("qwen3moe", Case(tf.Qwen3MoeConfig, dict(shape(18, 6, 3, 10, head_dim=6, rms_norm_eps=0.02, num_experts=5, num_experts_per_tok=2,
                 moe_intermediate_size=8, norm_topk_prob=True, mlp_only_layers=[]), **rope(50.0)))),
    "qwen35": ("qwen35", Case(tf.Qwen3_5TextConfig, dict(QWEN35, linear_conv_kernel_dim=3, linear_key_head_dim=4, linear_value_head_dim=4), zero_centred=True)),
    "qwen35-blocks": ("qwen35", Case(tf.Qwen3_5TextConfig, dict(QWEN35, linear_conv_kernel_dim=4, linear_key_head_dim=16, linear_value_head_dim=16, mtp_num_hidden_layers=1),
                      zero_centred=True)),
    "mixtral": ("llama", Case(tf.MixtralConfig, dict(shape(16, 4, 1, 8, head_dim=10, rms_norm_eps=0.02, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
                **rope(50.0)))),
    "gpt-oss": ("gpt-oss", Case(tf.GptOssConfig, dict(GPT_OSS, **yarn(50.0, 512, truncate=False)))),
    "gpt-oss-mxfp4": ("gpt-oss", Case(tf.GptOssConfig, dict(shape(32, 2, 1, 32, 2, longest=2048, head_dim=10, rms_norm_eps=0.02, num_local_experts=3, num_experts_per_tok=2,
                      sliding_window=5, attention_bias=True), **layers("sf"), **yarn(50.0, 512, truncate=False)))),
    "gemma": ("gemma", Case(tf.GemmaConfig, dict(shape(16, 4, 1, 10, tie=True, head_dim=10, rms_norm_eps=0.02, hidden_act="gelu_pytorch_tanh"), **rope(10000.0)),
              zero_centred=True, embedding=0.15)),
    "gemma2": ("gemma2", Case(tf.Gemma2Config, dict(shape(16, 4, 2, 10, 3, tie=True, head_dim=10, rms_norm_eps=0.02, query_pre_attn_scalar=10, sliding_window=5,
               attn_logit_softcapping=2.0, final_logit_softcapping=1.5), **rope(60.0)), zero_centred=True, embedding=0.06)),
    "gemma3": ("gemma3", Case(tf.Gemma3TextConfig, dict(shape(12, 3, 1, 8, 6, tie=True, head_dim=8, rms_norm_eps=0.02, query_pre_attn_scalar=8, sliding_window=5),
               **by_layer(linear(90.0, 3.0), rope(20.0)), **layers("sssssf")), zero_centred=True, embedding=0.06)),
    "gemma4": ("gemma4", Case(tf.Gemma4TextConfig, dict(shape(16, 4, 1, 10, 5, tie=True, head_dim=8, global_head_dim=12, rms_norm_eps=0.02, sliding_window=5,
               final_logit_softcapping=1.5, hidden_size_per_layer_input=6, vocab_size_per_layer_input=VOCAB, num_kv_shared_layers=2, use_double_wide_mlp=True),
               **GEMMA4_ROPE, **layers("ssfsf")), embedding=0.06)),
    "gemma4-moe": ("gemma4", Case(tf.Gemma4TextConfig, dict(shape(18, 6, 3, 10, 3, tie=True, head_dim=6, global_head_dim=8, num_global_key_value_heads=2, rms_norm_eps=0.02,
                   sliding_window=5, final_logit_softcapping=1.5, hidden_size_per_layer_input=0, attention_k_eq_v=True, enable_moe_block=True, num_experts=4,
                   top_k_experts=2, moe_intermediate_size=6), **GEMMA4_ROPE, **layers("fsf")), embedding=0.3)),
    "phi3": ("phi3", Case(tf.Phi3Config, dict(shape(24, 4, 1, 10, longest=LONGEST, rms_norm_eps=0.02, original_max_position_embeddings=ORIGINAL, sliding_window=None),
             **rope(50.0, "longrope", short_factor=SHORT, long_factor=LONG)))),
    "phi4-mini": ("phi3", Case(tf.Phi3Config, dict(shape(24, 3, 1, 10, tie=True, longest=LONGEST, rms_norm_eps=0.02, original_max_position_embeddings=ORIGINAL, sliding_window=None),
                  **rope(50.0, "longrope", short_factor=SHORT, long_factor=LONG, partial_rotary_factor=0.75)))),
    "granite": ("granite", Case(tf.GraniteConfig, dict(shape(24, 6, 3, 10, tie=True, attention_bias=True, mlp_bias=True, rms_norm_eps=0.02, embedding_multiplier=3.0,
                logits_scaling=0.7, residual_multiplier=0.6, attention_multiplier=0.25), **rope(50.0)))),
    "olmo2": ("olmo2", Case(tf.Olmo2Config, dict(shape(24, 4, 1, 10, rms_norm_eps=0.02), **rope(50.0)))),
    "olmo3": ("olmo2", Case(tf.Olmo3Config, dict(shape(24, 3, 1, 10, 4, rms_norm_eps=0.02, sliding_window=5),
              **by_layer(yarn(70.0, 16), rope(70.0)), **layers("sfss")))),
    "smollm3": ("smollm3", Case(tf.SmolLM3Config, dict(shape(24, 4, 1, 10, 4, tie=True, rms_norm_eps=0.02, use_sliding_window=False,
                no_rope_layers=[1, 1, 1, 0]), **rope(50.0)))),
    "glm4": ("glm4", Case(tf.Glm4Config, dict(shape(16, 4, 1, 10, head_dim=10, attention_bias=True, rms_norm_eps=0.02), **rope(50.0, partial_rotary_factor=0.6)))),
    "starcoder2": ("starcoder2", Case(tf.Starcoder2Config, dict(shape(24, 6, 3, 10, tie=True, use_bias=True, norm_epsilon=0.02, sliding_window=None), **rope(50.0)))),
    "stablelm": ("stablelm", Case(tf.StableLmConfig, dict(shape(24, 3, 1, 10, layer_norm_eps=0.02, use_qkv_bias=True), **rope(50.0, partial_rotary_factor=0.5)))),
    "stablelm-parallel": ("stablelm", Case(tf.StableLmConfig, dict(shape(24, 6, 3, 10, layer_norm_eps=0.02, qk_layernorm=True, use_parallel_residual=True),
                          **rope(50.0, partial_rotary_factor=0.5)))),
    "command-r": ("command-r", Case(tf.CohereConfig, dict(shape(24, 4, 1, 10, tie=True, layer_norm_eps=0.02, logit_scale=0.6), **rope(50.0)), embedding=0.3)),
    "command-r-norms": ("command-r", Case(tf.CohereConfig, dict(shape(24, 4, 1, 10, tie=True, layer_norm_eps=0.02, logit_scale=0.6, use_qk_norm=True), **rope(50.0)), embedding=0.3)),
    "cohere2": ("cohere2", Case(tf.Cohere2Config, dict(shape(24, 4, 1, 10, 4, tie=True, layer_norm_eps=0.02, logit_scale=0.6, sliding_window=5),
                **rope(50.0), **layers("sssf")), embedding=0.3)),
    "gptneox": ("gptneox", Case(tf.GPTNeoXConfig, dict(shape(24, 3, 3, 10, layer_norm_eps=0.02, use_parallel_residual=True), **rope(50.0, partial_rotary_factor=0.5)), kind="gpt_neox")),
    "gptneox-sequential": ("gptneox", Case(tf.GPTNeoXConfig, dict(shape(24, 4, 4, 10, layer_norm_eps=0.02, use_parallel_residual=False),
                           **rope(50.0, partial_rotary_factor=0.7)), kind="gpt_neox")),
    "gpt2": ("gpt2", Case(tf.GPT2Config, dict(vocab_size=24, n_positions=64, n_embd=24, n_layer=3, n_head=3, n_inner=10, layer_norm_epsilon=0.02, resid_pdrop=0.0,
             embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2, pad_token_id=0), kind="gpt2")),
}

# Only for llama.cpp, which reads norms of queries and keys of this architecture in models of 64 layers and more, and does not open `command-r-norms`;
# and which rounds the ends of yarn's ramp, as gpt-oss does not.
LARGE = {
    "gpt-oss-rounded": ("gpt-oss", Case(tf.GptOssConfig, dict(GPT_OSS, **yarn(50.0, 512, truncate=True)))),
    "command-r-norms-large": ("command-r", Case(tf.CohereConfig, dict(shape(8, 2, 1, 4, 64, tie=True, layer_norm_eps=0.02, logit_scale=0.6, use_qk_norm=True), **rope(50.0)), embedding=0.3)),
}
