//! `[template]`, checked: how a conversation becomes text, and which of its tokens carry loss.

use std::path::PathBuf;

/// `[template]`: how a conversation becomes text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub kind: TemplateKind,
    /// System message for rows that carry none.
    pub system: Option<String>,
    /// Roles whose turns carry loss, unless a row says otherwise.
    pub roles_to_train: Vec<String>,
    pub train_on_eos: TrainOnEos,
    pub train_turns: TrainTurns,
    pub special_tokens_in_data: SpecialTokensInData,
}

impl Default for Template {
    fn default() -> Template {
        Template {
            kind: TemplateKind::Model,
            system: None,
            roles_to_train: vec!["assistant".into()],
            train_on_eos: TrainOnEos::default(),
            train_turns: TrainTurns::default(),
            special_tokens_in_data: SpecialTokensInData::default(),
        }
    }
}

/// Which ends of turns carry loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrainOnEos {
    /// Those of the turns that carry loss.
    #[default]
    Turn,
    /// The last one of a conversation.
    Last,
    /// Every one, whoever's turn it ends.
    All,
    /// No one.
    None,
}

/// Which of the turns that carry loss by their role really do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrainTurns {
    #[default]
    All,
    /// The last one of a conversation.
    Last,
}

/// What the text of a special token inside a row becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SpecialTokensInData {
    /// Text, as someone wrote it.
    #[default]
    Text,
    /// The special token.
    Allow,
}

/// Where the rendering rules come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateKind {
    /// The model's own chat template.
    Model,
    /// Stanford Alpaca's two prompts (with and without input).
    Alpaca,
    /// `### Instruction:` / `### Response:`.
    Instruction,
    /// A Jinja file.
    File(PathBuf),
}
