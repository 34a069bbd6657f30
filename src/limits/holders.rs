//! Who has connections, how many, and what has been used of the rates that they share. Bounded: an entry without a
//! connection is forgotten once it is worth nothing more, and in any case when there are too many.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Below so many entries none is looked for that can be forgotten.
const MIN_PRUNE: usize = 1_024;

/// Entries without a connection that are kept, however much is used of their rates: more come only from somebody with that
/// many addresses, whom the rate of all new connections together has to hold.
const MAX_IDLE: usize = 65_536;

/// What is kept of a holder beside the number of its connections.
pub trait Used: Send {
    /// What a holder has that nobody knows yet.
    fn new(now: Instant) -> Self;

    /// Whether it is no more than a new one, now.
    fn is_unused(&mut self, now: Instant) -> bool;
}

/// Holders of connections: addresses, subjects.
#[derive(Debug)]
pub struct Holders<K, U> {
    state: Mutex<State<K, U>>,
}

#[derive(Debug)]
struct State<K, U> {
    entries: HashMap<K, Entry<U>>,
    prune_at: usize,
}

#[derive(Debug)]
struct Entry<U> {
    connections: usize,
    used: Arc<Mutex<U>>,
}

/// A connection's place among those of its holder, which has it until this is dropped.
#[derive(Debug)]
pub struct Place<K: Eq + Hash, U: Used> {
    holders: Arc<Holders<K, U>>,
    key: K,
    used: Arc<Mutex<U>>,
}

impl<K, U> Default for Holders<K, U> {
    fn default() -> Self {
        Holders { state: Mutex::new(State { entries: HashMap::new(), prune_at: MIN_PRUNE }) }
    }
}

impl<K: Eq + Hash + Clone, U: Used> Holders<K, U> {
    /// Takes a place, if `admit` has nothing against it, given how many the holder has and what is used of its rates.
    pub fn enter<E>(
        self: &Arc<Self>,
        key: K,
        now: Instant,
        admit: impl FnOnce(usize, &mut U) -> Result<(), E>,
    ) -> Result<Place<K, U>, E> {
        let mut state = self.state();
        if state.entries.len() >= state.prune_at && !state.entries.contains_key(&key) {
            state.prune(now);
        }
        let entry = state
            .entries
            .entry(key.clone())
            .or_insert_with(|| Entry { connections: 0, used: Arc::new(Mutex::new(U::new(now))) });
        admit(entry.connections, &mut lock(&entry.used))?;
        entry.connections += 1;
        let used = entry.used.clone();
        Ok(Place { holders: self.clone(), key, used })
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.state().entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K, U> Holders<K, U> {
    fn state(&self) -> MutexGuard<'_, State<K, U>> {
        lock(&self.state)
    }
}

impl<K: Eq + Hash, U: Used> State<K, U> {
    fn prune(&mut self, now: Instant) {
        let mut idle = 0;
        self.entries.retain(|_, entry| {
            let keep = entry.connections > 0 || !lock(&entry.used).is_unused(now);
            idle += usize::from(keep && entry.connections == 0);
            keep
        });
        if idle > MAX_IDLE {
            self.entries.retain(|_, entry| entry.connections > 0);
        }
        self.prune_at = MIN_PRUNE.max(2 * self.entries.len());
    }
}

impl<K: Eq + Hash, U: Used> Place<K, U> {
    /// What is used of the holder's rates.
    pub fn used(&self) -> MutexGuard<'_, U> {
        lock(&self.used)
    }
}

impl<K: Eq + Hash, U: Used> Drop for Place<K, U> {
    fn drop(&mut self) {
        if let Some(entry) = self.holders.state().entries.get_mut(&self.key) {
            entry.connections -= 1;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while a lock is held that leaves anything half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Unused after a second.
    struct Second(Instant);

    impl Used for Second {
        fn new(now: Instant) -> Self {
            Second(now)
        }

        fn is_unused(&mut self, now: Instant) -> bool {
            now - self.0 >= Duration::from_secs(1)
        }
    }

    fn enter(holders: &Arc<Holders<u32, Second>>, key: u32, now: Instant) -> Option<Place<u32, Second>> {
        holders.enter(key, now, |connections, _| if connections < 2 { Ok(()) } else { Err(()) }).ok()
    }

    #[test]
    fn a_place_is_free_when_it_is_dropped() {
        let (holders, now) = (Arc::default(), Instant::now());
        let first = enter(&holders, 1, now).unwrap();
        let _second = enter(&holders, 1, now).unwrap();
        assert!(enter(&holders, 1, now).is_none() && enter(&holders, 2, now).is_some());
        drop(first);
        assert!(enter(&holders, 1, now).is_some());
    }

    #[test]
    fn who_has_left_is_forgotten_and_who_has_not_is_not() {
        let (holders, start) = (Arc::default(), Instant::now());
        let _stays = (enter(&holders, 0, start), enter(&holders, 0, start));
        let mut most = 0;
        for n in 1..300_000 {
            // A thousand a millisecond: in a second a million.
            enter(&holders, n, start + Duration::from_micros(n.into())).unwrap();
            most = most.max(holders.len());
        }
        assert!(most <= 4 * MAX_IDLE, "{most}");
        for n in 300_000..310_000 {
            enter(&holders, n, start + Duration::from_secs(n.into())).unwrap();
        }
        enter(&holders, 1, start + Duration::from_secs(400_000)).unwrap();
        assert!(holders.len() <= 2 * MIN_PRUNE + 2 * MAX_IDLE, "{}", holders.len());
        assert!(enter(&holders, 0, start).is_none(), "the two who stay are counted");
    }
}
