//! Adapter directories, given to `eval` and `merge`.

use serde_json::json;

use super::{Case, EVAL, MERGE, ValidSetup, case, check};

const CONFIG: &str = "adapter/adapter_config.json";
const WEIGHTS: &str = "adapter/adapter_model.safetensors";
const KEY: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

/// A good adapter with one thing changed in its configuration.
fn set(shop: &ValidSetup, key: &str, value: serde_json::Value) {
    shop.adapter("adapter");
    shop.set(CONFIG, key, value);
}

#[test]
fn adapters() {
    let cases: &[Case] = &[
        case("no adapter", |_| (), EVAL, &["adapter_config.json", "no such folder", "help:"]),
        case("a file as adapter", |s| s.write("adapter", "x"), MERGE, &["adapter_config.json", "help:"]),
        case(
            "no adapter config",
            |s| {
                s.adapter("adapter");
                s.remove(CONFIG);
            },
            MERGE,
            &["adapter_config.json", "no such file", "help:"],
        ),
        case(
            "an adapter config that is no JSON",
            |s| {
                s.adapter("adapter");
                s.write(CONFIG, "r = 8");
            },
            EVAL,
            &["adapter_config.json", "not JSON", "help:"],
        ),
        case(
            "an adapter config that is a list",
            |s| {
                s.adapter("adapter");
                s.write(CONFIG, "[]");
            },
            EVAL,
            &["adapter_config.json", "not a JSON object", "help:"],
        ),
        case(
            "a QA-LoRA adapter",
            |s| set(s, "use_qalora", json!(true)),
            MERGE,
            &["`use_qalora`", "true is not supported", "help:"],
        ),
        case(
            "DoRA without its magnitudes",
            |s| set(s, "use_dora", json!(true)),
            MERGE,
            &["lora_magnitude_vector", "not in the file", "help:"],
        ),
        case(
            "another method",
            |s| set(s, "peft_type", json!("LOHA")),
            EVAL,
            &["`peft_type`", "\"LOHA\" is not supported", "help:"],
        ),
        case("an adapter of rank 0", |s| set(s, "r", json!(0)), EVAL, &["`r`", "rank 0 is not possible", "help:"]),
        case(
            "an adapter without a rank",
            |s| {
                s.adapter("adapter");
                s.edit(CONFIG, "\"r\":", "\"rr\":");
            },
            EVAL,
            &["adapter_config.json `rr`", "did you mean `r`?", "help:"],
        ),
        case(
            "an adapter of an edited rank",
            |s| set(s, "r", json!(4)),
            EVAL,
            &["tensor `base_model.model.", "shape is [2, 64]", "[4, 64]", "help:"],
        ),
        case(
            "an adapter of other targets",
            |s| set(s, "target_modules", json!(["query"])),
            EVAL,
            &["`target_modules`", "`query` matches no module", "help:"],
        ),
        case(
            "an adapter of fewer targets",
            |s| set(s, "target_modules", json!(["q_proj"])),
            MERGE,
            &["belong to no target", "help:"],
        ),
        case(
            "an adapter for another model",
            |s| s.adapter_for("gpt2", "adapter"),
            EVAL,
            &["adapter", "`c_attn` matches no module", "help:"],
        ),
        case(
            "no adapter weights",
            |s| {
                s.adapter("adapter");
                s.remove(WEIGHTS);
            },
            MERGE,
            &["adapter_model.safetensors", "no such file", "help:"],
        ),
        case(
            "a pickled adapter",
            |s| {
                s.adapter("adapter");
                s.remove(WEIGHTS);
                s.write("adapter/adapter_model.bin", b"\x80\x02.");
            },
            EVAL,
            &["adapter_model.bin", "pickle", "weights_only=True"],
        ),
        case(
            "an empty adapter file",
            |s| {
                s.adapter("adapter");
                s.write(WEIGHTS, "");
            },
            EVAL,
            &["adapter_model.safetensors", "cannot hold a header", "help:"],
        ),
        case(
            "an adapter cut in its header",
            |s| {
                s.adapter("adapter");
                s.cut(WEIGHTS, 100);
            },
            MERGE,
            &["adapter_model.safetensors", "header", "help:"],
        ),
        case(
            "an adapter cut in its values",
            |s| {
                s.adapter("adapter");
                let keep = s.read(WEIGHTS).len() - 5;
                s.cut(WEIGHTS, keep);
            },
            MERGE,
            &["adapter_model.safetensors", "damaged", "help:"],
        ),
        case(
            "an adapter with a huge header",
            |s| {
                s.adapter("adapter");
                s.write(WEIGHTS, [&u64::MAX.to_le_bytes()[..], b"{}"].concat());
            },
            EVAL,
            &["adapter_model.safetensors", "header of 18446744073709551615", "help:"],
        ),
        case(
            "an adapter of noise",
            |s| {
                s.adapter("adapter");
                s.write(WEIGHTS, [&8u64.to_le_bytes()[..], b"notjson!"].concat());
            },
            EVAL,
            &["adapter_model.safetensors", "help:"],
        ),
        case(
            "a tensor missing",
            |s| {
                s.adapter("adapter");
                s.tensors(|t| drop(t.remove(KEY)));
            },
            EVAL,
            &[KEY, "not in the file", "help:"],
        ),
        case(
            "a tensor too many",
            |s| {
                s.adapter("adapter");
                s.tensors(|t| drop(t.insert("extra".into(), (vec![1], vec![0.5]))));
            },
            MERGE,
            &["tensor `extra`", "1 of 25 tensors belong to no target", "help:"],
        ),
        case(
            "a tensor of another shape",
            |s| {
                s.adapter("adapter");
                s.tensors(|t| t.get_mut(KEY).unwrap().0.reverse());
            },
            EVAL,
            &[KEY, "shape is [64, 2]", "[2, 64]", "help:"],
        ),
        case(
            "a tensor with holes",
            |s| {
                s.adapter("adapter");
                s.tensors(|t| t.get_mut(KEY).unwrap().1[3] = f32::NAN);
            },
            EVAL,
            &[KEY, "not numbers", "help:"],
        ),
        case(
            "a tensor without bound",
            |s| {
                s.adapter("adapter");
                s.tensors(|t| t.get_mut(KEY).unwrap().1[3] = f32::INFINITY);
            },
            MERGE,
            &[KEY, "not numbers", "help:"],
        ),
        case(
            "no module to save in the file",
            |s| set(s, "modules_to_save", json!(["lm_head"])),
            EVAL,
            &["lm_head", "not in the file", "help:"],
        ),
    ];
    check(cases, 26);
}
