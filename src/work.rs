//! Where work runs that may block: on threads of its own or, in a simulation, on the one thread that there is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Where work runs that may block.
#[derive(Clone, Default)]
pub enum Work {
    /// On threads: one for each shard, and those that the runtime keeps for work that blocks.
    #[default]
    Threads,
    /// In tasks of the runtime, in its time and ended with it, so that a run can be repeated exactly. The function says how
    /// long the next piece of work takes.
    Simulated(Arc<dyn Fn() -> Duration + Send + Sync>),
}

impl Work {
    /// Runs `work`, then `done` with what it gave. If the runtime ends before, both are dropped.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        done: impl FnOnce(T) + Send + 'static,
    ) {
        match self {
            Work::Threads => drop(tokio::task::spawn_blocking(move || done(work()))),
            Work::Simulated(takes) => {
                let (before, after) = (takes(), takes());
                drop(tokio::spawn(async move {
                    tokio::time::sleep(before).await;
                    let result = work();
                    // Much may happen between the two on threads, too.
                    tokio::time::sleep(after).await;
                    done(result);
                }));
            }
        }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Work::Threads => "Threads",
            Work::Simulated(_) => "Simulated",
        })
    }
}
