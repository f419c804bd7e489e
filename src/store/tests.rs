//! The store as a whole: levels, damage, eviction, several processes at once.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("work")).unwrap();
        Place { dir }
    }

    fn config(&self, shared: bool) -> StoreConfig {
        let shared = shared.then(|| self.dir.path().join("shared"));
        let records = Some(self.dir.path().join("records"));
        StoreConfig { node: self.dir.path().join("node"), shared, size: 1 << 30, ttl: None, records }
    }

    fn store(&self) -> Store {
        Store::open(&self.config(false))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("work").join(name)
    }

    fn take(&self, store: &Store, key: &Digest) -> Result<Taken, Miss> {
        let place = |name: &OutputName| match name {
            OutputName::Declared(path) => self.dir.path().join("work").join(path),
            other => panic!("{other:?}"),
        };
        store.take(key, "class", &place, &AtomicBool::new(false))
    }

    /// Stores a result with one output of this content; returns its key.
    fn put(&self, store: &Store, task: &str, content: &[u8]) -> Digest {
        fs::write(self.path(task), content).unwrap();
        let result = result(task);
        let key = result.components.key();
        store.put(result, &[(OutputName::Declared(task.into()), self.path(task))]).unwrap();
        key
    }
}

fn result(task: &str) -> StoredResult {
    let mut components = Components::default();
    components.add("command", format!("make {task}"));
    StoredResult {
        origin: Origin { job: "job".into(), task: task.into(), ..Origin::default() },
        components,
        outputs: Vec::new(),
        printed: vec![(false, b"done\n".to_vec())],
        measures: vec![("loss".into(), 0.25)],
    }
}

/// Files below a directory of a level.
fn files(level: &Path, kind: &str) -> Vec<PathBuf> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries(&level.join(kind)).flat_map(|dir| entries(&dir).collect::<Vec<_>>()).collect()
}

#[test]
fn a_result_comes_back_from_each_level() {
    let place = Place::new();
    let store = Store::open(&place.config(true));
    let key = place.put(&store, "out", b"content");
    for (level, fresh) in [(Level::Memory, false), (Level::Node, true)] {
        fs::remove_file(place.path("out")).unwrap();
        let other = Store::open(&place.config(true));
        let taken = place.take(if fresh { &other } else { &store }, &key).unwrap();
        assert_eq!((taken.level, taken.restored), (level, 7));
        assert_eq!(taken.printed, [(false, b"done\n".to_vec())]);
        assert_eq!(taken.measures, [("loss".to_owned(), 0.25)]);
        assert_eq!(fs::read(place.path("out")).unwrap(), b"content");
        let again = place.take(&other, &key).unwrap();
        assert_eq!(again.restored, 0, "what is in place is not written");
    }
    // Its thread that looks at the size of the level has ended.
    drop(store);
    fs::remove_dir_all(place.dir.path().join("node")).unwrap();
    let other = Store::open(&place.config(true));
    assert_eq!(place.take(&other, &key).unwrap().level, Level::Shared);
    let other = Store::open(&place.config(false));
    assert_eq!(place.take(&other, &key).unwrap().level, Level::Node, "it was promoted");
    assert_eq!(place.take(&other, &Digest::of(b"else")).unwrap_err(), Miss::Unknown);
}

#[test]
fn an_output_that_a_user_changed_is_put_right() {
    let place = Place::new();
    let store = place.store();
    let key = place.put(&store, "out", b"content");
    fs::write(place.path("out"), "CONTENT").unwrap();
    assert_eq!(place.take(&store, &key).unwrap().restored, 7);
    assert_eq!(fs::read(place.path("out")).unwrap(), b"content");
    // Writing to what was restored does not reach the store.
    fs::write(place.path("out"), "changed").unwrap();
    assert_eq!(place.take(&place.store(), &key).unwrap().restored, 7);
    assert_eq!(fs::read(place.path("out")).unwrap(), b"content");
}

#[test]
fn what_is_damaged_or_gone_is_a_miss_and_stored_anew() {
    let place = Place::new();
    let node = place.dir.path().join("node");
    let damages: [&dyn Fn(&Path); 4] = [
        &|file| fs::remove_file(file).unwrap(),
        &|file| rewrite(file, b""),
        &|file| rewrite(file, b"contenx"),
        &|file| rewrite(file, &[0; 5000]),
    ];
    for kind in ["objects", "results"] {
        for damage in damages {
            let key = place.put(&place.store(), "out", b"content");
            damage(&files(&node, kind)[0]);
            fs::remove_file(place.path("out")).unwrap();
            assert!(place.take(&place.store(), &key).is_err(), "{kind}");
            assert!(!place.path("out").exists());
            place.put(&place.store(), "out", b"content");
            assert!(place.take(&place.store(), &key).is_ok());
        }
    }
}

fn rewrite(file: &Path, bytes: &[u8]) {
    fs::remove_file(file).unwrap();
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_damaged_content_is_taken_from_the_next_level() {
    let place = Place::new();
    let key = place.put(&Store::open(&place.config(true)), "out", b"content");
    rewrite(&files(&place.dir.path().join("node"), "objects")[0], b"contenx");
    fs::remove_file(place.path("out")).unwrap();
    let taken = place.take(&Store::open(&place.config(true)), &key).unwrap();
    assert_eq!(taken.level, Level::Shared);
    assert_eq!(fs::read(place.path("out")).unwrap(), b"content");
    assert_eq!(place.take(&Store::open(&place.config(false)), &key).unwrap().level, Level::Node, "mended");
}

#[test]
fn a_store_that_cannot_be_written_harms_nobody() {
    let place = Place::new();
    // As root, permissions stop nobody: a file stands where directories must be made.
    let node = place.dir.path().join("node");
    fs::create_dir(&node).unwrap();
    fs::write(node.join("tmp"), "in the way").unwrap();
    let store = place.store();
    fs::write(place.path("out"), "content").unwrap();
    let outputs = [(OutputName::Declared("out".into()), place.path("out"))];
    for _ in 0..2 {
        assert!(matches!(store.put(result("out"), &outputs), Err(NotStored::Unwritable)));
    }
    store.put(result("prints"), &[]).unwrap();
    let key = result("prints").components.key();
    assert_eq!(place.take(&store, &key).unwrap().level, Level::Memory, "what only prints stays in memory");
    fs::write(place.dir.path().join("file"), "").unwrap();
    let config = StoreConfig { node: place.dir.path().join("file"), ..place.config(false) };
    assert_eq!(place.take(&Store::open(&config), &key).unwrap_err(), Miss::Unknown);
}

#[test]
fn least_recently_used_results_go_first_with_contents_that_nobody_else_names() {
    let place = Place::new();
    let store = place.store();
    let keys: Vec<Digest> = (0..10).map(|n| place.put(&store, &format!("out{n}"), &vec![n; 100_000])).collect();
    let shared = [place.put(&store, "same1", b"same"), place.put(&store, "same2", b"same")];
    let node = place.dir.path().join("node");
    let disk = Disk::open(&node, false).unwrap();
    let age = |key: &Digest, seconds| {
        let used = SystemTime::now() - Duration::from_secs(seconds);
        fs::File::open(disk.path(Kind::Result, key)).unwrap().set_modified(used).unwrap();
    };
    for (seconds, key) in (1..).zip(keys.iter().rev()) {
        age(key, seconds * 100);
    }
    age(&shared[0], 5000);
    let dir = StoreDir::open(&node, false).unwrap();
    let evicted = dir.prune(&Limits { size: Some(700_000), ..Limits::default() }).unwrap();
    assert!(evicted.left <= 560_000 && evicted.left > 400_000, "{evicted:?}");
    let fresh = place.store();
    assert_eq!(place.take(&fresh, &shared[0]).unwrap_err(), Miss::Unknown);
    assert!(place.take(&fresh, &shared[1]).is_ok(), "its content is named by another result");
    let is_there: Vec<bool> = keys.iter().map(|key| place.take(&fresh, key).is_ok()).collect();
    let kept = is_there.iter().filter(|there| **there).count();
    assert!(is_there[10 - kept..].iter().all(|there| *there), "the oldest go first: {is_there:?}");
    let verified = dir.verify();
    assert_eq!((verified.damaged_results.len(), verified.damaged_objects.len()), (0, 0));
    let all = dir.prune(&Limits { age: Some(Duration::ZERO), is_alone: true, ..Limits::default() }).unwrap();
    assert_eq!(all.left, 0);
    assert_eq!((files(&node, "objects").len(), files(&node, "results").len()), (0, 0));
}

#[test]
fn verify_finds_and_removes_damage_and_drop_removes_what_is_named() {
    let place = Place::new();
    let store = place.store();
    for task in ["a", "b", "c"] {
        place.put(&store, task, task.as_bytes());
    }
    let node = place.dir.path().join("node");
    let dir = StoreDir::open(&node, false).unwrap();
    rewrite(&Disk::open(&node, false).unwrap().path(Kind::Object, &Digest::of(b"b")), b"x");
    let verified = dir.verify();
    assert_eq!((verified.results, verified.objects), (2, 2));
    assert!(verified.damaged_results[0].contains("(b)"), "{verified:?}");
    assert_eq!(verified.damaged_objects.len(), 1);
    assert_eq!(dir.drop_results(|listed| listed.origin.task == "a").results, 1);
    assert_eq!(dir.list().iter().map(|listed| listed.origin.task.as_str()).collect::<Vec<_>>(), ["c"]);
}

#[test]
fn differences_to_the_last_result_are_told_even_if_it_is_gone() {
    let place = Place::new();
    let store = place.store();
    place.put(&store, "out", b"content");
    let mut now = Components::default();
    now.add("command", "make other");
    let (origin, differences) = store.differences("job", "out", &now).unwrap();
    assert_eq!(origin.task, "out");
    assert_eq!(differences[0].was.as_deref(), Some("make out"));
    assert!(store.differences("job", "else", &now).is_none());
}

#[test]
fn a_staged_file_is_read_once_and_is_a_copy() {
    let place = Place::new();
    let store = place.store();
    let go = AtomicBool::new(false);
    let (out, to) = (place.path("made"), |n: u32| place.dir.path().join(format!("staged-{n}")));
    fs::create_dir(&out).unwrap();
    fs::write(out.join("x"), b"content").unwrap();
    std::os::unix::fs::symlink("x", out.join("link")).unwrap();
    let home = place.path("home/made");
    assert_eq!(
        store.stage_out(&[(out.clone(), home.clone()), (place.path("none"), home.join("n"))], &go).unwrap().bytes,
        8
    );
    assert_eq!(fs::read_link(home.join("link")).unwrap().to_str(), Some("x"));
    // What this process has put in place is known, and only that.
    let staged = store.stage_in(&home, &to(0), &go).unwrap();
    assert_eq!(staged, Staged { bytes: 8, read: 0 });
    fs::write(to(0).join("x"), b"changed").unwrap();
    assert_eq!(fs::read(home.join("x")).unwrap(), b"content");
    fs::write(home.join("x"), b"another content").unwrap();
    assert_eq!(store.stage_in(&home, &to(1), &go).unwrap(), Staged { bytes: 16, read: 15 });
    assert_eq!(fs::read(to(1).join("x")).unwrap(), b"another content");
    // A damaged content is read where the file is.
    let file = place.path("home/file");
    fs::write(out.with_file_name("file"), b"one").unwrap();
    store.stage_out(&[(out.with_file_name("file"), file.clone())], &go).unwrap();
    let node = place.dir.path().join("node");
    rewrite(&Disk::open(&node, false).unwrap().path(Kind::Object, &Digest::of(b"one")), b"two");
    assert_eq!(store.stage_in(&file, &to(2), &go).unwrap(), Staged { bytes: 3, read: 3 });
    assert_eq!(fs::read(to(2)).unwrap(), b"one");
    // What would not fit is copied past the level.
    let small = Store::open(&StoreConfig { size: 2, node: place.dir.path().join("small"), ..place.config(false) });
    assert_eq!(small.stage_in(&home, &to(3), &go).unwrap(), Staged { bytes: 15, read: 15 });
    assert_eq!(files(&place.dir.path().join("small"), "objects").len(), 0);
    assert!(!small.is_within(&home, 1));
}

#[test]
fn a_staged_directory_is_merged_into_the_one_at_its_place() {
    let place = Place::new();
    let store = place.store();
    let go = AtomicBool::new(false);
    let (out, home) = (place.path("made"), place.path("home/made"));
    for (dir, name) in [(&out, "a"), (&home, "b"), (&home, "a")] {
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("sub").join(name), dir.to_str().unwrap()).unwrap();
    }
    store.stage_out(&[(out.clone(), home.clone())], &go).unwrap();
    assert_eq!(fs::read_to_string(home.join("sub/a")).unwrap(), out.to_str().unwrap());
    assert_eq!(fs::read_to_string(home.join("sub/b")).unwrap(), home.to_str().unwrap());
    // A file does not take the place of a directory.
    let error = store.stage_out(&[(out.join("sub/a"), home.clone())], &go).unwrap_err().1;
    assert!(error.to_string().contains("is a directory") && home.join("sub/b").exists(), "{error}");
}

#[test]
fn of_a_staged_directory_exactly_what_was_left_is_stored() {
    for size in [1 << 30, 1] {
        let place = Place::new();
        let store = Store::open(&StoreConfig { size, ..place.config(false) });
        let go = AtomicBool::new(false);
        let (out, home) = (place.path("made"), place.path("home/made"));
        for file in [out.join("new"), home.join("others")] {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "content").unwrap();
        }
        let names = |dir: &Path| {
            let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let staged = store.stage_out(&[(out.clone(), home.clone())], &go).unwrap();
        assert_eq!(names(&home), ["new", "others"], "of {size}");
        let [(to, content)] = &staged.directories[..] else { panic!("{staged:?}") };
        assert_eq!((to, content.is_some()), (&home, size > 1));
        fs::rename(out.join("new"), out.join("newer")).unwrap();
        store.stage_out(&[(out.clone(), home.clone())], &go).unwrap();
        assert_eq!(names(&home), ["newer", "others"], "of {size}");
        let Some(content) = content else { continue };
        let mut result = result("made");
        let (name, key) = (OutputName::Declared("home/made".into()), result.components.key());
        result.outputs.push((name.clone(), content.clone()));
        store.put(result, &[(name, home.clone())]).unwrap();
        place.take(&store, &key).unwrap();
        assert_eq!(names(&home), ["new", "others"], "a hit is a delivery as others are");
    }
}

#[test]
fn a_staged_link_leads_to_what_stays() {
    let place = Place::new();
    let go = AtomicBool::new(false);
    let names = ["real", "absolute", "relative"];
    fs::create_dir(place.path("home")).unwrap();
    fs::write(place.path("real"), "content").unwrap();
    std::os::unix::fs::symlink(place.path("real"), place.path("absolute")).unwrap();
    std::os::unix::fs::symlink("real", place.path("relative")).unwrap();
    let outputs = names.map(|name| (place.path(name), place.path("home").join(name)));
    place.store().stage_out(&outputs, &go).unwrap();
    for name in names {
        fs::remove_file(place.path(name)).unwrap();
    }
    for name in names {
        assert_eq!(fs::read_to_string(place.path("home").join(name)).unwrap(), "content", "{name}");
    }
    assert!(fs::read_link(place.path("home/relative")).is_ok());
}

#[test]
fn files_are_staged_past_a_store_that_takes_nothing() {
    let place = Place::new();
    let go = AtomicBool::new(false);
    let node = place.dir.path().join("node");
    fs::create_dir(&node).unwrap();
    let store = place.store();
    // A file stands where directories must be made.
    fs::write(node.join("tmp"), "in the way").unwrap();
    fs::create_dir(place.path("made")).unwrap();
    fs::write(place.path("made/x"), "content").unwrap();
    assert_eq!(store.stage_out(&[(place.path("made"), place.path("home/made"))], &go).unwrap().bytes, 7);
    assert_eq!(fs::read_to_string(place.path("home/made/x")).unwrap(), "content");
    let staged = store.stage_in(&place.path("home/made"), &place.path("in"), &go).unwrap();
    assert_eq!(staged, Staged { bytes: 7, read: 7 });
    assert_eq!(fs::read_to_string(place.path("in/x")).unwrap(), "content");
}

#[test]
fn contents_that_no_result_names_go_when_they_are_the_oldest() {
    let place = Place::new();
    let store = place.store();
    let node = place.dir.path().join("node");
    let disk = Disk::open(&node, false).unwrap();
    for (task, age) in [("old", 300), ("new", 100)] {
        let key = place.put(&store, task, &[b'r'; 5000]);
        let (digest, _) = disk.store_object(&mut &task.repeat(2000).into_bytes()[..], 0o644).unwrap();
        let used = SystemTime::now() - Duration::from_secs(age);
        for (kind, name) in [(Kind::Result, key), (Kind::Object, digest)] {
            fs::File::open(disk.path(kind, &name)).unwrap().set_modified(used).unwrap();
        }
    }
    let has = |task: &str| disk.has(Kind::Object, &Digest::of(task.repeat(2000).as_bytes()), None);
    let limits = |size| Limits { size: Some(size), keeps_unnamed: true, ..Limits::default() };
    evict::evict(&disk, &limits(1 << 20), SystemTime::now()).unwrap();
    assert!(has("old") && has("new"), "nothing goes while there is room");
    let left = evict::evict(&disk, &limits(1 << 20), SystemTime::now()).unwrap().left;
    evict::evict(&disk, &limits(left - 1), SystemTime::now()).unwrap();
    assert!(!has("old") && has("new"));
    evict::evict(&disk, &Limits::default(), SystemTime::now()).unwrap();
    assert!(!has("new"), "who tidies up wants none of them");
}

#[test]
fn many_threads_and_stores_share_a_directory() {
    let place = Place::new();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let place = &place;
            scope.spawn(move || {
                let store = Store::open(&StoreConfig { size: 200_000, ..place.config(true) });
                for round in 0..30u8 {
                    let task = format!("out{}", round % 5);
                    let result = result(&task);
                    let key = result.components.key();
                    let own = place.path(&format!("{task}-{thread}"));
                    let to = |_: &OutputName| own.clone();
                    let content = vec![round % 5; 20_000];
                    match store.take(&key, "class", &to, &AtomicBool::new(false)) {
                        Ok(_) => assert_eq!(fs::read(&own).unwrap(), content),
                        Err(_) => {
                            fs::write(&own, &content).unwrap();
                            store.put(result, &[(OutputName::Declared(task.into()), own.clone())]).unwrap();
                        }
                    }
                }
            });
        }
    });
    for level in ["node", "shared"] {
        let verified = StoreDir::open(&place.dir.path().join(level), true).unwrap().verify();
        assert!(verified.damaged_objects.is_empty(), "{verified:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is done to the files of a store, a result is right or a miss.
    #[test]
    fn no_damage_yields_a_wrong_result(
        damages in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<prop::sample::Index>()), 1..6)
    ) {
        let place = Place::new();
        let store = place.store();
        let contents: Vec<Vec<u8>> = (0..4u8).map(|n| vec![n; 50 + usize::from(n)]).collect();
        let keys: Vec<Digest> =
            contents.iter().enumerate().map(|(n, content)| place.put(&store, &format!("o{n}"), content)).collect();
        let node = place.dir.path().join("node");
        for (which, how, at) in damages {
            let all: Vec<PathBuf> = ["objects", "results", "latest"].iter().flat_map(|kind| files(&node, kind)).collect();
            if all.is_empty() { break; }
            let file = &all[which.index(all.len())];
            let mut bytes = fs::read(file).unwrap();
            match how {
                0 => { fs::remove_file(file).unwrap(); continue; }
                1 => bytes.truncate(at.index(bytes.len() + 1)),
                2 if !bytes.is_empty() => { let at = at.index(bytes.len()); bytes[at] ^= 0x10; }
                _ => { let other = &all[at.index(all.len())]; bytes = fs::read(other).unwrap_or_default(); }
            }
            rewrite(file, &bytes);
        }
        for (n, key) in keys.iter().enumerate() {
            let path = place.path(&format!("o{n}"));
            fs::remove_file(&path).unwrap();
            match place.take(&place.store(), key) {
                Ok(_) => prop_assert_eq!(&fs::read(&path).unwrap(), &contents[n]),
                Err(_) => prop_assert!(!path.exists()),
            }
        }
    }
}
