//! What tells a file that has changed from one that has not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file's identity, size and times, those of its rights too: who may not read it at first may later. Where it is a link, that of
/// its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    /// The stamp of a file; `None` if there is none to be seen. Blocks on the disk.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(FileStamp {
            file: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}
