//! sled: one log for all channels, cut and overwritten. A torn tail may take the last commits of several channels, as they
//! stand in one log; what is left is what all of them were at one moment, or the database says that it is corrupt.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use causeway_storage::error::Result;
use causeway_storage::{ChangeStore, Durability, StoreOptions, sled};

use super::history::{COMMITS, State, commit, go_on};

/// Bytes at the start of the log that hold no message.
const SEGMENT_HEAD: usize = 20;
const CHANNELS: [&str; 2] = ["one", "two"];

fn open(dir: &Path) -> Result<Arc<dyn ChangeStore>> {
    (sled::BACKEND.open)(&StoreOptions { durability: Durability::Normal, ..StoreOptions::new(dir) })
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
    fn new(reopen_at: Option<u64>) -> Self {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let mut store = open(dir.path()).expect("opened");
        let mut moments = vec![moment(&*store).expect("read")];
        for number in 0..COMMITS {
            if reopen_at == Some(number) {
                store.close().expect("closed");
                drop(store);
                store = open(dir.path()).expect("opened");
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
        Torn { moments, copied }
    }

    fn log(&self) -> Vec<u8> {
        fs::read(self.copied.path().join("sled/db")).expect("it has a log")
    }

    /// Opens the store with such a file in place of its own; gives the moment that it is at, or `None` if it says that
    /// it is corrupt. It must go on from there.
    fn open_with(&self, what: &str, file: &str, bytes: &[u8]) -> Option<usize> {
        let dir = tempfile::tempdir().expect("a directory to test in");
        copy(self.copied.path(), dir.path()).expect("copied");
        fs::write(dir.path().join("sled").join(file), bytes).expect("written");
        let opened = open(dir.path()).and_then(|store| Ok((moment(&*store)?, store)));
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
        let store = open(dir.path()).unwrap_or_else(|e| panic!("{what}, opened again: {e}"));
        assert!(moment(&*store).expect("read") == after, "{what}: what was committed then is there");
        for (state, version) in after.iter().zip(&versions) {
            assert_eq!(state.as_ref().map(|state| state.head.version), Some(version + 1), "{what}");
        }
        Some(at)
    }

    /// The moment that the log comes back at, cut at that place.
    fn cut(&self, at: usize) -> Option<usize> {
        let log = self.log();
        self.open_with(&format!("cut at {at} of {}", log.len()), "db", &log[..at])
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
    let torn = Torn::new(None);
    let len = torn.log().len();
    let found: Vec<usize> =
        places(0, len, 60).map(|at| torn.cut(at).expect("no snapshot needs what was cut")).collect();
    assert!(found.is_sorted(), "a longer log never leaves less: {found:?}");
    assert_eq!((found[0], found[60]), (0, torn.moments.len() - 1));
    assert!(found.iter().collect::<std::collections::BTreeSet<_>>().len() > 5, "{found:?}");
    crate::guarantees::row(crate::guarantees::Row {
        number: 62,
        fault: "The end of sled's log is missing",
        sender: "as above",
        others: "all channels are as they were at one earlier moment, and go on from there; a log cut before sled's last snapshot is refused when the store opens",
        lost: "what the disk lost, of all channels; nothing before it",
        command: "cargo test -p causeway-storage --test torn sled",
    });
}

#[test]
fn the_last_commit_is_there_whole_or_not_at_all() {
    let torn = Torn::new(None);
    let last = torn.moments.len() - 1;
    let whole = torn.shortest(last, 0, torn.log().len());
    let before = torn.shortest(last - 1, 0, whole);
    assert!(before + 1 < whole, "{before} {whole}");
    for at in places(before, whole - 1, 80) {
        assert_eq!(torn.cut(at), Some(last - 1), "cut at {at}, the last commit is {before} to {whole}");
    }
    assert_eq!(torn.cut(whole), Some(last));
}

/// A snapshot says what the log held when the store was opened last. A log cut before that is said to be corrupt.
#[test]
fn a_log_cut_before_its_snapshot_is_refused() {
    let torn = Torn::new(Some(4));
    let opened_again = torn.moments.len() - 1 - 3 * CHANNELS.len();
    let found: Vec<_> = places(0, torn.log().len(), 60).map(|at| torn.cut(at)).collect();
    assert!(found.is_sorted() && found[0].is_none(), "{found:?}");
    assert!(found.iter().flatten().all(|at| *at >= opened_again), "{opened_again} {found:?}");
    assert_eq!(found[60], Some(torn.moments.len() - 1));
}

#[test]
fn zeros_and_flipped_bits_never_leave_a_mixture() {
    for reopen_at in [None, Some(4)] {
        let torn = Torn::new(reopen_at);
        let log = torn.log();
        // Not the head of the log's first segment: sled does not look at it again once there is a snapshot, and loses
        // later commits if it is damaged then.
        for (n, at) in places(SEGMENT_HEAD, log.len() - 1, 40).enumerate() {
            let mut bytes = log.clone();
            bytes[at] ^= 1 << (n % 8);
            torn.open_with(&format!("bit {} of byte {at}", n % 8), "db", &bytes);
            bytes[at..].fill(0);
            torn.open_with(&format!("zeros from {at}"), "db", &bytes);
        }
    }
}
