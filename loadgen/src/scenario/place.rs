//! Where the data of servers lies that a scenario starts itself.

use std::path::{Path, PathBuf};

use super::Failed;
use crate::run::unique_prefix;

/// A data directory.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) data: PathBuf,
    /// The directory around it, if it was made for this run.
    temporary: Option<PathBuf>,
}

impl Place {
    /// The directory that is wanted, else a temporary one, named after the scenario.
    pub(crate) fn new(wanted: Option<&Path>, scenario: &str) -> Result<Self, Failed> {
        let make = |dir: &Path| {
            std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            std::path::absolute(dir).map_err(|e| format!("{}: {e}", dir.display()))
        };
        if let Some(data) = wanted {
            return Ok(Self { data: make(data)?, temporary: None });
        }
        let name = format!("causeway-{scenario}-{}", unique_prefix());
        let temporary = make(&std::env::temp_dir().join(name))?;
        Ok(Self { data: make(&temporary.join("data"))?, temporary: Some(temporary) })
    }

    /// Removes what was made for this run.
    pub(crate) fn remove(&self) -> Result<(), Failed> {
        match &self.temporary {
            Some(dir) => std::fs::remove_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display())),
            None => Ok(()),
        }
    }
}
