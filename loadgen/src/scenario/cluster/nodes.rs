//! The nodes, the Redis between them, and what is done to them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::super::server::{Launch, Server};
use super::Failed;
use super::fault::{Fault, What};
use super::proxy::Proxy;
use super::redis::Redis;
use crate::options::Cluster;
use crate::process::Sample;
use crate::run::Run;

/// Settings of nodes to which faults are done: they wait for less, so that more happens in a run, and have smaller pages, so
/// that a repair takes several.
const FOR_FAULTS: [(&str, &str); 5] = [
    ("--cluster-heartbeat-ms", "300"),
    ("--cluster-page-timeout-ms", "1000"),
    ("--redis-retry-max-ms", "300"),
    ("--redis-timeout-ms", "1000"),
    ("--page-max-changes", "200"),
];
/// Pauses of Redis above this are counted apart: no node waits so long.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) launch: Launch,
    /// Held while it is killed and started again.
    server: tokio::sync::Mutex<Option<Server>>,
    life: watch::Sender<Life>,
    /// Between it and Redis, if that is to be partitioned; held while it is.
    proxy: Option<tokio::sync::Mutex<Proxy>>,
}

/// A node's lives are counted, to tell a connection that was cut on purpose.
#[derive(Debug, Clone, Copy, Default)]
struct Life {
    number: u64,
    is_up: bool,
}

/// All of it, ended when it is dropped.
#[derive(Debug)]
pub(super) struct Nodes {
    run: Arc<Run>,
    pub(super) nodes: Vec<Node>,
    redis: tokio::sync::Mutex<Redis>,
    /// What was done, by what it is called in the report.
    made: Mutex<BTreeMap<&'static str, u64>>,
}

/// The settings that the scenario gives every node, but for those that are given by hand.
pub(super) fn settings(cluster: &Cluster, with_faults: bool) -> Vec<String> {
    let by_hand =
        |name: &str| cluster.serving.program.server_args.iter().any(|given| given.starts_with(name));
    let short = FOR_FAULTS.iter().filter(|(name, _)| with_faults && !by_hand(name));
    let no_repair = cluster.no_repair.then_some(("--cluster-repairs", "0"));
    short.copied().chain(no_repair).map(|(name, value)| format!("{name}={value}")).collect()
}

impl Nodes {
    /// Starts Redis and the nodes, and waits until all are up.
    pub(super) async fn start(
        run: &Arc<Run>,
        cluster: &Cluster,
        data: &Path,
        settings: &[String],
    ) -> Result<Self, Failed> {
        let redis = Redis::start(&cluster.redis_server, data, run.drain_limit()).await?;
        let mut nodes = Vec::new();
        for name in ('a'..).take(cluster.nodes).map(String::from) {
            let proxy = match cluster.partition {
                true => Some(Proxy::start(redis.address).await.map_err(|e| format!("a proxy: {e}"))?),
                false => None,
            };
            let to = proxy.as_ref().map_or(redis.address, |proxy| proxy.address);
            let own = [format!("--node={name}"), format!("--redis=redis://{to}")];
            let launch = Launch::new(&cluster.serving, data.join(&name), &[settings, &own].concat())?;
            let server = tokio::sync::Mutex::new(Some(launch.spawn()?));
            let (life, proxy) = (watch::Sender::default(), proxy.map(tokio::sync::Mutex::new));
            nodes.push(Node { name, launch, server, life, proxy });
        }
        let (redis, made) = (tokio::sync::Mutex::new(redis), Mutex::default());
        let nodes = Self { run: Arc::clone(run), nodes, redis, made };
        for (number, node) in nodes.nodes.iter().enumerate() {
            if let Some(server) = node.server.lock().await.as_mut() {
                nodes.come_up(number, server).await?;
            }
        }
        Ok(nodes)
    }

    /// Waits until the node is up; which of its lives it is.
    pub(super) async fn up(&self, number: usize) -> Result<u64, String> {
        let limit = self.run.drain_limit();
        let mut life = self.nodes[number].life.subscribe();
        let up = tokio::time::timeout(limit, life.wait_for(|life| life.is_up)).await;
        match up {
            Ok(Ok(life)) => Ok(life.number),
            _ => Err(format!("node {} is not up", self.nodes[number].name)),
        }
    }

    /// Whether that life of the node was ended by a fault.
    pub(super) fn was_killed(&self, number: usize, life: u64) -> bool {
        let now = *self.nodes[number].life.borrow();
        now.number != life || !now.is_up
    }

    /// Makes a fault, from its beginning to its end.
    pub(super) async fn make(&self, fault: Fault) {
        let made = match fault.what {
            What::KillNode(number) => self.kill_node(number, fault.lasts).await,
            What::KillRedis => self.kill_redis(fault.lasts).await,
            What::PauseRedis => self.pause_redis(fault.lasts).await,
            What::Swallow { node, to_redis, from_redis } => {
                self.swallow(node, to_redis, from_redis, fault.lasts).await;
                Ok(())
            }
            What::Reset(node) => {
                if let Some(proxy) = &self.nodes[node].proxy {
                    proxy.lock().await.reset();
                    self.count("faults: connections to Redis cut");
                }
                Ok(())
            }
        };
        if let Err(what) = made {
            self.run.verdict.fault(|| what);
        }
    }

    async fn kill_node(&self, number: usize, lasts: Duration) -> Result<(), String> {
        let node = &self.nodes[number];
        let mut server = node.server.lock().await;
        // One that did not come up is a fault already.
        let Some(killed) = server.take() else { return Ok(()) };
        node.life.send_modify(|life| life.is_up = false);
        self.run.processes.remove(killed.pid());
        let named = |what: String| format!("node {}: {what}", node.name);
        killed.kill().map_err(named)?;
        self.count("faults: nodes killed");
        tokio::time::sleep(lasts).await;
        let mut next = node.launch.spawn()?;
        self.come_up(number, &mut next).await.map_err(named)?;
        *server = Some(next);
        Ok(())
    }

    async fn come_up(&self, number: usize, server: &mut Server) -> Result<(), String> {
        let url = server.up(self.run.drain_limit()).await?;
        self.run.set_target(number, &url)?;
        self.run.processes.add(server.pid());
        self.nodes[number].life.send_modify(|life| *life = Life { number: life.number + 1, is_up: true });
        Ok(())
    }

    async fn kill_redis(&self, lasts: Duration) -> Result<(), String> {
        let mut redis = self.redis.lock().await;
        redis.kill()?;
        self.count("faults: Redis killed");
        tokio::time::sleep(lasts).await;
        redis.begin(self.run.drain_limit()).await
    }

    async fn pause_redis(&self, lasts: Duration) -> Result<(), String> {
        let redis = self.redis.lock().await;
        redis.signal("STOP")?;
        self.count("faults: Redis paused");
        if lasts > LONG_PAUSE {
            self.count("faults: Redis paused over 1 s");
        }
        tokio::time::sleep(lasts).await;
        redis.signal("CONT")
    }

    async fn swallow(&self, node: usize, to_redis: bool, from_redis: bool, lasts: Duration) {
        let Some(proxy) = &self.nodes[node].proxy else { return };
        let proxy = proxy.lock().await;
        proxy.swallow(to_redis, from_redis);
        self.count("faults: partitions");
        match (to_redis, from_redis) {
            (true, false) => self.count("faults: partitions to Redis only"),
            (false, true) => self.count("faults: partitions from Redis only"),
            _ => {}
        }
        tokio::time::sleep(lasts).await;
        proxy.swallow(false, false);
    }

    fn count(&self, what: &'static str) {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }

    /// How many faults of each kind were made, and what they did.
    pub(super) async fn made(&self) -> BTreeMap<&'static str, u64> {
        let mut swallowed = 0;
        for proxy in self.nodes.iter().filter_map(|node| node.proxy.as_ref()) {
            swallowed += proxy.lock().await.swallowed();
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if swallowed > 0 {
            made.insert("messages swallowed", swallowed);
        }
        made
    }

    /// What Redis costs.
    pub(super) async fn redis(&self) -> Sample {
        self.redis.lock().await.processes.sample().unwrap_or_default()
    }

    /// Asks all nodes to end, which they must do well.
    pub(super) async fn end(&self) {
        for node in &self.nodes {
            let Some(server) = node.server.lock().await.take() else { continue };
            node.life.send_modify(|life| life.is_up = false);
            if let Err(what) = server.terminate(self.run.drain_limit()).await {
                self.run.verdict.fault(|| format!("node {}: {what}", node.name));
            }
        }
    }
}
