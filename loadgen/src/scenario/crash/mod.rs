//! `crash`: starts the server itself, kills it under load over and over, and checks each time that nothing acked is
//! lost and nothing delivered is skipped.
//!
//! A round: load from many clients → the server dies ([`schedule`]) → its data is checked as it lies there
//! ([`offline`]) → perhaps it dies again, while it starts or while its clients come back → it is let up, and looked at
//! from outside ([`audit`]) → all clients resume ([`client`]) and must end equal to a pull from 0.

mod audit;
mod client;
mod offline;
mod schedule;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::client::{Client, Ending, Kind};
use self::schedule::{Further, Round};
use super::Failed;
use super::mixed::{Channel, Member, next_edits, pulled};
use super::place::Place;
use super::server::{Launch, Server};
use super::verified::Verified;
use crate::conn::ConnError;
use crate::meter::Count;
use crate::options::{Crash, Scenario};
use crate::replica::Replica;
use crate::report::Report;
use crate::rng::{Rng, mix};
use crate::run::{Run, measure};

/// Channels made in each round, to find out that one whose connect was answered stays.
const NEW_CHANNELS: usize = 2;
/// The longest wait before each of them, in milliseconds.
const NEW_CHANNEL_MS: u64 = 700;
/// The clients of a channel beside its writers.
const READERS: [Kind; 3] = [Kind::Follower, Kind::Hanging, Kind::Pulling];
/// Longer than any run.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

pub(super) async fn run(run: Arc<Run>, scenario: &Scenario, crash: &Crash) -> Result<Report, Failed> {
    let place = Place::new(crash.serving.program.data.as_deref(), "crash")?;
    let launch = Launch::new(&crash.serving, place.data.clone(), &[])?;
    run.meter.set_window(Duration::ZERO, FOREVER);
    let rates = [
        (Count::Acks, "updates acked"),
        (Count::Changes, "changes acked"),
        (Count::Deliveries, "deliveries"),
        (Count::Pulls, "pulls"),
    ];
    let mut harness = Harness::new(Arc::clone(&run), crash.clone(), launch);
    let (figures, done) = measure(&run, &rates, harness.rounds()).await;
    let mut notes = match done {
        Ok(notes) => notes,
        // What there is may tell why.
        Err(e) => return Err(format!("{e}; the data is kept in {}", place.data.display())),
    };
    if run.verdict.outcome(true).passed() {
        place.remove()?;
    } else {
        let (data, log) = (place.data.display(), harness.launch.log.display());
        notes.push(format!("the data is kept in {data}, what the server said in {log}"));
    }
    let facts = harness.tally.facts(&run);
    let mut report = Report::new(&run, scenario, &figures, &rates, &[], facts);
    notes.into_iter().for_each(|note| report.note(note));
    Ok(report)
}

/// What was done and found, beside the faults.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    killed_loaded: u64,
    killed_starting: u64,
    killed_recovering: u64,
    terminated: u64,
    resumed: u64,
    lost: u64,
    unacked: u64,
    survived: u64,
    new_channels: u64,
    verifies: u64,
    channels_verified: u64,
    cannot_verify: bool,
}

impl Tally {
    fn facts(&self, run: &Run) -> BTreeMap<&'static str, f64> {
        let facts = [
            ("rounds", self.rounds),
            ("kills: SIGKILL under load", self.killed_loaded),
            ("kills: SIGKILL while starting", self.killed_starting),
            ("kills: SIGKILL while recovering", self.killed_recovering),
            ("kills: SIGTERM under load", self.terminated),
            ("acked changes lost", self.lost),
            ("clients resumed", self.resumed),
            ("rows compared", run.verdict.outcome(true).checked),
            ("unacked updates at the kills", self.unacked),
            ("unacked updates that survived", self.survived),
            ("channels made under load", self.new_channels),
            ("verify: runs of the server's own", self.verifies),
            ("verify: channels found well", self.channels_verified),
        ];
        facts.into_iter().map(|(name, count)| (name, count as f64)).collect()
    }
}

/// What goes through all rounds.
#[derive(Debug)]
struct Harness {
    run: Arc<Run>,
    crash: Crash,
    launch: Launch,
    clients: Vec<Client>,
    /// Channels that were made under load; all of them were answered once.
    made: Vec<Arc<Channel>>,
    tally: Tally,
}

impl Harness {
    fn new(run: Arc<Run>, crash: Crash, launch: Launch) -> Self {
        let mut clients = Vec::new();
        for number in 0..crash.channels {
            let channel = Arc::new(Channel::new(&run, run.plan(number), crash.clients));
            let writers = std::iter::repeat_n(Kind::Writer, crash.clients);
            for kind in writers.chain(READERS) {
                clients.push(Client::new(Arc::clone(&channel), clients.len(), kind));
            }
        }
        Self { run, crash, launch, clients, made: Vec::new(), tally: Tally::default() }
    }

    /// All rounds, or as many as there are until faults are found; what else there is to say.
    async fn rounds(&mut self) -> Result<Vec<String>, Failed> {
        let mut notes = Vec::new();
        let mut server = self.launch.spawn()?;
        // A server that never was up is no fault of a crash.
        self.run.set_target(0, &server.up(self.run.drain_limit()).await?)?;
        self.recover().await;
        for number in 0..self.crash.rounds {
            let round = schedule::round(self.run.common.seed, number);
            let next = self.round(server, &round, number).await?;
            self.tally.rounds += 1;
            match next {
                Some(next) if self.passed() => server = next,
                _ => {
                    notes.push(format!("stopped after round {} of {}: {round:?}", number, self.crash.rounds));
                    return Ok(notes);
                }
            }
        }
        self.check_made(0).await;
        let (ending, _) = watch::channel(true);
        self.end(server, true, &ending).await;
        self.verify()?;
        if self.tally.cannot_verify {
            notes.push("this server has no `verify`: only what shows from outside was checked".into());
        }
        Ok(notes)
    }

    fn passed(&self) -> bool {
        self.run.verdict.outcome(true).passed()
    }

    /// One round; the server that is up after it, if there is one.
    async fn round(&mut self, server: Server, round: &Round, number: u64) -> Result<Option<Server>, Failed> {
        let made_before = self.made.len();
        self.load(server, round, number).await?;
        if let Some(command) = &self.crash.between {
            offline::between(command, &self.launch, number)?;
        }
        self.verify()?;
        for further in &round.further {
            if !self.die_again(*further).await? {
                return Ok(None);
            }
            self.verify()?;
        }
        let Some(server) = self.start().await? else { return Ok(None) };
        self.audit().await;
        self.check_made(made_before).await;
        if !self.passed() {
            // The data stays as near to the fault as it can.
            return Ok(None);
        }
        self.recover().await;
        self.final_pulls().await;
        Ok(Some(server))
    }

    /// Loads the server from all clients until it dies.
    async fn load(&mut self, server: Server, round: &Round, number: u64) -> Result<(), Failed> {
        let (ending, is_ending) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for mut client in self.clients.drain(..) {
            let (run, crash, is_ending) = (Arc::clone(&self.run), self.crash.clone(), is_ending.clone());
            tasks.spawn(async move {
                client.load(&run, &crash, number, is_ending).await;
                client
            });
        }
        let first = self.crash.channels + number as usize * NEW_CHANNELS;
        let making = tokio::spawn(make_channels(Arc::clone(&self.run), number, first, is_ending));
        tokio::time::sleep(round.load).await;
        self.end(server, round.terminate, &ending).await;
        match round.terminate {
            true => self.tally.terminated += 1,
            false => self.tally.killed_loaded += 1,
        }
        let clients = self.outlived(tasks.join_all()).await?;
        self.take_back(clients);
        let made = making.await.unwrap_or_default();
        self.tally.new_channels += made.len() as u64;
        self.made.extend(made);
        Ok(())
    }

    /// The clients whose server is dead. Their connections break with it, but for a program that only starts the server.
    async fn outlived<T>(&self, clients: impl Future<Output = T>) -> Result<T, Failed> {
        let limit = 2 * self.run.drain_limit();
        tokio::time::timeout(limit, clients).await.map_err(|_| {
            "the server outlived the kill: --server must be its own program, or `exec` it".to_owned()
        })
    }

    /// Kills the server, or asks it to end. It must have been alive, and end well if it was asked.
    async fn end(&self, server: Server, terminate: bool, ending: &watch::Sender<bool>) {
        ending.send_replace(true);
        let ended = match terminate {
            true => server.terminate(self.run.drain_limit()).await,
            false => server.kill(),
        };
        if let Err(what) = ended {
            self.run.verdict.fault(|| what);
        }
    }

    /// Starts the server and kills it at once again; false: it did not come up.
    async fn die_again(&mut self, further: Further) -> Result<bool, Failed> {
        match further {
            Further::Starting(after) => {
                let mut server = self.launch.spawn()?;
                tokio::time::sleep(after).await;
                if !server.is_up() {
                    self.tally.killed_starting += 1;
                }
                if let Err(what) = server.kill() {
                    self.run.verdict.fault(|| format!("while starting: {what}"));
                }
            }
            Further::Recovering(after) => {
                let Some(server) = self.start().await? else { return Ok(false) };
                let (ending, is_ending) = watch::channel(false);
                let clients = self.spawn_recovery(&is_ending);
                tokio::time::sleep(after).await;
                self.end(server, false, &ending).await;
                self.tally.killed_recovering += 1;
                let clients = self.outlived(clients.join_all()).await?;
                self.take_back(clients.into_iter().map(|(client, _)| client).collect());
            }
        }
        Ok(true)
    }

    /// Starts the server; a server that does not come up on what it has left is a fault.
    async fn start(&self) -> Result<Option<Server>, Failed> {
        let mut server = self.launch.spawn()?;
        match server.up(self.run.drain_limit()).await {
            Ok(url) => self.run.set_target(0, &url).map(|()| Some(server)),
            Err(what) => {
                self.run.verdict.fault(|| format!("after a kill: {what}"));
                Ok(None)
            }
        }
    }

    /// Lets all clients come back, until all is acked and everyone has it.
    async fn recover(&mut self) {
        let (_alive, is_ending) = watch::channel(false);
        let clients = self.spawn_recovery(&is_ending).join_all().await;
        self.tally.resumed += clients.iter().filter(|(_, resumed)| *resumed).count() as u64;
        self.take_back(clients.into_iter().map(|(client, _)| client).collect());
    }

    fn spawn_recovery(&mut self, is_ending: &Ending) -> JoinSet<(Client, bool)> {
        for client in &self.clients {
            client.channel.writers_left.store(self.crash.clients, Ordering::Release);
        }
        let mut tasks = JoinSet::new();
        for mut client in self.clients.drain(..) {
            let (run, is_ending) = (Arc::clone(&self.run), is_ending.clone());
            tasks.spawn(async move {
                let resumed = client.recover(&run, is_ending).await;
                (client, resumed)
            });
        }
        tasks
    }

    fn take_back(&mut self, mut clients: Vec<Client>) {
        clients.sort_by_key(|client| client.member.who);
        self.clients = clients;
    }

    /// The clients, channel by channel.
    fn by_channel(&self) -> impl Iterator<Item = &[Client]> {
        self.clients.chunks(self.crash.clients + READERS.len())
    }

    async fn audit(&mut self) {
        let mut tasks = JoinSet::new();
        for clients in self.by_channel() {
            let (run, channel) = (Arc::clone(&self.run), Arc::clone(&clients[0].channel));
            let (who, unacked) = (clients[0].member.who, clients.iter());
            let unacked: Vec<_> = unacked.map(|client| client.member.unacked_updates()).collect();
            tasks.spawn(async move {
                let audited = audit::audit(&run, &channel, who, &unacked).await;
                audited.inspect_err(|e| run.connection_lost(&format!("audit of {}", channel.name), e))
            });
        }
        for audited in tasks.join_all().await.into_iter().flatten() {
            self.tally.lost += audited.lost;
            self.tally.unacked += audited.unacked;
            self.tally.survived += audited.survived;
        }
    }

    async fn final_pulls(&self) {
        let mut tasks = JoinSet::new();
        for clients in self.by_channel() {
            let (run, channel) = (Arc::clone(&self.run), Arc::clone(&clients[0].channel));
            let who = clients[0].member.who;
            tasks.spawn(async move {
                pulled::verify(&run, &channel, Member::new("the round's last pull", who)).await;
            });
        }
        tasks.join_all().await;
    }

    /// Connects to the channels that were made under load, from this one on: each that has a version must have the site id
    /// that it had.
    async fn check_made(&self, from: usize) {
        for channel in &self.made[from..] {
            let name = format!("a client of {}, made under load,", channel.name);
            if let Err(e) = Member::new(name.as_str(), 0).connect(&self.run, channel).await {
                self.run.connection_lost(&name, &e);
            }
            self.run.verdict.checked(1);
        }
    }

    /// The server's own check of what it left.
    fn verify(&mut self) -> Result<(), Failed> {
        if self.tally.cannot_verify {
            return Ok(());
        }
        match offline::verify(&self.launch)? {
            Verified::Unknown => self.tally.cannot_verify = true,
            Verified::Wrong(what) => self.run.verdict.fault(|| what),
            Verified::Well(lines) => {
                self.tally.verifies += 1;
                self.tally.channels_verified += lines.len() as u64;
                let known = self.clients.iter().map(|client| &client.channel).chain(&self.made);
                let lacks = |channel: &&Arc<Channel>| !lines.iter().any(|line| line.contains(&channel.name));
                for channel in known.filter(|channel| channel.is_made(0)).filter(lacks) {
                    self.run.verdict.fault(|| format!("verify does not know channel {}", channel.name));
                }
            }
        }
        Ok(())
    }
}

/// Makes new channels, each by its first update, at random moments, until the server dies. What it did not answer counts as
/// well: what is half made must not be in the way later.
async fn make_channels(run: Arc<Run>, round: u64, first: usize, mut ending: Ending) -> Vec<Arc<Channel>> {
    let mut rng = Rng::new(mix(run.common.seed) ^ mix(round));
    let mut made = Vec::new();
    for number in first..first + NEW_CHANNELS {
        let wait = Duration::from_millis(rng.below(NEW_CHANNEL_MS));
        if tokio::time::timeout(wait, ending.wait_for(|is_ending| *is_ending)).await.is_ok() {
            break;
        }
        let channel = Arc::new(Channel::new(&run, run.plan(number), 0));
        let name = format!("the first client of {}", channel.name);
        let mut member = Member::new(name.as_str(), 0);
        let edits = next_edits(&mut rng, &Replica::default(), &channel.keys, 0..1, 1);
        let answered = async {
            let mut conn = member.connect(&run, &channel).await?;
            member.write(&channel, &mut conn, run.meter.now_ns(), edits);
            while !member.unacked_updates().is_empty() {
                member.turn(&run, &channel, &mut conn, Instant::now() + run.drain_limit()).await?;
            }
            Ok::<_, ConnError>(())
        };
        if let Err(e) = answered.await
            && !*ending.borrow()
        {
            run.connection_lost(&name, &e);
        }
        made.push(channel);
    }
    made
}
