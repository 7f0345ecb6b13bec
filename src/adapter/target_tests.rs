use serde_json::json;

use super::super::parse::parse;
use super::*;

fn site(path: &str, layer: Option<usize>, kind: SiteKind) -> SiteInfo {
    let all_linear = !matches!(kind, SiteKind::Embedding | SiteKind::Head);
    SiteInfo { path: path.into(), layer, kind, inputs: 4, outputs: 4, conv1d: false, module: true, all_linear }
}

/// Embedding, then q, v and gate of two layers, then the head.
fn sites() -> Vec<SiteInfo> {
    let mut all = vec![site("model.embed_tokens", None, SiteKind::Embedding)];
    for layer in 0..2 {
        let path = |name: &str| format!("model.layers.{layer}.{name}");
        all.push(site(&path("self_attn.q_proj"), Some(layer), SiteKind::Attention));
        all.push(site(&path("self_attn.v_proj"), Some(layer), SiteKind::Attention));
        all.push(site(&path("mlp.gate_proj"), Some(layer), SiteKind::Mlp));
    }
    all.push(site("lm_head", None, SiteKind::Head));
    all
}

fn config(fields: Value) -> PeftConfig {
    let mut map = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]});
    map.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    parse(&map.to_string(), std::path::Path::new("a"), &[]).unwrap().0
}

/// Places of the adapted sites, and the notes.
fn of_file(fields: Value) -> (Vec<usize>, Vec<String>) {
    let (plan, notes) = Plan::of_file(&config(fields), &sites(), &[]).unwrap();
    (plan.targets.iter().map(|t| t.site.0).collect(), notes)
}

fn refused(result: Result<impl Sized>) -> String {
    let Err(error) = result else { panic!("not refused") };
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn what_a_file_asks_for_in_vain_is_told_and_a_recipe_is_refused() {
    let cases = [
        (json!({"target_modules": ["q_proj", "v_proj", "query_key_value"]}), "query_key_value", "target_modules"),
        (json!({"exclude_modules": ["vision_tower"]}), "vision_tower", "exclude_modules"),
        (json!({"exclude_modules": "vision.*"}), "vision.*", "exclude_modules"),
        (json!({"rank_pattern": {"gate_proj": 16}}), "gate_proj", "rank_pattern"),
        (json!({"alpha_pattern": {"gate_proj": 16}}), "gate_proj", "alpha_pattern"),
        (json!({"layers_to_transform": [0, 1, 7]}), "layer 7", "layers_to_transform"),
        (json!({"modules_to_save": ["score"]}), "score", "modules_to_save"),
        (
            json!({"target_modules": ["q_proj", "v_proj", "gate_proj"], "exclude_modules": ["gate_proj"]}),
            "gate_proj",
            "target_modules",
        ),
    ];
    for (fields, name, key) in cases {
        let (chosen, notes) = of_file(fields.clone());
        assert_eq!(chosen, [1, 2, 4, 5], "{fields}");
        assert!(matches!(&notes[..], [note] if note.contains(name) && note.contains(&format!("`{key}`"))), "{notes:?}");
        let error = refused(Plan::new(&config(fields), &sites(), &[]));
        assert!(error.contains(name) && !error.contains(&format!("did you mean `{name}`")), "{error}");
    }
}

#[test]
fn a_file_is_read_as_peft_reads_it() {
    let cases = [
        (json!({"exclude_modules": []}), vec![1, 2, 4, 5]),
        (json!({"exclude_modules": ["layers.0.self_attn.q_proj"]}), vec![2, 4, 5]),
        (json!({"layers_to_transform": [], "layers_pattern": []}), vec![1, 2, 4, 5]),
        (json!({"layers_to_transform": 1}), vec![4, 5]),
        (json!({"layers_to_transform": [1], "layers_pattern": "layers"}), vec![4, 5]),
        (json!({"layers_to_transform": [1], "layers_pattern": ["h", "model.layers"]}), vec![4, 5]),
        (
            json!({"layers_to_transform": [1], "target_modules": ["q_proj", "lm_head", "model.layers.0.mlp.gate_proj"]}),
            vec![3, 4, 7],
        ),
        (json!({"target_modules": r"^(model)(?!.*(lm_head|emb)).*\.(q_proj|v_proj)$"}), vec![1, 2, 4, 5]),
        (json!({"target_modules": "All-Linear"}), vec![1, 2, 3, 4, 5, 6]),
        (json!({"target_modules": ["q_proj", "q_proj"]}), vec![1, 4]),
        (json!({"target_modules": ["lm_head", "q_proj"], "modules_to_save": ["lm_head", "lm_head"]}), vec![1, 4]),
    ];
    for (fields, expected) in cases {
        assert_eq!(of_file(fields.clone()).0, expected, "{fields}");
    }
    let full = Plan::of_file(&config(json!({"modules_to_save": ["lm_head", "lm_head"]})), &sites(), &[]).unwrap().0.full;
    assert_eq!(full, [Site(7)]);
    let only_full = json!({"target_modules": [], "modules_to_save": ["lm_head"]});
    assert_eq!(of_file(only_full).0, [0usize; 0]);
}

#[test]
fn the_first_pattern_in_the_file_wins() {
    let fields = json!({"rank_pattern": {"q_proj|v_proj": 2, r"layers\.1\..*": 6}, "alpha_pattern": {r".*\.1\..*": 5.5}});
    let (plan, notes) = Plan::of_file(&config(fields), &sites(), &[]).unwrap();
    let values: Vec<_> = plan.targets.iter().map(|t| (t.rank, t.alpha)).collect();
    assert_eq!((values, notes.len()), (vec![(2, 8.0), (2, 8.0), (2, 5.5), (2, 5.5)], 0));
}

#[test]
fn the_embedding_is_refused_by_name() {
    for fields in [json!({"target_modules": ["q_proj", "embed_tokens"]}), json!({"target_modules": ["embed_tokens"]})] {
        for error in
            [refused(Plan::new(&config(fields.clone()), &sites(), &[])), refused(Plan::of_file(&config(fields), &sites(), &[]))]
        {
            assert!(
                error.contains("`embed_tokens` is the model's token embedding") && !error.contains("did you mean"),
                "{error}"
            );
        }
    }
    let error = refused(Plan::new(&config(json!({"target_modules": ".*"})), &sites(), &[]));
    assert!(error.contains("`.*` also matches the model's token embedding"), "{error}");
    assert_eq!(of_file(json!({"target_modules": ".*", "exclude_modules": ["embed_tokens"]})).0, [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn what_adapts_nothing_is_refused() {
    let cases = [
        (json!({"target_modules": ["query"]}), "`query` matches no module"),
        (json!({"target_modules": []}), "the list is empty"),
        (json!({"target_modules": "q_proj"}), "must match a whole path"),
        (json!({"exclude_modules": ["q_proj", "v_proj"]}), "excluded again"),
        (json!({"layers_to_transform": [7]}), "outside `layers_to_transform`"),
        (json!({"layers_to_transform": [1], "layers_pattern": "h"}), "`layers_pattern`"),
        (json!({"target_modules": ".*q_proj", "layers_to_transform": [1]}), "`layers_to_transform`"),
        (json!({"modules_to_save": ["mlp"]}), "not the output head or the embedding"),
        (json!({"target_modules": "(q"}), "not a regular expression"),
    ];
    for (fields, expected) in cases {
        let error = refused(Plan::of_file(&config(fields), &sites(), &[]));
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn recipes_know_every_familys_embedding() {
    for family in crate::model::families::FAMILIES {
        let name = family.embedding.rsplit('.').next().unwrap();
        assert!(crate::recipe::EMBEDDINGS.contains(&name), "{name}");
    }
}
