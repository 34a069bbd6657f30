//! The backends by name. A new backend is a module and a line in [`BACKENDS`]: the server's `--store`, the benches
//! and the conformance suite all go over this list.

use crate::backend::Backend;
use crate::error::{Result, StoreError};

/// Every backend there is, the default first.
pub const BACKENDS: &[Backend] = &[crate::sqlite::BACKEND, crate::sled::BACKEND, crate::memory::BACKEND];

/// The backend of that name.
pub fn backend(name: &str) -> Result<&'static Backend> {
    BACKENDS.iter().find(|b| b.name == name).ok_or_else(|| StoreError::UnknownStore {
        name: name.into(),
        known: BACKENDS.iter().map(|b| b.name).collect::<Vec<_>>().join(", "),
    })
}
