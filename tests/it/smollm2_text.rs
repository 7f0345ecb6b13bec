//! SmolLM2's chat template: the text of its golden conversations.

use lorakit::data::{Clock, Jinja, Message, Special};
use serde_json::Value;

use crate::shared;

#[test]
fn conversations_of_smollm2_render_exactly() {
    let Some(path) = shared::find("golden/smollm2/chat_and_tokens.json") else { return };
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let template =
        Jinja::new("SmolLM2", golden["chat_template"].as_str().unwrap(), &Special::default(), Clock::default()).unwrap();
    let conversations = golden["conversations"].as_array().unwrap();
    assert!(conversations.len() >= 12);
    for conversation in conversations {
        let message = |m: &Value| Message::new(m["role"].as_str().unwrap(), m["content"].as_str().unwrap());
        let messages: Vec<Message> = conversation["messages"].as_array().unwrap().iter().map(message).collect();
        let text = template.render(&messages, conversation["add_generation_prompt"].as_bool().unwrap()).unwrap();
        assert_eq!(text, conversation["text"].as_str().unwrap());
    }
}
