use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use super::super::{Adapter, inspect, peft};
use super::*;
use crate::device::Compute;
use crate::recipe;

const BOTH: [&str; 2] = ["experts.gate_up_proj", "mlp.experts.down_proj"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name)
}

fn open(name: &str) -> Model {
    Model::open(&golden(name), Compute::F32, &Device::Cpu).unwrap()
}

fn wanted(parameters: &[&str], targets: &[&str]) -> recipe::Adapter {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let plain = recipe::Adapter::lora(2, recipe::TargetModules::Names(owned(targets)));
    recipe::Adapter { target_parameters: owned(parameters), ..plain }
}

fn fresh(model: &Model, wanted: &recipe::Adapter) -> Result<Adapter> {
    Adapter::new(wanted, None, model, 3)
}

/// Every value of its tensors another one.
fn numbered(adapter: &Adapter) {
    for (i, param) in adapter.params().iter().enumerate() {
        let values: Vec<f32> = (0..param.var.elem_count()).map(|j| (1000 * i + j) as f32).collect();
        param.var.set(&Tensor::from_vec(values, param.var.dims(), &Device::Cpu).unwrap()).unwrap();
    }
}

fn rows(t: &Tensor) -> Vec<Vec<f32>> {
    t.to_vec2().unwrap()
}

fn at(model: &Model, path: &str) -> Site {
    Site(model.sites().iter().position(|site| site.path == path).unwrap())
}

#[test]
fn a_site_has_its_experts_part_of_the_two_tensors() {
    let model = open("families/mixtral");
    let adapter = fresh(&model, &wanted(&BOTH, &[])).unwrap();
    numbered(&adapter);
    let [a, b] = [0, 1].map(|at| rows(adapter.params()[at].var.as_tensor()));
    assert_eq!((a.len(), b.len(), b[0].len()), (4 * 2, 2 * 8, 2 * 4));
    for expert in 0..4 {
        for (matrix, from) in [("w1", 0), ("w3", 8)] {
            let site = at(&model, &format!("model.layers.0.block_sparse_moe.experts.{expert}.{matrix}"));
            let pair = adapter.low_rank(site).unwrap();
            assert_eq!(rows(&pair.a), &a[2 * expert..][..2], "the expert is slowest");
            for (row, got) in rows(&pair.b).iter().enumerate() {
                assert_eq!(*got, [b[from + row][expert], b[from + row][4 + expert]], "the expert is fastest");
            }
        }
    }
    let keys: Vec<&str> =
        adapter.params()[..4].iter().map(|p| p.key.strip_prefix("base_model.model.model.layers.0.mlp.").unwrap()).collect();
    let expected = [
        "experts.base_layer.lora_A.weight",
        "experts.base_layer.lora_B.weight",
        "experts.lora_A.weight",
        "experts.lora_B.weight",
    ];
    assert_eq!(keys, expected);
    for alone in BOTH {
        let keys = fresh(&model, &wanted(&[alone], &[])).unwrap();
        assert!(keys.params()[0].key.ends_with("layers.0.mlp.experts.lora_A.weight"), "one alone is no `base_layer`");
    }
}

/// As gradients the views of two tensors give these back; A, which gate and up share, twice.
#[test]
fn gradients_of_what_sites_share_are_added() {
    let model = open("families/qwen3_moe");
    let adapter = fresh(&model, &wanted(&BOTH, &["q_proj"])).unwrap();
    numbered(&adapter);
    let gradient = |(i, _)| {
        let pair = adapter.low_rank(Site(i))?;
        Some((Site(i), crate::model::SiteGradient::Pair(pair.a.detach(), pair.b.detach(), None)))
    };
    let all = adapter.by_param(model.sites().iter().enumerate().filter_map(gradient).collect()).unwrap();
    for (param, gradient) in adapter.params().iter().zip(&all) {
        let twice = if param.key.ends_with("base_layer.lora_A.weight") { 2.0 } else { 1.0 };
        assert_eq!(rows(gradient.as_ref().unwrap()), rows(&(param.var.as_tensor() * twice).unwrap()), "{}", param.key);
    }
    let site = at(&model, "model.layers.0.mlp.experts.3.up_proj");
    let pair = adapter.low_rank(site).unwrap();
    let one = vec![(site, crate::model::SiteGradient::Pair(pair.a.detach(), pair.b.detach(), None))];
    let found = adapter.by_param(one).unwrap();
    let filled: Vec<&str> =
        adapter.params().iter().zip(&found).filter(|(_, g)| g.is_some()).map(|(p, _)| p.key.as_str()).collect();
    assert_eq!(filled.len(), 2, "{filled:?}");
    let a = found[adapter.params().iter().position(|p| p.key == filled[0]).unwrap()].as_ref().unwrap();
    assert_eq!((rows(a)[6..8].to_vec(), rows(a)[0][0], rows(a)[9][5]), (rows(&pair.a), 0.0, 0.0));
}

#[test]
fn what_is_written_is_read_back_and_says_what_peft_needs() {
    let model = open("families/mixtral");
    let patterns = recipe::Adapter {
        method: recipe::Method::RsLora,
        rank_pattern: vec![("gate_up_proj".into(), 3), ("q_proj".into(), 1)],
        alpha_pattern: vec![("down_proj".into(), 7.0)],
        ..wanted(&["experts.gate_up_proj", "down_proj", "mlp.gate.weight"], &["q_proj"])
    };
    let adapter = fresh(&model, &patterns).unwrap();
    numbered(&adapter);
    let dir = tempfile::tempdir().unwrap();
    adapter.save(dir.path()).unwrap();
    let config: Value = serde_json::from_slice(&std::fs::read(dir.path().join(peft::CONFIG)).unwrap()).unwrap();
    assert_eq!(config["target_modules"], json!(["q_proj"]));
    assert_eq!(config["target_parameters"], json!(["experts.gate_up_proj", "down_proj", "mlp.gate.weight"]));
    let again = Adapter::load(dir.path(), &model).unwrap();
    assert!(again.notes.is_empty(), "{:?}", again.notes);
    for (param, other) in adapter.params().iter().zip(again.params()) {
        assert_eq!((&param.key, rows(param.var.as_tensor())), (&other.key, rows(other.var.as_tensor())));
    }
    let scale = |path: &str| again.low_rank(at(&model, &format!("model.layers.1.{path}"))).unwrap().scale;
    assert_eq!(scale("block_sparse_moe.experts.2.w3"), 4.0 / 3f64.sqrt());
    assert_eq!(scale("block_sparse_moe.experts.2.w2"), 7.0 / 2f64.sqrt());
    assert_eq!((scale("block_sparse_moe.gate"), scale("self_attn.q_proj")), (4.0 / 2f64.sqrt(), 4.0));
    assert!(adapter.told(&model).is_none());
    let found = inspect::inspect(dir.path(), &[]).unwrap();
    let of = |path: &str| found.modules.iter().find(|m| m.path == format!("model.layers.1.mlp.{path}")).unwrap();
    let (inner, outer, router) = (of("experts.gate_up_proj"), of("experts.down_proj"), of("gate.weight"));
    assert_eq!((inner.rank, outer.rank, router.rank), (3, 2, 2));
    assert_eq!((inner.scale, outer.scale), (4.0 / 3f64.sqrt(), 7.0 / 2f64.sqrt()));
    let squared: f64 = (0..4)
        .map(|e| again.low_rank(at(&model, &format!("model.layers.1.block_sparse_moe.experts.{e}.w2"))).unwrap())
        .flat_map(|p| {
            (p.b.contiguous().unwrap().matmul(&p.a).unwrap() * p.scale).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        })
        .map(|v| f64::from(v).powi(2))
        .sum();
    assert!((outer.norm_delta / squared.sqrt() - 1.0).abs() < 1e-5, "{} {}", outer.norm_delta, squared.sqrt());
}

/// PEFT's own, made under transformers 5: its rank and alpha of the parameter of gate and up are doubled.
#[test]
fn all_linear_of_peft_is_attention_router_and_experts() {
    let model = open("families/mixtral");
    let adapter = Adapter::load(&golden("families/mixtral/adapters/all_linear"), &model).unwrap();
    let pair = |path: &str| adapter.low_rank(at(&model, &format!("model.layers.2.{path}"))).unwrap();
    for (path, rank, scale) in [("experts.0.w1", 4, 2.5), ("experts.3.w2", 2, 2.5), ("gate", 2, 2.5)] {
        let pair = pair(&format!("block_sparse_moe.{path}"));
        assert_eq!((pair.a.dims()[0], pair.scale), (rank, scale), "{path}");
    }
    assert!(adapter.low_rank(at(&model, "lm_head")).is_none());
    assert!(adapter.told(&model).is_none());
}

/// What a file has as one tensor is no module; a router is one where transformers 5 has a linear layer.
#[test]
fn a_router_is_what_transformers_makes_of_it() {
    let all = |model: &Model, parameters: &[&str]| {
        let all = recipe::Adapter::lora(2, recipe::TargetModules::AllLinear);
        let owned = parameters.iter().map(ToString::to_string).collect();
        fresh(model, &recipe::Adapter { target_parameters: owned, ..all }).unwrap()
    };
    let model = open("families/gemma4_text-moe");
    for parameters in [&[][..], &["experts.gate_up_proj", "experts.down_proj"]] {
        let adapter = all(&model, parameters);
        assert!(adapter.low_rank(at(&model, "model.layers.1.router.proj")).is_some());
        let expert = adapter.low_rank(at(&model, "model.layers.1.experts.3.down_proj"));
        assert_eq!(expert.is_some(), !parameters.is_empty());
        assert!(adapter.told(&model).is_none());
    }
    let peft = Adapter::load(&golden("families/gemma4_text-moe/adapters/all_linear"), &model).unwrap();
    let (ours, theirs) = (all(&model, &[]), peft.params().iter().map(|p| p.key.as_str()).collect::<Vec<_>>());
    assert_eq!(ours.params().iter().map(|p| p.key.as_str()).collect::<Vec<_>>(), theirs);
    let model = open("families/gpt_oss");
    assert!(all(&model, &[]).low_rank(at(&model, "model.layers.1.mlp.router")).is_none());
    for name in ["router", "gate_up_proj", "mlp.experts"] {
        let error = refused(fresh(&model, &wanted(&[], &["q_proj", name])));
        assert!(error.contains(&format!("`{name}` matches no module")) && error.contains("`target_parameters`"), "{error}");
        assert!(!error.contains("down_proj,") && error.contains("k_proj, lm_head, o_proj, q_proj, v_proj"), "{error}");
    }
    let router = fresh(&model, &wanted(&["mlp.router.weight"], &["q_proj"])).unwrap();
    assert!(router.low_rank(at(&model, "model.layers.1.mlp.router")).is_some());
    assert!(!router.config.fan_in_fan_out, "no layer is a Conv1D, which PEFT refuses beside parameters");
    assert!(router.params().iter().any(|p| p.key == "base_model.model.model.layers.1.mlp.router.lora_A.weight"));
}

/// PEFT's own of tensors that the file has as they are: what one expert does is its part of A and of B.
#[test]
fn peft_lays_tensors_with_inputs_first_out_like_others() {
    for (name, experts) in [("gpt_oss", "mlp.experts"), ("gemma4_text-moe", "experts")] {
        let model = open(&format!("families/{name}"));
        let dir = golden(&format!("families/{name}/adapters/parameters"));
        let adapter = Adapter::load(&dir, &model).unwrap();
        assert!(adapter.notes.is_empty(), "{:?}", adapter.notes);
        let file = candle_core::safetensors::load(dir.join(peft::WEIGHTS), &Device::Cpu).unwrap();
        let [a, b] = ["A", "B"].map(|m| &file[&format!("base_model.model.model.layers.2.{experts}.base_layer.lora_{m}.weight")]);
        let (a, b) = (rows(a), rows(b));
        for expert in 0..4 {
            let site = at(&model, &format!("model.layers.2.{experts}.{expert}.gate_up_proj"));
            let (info, pair) = (&model.sites()[site.0], adapter.low_rank(site).unwrap());
            assert_eq!((a[0].len(), b.len()), (info.inputs, info.outputs));
            assert_eq!(rows(&pair.a), &a[2 * expert..][..2]);
            let part: Vec<Vec<f32>> = b.iter().map(|row| vec![row[expert], row[4 + expert]]).collect();
            assert_eq!((rows(&pair.b), pair.scale), (part, 4.0));
        }
        let found = inspect::inspect(&dir, &[]).unwrap();
        let paths: Vec<&str> = found.modules.iter().filter(|m| m.path.contains(".1.")).map(|m| m.path.as_str()).collect();
        assert_eq!(paths, ["gate_up_proj", "down_proj"].map(|p| format!("model.layers.1.{experts}.{p}")));
    }
}

fn refused(result: Result<Adapter>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[test]
fn parameters_that_are_not_there_are_named() {
    let (experts, dense) = (open("families/mixtral"), open("models/llama"));
    let unknown = refused(fresh(&experts, &wanted(&["gate_up_porj"], &["q_proj"])));
    assert!(
        unknown.contains("`gate_up_porj` matches no parameter") && unknown.contains("did you mean `gate_up_proj`"),
        "{unknown}"
    );
    assert!(unknown.contains("gate.weight, experts.gate_up_proj, experts.down_proj"), "{unknown}");
    let none = refused(fresh(&dense, &wanted(&["experts.down_proj"], &["q_proj"])));
    assert!(none.contains("`target_parameters`") && none.contains("the base has no parameters of experts"), "{none}");
    let beside = |changed: recipe::Adapter| refused(fresh(&experts, &changed));
    let dora = beside(recipe::Adapter { dora: true, ..wanted(&BOTH, &["q_proj"]) });
    let dropout = beside(recipe::Adapter { dropout: 0.1, ..wanted(&BOTH, &["q_proj"]) });
    assert!(dora.contains("beside DoRA") && dropout.contains("beside dropout"), "{dora} {dropout}");
    let layers = beside(recipe::Adapter { layers: Some(vec![0]), ..wanted(&BOTH, &[]) });
    assert!(layers.contains("`layers`") && layers.contains("does nothing to parameters"), "{layers}");
    let part = beside(wanted(&BOTH, &["q_proj", "w1"]));
    assert!(part.contains("`w1`") && part.contains("of experts, as `target_parameters` has them"), "{part}");
    let router = beside(recipe::Adapter { dora: true, ..wanted(&[], &["block_sparse_moe.gate"]) });
    assert!(router.contains("block_sparse_moe.gate") && router.contains("DoRA"), "{router}");
}

/// Two experts' tensors for a model of four, and a configuration for a model without any.
#[test]
fn files_of_another_model_are_refused_by_name() {
    let (experts, dense) = (open("families/mixtral"), open("models/llama"));
    let (from, to) = (golden("families/mixtral/adapters/all_linear"), tempfile::tempdir().unwrap());
    std::fs::copy(from.join(peft::CONFIG), to.path().join(peft::CONFIG)).unwrap();
    let mut tensors = candle_core::safetensors::load(from.join(peft::WEIGHTS), &Device::Cpu).unwrap();
    let key = "base_model.model.model.layers.1.mlp.experts.base_layer.lora_A.weight";
    let cut = tensors[key].narrow(0, 0, 6).unwrap();
    tensors.insert(key.into(), cut);
    candle_core::safetensors::save(&tensors, to.path().join(peft::WEIGHTS)).unwrap();
    let error = refused(Adapter::load(to.path(), &experts));
    assert!(error.contains(key) && error.contains("shape is [6, 16]") && error.contains("say [16, 16]"), "{error}");
    let error = inspect::inspect(to.path(), &[]).unwrap_err().to_string();
    assert!(error.contains("model.layers.1.mlp.experts.gate_up_proj"), "{error}");
    let error = refused(Adapter::load(&from, &dense));
    assert!(error.contains("`target_parameters`") && error.contains("no parameters of experts"), "{error}");
}

#[test]
fn pairs_of_single_experts_are_told_of() {
    for (name, layer) in [("mixtral", "w2"), ("mixtral", "gate"), ("qwen3_moe", "down_proj")] {
        let model = open(&format!("families/{name}"));
        let told = fresh(&model, &wanted(&[], &["q_proj", layer])).unwrap().told(&model).unwrap();
        assert!(
            told.contains(&format!("`{layer}`")) && told.contains("`target_parameters`") && !told.contains("q_proj"),
            "{told}"
        );
    }
    let model = open("families/qwen3_moe");
    let told = fresh(&model, &wanted(&BOTH, &["q_proj", "up_proj"])).unwrap().told(&model).unwrap();
    assert!(told.contains("`up_proj` are those of dense layers") && told.contains("loses the pairs"), "{told}");
    assert!(fresh(&model, &wanted(&BOTH, &["q_proj"])).unwrap().told(&model).is_none());
    for (model, all) in [(open("families/mixtral"), false), (open("models/llama"), true)] {
        let targets = if all { recipe::TargetModules::AllLinear } else { recipe::TargetModules::Attention };
        assert!(fresh(&model, &recipe::Adapter::lora(2, targets)).unwrap().told(&model).is_none());
    }
    let model = open("families/mixtral");
    let all = fresh(&model, &recipe::Adapter::lora(2, recipe::TargetModules::AllLinear)).unwrap();
    assert!(all.low_rank(at(&model, "model.layers.0.block_sparse_moe.gate")).is_none(), "the router only where it is named");
}
