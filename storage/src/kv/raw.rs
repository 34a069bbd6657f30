//! The keys under a store, without the store: for tests that damage them.

use std::ops::Bound;
use std::path::Path;

use super::engine::Engine;
use crate::backend::{Keys, StoreOptions};

struct Raw<E>(E);

/// Opens the engine's database in a data directory that no store has open.
pub(super) fn open<E: Engine>(data: &Path) -> Box<dyn Keys> {
    Box::new(Raw(E::open(&data.join(E::NAME), &StoreOptions::new(data)).expect("the database opens")))
}

impl<E: Engine> Keys for Raw<E> {
    fn all(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let owned = |bytes: E::Bytes| bytes.as_ref().to_vec();
        let all = self.0.range(Bound::Unbounded, Bound::Unbounded);
        all.map(|item| item.expect("a key is read")).map(|(key, value)| (owned(key), owned(value))).collect()
    }

    fn write(&self, key: &[u8], value: Option<&[u8]>) {
        let write = (key.to_vec(), value.map(E::Bytes::from));
        self.0.apply(std::iter::once(write)).expect("a key is written");
        self.0.sync().expect("the database is synced");
    }
}
