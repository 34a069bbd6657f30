//! The conformance suite on every backend there is.

use std::path::Path;

macro_rules! conformance_of {
    ($in_dir:tt [$($persistent:ident)*] [$($forgetful:ident)*]) => {
        $(causeway_storage::conformance_tests!($persistent, causeway_storage::$persistent::BACKEND, in_temp_dir);)*
        $(causeway_storage::conformance_tests!($forgetful, causeway_storage::$forgetful::BACKEND, in_temp_dir);)*
    };
}
causeway_storage::with_backends! { conformance_of {} }

fn in_temp_dir(check: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().expect("a directory to test in");
    check(dir.path());
}
