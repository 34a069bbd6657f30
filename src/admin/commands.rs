//! Commands in a server. Each has a thread of its own, so that pages and commits never wait for one, and there are only so many
//! at once.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use causeway_storage::{Backend, ChangeStore, RemadeTable, StoreError};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};

use super::{Connections, Line, OpenStore, Problem, ProblemCode, Request, Writer, execute};
use crate::relay::Relay;

/// Commands at once, wherever they come from.
const COMMANDS_MAX: usize = 2;

/// Lines of an answer that may wait to be read.
const LINES_MAX: usize = 512;

/// How long a command waits for whoever asked to take a line; then it is given up.
const LINE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often it looks whether there is room for the line.
const LINE_PAUSE: Duration = Duration::from_millis(1);

/// Starts commands.
#[derive(Clone)]
pub struct Commands {
    store: Arc<dyn ChangeStore>,
    backend: &'static Backend,
    relay: Arc<Relay>,
    permits: Arc<Semaphore>,
}

impl Commands {
    /// Commands on a store and on the relay that serves it.
    pub fn new(store: Arc<dyn ChangeStore>, backend: &'static Backend, relay: Arc<Relay>) -> Self {
        Commands { store, backend, relay, permits: Arc::new(Semaphore::new(COMMANDS_MAX)) }
    }

    /// Starts a command and gives its lines. If they end without [`Line::End`], it was not done to its end. A single
    /// [`ProblemCode::Busy`] says that too many are under way.
    pub async fn start(&self, request: Request) -> io::Result<mpsc::Receiver<Line>> {
        let (lines, told) = mpsc::channel(LINES_MAX);
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            let problem = format!("{COMMANDS_MAX} commands are under way; come back when one has ended");
            let busy = Line::Problem(Problem { channel: None, code: ProblemCode::Busy, problem });
            let _ = lines.try_send(busy);
            let _ = lines.try_send(Line::End);
            return Ok(told);
        };
        // Its other parts can be keys of rows, which are data.
        tracing::info!(command = request.name(), channels = ?request.channels(), "a command");
        let connections = match request {
            Request::Channels | Request::Inspect { .. } => self.connections().await,
            _ => Connections::default(),
        };
        let (store, relay, backend) = (self.store.clone(), self.relay.clone(), self.backend);
        let writer = ByShards { relay: relay.clone(), runtime: Handle::current() };
        thread::Builder::new().name("command".into()).spawn(move || {
            let open = OpenStore {
                store: store.as_ref(),
                backend,
                schema: relay.schema.as_deref(),
                connections: &connections,
                writer: &writer,
            };
            let mut permit = Some(permit);
            execute(&open, &request, &mut |line| {
                if line == Line::End {
                    // Whoever has read the end may ask again at once.
                    permit = None;
                }
                send(&lines, line)
            });
        })?;
        Ok(told)
    }

    async fn connections(&self) -> Connections {
        let stats = self.relay.shards.stats(usize::MAX).await;
        let complete = stats.len() == self.relay.shards.count();
        let channels = stats.into_iter().flat_map(|shard| shard.busiest);
        let counts = channels.map(|channel| (channel.name, channel.connections as u64)).collect();
        Connections { counts, complete }
    }
}

/// What the shards own, they do, to its end, whether anybody waits for it or not.
struct ByShards {
    relay: Arc<Relay>,
    runtime: Handle,
}

impl Writer for ByShards {
    fn remove(&self, channel: &str) -> Result<bool, StoreError> {
        let removed = self.runtime.block_on(self.relay.remove(channel));
        tracing::info!(channel, ?removed, "a channel was to be removed");
        removed
    }

    fn is_of_several(&self) -> bool {
        self.relay.bus.is_some()
    }

    fn rebuild(&self, channel: &str) -> Result<Option<Vec<RemadeTable>>, StoreError> {
        let rebuilt = self.runtime.block_on(self.relay.rebuild(channel));
        let tables = rebuilt.as_ref().map(|tables| tables.as_ref().map(Vec::len));
        tracing::info!(channel, ?tables, "a channel's tables were to be made anew");
        rebuilt
    }
}

/// Waits until there is room for the line. Gives `false` if nobody takes it.
fn send(lines: &mpsc::Sender<Line>, mut line: Line) -> bool {
    let start = Instant::now();
    loop {
        match lines.try_send(line) {
            Ok(()) => return true,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(_)) if start.elapsed() >= LINE_TIMEOUT => {
                tracing::warn!("a command is given up: nobody reads its answer");
                return false;
            }
            Err(TrySendError::Full(refused)) => line = refused,
        }
        thread::sleep(LINE_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use causeway_storage::{StoreOptions, memory};

    use super::*;
    use crate::config::Config;
    use crate::limits::Limits;
    use crate::metrics::Metrics;
    use crate::work::Work;

    #[tokio::test]
    async fn whoever_has_read_the_end_of_one_may_start_the_next() {
        let backend = &memory::BACKEND;
        let store = (backend.open)(&StoreOptions::new("")).unwrap();
        let (config, metrics) = (Config::default(), Arc::new(Metrics::default()));
        let limits = Limits::new((&config).into(), metrics.clone());
        let relay = Relay::start(config, None, store.clone(), metrics, limits, None, Work::Threads).unwrap();
        let commands = Commands::new(store, backend, Arc::new(relay));
        for n in 0..1_000 {
            let mut told = commands.start(Request::Verify { channels: Vec::new() }).await.unwrap();
            assert_eq!(told.recv().await, Some(Line::End));
            assert_eq!(commands.permits.available_permits(), COMMANDS_MAX, "after {n}");
        }
    }
}
