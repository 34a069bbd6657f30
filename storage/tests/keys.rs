//! What a backend that keeps keys and values can go through: bytes that it did not write, and a removal that a crash cut short.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use causeway_storage::OwnedCell;
use causeway_storage::backend::OpenKeys;
use causeway_storage::conformance::read_all;
use causeway_storage::error::Result;
use causeway_storage::{
    BACKENDS, Backend, Change, ChangeStore, Clamp, Durability, Position, StoreError, StoreOptions, Update,
    Value, merge,
};

const CHANNEL: &str = "my channel";

/// The backends, and what opens their keys.
fn backends() -> impl Iterator<Item = (&'static Backend, OpenKeys)> {
    BACKENDS.iter().filter_map(|backend| Some((backend, backend.keys?)))
}

fn open(backend: &Backend, dir: &Path) -> Result<Arc<dyn ChangeStore>> {
    (backend.open)(&StoreOptions { durability: Durability::Off, ..StoreOptions::new(dir) })
}

fn fill(backend: &Backend, dir: &Path) {
    let store = open(backend, dir).expect("opened");
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
fn use_all(backend: &Backend, dir: &Path) -> Result<Vec<OwnedCell>> {
    let store = open(backend, dir)?;
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
    for (backend, open_keys) in backends() {
        let mut corrupt = 0;
        for bytes in [&b""[..], &[0xff], &[0xff; 300], &[1; 16], &[0; 24]] {
            for which in 0.. {
                let dir = tempfile::tempdir().expect("a directory to test in");
                fill(backend, dir.path());
                let keys = open_keys(dir.path());
                let Some((key, old)) = keys.all().into_iter().nth(which) else { break };
                keys.write(&key, Some(bytes));
                drop(keys);
                match use_all(backend, dir.path()) {
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
        assert!(corrupt > 30, "{}: most of it is noticed: {corrupt}", backend.name);
    }
}

/// The channel is gone at once; what the crash left of it goes when the store is opened again.
#[test]
fn a_removal_that_a_crash_cut_short_is_ended_when_the_store_opens() {
    for (backend, open_keys) in backends() {
        let dir = tempfile::tempdir().expect("a directory to test in");
        fill(backend, dir.path());
        let keys = open_keys(dir.path());
        let name = [b"n", CHANNEL.as_bytes()].concat();
        let (_, id) = keys.all().into_iter().find(|(key, _)| *key == name).expect("it is there");
        keys.write(&name, None);
        keys.write(&[b"x", &*id].concat(), Some(b""));
        drop(keys);
        let store = open(backend, dir.path()).expect("opened");
        assert_eq!(store.channels().expect("listed").names, Vec::<String>::new());
        store.close().expect("closed");
        drop(store);
        let left: Vec<_> = open_keys(dir.path()).all().into_iter().map(|(key, _)| key).collect();
        assert_eq!(left, [b"f", b"i"], "{}", backend.name);
    }
}
