//! Commands in a server. Each has a thread of its own, so that pages and commits never wait for one, and there are only so many
//! at once. What the shards own, they do.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use causeway_storage::ChangeStore;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Connections, Line, Problem, ProblemCode, Request, deleted, execute};
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
    relay: Arc<Relay>,
    permits: Arc<Semaphore>,
}

impl Commands {
    /// Commands on a store and on the relay that serves it.
    pub fn new(store: Arc<dyn ChangeStore>, relay: Arc<Relay>) -> Self {
        Commands { store, relay, permits: Arc::new(Semaphore::new(COMMANDS_MAX)) }
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
        tracing::info!(?request, "a command");
        match request {
            Request::Delete { channel } => {
                drop(tokio::spawn(delete(self.relay.clone(), channel, lines, permit)))
            }
            request => {
                let connections = match request {
                    Request::Channels | Request::Inspect { .. } => self.connections().await,
                    _ => Connections::default(),
                };
                let store = self.store.clone();
                thread::Builder::new().name("command".into()).spawn(move || {
                    let _permit = permit;
                    execute(store.as_ref(), &connections, &request, &mut |line| send(&lines, line));
                })?;
            }
        }
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

/// It is done to its end, whether anybody waits for it or not.
async fn delete(
    relay: Arc<Relay>,
    channel: String,
    lines: mpsc::Sender<Line>,
    _permit: OwnedSemaphorePermit,
) {
    let line = deleted(&channel, relay.remove(&channel).await);
    tracing::info!(?line, "a command has ended");
    // There is room for both.
    let _ = lines.try_send(line);
    let _ = lines.try_send(Line::End);
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
