//! Adapters by name, and what they are called to: which generation answers now, and those before it.
//!
//! Publishing is one exchange of a pointer. A request holds a [`Lease`] on the generation it began with, so that it ends with that one
//! whatever is published meanwhile. Acts on one name come one after another. What was done at run time is in a small file and so
//! survives a restart; the bytes of every generation are kept in the server's own folder.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use arc_swap::ArcSwap;

use super::beneath::{AdapterFiles, Root};
use super::cache::{Cache, Loaded, lock};
use super::versions::{Record, State, Version};
use crate::adapter::inspect::{TRACE, check_name};
use crate::adapter::peft::WEIGHTS;
use crate::error::{Error, Result};
use crate::files;
use crate::job::unix_time;

/// The server's own folder below the folder of adapters.
const OWN: &str = ".lorakit";
/// Generations of a name that can be rolled back to.
const KEPT: usize = 16;

/// A generation of a name.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) name: String,
    pub(super) version: Version,
    /// The name's, for good.
    pub(super) index: u64,
    /// Choices that run with it.
    requests: AtomicUsize,
}

impl Generation {
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// What a request runs with: it stays as long as this does.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    /// None for the base.
    pub(super) generation: Option<Arc<Generation>>,
    pub(super) loaded: Arc<Loaded>,
}

/// A lease of a choice, which counts among the requests of its generation.
#[derive(Debug)]
pub(super) struct Held(Lease);

impl Held {
    pub(super) fn new(lease: Lease) -> Held {
        if let Some(generation) = &lease.generation {
            generation.requests.fetch_add(1, Ordering::Relaxed);
        }
        Held(lease)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(generation) = &self.0.generation {
            generation.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What is published.
type Published = BTreeMap<String, Arc<Generation>>;

/// Adapters by name.
pub(super) struct Registry {
    pub(super) cache: Cache,
    /// None where no adapters are served.
    root: Option<Root>,
    published: ArcSwap<Published>,
    /// Held by who exchanges it.
    writer: Mutex<()>,
    state: Mutex<State>,
    /// A lock a name.
    acts: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    retired: Mutex<Vec<Weak<Generation>>>,
    /// Names that no adapter can have: they are the base's, or an assistant's at the start.
    reserved: Vec<String>,
    /// Hashes that are being taken in: their folders stay although no name has them yet.
    taking: Mutex<Vec<String>>,
    /// What could not be loaded at the start: name, and why.
    pub(super) broken: Vec<(String, String)>,
}

/// What an act on a name did.
#[derive(Debug)]
pub(super) struct Act {
    pub(super) generation: Arc<Generation>,
    pub(super) loaded: Arc<Loaded>,
}

/// Why an act was refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// No `--adapters` was given.
    Off,
    /// The name has a generation already, and it was not said that it shall be replaced.
    There(String),
    /// The name has another generation than was expected, or none.
    Other {
        expected: String,
        is: Option<String>,
    },
    Unknown(String),
    /// No generation of the name has this id.
    UnknownGeneration(String),
    Bad(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Bad(error)
    }
}

/// What a name is loaded with.
#[derive(Debug, Clone, Default)]
pub(super) struct LoadAct<'a> {
    pub(super) name: &'a str,
    pub(super) folder: &'a str,
    /// A generation that is there is replaced.
    pub(super) replace: bool,
    /// The id of the one that is there.
    pub(super) expected: Option<&'a str>,
    /// Only a complete run, whose trace names the hash of its tensors.
    pub(super) only_complete: bool,
    /// Nothing is done where the name stood for the same files before.
    pub(super) only_new: bool,
    /// The folder is the one of this name below the folder of adapters.
    pub(super) own: bool,
}

impl Registry {
    /// All adapters below `root`, as they lie there; where something was done with a name at run time, that.
    ///
    /// # Errors
    /// When the folder, or the server's own in it, cannot be read and written.
    pub(super) fn open(root: Option<&Path>, cache: Cache, reserved: Vec<String>) -> Result<Registry> {
        let mut registry = Registry {
            cache,
            root: root.map(Root::open).transpose()?,
            published: ArcSwap::default(),
            writer: Mutex::default(),
            state: Mutex::default(),
            acts: Mutex::default(),
            retired: Mutex::default(),
            taking: Mutex::default(),
            reserved,
            broken: Vec::new(),
        };
        if registry.root.is_some() {
            let own = registry.own()?;
            std::fs::create_dir_all(own.join("store")).map_err(Error::io("create", &own))?;
            files::sweep(&own.join("store"))?;
            *lock(&registry.state) = State::read(&own.join("state.json"))?;
            registry.restore()?;
        }
        Ok(registry)
    }

    fn own(&self) -> Result<PathBuf> {
        let root =
            self.root.as_ref().ok_or_else(|| Error::usage("--adapters", "it is not given", "name the folder of adapters"))?;
        Ok(root.path().join(OWN))
    }

    fn stored(&self, hash: &str) -> Result<PathBuf> {
        Ok(self.own()?.join("store").join(hash))
    }

    /// Publishes what lies in the folders and what the file of state says.
    fn restore(&mut self) -> Result<()> {
        let folders = self.root.as_ref().map_or(Ok(Vec::new()), Root::names)?;
        let known = std::mem::take(&mut lock(&self.state).adapters);
        for (name, record) in &known {
            lock(&self.state).adapters.insert(name.clone(), record.clone());
            let Some(version) = record.current.and_then(|v| record.versions.iter().find(|known| known.version == v)) else {
                continue;
            };
            match self.get(&version.hash) {
                Ok(_) => drop(self.publish(name, version.clone())),
                Err(error) => self.broken.push((name.clone(), error.to_string())),
            }
        }
        for name in folders {
            let record = known.get(&name);
            let files = self.root.as_ref().map(|root| root.read(&name, self.cache.limits.file_bytes)).transpose();
            let files = match files {
                Ok(Some(files)) => files,
                Ok(None) => continue,
                Err(error) => {
                    self.broken.push((name, error.to_string()));
                    continue;
                }
            };
            // What is there already, or was taken back at run time, stays so.
            if record.is_some_and(|r| r.seen.as_ref() == Some(&files.hash)) {
                continue;
            }
            let act = LoadAct { name: &name, folder: &name, replace: true, own: true, ..LoadAct::default() };
            if let Err(error) = self.take(&act, &files) {
                self.broken.push((name, error.to_string()));
            }
        }
        self.save()
    }

    /// Names and their generations, as of now.
    pub(super) fn published(&self) -> Arc<Published> {
        self.published.load_full()
    }

    /// The generation of a name that answers now.
    pub(super) fn current(&self, name: &str) -> Option<Arc<Generation>> {
        self.published.load().get(name).cloned()
    }

    /// A published generation, or one that requests still run with, by its id.
    pub(super) fn by_id(&self, id: &str) -> Option<Arc<Generation>> {
        let published = self.published.load();
        let current = published.values().find(|g| g.version.id() == id || g.version.hash == id).cloned();
        current.or_else(|| self.retired().into_iter().find(|g| g.version.id() == id || g.version.hash == id))
    }

    /// Generations that were replaced and that requests still run with.
    pub(super) fn retired(&self) -> Vec<Arc<Generation>> {
        let mut retired = lock(&self.retired);
        retired.retain(|weak| weak.strong_count() > 0);
        retired.iter().filter_map(Weak::upgrade).filter(|g| g.requests() > 0).collect()
    }

    /// Versions of a name, oldest first; folder that it was read from.
    pub(super) fn versions(&self, name: &str) -> Vec<Version> {
        lock(&self.state).adapters.get(name).map(|r| r.versions.clone()).unwrap_or_default()
    }

    /// A lease on a generation, if its adapter is in memory.
    pub(super) fn lease_if_there(&self, generation: &Arc<Generation>) -> Option<Lease> {
        Some(Lease { generation: Some(generation.clone()), loaded: self.cache.there(&generation.version.hash)? })
    }

    /// A lease on a generation; reads its adapter where it is not in memory, which takes its time.
    ///
    /// # Errors
    /// When its files cannot be read.
    pub(super) fn lease(&self, generation: &Arc<Generation>) -> Result<Lease> {
        Ok(Lease { generation: Some(generation.clone()), loaded: self.get(&generation.version.hash)? })
    }

    fn get(&self, hash: &str) -> Result<Arc<Loaded>> {
        self.cache.get(hash, &self.stored(hash)?)
    }

    /// Loads a folder under a name: read once, hashed, checked, kept, warmed, published.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub(super) fn load(&self, act: &LoadAct) -> std::result::Result<Act, Refusal> {
        let root = self.root.as_ref().ok_or(Refusal::Off)?;
        self.load_from(root, &LoadAct { own: act.name == act.folder, ..act.clone() })?
            .ok_or_else(|| Refusal::There(act.name.into()))
    }

    /// As [`Registry::load`], from a folder below another root; nothing where there was nothing to do.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub(super) fn load_from(&self, root: &Root, act: &LoadAct) -> std::result::Result<Option<Act>, Refusal> {
        if self.root.is_none() {
            return Err(Refusal::Off);
        }
        check_name(act.name)?;
        let one = self.act(act.name);
        let _one = lock(&one);
        self.expect(act)?;
        let files = root.read(act.folder, self.cache.limits.file_bytes)?;
        if act.only_complete {
            complete(&files, act.folder)?;
        }
        // The same files once more are no new version.
        if let Some(generation) = self.current(act.name).filter(|g| g.version.hash == files.hash && !act.only_new) {
            let loaded = self.get(&files.hash)?;
            return Ok(Some(Act { generation, loaded }));
        }
        if act.only_new && self.versions(act.name).iter().any(|v| v.hash == files.hash) {
            return Ok(None);
        }
        let done = self.take(act, &files)?;
        self.save()?;
        Ok(Some(done))
    }

    /// Whether the name is as the act expects it.
    fn expect(&self, act: &LoadAct) -> std::result::Result<(), Refusal> {
        let current = self.current(act.name);
        if let Some(expected) = act.expected {
            let is = current.as_ref().map(|g| g.version.id().to_string());
            return match is.as_deref() == Some(expected) || current.is_some_and(|g| g.version.hash == expected) {
                true => Ok(()),
                false => Err(Refusal::Other { expected: expected.into(), is }),
            };
        }
        if current.is_some() && !act.replace { Err(Refusal::There(act.name.into())) } else { Ok(()) }
    }

    /// Keeps the files, warms the adapter and publishes it; the caller holds the name and saves the state.
    fn take(&self, act: &LoadAct, files: &AdapterFiles) -> Result<Act> {
        lock(&self.taking).push(files.hash.clone());
        let outcome = self.take_in(act, files);
        let mut taking = lock(&self.taking);
        if let Some(at) = taking.iter().position(|hash| *hash == files.hash) {
            taking.swap_remove(at);
        }
        outcome
    }

    fn take_in(&self, act: &LoadAct, files: &AdapterFiles) -> Result<Act> {
        if self.reserved.iter().any(|name| name == act.name) {
            let why = format!("`{}` is the name of the base or of an assistant", act.name);
            return Err(Error::usage("the adapter's name", why, "give its folder another name"));
        }
        let dir = self.stored(&files.hash)?;
        let known = dir.is_dir();
        if !known {
            files.write(&dir)?;
        }
        let loaded = match self.get(&files.hash) {
            Ok(loaded) => loaded,
            Err(error) => {
                if !known && lock(&self.taking).iter().filter(|hash| **hash == files.hash).count() == 1 {
                    // It is no use to anybody; what is left of it is swept away at the next start.
                    let _ = std::fs::remove_dir_all(&dir);
                }
                return Err(error);
            }
        };
        let version = {
            let mut state = lock(&self.state);
            let next = state.adapters.values().map(|record| record.index + 1).max().unwrap_or(0);
            let fresh = Record { index: next, ..Record::default() };
            let record = state.adapters.entry(act.name.into()).or_insert(fresh);
            if act.own {
                record.seen = Some(files.hash.clone());
            }
            let version = record.versions.iter().map(|v| v.version).max().unwrap_or(0) + 1;
            let version = Version { hash: files.hash.clone(), version, published: unix_time() };
            record.folder = act.folder.into();
            record.current = Some(version.version);
            record.versions.push(version.clone());
            version
        };
        self.forget_old(act.name);
        let generation = self.publish(act.name, version);
        Ok(Act { generation, loaded })
    }

    /// Lets an earlier generation of a name answer again.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub(super) fn roll_back(&self, name: &str, id: &str) -> std::result::Result<Act, Refusal> {
        if self.root.is_none() {
            return Err(Refusal::Off);
        }
        let one = self.act(name);
        let _one = lock(&one);
        let versions = self.versions(name);
        if versions.is_empty() {
            return Err(Refusal::Unknown(name.into()));
        }
        let found = versions.iter().rev().find(|v| v.id() == id || v.hash == id).cloned();
        let version = found.ok_or_else(|| Refusal::UnknownGeneration(id.into()))?;
        let loaded = self.get(&version.hash)?;
        if let Some(record) = lock(&self.state).adapters.get_mut(name) {
            record.current = Some(version.version);
        }
        let generation = self.publish(name, version);
        self.save()?;
        Ok(Act { generation, loaded })
    }

    /// Takes a name away; requests that run with it end with it.
    ///
    /// # Errors
    /// [`Refusal`] for a name that nothing is published under.
    pub(super) fn unload(&self, name: &str) -> std::result::Result<Arc<Generation>, Refusal> {
        if self.root.is_none() {
            return Err(Refusal::Off);
        }
        let one = self.act(name);
        let _one = lock(&one);
        let gone = self.exchange(|published| published.remove(name)).ok_or_else(|| Refusal::Unknown(name.into()))?;
        if let Some(record) = lock(&self.state).adapters.get_mut(name) {
            record.current = None;
        }
        lock(&self.retired).push(Arc::downgrade(&gone));
        self.save()?;
        Ok(gone)
    }

    fn act(&self, name: &str) -> Arc<Mutex<()>> {
        lock(&self.acts).entry(name.into()).or_default().clone()
    }

    fn publish(&self, name: &str, version: Version) -> Arc<Generation> {
        let index = lock(&self.state).adapters.get(name).map_or(0, |record| record.index);
        let generation = Arc::new(Generation { name: name.into(), version, index, requests: AtomicUsize::new(0) });
        let before = self.exchange(|published| published.insert(name.into(), generation.clone()));
        let mut retired = lock(&self.retired);
        retired.retain(|weak| weak.strong_count() > 0);
        retired.extend(before.iter().map(Arc::downgrade));
        generation
    }

    /// One exchange of the pointer to what is published.
    fn exchange<T>(&self, change: impl FnOnce(&mut Published) -> T) -> T {
        let _writer = lock(&self.writer);
        let mut next = Published::clone(&self.published.load());
        let out = change(&mut next);
        self.published.store(Arc::new(next));
        out
    }

    /// Forgets the oldest versions of a name, and their bytes where no name has them any more.
    fn forget_old(&self, name: &str) {
        let mut state = lock(&self.state);
        let Some(record) = state.adapters.get_mut(name) else { return };
        let many = record.versions.len().saturating_sub(KEPT);
        let old: Vec<Version> = record.versions.drain(..many).collect();
        let taking = lock(&self.taking);
        let used = |hash: &str| {
            taking.iter().any(|taken| taken == hash) || state.adapters.values().any(|r| r.versions.iter().any(|v| v.hash == hash))
        };
        for version in old.iter().filter(|v| !used(&v.hash)) {
            // Requests run with what is in memory; a folder that stays costs space alone.
            let _ = self.stored(&version.hash).map(std::fs::remove_dir_all);
        }
    }

    fn save(&self) -> Result<()> {
        lock(&self.state).write(&self.own()?.join("state.json"))
    }
}

/// Refuses a run that is not complete: its trace is written last, and names the hash of its tensors.
fn complete(files: &AdapterFiles, folder: &str) -> Result<()> {
    let fail = |why: &str| Err(Error::adapter(Path::new(folder), TRACE, why, "wait until the run is complete"));
    let Some(trace) = files.get(TRACE) else { return fail("it is not there") };
    let trace: serde_json::Value = match serde_json::from_slice(trace) {
        Ok(trace) => trace,
        Err(_) => return fail("it is not whole"),
    };
    let own = files.get(WEIGHTS).map(files::sha256);
    if own.is_none() || trace["adapter_sha256"].as_str() != own.as_deref() {
        return fail("it names another hash than that of the tensors");
    }
    Ok(())
}
