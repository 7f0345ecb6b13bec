//! The adapter's card: `README.md` with the Hub's metadata header, the measured table, and how to use and remake it.

use std::path::Path;

use crate::recipe::{Recipe, TemplateKind};

/// One row of the table.
#[derive(Debug, Clone)]
pub struct CardResult {
    pub loss: f64,
    pub perplexity: f64,
    pub exact_match: Option<f64>,
    pub rouge_l: Option<f64>,
}

/// A question with the answers before and after.
#[derive(Debug, Clone)]
pub struct Sample {
    pub prompt: String,
    pub reference: String,
    pub base: String,
    pub adapter: String,
}

/// A file of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardFile {
    /// Without its folder.
    pub name: String,
    pub heldout: bool,
    /// Rows in it.
    pub rows: usize,
    pub sha256: String,
}

/// Files that the card names; a folder of tasks has thousands.
const FILES: usize = 20;

/// What the card tells.
pub struct Card<'a> {
    pub recipe: &'a Recipe,
    pub base_id: Option<&'a str>,
    /// Keys of its configuration that were left out of account; sentences.
    pub base_told: &'a [String],
    /// What PEFT makes of the adapter otherwise; a sentence.
    pub adapter_told: Option<String>,
    pub params: usize,
    pub steps: usize,
    pub trained_tokens: u64,
    pub heldout_rows: usize,
    /// `None` where no row was held out.
    pub base: Option<&'a CardResult>,
    pub adapter: Option<&'a CardResult>,
    /// Files of the rows, and what became of these where it is not simply all of them.
    pub files: &'a [CardFile],
    pub told: &'a [String],
    /// Lines below the table: differences with their intervals, other sets.
    pub notes: &'a [String],
    pub samples: &'a [Sample],
}

impl Card<'_> {
    /// The Markdown text.
    pub fn text(&self) -> String {
        let r = self.recipe;
        let a = &r.adapter;
        let mut out = self.header();
        out += &format!("# {}\n\n{}\n\n", r.output.name, r.output.description);
        out += &format!(
            "A {} adapter of {} trained values (rank {}, alpha {}, {}) for `{}`, in PEFT's format.\n\n",
            if a.dora { "DoRA" } else { "LoRA" },
            self.params,
            a.rank,
            a.alpha,
            serde_json::to_value(a.method).ok().and_then(|v| v.as_str().map(ToString::to_string)).unwrap_or_default(),
            self.base_id.unwrap_or(&self.base_name()),
        );
        let base = |told: &String| format!("Of the base: {told}.\n\n");
        out += &self.base_told.iter().map(base).collect::<String>();
        out += &self.adapter_told.iter().map(|told| format!("Of the adapter: {told}.\n\n")).collect::<String>();
        out += &self.rows();
        out += &self.table();
        for s in self.samples {
            out += &format!(
                "Prompt:\n\n{}\nReference: `{}`\n\n- base: {}\n- with the adapter: {}\n\n",
                fenced(&s.prompt),
                s.reference.trim(),
                inline(&s.base),
                inline(&s.adapter)
            );
        }
        out += &self.usage();
        out
    }

    /// The base of a base without an id: its file or folder, not where that lies on this machine.
    fn base_name(&self) -> String {
        let path = Path::new(&self.recipe.base.model);
        path.file_name().map_or_else(|| self.recipe.base.model.clone(), |name| name.to_string_lossy().into_owned())
    }

    /// The Hub's metadata; a base is named by its id on the hub, or not at all.
    fn header(&self) -> String {
        let id = |line: &str| self.base_id.map(|id| format!("{line}{id}\n")).unwrap_or_default();
        let license = &self.recipe.output.license;
        format!(
            "---\n{}library_name: peft\npipeline_tag: text-generation\nlicense: {license}\ntags:\n- lora\n- lorakit\n{}---\n\n",
            id("base_model: "),
            id("- base_model:adapter:")
        )
    }

    /// What was trained on and judged by.
    fn rows(&self) -> String {
        let file = |file: &CardFile| {
            let what = if file.heldout { "held out" } else { "trained on" };
            format!("- {what}: `{}`, {} rows, SHA-256 `{}`\n", file.name.replace('`', "'"), file.rows, file.sha256)
        };
        let mut out: String = self.files.iter().take(FILES).map(file).collect();
        if self.files.len() > FILES {
            out += &format!("- … and {} more files\n", self.files.len() - FILES);
        }
        out += &self.told.iter().map(|told| format!("- {told}\n")).collect::<String>();
        if out.is_empty() { out } else { format!("Rows:\n\n{out}\n") }
    }

    fn table(&self) -> String {
        let (Some(base), Some(adapter)) = (self.base, self.adapter) else {
            let (steps, tokens) = (self.steps, self.trained_tokens);
            let notes: String = self.notes.iter().map(|note| format!("- {note}\n")).collect();
            let notes = if notes.is_empty() { notes } else { format!("On other sets:\n\n{notes}\n") };
            return format!(
                "No row was held out: what {steps} steps ({tokens} trained tokens) have changed was not measured on any.\n\n{notes}"
            );
        };
        let exact = |r: &CardResult| r.exact_match.map_or("–".to_string(), |e| format!("{:.1} %", e * 100.0));
        let rouge = |r: &CardResult| r.rouge_l.map_or("–".to_string(), |e| format!("{:.1}", e * 100.0));
        let rouge = match (base.rouge_l, adapter.rouge_l) {
            (None, None) => String::new(),
            _ => format!("| ROUGE-L | {} | {} |\n", rouge(base), rouge(adapter)),
        };
        let notes: String = self.notes.iter().map(|note| format!("- {note}\n")).collect();
        let notes = if notes.is_empty() { notes } else { format!("With 95 % intervals of the difference:\n\n{notes}\n") };
        format!(
            "Measured on {} held-out rows after {} steps ({} trained tokens):\n\n\
             | | base | with the adapter |\n|---|---|---|\n| held-out loss, nats per token | {:.4} | {:.4} |\n\
             | perplexity | {:.2} | {:.2} |\n| exact match | {} | {} |\n{rouge}\n{notes}",
            self.heldout_rows,
            self.steps,
            self.trained_tokens,
            base.loss,
            adapter.loss,
            base.perplexity,
            adapter.perplexity,
            exact(base),
            exact(adapter)
        )
    }

    fn usage(&self) -> String {
        let base = self.base_id.map_or_else(|| format!("path/to/{}", self.base_name()), str::to_string);
        let template = match &self.recipe.template.kind {
            TemplateKind::Model => "the model's own chat template",
            TemplateKind::Alpaca => "the Alpaca template",
            TemplateKind::Instruction => "the `### Instruction` template",
            TemplateKind::File(_) => "the template in `chat_template.jinja`",
        };
        format!(
            "## Use\n\nPrompts are rendered with {template}. `recipe.toml` beside this card is the whole recipe, `trace.json` what went in.\n\n\
             ```sh\nlorakit chat --model {base} --adapter {}=.\n```\n\n\
             ```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\
             model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(\"{base}\"), \".\")\n```\n",
            self.recipe.output.name
        )
    }
}

/// What a merged model came from.
pub struct MergedCard<'a> {
    /// The folder of the model.
    pub name: &'a str,
    /// Hub id of the base, or its file.
    pub base: &'a str,
    /// Whether `base` is an id of the hub.
    pub hub: bool,
    /// SHA-256 of the adapter's tensors.
    pub adapter_sha256: &'a str,
    /// Element type of the weights.
    pub dtype: &'a str,
    /// What was told of the files of base and adapter when they were read.
    pub told: &'a [String],
}

impl MergedCard<'_> {
    /// The Markdown text of a merged model's `README.md`.
    pub fn text(&self) -> String {
        let base = if self.hub { format!("base_model: {}\nbase_model_relation: merge\n", self.base) } else { String::new() };
        let told: String = self.told.iter().map(|told| format!("- {told}\n")).collect();
        let told = if told.is_empty() { told } else { format!("\nOf the files of base and adapter:\n\n{told}") };
        format!(
            "---\n{base}library_name: transformers\npipeline_tag: text-generation\ntags:\n- lora\n- lorakit\n---\n\n# {}\n\n\
             `{}` with an adapter merged into its weights, in {}.\n\n\
             - SHA-256 of the adapter's `adapter_model.safetensors`: `{}`\n{told}",
            self.name, self.base, self.dtype, self.adapter_sha256
        )
    }
}

fn fenced(text: &str) -> String {
    format!("```text\n{}\n```\n", text.trim().replace("```", "'''"))
}

/// One line, short enough for a list.
fn inline(text: &str) -> String {
    const MAX: usize = 300;
    let line = text.trim().replace('\n', " ⏎ ").replace('`', "'");
    let cut: String = line.chars().take(MAX).collect();
    let dots = if cut.len() < line.len() { " …" } else { "" };
    format!("`{cut}{dots}`")
}
