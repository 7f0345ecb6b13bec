//! Answers in templates made up for one habit each.

use super::*;
use crate::data::read::row::Message;
use crate::data::render::template::Clock;
use crate::tokenizer::Special;

fn chat(turns: &[(&str, &str)]) -> Chat {
    Chat { messages: turns.iter().map(|(r, c)| ChatMessage::of(&Message::new(*r, *c))).collect(), tools: None }
}

fn template(source: &str) -> Spans {
    let jinja = Jinja::new("test", source, &Special::default(), Clock::default()).unwrap();
    let base = jinja.defaults();
    Spans::new(jinja, base)
}

/// Each answer as the text it covers, `|` before the end of its turn.
fn answers(source: &str, turns: &[(&str, &str)]) -> Vec<String> {
    let spans = template(source);
    let r = spans.render(&chat(turns), false).unwrap();
    // What a skeleton explains is what a search finds.
    let (searched, _) = spans.search(&chat(turns), r.text.clone(), false);
    let places = |r: &Rendering| r.turns.iter().map(|t| t.answer.clone()).collect::<Vec<_>>();
    assert_eq!(places(&r), places(&searched));
    let end = |t: &RenderedTurn| t.end.as_ref().map_or("", |end| &r.text[end.clone()]);
    let show = |t: &RenderedTurn| format!("{}|{}", &r.text[t.answer[0].clone()], end(t));
    r.turns.iter().filter(|t| t.role == "assistant").map(show).collect()
}

const CHATML: &str = "{% for m in messages %}{{ '<' + m.role + '>\n' + m.content + '</>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>\n' }}{% endif %}";

#[test]
fn every_answer_is_found_with_its_end() {
    let turns = [("user", "a"), ("assistant", " yes\n"), ("user", "yes"), ("assistant", "no")];
    assert_eq!(answers(CHATML, &turns), [" yes\n|</>", "no|</>"]);
}

#[test]
fn a_template_that_trims_is_followed() {
    let source = CHATML.replace("m.content", "m.content|trim");
    assert_eq!(answers(&source, &[("user", "a"), ("assistant", " yes\n")]), ["yes|</>"]);
}

#[test]
fn what_the_template_adds_after_the_prompt_belongs_to_the_answer() {
    // As Qwen3 does: an empty reasoning block before the answer, not part of the generation prompt.
    let source = CHATML.replace("m.content", "('<think></think>' if m.role == 'assistant' else '') + m.content");
    assert_eq!(answers(&source, &[("user", "a"), ("assistant", "b")]), ["<think></think>b|</>"]);
}

#[test]
fn a_template_without_a_generation_prompt_keeps_its_header_out_of_the_answer() {
    let source = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}";
    assert_eq!(answers(source, &[("user", "a"), ("assistant", "b")]), ["b|"]);
    let source = "{% for m in messages %}{{ '[' + m.content + '] ' }}{% endfor %}";
    assert_eq!(answers(source, &[("user", "a"), ("assistant", "b")]), ["[b|]"].map(|s| s.trim_start_matches('[').to_string()));
}

#[test]
fn a_template_that_inspects_contents_falls_back_to_differences() {
    // The first character is read, so a mark in front of it changes the text.
    let source = CHATML.replace("m.content", "(m.content[0]|upper) + m.content[1:]");
    assert_eq!(answers(&source, &[("user", "a"), ("assistant", "hello")]), ["Hello</>|"]);
}

#[test]
fn a_turn_that_depends_on_what_follows_is_refused() {
    let source = "{% for m in messages %}{{ m.role }}:{% if loop.last or m.role == 'user' %}{{ m.content[0] + m.content[1:] }}{% else %}-{% endif %};{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    let turns = chat(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let error = template(source).render(&turns, false).unwrap_err().to_string();
    assert!(error.contains("message 2 (assistant) cannot be found"), "{error}");
}

#[test]
fn a_reasoning_block_that_the_template_cuts_from_earlier_turns() {
    let source = CHATML.replace("m.content", "(m.content if loop.last else m.content.split('</think>')[-1])");
    let turns = [("user", "a"), ("assistant", "<think>x</think>b"), ("user", "c"), ("assistant", "<think>y</think>d")];
    assert_eq!(answers(&source, &turns), ["b|</>", "<think>y</think>d|</>"]);
}

#[test]
fn a_content_of_private_characters_is_still_found() {
    assert_eq!(answers(CHATML, &[("user", "a"), ("assistant", "\u{F0001}b")]), ["\u{F0001}b|</>"]);
}

#[test]
fn white_space_behind_the_end_in_a_generation_block_is_not_the_answers() {
    let source = "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ '<|end|>\n' }}{% endgeneration %}{% else %}{{ m.content }}{{ '<|end|>\n' }}{% endif %}{% endfor %}";
    assert_eq!(answers(source, &[("user", "a"), ("assistant", "b <|c|>\n")]), ["b <|c|>\n|<|end|>"]);
    let without_end = source.replace("m.content }}{{ '<|end|>\n' }}{% endgeneration", "m.content }}{% endgeneration");
    assert_eq!(answers(&without_end, &[("user", "a"), ("assistant", "b <|c|>\n")]), ["b <|c|>\n|"]);
}
