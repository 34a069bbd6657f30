//! The load generator, as the program that it is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The schema of what it writes.
pub const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/loadgen/todos.sql");

/// The generator, to be given a scenario. `cargo test --workspace` builds it; else it is built here, once.
pub fn loadgen() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_BIN_EXE_causeway")).with_file_name("causeway-loadgen");
        if !program.is_file() {
            let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
            let built = Command::new(env!("CARGO"))
                .args(["build", "--package", "causeway-loadgen", "--profile", profile])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status();
            assert!(built.unwrap().success(), "the generator builds");
        }
        program
    });
    let mut command = Command::new(program);
    command.arg("--quiet").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
