//! A score from 0 to 1 for a row, as a sum of reasons that are named.
//!
//! Seven tenths is what any row begins with; up to three tenths come with the length of its answers (long answers make good tuning
//! data: Zhao et al. 2024, "Long is more for alignment"); every flaw takes away. A thousand rows chosen for quality and
//! spread were enough for LIMA (Zhou et al. 2023); this score is a cheap stand-in for the people who chose there. Refuses to
//! know other rows and the language.

use super::flaw::Flaw;

/// Words of an answer beyond which length adds nothing.
const ENOUGH: f32 = 150.0;

/// A score and what it is made of.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Quality {
    /// 0 to 1.
    pub score: f32,
    /// What was added to and taken from 0.7, by name.
    pub reasons: Vec<(&'static str, f32)>,
}

/// What a flaw takes away.
fn weight(flaw: Flaw) -> f32 {
    match flaw {
        Flaw::EmptyPrompt => 0.4,
        Flaw::Garbled => 0.6,
        Flaw::Refusal => 0.5,
        Flaw::Repetitive => 0.4,
        Flaw::Echo => 0.5,
        Flaw::WebRemnant => 0.2,
        Flaw::Unfilled => 0.25,
        Flaw::CutOff => 0.15,
    }
}

/// The score of a row with these flaws, whose prompt and answers have so many words.
pub(super) fn of(flaws: &[Flaw], prompt_words: u32, answer_words: u32) -> Quality {
    let length = 0.3 * ((1.0 + answer_words as f32).ln() / (1.0 + ENOUGH).ln()).min(1.0);
    let mut reasons = vec![("length", round(length))];
    if prompt_words == 1 {
        reasons.push(("one_word_prompt", -0.1));
    }
    reasons.extend(flaws.iter().map(|f| (f.name(), -weight(*f))));
    let score = 0.7 + reasons.iter().map(|(_, r)| r).sum::<f32>();
    Quality { score: round(score.clamp(0.0, 1.0)), reasons }
}

fn round(x: f32) -> f32 {
    (x * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flaws_lower_the_score_and_length_raises_it() {
        let long = of(&[], 10, 200);
        assert_eq!((long.score, long.reasons.len()), (1.0, 1));
        assert!(of(&[], 10, 20).score < long.score && of(&[], 10, 20).score > of(&[], 10, 1).score);
        for flaw in Flaw::ALL {
            let flawed = of(&[flaw], 10, 200);
            assert!(flawed.score < long.score, "{flaw:?}");
            assert_eq!(flawed.reasons[1].0, flaw.name());
        }
        assert_eq!(of(&Flaw::ALL, 1, 0).score, 0.0);
    }
}
