//! The server that the tests of `crash` and `cluster` start.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The server beside the generator. `cargo test --workspace` builds it; else it is built here, once.
pub(crate) fn server() -> PathBuf {
    let server = Path::new(env!("CARGO_BIN_EXE_causeway-loadgen")).with_file_name("causeway");
    if !server.is_file() {
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let built = Command::new(env!("CARGO"))
            .args(["build", "--package", "causeway", "--bin", "causeway", "--profile", profile])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.expect("cargo runs").success(), "the server builds");
    }
    assert!(server.is_file(), "{} is there", server.display());
    server
}
