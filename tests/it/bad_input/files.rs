//! Malformed files of rows, of every format and shape: each ends in one error that names file and line, and nothing is
//! written. The files are made here.

use std::collections::HashSet;
use std::io::Write;

use super::{TRAIN, faults};

/// A file that cannot be used.
struct Bad {
    name: String,
    /// Further keys of the recipe's source, each with a comma before it.
    keys: &'static str,
    bytes: Vec<u8>,
    /// The line that the error must name; `None` where the fault is of the file as a whole.
    line: Option<usize>,
    says: &'static str,
}

fn bad(name: &str, keys: &'static str, bytes: impl Into<Vec<u8>>, line: usize, says: &'static str) -> Bad {
    Bad { name: name.into(), keys, bytes: bytes.into(), line: Some(line), says }
}

fn whole(name: &str, keys: &'static str, bytes: impl Into<Vec<u8>>, says: &'static str) -> Bad {
    Bad { name: name.into(), keys, bytes: bytes.into(), line: None, says }
}

const GOOD: &str = r#"{"prompt": "a", "completion": "b"}"#;

/// Rows of which the last is the bad one.
fn after(good: &str, times: usize, row: &str) -> String {
    format!("{}{row}\n", format!("{good}\n").repeat(times))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// Text that is not JSON Lines.
fn json_lines() -> Vec<Bad> {
    let row = |row: &str, times: usize, says| bad("rows.jsonl", "", after(GOOD, times, row), times + 1, says);
    let mut all = vec![
        row(r#"{"prompt": "a", "completion": "b""#, 1, "malformed JSON at column"),
        row(r#"{"prompt": "a", "completion": "b}"#, 2, "malformed JSON at column"),
        row(r#"{"prompt": "a" "completion": "b"}"#, 3, "malformed JSON at column 16"),
        row(r#"{"prompt": "a", "completion": "b",}"#, 0, "trailing comma"),
        row(r#"{'prompt': 'a', 'completion': 'b'}"#, 4, "malformed JSON at column 2"),
        row(r#"{prompt: "a", completion: "b"}"#, 1, "malformed JSON at column 2"),
        row(r#"{"prompt": "a", "completion": None}"#, 1, "malformed JSON"),
        row(r#"{"prompt": NaN, "completion": "b"}"#, 1, "malformed JSON"),
        row(r#"{"prompt": "a\x", "completion": "b"}"#, 1, "invalid escape"),
        row(r#"{"prompt": "\ud800", "completion": "b"}"#, 1, "malformed JSON"),
        row(r#"{"prompt": "a", "completion": "b"} {"prompt": "c", "completion": "d"}"#, 2, "trailing characters"),
        row(r#"{"prompt": "a", "completion": "b"},"#, 3, "trailing characters"),
        row("prompt,completion", 1, "malformed JSON"),
        row("<html><body>404</body></html>", 5, "malformed JSON"),
        row("// a comment", 1, "malformed JSON"),
        row("[\"a\", \"b\"]", 2, "must be an object, this is an array"),
        row("\"text\"", 2, "must be an object, this is a string"),
        row("17", 2, "must be an object, this is a number"),
        row("null", 2, "must be an object, this is null"),
        row("true", 2, "must be an object, this is a boolean"),
        row(&"{\"a\":".repeat(200), 1, "malformed JSON"),
        row("{\"prompt\": \"a\tb\", \"completion\": \"c\"}", 1, "control character"),
        bad("rows.ndjson", "", format!("\n\n{GOOD}\n\n{{"), 5, "malformed JSON"),
        bad("rows.jsonl", "", format!("\u{feff}{GOOD}\r\n{{\r\n"), 2, "malformed JSON"),
        whole("rows.jsonl", "", "", "no rows"),
        whole("rows.jsonl", "", "\n \r\n\t\n", "no rows"),
        whole("rows.jsonl", "", "\u{feff}", "no rows"),
    ];
    let latin = [format!("{GOOD}\n").as_bytes(), b"{\"prompt\": \"caf\xe9\", \"completion\": \"b\"}\n"].concat();
    all.push(bad("rows.jsonl", "", latin, 2, "not UTF-8"));
    let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain(GOOD.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    all.push(bad("rows.jsonl", "", utf16, 1, "not UTF-8"));
    all
}

/// Text that is no JSON array.
fn json() -> Vec<Bad> {
    vec![
        bad("rows.json", "", format!("[\n{GOOD},\n{GOOD}\n"), 4, "`,` or `]`"),
        bad("rows.json", "", format!("[\n{GOOD}\n{GOOD}]"), 3, "`,` or `]`"),
        bad("rows.json", "", format!("[\n{GOOD},\n]"), 3, "malformed JSON"),
        bad("rows.json", "", format!("[{GOOD},\n{{\"prompt\": \"a\",\n \"completion\" \"b\"}}]"), 3, "malformed JSON"),
        bad("rows.json", "", format!("[{GOOD},\n 7]"), 2, "must be an object, this is a number"),
        bad("rows.json", "", format!("[{GOOD}]\n]"), 2, "after the end"),
        bad("rows.json", "", format!("{{\"data\": [\n{GOOD},\n[]]}}"), 3, "must be an object, this is an array"),
        bad("rows.json", "", format!("{{\"data\": [\n{GOOD}],\n\"n\" 1}}"), 3, "`:` is missing"),
        bad("rows.json", "", format!("{{\"data\": [\n{GOOD}]"), 2, "`,` or `}`"),
        bad("rows.json", "", "\n\nrows", 3, "neither `[` nor `{`"),
        bad("rows.json", "", "{\"data\": {}}", 1, "no known shape"),
        bad("rows.json", "", format!("{GOOD}\n{GOOD}\n{{}}"), 3, "no known shape"),
        whole("rows.json", "", "[]", "no rows"),
        whole("rows.json", "", "", "no rows"),
    ]
}

fn tables() -> Vec<Bad> {
    vec![
        bad("rows.csv", "", "prompt,completion\na,b\nc\n", 3, "1 fields, the header has 2"),
        bad("rows.csv", "", "prompt,completion\na,b\nc,d,e\n", 3, "3 fields, the header has 2"),
        bad("rows.csv", "", "prompt,completion\n\"a\n\nb\",c\nd,e,f\n", 5, "3 fields"),
        bad("rows.csv", "", "prompt,completion\na,b\n\"c,d\ne,f\n", 3, "the quote that begins here does not end"),
        bad("rows.csv", "", "prompt,prompt\na,b\n", 1, "column `prompt` is named twice"),
        bad("rows.csv", "", "prompt,,completion\na,b,c\n", 2, "column 2 has no name"),
        bad("rows.csv", "", "a,b\nc,d\n", 2, "no known shape"),
        bad("rows.csv", "", b"prompt,completion\na,b\nc,\xff\n".as_slice(), 3, "not UTF-8"),
        bad("rows.csv", ", shape = \"messages\"", "messages\n[]\n", 2, "must be an array of messages, this is a string"),
        whole("rows.csv", "", "", "no rows"),
        whole("rows.csv", "", "prompt,completion\n", "no rows"),
        whole(
            "rows.csv",
            ", columns = { prompt = \"question\" }",
            "prompt,completion\na,b\n",
            "no row has the column `question`",
        ),
        bad("rows.tsv", "", "prompt\tcompletion\na\tb\nc\td\te\n", 3, "3 fields, the header has 2"),
        bad("rows.tsv", "", "prompt\t\na\tb\n", 2, "column 2 has no name"),
        bad("rows.tsv", "", b"prompt\tcompletion\n\xc3\t\x28\n".as_slice(), 2, "not UTF-8"),
        whole("rows.txt", "", "\n \n\n", "no rows"),
        bad("rows.txt", "", b"fine\n\nnot \xf0\x28\x8c\x28\n".as_slice(), 3, "not UTF-8"),
        bad("rows.md", "", b"# title\n\x80\n".as_slice(), 2, "not UTF-8"),
        whole("rows.parquet.txt.exe", "", "MZ", "`.exe` are not read"),
        whole("rows.docx", "", "PK\x03\x04", "`.docx` are not read"),
        whole("rows", "", GOOD, "are not read"),
    ]
}

/// Packed files: damaged ones, and others with a bad file inside.
fn packed() -> Vec<Bad> {
    let random: String =
        (0..4000u32).map(|i| format!("{{\"prompt\": \"{}\", \"completion\": \"b\"}}\n", i.wrapping_mul(2_654_435_761))).collect();
    let gz = gzip(random.as_bytes());
    let zst = zstd::encode_all(random.as_bytes(), 0).unwrap();
    let mut flipped = gz.clone();
    let end = flipped.len() - 6;
    flipped[end] ^= 0x55;
    vec![
        whole("rows.jsonl.gz", "", GOOD, "not a gzip file, or a damaged one"),
        whole("rows.jsonl.gz", "", "", "unexpected end of file"),
        whole("rows.jsonl.gz", "", zst.clone(), "not a gzip file, or a damaged one"),
        whole("rows.jsonl.gz", "", &gz[..gz.len() / 2], "not a gzip file, or a damaged one"),
        whole("rows.jsonl.gz", "", flipped, "not a gzip file, or a damaged one"),
        whole("rows.jsonl.zst", "", GOOD, "not a Zstandard file, or a damaged one"),
        whole("rows.jsonl.zst", "", gz.clone(), "not a Zstandard file, or a damaged one"),
        whole("rows.jsonl.zst", "", &zst[..zst.len() / 2], "not a Zstandard file, or a damaged one"),
        bad("rows.jsonl.gz", "", gzip(after(GOOD, 2, "{").as_bytes()), 3, "malformed JSON"),
        bad("rows.json.gz", "", gzip(b"[\n1]"), 2, "must be an object, this is a number"),
        bad("rows.csv.gz", "", gzip(b"prompt,completion\na\n"), 2, "1 fields"),
        bad("rows.jsonl.gz", "", gzip(b"{}\n\xff"), 2, "not UTF-8"),
        whole("rows.tsv.gz", "", gzip(b"prompt\tcompletion\n"), "no rows"),
        bad("rows.jsonl.zst", "", zstd::encode_all(after(GOOD, 3, "[]").as_bytes(), 0).unwrap(), 4, "must be an object"),
        bad("rows.csv.zst", "", zstd::encode_all(&b"prompt,prompt\na,b\n"[..], 0).unwrap(), 1, "named twice"),
        whole("rows.txt.zst", "", zstd::encode_all(&b"\n"[..], 0).unwrap(), "no rows"),
        whole("rows.xml.gz", "", gzip(b"<a/>"), "`.xml` are not read"),
    ]
}

/// Rows that are JSON and no row of their shape.
fn shapes() -> Vec<Bad> {
    let good = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let chat = |messages: &str, says| bad("rows.jsonl", "", after(good, 1, &format!(r#"{{"messages": {messages}}}"#)), 2, says);
    let gpt = r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#;
    let sharegpt = |turns: &str, says| bad("rows.jsonl", "", after(gpt, 2, &format!(r#"{{"conversations": {turns}}}"#)), 3, says);
    let row = |row: &str, says| bad("rows.jsonl", "", format!("{row}\n"), 1, says);
    let call = |call: &str, says| {
        let turns =
            format!(r#"[{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "", "tool_calls": {call}}}]"#);
        bad("rows.jsonl", "", after(good, 3, &format!(r#"{{"messages": {turns}}}"#)), 4, says)
    };
    let user = r#"[{"role": "user", "content": "a"}, "#;
    vec![
        chat("\"a\"", "must be an array of messages, this is a string"),
        chat("[]", "the conversation is empty"),
        chat("[1]", "message 1 must be an object, this is a number"),
        chat(&format!("{user}{{\"content\": \"b\"}}]"), "message 2 has neither `role` nor `from`"),
        chat(&format!("{user}{{\"role\": \"assistant\"}}]"), "message 2 has neither `content` nor `value`"),
        chat(&format!("{user}{{\"role\": 1, \"content\": \"b\"}}]"), "message 2: `role` must be a string"),
        chat(&format!("{user}{{\"role\": \"asistant\", \"content\": \"b\"}}]"), "did you mean `assistant`?"),
        chat(&format!("{user}{{\"role\": \"assistant\", \"content\": {{}}}}]"), "message 2: the content must be a string"),
        chat(
            &format!("{user}{{\"role\": \"assistant\", \"content\": null}}]"),
            "message 2: the content must be a string, this is null",
        ),
        chat(&format!("{user}{{\"role\": \"assistant\", \"content\": [{{\"type\": \"image_url\"}}]}}]"), "not text (image_url)"),
        chat(&format!("{user}{{\"role\": \"user\", \"content\": \"b\"}}]"), "no assistant turn"),
        chat(&format!("{user}{{\"role\": \"assistant\", \"content\": \"b\", \"train\": \"no\"}}]"), "`train` is \"no\""),
        chat(&format!("{user}{{\"role\": \"assistant\", \"content\": \"b\", \"weight\": 0.5}}]"), "`weight` is 0.5"),
        chat(
            &format!("{user}{{\"role\": \"assistant\", \"content\": \"b\", \"train_detail\": 1}}]"),
            "`train_detail` is not a list",
        ),
        sharegpt("{}", "must be an array of messages, this is an object"),
        sharegpt(r#"[{"from": "human", "value": "a"}, {"from": "robot", "value": "b"}]"#, "unknown role `robot`"),
        sharegpt(r#"[{"from": "human", "value": "a"}, {"from": "function_call", "value": "look up"}]"#, "the call is not JSON"),
        call("{}", "`tool_calls` must be an array"),
        call("[{}]", "call 1: the function has no `name`"),
        call(r#"[{"function": {"name": "f", "arguments": "{"}}]"#, "`arguments` of `f` is not JSON"),
        call(r#"[{"function": {"name": "f", "arguments": [1]}}]"#, "`arguments` of `f` must be an object"),
        row(
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": "x"}"#,
            "`tools` is not JSON",
        ),
        row(
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": [{}]}"#,
            "tool 1 has no `name`",
        ),
        row(r#"{"instruction": 3, "output": "b"}"#, "`instruction` must be a string, this is a number"),
        row(r#"{"instruction": "a", "output": ["b"]}"#, "`output` must be a string, this is an array"),
        row(r#"{"instruction": "a", "input": {}, "output": "b"}"#, "`input` must be a string, this is an object"),
        row(r#"{"prompt": "a", "completion": true}"#, "`completion` must be a string, this is a boolean"),
        row(r#"{"text": {"a": 1}}"#, "`text` must be a string, this is an object"),
        row(r#"{"Prompt": "a", "Completion": "b"}"#, "no known shape"),
        bad("rows.jsonl", "", after(GOOD, 3, r#"{"text": "a"}"#), 4, "rows of differing shapes"),
        bad("rows.jsonl", "", after(GOOD, 1, r#"{"prompt": "a"}"#), 2, "no known shape"),
        bad("rows.jsonl", ", shape = \"alpaca\"", after(GOOD, 1, GOOD), 1, "shape `alpaca` needs"),
        whole("rows.jsonl", ", columns = { prompt = \"x\" }", after(GOOD, 1, GOOD), "no row has the column `x`"),
        bad(
            "rows.jsonl",
            ", take = \"chosen\"",
            r#"{"prompt": "a", "chosen": 1, "rejected": "b"}"#,
            1,
            "`chosen` must be an answer",
        ),
        bad("rows.jsonl", ", take = \"chosen\"", r#"{"chosen": "a", "rejected": "b"}"#, 1, "no prompt"),
        bad(
            "rows.jsonl",
            ", take = \"chosen\"",
            r#"{"prompt": "a", "replies": [{"content": "b"}]}"#,
            1,
            "reply 1 has no number `rank`",
        ),
        bad(
            "rows.jsonl",
            ", shape = \"labelled\", take = \"desirable\"",
            r#"{"prompt": "a", "completion": "b", "label": "yes"}"#,
            1,
            "must be true or false",
        ),
    ]
}

/// Task files: Super-NaturalInstructions and tasks in several phrasings.
fn tasks() -> Vec<Bad> {
    let ni = |text: &str, line, says| bad("task1.json", "", text, line, says);
    let task = |text: &str, line, says| bad("task1.toml", "", text, line, says);
    let end = "[[templates]]\ninputs = \"{q}\"\ntargets = \"{a}\"\n";
    vec![
        ni(r#"{"Definition": 1, "Instances": []}"#, 1, "`Definition` must be a text"),
        ni("\n{\"Definition\": [\"Say it.\"],\n\"Instances\": {}}", 2, "`Instances` must be an array"),
        ni(
            r#"{"Definition": "Say it.", "Instances": [{"input": "a", "output": "b"}, {"output": "b"}]}"#,
            1,
            "instance 2: `input` is not a string",
        ),
        ni(r#"{"Definition": "Say it.", "Instances": [{"input": "a", "output": 1}]}"#, 1, "instance 1: `output` is neither"),
        ni(
            r#"{"Definition": "Say it.", "Positive Examples": 1, "Instances": [{"input": "a", "output": "b"}]}"#,
            1,
            "`Positive Examples` must be an array",
        ),
        ni("{\"Definition\": \"Say it.\",\n\"Instances\": [\n{\"input\": \"a\", \"output\" \"b\"}]}", 3, "malformed JSON"),
        task("name = \"t\"\nclutser = \"c\"\nrows = []\n", 2, "unknown field `clutser`"),
        task(&format!("name = \"t\"\nrows = [\n{end}"), 4, "missing comma between array elements"),
        task(&format!("name = \"t\"\nrows = [{{ q = \"a\", a = \"b\" }}]\n{}", end.replace("{q}", "{q")), 3, "`{` without `}`"),
        task(&format!("name = \"t\"\nrows = [{{ q = \"a\", a = \"b\" }}]\n{}", end.replace("{q}", "q}")), 3, "a lone `}`"),
        task(
            &format!("name = \"t\"\nrows = [\n{{ q = \"a\", a = \"b\" }},\n{{ q = \"a\" }}]\n{end}"),
            4,
            "there is no `a` in the row",
        ),
        task(&format!("name = \"t\"\nrows = [{{ q = [1], a = \"b\" }}]\n{end}"), 2, "`q` is an array"),
        task(&format!("name = 5\nrows = []\n{end}"), 1, "invalid type"),
        whole("task1.toml", "", format!("name = \"t\"\n{end}"), "neither `data` nor `rows`"),
        whole("task1.toml", "", format!("name = \"t\"\ndata = \"a.jsonl\"\nrows = []\n{end}"), "both `data` and `rows`"),
        whole("task1.toml", "", format!("name = \"t\"\nrows = []\n{end}invert = true\n"), "not inverted"),
        bad("task1.toml", "", b"name = \"t\"\nrows = \"\xff\"\n".as_slice(), 2, "not UTF-8"),
    ]
}

#[test]
fn malformed_files() {
    let all: Vec<Bad> = [json_lines(), json(), tables(), packed(), shapes(), tasks()].into_iter().flatten().collect();
    let distinct: HashSet<_> = all.iter().map(|b| (&b.name, b.keys, &b.bytes)).collect();
    assert_eq!(distinct.len(), all.len(), "two files are the same");
    let fault = |bad: &Bad| {
        let place = match bad.line {
            Some(line) => format!("{}:{line}: ", bad.name),
            None => bad.name.clone(),
        };
        let spoil = |shop: &super::ValidSetup| {
            shop.write(&bad.name, &bad.bytes);
            let source = format!("train = {{ path = \"{}\"{} }}", bad.name, bad.keys);
            shop.edit("recipe.toml", "train = \"rows.jsonl\"", &source);
        };
        faults(&format!("{} ({})", bad.name, bad.says), &spoil, TRAIN, &[&place, bad.says, "help:"])
    };
    let wrong: Vec<String> = all.iter().filter_map(fault).collect();
    let with_line = all.iter().filter(|bad| bad.line.is_some()).count();
    println!("{} malformed files, {with_line} with a line in the error, {} not refused as they must be", all.len(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(all.len() >= 100 && with_line >= 80);
}

/// With `malformed = "drop"`, a row of a file that can be read is left out and counted; all else stays an error.
#[test]
fn malformed_rows_are_dropped_where_the_recipe_says_so() {
    let all: Vec<Bad> = [json_lines(), json(), tables(), packed(), shapes(), tasks()].into_iter().flatten().collect();
    let (mut counted, mut refused, mut wrong) = (0, 0, Vec::new());
    for bad in &all {
        let shop = super::ValidSetup::new();
        shop.write(&bad.name, &bad.bytes);
        let source = format!("train = {{ path = \"{}\", malformed = \"drop\"{} }}", bad.name, bad.keys);
        shop.edit("recipe.toml", "train = \"rows.jsonl\"", &source);
        let (code, stdout, stderr) = super::run(&shop, &["data", "show", "recipe.toml", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&stdout).unwrap_or_default();
        let dropped = report["report"]["dropped"].as_array().map_or(&[][..], Vec::as_slice);
        let of_file = |row: &serde_json::Value| row["reason"] == "malformed" && bad.line.is_some_and(|line| row["line"] == line);
        let rows = report["report"]["sources"][0]["rows"].as_u64();
        let used = report["report"]["train"]["examples"].as_u64();
        let no_row_left = stderr.contains("no row is left to train on") && stderr.contains(" malformed (first: line");
        match code {
            Some(0) if dropped.iter().any(of_file) && rows == used.map(|n| n + dropped.len() as u64) => counted += 1,
            Some(2) if no_row_left => counted += 1,
            Some(2) if stderr.contains(bad.says) => refused += 1,
            _ => wrong.push(format!("{} ({}): {code:?} {stdout}\n{stderr}", bad.name, bad.says)),
        }
    }
    println!("of {} files, {counted} have rows dropped and counted, {refused} are refused as a whole", all.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(counted >= 60, "{counted}");
}
