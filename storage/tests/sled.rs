//! What only the sled backend can go through: bytes that it did not write, and a removal that a crash cut short.

use std::ops::ControlFlow;
use std::path::Path;

use causeway_storage::OwnedCell;
use causeway_storage::conformance::{raw_sled, read_all};
use causeway_storage::error::Result;
use causeway_storage::{
    Change, ChangeStore, Clamp, Durability, Position, StoreError, StoreOptions, Update, Value, merge, sled,
};

const CHANNEL: &str = "my channel";

fn open(dir: &Path) -> Result<std::sync::Arc<dyn ChangeStore>> {
    (sled::BACKEND.open)(&StoreOptions { durability: Durability::Off, ..StoreOptions::new(dir) })
}

fn fill(dir: &Path) {
    let store = open(dir).expect("opened");
    let mut channel = store.open(CHANNEL).expect("opened");
    let change = |cid, val| Change {
        table: "t",
        pk: "1",
        cid,
        val,
        col_version: 1,
        db_version: 1,
        site_id: "S",
        cl: 1,
        seq: 0,
    };
    let changes =
        [change("a", Value::Integer(1)), change("b", Value::Text("text")), change("c", Value::Null)];
    merge(&mut *channel, &[Update { site_id: "S", version: 1, changes: &changes }], &Clamp::default())
        .expect("merged");
    drop(channel);
    store.close().expect("closed");
}

/// Everything that reads, and a merge that touches every cell.
fn use_all(dir: &Path) -> Result<Vec<OwnedCell>> {
    let store = open(dir)?;
    store.channels()?;
    let mut reader = store.reader(CHANNEL)?;
    reader.head()?;
    reader.peers()?;
    reader.site_id()?;
    reader.check()?;
    reader.read(Position::default(), &mut |_| ControlFlow::Continue(()))?;
    let mut channel = store.open(CHANNEL)?;
    let site_id = channel.site_id().to_owned();
    let change = Change {
        table: "t",
        pk: "1",
        cid: "-1",
        val: Value::Null,
        col_version: 2,
        db_version: 1,
        site_id: &site_id,
        cl: 2,
        seq: 0,
    };
    merge(&mut *channel, &[Update { site_id: "S", version: 2, changes: &[change] }], &Clamp::default())?;
    Ok(read_all(&mut *reader).0)
}

/// Whatever one value is replaced by, the store says which channel is corrupt or goes on; it never panics.
#[test]
fn foreign_bytes_are_an_error_that_names_the_channel() {
    let mut corrupt = 0;
    for bytes in [&b""[..], &[0xff], &[0xff; 300], &[1; 16], &[0; 24]] {
        for which in 0.. {
            let dir = tempfile::tempdir().expect("a directory to test in");
            fill(dir.path());
            let db = raw_sled(dir.path());
            let Some((key, old)) = db.iter().nth(which).map(|item| item.expect("read")) else { break };
            db.insert(&key, bytes).expect("written");
            db.flush().expect("flushed");
            drop(db);
            match use_all(dir.path()) {
                Err(StoreError::Corrupt { channel, .. }) => {
                    assert_eq!(channel, CHANNEL);
                    corrupt += 1;
                }
                // The format and the next id belong to no channel.
                Err(StoreError::Engine { .. }) => assert_eq!(&*key, b"f", "{old:?} by {bytes:?}"),
                Err(e) => panic!("{key:?} by {bytes:?}: {e}"),
                Ok(_) => {}
            }
        }
    }
    assert!(corrupt > 30, "most of it is noticed: {corrupt}");
}

/// The channel is gone at once; what the crash left of it goes when the store is opened again.
#[test]
fn a_removal_that_a_crash_cut_short_is_ended_when_the_store_opens() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    fill(dir.path());
    let db = raw_sled(dir.path());
    let id = db.remove([b"n", CHANNEL.as_bytes()].concat()).expect("removed").expect("it was there");
    db.insert([b"x", &*id].concat(), b"").expect("written");
    db.flush().expect("flushed");
    drop(db);
    let store = open(dir.path()).expect("opened");
    assert_eq!(store.channels().expect("listed").names, Vec::<String>::new());
    store.close().expect("closed");
    drop(store);
    let left: Vec<_> = raw_sled(dir.path()).iter().keys().map(|key| key.expect("read")).collect();
    assert_eq!(left, [b"f", b"i"]);
}
