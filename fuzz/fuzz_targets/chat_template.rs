//! A chat template, a zero byte, and what is said: a line each, user and assistant by turns.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use lorakit::data::{Clock, Jinja, Message, Renderer, Row, RowKind, Special};
use lorakit::recipe::Template;
use lorakit_fuzz::{fair, halves, tokenizer};

fuzz_target!(|input: &[u8]| -> Corpus {
    let (source, said) = halves(input);
    let (Ok(source), Ok(said)) = (std::str::from_utf8(source), std::str::from_utf8(said)) else { return Corpus::Reject };
    let messages: Vec<Message> = said
        .split('\n')
        .take(6)
        .zip(["user", "assistant"].into_iter().cycle())
        .map(|(said, role)| Message::new(role, said))
        .collect();
    let special = Special { bos: Some("<s>".into()), eos: Some("<|im_end|>".into()), ..Special::default() };
    if let Some(jinja) = fair(Jinja::new("fuzzed", source, &special, Clock::default())) {
        fair(jinja.render(&messages, true));
    }
    if let Some(renderer) = fair(Renderer::new(tokenizer(Some(source.into())), &Template::default())) {
        fair(renderer.chat(&messages, true));
        fair(renderer.example(&Row::new(0, 1, RowKind::Chat(messages.into()))));
    }
    Corpus::Keep
});
