//! The README's table of model families says what the code does: each is tried on its golden model.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use lorakit::adapter::Adapter;
use lorakit::artifact::merge::{self, Dtype, Merged};
use lorakit::device::Compute;
use lorakit::error::{Error, Result};
use lorakit::generate::{Limits, Sampling, batch};
use lorakit::model::families::FAMILIES;
use lorakit::model::weights::read_from_gguf;
use lorakit::model::{Adapt, Model, Recompute, Workspace};
use lorakit::recipe;
use lorakit::train::adamw::{AdamW, norm, settings};

const RENEW: &str = "LORAKIT_WRITE_DOCS=1 cargo test --test it readme_families";
const END: &str = "<!-- end of the families -->\n";

/// What models are called whose family's name does not say it.
const KNOWN_AS: [(&str, &str); 4] =
    [("llama", "SmolLM2, Llama 2 and 3"), ("gemma3_text", "Gemma 3"), ("phi3", "Phi 3 and 4"), ("gpt_neox", "Pythia")];

fn begin() -> String {
    format!("<!-- families, written by {RENEW} -->\n")
}

/// A golden model of a family.
fn golden(model_type: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let below = |folder: &str| std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = below("models").chain(below("families")).collect();
    all.sort();
    let is = |dir: &PathBuf| {
        let config = std::fs::read_to_string(dir.join("config.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&config).unwrap()["model_type"] == model_type
    };
    all.into_iter().find(is).unwrap_or_else(|| panic!("{model_type} has no golden case"))
}

fn logits(model: &Model, adapt: &dyn Adapt) -> Result<Vec<f32>> {
    Ok(model.text_logits(adapt, &[&[5, 9, 20, 7, 12], &[10, 3, 8]])?.concat())
}

/// An adapter on every layer after a few steps, which must have made the loss smaller.
fn trained(model: &Model) -> Result<Adapter> {
    let adapter = Adapter::new(&recipe::Adapter::lora(4, recipe::TargetModules::AllLinear), None, model, 3)?;
    let rows: [&[u32]; 2] = [&[5, 9, 20, 7, 12, 14, 15], &[10, 3, 8, 8]];
    let (mut optimizer, train, mut losses) = (AdamW::new(adapter.params())?, recipe::Train::default(), Vec::new());
    for step in 0..25 {
        let mut room = Workspace::new(Recompute::Never);
        let found = model.gradients(&mut room, &adapter.training(1, step, 0), &rows, &|_, i| i > 0, 0.1)?;
        let grads: Vec<Option<Tensor>> = adapter.by_param(found.gradients).unwrap();
        optimizer.step(adapter.params(), &grads, &settings(&train, 1e-2, norm(&grads)?))?;
        losses.push(found.loss);
    }
    assert!(losses[24] < 0.95 * losses[0], "{}: {losses:?}", model.config.family.model_type);
    Ok(adapter.frozen())
}

fn answers(model: &Model, adapter: &Adapter) -> Result<()> {
    let limits = Limits { min_new_tokens: 0, max_new_tokens: 4, stop: Vec::new() };
    let all = batch(model, adapter, &[vec![5, 9, 20]], &Sampling::GREEDY, &limits, 1, &mut |_| Ok(()))?;
    assert_eq!(all[0].len(), 4, "{}", model.config.family.model_type);
    Ok(())
}

/// A merged model must compute what base and adapter do.
fn merges(model: &Model, adapter: &Adapter, base: &Path) -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged");
    let merged = Merged { model, adapter, base, dtype: Dtype::F32, spoken: None, card: None };
    merge::write(&merged, &out, &mut |_, _| ())?;
    let merged = logits(&Model::open(&out, Compute::F32, &model.device)?, &())?;
    let (expected, base) = (logits(model, adapter)?, logits(model, &())?);
    let apart = |a: &[f32]| a.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let (lost, learnt) = (apart(&merged), apart(&base));
    assert!(lost < 1e-3 && learnt > 30.0 * lost, "{}: {lost} {learnt}", model.config.family.model_type);
    Ok(())
}

/// An adapter as PEFT has it must compute the same when it is read again.
fn exports(model: &Model, adapter: &Adapter) -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path())?;
    let again = logits(model, &Adapter::load(folder.path(), model)?)?;
    assert_eq!(again, logits(model, adapter)?, "{}", model.config.family.model_type);
    Ok(())
}

/// What is refused is no; what fails in another way fails the test.
fn cell(done: Result<()>) -> bool {
    match done {
        Err(Error::Unsupported { .. }) => false,
        done => done.map(|()| true).unwrap(),
    }
}

fn row(family: &lorakit::model::family::Family) -> String {
    let dir = golden(family.model_type);
    let model = Model::open(&dir, Compute::F32, &Device::Cpu).unwrap();
    let with = |works: &dyn Fn(&Adapter) -> Result<()>| cell(trained(&model).and_then(|adapter| works(&adapter)));
    let cells = [
        with(&|_| Ok(())),
        with(&|adapter| answers(&model, adapter)),
        read_from_gguf(family.model_type),
        with(&|adapter| merges(&model, adapter, &dir)),
        with(&|adapter| exports(&model, adapter)),
    ];
    let cells = cells.map(|works| if works { "yes" } else { "no" }).join(" | ");
    let known = KNOWN_AS.iter().find(|(model_type, _)| *model_type == family.model_type);
    let known = known.map(|(_, names)| format!(" ({names})")).unwrap_or_default();
    format!("| `{}`{known} | `{}` | {cells} |\n", family.model_type, family.class)
}

#[test]
fn the_table_is_current() {
    let rows: String = FAMILIES.iter().map(row).collect();
    assert!(KNOWN_AS.iter().all(|(model_type, _)| rows.contains(&format!("| `{model_type}` ("))), "{rows}");
    let head = "| family (`model_type`) | class in transformers | train | generate | from GGUF | merge | export to PEFT |\n|---|---|---|---|---|---|---|\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(&begin()).expect("the README marks where the table begins");
    let (written, after) = rest.split_once(END).expect("the README marks where the table ends");
    let table = format!("\n{head}{rows}\n");
    if std::env::var_os("LORAKIT_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{}{table}{END}{after}", begin())).unwrap();
    } else {
        assert!(written == table, "README.md's families are out of date; run: {RENEW}");
    }
}
