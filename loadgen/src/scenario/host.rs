//! The one server that was started for a run, where there is such: a scenario may end it and start it again.

use std::time::{Duration, Instant};

use super::Failed;
use super::server::{Launch, Server, with_log};
use crate::process;

/// A server that this program starts.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) launch: Launch,
    server: Option<Server>,
    /// How long it may take to come up, or to end.
    limit: Duration,
    /// What all its lives that are over have caused to be written, if the kernel tells.
    written: Option<u64>,
}

/// A server that has come up.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) url: String,
    pub(crate) pid: u32,
    /// From its start to where it said so.
    pub(crate) took: Duration,
}

impl Host {
    pub(crate) fn new(launch: Launch, limit: Duration) -> Self {
        Self { launch, server: None, limit, written: Some(0) }
    }

    /// Starts it. It must not run.
    pub(crate) async fn start(&mut self) -> Result<Up, Failed> {
        let began = Instant::now();
        let mut server = self.launch.spawn()?;
        let url = server.up(self.limit).await?;
        let up = Up { url, pid: server.pid(), took: began.elapsed() };
        self.server = Some(server);
        Ok(up)
    }

    /// What it has caused to be sent to the storage layer until it was last stopped, its last writes and all.
    pub(crate) fn written_bytes(&self) -> Option<u64> {
        self.written
    }

    /// Asks it to end, which it must do well.
    pub(crate) async fn stop(&mut self) -> Result<(), Failed> {
        let Some(server) = self.server.take() else { return Ok(()) };
        // The kernel adds what a child has written to its parent's when the parent learns of its end.
        let own = || process::sample(None).ok().and_then(|sample| sample.written_bytes);
        let before = own();
        let command = self.launch.is_command();
        let ended = server.terminate(self.limit).await;
        // Another program may know nothing of an orderly end.
        if let (Err(e), false) = (ended, command) {
            return Err(with_log(&self.launch.log, e));
        }
        let written = own().zip(before).map(|(after, before)| after.saturating_sub(before));
        self.written = self.written.zip(written).map(|(sum, written)| sum + written);
        Ok(())
    }
}
