"""One tiny model a case, of many families: irregular shapes, and every switch of the family on and of an effect that can be seen."""
from dataclasses import dataclass, field
import transformers as tf

VOCAB = 24


@dataclass
class Case:
    """A configuration, and how its model differs in making: `kind` names the modules that adapters take (`gen_adapters.QV`),
    `controls` are changes of the configuration, each of which must show in the logits."""
    config: type
    given: dict
    controls: dict = field(default_factory=dict)
    kind: str = "llama"
    first: bool = True             # the first case of its family: all variants of adapters
    zero_centred: bool = False     # norm weights are stored as w - 1
    embedding: float | None = None
    first_seed: int = 0            # of the seeds that are tried
    untied: bool = False           # the head is no view of the embedding, whatever the class makes of the configuration
    rounding: float | None = None  # most that f32 may change a gradient, in what `lorakit conform` allows

    def make(self, **changed):
        return self.config(**{**self.given, **changed})


def shape(width, heads, kv, inner, layers=3, tie=False, **more):
    return dict(vocab_size=VOCAB, hidden_size=width, num_attention_heads=heads, num_key_value_heads=kv, intermediate_size=inner,
                num_hidden_layers=layers, tie_word_embeddings=tie, max_position_embeddings=more.pop("longest", 64), bos_token_id=1, eos_token_id=2,
                pad_token_id=0, **more)


def rope(theta, kind="default", **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


def layers(letters):
    """`fs`: a layer of full attention, then one of a sliding window (`l`: of linear attention)."""
    names = {"f": "full_attention", "s": "sliding_attention", "l": "linear_attention"}
    return {"layer_types": [names[c] for c in letters]}


def yarn(theta, original, **more):
    return rope(theta, "yarn", factor=4.0, original_max_position_embeddings=original, **more)


def by_layer(full, sliding):
    return {"rope_parameters": {"full_attention": full["rope_parameters"], "sliding_attention": sliding["rope_parameters"]}}


def ministral3(**changed):
    return yarn(70.0, 8, **{**LLAMA4, **changed})


EPS, THETA = {"rms_norm_eps": 1e-6}, rope(10000.0)
LN_EPS = {"layer_norm_eps": 1e-6}
SHORT, LONG = [1.0, 1.5, 2.5], [1.1, 3.0, 8.0]
GEMMA3_ROPE = by_layer(rope(90.0, "linear", factor=3.0), rope(20.0))
OLMO3_YARN = yarn(70.0, 16, beta_fast=0.5, beta_slow=0.05)
LLAMA4 = dict(beta_fast=0.5, beta_slow=0.1, mscale=1.0, mscale_all_dim=0.4, llama_4_scaling_beta=0.6)
BETAS = dict(beta_fast=1.5, beta_slow=0.25)

GEMMA4_ROPE = by_layer(rope(90.0, "proportional", partial_rotary_factor=0.5), rope(20.0))
T5 = dict(vocab_size=VOCAB, d_model=16, d_kv=6, d_ff=14, num_layers=3, num_decoder_layers=2, num_heads=3, relative_attention_num_buckets=8,
          relative_attention_max_distance=16, dropout_rate=0.0, layer_norm_epsilon=0.02, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)

CASES = {
    "qwen3": Case(tf.Qwen3Config, dict(shape(18, 6, 3, 10, head_dim=6, attention_bias=True, rms_norm_eps=0.02), **rope(50.0),
                  use_sliding_window=True, sliding_window=7, max_window_layers=2),
                  {"eps": EPS, "theta": THETA, "window": {"sliding_window": 64}, "window one shorter": {"sliding_window": 6},
                   "windows elsewhere": layers("sff")}),
    "gemma": Case(tf.GemmaConfig, dict(shape(16, 4, 1, 10, tie=True, head_dim=10, attention_bias=True, rms_norm_eps=0.02,
                  hidden_act="gelu_pytorch_tanh"), **rope(60.0)),
                  {"eps": EPS, "theta": THETA, "erf gelu": {"hidden_act": "gelu_python"}, "silu": {"hidden_act": "silu"}}, zero_centred=True, embedding=0.15),
    "gemma3_text": Case(tf.Gemma3TextConfig, dict(shape(16, 4, 1, 10, 4, tie=True, head_dim=10, attention_bias=True, rms_norm_eps=0.02,
                        query_pre_attn_scalar=5, sliding_window=5, final_logit_softcapping=1.5), **GEMMA3_ROPE, **layers("sfss")),
                        {"eps": EPS, "scalar of head": {"query_pre_attn_scalar": 10}, "softcap": {"final_logit_softcapping": None},
                         "window": {"sliding_window": 64}, "window one shorter": {"sliding_window": 4}, "windows elsewhere": layers("fsss"),
                         "global rope": by_layer(rope(20.0), rope(20.0)), "local rope": by_layer(rope(90.0, "linear", factor=3.0), rope(90.0)),
                         "linear scaling": by_layer(rope(90.0), rope(20.0))}, zero_centred=True, embedding=0.06),
    "mistral": Case(tf.MistralConfig, dict(shape(18, 6, 3, 10, head_dim=6, rms_norm_eps=0.02, sliding_window=7), **rope(50.0)),
                    {"eps": EPS, "theta": THETA, "window": {"sliding_window": None}, "window one shorter": {"sliding_window": 6}}),
    "ministral3": Case(tf.Ministral3Config, dict(shape(16, 4, 1, 10, head_dim=10, rms_norm_eps=0.02, sliding_window=9),
                       **ministral3()),
                       {"eps": EPS, "window": {"sliding_window": None}, "yarn": rope(70.0, original_max_position_embeddings=8, llama_4_scaling_beta=0.6),
                        "query scale": ministral3(llama_4_scaling_beta=0.0), "mscale": ministral3(mscale_all_dim=1.0),
                        "betas": ministral3(beta_fast=32.0, beta_slow=1.0)}),
    "phi3": Case(tf.Phi3Config, dict(shape(24, 4, 1, 10, longest=100, rms_norm_eps=0.02, original_max_position_embeddings=40, sliding_window=11),
                 **rope(50.0, "longrope", short_factor=SHORT, long_factor=LONG)),
                 {"eps": EPS, "window": {"sliding_window": None}, "attention factor": {"max_position_embeddings": 40},
                  "short factors": rope(50.0, "longrope", short_factor=LONG, long_factor=LONG), "theta": rope(500.0, "longrope", short_factor=SHORT, long_factor=LONG)},
                 kind="phi3"),
    "phi4-mini": Case(tf.Phi3Config, dict(shape(24, 3, 1, 10, tie=True, longest=100, rms_norm_eps=0.02, original_max_position_embeddings=40),
                      **rope(50.0, "longrope", short_factor=SHORT, long_factor=LONG, partial_rotary_factor=0.75)),
                      {"eps": EPS, "part": rope(50.0, "longrope", short_factor=[*SHORT, 2.0], long_factor=[*LONG, 2.0], partial_rotary_factor=1.0),
                       "attention factor": {"max_position_embeddings": 40}}, kind="phi3", first=False),
    "granite": Case(tf.GraniteConfig, dict(shape(24, 6, 3, 10, tie=True, attention_bias=True, mlp_bias=True, rms_norm_eps=0.02, embedding_multiplier=3.0,
                    logits_scaling=0.7, residual_multiplier=0.6, attention_multiplier=0.25), **rope(50.0)),
                    {"eps": EPS, "theta": THETA, "embedding multiplier": {"embedding_multiplier": 1.0}, "logits scaling": {"logits_scaling": 1.0},
                     "residual multiplier": {"residual_multiplier": 1.0}, "attention multiplier": {"attention_multiplier": 0.5}}),
    "olmo2": Case(tf.Olmo2Config, dict(shape(24, 4, 1, 10, attention_bias=True, rms_norm_eps=0.02), **rope(50.0)), {"eps": EPS, "theta": THETA}),
    "olmo3": Case(tf.Olmo3Config, dict(shape(24, 3, 1, 10, 4, attention_bias=True, rms_norm_eps=0.02, sliding_window=5), **by_layer(OLMO3_YARN, rope(70.0)), **layers("sfss")),
                  {"eps": EPS, "window": {"sliding_window": 64}, "window one shorter": {"sliding_window": 4}, "windows elsewhere": layers("ssfs"),
                   "yarn": by_layer(rope(70.0), rope(70.0)), "yarn everywhere": by_layer(OLMO3_YARN, OLMO3_YARN), "betas": by_layer(yarn(70.0, 16), rope(70.0))}),
    "smollm3": Case(tf.SmolLM3Config, dict(shape(24, 4, 1, 10, 4, tie=True, attention_bias=True, mlp_bias=True, rms_norm_eps=0.02, use_sliding_window=True,
                    sliding_window=7, no_rope_layers=[0, 1, 1, 0]), **rope(50.0), **layers("fsfs")),
                    {"eps": EPS, "theta": THETA, "rope everywhere": {"no_rope_layers": [1, 1, 1, 1]}, "rope elsewhere": {"no_rope_layers": [1, 0, 0, 1]},
                     "window": {"sliding_window": 64}, "windows elsewhere": layers("sfff")}, first_seed=5),
    "glm4": Case(tf.Glm4Config, dict(shape(16, 4, 1, 10, head_dim=10, attention_bias=True, rms_norm_eps=0.02), **rope(50.0, partial_rotary_factor=0.6)),
                 {"eps": EPS, "theta": rope(10000.0, partial_rotary_factor=0.6), "part": rope(50.0, partial_rotary_factor=1.0)}, kind="glm4"),
    "starcoder2": Case(tf.Starcoder2Config, dict(shape(24, 6, 3, 10, tie=True, use_bias=True, norm_epsilon=0.02, sliding_window=7), **rope(50.0)),
                       {"eps": {"norm_epsilon": 1e-6}, "theta": THETA, "window": {"sliding_window": None}, "window one shorter": {"sliding_window": 6},
                        "silu": {"hidden_act": "silu"}, "erf gelu": {"hidden_act": "gelu"}}, kind="starcoder2"),
    "stablelm": Case(tf.StableLmConfig, dict(shape(24, 3, 1, 10, layer_norm_eps=0.02, use_qkv_bias=True), **rope(50.0, partial_rotary_factor=0.5)),
                     {"eps": LN_EPS, "part": rope(50.0, partial_rotary_factor=1.0), "theta": rope(1e4, partial_rotary_factor=0.5)}),
    "stablelm-parallel": Case(tf.StableLmConfig, dict(shape(24, 3, 3, 10, layer_norm_eps=0.02, use_parallel_residual=True), **rope(50.0, partial_rotary_factor=0.25)),
                              {"eps": LN_EPS, "part": rope(50.0, partial_rotary_factor=1.0), "parallel": {"use_parallel_residual": False}}, first=False),
    "stablelm-qk": Case(tf.StableLmConfig, dict(shape(24, 6, 3, 10, layer_norm_eps=0.02, qk_layernorm=True), **rope(50.0, partial_rotary_factor=0.5)),
                        {"eps": LN_EPS, "part": rope(50.0, partial_rotary_factor=1.0), "qk norm": {"qk_layernorm": False}}, first=False),
    "cohere": Case(tf.CohereConfig, dict(shape(24, 4, 1, 10, tie=True, layer_norm_eps=0.02, logit_scale=0.6, attention_bias=True, use_qk_norm=True), **rope(50.0)),
                   {"eps": LN_EPS, "theta": THETA, "logit scale": {"logit_scale": 1.0}, "qk norm": {"use_qk_norm": False}}, embedding=0.3),
    "cohere-plain": Case(tf.CohereConfig, dict(shape(24, 6, 3, 10, tie=True, layer_norm_eps=0.02, logit_scale=0.6), **rope(50.0)),
                         {"eps": LN_EPS, "theta": THETA, "logit scale": {"logit_scale": 1.0}}, first=False, embedding=0.3),
    "cohere2": Case(tf.Cohere2Config, dict(shape(24, 4, 1, 10, 4, tie=True, layer_norm_eps=0.02, logit_scale=0.6, attention_bias=True, sliding_window=5),
                    **rope(50.0), **layers("fssf")),
                    {"eps": LN_EPS, "theta": THETA, "logit scale": {"logit_scale": 1.0}, "window": {"sliding_window": 64},
                     "window one shorter": {"sliding_window": 4}, "no rope in full layers": layers("ssss")}, embedding=0.3),
    "gpt_neox": Case(tf.GPTNeoXConfig, dict(shape(24, 3, 3, 10, layer_norm_eps=0.02, use_parallel_residual=True), **rope(50.0, partial_rotary_factor=0.5)),
                     {"eps": LN_EPS, "theta": rope(1e4, partial_rotary_factor=0.5), "part": rope(50.0, partial_rotary_factor=1.0),
                      "parallel": {"use_parallel_residual": False}, "tanh gelu": {"hidden_act": "gelu_pytorch_tanh"}}, kind="gpt_neox"),
    "gpt_neox-sequential": Case(tf.GPTNeoXConfig, dict(shape(24, 4, 4, 10, layer_norm_eps=0.02, use_parallel_residual=False), **rope(50.0, partial_rotary_factor=0.7)),
                                {"eps": LN_EPS, "part": rope(50.0, partial_rotary_factor=1.0), "parallel": {"use_parallel_residual": True}},
                                kind="gpt_neox", first=False),
    "llama-yarn": Case(tf.LlamaConfig, dict(shape(16, 4, 1, 10, longest=128, head_dim=10, rms_norm_eps=0.02), **yarn(70.0, 32, **BETAS)),
                       {"eps": EPS, "yarn": rope(70.0), "attention factor": yarn(70.0, 32, **BETAS, attention_factor=1.0), "betas": yarn(70.0, 32)}, first=False),
    "llama-bias": Case(tf.LlamaConfig, dict(shape(18, 6, 3, 10, head_dim=6, rms_norm_eps=0.02, attention_bias=True, mlp_bias=True), **rope(50.0)),
                       {"eps": EPS, "theta": THETA}, first=False),
    "qwen2-window": Case(tf.Qwen2Config, dict(shape(24, 4, 1, 10, rms_norm_eps=0.02, use_sliding_window=True, sliding_window=7, max_window_layers=1), **rope(50.0)),
                         {"eps": EPS, "theta": THETA, "window": {"sliding_window": 64}, "windows elsewhere": layers("fff"),
                          "window one shorter": {"sliding_window": 6}}, first=False),
    "gemma4_text": Case(tf.Gemma4TextConfig, dict(shape(16, 4, 1, 10, 5, tie=True, head_dim=8, global_head_dim=12, attention_bias=True, rms_norm_eps=0.02,
                        sliding_window=5, final_logit_softcapping=1.5, hidden_size_per_layer_input=6, vocab_size_per_layer_input=VOCAB,
                        num_kv_shared_layers=2, use_double_wide_mlp=True), **GEMMA4_ROPE, **layers("sfssf")),
                        {"eps": EPS, "softcap": {"final_logit_softcapping": None}, "window": {"sliding_window": 64}, "window one shorter": {"sliding_window": 4},
                         "shared keys": {"num_kv_shared_layers": 0, "use_double_wide_mlp": False},
                         "global rope": by_layer(rope(90.0, "proportional", partial_rotary_factor=1.0), rope(20.0)),
                         "local rope": by_layer(rope(90.0, "proportional", partial_rotary_factor=0.5), rope(90.0))}, embedding=0.06),
    "gemma4_text-moe": Case(tf.Gemma4TextConfig, dict(shape(18, 6, 3, 10, 3, tie=True, head_dim=6, global_head_dim=8, num_global_key_value_heads=2,
                            rms_norm_eps=0.02, sliding_window=5, final_logit_softcapping=1.5, hidden_size_per_layer_input=0, attention_k_eq_v=True,
                            enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=6), **GEMMA4_ROPE, **layers("fsf")),
                            {"eps": EPS, "experts": {"enable_moe_block": False}, "second expert": {"top_k_experts": 1}, "windows": {"sliding_window": 64}},
                            first=False, embedding=0.15),
    "qwen3_moe": Case(tf.Qwen3MoeConfig, dict(shape(18, 6, 3, 10, head_dim=6, attention_bias=True, rms_norm_eps=0.02, num_experts=5, num_experts_per_tok=2,
                      moe_intermediate_size=6, norm_topk_prob=True, mlp_only_layers=[1]), **rope(50.0)),
                      {"eps": EPS, "theta": THETA, "norm of weights": {"norm_topk_prob": False}, "second expert": {"num_experts_per_tok": 1}}, first=False),
    "mixtral": Case(tf.MixtralConfig, dict(shape(16, 4, 1, 8, head_dim=10, rms_norm_eps=0.02, num_local_experts=4, num_experts_per_tok=2, sliding_window=7), **rope(50.0)),
                    {"eps": EPS, "theta": THETA, "second expert": {"num_experts_per_tok": 1}, "window": {"sliding_window": None}}, first=False),
    "gpt_oss": Case(tf.GptOssConfig, dict(shape(16, 4, 1, 8, head_dim=10, rms_norm_eps=0.02, num_local_experts=4, num_experts_per_tok=2, sliding_window=5,
                    swiglu_alpha=1.3, swiglu_limit=0.8, attention_bias=True), **yarn(70.0, 32, **BETAS, truncate=False), **layers("ssf")),
                    {"eps": EPS, "window": {"sliding_window": 64}, "windows elsewhere": layers("fss"), "yarn": rope(70.0), "truncated yarn": yarn(70.0, 32, **BETAS, truncate=True),
                     "second expert": {"num_experts_per_tok": 1}, "alpha": {"swiglu_alpha": 1.702}, "limit": {"swiglu_limit": 7.0}}, first=False),
    "qwen3_5_text": Case(tf.Qwen3_5TextConfig, dict(shape(16, 4, 1, 10, 4, head_dim=10, attention_bias=True, rms_norm_eps=0.02, linear_conv_kernel_dim=3,
                         linear_key_head_dim=4, linear_value_head_dim=6, linear_num_key_heads=2, linear_num_value_heads=4),
                         **rope(50.0, partial_rotary_factor=0.6), **layers("llfl")),
                         {"eps": EPS, "theta": rope(1e4, partial_rotary_factor=0.6), "part": rope(50.0, partial_rotary_factor=1.0)}, kind="qwen3_5", zero_centred=True, first_seed=5),
    "t5": Case(tf.T5Config, dict(T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
               {"eps": {"layer_norm_epsilon": 1e-6}, "buckets": {"relative_attention_max_distance": 64}, "relu": {"feed_forward_proj": "gated-relu"}}, kind="t5", untied=True, rounding=0.2),
    "t5-relu": Case(tf.T5Config, dict(T5, feed_forward_proj="relu", tie_word_embeddings=True),
                    {"eps": {"layer_norm_epsilon": 1e-6}, "buckets": {"relative_attention_max_distance": 64}, "gelu": {"feed_forward_proj": "gelu_new"},
                     "scale of a tied head": {"tie_word_embeddings": False}}, kind="t5", first=False, embedding=0.5),
}
