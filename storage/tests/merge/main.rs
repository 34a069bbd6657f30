//! The merge on every backend: cr-sqlite's own cases, the algebra of the rule, the clamp.

mod algebra;
mod clamp;
mod group;
mod model;
mod support;
mod tables;
mod vectors;

/// Makes each check, a `fn(&Store)`, a test of its own on every backend.
macro_rules! on_every_store {
    ($($check:ident)*) => {
        crate::on_every_store! { @store sqlite, $($check)* }
        crate::on_every_store! { @store sled, $($check)* }
        crate::on_every_store! { @store memory, $($check)* }
    };
    (@store $backend:ident, $($check:ident)*) => {
        mod $backend {
            $(
                #[test]
                fn $check() {
                    super::$check(&crate::support::Store::new(causeway_storage::$backend::BACKEND));
                }
            )*
        }
    };
}
use on_every_store;
