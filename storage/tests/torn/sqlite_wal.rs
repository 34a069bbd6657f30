//! SQLite: the write-ahead log cut, overwritten and flipped. SQLite's frames carry sums, so here each damage has one
//! right answer: the last commit that ends before it.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use causeway_storage::conformance::read_all;
use causeway_storage::{ChangeStore, Durability, StoreOptions, sqlite};

use super::history::{COMMITS, State, commit, go_on};

const CHANNEL: &str = "torn";
const OTHER: &str = "whole";

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const FRAME: usize = FRAME_HEADER + 4096;

fn open(dir: &Path) -> Arc<dyn ChangeStore> {
    (sqlite::BACKEND.open)(&StoreOptions { durability: Durability::Off, ..StoreOptions::new(dir) })
        .expect("opened")
}

fn file(dir: &Path, channel: &str, ending: &str) -> PathBuf {
    dir.join(format!("{channel}.db{ending}"))
}

/// A channel's files, copied while it was open, and all that it was.
struct Torn {
    db: Vec<u8>,
    wal: Vec<u8>,
    /// The length of the log after each commit; first that of the channel's making.
    ends: Vec<usize>,
    /// What each commit left; first the new channel.
    states: Vec<State>,
    dir: tempfile::TempDir,
    /// In this directory.
    store: Arc<dyn ChangeStore>,
    /// The other channel there, which nothing may touch.
    other: State,
}

impl Torn {
    fn new(commits: Range<u64>) -> Self {
        let made = tempfile::tempdir().expect("a directory to test in");
        let store = open(made.path());
        let mut channel = store.open(CHANNEL).expect("opened");
        let read = || fs::read(file(made.path(), CHANNEL, "-wal")).expect("it has a log");
        let (mut ends, mut states) = (vec![read().len()], vec![State::read(&*store, CHANNEL).expect("read")]);
        for number in commits {
            commit(&mut *channel, number);
            ends.push(read().len());
            states.push(State::read(&*store, CHANNEL).expect("read"));
        }
        assert!(ends.is_sorted_by(|a, b| a < b), "the log only grows: {ends:?}");
        let wal = read();
        let db = fs::read(file(made.path(), CHANNEL, "")).expect("it has a file");

        let dir = tempfile::tempdir().expect("a directory to test in");
        let store = open(dir.path());
        let mut whole = store.open(OTHER).expect("opened");
        (0..3).for_each(|number| commit(&mut *whole, number));
        drop(whole);
        let other = State::read(&*store, OTHER).expect("read");
        Torn { db, wal, ends, states, dir, store, other }
    }

    /// The commits that end before the first byte that is not as it was; `None` if not even the making does.
    fn left(&self, wal: &[u8]) -> Option<usize> {
        let same = self.wal.iter().zip(wal).take_while(|(a, b)| a == b).count();
        self.ends.iter().rposition(|end| *end <= same)
    }

    fn put(&self, wal: &[u8], shm: Option<&[u8]>) {
        let path = |ending| file(self.dir.path(), CHANNEL, ending);
        fs::write(path(""), &self.db).expect("written");
        fs::write(path("-wal"), wal).expect("written");
        let _ = fs::remove_file(path("-shm"));
        if let Some(shm) = shm {
            fs::write(path("-shm"), shm).expect("written");
        }
    }

    /// Opens the channel with such a log: it must be what the commits before the damage left, and go on from there, and
    /// the other channel does not notice.
    fn check(&self, what: &str, wal: &[u8], shm: Option<&[u8]>) {
        self.put(wal, shm);
        let there = self.store.channels().expect("listed").names.iter().any(|name| name == CHANNEL);
        assert_eq!(there, self.left(wal).is_some(), "{what}: whether there is such a channel");
        self.put(wal, shm);
        let found = State::read(&*self.store, CHANNEL).unwrap_or_else(|e| panic!("{what}: {e}"));
        // A log that lost the channel's making leaves nothing: then it is made anew.
        let left = self.left(wal).unwrap_or(0);
        assert!(found == self.states[left], "{what}: not as after commit {left}, but {:?}", found.head);
        go_on(&*self.store, CHANNEL, left as u64).unwrap_or_else(|e| panic!("{what}, going on: {e}"));
        let after =
            State::read(&*self.store, CHANNEL).unwrap_or_else(|e| panic!("{what}, opened again: {e}"));
        assert_eq!(after.head.version, left as u64 + 1, "{what}");
        assert!(self.other == State::read(&*self.store, OTHER).expect("read"), "{what}: the other channel");
    }

    /// Every place in a frame where a cut could matter, for every frame, and around the log's header.
    fn places(&self) -> Vec<usize> {
        let in_frame = [0, 1, 4, 8, 16, 23, 24, 25, 124, 2_072, FRAME - 512, FRAME - 1];
        let frames = (HEADER..self.wal.len()).step_by(FRAME);
        let in_frames = frames.flat_map(|frame| in_frame.map(|at| frame + at));
        (0..HEADER).chain(in_frames).chain([self.wal.len()]).collect()
    }

    fn with_tail(&self, at: usize, tail: impl Fn(u8) -> u8) -> Vec<u8> {
        let mut wal = self.wal.clone();
        wal[at..].iter_mut().for_each(|byte| *byte = tail(*byte));
        wal
    }
}

#[test]
fn a_log_cut_anywhere_leaves_the_commits_before_the_cut() {
    let torn = Torn::new(0..COMMITS);
    for end in &torn.ends {
        assert!(torn.places().contains(end), "a commit ends where a frame does");
    }
    for at in torn.places() {
        torn.check(&format!("cut at {at} of {:?}", torn.ends), &torn.wal[..at], None);
    }
    crate::guarantees::row(crate::guarantees::Row {
        number: 61,
        fault: "The end of a channel's SQLite log is missing: cut at any offset, zeros, rubbish, a flipped bit",
        sender: "what was acked in the commits that are gone is gone: an ack holds as far as the disk keeps what it has confirmed",
        others: "the channel is as it was after the last commit that is whole, never a mixture, and goes on from there; others are whole",
        lost: "what the disk lost, nothing before it",
        command: "cargo test -p causeway-storage --test torn sqlite",
    });
}

#[test]
fn a_tail_of_zeros_or_of_an_older_log_leaves_the_commits_before_it() {
    let torn = Torn::new(0..COMMITS);
    for at in torn.places().into_iter().step_by(3) {
        torn.check(&format!("zeros from {at}"), &torn.with_tail(at, |_| 0), None);
        torn.check(&format!("rubbish from {at}"), &torn.with_tail(at, |byte| byte ^ 0xa5), None);
    }
}

#[test]
fn a_flipped_bit_takes_its_commit_and_all_after_it() {
    let torn = Torn::new(0..COMMITS);
    let last_frame = torn.wal.len() - FRAME;
    let in_last = (last_frame..last_frame + FRAME_HEADER).chain((last_frame..torn.wal.len()).step_by(97));
    let places = in_last.chain((HEADER..last_frame).step_by(4_999));
    for (n, at) in places.enumerate() {
        let mut wal = torn.wal.clone();
        wal[at] ^= 1 << (n % 8);
        torn.check(&format!("bit {} of byte {at}", n % 8), &wal, None);
    }
}

#[test]
fn the_index_beside_the_log_is_made_anew() {
    let torn = Torn::new(0..COMMITS);
    for shm in [&b""[..], b"x", &[0; 32_768], &[0xff; 32_768], &[0x5a; 40_000]] {
        torn.check("a foreign index", &torn.wal, Some(shm));
        torn.check("a foreign index, and a cut", &torn.wal[..torn.wal.len() - 1], Some(shm));
    }
}

/// The last commit of a small channel: its last frame byte by byte, and the frames before it in steps. Read only, as
/// that is cheap; how it goes on is the others' part.
#[test]
fn every_offset_of_the_last_frame() {
    let torn = Torn::new(COMMITS - 1..COMMITS);
    let [.., before, end] = torn.ends[..] else { panic!("{:?}", torn.ends) };
    for at in (before..end - FRAME).step_by(37).chain(end - FRAME..=end) {
        torn.put(&torn.wal[..at], None);
        let mut reader = torn.store.reader(CHANNEL).expect("opened");
        let left = &torn.states[torn.left(&torn.wal[..at]).expect("the channel was made")];
        assert_eq!(reader.head().expect("read"), left.head, "cut at {at} of {end}");
        assert!(read_all(&mut *reader).0 == left.cells, "cut at {at} of {end}");
    }
}
