//! The account of a curation: what became of every row, as JSON.
//!
//! Refuses to know why rows are removed, and where the account is written.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{File, KeepChoice, Removed, RowPlace, Scan, Wishes};

/// The account as JSON, `masked` the places that were masked; a dropped row is a line, so that it can be searched by line.
pub fn account(scan: &Scan, choice: &KeepChoice, wishes: &Wishes, masked: usize) -> String {
    let at = |place: RowPlace, held: bool| {
        let of = |i: u32| if held { scan.held_files.get(i as usize) } else { scan.files.get(i as usize).map(|f| &f.path) };
        json!({ "file": of(place.source), "line": place.line })
    };
    let mut by_file: Vec<BTreeMap<&str, usize>> = vec![BTreeMap::new(); scan.files.len()];
    choice.removed.iter().for_each(|r| *by_file[r.row.source as usize].entry(r.why.name()).or_default() += 1);
    let file = |(i, file): (usize, &File)| {
        let kept = choice.kept[i].iter().filter(|k| **k).count();
        json!({ "file": file.path, "shape": file.shape, "read": file.rows, "kept": kept, "dropped_by_reason": by_file[i] })
    };
    let dropped = |removed: &Removed| {
        let mut row = at(removed.row, false);
        let Ok(Value::Object(why)) = serde_json::to_value(&removed.why) else { return row };
        for (key, value) in why {
            row[&key] = match key.as_str() {
                "reason" => removed.why.name().into(),
                "of" => removed.why.of().map(|of| at(of, removed.why.is_leak())).into(),
                _ => value,
            };
        }
        row
    };
    let head = json!({
        "read": scan.files.iter().map(|f| f.rows).sum::<usize>(),
        "kept": choice.rows_kept(),
        "dropped_by_reason": choice.by_reason(),
        "masked_places": masked,
        "wishes": wishes,
        "ngram": scan.ngram,
        "held_files": scan.held_files,
        "files": scan.files.iter().enumerate().map(file).collect::<Vec<_>>(),
    });
    let head = format!("{head:#}");
    let rows: Vec<String> = choice.removed.iter().map(|r| format!("    {}", dropped(r))).collect();
    format!("{},\n  \"dropped\": [\n{}\n  ]\n}}\n", head.trim_end_matches(['\n', '}']), rows.join(",\n"))
}
