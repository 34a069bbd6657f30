//! A channel's commits, of different sizes, and the states that they leave.

use causeway_storage::OwnedCell;
use causeway_storage::conformance::{digest_of, read_all};
use causeway_storage::error::Result;
use causeway_storage::{
    Change, ChangeStore, ChannelStore, Clamp, Head, SENTINEL, TrackedPeer, Update, Value, merge,
};

/// What a channel is after a commit.
#[derive(Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) head: Head,
    pub(crate) cells: Vec<OwnedCell>,
    pub(crate) peers: Vec<TrackedPeer>,
}

impl State {
    /// Reads a channel, by a reader as well as by its writer, and checks that it agrees with itself.
    pub(crate) fn read(store: &dyn ChangeStore, channel: &str) -> Result<State> {
        let writer = store.open(channel)?;
        let mut reader = store.reader(channel)?;
        let head = reader.head()?;
        assert_eq!(writer.head(), head, "the writer and the reader agree");
        let (cells, version) = read_all(&mut *reader);
        assert_eq!(version, head.version);
        assert_eq!(digest_of(&cells), head.digest, "the digest is that of the cells");
        assert!(
            cells.is_sorted_by(|a, b| a.at < b.at) && cells.iter().all(|cell| cell.at.version <= version)
        );
        Ok(State { head, cells, peers: reader.peers()? })
    }
}

/// How many commits there are.
pub(crate) const COMMITS: u64 = 7;

/// The commit of this number, from 0: one change, many rows, moves and a delete, a large value, a re-insert, many moves,
/// and two cells.
pub(crate) fn commit(channel: &mut dyn ChannelStore, number: u64) {
    let large = "x".repeat(30_000);
    let rows: Vec<String> = (0..150).map(|row| format!("row {row}")).collect();
    let cell = |pk, val, col_version, cl| change(pk, "c", val, col_version, cl);
    let changes: Vec<Change<'_>> = match number {
        0 => vec![cell("row 0", Value::Integer(1), 1, 1)],
        1 => rows.iter().map(|pk| cell(pk, Value::Text(pk), 2, 1)).collect(),
        2 => {
            rows[..9].iter().map(|pk| cell(pk, Value::Real(0.5), 3, 1)).chain([deleted("row 9", 2)]).collect()
        }
        3 => vec![cell("large", Value::Text(&large), 1, 1)],
        4 => vec![deleted("row 9", 3), cell("row 9", Value::Null, 1, 3), deleted("row 10", 2)],
        5 => rows[20..].iter().map(|pk| cell(pk, Value::Blob(&[7; 60]), 4, 1)).collect(),
        _ => {
            vec![cell("row 3", Value::Integer(number as i64), 10 + number, 1), deleted("row 40", 2 * number)]
        }
    };
    let update = Update { site_id: "S", version: number + 1, changes: &changes };
    let before = channel.head().version;
    merge(channel, &[update], &Clamp::default()).expect("merged");
    assert_eq!(channel.head().version, before + 1, "every commit wins something");
}

/// A commit that any state takes, and that leaves it whole.
pub(crate) fn go_on(store: &dyn ChangeStore, channel: &str, from: u64) -> Result<()> {
    let mut writer = store.open(channel)?;
    assert_eq!(writer.head().version, from);
    commit(&mut *writer, 100);
    Ok(())
}

fn change<'a>(pk: &'a str, cid: &'a str, val: Value<'a>, col_version: u64, cl: u64) -> Change<'a> {
    Change { table: "t", pk, cid, val, col_version, db_version: 1, site_id: "S", cl, seq: 0 }
}

fn deleted(pk: &str, cl: u64) -> Change<'_> {
    change(pk, SENTINEL, Value::Null, cl, cl)
}
