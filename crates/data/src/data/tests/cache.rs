//! Kept tokens: the same rows again, another folder for whatever changes, and what happens to damaged ones.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use crate::data::set::cache::{Cache, program};
use crate::data::*;
use crate::files;
use crate::recipe::{Data, Mixture, OverLong, Replay, Source, Strategy, Template, TemplateKind};
use crate::tokenizer::byte_level::{chatml, llama};

struct Place {
    dir: tempfile::TempDir,
    said: RefCell<Vec<String>>,
    data: Data,
    template: Template,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let source = Source { path: dir.path().join("a.jsonl"), ..Source::default() };
        let rows: String = (0..60).map(|i| format!("{{\"prompt\": \"q{i}\", \"completion\": \"a{i}\"}}\n")).collect();
        std::fs::write(&source.path, rows).unwrap();
        let data = Data { heldout_fraction: 0.2, ..Data::of(vec![source]) };
        Place { dir, said: RefCell::default(), data, template: Template::default() }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn load(&self) -> Loaded {
        self.load_while(&|_| {})
    }

    /// As [`Place::load`], telling `hear` how far it is.
    fn load_while(&self, hear: &dyn Fn(LoadProgress)) -> Loaded {
        let say = |text: &str| self.said.borrow_mut().push(text.to_string());
        let cache = Cache { folder: self.cache(), least: 0, hash: &files::sha256_file, say: &say };
        let renderer = Renderer::new(chatml(), &self.template).unwrap();
        load_with(&self.data, &renderer, 100, 7, &LoadOptions { cache: Some(cache), hear }).unwrap()
    }

    /// Folders of the cache that hold tokens.
    fn kept(&self) -> Vec<PathBuf> {
        let all = std::fs::read_dir(self.cache()).unwrap().map(|e| e.unwrap().path().join("tokens"));
        all.filter(|path| path.is_dir()).collect()
    }
}

fn same(a: &Loaded, b: &Loaded) -> bool {
    let rows = |l: &Loaded| [&l.train, &l.heldout].map(|e| e.iter().map(|e| e.to_owned()).collect::<Vec<_>>());
    let prompts = |l: &Loaded| l.heldout_prompts.iter().collect::<Vec<_>>();
    rows(a) == rows(b) && prompts(a) == prompts(b) && a.report == b.report
}

#[test]
fn the_second_load_is_the_first_without_reading() {
    let place = Place::new();
    let plain = load(&place.data, &Renderer::new(chatml(), &place.template).unwrap(), 100, 7).unwrap();
    let first = place.load();
    assert!(same(&plain, &first) && first.heldout.len() == 12);
    let written = |path: &Path| std::fs::metadata(path.join("manifest.json")).unwrap().modified().unwrap();
    let kept = place.kept();
    let before = written(&kept[0]);
    assert!(same(&first, &place.load()));
    assert_eq!((place.kept(), written(&kept[0])), (kept, before));
    assert!(place.said.borrow().is_empty());
}

#[test]
fn whatever_changes_the_tokens_changes_the_folder() {
    let mut place = Place::new();
    place.load();
    let path = place.data.train[0].path.clone();
    let text = std::fs::read_to_string(&path).unwrap();
    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    // Of the same length and date, so that only the content tells.
    std::fs::write(&path, text.replacen("a7", "b7", 1)).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let changed = place.load();
    assert!(changed.train.len() + changed.heldout.len() == 60 && place.kept().len() == 2);
    place.data.over_long = OverLong::Truncate;
    place.load();
    place.data.train[0].limit = Some(30);
    assert_eq!(place.load().train.len(), 24);
    place.template.system = Some("Be brief.".into());
    place.load();
    place.template.kind = TemplateKind::Alpaca;
    place.load();
    assert_eq!(place.kept().len(), 6);
}

/// Tokens of the same rows: how often an epoch has them is planned anew.
#[test]
fn what_is_replayed_is_in_the_key_and_the_plan_of_the_mixture_is_not() {
    let mut place = Place::new();
    let general = place.dir.path().join("general.txt");
    std::fs::write(&general, "Some text.\n\nMore text.\n").unwrap();
    let source = Source { path: general.clone(), ..Source::default() };
    place.data.replay = Some(Replay { sources: vec![source], fraction: 0.1 });
    place.load();
    place.data.replay.as_mut().unwrap().fraction = 0.3;
    place.load();
    assert_eq!(place.kept().len(), 1);
    place.data.mixture.strategy = Strategy::Proportional;
    place.data.mixture.rows = Some(500);
    place.load();
    assert_eq!(place.kept().len(), 1);
    place.data.mixture = Mixture::default();
    place.data.train[0].epochs = Some(3.0);
    place.load();
    assert_eq!(place.kept().len(), 1);
    std::fs::write(&general, "Some text.\n\nMere text.\n").unwrap();
    place.load();
    assert_eq!(place.kept().len(), 2);
}

#[test]
fn a_tokenizer_or_a_program_of_another_content_has_its_own_folder() {
    let place = Place::new();
    place.load();
    let cache = Cache { folder: place.cache(), least: 0, hash: &files::sha256_file, say: &|_| {} };
    let renderer = Renderer::new(llama(None), &place.template).unwrap();
    load_with(&place.data, &renderer, 100, 7, &LoadOptions { cache: Some(cache), hear: &|_| {} }).unwrap();
    assert_eq!(place.kept().len(), 2);
    let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(program().unwrap(), blake3::hash(&bytes).to_string());
}

/// Once with other content, and once with the content that it had before.
#[test]
fn a_file_that_changes_while_it_is_read_is_not_kept() {
    for back in [false, true] {
        let place = Place::new();
        let path = &place.data.train[0].path;
        let text = std::fs::read_to_string(path).unwrap();
        std::fs::File::options().write(true).open(path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let loaded =
            place.load_while(&|_| std::fs::write(path, if back { text.clone() } else { text.replace("q1", "Q1") }).unwrap());
        assert!(loaded.kept.is_none() && place.kept().is_empty(), "{back}");
        assert!(place.said.borrow()[0].contains("changed while it was read"));
        assert_eq!(place.load().kept.as_deref(), place.kept()[0].parent());
    }
}

#[test]
fn damaged_tokens_are_made_anew_and_said() {
    let place = Place::new();
    let first = place.load();
    let tokens = place.kept().remove(0);
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("ids.bin", |p| std::fs::write(p, [std::fs::read(p).unwrap(), vec![0; 4]].concat()).unwrap()),
        ("trained.bin", |p| {
            let mut bytes = std::fs::read(p).unwrap();
            bytes[3] ^= 1;
            std::fs::write(p, bytes).unwrap();
        }),
        ("prompt-texts.bin", |p| std::fs::remove_file(p).unwrap()),
        ("manifest.json", |p| std::fs::write(p, "{\"columns\": {").unwrap()),
    ];
    for (i, (name, damage)) in damages.into_iter().enumerate() {
        damage(&tokens.join(name));
        assert!(same(&first, &place.load()), "{name}");
        let said = place.said.borrow();
        assert!(said.len() == i + 1 && said[i].contains("damaged and made anew"), "{name}: {said:?}");
    }
    assert!(same(&first, &place.load()) && place.said.borrow().len() == 4);
}

#[test]
fn two_at_a_time_share_one_set_and_what_was_left_half_written_goes() {
    let place = Place::new();
    let first = place.load();
    let tokens = place.kept().remove(0);
    std::fs::remove_dir_all(&tokens).unwrap();
    let half = tokens.parent().unwrap().join(".lorakit-killed.tmp");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("ids.bin"), "half").unwrap();
    let (data, folder) = (&place.data, place.cache());
    std::thread::scope(|scope| {
        let one = || {
            let cache = Cache { folder: folder.clone(), least: 0, hash: &files::sha256_file, say: &|_| {} };
            let renderer = Renderer::new(chatml(), &Template::default()).unwrap();
            load_with(data, &renderer, 100, 7, &LoadOptions { cache: Some(cache), hear: &|_| {} }).unwrap()
        };
        let runs = [scope.spawn(one), scope.spawn(one), scope.spawn(one)];
        assert!(runs.into_iter().all(|run| same(&first, &run.join().unwrap())));
    });
    assert!(place.kept() == [tokens] && !half.exists());
}

/// Its rows are other ones by now, so that its folder is never asked for again.
#[test]
fn what_a_killed_run_left_half_written_of_other_rows_goes_too() {
    let place = Place::new();
    place.load();
    let (kept, other) = (place.kept().remove(0), place.cache().join("0123"));
    let (half, busy) = (other.join(".lorakit-killed.tmp"), kept.parent().unwrap().join(".lorakit-busy.tmp"));
    [&half, &busy].iter().for_each(|dir| std::fs::create_dir_all(dir).unwrap());
    let lock = std::fs::File::create(other.join("lock")).unwrap();
    lock.lock().unwrap();
    let again = |limit: usize| {
        let data = Data { train: vec![Source { limit: Some(limit), ..place.data.train[0].clone() }], ..place.data.clone() };
        let cache = Cache { folder: place.cache(), least: 0, hash: &files::sha256_file, say: &|_| {} };
        let renderer = Renderer::new(chatml(), &Template::default()).unwrap();
        load_with(&data, &renderer, 100, 7, &LoadOptions { cache: Some(cache), hear: &|_| {} }).unwrap();
    };
    again(20);
    assert!(half.exists() && !busy.exists() && kept.exists(), "another run is at work there");
    drop(lock);
    again(21);
    assert!(!half.exists());
}

/// Nobody can make a folder below a file.
#[test]
fn a_cache_that_cannot_be_written_costs_time_only() {
    let place = Place::new();
    std::fs::write(place.cache(), "a file").unwrap();
    assert_eq!(place.load().train.len(), 48);
    assert!(place.said.borrow()[0].starts_with("tokens are not kept: "));
}
