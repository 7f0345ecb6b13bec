//! What changes on disk while the server runs: assistants, and runs that have just been completed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::app::App;
use super::beneath::Root;
use super::events::{ServeEvent, Tell};
use super::registry::{LoadAct, Refusal};
use crate::adapter::inspect::TRACE;
use crate::adapter::peft::WEIGHTS;
use crate::error::{Error, Result};
use crate::job::Assistants;

/// How long nothing may change before what changed is looked at.
const QUIET: Duration = Duration::from_millis(200);
/// How long it is waited for.
const AT_MOST: Duration = Duration::from_secs(1);
/// How often it is looked at without a word from the system, as some file systems say none.
const AT_LEAST: Duration = Duration::from_secs(5);

/// Watches folders; dropped, it ends.
pub(super) struct Watching {
    _watcher: RecommendedWatcher,
}

/// Calls `look` when something below `path` changed, and from time to time, until the server ends.
fn watch(app: &Arc<App>, path: PathBuf, mut look: impl FnMut(&App) + Send + 'static) -> Result<Watching> {
    let fail = |e: notify::Error| {
        Error::usage(format!("watch {}", path.display()), e.to_string(), "check that it exists and may be read")
    };
    let (to, changes) = channel();
    let told = move |event: notify::Result<notify::Event>| {
        // That something was read is no change: we read ourselves.
        if event.map_or(true, |event| !event.kind.is_access()) {
            // Where the thread is gone, the server ends.
            let _ = to.send(());
        }
    };
    let mut watcher = notify::recommended_watcher(told).map_err(fail)?;
    watcher.watch(&path, RecursiveMode::Recursive).map_err(fail)?;
    let app = app.clone();
    let run = move || {
        while !app.engine.is_ending() {
            if wait(&changes).is_err() {
                break;
            }
            look(&app);
        }
    };
    let spawned = std::thread::Builder::new().name("watch".into()).spawn(run);
    spawned.map_err(|e| Error::usage("the watching thread", e.to_string(), "free some memory or processes"))?;
    Ok(Watching { _watcher: watcher })
}

/// Until something changed and nothing does any more, or for the longest time.
fn wait(changes: &Receiver<()>) -> std::result::Result<(), RecvTimeoutError> {
    match changes.recv_timeout(AT_LEAST) {
        Err(RecvTimeoutError::Timeout) => return Ok(()),
        outcome => outcome?,
    }
    // Somebody may write without an end.
    let began = Instant::now();
    while began.elapsed() < AT_MOST && changes.recv_timeout(QUIET).is_ok() {}
    Ok(())
}

/// Reads the assistants again: all of them are exchanged at once, or none.
pub(super) fn reload_assistants(app: &App, tell: &Tell) {
    let Some(path) = &app.settings.assistants else { return };
    match Assistants::load(path) {
        Ok(assistants) if assistants.iter().any(|a| app.registry.current(&a.name).is_some()) => {
            tell(ServeEvent::NotReloaded("an assistant has the name of an adapter".into()));
        }
        Ok(assistants) => {
            let n = assistants.iter().count();
            app.assistants.store(Arc::new(assistants));
            tell(ServeEvent::Reloaded(n));
        }
        Err(error) => tell(ServeEvent::NotReloaded(error.to_string())),
    }
}

/// Exchanges the assistants when their file changes.
///
/// # Errors
/// When it cannot be watched.
pub(super) fn assistants(app: &Arc<App>, path: &Path, tell: Tell) -> Result<Watching> {
    // Editors exchange a file for another of its name: its folder is watched.
    let file = path.is_file();
    let dir = if file { path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")) } else { path };
    let path = path.to_path_buf();
    let mut last = stamps(&path);
    watch(app, dir.to_path_buf(), move |app| {
        let now = stamps(&path);
        if now != last {
            last = now;
            reload_assistants(app, &tell);
        }
    })
}

/// Times and sizes of the files of assistants.
fn stamps(path: &Path) -> Vec<(PathBuf, Option<(SystemTime, u64)>)> {
    let stamp = |path: PathBuf| {
        let meta = std::fs::metadata(&path).ok();
        let stamp = meta.and_then(|meta| Some((meta.modified().ok()?, meta.len())));
        (path, stamp)
    };
    let Ok(entries) = std::fs::read_dir(path) else { return vec![stamp(path.to_path_buf())] };
    let mut all: Vec<_> = entries.filter_map(|e| Some(stamp(e.ok()?.path()))).collect();
    all.sort();
    all
}

/// Publishes runs below `dir` as they are completed, each under its folder's name.
///
/// # Errors
/// When the folder cannot be watched.
pub(super) fn runs(app: &Arc<App>, dir: &Path, tell: Tell) -> Result<Watching> {
    let root = Root::open(dir)?;
    let mut seen: HashMap<String, [Option<(SystemTime, u64)>; 2]> = HashMap::new();
    let dir = dir.to_path_buf();
    let mut look = move |app: &App| {
        for name in root.names().unwrap_or_default() {
            let stamp = [TRACE, WEIGHTS].map(|file| {
                let meta = std::fs::metadata(dir.join(&name).join(file)).ok();
                meta.and_then(|meta| Some((meta.modified().ok()?, meta.len())))
            });
            if stamp[0].is_none() || seen.get(&name) == Some(&stamp) {
                continue;
            }
            if app.assistants.load().get(&name).is_some() {
                tell(ServeEvent::NotPublished(name.clone(), "an assistant has this name".into()));
                seen.insert(name, stamp);
                continue;
            }
            match publish(app, &root, &name) {
                // Its tensors and its trace do not belong together yet: it is looked at again when one of them changes.
                Err(Refusal::Bad(error)) if error.to_string().contains(TRACE) => {}
                Err(refusal) => tell(ServeEvent::NotPublished(name.clone(), super::error::ApiError::from(refusal).message)),
                Ok(None) => {}
                Ok(Some((id, version))) => tell(ServeEvent::Published { name: name.clone(), id, version }),
            }
            seen.insert(name, stamp);
        }
    };
    look(app);
    watch(app, dir_of(app)?, look)
}

fn dir_of(app: &App) -> Result<PathBuf> {
    app.settings.watch.clone().ok_or_else(|| Error::usage("--watch", "it is not given", "name a folder of runs"))
}

/// Publishes a complete run, where it is not what its name stands for already.
fn publish(app: &App, root: &Root, name: &str) -> std::result::Result<Option<(String, u64)>, Refusal> {
    let act =
        LoadAct { name, folder: name, replace: true, expected: None, only_complete: true, only_new: true, ..LoadAct::default() };
    let done = app.registry.load_from(root, &act)?;
    Ok(done.map(|done| (done.generation.version.id().to_string(), done.generation.version.version)))
}
