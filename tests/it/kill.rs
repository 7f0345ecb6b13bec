//! Exact resume of the binary: killed, terminated, interrupted, with damaged checkpoints, it writes the same bytes.
//!
//! `scripts/kill-test.sh` is the long form, also on the real model.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use lorakit::files::sha256_file;
use lorakit::random;

use crate::shared;
use crate::training::recipe_file;

/// Dropout, accumulation, packing, evaluations, a checkpoint after each step, a long proof.
const DROPOUT: &[&str] = &[
    "train.steps=14",
    "train.accumulate=3",
    "train.batch_size=2",
    "train.packing=true",
    "train.eval_every=4",
    "train.save_every=1",
    "adapter.dropout=0.1",
    "eval.exact_match=true",
    "eval.max_new_tokens=100",
];
/// The same with a module that is trained whole.
const WHOLE_HEAD: &[&str] = &[r#"adapter.modules_to_save=["lm_head"]"#];
/// Sources drawn by weight, one of them several times over, and replay.
const MIXTURE: &[&str] = &[
    concat!(
        r#"data.train=[{path=""#,
        env!("CARGO_MANIFEST_DIR"),
        r#"/tests/data/tiny/train.jsonl", weight=1}, {path=""#,
        env!("CARGO_MANIFEST_DIR"),
        r#"/tests/data/tiny/few.jsonl", name="few", weight=1.5}]"#
    ),
    concat!(r#"data.replay={sources=[""#, env!("CARGO_MANIFEST_DIR"), r#"/tests/data/tiny/train.jsonl"], fraction=0.3}"#),
];

/// A folder for runs of one recipe.
struct Runs {
    dir: tempfile::TempDir,
    set: Vec<&'static str>,
}

impl Runs {
    fn new(set: &[&[&'static str]]) -> Runs {
        Runs { dir: tempfile::tempdir().unwrap(), set: set.concat() }
    }

    fn path(&self, out: &str) -> PathBuf {
        self.dir.path().join(out)
    }

    fn command(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorakit"));
        command.current_dir(self.dir.path()).arg("train").arg(recipe_file()).args(["--out", out]).args(more);
        self.set.iter().for_each(|s| _ = command.args(["--set", s]));
        command.env("HF_HUB_OFFLINE", "1").stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn run(&self, out: &str, more: &[&str]) -> Output {
        self.command(out, more).output().unwrap()
    }

    fn finished(&self, out: &str, more: &[&str]) -> Ended {
        let done = self.run(out, more);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ended::of(&self.path(out))
    }
}

/// What must be the same however often a run was disturbed.
#[derive(Debug, PartialEq)]
struct Ended {
    adapter: String,
    /// Where the best one is not the last.
    last: Option<String>,
    /// (event, step, loss as it is written) of every step and evaluation.
    losses: Vec<String>,
    results: serde_json::Value,
}

impl Ended {
    fn of(out: &Path) -> Ended {
        let weights = |dir: PathBuf| dir.join("adapter_model.safetensors");
        let trace = shared::json(&out.join("trace.json"));
        let lines = std::fs::read_to_string(out.join("events.jsonl")).unwrap();
        let losses = lines.lines().filter_map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let lasting = event["event"] == "step" || event["event"] == "eval";
            lasting.then(|| format!("{} {} {}", event["event"], event["step"], event["loss"]))
        });
        Ended {
            adapter: sha256_file(&weights(out.into())).unwrap(),
            last: sha256_file(&weights(out.join("last"))).ok(),
            losses: losses.collect(),
            results: serde_json::json!([
                trace["mixture"],
                trace["results"],
                trace["final_loss"],
                trace["steps"],
                trace["best_step"]
            ]),
        }
    }
}

/// A moment of a run, seen from outside: what its folder must show, and how long after that.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Right after the process began.
    Start,
    /// So many steps are written.
    Steps(usize),
    /// Training is over; the proof goes on.
    Proof,
    /// The files of the result are being written.
    Result,
}

impl Moment {
    fn reached(self, out: &Path) -> bool {
        let events = || std::fs::read_to_string(out.join("events.jsonl")).unwrap_or_default();
        match self {
            Moment::Start => true,
            Moment::Steps(n) => events().matches("\"event\":\"step\"").count() >= n,
            Moment::Proof => events().contains("\"finished\""),
            Moment::Result => out.join("recipe.toml").exists(),
        }
    }
}

/// Kills a run some time after a moment; false when it ended before that.
fn kill_at(child: &mut Child, out: &Path, moment: Moment, then: Duration) -> bool {
    while !moment.reached(out) {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(then);
    // Harmless where it has ended in between: then there is an exit code.
    let _ = child.kill();
    child.wait().unwrap().code().is_none()
}

fn signal(child: &Child, name: &str) {
    Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
}

/// Kills a run at eight moments, from its start to the writing of its result, each of which then goes on; every other
/// one is killed a second time.
fn killed(set: &[&[&'static str]]) {
    let runs = Runs::new(set);
    let want = runs.finished("whole", &[]);
    let steps = want.losses.iter().filter(|l| l.starts_with("\"step\"")).count();
    assert_eq!(steps, 14);
    let mut tries = 0;
    let mut random = |below: usize| {
        tries += 1;
        (random::indexed(7, tries) % below as u64) as usize
    };
    for kill in 0..8 {
        let mut moment = || match kill {
            0 => Moment::Start,
            6 => Moment::Proof,
            7 => Moment::Result,
            _ => Moment::Steps(random(steps)),
        };
        let (first, second) = (moment(), Moment::Steps(random(steps)));
        let out = (0..100).map(|i| format!("cut{kill}.{i}")).find(|out| {
            // The moments of the end are short, so what follows them must be too.
            let then = Duration::from_micros(random(if matches!(first, Moment::Result) { 2000 } else { 20_000 }) as u64);
            let mut child = runs.command(out, &["--resume"]).stderr(Stdio::null()).spawn().unwrap();
            kill_at(&mut child, &runs.path(out), first, then)
        });
        let out = out.expect("a hundred runs ended before they could be killed");
        if kill % 2 == 1 {
            let mut child = runs.command(&out, &["--resume"]).stderr(Stdio::null()).spawn().unwrap();
            kill_at(&mut child, &runs.path(&out), second, Duration::from_millis(random(20) as u64));
        }
        assert!(runs.finished(&out, &["--resume"]) == want, "{out}: killed at {first:?}, it ended otherwise");
        println!("{out}: killed at {first:?}, the same");
    }
}

#[test]
fn killed_at_any_moment_a_run_ends_in_the_same_bytes() {
    killed(&[DROPOUT]);
}

#[test]
fn killed_at_any_moment_a_run_with_a_module_trained_whole_ends_in_the_same_bytes() {
    killed(&[DROPOUT, WHOLE_HEAD]);
}

#[test]
fn killed_at_any_moment_a_run_of_a_mixture_draws_what_an_undisturbed_one_draws() {
    killed(&[DROPOUT, MIXTURE]);
    let runs = Runs::new(&[DROPOUT, MIXTURE]);
    runs.finished("whole", &[]);
    let mixture = &shared::json(&runs.path("whole/trace.json"))["mixture"];
    let of = |when: &str, part: usize, key: &str| mixture[when][part][key].as_f64().unwrap();
    let drawn: f64 = (0..3).map(|part| of("drawn", part, "drawn")).sum();
    for part in 0..3 {
        // The run ends within an epoch, whose packed rows lie in no order of the parts.
        let (planned, got) = (of("epoch", part, "of_rows") * drawn, of("drawn", part, "drawn"));
        assert!((planned - got).abs() < 5.0, "part {part}: {planned} planned of {drawn}, {got} drawn");
    }
    assert!(mixture["drawn"][1]["times"].as_f64() > Some(2.0) && mixture["drawn"][2]["replay"] == true, "{mixture:#}");
}

/// Sends a signal while a step gathers its many micro-batches; gives exit code, what was said, and the micro-steps saved.
fn stopped_within_a_step(runs: &Runs, out: &str, name: &str) -> (Option<i32>, String, u64) {
    let mut command = runs.command(out, &[]);
    let child = command.spawn().unwrap();
    let events = runs.path(out).join("events.jsonl");
    while !std::fs::read_to_string(&events).unwrap_or_default().contains("\"event\":\"step\"") {
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, name);
    let done = child.wait_with_output().unwrap();
    let newest = std::fs::read_dir(runs.path(out).join("checkpoints")).unwrap();
    let newest = newest.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "json")).max().unwrap();
    (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned(), shared::json(&newest)["micro"].as_u64().unwrap())
}

#[test]
fn a_signal_within_a_step_saves_it_and_says_which_it_was() {
    for (dropout, name, code) in [("adapter.dropout=0.1", "-TERM", 75), ("adapter.dropout=0.0", "-INT", 130)] {
        let runs = Runs::new(&[&["train.steps=3", "train.accumulate=120", "train.batch_size=2", "train.lr=0.1", dropout]]);
        let want = runs.finished("whole", &[]);
        let (got, said, micro) = stopped_within_a_step(&runs, "cut", name);
        println!("{name}: {micro} micro-steps saved");
        assert_eq!(got, Some(code), "{said}");
        assert!(said.contains("go on with: lorakit train") && said.contains("--resume"), "{said}");
        assert!(micro > 0, "the signal came between two steps: give them more micro-batches");
        assert_eq!(runs.run("cut", &[]).status.code(), Some(2), "a run in the way is not overwritten");
        assert!(runs.finished("cut", &["--resume"]) == want, "{name}: it ended otherwise");
    }
}

#[test]
fn a_signal_during_the_proof_does_not_wait_for_it() {
    let runs = Runs::new(&[DROPOUT]);
    let want = runs.finished("whole", &[]);
    let stopped = (0..100).map(|i| format!("cut{i}")).find(|out| {
        let mut child = runs.command(out, &[]).spawn().unwrap();
        while !Moment::Proof.reached(&runs.path(out)) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        signal(&child, "-TERM");
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        // A proof that was over when the signal came has ended well.
        let code = done.status.code();
        assert!(code == Some(0) || (code == Some(75) && said.contains("--resume")), "{code:?}: {said}");
        code == Some(75)
    });
    let out = stopped.expect("a hundred proofs were over before the signal came");
    assert!(!runs.path(&out).join("trace.json").exists(), "the proof was not finished");
    assert!(runs.finished(&out, &["--resume"]) == want);
}

#[test]
fn runs_repeat_whatever_the_threads_and_a_complete_one_is_left_alone() {
    for more in [&[][..], WHOLE_HEAD] {
        let runs = Runs::new(&[DROPOUT, more]);
        let want = runs.finished("whole", &[]);
        assert!(runs.finished("again", &[]) == want);
        assert!(runs.finished("one", &["--threads", "1"]) == want);
        assert!(runs.finished("two", &["--threads", "2"]) == want);
        let before = std::fs::metadata(runs.path("whole/events.jsonl")).unwrap().modified().unwrap();
        assert!(runs.finished("whole", &["--resume"]) == want);
        assert_eq!(std::fs::metadata(runs.path("whole/events.jsonl")).unwrap().modified().unwrap(), before);
    }
}

/// A run that was killed before it could write its result, and what the whole one gives.
fn unfinished(runs: &Runs) -> Ended {
    let want = runs.finished("cut", &[]);
    for file in ["trace.json", "adapter_model.safetensors"] {
        std::fs::remove_file(runs.path("cut").join(file)).unwrap();
    }
    want
}

fn newest_state(runs: &Runs) -> PathBuf {
    let states = std::fs::read_dir(runs.path("cut/checkpoints")).unwrap().map(|e| e.unwrap().path());
    states.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).max().unwrap()
}

#[test]
fn a_damaged_checkpoint_is_reported_and_the_one_before_it_used() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("were written", |p| std::fs::write(p, &std::fs::read(p).unwrap()[..1000]).unwrap()),
        ("SHA-256", |p| {
            let mut bytes = std::fs::read(p).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            std::fs::write(p, bytes).unwrap();
        }),
        ("cannot read", |p| std::fs::remove_file(p).unwrap()),
        ("the manifest is damaged", |p| std::fs::write(p.with_extension("json"), "{").unwrap()),
    ];
    for (says, damage) in damages {
        let runs = Runs::new(&[DROPOUT, &["train.steps=6"]]);
        let want = unfinished(&runs);
        let newest = newest_state(&runs);
        damage(&newest);
        let resumed = runs.run("cut", &["--resume"]);
        let said = String::from_utf8_lossy(&resumed.stderr).into_owned();
        assert!(resumed.status.success(), "{said}");
        let name = newest.file_name().unwrap().to_string_lossy().into_owned();
        assert!(said.contains("is skipped") && said.contains(&name) && said.contains(says), "{says}: {said}");
        assert!(said.contains("going on after step 5"), "{said}");
        assert!(Ended::of(&runs.path("cut")) == want, "{says}: it ended otherwise");
    }
}

#[test]
fn a_signal_during_a_merge_leaves_nothing() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden");
    let stopped = (0..200).any(|_| {
        let dir = tempfile::tempdir().unwrap();
        let names = || std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        let mut child = Command::new(env!("CARGO_BIN_EXE_lorakit"))
            .args(["merge", "--model", &format!("{golden}/models/llama")])
            .args(["--adapter", &format!("{golden}/adapters/llama/plain"), "--out", "merged"])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while names().is_empty() && child.try_wait().unwrap().is_none() {}
        signal(&child, "-INT");
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        match done.status.code() {
            Some(0) => assert_eq!(names(), ["merged"]),
            code => {
                // The signal may find the whole model in its place already.
                let whole = names() == ["merged"] && dir.path().join("merged/model.safetensors").exists();
                assert!(code == Some(130) && (names().is_empty() || whole), "{:?}: {said}", names());
            }
        }
        done.status.code() == Some(130)
    });
    assert!(stopped, "two hundred merges were over before the signal came");
}
