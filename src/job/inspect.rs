//! What a base is, which verbs work on it, and what it takes. Refuses to know how that is shown.

use std::path::PathBuf;

use serde::Serialize;

use super::events::{JobEvent, Listener, tell};
use super::open;
use crate::adapter::Adapter;
use crate::data::{ChatTemplates, Example, Examples};
use crate::error::Result;
use crate::estimate::{MemoryEstimate, memory};
use crate::files;
use crate::model::family::AttentionNames;
use crate::model::inspect::{ModelFacts, facts};
use crate::model::weights::read_from_gguf;
use crate::model::{Model, PagedKv, text};
use crate::recipe::{self, Base, TargetModules};
use crate::train::TrainSetup;
use crate::train::mixture::Mixture;

/// Micro-batches that memory is told of: rows, tokens of each.
const BATCHES: [(usize, usize); 2] = [(1, 512), (4, 256)];
/// Rank of the adapter that memory is told with.
const RANK: usize = 8;

/// A base, looked into.
#[derive(Debug, Clone, Serialize)]
pub struct ModelInspection {
    /// Its directory or `.gguf` file.
    pub path: PathBuf,
    /// Its id on the hub, if it has one.
    pub id: Option<String>,
    #[serde(flatten)]
    pub facts: ModelFacts,
    /// Why there is no tokenizer.
    pub no_tokenizer: Option<String>,
    pub chat_templates: Vec<ChatTemplateFact>,
    pub verbs: Vec<VerbFact>,
    /// Whether models of its family are read from GGUF.
    pub read_from_gguf: bool,
    /// Of adapters on queries and values.
    pub training: Vec<TrainingMemory>,
    /// Bytes of the weights, in the mapped file.
    pub weight_bytes: u64,
    /// Bytes of the keys and values of a token, as a server on the CPU keeps them.
    pub token_bytes: usize,
    /// Bytes of what layers without keys hold of a text.
    pub state_bytes: usize,
}

/// One of its chat templates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChatTemplateFact {
    pub name: String,
    pub characters: usize,
    pub sha256: String,
}

/// Whether a verb works on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerbFact {
    pub verb: &'static str,
    pub works: bool,
    /// What it lacks or needs.
    pub told: Option<String>,
}

/// What training takes at its peak.
#[derive(Debug, Clone, Serialize)]
pub struct TrainingMemory {
    /// Modules of the adapter.
    pub targets: Vec<String>,
    pub rank: usize,
    /// Rows of a micro-batch, and tokens of each.
    pub rows: usize,
    pub tokens: usize,
    /// Bytes in all, those of a device among them.
    pub total: u64,
    #[serde(flatten)]
    pub memory: MemoryEstimate,
}

/// Finds a base and looks into it.
///
/// # Errors
/// When it is not found or cannot be opened; when the listener ends the job. Without a tokenizer it is looked into all the same.
pub fn inspect(base: &Base, listener: &mut Listener<'_>) -> Result<ModelInspection> {
    let resolved = open::find(base, listener)?;
    let device = open::device(listener)?;
    let model = Model::open_ignoring(&resolved.path, base.compute, &device, &base.ignore_config)?;
    let facts = facts(&resolved.path, &model)?;
    let (templates, no_tokenizer) = match text::tokenizer_and_notes(&resolved.path) {
        Ok((tokenizer, notes)) => {
            notes.into_iter().try_for_each(|note| tell(listener, JobEvent::Warning(note)))?;
            (tokenizer.chat_templates().clone(), None)
        }
        Err(error) => (ChatTemplates::default(), Some(error.to_string())),
    };
    Ok(ModelInspection {
        verbs: verbs(&templates, no_tokenizer.as_deref()),
        chat_templates: templates.iter().map(template).collect(),
        no_tokenizer,
        read_from_gguf: read_from_gguf(facts.family),
        training: BATCHES.iter().map(|batch| training(&model, *batch)).collect::<Result<_>>()?,
        weight_bytes: facts.tensors.iter().map(|of| of.bytes).sum(),
        token_bytes: PagedKv::token_bytes(&model.config),
        state_bytes: PagedKv::state_bytes(&model.config),
        path: resolved.path,
        id: resolved.id,
        facts,
    })
}

fn template((name, source): (&str, &str)) -> ChatTemplateFact {
    ChatTemplateFact { name: name.to_string(), characters: source.chars().count(), sha256: files::sha256(source.as_bytes()) }
}

/// Every family is trained, merged and answered with; what text a model lacks is what a verb lacks.
fn verbs(templates: &ChatTemplates, no_tokenizer: Option<&str>) -> Vec<VerbFact> {
    let all = ["train", "eval", "generate", "merge", "chat", "serve"];
    let fact = |verb| {
        let converses = matches!(verb, "chat" | "serve");
        let told = match no_tokenizer {
            Some(why) => Some(why.to_string()),
            None if converses && templates.is_empty() => Some("it has no chat template: name one with --template".to_string()),
            None => None,
        };
        VerbFact { verb, works: no_tokenizer.is_none(), told }
    };
    all.into_iter().map(fact).collect()
}

/// Memory for full rows of which every token is trained, cut to the positions there are.
fn training(model: &Model, (rows, tokens): (usize, usize)) -> Result<TrainingMemory> {
    let c = &model.config;
    let tokens = tokens.min(c.max_positions);
    let targets: Vec<String> = match c.family.attention {
        AttentionNames::Split { q, v, .. } => vec![q.into(), v.into()],
        AttentionNames::Fused { qkv, .. } => vec![qkv.into()],
    };
    let wanted = recipe::Adapter::lora(RANK, TargetModules::Names(targets.clone()));
    let adapter = Adapter::new(&wanted, None, model, 0)?;
    let row = |line: usize| Example {
        ids: (0..tokens).map(|i| ((line * tokens + i) % c.vocab) as u32).collect(),
        trained: vec![true; tokens],
        source: 0,
        line,
    };
    let (examples, none): (Examples, _) = ((0..rows).map(row).collect(), Examples::default());
    let settings = &recipe::Train { batch_size: rows, max_length: tokens, ..recipe::Train::default() };
    let mixture = &Mixture::plain(rows);
    let run = TrainSetup { model, adapter: &adapter, examples: &examples, mixture, heldout: &none, settings };
    let memory = MemoryEstimate::of(&run, &recipe::Eval::default(), memory::program(&run));
    let total = memory.total() + memory.device.map_or(0, |device| device.total());
    Ok(TrainingMemory { targets, rank: RANK, rows, tokens, total, memory })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::Device;

    use super::*;
    use crate::device::Compute;

    fn model(name: &str) -> Model {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name);
        Model::open(&dir, Compute::F32, &Device::Cpu).unwrap()
    }

    /// Values, two copies, gradients of a group and of the step; moments twice.
    #[test]
    fn memory_is_that_of_queries_and_values_at_rank_eight() {
        for (name, targets) in [("models/llama", 2), ("families/phi3", 1)] {
            let model = model(name);
            let told = BATCHES.map(|batch| training(&model, batch).unwrap());
            let named = |path: &str| told[0].targets.iter().any(|target| path.ends_with(target));
            let sites = model.sites().iter().filter(|site| named(&site.path));
            let values: u64 = sites.map(|site| (RANK * (site.inputs + site.outputs)) as u64).sum();
            assert_eq!(told[0].targets.len(), targets, "{name}");
            for of in &told {
                assert_eq!((of.memory.adapter, of.memory.optimizer), (5 * 4 * values, 2 * 4 * values), "{name}");
                assert_eq!(of.tokens, 512.min(model.config.max_positions).min(if of.rows == 4 { 256 } else { 512 }));
            }
            assert!(told[1].rows * told[1].tokens > told[0].tokens && told[1].memory.activations > told[0].memory.activations);
        }
    }

    #[test]
    fn verbs_lack_what_the_text_side_lacks() {
        let told = |templates: &ChatTemplates, why| {
            let all = verbs(templates, why).into_iter().map(|fact| (fact.verb, fact.works, fact.told.is_some()));
            all.collect::<Vec<_>>()
        };
        let template = ChatTemplates::from(Some("{{ messages }}".to_string()));
        assert!(told(&template, None).iter().all(|(_, works, told)| *works && !told));
        let bare = told(&ChatTemplates::default(), None);
        assert!(bare.iter().all(|(verb, works, told)| *works && *told == ["chat", "serve"].contains(verb)), "{bare:?}");
        assert!(told(&template, Some("none")).iter().all(|(_, works, told)| !works && *told));
    }
}
