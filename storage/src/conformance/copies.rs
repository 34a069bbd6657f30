//! Copies, and checks of a whole channel.

use super::kit::{Context, assert_cells, commit, read_all, stored};
use crate::change::{Change, Value};
use crate::error::StoreError;
use crate::merge::{Clamp, Update, merge};
use crate::store::{ChangeStore, Head};
use crate::{copy, memory, verify};

/// A channel with some history, as merges make it: edits, deletes, new lives. Gives its head.
fn merged(store: &dyn ChangeStore, name: &str) -> Head {
    let mut channel = store.open(name).expect("opened");
    for n in 0..300u64 {
        let pk = (n * 7 % 90).to_string();
        let val = [Value::Integer(n as i64), Value::Text("text"), Value::Real(0.5), Value::Blob(&[0, 255])];
        // Each row lives three times, and is deleted in between.
        let cl = n / 90 + 1;
        let sentinel = cl.is_multiple_of(2);
        let change = Change {
            table: "todos",
            pk: &pk,
            cid: if sentinel { "-1" } else { "a" },
            val: if sentinel { Value::Null } else { val[n as usize % 4] },
            col_version: if sentinel { cl } else { n + 1 },
            db_version: n,
            site_id: "S",
            cl,
            seq: 0,
        };
        let site_id = format!("site {}", n % 5);
        let changes = [change];
        merge(
            &mut *channel,
            &[Update { site_id: &site_id, version: n, changes: &changes }],
            &Clamp::default(),
        )
        .expect("merged");
    }
    channel.head()
}

/// What merges leave is verified; a copy, into another store and back, has the same cells, positions, head and peers.
pub fn a_copy_is_the_same_channel(context: &Context) {
    let store = context.open();
    let head = merged(&*store, "a");
    let mut original = store.reader("a").expect("readable");
    let verified = verify("a", &mut *original).expect("as it has to be");
    let (cells, _) = read_all(&mut *original);
    assert_eq!((verified.head, verified.cells), (head, cells.len() as u64));

    let options = crate::StoreOptions::new(context.dir.join("nowhere"));
    let elsewhere = (memory::BACKEND.open)(&options).expect("opened");
    assert_eq!(copy("a", &mut *original, &*elsewhere, "COPY").expect("copied"), verified);
    let back = copy("a", &mut *elsewhere.reader("a").expect("readable"), &*store, "BACK");
    assert!(matches!(back, Err(StoreError::Exists { .. })), "{back:?}");
    assert_eq!(original.head().expect("read"), head, "what is there is left alone");
    copy("b", &mut *elsewhere.reader("a").expect("readable"), &*store, "BACK").expect("copied");

    let store = context.reopen({
        drop(original);
        store
    });
    let mut copied = store.reader("b").expect("readable");
    assert_eq!(verify("b", &mut *copied).expect("as it has to be"), verified);
    assert_cells(&read_all(&mut *copied).0, &cells);
    assert_eq!(copied.site_id().expect("read"), "BACK");
    let peers = copied.peers().expect("read");
    assert_eq!(peers, store.reader("a").expect("readable").peers().expect("read"));
    assert_eq!(peers.len(), 5);
}

/// A digest that is not its cells', a cell that no merge leaves: [`StoreError::Corrupt`] names the channel, and a copy of it
/// is not left behind.
pub fn what_is_wrong_is_noticed(context: &Context) {
    let store = context.open();
    let wrong = [stored("1", "a", Value::Null, 1, 0), stored("1", "-1", Value::Null, 1, 0)];
    let even = crate::OwnedCell { cl: 2, ..stored("1", "a", Value::Null, 1, 0) };
    for (n, cell) in wrong.into_iter().chain([even]).enumerate() {
        let name = format!("channel {n}");
        commit(&mut *store.open(&name).expect("opened"), &[cell]);
        let mut reader = store.reader(&name).expect("readable");
        for found in [verify(&name, &mut *reader), copy("copied", &mut *reader, &*store, "S")] {
            match found {
                Err(StoreError::Corrupt { channel, .. }) => assert!(channel == name || channel == "copied"),
                other => panic!("not noticed: {other:?}"),
            }
        }
        assert!(store.reader("copied").is_err(), "a bad copy is removed");
    }
}
