//! `replay`: the connections of a trace again, with their updates and pulls at the same times, and values of its own.
//!
//! Verified as `mixed` is: in the end a pull from 0, and each client that has pulled everything and is still there, must
//! be exactly the merge of all that was acked; and what any other was shown must be in it.

mod fill;
mod script;
mod visit;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::BufReader;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use self::script::{Script, Visit, channels, open_at_most};
use self::visit::{Client, Pace, Scene, Sent};
use super::Failed;
use super::mixed::{Channel, Member, pulled, read_all};
use crate::meter::{Count, Latency};
use crate::options::{Replay, Scenario, Speed};
use crate::replica::ANY_TABLE;
use crate::report::Report;
use crate::run::{Run, measure};
use crate::trace::format::Event;
use crate::trace::read::{Ended, TraceError, read};

/// The window is as long as the replay takes, with all its answers.
const WINDOW_MAX: Duration = Duration::from_secs(30 * 86_400);

/// A channel, and its clients that are not connected. All are kept, with what they have, to be compared in the end.
#[derive(Debug)]
struct Place {
    channel: Channel,
    /// By the site that the trace gives them: they may come back.
    away: Mutex<HashMap<u32, Client>>,
    /// Those without one, and those whose site somebody else has taken.
    gone: Mutex<Vec<Client>>,
}

/// What all visits share.
#[derive(Debug)]
struct Stage {
    run: Arc<Run>,
    places: BTreeMap<u32, Place>,
    pace: Pace,
    sent: Sent,
    length_us: u64,
    next_who: AtomicUsize,
}

pub(super) async fn run(run: Arc<Run>, scenario: &Scenario, replay: &Replay) -> Result<Report, Failed> {
    let (mut script, notes) = load(replay).map_err(|e| format!("{}: {e}", replay.file.display()))?;
    let visits = std::mem::take(&mut script.visits);
    let speed = match replay.speed {
        Speed::Times(times) => Some(times),
        Speed::Max => None,
    };
    let mut places = BTreeMap::new();
    for (id, count) in channels(&visits) {
        let mut channel = Channel::new(&run, run.plan(id as usize), count);
        channel.table = ANY_TABLE.into();
        // What an earlier run left counts as acked.
        if run.common.channel_prefix.is_some() {
            let found = read_all(&run, &channel, 0).await.map_err(|e| format!("{}: {e}", channel.name))?;
            *channel.acked() = found;
        }
        places.insert(id, Place { channel, away: Mutex::default(), gone: Mutex::default() });
    }

    run.meter.set_window(Duration::ZERO, WINDOW_MAX);
    let stage = Arc::new(Stage {
        pace: Pace { start_ns: run.meter.now_ns(), speed },
        run: Arc::clone(&run),
        places,
        sent: Sent::default(),
        length_us: script.length_us,
        next_who: AtomicUsize::new(0),
    });
    let rates = [
        (Count::Changes, "changes acked"),
        (Count::Acks, "updates acked"),
        (Count::Deliveries, "deliveries"),
        (Count::Pulls, "pulls answered"),
    ];
    let (figures, tasks) = measure(&run, &rates, perform(Arc::clone(&stage), visits)).await;
    tasks.join_all().await;
    if run.verifies() {
        for place in stage.places.values() {
            place.verify(&run, Member::new("the last pull", stage.next_who())).await;
        }
    }

    let latencies = [(Latency::Ack, "to the ack"), (Latency::Pull, "of a pull")];
    let mut facts = stage.sent.facts();
    facts.insert("messages left out", script.left_out as f64);
    let mut report = Report::new(&run, scenario, &figures, &rates, &latencies, facts);
    notes.into_iter().for_each(|note| report.note(note));
    Ok(report)
}

/// Reads as much of the trace as is wanted, from its first connection on, and what to say of it.
fn load(replay: &Replay) -> Result<(Script, Vec<String>), TraceError> {
    let most_us = replay.first.map_or(u64::MAX, |seconds| (seconds * 1e6) as u64);
    let mut script = Script::default();
    let mut first_us = None;
    let file = BufReader::new(File::open(&replay.file)?);
    let ended = read(file, |Event(at_us, conn, what)| {
        let at_us = at_us - *first_us.get_or_insert(at_us);
        if at_us > most_us { Ok(()) } else { script.take(Event(at_us, conn, what)) }
    })?;
    let mut notes = Vec::new();
    script.finish(match ended {
        Ended::Well(end) => {
            if end.full {
                notes.push("the recording ended at its --max-bytes, before the traffic did".into());
            }
            end.end.saturating_sub(first_us.unwrap_or(end.end)).min(most_us)
        }
        Ended::Cut(lines) => {
            notes.push(format!("the trace was cut; its {lines} whole lines are what was replayed"));
            0
        }
    });
    if script.left_out > 0 {
        notes.push(format!("{} messages were neither updates nor pulls and were left out", script.left_out));
    }
    Ok((script, notes))
}

/// Makes all connections, each when it is due; returns when all have done what they were to do, with those that stay.
async fn perform(stage: Arc<Stage>, visits: Vec<Visit>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let at_once = if stage.pace.speed.is_some() { visits.len().max(1) } else { open_at_most(&visits) };
    let room = Arc::new(Semaphore::new(at_once));
    let (playing, mut all_played) = mpsc::channel::<()>(1);
    for visit in visits {
        if let Some(due_ns) = stage.pace.due_ns(visit.opens_us) {
            let meter = &stage.run.meter;
            tokio::time::sleep_until(meter.instant_of(due_ns).into()).await;
            meter.latency(0, Latency::Late, due_ns, meter.now_ns());
        }
        let room = Arc::clone(&room).acquire_owned().await.expect("nobody closes it");
        tasks.spawn(attend(Arc::clone(&stage), visit, room, playing.clone()));
        while tasks.try_join_next().is_some() {}
    }
    drop(playing);
    // Nothing is ever sent: it ends when the last sender is dropped.
    all_played.recv().await;
    tasks
}

/// One visit, and what is to be compared after it.
async fn attend(stage: Arc<Stage>, visit: Visit, room: OwnedSemaphorePermit, playing: mpsc::Sender<()>) {
    let (run, place) = (&stage.run, &stage.places[&visit.channel]);
    let channel = &place.channel;
    let back = visit.site.and_then(|site| lock(&place.away).remove(&site));
    let mut client = back.unwrap_or_else(|| stage.newcomer());
    let name = format!("{} of {}", client.member.name, channel.name);
    let scene = Scene { run, channel, pace: stage.pace, sent: &stage.sent };
    let played = scene.play(&visit, &mut client, stage.length_us).await;
    // Also when it failed: the others would wait for it.
    channel.writers_left.fetch_sub(1, Ordering::Release);
    drop((room, playing));
    let ended = match played {
        Ok(mut conn) if visit.stays && client.follows_all() && run.verifies() => {
            scene.settle(&mut client, &mut conn).await
        }
        played => played.map(drop),
    };
    if let Err(e) = ended {
        run.connection_lost(&name, &e);
    }
    place.leave(visit.site, client);
}

impl Stage {
    fn next_who(&self) -> usize {
        self.next_who.fetch_add(1, Ordering::Relaxed)
    }

    fn newcomer(&self) -> Client {
        let who = self.next_who();
        Client::new(Member::new(format!("client {who}"), who))
    }
}

impl Place {
    fn leave(&self, site: Option<u32>, client: Client) {
        match site {
            Some(site) => lock(&self.gone).extend(lock(&self.away).insert(site, client)),
            None => lock(&self.gone).push(client),
        }
    }

    /// Compares a pull with what was acked, and what was acked with what each client was shown.
    async fn verify(&self, run: &Run, puller: Member) {
        let channel = &self.channel;
        for client in lock(&self.away).values().chain(lock(&self.gone).iter()) {
            let more = channel.acked().behind(&client.member.replica);
            run.verdict.checked(client.member.replica.len());
            run.verdict.faults(more.len() as u64, || {
                let name = |what| {
                    format!(
                        "what was shown to {} of {} is not what was acked, which {what}",
                        client.member.name, channel.name
                    )
                };
                more.into_iter().map(name).collect()
            });
        }
        pulled::verify(run, channel, puller).await;
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
