//! The store by itself: kept, bounded, and clear about what is wrong with it.

use std::fs;

use vswitch_api::config;

use super::*;

fn open(dir: &Path) -> Store {
    Store::open(dir).unwrap()
}

/// Commits bridges of these names, made by the API.
fn bridges(store: &mut Store, names: &[&str]) -> Vec<Delta> {
    let mut toml = "version = 1\n".to_owned();
    for name in names {
        toml += &format!("[[bridge]]\nname = \"{name}\"\n");
    }
    let specs = specs(&config::from_toml(&toml).unwrap());
    let objects = edited(store.objects(), &specs, store.revision() + 1);
    let what = names.join(" ");
    let commit = Commit { origin: Origin::Api, what, objects, file: None, pending: None };
    store.commit(commit).unwrap()
}

#[test]
fn what_was_committed_is_there_when_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    assert_eq!(bridges(&mut store, &["a", "b"]).len(), 2);
    assert_eq!(bridges(&mut store, &["b"]).len(), 1);
    assert_eq!(bridges(&mut store, &["b"]).len(), 0);
    let (objects, revision) = (store.objects().clone(), store.revision());
    assert_eq!(revision, 2, "no change, no revision");
    drop(store);
    let store = open(dir.path());
    assert_eq!((store.objects(), store.revision()), (&objects, 2));
}

#[test]
fn history_is_bounded_and_every_kept_state_can_be_had() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let last = HISTORY as u64 + 20;
    for n in 1..=last {
        bridges(&mut store, &[&format!("br{n}")]);
    }
    let history = store.history().unwrap();
    assert_eq!(history.len(), HISTORY);
    assert_eq!((history[0].0, history[HISTORY - 1].0), (last, 21));
    for revision in [last, last - 1, 50, 21, 20] {
        let objects = store.at(revision).unwrap().unwrap();
        let names: Vec<_> = objects.keys().map(|id| id.name.clone()).collect();
        assert_eq!(names, [format!("br{revision}")]);
    }
    assert!(store.at(19).unwrap().is_none(), "forgotten");
    assert!(store.at(last + 1).unwrap().is_none(), "not there yet");
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse { .. })));
}

#[test]
fn a_damaged_store_is_an_error_that_says_what_to_do_wherever_the_damage_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    for n in 0..50 {
        bridges(&mut store, &[&format!("br{n}"), "keep"]);
    }
    let whole = store.objects().clone();
    drop(store);
    let path = dir.path().join("desired.redb");
    let good = fs::read(&path).unwrap();
    let check = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        match Store::open(dir.path()) {
            // Damage in pages that nothing refers to is no damage.
            Ok(store) => assert_eq!(store.objects(), &whole, "{what}"),
            Err(error) => {
                assert!(matches!(error, StoreError::Damaged { .. }), "{what}: {error}");
                assert!(error.hint().contains("mv "), "{what}");
            }
        }
    };
    check(b"this is no store", "text");
    check(&vec![0; 10_000], "zeroes");
    check(&good[..good.len() / 2], "half");
    check(&good[..100], "the start");
    for at in (0..good.len()).step_by(good.len() / 97) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        check(&bad, &format!("a bit at {at}"));
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(open(dir.path()).objects(), &whole);
}

#[test]
fn a_place_that_cannot_be_used_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(Store::open(&file.join("state")), Err(StoreError::Io { .. })));
    fs::create_dir(dir.path().join("desired.redb")).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(StoreError::Io { .. })));
}

const BR0: &[u8] = b"version = 1\n[[bridge]]\nname = \"br0\"\n";
const BR1: &[u8] = b"version = 1\n[[bridge]]\nname = \"br1\"\n";

fn names(store: &Store) -> Vec<String> {
    store.objects().iter().map(|(id, o)| format!("{} {}", id.name, o.origin.name())).collect()
}

#[test]
fn file_and_store_in_all_orders() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    // First start: the file is all there is.
    assert_eq!(load(&mut store, BR0, false).unwrap().1, Loaded::Replaced(1));
    // The file as it was: the store is used, also for what was changed meanwhile.
    let mine = edited(store.objects(), &Specs::new(), 2);
    let commit = Commit {
        origin: Origin::Api,
        what: String::new(),
        objects: mine,
        file: None,
        pending: None,
    };
    store.commit(commit).unwrap();
    assert_eq!(load(&mut store, BR0, false).unwrap().1, Loaded::Unchanged);
    assert!(names(&store).is_empty());
    // Another file, beside what the API has made.
    bridges(&mut store, &["api"]);
    assert_eq!(load(&mut store, BR1, false).unwrap().1, Loaded::Replaced(1));
    assert_eq!(names(&store), ["api api", "br1 file"]);
    // An invalid one changes nothing, and is tried again at the next start.
    assert!(matches!(load(&mut store, b"nonsense", false), Err(LoadError::File(_))));
    assert_eq!(names(&store), ["api api", "br1 file"]);
    // A collision: an error until it is settled.
    let collides = b"version = 1\n[[bridge]]\nname = \"api\"\nageing = \"20s\"\n";
    for _ in 0..2 {
        let error = load(&mut store, collides, false).unwrap_err();
        assert!(matches!(error, LoadError::Misfit(Misfit::Collision(_))), "{error}");
        assert!(error.to_string().contains("bridge api"), "{error}");
    }
    assert_eq!(load(&mut store, collides, true).unwrap().1, Loaded::Replaced(2));
    assert_eq!(names(&store), ["api file"]);
    // Settled for good: the same file starts without help.
    assert_eq!(load(&mut store, collides, false).unwrap().1, Loaded::Unchanged);
    // An empty file takes everything of its own away.
    assert_eq!(load(&mut store, b"version = 1\n", false).unwrap().1, Loaded::Replaced(1));
    assert!(names(&store).is_empty());
}
