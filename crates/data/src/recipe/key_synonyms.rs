//! What other tools call our keys, so that a recipe written from memory gets a useful answer.
//!
//! Refuses to know: anything but names. They come from PEFT's `LoraConfig`, transformers' `TrainingArguments`, axolotl,
//! LLaMA-Factory and mlx-lm.

pub(super) const NAMES: &[(&str, &str)] = &[
    ("base_model", "base.model"),
    ("base_model_name_or_path", "base.model"),
    ("model_name_or_path", "base.model"),
    ("r", "adapter.rank"),
    ("lora_r", "adapter.rank"),
    ("lora_rank", "adapter.rank"),
    ("lora_alpha", "adapter.alpha"),
    ("lora_dropout", "adapter.dropout"),
    ("init_lora_weights", "adapter.init"),
    ("use_rslora", "adapter.method = \"rslora\""),
    ("target_modules", "adapter.targets"),
    ("lora_target", "adapter.targets"),
    ("lora_target_modules", "adapter.targets"),
    ("exclude_modules", "adapter.exclude"),
    ("layers_to_transform", "adapter.layers"),
    ("datasets", "data.train"),
    ("dataset", "data.train"),
    ("val_set_size", "data.heldout_fraction"),
    ("val_size", "data.heldout_fraction"),
    ("chat_template", "template.kind"),
    ("system_prompt", "template.system"),
    ("max_steps", "train.steps"),
    ("iters", "train.steps"),
    ("num_epochs", "train.epochs"),
    ("num_train_epochs", "train.epochs"),
    ("learning_rate", "train.lr"),
    ("lr_scheduler", "train.schedule"),
    ("lr_scheduler_type", "train.schedule"),
    ("lr_schedule", "train.schedule"),
    ("warmup_steps", "train.warmup"),
    ("warmup_ratio", "train.warmup"),
    ("micro_batch_size", "train.batch_size"),
    ("per_device_train_batch_size", "train.batch_size"),
    ("gradient_accumulation_steps", "train.accumulate"),
    ("gradient_checkpointing", "train.checkpoint"),
    ("grad_accumulation_steps", "train.accumulate"),
    ("max_seq_length", "train.max_length"),
    ("max_seq_len", "train.max_length"),
    ("sequence_len", "train.max_length"),
    ("cutoff_len", "train.max_length"),
    ("sample_packing", "train.packing"),
    ("neat_packing", "train.packing"),
    ("save_steps", "train.save_every"),
    ("eval_steps", "train.eval_every"),
    ("steps_per_eval", "train.eval_every"),
    ("early_stopping_patience", "train.early_stop"),
    ("max_grad_norm", "train.clip"),
    ("gradient_clipping", "train.clip"),
    ("adam_beta1", "train.beta1"),
    ("adam_beta2", "train.beta2"),
    ("adam_epsilon", "train.eps"),
    ("output_dir", "output.dir"),
    ("adapter_path", "output.dir"),
];

/// What other tools, and people, call our sections.
const SECTIONS: &[(&str, &str)] = &[
    ("lora", "adapter"),
    ("lora_config", "adapter"),
    ("peft", "adapter"),
    ("peft_config", "adapter"),
    ("qlora", "adapter"),
    ("model", "base"),
    ("model_args", "base"),
    ("dataset", "data"),
    ("datasets", "data"),
    ("training", "train"),
    ("trainer", "train"),
    ("training_args", "train"),
    ("optimizer", "train"),
    ("optim", "train"),
    ("evaluation", "eval"),
    ("prompt", "template"),
    ("save", "output"),
];

/// Our section for a section of that name.
pub(super) fn section(name: &str) -> Option<&'static str> {
    SECTIONS.iter().find(|(theirs, _)| *theirs == name.to_lowercase()).map(|(_, ours)| *ours)
}

/// Our key for the name that another tool uses.
pub(super) fn meant(name: &str) -> Option<&'static str> {
    NAMES.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours)
}
