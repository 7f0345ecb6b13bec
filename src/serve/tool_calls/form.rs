//! The forms in which models write calls, and which of them a chat template shows.

/// How a model writes calls of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `<tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>`, a block a call (Hermes 2 Pro, Qwen2.5, Qwen3).
    Hermes,
    /// `<tool_call>[{"name": …, "arguments": {…}}, …]</tool_call>` (SmolLM2).
    HermesList,
    /// `{"name": …, "parameters": {…}}` in the place of an answer, or after `<|python_tag|>`; several are separated by `;`
    /// (Llama 3.1, 3.2).
    Llama,
    /// `[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]` (Mistral's tokenizers 3 to 7).
    MistralList,
    /// `[TOOL_CALLS]name[ARGS]{…}`, one after another (Mistral's tokenizers from 11 on).
    MistralNamed,
    /// `<tool_call>\n<function=name>\n<parameter=key>\nvalue\n</parameter>\n</function>\n</tool_call>` (Qwen3-Coder).
    QwenXml,
}

pub(super) const TOOL_CALL: &str = "<tool_call>";
pub(super) const END_OF_TOOL_CALL: &str = "</tool_call>";
pub(super) const PYTHON_TAG: &str = "<|python_tag|>";
pub(super) const TOOL_CALLS: &str = "[TOOL_CALLS]";
pub(super) const CALL_ID: &str = "[CALL_ID]";
pub(super) const ARGS: &str = "[ARGS]";

impl Form {
    /// The form that the source of a chat template writes calls in; `None` where it writes none, or in another form.
    pub(crate) fn of_template(source: &str) -> Option<Form> {
        let has = |text: &str| source.contains(text);
        match () {
            () if has("<function=") && has("<parameter=") => Some(Form::QwenXml),
            () if has(TOOL_CALLS) && has(ARGS) => Some(Form::MistralNamed),
            () if has(TOOL_CALLS) => Some(Form::MistralList),
            () if has("<tool_call>[") => Some(Form::HermesList),
            () if has(TOOL_CALL) && (has("\"arguments\"") || has("\\\"arguments\\\"")) => Some(Form::Hermes),
            () if has("\"name\"") && has("\"parameters\"") && (has(PYTHON_TAG) || has("\"parameters\": dictionary")) => {
                Some(Form::Llama)
            }
            () => None,
        }
    }

    /// What stands before calls.
    pub(super) fn marker(self) -> &'static str {
        match self {
            Form::Hermes | Form::HermesList | Form::QwenXml => TOOL_CALL,
            Form::Llama => PYTHON_TAG,
            Form::MistralList | Form::MistralNamed => TOOL_CALLS,
        }
    }
}
