//! fjall's journals, before fjall reads them. It takes what a power cut leaves of the last batch for the end of the journal in most
//! cases, but not in all: of a value that is zeros in its middle it says that the database is corrupt. And where a journal is damaged that
//! another follows, it goes on with that one, as if what was lost between had never been.
//!
//! | entry | bytes |
//! | --- | --- |
//! | start of a batch | 1, number of items (4), sequence number (8) |
//! | item | 2, kind (1), compression (1), keyspace (8), length of the key (2), of the value (4), as it stands here (4), key, value |
//! | keyspace emptied, an item too | 4, keyspace (8) |
//! | end of a batch | 3, xxh3 of all items' bytes (8), `FJL`, 3 |
//!
//! Numbers are little-endian. Batches follow one another; behind the last there may be zeros.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use crate::kv::Failure;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: &[u8] = b"FJL\x03";
/// How much is read at once.
const BUFFER_BYTES: usize = 256 << 10;
/// No sequence number comes near.
const SEQUENCE_END: u64 = 1 << 62;

/// Cuts the last journal behind its last whole batch. [`Failure::Corrupt`] if another one is damaged.
pub(super) fn repair(path: &Path) -> Result<(), Failure> {
    let mut journals = journals(path)?;
    let Some((_, last)) = journals.pop() else { return Ok(()) };
    for (_, path) in journals {
        let end = end_of_batches(&path)?;
        if !is_zeros(&path, end)? {
            return Err(Failure::Corrupt(format!("{} is damaged at byte {end}", path.display())));
        }
    }
    let end = end_of_batches(&last)?;
    let file = File::options().write(true).open(&last)?;
    if file.metadata()?.len() > end {
        file.set_len(end)?;
        file.sync_all()?;
    }
    Ok(())
}

/// The journal that fjall writes to, to be synced beside it.
pub(super) struct Journal {
    dir: PathBuf,
    last: Mutex<(u64, Arc<File>)>,
}

impl Journal {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        Ok(Journal { dir: dir.into(), last: Mutex::new(open_last(dir)?) })
    }

    /// Makes what fjall has handed to the system survive a power cut.
    pub(super) fn sync(&self) -> io::Result<()> {
        let last = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            // fjall syncs a journal before it begins the next, and removes the oldest first: so this is still the last if the next
            // is not there and this one is.
            let path = |number| self.dir.join(format!("{number}.jnl"));
            if path(last.0 + 1).try_exists()? || !path(last.0).try_exists()? {
                *last = open_last(&self.dir)?;
            }
            Arc::clone(&last.1)
        };
        last.sync_data()
    }
}

fn open_last(dir: &Path) -> io::Result<(u64, Arc<File>)> {
    let (number, path) = journals(dir)?.pop().ok_or(io::ErrorKind::NotFound)?;
    Ok((number, Arc::new(File::open(path)?)))
}

/// Whether this process has a journal open. A thread of fjall's may let go of it a little after the database was closed, and would
/// write to it in doing so.
pub(super) fn is_open(path: &Path) -> io::Result<bool> {
    if !cfg!(target_os = "linux") {
        return Ok(false);
    }
    let path = path.canonicalize()?;
    let open = fs::read_dir("/proc/self/fd")?.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    Ok(open.into_iter().any(|file| file.starts_with(&path) && is_journal(&file)))
}

fn is_journal(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "jnl")
}

/// The journals, oldest first.
fn journals(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(number) = number.filter(|_| is_journal(&path)) {
            journals.push((number, path));
        }
    }
    journals.sort_unstable();
    Ok(journals)
}

/// Where the last whole batch ends.
fn end_of_batches(path: &Path) -> io::Result<u64> {
    let mut reader = Reader::open(path, 0)?;
    let mut end = 0;
    let mut last = None;
    while let Some(sequence) = reader.batch()? {
        if sequence >= SEQUENCE_END || last.is_some_and(|last| sequence <= last) {
            break;
        }
        last = Some(sequence);
        end = reader.at;
    }
    Ok(end)
}

/// Whether there is nothing but zeros from that byte on.
fn is_zeros(path: &Path, from: u64) -> io::Result<bool> {
    let mut reader = Reader::open(path, from)?;
    while reader.at < reader.len {
        let piece = (reader.len - reader.at).min(BUFFER_BYTES as u64) as usize;
        if reader.take(piece)?.is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0)) {
            return Ok(false);
        }
    }
    Ok(true)
}

struct Reader {
    file: BufReader<File>,
    /// How much was taken.
    at: u64,
    len: u64,
    bytes: Vec<u8>,
}

impl Reader {
    fn open(path: &Path, at: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(at))?;
        Ok(Reader { file: BufReader::with_capacity(BUFFER_BYTES, file), at, len, bytes: Vec::new() })
    }

    /// The next bytes; `None` if there are not as many.
    fn take(&mut self, len: usize) -> io::Result<Option<&[u8]>> {
        if self.len - self.at < len as u64 {
            return Ok(None);
        }
        self.bytes.resize(len, 0);
        self.file.read_exact(&mut self.bytes)?;
        self.at += len as u64;
        Ok(Some(&self.bytes))
    }

    /// Reads a batch; gives its sequence number, or `None` if it is not whole.
    fn batch(&mut self) -> io::Result<Option<u64>> {
        let Some([START, start @ ..]) = self.take(13)? else { return Ok(None) };
        let items = number(&start[..4]);
        let sequence = number(&start[4..]);
        let mut sum = Xxh3::new();
        for _ in 0..items {
            let rest = match self.take(1)? {
                Some([ITEM]) => {
                    sum.update(&[ITEM]);
                    let Some(head) = self.take(20)? else { return Ok(None) };
                    sum.update(head);
                    number(&head[10..12]) + number(&head[16..])
                }
                Some([CLEAR]) => {
                    sum.update(&[CLEAR]);
                    8
                }
                _ => return Ok(None),
            };
            let Some(rest) = self.take(rest as usize)? else { return Ok(None) };
            sum.update(rest);
        }
        let Some([END, end @ ..]) = self.take(13)? else { return Ok(None) };
        Ok((number(&end[..8]) == sum.digest() && &end[8..] == MAGIC).then_some(sequence))
    }
}

/// Up to eight bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::super::Fjall;
    use super::*;
    use crate::backend::StoreOptions;
    use crate::kv::Engine;

    const VALUE_BYTES: usize = 20_000;

    /// A value that lz4 cannot make smaller.
    fn value(key: u8) -> Vec<u8> {
        let mut state = u64::from(key) + 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..VALUE_BYTES).map(|_| next()).collect()
    }

    fn open(path: &Path) -> Result<Fjall, Failure> {
        Fjall::open(path, &StoreOptions::new(path))
    }

    /// A database of three batches, closed, and its journal.
    fn filled(path: &Path) -> PathBuf {
        let engine = open(path).expect("opened");
        for key in 0..3 {
            engine.apply([(vec![key], Some(value(key).into()))].into_iter()).expect("applied");
        }
        engine.sync().expect("synced");
        path.join("0.jnl")
    }

    fn damage(journal: &Path, from: u64, len: usize) {
        let mut bytes = fs::read(journal).expect("read");
        bytes[from as usize..][..len].fill(0);
        fs::write(journal, bytes).expect("written");
    }

    #[test]
    fn a_page_of_the_last_value_that_never_reached_the_disk_ends_the_journal_before_it() {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let path = dir.path().join("db");
        let journal = filled(&path);
        let end = end_of_batches(&journal).expect("read");
        assert!(end > 3 * VALUE_BYTES as u64);
        damage(&journal, end - 8_192, 4_096);
        let engine = open(&path).expect("opened");
        for key in 0..3 {
            let found = engine.get(&[key]).expect("read").map(|found| found.to_vec());
            assert_eq!(found, (key < 2).then(|| value(key)), "{key}");
        }
    }

    #[test]
    fn damage_in_a_journal_that_another_follows_is_told() {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let path = dir.path().join("db");
        let journal = filled(&path);
        fs::copy(&journal, path.join("1.jnl")).expect("copied");
        let end = end_of_batches(&journal).expect("read");
        repair(&path).expect("what follows the batches is zeros");
        damage(&journal, end / 2, 8);
        assert!(matches!(repair(&path), Err(Failure::Corrupt(_))));
    }

    #[test]
    fn what_is_no_batch_of_ours_is_not_read_past() {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let journal = dir.path().join("0.jnl");
        let whole = {
            let mut batch = vec![START, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
            let item =
                [&[ITEM, 0, 0][..], &[1, 0, 0, 0, 0, 0, 0, 0], &[1, 0], &[2, 0, 0, 0, 2, 0, 0, 0], b"kvv"];
            batch.extend(item.concat());
            let mut sum = Xxh3::new();
            sum.update(&batch[13..]);
            batch.push(END);
            batch.extend(sum.digest().to_le_bytes());
            batch.extend(MAGIC);
            batch
        };
        let end = |bytes: &[u8]| {
            fs::write(&journal, bytes).expect("written");
            end_of_batches(&journal).expect("read")
        };
        assert_eq!(end(&whole), whole.len() as u64);
        let next = |sequence: u8| [&whole[..5], &[sequence], &whole[6..]].concat();
        assert_eq!(end(&[&whole[..], &next(8)].concat()), 2 * whole.len() as u64);
        assert_eq!(
            end(&[&whole[..], &next(7)].concat()),
            whole.len() as u64,
            "a number that is no later one"
        );
        for at in (0..whole.len()).filter(|at| !(5..13).contains(at)) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert_eq!(end(&bytes), 0, "byte {at}");
            assert_eq!(end(&whole[..at]), 0, "cut at {at}");
        }
    }

    #[test]
    fn the_journal_that_is_synced_is_the_last() {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let file = |number: u64| dir.path().join(format!("{number}.jnl"));
        fs::write(file(0), "").expect("written");
        let journal = Journal::open(dir.path()).expect("opened");
        let synced = || {
            journal.sync().expect("synced");
            journal.last.lock().expect("nothing panicked").0
        };
        assert_eq!(synced(), 0);
        fs::write(file(1), "").expect("written");
        assert_eq!(synced(), 1);
        // Two journals later the first two are gone.
        fs::write(file(3), "").expect("written");
        fs::remove_file(file(0)).expect("removed");
        fs::remove_file(file(1)).expect("removed");
        assert_eq!(synced(), 3);
    }
}
