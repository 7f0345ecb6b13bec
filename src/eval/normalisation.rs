//! Answers as Super-NaturalInstructions compares them. Refuses to know which answers these are.

/// Python's `string.punctuation`.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// Lower case, without punctuation, runs of white space one space (`normalize_answer` of Super-NaturalInstructions'
/// `compute_metrics.py`, which keeps articles, unlike SQuAD's).
pub fn normalised(text: &str) -> String {
    let kept: String = text.to_lowercase().chars().filter(|c| !PUNCTUATION.contains(*c)).collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}
