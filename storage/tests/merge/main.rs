//! The merge on every backend: cr-sqlite's own cases, the algebra of the rule, the clamp.

/// Makes each check, a `fn(&Store)`, a test of its own on every backend.
macro_rules! on_every_store {
    ($($check:ident)*) => {
        causeway_storage::with_backends! { on_stores { $($check)* } }
    };
}

macro_rules! on_stores {
    ($checks:tt [$($persistent:ident)*] [$($forgetful:ident)*]) => {
        $(on_store! { $persistent $checks })*
        $(on_store! { $forgetful $checks })*
    };
}

macro_rules! on_store {
    ($backend:ident { $($check:ident)* }) => {
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

mod algebra;
mod clamp;
mod group;
mod model;
mod support;
mod tables;
mod vectors;
