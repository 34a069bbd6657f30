//! The conformance suite on every backend there is.

use std::path::Path;

use causeway_storage::{BACKENDS, memory, sled, sqlite};

causeway_storage::conformance_tests!(sqlite_store, sqlite::BACKEND, in_temp_dir);
causeway_storage::conformance_tests!(sled_store, sled::BACKEND, in_temp_dir);
causeway_storage::conformance_tests!(memory_store, memory::BACKEND, in_temp_dir);

fn in_temp_dir(check: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().expect("a directory to test in");
    check(dir.path());
}

#[test]
fn every_backend_is_tested() {
    let names: Vec<&str> = BACKENDS.iter().map(|backend| backend.name).collect();
    assert_eq!(names, ["sqlite", "sled", "memory"], "a backend is missing above");
}
