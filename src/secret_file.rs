//! Files of keys, secrets and certificates: read whole and within bounds, and who else can read them.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// The largest such file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// A file's text, or what is wrong with the file. Blocks on the disk.
pub fn read(path: &Path) -> Result<String, String> {
    // A pipe would be waited for, and be empty when it is read again.
    if !fs::metadata(path).map_err(|e| e.to_string())?.is_file() {
        return Err("it is not a regular file".into());
    }
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    match read.map_err(|e| e.to_string())? as u64 {
        0..=MAX_BYTES => Ok(text),
        _ => Err(format!("it is larger than {MAX_BYTES} bytes")),
    }
}

/// What others may do with a file, as an octal mode; nothing where the system has no such modes.
pub fn mode(path: &Path) -> u32 {
    #[cfg(unix)]
    let mode = fs::metadata(path).map_or(0, |found| std::os::unix::fs::MetadataExt::mode(&found) & 0o777);
    #[cfg(not(unix))]
    let mode = 0;
    mode
}

/// Warns of a secret that others can read; gives whether it has.
pub fn warn_if_readable(setting: &str, path: &Path) -> bool {
    let mode = mode(path);
    let readable = mode & 0o044 != 0;
    if readable {
        let path = path.display();
        tracing::warn!("{setting} {path}: others can read this secret (mode {mode:03o}); chmod 600 it");
    }
    readable
}
