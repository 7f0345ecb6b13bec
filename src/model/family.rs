//! What families of models differ in: a row of names and choices each, not a copy of the code. The rows are [`super::families`].

/// A family's names (as in its Hugging Face directory) and structural choices.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Its class in transformers, as `architectures` in `config.json` has it.
    pub class: &'static str,
    pub embedding: &'static str,
    /// Learned position embedding.
    pub positions: Option<&'static str>,
    /// Prefix of the blocks: `{layers}.{i}.{name}`.
    pub layers: &'static str,
    /// Norm before attention; without one it reads the sum of the blocks before.
    pub attention_norm: Option<&'static str>,
    pub attention: AttentionNames,
    pub head_norms: Option<HeadNorms>,
    /// Norm before the feed-forward, as [`Family::attention_norm`].
    pub mlp_norm: Option<&'static str>,
    /// Norms of what attention and the feed-forward give, before it is added.
    pub post_norms: Option<[&'static str; 2]>,
    pub mlp: MlpNames,
    /// Feed-forwards of which each token meets a few.
    pub experts: Option<ExpertNames>,
    /// What reads a text before these blocks, and how they see it.
    pub encoder: Option<EncoderNames>,
    pub parallel: Parallel,
    pub final_norm: &'static str,
    pub norm: NormKind,
    /// Weights of the blocks' linear layers are `[inputs, outputs]`.
    pub conv1d: bool,
    pub qkv_bias: Bias,
    pub output_bias: Bias,
    pub mlp_bias: Bias,
    pub scales: Scales,
    pub rotation: Rotation,
    pub windows: Windows,
    pub shapes: Shapes,
    /// Some layers have a gated delta rule in place of attention.
    pub delta: Option<DeltaNames>,
    /// What makes queries makes a gate of each head's output behind them.
    pub gated_attention: bool,
    pub sharing: Option<KeySharing>,
    /// A logit of each head that nothing stands behind.
    pub sinks: Option<&'static str>,
    pub layer_inputs: Option<LayerInputNames>,
    /// A number that each block's output is multiplied with.
    pub layer_scale: Option<&'static str>,
    pub keys: ConfigKeys,
    /// Keys that its class has and that nothing here depends on, beside those of every family.
    pub meaningless: &'static [&'static str],
}

/// Names of a family's sizes in `config.json` and what a missing one means: the defaults of transformers' config class.
#[derive(Debug)]
pub struct ConfigKeys {
    pub vocab: Count,
    pub width: Count,
    pub layers: Count,
    pub heads: Count,
    pub positions: Count,
    pub ffn: Count,
    /// Heads that share keys and values are a setting; `None`: as many as there are heads, always.
    pub kv_heads: Option<Count>,
    pub head_dim: HeadDim,
    /// Soft caps of scores and logits, with what they are where the file says nothing.
    pub caps: Option<[Option<f64>; 2]>,
    /// A name and a default.
    pub epsilon: (&'static str, f64),
    pub activation: (&'static str, &'static str),
    /// `gelu` means its tanh form (transformers #35235).
    pub gelu_is_tanh: bool,
    /// A gate held to limits, whatever the activation is called: keys and defaults of `alpha` and `limit`
    /// ([`crate::kernels::activation::Activation::Clamped`]).
    pub clamped: Option<[(&'static str, f64); 2]>,
    pub tied: bool,
}

/// A size in `config.json`: its names, the one that wins first, and what it is where none is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Count(pub &'static [&'static str], pub Missing);

impl Count {
    /// The name that published files have: of several the last.
    pub fn written(&self) -> &'static str {
        self.0.last().copied().unwrap_or_default()
    }
}

/// What a missing size is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Is(usize),
    /// Follows from another size; `null` says so too.
    Derived,
    /// The number; `null` is derived.
    IsOrDerived(usize),
}

/// Where the size of a head comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadDim {
    /// `head_dim`.
    Key(Missing),
    /// Other names.
    Keys(&'static Count),
    /// The width divided among the heads; `head_dim` may say the same.
    Derived,
}

/// Attention projections, separate or fused.
#[derive(Debug)]
pub enum AttentionNames {
    Split {
        q: &'static str,
        k: &'static str,
        v: &'static str,
        o: &'static str,
    },
    Fused {
        qkv: &'static str,
        o: &'static str,
        /// Outputs are a query, a key and a value for each head in turn, not all queries first.
        by_head: bool,
    },
}

/// Norms of queries and keys.
#[derive(Debug)]
pub struct HeadNorms {
    pub q: &'static str,
    pub k: &'static str,
    pub over: NormedTogether,
    /// Values have one as well, without weights.
    pub values: bool,
    /// The key that has them, where that is a choice; off where it is missing.
    pub key: Option<&'static str>,
}

/// What a norm of queries or keys is over, and where its weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormedTogether {
    /// Each head, with the same weights.
    Head,
    /// Each head, with weights of its own: a matrix of one row a head.
    EachHead,
    /// The same, of one tensor a head: `{name}.norms.{head}`.
    EachHeadApart,
    /// All heads of a token.
    Width,
}

/// Feed-forward projections.
#[derive(Debug)]
pub enum MlpNames {
    /// `down(activation(gate(x)) · up(x))`.
    Gated { gate: &'static str, up: &'static str, down: &'static str },
    /// The same, gate and up the halves of one layer's outputs.
    GatedFused { gate_up: &'static str, down: &'static str },
    /// `down(activation(up(x)))`.
    Plain { up: &'static str, down: &'static str },
}

/// In which versions of transformers a matrix is that of a linear layer of its own, which PEFT adapts as a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearIn {
    All,
    /// Before version 5.
    Older,
    None,
}

/// A feed-forward of experts: names and keys.
#[derive(Debug)]
pub struct ExpertNames {
    pub router: &'static str,
    pub weights: ExpertWeights,
    /// Experts are a setting: a key, off where it is missing; and they stand beside the feed-forward for all tokens.
    pub beside: Option<BesideExperts>,
    pub count: Count,
    /// That a token meets.
    pub chosen: Count,
    /// Width of one; that of the feed-forward where there is no such key.
    pub ffn: Option<Count>,
    /// A key that makes the weights of a token's experts sum to one, and its default; `None`: they do.
    pub renormalised: Option<(&'static str, bool)>,
    /// `decoder_sparse_step` and `mlp_only_layers` leave layers without experts.
    pub sparse: bool,
    pub fused: FusedNames,
}

/// Parameters that hold a matrix of every expert, as transformers has them from version 5 on.
#[derive(Debug)]
pub struct FusedNames {
    /// Module of the router, whose matrix is its `weight`.
    pub router: &'static str,
    pub router_linear: LinearIn,
    /// Module of the parameters.
    pub experts: &'static str,
    /// In the order that the module declares them, each with the matrices of an expert whose outputs follow one another in it.
    pub parameters: &'static [(&'static str, &'static [&'static str])],
}

impl ExpertNames {
    /// Module of the experts' sites, which are `{module}.{number}.{matrix}`.
    pub fn module(&self) -> &'static str {
        match self.weights {
            ExpertWeights::Each { each, .. } => each,
            ExpertWeights::Fused { .. } | ExpertWeights::FusedInTurn { .. } => self.fused.experts,
        }
    }
}

/// Where the weights of experts are.
#[derive(Debug)]
pub enum ExpertWeights {
    /// Each is `{each}.{number}` with these names.
    Each { each: &'static str, gate: &'static str, up: &'static str, down: &'static str },
    /// One tensor for all: (E, 2f, d) with a gate's outputs before those of up, and (E, d, f).
    Fused { gate_up: &'static str, down: &'static str },
    /// The same with inputs before outputs, gate and up in turn, a bias of each, and one of the router.
    FusedInTurn { gate_up: &'static str, down: &'static str },
}

/// Experts beside a feed-forward for all tokens (transformers' `Gemma4TextDecoderLayer`).
#[derive(Debug)]
pub struct BesideExperts {
    pub key: &'static str,
    /// Norm of what the feed-forward gives; of what experts read; of what they give.
    pub norms: [&'static str; 3],
    /// What the normed input of the router is multiplied with, beside one over the root of the width.
    pub router_scale: &'static str,
    /// What the weights of each expert are multiplied with.
    pub expert_scale: &'static str,
}

/// A gated delta rule in place of attention (Yang et al. 2024): names, and keys of its sizes.
#[derive(Debug)]
pub struct DeltaNames {
    /// Makes queries, keys and values; the gate of the output; forgetting; and strength.
    pub inner: [&'static str; 4],
    pub output: &'static str,
    pub conv: &'static str,
    pub a_log: &'static str,
    pub dt_bias: &'static str,
    pub norm: &'static str,
    /// Heads of keys and of values, their sizes, and tokens that the convolution sees.
    pub key_heads: Count,
    pub value_heads: Count,
    pub key_dim: Count,
    pub value_dim: Count,
    pub kernel: Count,
    /// All layers but each so-many-th, where `layer_types` does not say: a key and its default.
    pub all_but: (&'static str, usize),
}

/// Whether layers differ in their heads.
#[derive(Debug)]
pub enum Shapes {
    One,
    /// Layers that see everything have heads of their own: a key and default of their size, and a key of the number that keys have,
    /// where keys are values as well.
    ByWindow {
        head_dim: (&'static str, usize),
        kv_heads: Count,
    },
}

/// Keys and values that layers share, and that are one.
#[derive(Debug)]
pub struct KeySharing {
    /// How many of the last layers read keys and values of the last one before them that is of their kind.
    pub layers: &'static str,
    /// Feed-forwards of these are twice as wide.
    pub wide: &'static str,
    /// In layers that see everything, values are made of what keys are.
    pub keys_as_values: &'static str,
}

/// What layers are given of each token beside the stream.
#[derive(Debug)]
pub struct LayerInputNames {
    /// Numbers that a layer is given of a token; 0 or `null`: nothing.
    pub width: (&'static str, usize),
    pub vocab: Count,
    pub embedding: &'static str,
    pub projection: &'static str,
    pub norm: &'static str,
    /// In each layer: from the stream, back to it, and the norm of that.
    pub gate: &'static str,
    pub output: &'static str,
    pub output_norm: &'static str,
}

/// An encoder and how its decoder, which the other names are of, sees it. Names are behind those of a block's stack.
#[derive(Debug)]
pub struct EncoderNames {
    /// Prefix of the encoder's blocks.
    pub layers: &'static str,
    /// Its norm, behind its last block.
    pub final_norm: &'static str,
    /// Norm before its feed-forward.
    pub mlp_norm: &'static str,
    /// Its feed-forward, gated and not.
    pub mlp: [MlpNames; 2],
    /// The decoder's without a gate.
    pub plain_mlp: MlpNames,
    /// Norm before the decoder's attention over the encoder's output, and that.
    pub cross_norm: &'static str,
    pub cross: AttentionNames,
    /// Biases by distance in the first block of each stack, `{name}.weight` (buckets, heads).
    pub distances: &'static str,
    /// The embedding once more.
    pub copies: &'static [&'static str],
    /// A tensor of older files that no class reads.
    pub unread: &'static str,
    pub decoder_layers: &'static str,
}

/// Whether attention and the feed-forward read the same sum, side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parallel {
    Never,
    /// Both read one norm.
    OneNorm,
    /// A key and its default; both read one norm then.
    OneNormIf(&'static str, bool),
    /// A key and its default; each has its norm.
    TwoNormsIf(&'static str, bool),
}

/// Which norm a family uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    Rms,
    /// Weights are stored less one.
    RmsLessOne,
    Layer,
    /// A layer norm without bias.
    LayerUnbiased,
}

/// Whether a linear layer has a bias: fixed by the family or by a key of `config.json` with its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    Always,
    Never,
    Config(&'static str, bool),
}

/// Factors of what passes through a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// Of embeddings.
    pub embedding: Factor,
    /// Of what each attention and feed-forward gives, before it is added.
    pub residual: Factor,
    /// Of logits.
    pub logits: Factor,
    /// Of `q·k`.
    pub scores: ScoreScale,
}

/// A factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Factor {
    One,
    RootOfWidth,
    /// A key and its default.
    Times(&'static str, f64),
    /// What it divides by: a key and its default.
    Over(&'static str, f64),
}

/// What `q·k` is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScoreScale {
    /// `1/√head_dim`.
    HeadDim,
    One,
    /// One over the root of a key, with its default.
    OverRoot(&'static str, f64),
    /// A key with its default.
    Times(&'static str, f64),
    /// As `HeadDim`, with the two flags of transformers' `GPT2Attention`.
    Gpt2,
}

/// How a family's heads turn with their positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotation {
    /// `rope_theta` and the part of a head that turns, where they are not in the table, in the older spelling.
    pub theta_key: &'static str,
    pub part_key: &'static str,
    pub theta: f64,
    /// The part of each head that turns where the file says nothing; `None`: whole heads, always.
    pub part: Option<f64>,
    /// Element `2i` turns with `2i + 1`.
    pub interleaved: bool,
    /// Of layers that look through a window, where they have a rotation of their own.
    pub windowed: Option<WindowedRotation>,
    /// Layers that do not turn.
    pub unturned: Unturned,
    /// Queries are scaled by their position (`llama_4_scaling_beta`).
    pub query_scale: bool,
    /// Any scaling is `longrope` (`su` and `yarn` in the older spelling), as in Phi 3; the length before scaling where the file says none.
    pub longrope: Option<usize>,
    /// The table where the file has none.
    pub table: Option<&'static str>,
}

/// The rotation of layers that look through a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowedRotation {
    /// The older spelling (`rope_scaling`, numbers beside it) is not read.
    pub newer_only: bool,
    pub theta: f64,
    /// Its name in the older spelling, if it had one.
    pub theta_key: Option<&'static str>,
}

/// Layers whose heads do not turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unturned {
    None,
    /// `no_rope_layers` (0: does not turn), or each `no_rope_layer_interval`th.
    Listed,
    /// Those that look at everything.
    Full,
}

/// Layers that see only the newest keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    Never,
    /// All, by `sliding_window` with its default.
    All(Option<usize>),
    /// All, where `use_sliding_window` says so; default of `sliding_window`.
    AllIf(usize),
    /// Where `use_sliding_window` says so, from `max_window_layers` on or by `layer_types`; defaults of `sliding_window` and
    /// `max_window_layers`.
    From(usize, usize),
    /// All but each so-many-th, or by `layer_types`; default of `sliding_window`; the key that says another number, if there is one.
    AllBut(usize, usize, Option<&'static str>),
    /// As [`Windows::AllBut`] without a key, and the last one sees everything in any case.
    AllButAndLast(usize, usize),
    /// Where `use_sliding_window` says so, those that do not turn, or by `layer_types`.
    Unturned,
}

/// The output head's module path; one name in all families.
pub const HEAD: &str = "lm_head";
