//! A run: one server, its clients, and what goes wrong between them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use causeway::work::Work;
use causeway_storage::{StoreOptions, memory};
use turmoil::Sim;

use crate::client::{Client, pull_all};
use crate::disk::{Disk, Trouble};
use crate::host::{Host, SERVER, serve};
use crate::oracle::{Counts, Oracle};
use crate::plan::{Break, Fault, Plan};
use crate::random::Random;

/// How long all may take to come to the end once nothing goes wrong any more.
const END: Duration = Duration::from_secs(60);

/// What a run has come to.
pub(crate) struct Run {
    pub(crate) result: Result<(), String>,
    pub(crate) counts: Counts,
    /// Every event, if it was asked for.
    pub(crate) trace: Vec<String>,
}

/// Runs a seed. `traced` keeps the events, `aloud` prints them as they happen.
pub(crate) fn run(seed: u64, traced: bool, aloud: bool) -> Run {
    let oracle = Oracle::new(traced, aloud);
    let result = World::new(seed, &oracle).run();
    let (counts, trace) = oracle.take();
    Run { result, counts, trace }
}

struct World {
    sim: Sim<'static>,
    oracle: Oracle,
    disk: Disk,
    duration: Duration,
    faults: std::vec::IntoIter<(Duration, Fault)>,
    /// Each client's link: what is wrong with it, and the fault's name.
    links: Vec<Option<(Break, u64)>>,
    names: Vec<String>,
    host: Arc<Host>,
    /// How long the server is down once it has drained.
    down: Duration,
    /// When a server that is down is started.
    starts: Option<Duration>,
}

/// The name of the fault that a power failure is.
const POWER: u64 = u64::MAX;

impl World {
    fn new(seed: u64, oracle: &Oracle) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::new(&mut random);
        oracle.trace(|| format!("{plan:#?}"));
        let memory = (memory::BACKEND.open)(&StoreOptions::new("nowhere")).unwrap();
        let disk = Disk::new(memory, oracle.clone(), random.fork());

        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .epoch(SystemTime::UNIX_EPOCH)
            .tick_duration(plan.tick)
            .min_message_latency(plan.latency.0)
            .max_message_latency(plan.latency.1)
            .tcp_capacity(plan.segments)
            .simulation_duration(Duration::MAX)
            .enable_random_order()
            .build();
        let host = Arc::<Host>::default();
        let work = simulated_work(plan.work, random.fork(), oracle.clone());
        let server = (host.clone(), plan.config, work, disk.clone());
        sim.host(SERVER, move || {
            let (host, config, work, disk) = server.clone();
            serve(host, config, work, disk)
        });

        let mut names = Vec::new();
        let mut channels = BTreeSet::new();
        for (number, habits) in plan.clients.into_iter().enumerate() {
            let name = format!("client{number}");
            channels.insert(habits.channel.clone());
            let client = Client::new(name.clone(), habits, oracle.clone(), random.fork());
            sim.client(name.clone(), async move {
                client.run().await;
                Ok(())
            });
            names.push(name);
        }
        let (clients, told) = (names.len(), oracle.clone());
        sim.client("fresh", async move {
            while told.ended() < clients {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            for channel in channels {
                pull_all(&told, &channel).await?;
            }
            Ok(())
        });
        World {
            sim,
            oracle: oracle.clone(),
            disk,
            duration: plan.duration,
            faults: plan.faults.into_iter(),
            links: vec![None; names.len()],
            names,
            host,
            down: Duration::ZERO,
            starts: None,
        }
    }

    fn run(mut self) -> Result<(), String> {
        let panics = crate::panics();
        loop {
            let now = self.sim.elapsed();
            self.oracle.set_time(now);
            if self.oracle.is_healed() {
                if now > self.duration + END {
                    return Err(format!("it does not come to its end: {}", self.oracle.still_open()));
                }
            } else {
                while let Some((_, fault)) =
                    self.faults.as_slice().first().filter(|(at, _)| *at <= now).copied()
                {
                    self.faults.next();
                    self.happens(fault);
                }
                if now >= self.duration {
                    self.heal();
                }
            }
            self.tend_server(now);
            let ended = self.sim.step().map_err(|e| self.oracle.what_is_broken().unwrap_or(e.to_string()))?;
            if let Some(broken) = self.oracle.what_is_broken() {
                return Err(broken);
            }
            if crate::panics() > panics {
                return Err("something has panicked, see above".into());
            }
            if ended {
                self.oracle.check_end(self.disk.contents());
                return self.oracle.what_is_broken().map_or(Ok(()), Err);
            }
        }
    }

    fn happens(&mut self, fault: Fault) {
        self.oracle.trace(|| format!("{fault:?}"));
        match fault {
            Fault::Break(client, how, name) if self.links[client].is_none() => {
                self.break_link(client, how, name)
            }
            Fault::Break(..) => {}
            Fault::Mend(name) => self.mend_links(|broken| broken == name),
            Fault::Slow(client, latency) => {
                self.sim.set_link_max_message_latency(self.names[client].as_str(), SERVER, latency);
            }
            Fault::Crash(down, power) => self.crash(down, power),
            Fault::Drain(down) => {
                if self.host.stop() {
                    self.oracle.count("drains");
                    self.down = down;
                }
            }
            Fault::Disk(trouble) => self.disk.set_trouble(trouble),
        }
    }

    fn break_link(&mut self, client: usize, how: Break, name: u64) {
        self.oracle.count("broken links");
        self.links[client] = Some((how, name));
        let client = self.names[client].as_str();
        match how {
            Break::Both => self.sim.partition(client, SERVER),
            Break::ToServer => self.sim.partition_oneway(client, SERVER),
            Break::ToClient => self.sim.partition_oneway(SERVER, client),
            Break::Hold => self.sim.hold(client, SERVER),
        }
    }

    fn mend_links(&mut self, which: impl Fn(u64) -> bool) {
        for (link, client) in self.links.iter_mut().zip(&self.names) {
            if link.is_some_and(|(_, name)| which(name))
                && let Some((how, _)) = link.take()
            {
                match how {
                    Break::Both => self.sim.repair(client.as_str(), SERVER),
                    Break::ToServer => self.sim.repair_oneway(client.as_str(), SERVER),
                    Break::ToClient => self.sim.repair_oneway(SERVER, client.as_str()),
                    Break::Hold => self.sim.release(client.as_str(), SERVER),
                }
            }
        }
    }

    fn crash(&mut self, down: Duration, power: bool) {
        if !self.sim.is_host_running(SERVER) {
            return;
        }
        self.oracle.count(if power { "power failures" } else { "crashes" });
        if power {
            for client in 0..self.links.len() {
                if self.links[client].is_none() {
                    self.break_link(client, Break::Both, POWER);
                }
            }
        }
        self.end_server(down);
    }

    /// The server ends as it stands, and starts after that time.
    fn end_server(&mut self, down: Duration) {
        let (host, sim) = (self.host.clone(), &mut self.sim);
        host.dies(|| sim.crash(SERVER));
        self.oracle.check_store(self.disk.contents());
        self.starts = Some(self.sim.elapsed() + down);
    }

    fn tend_server(&mut self, now: Duration) {
        if self.host.has_drained() {
            self.oracle.trace(|| "the server has drained".into());
            self.end_server(self.down);
        }
        if self.starts.is_some_and(|at| at <= now) {
            self.oracle.trace(|| "the server starts".into());
            self.starts = None;
            self.sim.bounce(SERVER);
            self.mend_links(|name| name == POWER);
        }
    }

    /// Everything is well from here on.
    fn heal(&mut self) {
        self.oracle.trace(|| "all is well".into());
        self.mend_links(|_| true);
        for client in &self.names {
            self.sim.set_link_max_message_latency(client.as_str(), SERVER, Duration::from_millis(5));
        }
        self.disk.set_trouble(Trouble::default());
        self.oracle.heal();
    }
}

/// How long pieces of work take, in the order in which they are begun; at the end they are fast.
fn simulated_work((min, max): (Duration, Duration), random: Random, oracle: Oracle) -> Work {
    let random = Mutex::new(random);
    Work::Simulated(Arc::new(move || {
        if oracle.is_healed() {
            return Duration::from_millis(1);
        }
        let micros = random.lock().unwrap().between(min.as_micros() as u64..=max.as_micros() as u64);
        Duration::from_micros(micros)
    }))
}
