use super::*;

fn data(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/rouge").join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_thousand_pairs_score_as_in_python() {
    let mut stems_matter = 0;
    let pairs = data("pairs.jsonl");
    for line in pairs.lines() {
        let (target, answer, plain, stemmed): (String, String, [f64; 3], [f64; 3]) = serde_json::from_str(line).unwrap();
        for (wanted, stem) in [(plain, false), (stemmed, true)] {
            let RougeScore { precision, recall, f } = score(&target, &answer, stem);
            for (ours, python) in [precision, recall, f].iter().zip(wanted) {
                assert!((ours - python).abs() <= 1e-12, "{ours} and {python}, stemmed {stem}: {line}");
            }
        }
        stems_matter += usize::from(plain != stemmed);
    }
    assert_eq!(pairs.lines().count(), 1000);
    assert!(stems_matter > 100, "{stems_matter} of the pairs depend on stems");
}

#[test]
fn stems_are_those_of_nltk() {
    let stems = data("stems.txt");
    let different = stems.lines().filter(|line| line.split_once(' ').is_none_or(|(word, nltk)| porter::stem(word) != nltk));
    assert_eq!(different.collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(stems.lines().count() > 3000);
}

/// The table of the textbooks.
fn by_table(a: &[u32], b: &[u32]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut corner = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { corner + 1 } else { above.max(row[j]) };
            corner = above;
        }
    }
    row[b.len()]
}

#[test]
fn bits_find_what_the_table_finds() {
    for i in 0..300_u64 {
        let text = |which: u64| -> Vec<u32> {
            let length = crate::random::number(1, "length", &[i, which]) % 200;
            (0..length).map(|j| (crate::random::number(1, "word", &[i, which, j]) % (2 + i % 40)) as u32).collect()
        };
        let (a, b) = (text(0), text(1));
        assert_eq!(LcsPattern::new(&a).common(&b), by_table(&a, &b), "pair {i}");
        let pattern = LcsPattern::new(&a);
        assert!(pattern.score(&b).f <= pattern.bound(b.len()) + 1e-12);
    }
}

#[test]
fn the_best_reference_counts() {
    assert_eq!(best(["a dog", "the cat sat"], "The cat sat.", true), 1.0);
    assert_eq!(best([], "anything", true), 0.0);
}
