//! DoRA from its start to a merged model: at first it changes nothing, it learns, and its file and a merge keep what it learnt.

use candle_core::Tensor;
use lorakit::adapter::Adapter;
use lorakit::artifact::merge::{self, Dtype, Merged};
use lorakit::device::Compute;
use lorakit::model::{Adapt, Model, Recompute, Workspace};
use lorakit::recipe;
use lorakit::train::adamw::{AdamW, norm, settings as update_settings};

use crate::tiny_models;

fn logits(model: &Model, adapt: &dyn Adapt) -> Vec<f32> {
    model.text_logits(adapt, &[&[5, 9, 30, 77, 12], &[100, 3, 8]]).unwrap().concat()
}

fn largest(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn it_starts_as_the_base_learns_and_survives_its_file_and_a_merge() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/models");
    for name in ["llama", "gpt2"] {
        let model = tiny_models::open(name);
        let settings = recipe::Adapter { dora: true, ..recipe::Adapter::lora(4, recipe::TargetModules::AllLinear) };
        let adapter = Adapter::new(&settings, None, &model, 3).unwrap();
        let base = logits(&model, &());
        assert!(largest(&logits(&model, &adapter.frozen()), &base) < 1e-4, "{name}: it starts as the base");
        let rows: [&[u32]; 2] = [&[5, 9, 30, 77, 12, 40, 41], &[100, 3, 8, 8]];
        let mut optim = AdamW::new(adapter.params()).unwrap();
        let train = recipe::Train::default();
        let mut losses = Vec::new();
        for step in 0..12 {
            let adapt = adapter.training(1, step, 0);
            let mut room = Workspace::new(Recompute::Never);
            let found = model.gradients(&mut room, &adapt, &rows, &|_, i| i > 0, 0.1).unwrap();
            let grads: Vec<Option<Tensor>> = adapter.by_param(found.gradients).unwrap();
            assert!(grads.iter().all(Option::is_some), "{name}");
            optim.step(adapter.params(), &grads, &update_settings(&train, 1e-2, norm(&grads).unwrap())).unwrap();
            losses.push(found.loss);
        }
        assert!(losses[11] < 0.8 * losses[0], "{name}: {losses:?}");
        let learnt = logits(&model, &adapter.frozen());
        assert!(largest(&learnt, &base) > 0.1, "{name}");
        assert_eq!(learnt, logits(&model, &adapter), "{name}: norms asked for once and each time");
        let dir = tempfile::tempdir().unwrap();
        adapter.save(dir.path()).unwrap();
        let read = Adapter::load(dir.path(), &model).unwrap().frozen();
        assert_eq!(learnt, logits(&model, &read), "{name}: from its file");
        let out = dir.path().join("merged");
        let base = golden.join(name);
        let merged = Merged { model: &model, adapter: &read, base: &base, dtype: Dtype::F32, spoken: None, card: None };
        merge::write(&merged, &out, &mut |_, _| ()).unwrap();
        let merged = Model::open(&out, Compute::F32, &model.device).unwrap();
        assert!(largest(&learnt, &logits(&merged, &())) < 1e-4, "{name}: merged");
    }
}
