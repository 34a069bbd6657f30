//! One log for all channels, cut and overwritten. A torn tail may take the last commits of several channels; what is left is what
//! all of them were at one moment, or the store says that it is corrupt.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use causeway_storage::error::Result;
use causeway_storage::{BACKENDS, Backend, ChangeStore, Durability, StoreOptions};

use super::history::{COMMITS, State, commit, go_on};

/// Bytes at the start of the log whose damage is not looked for: sled does not look at the head of its log's first segment again
/// once there is a snapshot, and loses later commits if it is damaged then.
const LOG_HEAD: usize = 20;
const CHANNELS: [&str; 2] = ["one", "two"];

fn backends() -> impl Iterator<Item = &'static Backend> {
    BACKENDS.iter().filter(|backend| backend.log.is_some())
}

fn open(backend: &Backend, dir: &Path) -> Result<Arc<dyn ChangeStore>> {
    (backend.open)(&StoreOptions { durability: Durability::Normal, ..StoreOptions::new(dir) })
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

/// What all channels were at a moment; a channel that is not there yet is none.
type Moment = Vec<Option<State>>;

/// Every moment of a store, and its directory, copied while it was open.
struct Torn {
    backend: &'static Backend,
    moments: Vec<Moment>,
    copied: tempfile::TempDir,
}

fn moment(store: &dyn ChangeStore) -> Result<Moment> {
    let there = store.channels()?;
    let read = |channel: &&str| {
        there.names.iter().any(|name| name == channel).then(|| State::read(store, channel)).transpose()
    };
    CHANNELS.iter().map(read).collect()
}

impl Torn {
    fn new(backend: &'static Backend, reopen_at: Option<u64>) -> Self {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let mut store = open(backend, dir.path()).expect("opened");
        let mut moments = vec![moment(&*store).expect("read")];
        for number in 0..COMMITS {
            if reopen_at == Some(number) {
                store.close().expect("closed");
                drop(store);
                store = open(backend, dir.path()).expect("opened");
            }
            for channel in CHANNELS {
                let mut writer = store.open(channel).expect("opened");
                if number == 0 {
                    moments.push(moment(&*store).expect("read"));
                }
                commit(&mut *writer, number);
                moments.push(moment(&*store).expect("read"));
            }
        }
        let copied = tempfile::tempdir().expect("a directory to test in");
        copy(dir.path(), copied.path()).expect("copied");
        let torn = Torn { backend, moments, copied };
        // Zeros at its end are room that was made ahead, and may be much.
        let mut log = torn.log();
        log.truncate(log.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        fs::write(torn.log_in(torn.copied.path()), log).expect("written");
        torn
    }

    fn log_in(&self, dir: &Path) -> PathBuf {
        dir.join(self.backend.log.expect("it has a log"))
    }

    fn log(&self) -> Vec<u8> {
        fs::read(self.log_in(self.copied.path())).expect("it has a log")
    }

    /// Opens the store with such a log in place of its own; gives the moment that it is at, or `None` if it says that
    /// it is corrupt. It must go on from there.
    fn open_with(&self, what: &str, bytes: &[u8]) -> Option<usize> {
        let what = format!("{}, {what}", self.backend.name);
        let dir = tempfile::tempdir().expect("a directory to test in");
        copy(self.copied.path(), dir.path()).expect("copied");
        fs::write(self.log_in(dir.path()), bytes).expect("written");
        let opened = open(self.backend, dir.path()).and_then(|store| Ok((moment(&*store)?, store)));
        let (found, store) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                assert!(e.to_string().contains("corrupt"), "{what}: {e}");
                return None;
            }
        };
        let at = self.moments.iter().position(|moment| *moment == found);
        let heads: Vec<_> = found.iter().map(|state| state.as_ref().map(|state| state.head)).collect();
        let at = at.unwrap_or_else(|| panic!("{what}: the store was never so: {heads:?}"));
        let versions = found.iter().map(|state| state.as_ref().map_or(0, |state| state.head.version));
        let versions: Vec<u64> = versions.collect();
        for (channel, version) in CHANNELS.iter().zip(&versions) {
            go_on(&*store, channel, *version).unwrap_or_else(|e| panic!("{what}, going on: {e}"));
        }
        let after = moment(&*store).expect("read");
        drop(store);
        let store = open(self.backend, dir.path()).unwrap_or_else(|e| panic!("{what}, opened again: {e}"));
        assert!(moment(&*store).expect("read") == after, "{what}: what was committed then is there");
        for (state, version) in after.iter().zip(&versions) {
            assert_eq!(state.as_ref().map(|state| state.head.version), Some(version + 1), "{what}");
        }
        Some(at)
    }

    /// The moment that the log comes back at, cut at that place.
    fn cut(&self, at: usize) -> Option<usize> {
        let log = self.log();
        self.open_with(&format!("cut at {at} of {}", log.len()), &log[..at])
    }

    /// The shortest log that comes back at this moment or a later one, between two lengths.
    fn shortest(&self, moment: usize, mut short: usize, mut long: usize) -> usize {
        while short + 1 < long {
            let middle = short.midpoint(long);
            match self.cut(middle) >= Some(moment) {
                true => long = middle,
                false => short = middle,
            }
        }
        long
    }
}

/// A number of places in a range, its ends among them.
fn places(from: usize, to: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..=count).map(move |n| from + (to - from) * n / count)
}

#[test]
fn a_log_cut_anywhere_leaves_one_moment_of_all_channels() {
    for backend in backends() {
        let torn = Torn::new(backend, None);
        let len = torn.log().len();
        let found: Vec<usize> =
            places(0, len, 60).map(|at| torn.cut(at).expect("nothing but the log knows of it")).collect();
        assert!(found.is_sorted(), "{}: a longer log never leaves less: {found:?}", backend.name);
        assert_eq!((found[0], found[60]), (0, torn.moments.len() - 1), "{}", backend.name);
        assert!(found.iter().collect::<BTreeSet<_>>().len() > 5, "{}: {found:?}", backend.name);
    }
    let names: Vec<_> = backends().map(|backend| backend.name).collect();
    crate::guarantees::row(crate::guarantees::Row {
        number: 62,
        fault: &format!(
            "The end of the log is missing that all channels of a store share ({})",
            names.join(", ")
        ),
        sender: "as above",
        others: "all channels are as they were at one earlier moment, and go on from there; or the store is refused when it opens: sled's, if the log was cut before its last snapshot",
        lost: "what the disk lost, of all channels; nothing before it",
        command: "cargo test -p causeway-storage --test torn shared_log",
    });
}

#[test]
fn the_last_commit_is_there_whole_or_not_at_all() {
    for backend in backends() {
        let torn = Torn::new(backend, None);
        let last = torn.moments.len() - 1;
        let whole = torn.shortest(last, 0, torn.log().len());
        let before = torn.shortest(last - 1, 0, whole);
        assert!(before + 1 < whole, "{}: {before} {whole}", backend.name);
        for at in places(before, whole - 1, 80) {
            assert_eq!(torn.cut(at), Some(last - 1), "cut at {at}, the last commit is {before} to {whole}");
        }
        assert_eq!(torn.cut(whole), Some(last));
    }
}

/// What was read from the log when the store was opened is there, or the store is refused.
#[test]
fn a_log_cut_after_the_store_was_opened_again_leaves_one_moment() {
    for backend in backends() {
        let torn = Torn::new(backend, Some(4));
        let found: Vec<_> = places(0, torn.log().len(), 60).map(|at| torn.cut(at)).collect();
        assert!(found.is_sorted(), "{}: {found:?}", backend.name);
        assert_eq!(found[60], Some(torn.moments.len() - 1), "{}", backend.name);
        // sled's snapshot says what the log held when it was opened last: a log that was cut before is said to be corrupt.
        if backend.name == "sled" {
            let opened_again = torn.moments.len() - 1 - 3 * CHANNELS.len();
            assert!(found[0].is_none(), "{found:?}");
            assert!(found.iter().flatten().all(|at| *at >= opened_again), "{opened_again} {found:?}");
        }
    }
}

#[test]
fn zeros_and_flipped_bits_never_leave_a_mixture() {
    for (backend, reopen_at) in backends().flat_map(|backend| [None, Some(4)].map(|at| (backend, at))) {
        let torn = Torn::new(backend, reopen_at);
        let log = torn.log();
        for (n, at) in places(LOG_HEAD, log.len() - 1, 40).enumerate() {
            let mut bytes = log.clone();
            bytes[at] ^= 1 << (n % 8);
            torn.open_with(&format!("bit {} of byte {at}", n % 8), &bytes);
            bytes[at..].fill(0);
            torn.open_with(&format!("zeros from {at}"), &bytes);
        }
    }
}
