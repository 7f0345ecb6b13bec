mod chat_templates;
mod shared;
mod smollm2_text;
