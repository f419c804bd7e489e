//! Deliveries to a directory in which others have files, compared with a model.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::super::content::{Sink, describe};
use super::*;

fn stored<'a>(disk: &'a Disk, from: &Path) -> Source<'a> {
    let sink = Sink::Store { disk, read: &AtomicU64::new(0) };
    Source::Stored(disk, describe(from, false, &Memo::default(), &sink).unwrap())
}

#[test]
fn a_directory_comes_back_with_modes_and_links() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(&dir.path().join("store"), false).unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to/there"));
    fs::create_dir_all(from.join("sub/empty")).unwrap();
    fs::write(from.join("sub/data"), "data").unwrap();
    fs::write(from.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(from.join("run.sh"), Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(from.join("sub/empty"), Permissions::from_mode(0o711)).unwrap();
    symlink("sub/data", from.join("link")).unwrap();
    let source = stored(&disk, &from);
    let Source::Stored(_, content) = &source else { panic!("it is stored") };
    assert_eq!(content.bytes(), 4 + 10 + 8);
    let go = AtomicBool::new(false);
    place(&source, &to, &go).unwrap();
    assert_eq!(describe(&to, false, &Memo::default(), &Sink::Exact).unwrap(), *content);
    let mode = |name: &str| fs::metadata(to.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("run.sh"), mode("sub/empty")), (0o750, 0o711));
    assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("sub/data"));
    // It replaces what is there, whatever that is.
    fs::write(to.join("more"), "").unwrap();
    place(&source, &to, &go).unwrap();
    assert!(!to.join("more").exists());
    fs::remove_dir_all(&to).unwrap();
    fs::write(&to, "a file").unwrap();
    place(&source, &to, &go).unwrap();
    assert!(to.join("sub/data").exists());
    assert_eq!(fs::read_dir(dir.path().join("to")).unwrap().count(), 1, "nothing temporary is left");
}

/// A directory to which things are delivered.
struct Scene {
    dir: tempfile::TempDir,
    disk: Disk,
    memo: Memo,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(&dir.path().join("store"), false).unwrap();
        Scene { dir, disk, memo: Memo::default() }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Makes a tree of files with their contents, in a directory of its own.
    fn tree(&self, files: &[(&str, &str)]) -> PathBuf {
        let from = self.dir.path().join("from");
        remove_tree(&from);
        fs::create_dir(&from).unwrap();
        for (name, text) in files {
            fs::create_dir_all(from.join(name).parent().unwrap()).unwrap();
            fs::write(from.join(name), text).unwrap();
        }
        from
    }

    /// Delivers what is in `from`. `None` if it crashed: no more than this number of steps follow.
    fn deliver(&self, from: &Path, is_stored: bool, steps: Option<u8>) -> Option<Result<u64, FetchError>> {
        let left = std::cell::Cell::new(steps);
        let goes_on = || match left.get() {
            // As if the process were killed: nothing is cleaned up.
            Some(0) => resume_unwind(Box::new(())),
            steps => {
                left.set(steps.map(|steps| steps - 1));
                Ok(())
            }
        };
        let source = if is_stored { stored(&self.disk, from) } else { Source::Files(from.to_owned()) };
        let (records, is_given_up) = (self.dir.path().join("records"), AtomicBool::new(false));
        let (records, memo) = (Some(&*records), &self.memo);
        let delivery = Delivery { records, memo, is_given_up: &is_given_up, goes_on: &goes_on };
        catch_unwind(AssertUnwindSafe(|| delivery.bring(source, &self.out()))).ok()
    }

    fn deliver_files(&self, files: &[(&str, &str)]) {
        let from = self.tree(files);
        self.deliver(&from, true, None).unwrap().unwrap();
    }

    fn names(&self) -> Vec<String> {
        self.standing().into_keys().map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// What stands in the directory, but for directories.
    fn standing(&self) -> BTreeMap<PathBuf, Stamp> {
        let mut found = BTreeMap::new();
        let _ = delivered::walk(&self.out(), Path::new(""), &mut |name, stamp| {
            if !stamp.is_dir() {
                found.insert(name.to_owned(), stamp);
            }
            ControlFlow::Continue(())
        });
        found
    }
}

#[test]
fn what_was_delivered_and_is_no_longer_part_of_it_goes_and_all_else_stays() {
    let scene = Scene::new();
    let out = scene.out();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("before"), "").unwrap();
    scene.deliver_files(&[("a", "a"), ("sub/b", "b"), ("sub/deep/c", "c"), ("kept/d", "d")]);
    fs::write(out.join("sub/mine"), "").unwrap();
    fs::write(out.join("kept/d"), "changed").unwrap();
    scene.deliver_files(&[("a", "new"), ("e", "e")]);
    assert_eq!(scene.names(), ["a", "before", "e", "kept/d", "sub/mine"]);
    assert!(!out.join("sub/deep").exists(), "a directory that was delivered goes with what was in it");
    assert_eq!(fs::read_to_string(out.join("kept/d")).unwrap(), "changed");
    // A directory gives way to a file if nobody else has anything in it.
    scene.deliver_files(&[("a/x", "x"), ("e", "e")]);
    scene.deliver_files(&[("a", "again")]);
    assert_eq!(scene.names(), ["a", "before", "kept/d", "sub/mine"]);
    let from = scene.tree(&[("sub", "a file")]);
    assert!(scene.deliver(&from, true, None).unwrap().unwrap_err().to_string().contains("sub is a directory"));
    // Other places are other outputs.
    fs::rename(&out, scene.dir.path().join("moved")).unwrap();
    fs::create_dir(&out).unwrap();
    scene.deliver_files(&[("f", "f")]);
    assert_eq!(scene.names(), ["f"]);
}

#[test]
fn links_to_directories_stay_and_what_a_link_of_an_earlier_result_led_to_is_left_alone() {
    let scene = Scene::new();
    let (out, elsewhere) = (scene.out(), scene.dir.path().join("elsewhere"));
    fs::create_dir_all(elsewhere.join("sub")).unwrap();
    fs::write(elsewhere.join("sub/mine"), "").unwrap();
    symlink(&elsewhere, &out).unwrap();
    scene.deliver_files(&[("sub/a", "a"), ("b", "b")]);
    scene.deliver_files(&[("sub/c", "c")]);
    assert!(out.is_symlink());
    let names = |dir: &str| fs::read_dir(elsewhere.join(dir)).unwrap().count();
    assert_eq!((names(""), names("sub")), (1, 2));
    let from = scene.tree(&[("real/d", "d")]);
    symlink("real", from.join("sub2")).unwrap();
    scene.deliver(&from, true, None).unwrap().unwrap();
    scene.deliver_files(&[("real/d", "d"), ("sub2/e", "e")]);
    assert!(out.join("sub2/e").exists() && !out.join("sub2").is_symlink() && !out.join("real/e").exists());
    // A user has moved what was delivered, and linked it.
    scene.deliver_files(&[("far/f", "f"), ("far/g", "g")]);
    fs::rename(out.join("far"), scene.dir.path().join("far")).unwrap();
    symlink(scene.dir.path().join("far"), out.join("far")).unwrap();
    scene.deliver_files(&[("far/g", "new")]);
    let read = |name: &str| fs::read_to_string(scene.dir.path().join("far").join(name)).unwrap();
    assert_eq!((read("f").as_str(), read("g").as_str()), ("f", "new"));
}

#[derive(Clone, Debug)]
enum Kind {
    /// With this content.
    File(u8),
    Link,
    Empty,
}

#[derive(Clone, Debug)]
enum Step {
    /// Somebody writes a file.
    Write(PathBuf, u8),
    /// Somebody removes one.
    Remove(prop::sample::Index),
    /// A result is delivered; it crashes after so many steps.
    Deliver { tree: Vec<(PathBuf, Kind)>, is_stored: bool, steps: Option<u8> },
    /// The records are lost.
    Forget,
}

fn path() -> impl Strategy<Value = PathBuf> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|parts| parts.iter().collect())
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![6 => (0..3u8).prop_map(Kind::File), 1 => Just(Kind::Link), 1 => Just(Kind::Empty)];
    let tree = prop::collection::vec((path(), kind), 0..7);
    let steps = prop_oneof![2 => Just(None), 1 => (0..25u8).prop_map(Some)];
    prop_oneof![
        4 => (path(), 0..3u8).prop_map(|(path, content)| Step::Write(path, content)),
        1 => any::<prop::sample::Index>().prop_map(Step::Remove),
        5 => (tree, any::<bool>(), steps).prop_map(|(tree, is_stored, steps)| Step::Deliver { tree, is_stored, steps }),
        1 => Just(Step::Forget),
    ]
}

fn content(of: u8) -> Vec<u8> {
    vec![of; usize::from(of) + 1]
}

/// Makes a tree as far as its parts go together.
fn make(from: &Path, tree: &[(PathBuf, Kind)]) {
    remove_tree(from);
    fs::create_dir(from).unwrap();
    for (name, kind) in tree {
        let path = from.join(name);
        let is_possible = fs::create_dir_all(path.parent().unwrap()).is_ok() && path.symlink_metadata().is_err();
        match kind {
            _ if !is_possible => {}
            Kind::File(of) => fs::write(path, content(*of)).unwrap(),
            // Nothing can be written through it.
            Kind::Link => symlink("nowhere", path).unwrap(),
            Kind::Empty => fs::create_dir(path).unwrap(),
        }
    }
}

/// What users have in the directory, as far as a model knows.
#[derive(Default)]
struct Users {
    files: BTreeMap<PathBuf, Stamp>,
    /// Directories that they have made, or that may be theirs.
    dirs: BTreeSet<PathBuf>,
    /// Each write has a time of its own.
    clock: u64,
}

impl Users {
    fn write(&mut self, scene: &Scene, name: &Path, of: u8) {
        let path = scene.out().join(name);
        let new: Vec<PathBuf> =
            name.ancestors().skip(1).filter(|dir| !scene.out().join(dir).exists()).map(Path::to_owned).collect();
        if fs::create_dir_all(path.parent().unwrap()).is_err() || path.is_dir() {
            return;
        }
        let _ = fs::remove_file(&path);
        fs::write(&path, content(of)).unwrap();
        self.clock += 1;
        let time = UNIX_EPOCH + Duration::from_secs(1000 + self.clock);
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        self.files.insert(name.to_owned(), Stamp::at(&path).unwrap());
        self.dirs.extend(new);
    }

    /// Without a record everything may be anybody's.
    fn own_everything(&mut self, scene: &Scene) {
        self.files = scene.standing();
        let _ = delivered::walk(&scene.out(), Path::new(""), &mut |name, stamp| {
            self.dirs.extend(stamp.is_dir().then(|| name.to_owned()));
            ControlFlow::Continue(())
        });
    }

    /// What must hold after a delivery of what is in `from`, be it complete or not.
    fn check(&mut self, scene: &Scene, from: &Path, is_complete: bool) -> Result<(), TestCaseError> {
        let (out, new) = (scene.out(), |name: &Path| Stamp::at(&from.join(name)));
        let standing = scene.standing();
        for (name, stamp) in std::mem::take(&mut self.files) {
            let is_there = standing.get(&name) == Some(&stamp);
            prop_assert!(is_there || new(&name).is_some(), "{} of a user is gone", name.display());
            if is_there {
                self.files.insert(name, stamp);
            }
        }
        if !is_complete {
            return Ok(());
        }
        for name in standing.keys() {
            let is_known = self.files.contains_key(name) || new(name).is_some();
            prop_assert!(is_known, "{} is stale", name.display());
        }
        let mut wrong = Vec::new();
        let _ = delivered::walk(from, Path::new(""), &mut |name, stamp| {
            let path = delivered::path_in(&out, name);
            let is_right = match stamp.is_dir() {
                true => path.is_dir(),
                false => {
                    fs::read_link(&path).ok() == fs::read_link(from.join(name)).ok()
                        && fs::read(&path).ok() == fs::read(from.join(name)).ok()
                }
            };
            wrong.extend((!is_right).then(|| name.to_owned()));
            ControlFlow::Continue(())
        });
        prop_assert!(wrong.is_empty(), "{wrong:?} did not arrive");
        let _ = delivered::walk(&out, Path::new(""), &mut |name, stamp| {
            let is_used = self.files.keys().chain(&self.dirs).any(|file| file.starts_with(name));
            let is_stale = stamp.is_dir() && !is_used && new(name).is_none();
            wrong.extend(is_stale.then(|| name.to_owned()));
            ControlFlow::Continue(())
        });
        prop_assert!(wrong.is_empty(), "the directories {wrong:?} are stale");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever users do between deliveries, and wherever those break off: what is a user's stays,
    /// and after one that is complete nothing of earlier ones is left.
    #[test]
    fn nothing_of_a_user_goes_and_nothing_stale_stays(steps in prop::collection::vec(step(), 1..12)) {
        let scene = Scene::new();
        let (mut users, from) = (Users::default(), scene.dir.path().join("from"));
        for step in steps {
            match step {
                Step::Write(name, of) => users.write(&scene, &name, of),
                Step::Remove(which) => {
                    let standing = scene.standing();
                    if let Some(name) = (!standing.is_empty()).then(|| standing.keys().nth(which.index(standing.len()))).flatten() {
                        fs::remove_file(scene.out().join(name)).unwrap();
                        users.files.remove(name);
                    }
                }
                Step::Forget => {
                    remove_tree(&scene.dir.path().join("records"));
                    users.own_everything(&scene);
                }
                Step::Deliver { tree, is_stored, steps } => {
                    make(&from, &tree);
                    let delivered = scene.deliver(&from, is_stored, steps);
                    users.check(&scene, &from, matches!(delivered, Some(Ok(_))))?;
                }
            }
        }
    }
}
