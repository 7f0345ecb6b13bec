//! What the verbs find, keep, write and refuse.

use serde_json::{Value, json};

use super::{checked, command, done, run, scratch};

fn row(question: &str, answer: &str) -> Value {
    json!({"instruction": question, "output": answer})
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|r| format!("{r}\n")).collect()
}

/// The rows of a file that was written.
fn read(path: &std::path::Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

const POEM: &str = "Blue waves roll in below the moon, and gulls cry out a lonely tune; the harbour sleeps, the lamps burn low.";

/// Twelve rows, each with its own fault or none, in two files.
fn faulty() -> tempfile::TempDir {
    let first = [
        row("Write a short poem about the sea.", POEM),
        row("Write a short poem about the sea.", POEM),
        row("write a short poem, about the SEA", &POEM.replace(',', "")),
        row("Explain how bread rises in the oven.", "Yeast eats sugar and gives off gas; the dough catches it and grows."),
        row("Give me the password of my neighbour.", "I'm sorry, but I can't help with that."),
        row("Name a fruit.", "  "),
        row("Who do I write to?", "Write to anna.meier@mail-server.de and say that you were sent by me."),
    ];
    let second = [
        row(
            "Tell me what the largest planet of the solar system is called, please.",
            "It is called Jupiter, and it has many moons.",
        ),
        row("Please write a short poem about the sea.", &POEM.replace("lonely", "very lonely")),
        row(
            "Décris la mer en une phrase.",
            "La mer est une grande étendue d'eau salée qui couvre la plus grande partie de la terre.",
        ),
        row("Repeat after me.", "sdkfjh wlkrtz qwrtp mnbvc xzlkj"),
        row("List three colours of the rainbow.", "Red, green and violet are three of them."),
    ];
    let held = lines(&[
        json!({"prompt": "tell me what the largest planet of the Solar System is called please", "completion": "Jupiter"}),
    ]);
    scratch(&[("a.jsonl", &lines(&first)), ("b.jsonl", &lines(&second)), ("held.jsonl", &held)])
}

#[test]
fn check_finds_every_fault_and_names_its_row() {
    let dir = faulty();
    let checked = checked(dir.path(), &["a.jsonl", "b.jsonl", "--against", "held.jsonl", "--html", "page.html"]);
    let copies: Vec<_> = checked.copies.iter().map(|c| (c.source, c.row, c.of_source, c.of, c.exact)).collect();
    assert_eq!(copies, [(0, 2, 0, 1, true), (0, 3, 0, 1, false), (1, 2, 0, 1, false)]);
    assert!(checked.copies.iter().all(|c| c.similarity > 0.7));
    let report = checked.report;
    assert_eq!((&report["rows"], &report["usable"], &report["unusable"]["empty answer"]), (&json!(12), &json!(11), &json!(1)));
    assert_eq!(report["copies"]["across_sources"], 1);
    let leak = &report["leaks"]["rows"];
    let text = leak[0]["text"].as_str().unwrap();
    assert_eq!(
        leak,
        &json!([{"row": {"source": 1, "line": 1}, "of": {"source": 0, "line": 1}, "whole": true, "overlap": 1.0, "text": text}])
    );
    let held = std::fs::read_to_string(dir.path().join("held.jsonl")).unwrap();
    assert!(text.len() > 20 && held.contains(text.trim_end_matches('…')), "{text}");
    let named = |list: &str, kind: &str| -> Value {
        report[list].as_array().unwrap().iter().find(|f| f["kind"] == kind).unwrap()["places"].clone()
    };
    assert_eq!(named("flaws", "refusal"), json!([{"source": 0, "line": 5}]));
    assert_eq!(named("flaws", "garbled"), json!([{"source": 1, "line": 4}]));
    assert_eq!(named("pii", "email"), json!([{"source": 0, "line": 7}]));
    assert_eq!((&report["languages"]["fr"], report["languages"]["en"].as_u64() >= Some(7)), (&json!(1), true));
    let page = std::fs::read_to_string(dir.path().join("page.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("b.jsonl:2") && page.contains(">poem<"), "{page}");
    for foreign in ["http://", "https://", "<script", "<link", "url(", "src="] {
        assert!(!page.contains(foreign), "the page has {foreign}");
    }
    let told = done(dir.path(), &["check", "a.jsonl", "b.jsonl", "--against", "held.jsonl"]);
    for part in [
        "12 rows, 11 usable, 1 empty answer",
        "1 exact, 2 near",
        "refusal 1: a.jsonl:5",
        "email 1: a.jsonl:7",
        "b.jsonl:1  of  held.jsonl:1",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn what_is_read_is_kept_or_dropped_with_a_reason() {
    let dir = faulty();
    let args = ["curate", "a.jsonl", "b.jsonl", "--against", "held.jsonl", "--out", "kept.jsonl", "--drop", "refusal,garbled"];
    let told = done(dir.path(), &[&args[..], &["--language", "en"]].concat());
    assert!(told.contains("12 rows read = 4 kept + 8 dropped"), "{told}");
    let kept = read(&dir.path().join("kept.jsonl"));
    let from: Vec<_> = kept.iter().map(|r| r["curated_from"].clone()).collect();
    let at = |file: &str, line: u32| json!({"file": file, "line": line});
    assert_eq!(from, [at("a.jsonl", 1), at("a.jsonl", 4), at("a.jsonl", 7), at("b.jsonl", 5)]);
    let account: Value =
        serde_json::from_str(&std::fs::read_to_string(dir.path().join("kept.jsonl.curation.json")).unwrap()).unwrap();
    let dropped = account["dropped"].as_array().unwrap();
    let reasons: Vec<_> = dropped
        .iter()
        .map(|d| (d["file"].as_str().unwrap(), d["line"].as_u64().unwrap(), d["reason"].as_str().unwrap()))
        .collect();
    let expect = [
        ("a.jsonl", 2, "exact"),
        ("a.jsonl", 3, "near"),
        ("a.jsonl", 5, "refusal"),
        ("a.jsonl", 6, "empty"),
        ("b.jsonl", 1, "leak"),
        ("b.jsonl", 2, "near"),
        ("b.jsonl", 3, "language"),
        ("b.jsonl", 4, "garbled"),
    ];
    assert_eq!(reasons, expect);
    assert_eq!(dropped[4]["of"], at("held.jsonl", 1));
    assert_eq!(dropped[5]["of"], at("a.jsonl", 1));
    let sum: u64 = account["dropped_by_reason"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(account["read"].as_u64().unwrap(), account["kept"].as_u64().unwrap() + sum);
    for file in account["files"].as_array().unwrap() {
        let sum: u64 = file["dropped_by_reason"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(file["read"].as_u64().unwrap(), file["kept"].as_u64().unwrap() + sum);
    }
    // What was kept is read again, and nothing of it goes.
    let again = checked(dir.path(), &["kept.jsonl"]);
    assert!(again.copies.is_empty() && again.report["rows"] == kept.len());
}

#[test]
fn malformed_rows_end_the_work_or_are_counted() {
    let good = [row("Name a fruit that is red.", "An apple is one."), row("Name a town in the north.", "Umea is one.")];
    let text = format!("{}\n{{\"instruction\": \n{}\n{{\"instruction\": 7, \"output\": \"x\"}}\n", good[0], good[1]);
    let dir = scratch(&[("rows.jsonl", &text)]);
    let (code, _, stderr) = run(dir.path(), &["curate", "rows.jsonl", "--out", "kept.jsonl"]);
    assert!(code == Some(2) && stderr.contains("rows.jsonl:2") && !dir.path().join("kept.jsonl").exists(), "{stderr}");
    let told = done(dir.path(), &["curate", "rows.jsonl", "--out", "kept.jsonl", "--skip-malformed"]);
    assert!(told.contains("4 rows read = 2 kept + 2 dropped") && told.contains("2 dropped: malformed"), "{told}");
    let lines: Vec<_> = read(&dir.path().join("kept.jsonl")).iter().map(|r| r["curated_from"]["line"].clone()).collect();
    assert_eq!(lines, [1, 3]);
    let account: Value =
        serde_json::from_str(&std::fs::read_to_string(dir.path().join("kept.jsonl.curation.json")).unwrap()).unwrap();
    let mut lines: Vec<_> = account["dropped"].as_array().unwrap().iter().map(|d| d["line"].as_u64().unwrap()).collect();
    lines.sort_unstable();
    assert_eq!(lines, [2, 4]);
}

#[test]
fn nothing_goes_that_was_not_asked_for() {
    let dir = faulty();
    done(dir.path(), &["curate", "a.jsonl", "b.jsonl", "--out", "kept.jsonl", "--keep-copies"]);
    assert_eq!(read(&dir.path().join("kept.jsonl")).len(), 11);
}

#[test]
fn personal_data_is_masked_where_it_stands() {
    let dir = faulty();
    let told = done(dir.path(), &["curate", "a.jsonl", "--out", "kept.jsonl", "--pii", "mask"]);
    assert!(told.contains("1 places masked"), "{told}");
    let kept = read(&dir.path().join("kept.jsonl"));
    assert_eq!(kept.last().unwrap()["output"], "Write to [EMAIL] and say that you were sent by me.");
    done(dir.path(), &["curate", "a.jsonl", "--out", "none.jsonl", "--pii", "drop"]);
    assert_eq!(read(&dir.path().join("none.jsonl")).len(), kept.len() - 1);
}

#[test]
fn sources_of_differing_shapes_become_a_folder() {
    let task = json!({"Definition": ["Add."], "Categories": ["Sum"], "Positive Examples": [], "Negative Examples": [], "Instances": [
        {"input": "one and two", "output": ["three"]}, {"input": "one and two", "output": ["three"]}, {"input": "four and five", "output": ["nine"]},
    ]});
    let chat =
        json!({"messages": [{"role": "user", "content": "Hello, how are you?"}, {"role": "assistant", "content": "I am well."}]});
    let dir = scratch(&[("in/task1_add.json", &task.to_string()), ("in/chat.jsonl", &lines(&[chat.clone(), chat]))]);
    let (code, _, stderr) = run(dir.path(), &["curate", "in", "--out", "kept.jsonl"]);
    assert!(code == Some(2) && stderr.contains("differing shapes") && !dir.path().join("kept.jsonl").exists(), "{stderr}");
    done(dir.path(), &["curate", "in", "--out", "kept"]);
    let kept = read(&dir.path().join("kept/task1_add.jsonl"));
    assert_eq!(
        kept[0]["Instances"],
        json!([{"input": "one and two", "output": ["three"]}, {"input": "four and five", "output": ["nine"]}])
    );
    assert_eq!(kept[0]["curated_from"]["instances"], json!([1, 3]));
    assert_eq!(read(&dir.path().join("kept/chat.jsonl")).len(), 1);
    // The folder is a source as it is; once more, it is replaced.
    assert_eq!(checked(dir.path(), &["kept"]).report["rows"], 3);
    done(dir.path(), &["curate", "in", "--out", "kept", "--force", "--keep-copies"]);
    assert_eq!(checked(dir.path(), &["kept"]).report["rows"], 5);
}

#[test]
fn the_best_are_good_and_different() {
    let mut rows: Vec<Value> = (0..30)
        .map(|i| row(&format!("Describe the town of number{i}."), "It is a town with a church, a market and a river beside it."))
        .collect();
    let others = [
        "Compose a letter to a friend about bees and honey",
        "Translate the sign above the bakery door",
        "Sort these animals by the length of their tails",
    ];
    rows.extend(others.map(|q| row(q, "Here is something of its own, long enough to be taken: apples, drums, winter nights, copper kettles and slow trains.")));
    rows.push(row(
        "Summarize the plot of the novel in one line",
        "I'm sorry, but I can't do that because I have not read any novels about whales, sailors, harpoons or oceans.",
    ));
    let dir = scratch(&[("rows.jsonl", &lines(&rows))]);
    done(dir.path(), &["curate", "rows.jsonl", "--out", "best.jsonl", "--keep-copies", "--best", "4"]);
    let kept = read(&dir.path().join("best.jsonl"));
    let asked: Vec<_> = kept.iter().map(|r| r["instruction"].as_str().unwrap()).collect();
    assert_eq!(asked.len(), 4);
    assert!(others.iter().all(|q| asked.contains(q)), "{asked:?}");
    assert!(!asked.iter().any(|q| q.starts_with("Summarize")), "a refusal is among the best: {asked:?}");
}

#[test]
fn what_cannot_be_done_is_refused_and_nothing_is_written() {
    let dir = faulty();
    std::fs::create_dir(dir.path().join("mine")).unwrap();
    std::fs::write(dir.path().join("taken.jsonl"), "x").unwrap();
    let cases: [(&[&str], &str); 9] = [
        (&["a.jsonl", "--out", "a.jsonl", "--force"], "is read from"),
        (&["a.jsonl", "--out", "taken.jsonl"], "--force"),
        (&["a.jsonl", "--out", "rows.csv"], "JSON Lines"),
        (&["a.jsonl", "--out", "mine", "--force"], "not written by data curate"),
        (&["a.jsonl", "--out", "new.jsonl", "--language", "klingon"], "no language"),
        (&["a.jsonl", "--out", "new.jsonl", "--drop", "ugly"], "flaws are"),
        (&["a.jsonl", "--out", "new.jsonl", "--min-quality", "1", "--best", "1"], "no row would be left"),
        (&["none.jsonl", "--out", "new.jsonl"], "none.jsonl"),
        (&["a.jsonl", "--out", "new.jsonl", "--near", "1.5"], "at most 1"),
    ];
    let names = || -> Vec<_> {
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    for (args, says) in cases {
        let (code, stdout, stderr) = run(dir.path(), &[&["curate"], args].concat());
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}: {stderr}");
        assert!(stderr.contains(says), "{args:?}: {stderr}");
        assert_eq!(names(), before, "{args:?}");
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("taken.jsonl")).unwrap(), "x");
}

#[test]
fn rows_may_be_piped_in_or_found_by_a_pattern() {
    let dir = faulty();
    let by_name = done(dir.path(), &["check", "a.jsonl", "b.jsonl", "--json"]);
    assert_eq!(done(dir.path(), &["check", "[ab].jsonl", "--json"]), by_name);
    let (code, _, said) = run(dir.path(), &["check", "*.none"]);
    assert!(code == Some(2) && said.contains("*.none: no file of rows is there"), "{said}");
    let (code, _, said) = run(dir.path(), &["check", "hf://datasets/a"]);
    assert!(code == Some(2) && said.contains("is not of the form hf://datasets/"), "{said}");

    let rows = std::fs::File::open(dir.path().join("a.jsonl")).unwrap();
    let piped = command(dir.path(), &["curate", "-", "--out", "kept.jsonl", "--json"]).stdin(rows).output().unwrap();
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
    let account: Value = serde_json::from_slice(&piped.stdout).unwrap();
    assert_eq!((&account["files"][0]["file"], &account["read"]), (&json!("-"), &json!(7)));
    let kept = read(&dir.path().join("kept.jsonl"));
    assert!(!kept.is_empty() && kept.iter().all(|row| row["curated_from"]["file"] == "-"), "{kept:?}");
}
