//! `cluster`: starts several servers and the Redis over which they hear each other, loads all of them, makes faults, and
//! checks that in the end all hold the same: everything that was acked.
//!
//! Clients ([`client`]) write, follow, resume, and go from node to node, while faults ([`fault`]) are done to the nodes, to
//! Redis ([`nodes`], [`redis`]) and to what they say to each other ([`proxy`], [`resp`]). When the load is over and nothing is broken any
//! more, the nodes have to become equal by themselves ([`settle`]), and each client as the node that it is at.

mod client;
mod fault;
mod nodes;
mod proxy;
mod redis;
mod resp;
mod settle;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::client::{Client, Habit, Writing};
use self::fault::Kind;
use self::nodes::Nodes;
use super::Failed;
use super::mixed::{Channel, Member, Timing, pulled};
use super::place::Place;
use crate::meter::{Count, Latency};
use crate::options::{Cluster, Scenario};
use crate::report::Report;
use crate::run::{Progress, Run, measure};
use crate::writer::Pace;

pub(super) async fn run(run: Arc<Run>, scenario: &Scenario, cluster: &Cluster) -> Result<Report, Failed> {
    let place = Place::new(cluster.serving.program.data.as_deref(), "cluster")?;
    let kinds = fault::kinds(cluster);
    let settings = nodes::settings(cluster, !kinds.is_empty());
    let kept = format!("the data and the logs are kept in {}", place.data.display());
    let nodes = Nodes::start(&run, cluster, &place.data, &settings).await;
    let nodes = Arc::new(nodes.map_err(|e| format!("{e}; {kept}"))?);
    let channels: Vec<_> = (0..cluster.channels).map(|number| channel(&run, cluster, number)).collect();

    run.start_window();
    let (end, ending) = watch::channel(None);
    let mut living = JoinSet::new();
    for client in clients(&run, cluster, &channels, &nodes) {
        let (run, cluster, ending) = (Arc::clone(&run), cluster.clone(), ending.clone());
        living.spawn(async move { client.live(&run, &cluster, ending).await });
    }
    let faults = tokio::spawn(make_faults(Arc::clone(&run), Arc::clone(&nodes), kinds));
    let closes = run.meter.instant_of(run.meter.closes_ns());
    let rates = [
        (Count::Acks, "updates acked"),
        (Count::Changes, "changes acked"),
        (Count::Deliveries, "deliveries"),
        (Count::Reconnects, "reconnects"),
    ];
    let (figures, redis_cpu_s) = measure(&run, &rates, async {
        let before = nodes.redis().await;
        tokio::time::sleep_until(closes.into()).await;
        nodes.redis().await.cpu_s - before.cpu_s
    })
    .await;

    // Each fault heals itself.
    faults.await.map_err(|e| format!("the faults: {e}"))?;
    while channels.iter().any(|channel| channel.writers_left.load(Ordering::Acquire) > 0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Progress::new(&run, &[]).line("waiting until the nodes are equal");
    let limit = Duration::from_secs_f64(cluster.settle);
    let (took, settled) = settle::settle(&run, &nodes, &channels, limit).await;
    // Of nodes that differ nothing more is to be expected.
    let patience = if settled { run.drain_limit() } else { Duration::ZERO };
    end.send_replace(Some(Instant::now() + patience));
    let cut: u64 = living.join_all().await.into_iter().sum();
    if run.verifies() {
        verify(&run, &nodes, &channels).await;
    }
    nodes.end().await;

    let made = nodes.made().await.into_iter().map(|(name, count)| (name, count as f64));
    let mut facts: BTreeMap<_, _> = made.collect();
    facts.insert("clients cut by a kill", cut as f64);
    facts.insert("settling took, ms", took.as_secs_f64() * 1e3);
    facts.insert("redis-server, CPU ms", redis_cpu_s * 1e3);
    if let Some(added_us) = added_us(&run) {
        facts.insert("cross-node adds at p50, µs", added_us);
    }
    let latencies = [
        (Latency::Ack, "to the ack"),
        (Latency::Delivery, "delivery, same node"),
        (Latency::CrossDelivery, "delivery, other node"),
    ];
    let mut report = Report::new(&run, scenario, &figures, &rates, &latencies, facts);
    if !settings.is_empty() {
        report.note(format!("the nodes were started with {}", settings.join(" ")));
    }
    if report.passed() {
        place.remove()?;
    } else {
        report.note(kept);
    }
    Ok(report)
}

fn channel(run: &Run, cluster: &Cluster, number: usize) -> Arc<Channel> {
    let writers = cluster.nodes * cluster.clients + cluster.movers.div_ceil(2);
    let mut channel = Channel::new(run, run.plan(number), writers);
    channel.timing = Some(Timing::new());
    Arc::new(channel)
}

/// All clients: of each channel writers and followers at each node, and those that go from node to node.
fn clients(run: &Run, cluster: &Cluster, channels: &[Arc<Channel>], nodes: &Arc<Nodes>) -> Vec<Client> {
    let mut clients = Vec::new();
    let writers = channels.iter().map(|channel| channel.writers_left.load(Ordering::Relaxed)).sum();
    let mut writer = 0;
    for channel in channels {
        let mut index = 0;
        let mut add = |node: usize, habit: Habit, writes: bool| {
            let writing = writes.then(|| {
                let pace = Pace::of(cluster.rate, cluster.in_flight, writer, writers);
                (writer, index) = (writer + 1, index + 1);
                Writing { index: index - 1, pace }
            });
            clients.push(Client::new(run, channel, nodes, (clients.len(), node), habit, writing));
        };
        for node in 0..cluster.nodes {
            (0..cluster.clients).for_each(|_| add(node, Habit::Stays, true));
            let habit = |n: usize| if n.is_multiple_of(2) { Habit::Stays } else { Habit::Resumes };
            (0..cluster.followers).for_each(|n| add(node, habit(n), false));
        }
        (0..cluster.movers).for_each(|n| add(n % cluster.nodes, Habit::Moves, n.is_multiple_of(2)));
    }
    clients
}

/// Makes one fault after the other while the measured window is open, and waits until all of them have ended.
async fn make_faults(run: Arc<Run>, nodes: Arc<Nodes>, kinds: Vec<Kind>) {
    let closes = Instant::from_std(run.meter.instant_of(run.meter.closes_ns()));
    let mut next = Instant::from_std(run.meter.instant_of(run.meter.opens_ns()));
    let mut under_way = JoinSet::new();
    for number in 0.. {
        if kinds.is_empty() {
            return;
        }
        let fault = fault::fault(run.common.seed, number, &kinds, nodes.nodes.len());
        next += fault.after;
        if next >= closes {
            break;
        }
        tokio::time::sleep_until(next).await;
        let nodes = Arc::clone(&nodes);
        under_way.spawn(async move { nodes.make(fault).await });
    }
    under_way.join_all().await;
}

/// Pulls every channel from every node: all of it must be exactly what was acked.
async fn verify(run: &Arc<Run>, nodes: &Nodes, channels: &[Arc<Channel>]) {
    let mut pulls = JoinSet::new();
    for channel in channels {
        for (number, node) in nodes.nodes.iter().enumerate() {
            let member = Member::new(format!("a pull at {}", node.name), number).at(number);
            let (run, channel) = (Arc::clone(run), Arc::clone(channel));
            pulls.spawn(async move { pulled::verify(&run, &channel, member).await });
        }
    }
    pulls.join_all().await;
}

/// How much longer half of the deliveries take at most to another node, in microseconds.
fn added_us(run: &Run) -> Option<f64> {
    let p50_us = |which| {
        let all = run.meter.histogram(which);
        (!all.is_empty()).then(|| all.value_at_quantile(0.5) as f64 / 1e3)
    };
    Some(p50_us(Latency::CrossDelivery)? - p50_us(Latency::Delivery)?)
}
