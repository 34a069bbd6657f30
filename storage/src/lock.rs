//! One process a data directory.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use crate::error::{Result, StoreError};

/// Holds a data directory for this process until it is dropped; the kernel lets go of it when the process dies.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Makes the directory if need be and takes its lock (`causeway.lock` in it), or says that another process has it.
    pub fn acquire(dir: &Path) -> Result<Self> {
        let failed = |source| StoreError::Directory { path: dir.into(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        let path = dir.join("causeway.lock");
        let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: dir.into() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}
