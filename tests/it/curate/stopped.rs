//! Ctrl-C in the middle of the work.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use super::{command, scratch};

fn any(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_some()
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let row = |i: usize| {
        format!(
            "{}\n",
            json!({"instruction": format!("Say something about the number {i}."), "output": format!("{i} ").repeat(200)})
        )
    };
    let text: String = (0..60_000).map(row).collect();
    let dir = scratch(&[("rows.jsonl", &text)]);
    let (tmp, out) = (dir.path().join("tmp"), dir.path().join("out"));
    std::fs::create_dir(&tmp).unwrap();
    std::fs::create_dir(&out).unwrap();
    let mut child = command(dir.path(), &["curate", "rows.jsonl", "--out", "out/kept.jsonl"]);
    let mut child = child.env("TMPDIR", &tmp).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The words of the rows are put aside from the moment on when the rows are looked at.
    while !any(&tmp) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!any(&tmp) && !any(&out), "something was left");
}
