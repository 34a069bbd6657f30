//! The backends by name. A new backend is a module and a line in [`BACKENDS`]' list below: the server's `--store`, the benches,
//! the conformance suite and all tests that take a store go over it.

use crate::backend::Backend;
use crate::error::{Result, StoreError};

/// Makes [`BACKENDS`] and [`with_backends`](crate::with_backends) of the names of the backends' modules.
macro_rules! backends {
    (persistent { $($persistent:ident,)* } forgetful { $($forgetful:ident,)* }) => {
        /// Every backend there is, the default first.
        pub const BACKENDS: &[Backend] = &[$(crate::$persistent::BACKEND,)* $(crate::$forgetful::BACKEND,)*];

        const _: () = assert!(
            $(crate::$persistent::BACKEND.persistent &&)* $(!crate::$forgetful::BACKEND.persistent &&)* true
        );

        /// Calls a macro with what follows its name, and the names of all backends in two lists: those whose data outlives the
        /// process, and the others. For tests, which have to be named when they are compiled.
        #[macro_export]
        macro_rules! with_backends {
            ($macro:ident $arguments:tt) => { $macro! { $arguments [$($persistent)*] [$($forgetful)*] } };
        }
    };
}

backends! {
    persistent {
        sqlite,
        sled,
        fjall,
    }
    forgetful {
        memory,
    }
}

/// The backend of that name.
pub fn backend(name: &str) -> Result<&'static Backend> {
    BACKENDS.iter().find(|b| b.name == name).ok_or_else(|| StoreError::UnknownStore {
        name: name.into(),
        known: BACKENDS.iter().map(|b| b.name).collect::<Vec<_>>().join(", "),
    })
}
