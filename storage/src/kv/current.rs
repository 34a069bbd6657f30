//! The database that is open now. What a failed write leaves in an engine's memory is unknown, so the database is then
//! closed and opened again, where the engine recovers the last whole batch: whoever asks next for it does that.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::database::Database;
use super::engine::Engine;
use super::guarded::refused;
use super::no_such_channel;
use super::snapshots::Shared;
use crate::backend::{Durability, StoreOptions};
use crate::error::Result;
use crate::lock::DirLock;

/// How long to wait until those who are in the middle of something have noticed that the database has failed.
const LET_GO: Duration = Duration::from_secs(5);
/// The least time between two tries while writes go on failing: to open a large database takes a while.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module. Nobody may keep a [`Database`] for longer than a transaction or a read.
pub(super) struct Current<E: Engine> {
    options: StoreOptions,
    state: Mutex<State<E>>,
    // The directory is let go of once the database is closed.
    _lock: DirLock,
}

struct State<E: Engine> {
    /// `None` if it could not be opened again.
    open: Option<Arc<Database<E>>>,
    /// The one that failed.
    failed: Weak<Database<E>>,
    /// When it was last opened again, or tried to.
    tried: Option<Instant>,
    /// How often it was opened.
    opened: u64,
}

impl<E: Engine> Current<E> {
    /// Opens the engine's directory in the data directory, and makes it if need be.
    pub(super) fn open(options: &StoreOptions) -> Result<Self> {
        let lock = DirLock::acquire(&options.dir)?;
        let open = Some(Arc::new(Database::open(options, 0, None)?));
        let state = State { open, failed: Weak::new(), tried: None, opened: 0 };
        Ok(Current { options: options.clone(), state: Mutex::new(state), _lock: lock })
    }

    /// The database, opened anew if it has failed. Others who ask meanwhile wait.
    pub(super) fn get(&self, channel: &str) -> Result<Arc<Database<E>>> {
        let mut state = self.lock();
        match &state.open {
            Some(open) if !open.engine.has_failed() => Ok(Arc::clone(open)),
            _ => self.open_again(&mut state, channel),
        }
    }

    fn open_again(&self, state: &mut State<E>, channel: &str) -> Result<Arc<Database<E>>> {
        let refuse = |detail: &str| Err(refused::<E>(channel, &format!("an earlier write failed; {detail}")));
        if self.options.durability == Durability::Off {
            return refuse("at durability off what was acked is in memory only: start the server anew");
        }
        // Writes that fail again at once are not tried again at once. What is there can be read.
        let writable_from = state.tried.map(|tried| tried + PAUSE).filter(|from| Instant::now() < *from);
        if state.open.is_none() && writable_from.is_some() {
            return refuse("the database is opened anew in a moment");
        }
        if let Some(failed) = state.open.take() {
            state.failed = Arc::downgrade(&failed);
        }
        state.tried = Some(Instant::now());
        let start = Instant::now();
        while state.failed.strong_count() > 0 {
            if start.elapsed() > LET_GO {
                return refuse("the database is still in use and cannot be opened anew yet");
            }
            thread::sleep(Duration::from_millis(1));
        }
        let open = Arc::new(Database::open(&self.options, state.opened + 1, writable_from)?);
        state.opened += 1;
        Ok(Arc::clone(state.open.insert(open)))
    }

    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

/// A channel's place in whichever database is open.
pub(super) struct Handle<E: Engine> {
    current: Arc<Current<E>>,
    pub(super) channel: Box<str>,
    pub(super) shared: Arc<Shared<E::Bytes>>,
    /// The database that `shared` belongs to.
    opened: u64,
}

impl<E: Engine> Handle<E> {
    pub(super) fn new(
        current: &Arc<Current<E>>,
        database: &Database<E>,
        shared: Arc<Shared<E::Bytes>>,
        channel: &str,
    ) -> Self {
        Handle { current: Arc::clone(current), channel: channel.into(), shared, opened: database.opened }
    }

    /// The database. If it was opened anew since, the channel's state is read anew, and `true` comes with it.
    pub(super) fn database(&mut self) -> Result<(Arc<Database<E>>, bool)> {
        let database = self.current.get(&self.channel)?;
        let is_new = database.opened != self.opened;
        if is_new {
            let shared = database.shared(&mut database.channels(), &self.channel)?;
            self.shared = shared.ok_or_else(|| no_such_channel(&self.channel))?;
            self.opened = database.opened;
        }
        Ok((database, is_new))
    }
}
