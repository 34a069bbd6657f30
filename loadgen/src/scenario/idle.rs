//! `idle`: connections that do nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::Failed;
use crate::conn::ConnectWith;
use crate::options::{Idle, Scenario};
use crate::process::Sample;
use crate::report::Report;
use crate::run::{Progress, Run, measure};

/// Connections opened at once; more would only overflow the server's accept queue.
const OPENING_AT_ONCE: usize = 64;
/// Connections from one source address; the kernel has some 28,000 ports for each.
const PER_SOURCE: usize = 20_000;
/// How long the server may take to come to rest before its memory is read.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) async fn run(run: Arc<Run>, scenario: &Scenario, idle: &Idle) -> Result<Report, Failed> {
    let progress = Progress::new(&run, &[]);
    let mut idlers = Idlers::default();
    // First one to each channel: what an open channel costs is not to be counted to the connections.
    let channels = idle.channels.min(idle.connections);
    progress.line("opening the channels");
    idlers.open(&run, 0..channels, idle.channels).await;
    tokio::time::sleep(SETTLE).await;
    let opened = run.processes.sample();
    progress.line("connecting");
    idlers.open(&run, channels..idle.connections, idle.channels).await;
    let connected = run.processes.sample();
    progress.line("settling");
    tokio::time::sleep(SETTLE).await;
    progress.done();

    run.meter.set_window(Duration::ZERO, Duration::from_secs_f64(run.common.seconds));
    let held = tokio::time::sleep(Duration::from_secs_f64(run.common.seconds));
    let (figures, ()) = measure(&run, &[], held).await;
    let open = idlers.greeted.load(Ordering::Relaxed);
    run.verdict.checked(open as u64);
    idlers.tasks.abort_all();

    let mut facts = BTreeMap::from([("connections open", open as f64)]);
    if let (Some(before), Some(opened), Some(connected), Some((_, end))) =
        (run.server_before, opened, connected, figures.server)
    {
        let grown = |from: Sample, to: Sample, by: usize| {
            (to.rss_bytes as f64 - from.rss_bytes as f64) / by.max(1) as f64
        };
        facts.insert("server bytes before connecting", before.rss_bytes as f64);
        facts.insert("server bytes once channels are open", opened.rss_bytes as f64);
        facts.insert("server bytes once connected", connected.rss_bytes as f64);
        facts.insert("server bytes at the end", end.rss_bytes as f64);
        facts.insert("bytes a channel, 1 connection each", grown(before, opened, channels));
        facts.insert("bytes a connection, channels and all", grown(before, end, open));
        if open > channels {
            facts.insert("bytes a further connection", grown(opened, end, open - channels));
        }
    }
    Ok(Report::new(&run, scenario, &figures, &[], &[], facts))
}

/// The connections, each a task that waits for what should never come.
#[derive(Debug, Default)]
struct Idlers {
    greeted: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Idlers {
    /// Opens the connections of these numbers, and waits until each was greeted or has failed.
    async fn open(&mut self, run: &Arc<Run>, numbers: Range<usize>, channels: usize) {
        let opening = Arc::new(Semaphore::new(OPENING_AT_ONCE));
        for number in numbers {
            let permit = Arc::clone(&opening).acquire_owned().await.expect("nobody closes the semaphore");
            let (run, greeted) = (Arc::clone(run), Arc::clone(&self.greeted));
            let channel = run.channel(number % channels);
            self.tasks.spawn(async move { idle_on(&run, number, &channel, permit, &greeted).await });
        }
        let all = opening.acquire_many(OPENING_AT_ONCE as u32);
        if tokio::time::timeout(run.drain_limit(), all).await.is_err() {
            run.verdict.fault(|| "not all connections were greeted".into());
        }
    }
}

/// Connects, gives its permit back once greeted, and stays until it is aborted; any other end is a fault.
async fn idle_on(
    run: &Run,
    number: usize,
    channel: &str,
    permit: OwnedSemaphorePermit,
    greeted: &AtomicUsize,
) {
    let source = source_of(run.target(0).address.ip(), number);
    let mut permit = Some(permit);
    let error = match run.connect(channel, ConnectWith { source, receive_buffer: None }).await {
        Ok(mut conn) => loop {
            let turn = conn
                .turn(|_| {
                    // The greeting; nothing else is said to one who says nothing.
                    if permit.take().is_some() {
                        greeted.fetch_add(1, Ordering::Relaxed);
                    }
                })
                .await;
            run.count_bytes(number, &mut conn);
            if let Err(e) = turn {
                break e;
            }
        },
        Err(e) => e,
    };
    run.connection_lost(&format!("connection {number}"), &error);
}

/// On loopback any 127.x.y.z may be a source; elsewhere the kernel must choose.
fn source_of(server: IpAddr, number: usize) -> Option<IpAddr> {
    let IpAddr::V4(address) = server else { return None };
    let block = number / PER_SOURCE;
    (address.is_loopback() && block > 0)
        .then(|| IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1 + block.min(200) as u8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_come_from_several_addresses() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(source_of(loopback, PER_SOURCE - 1), None);
        assert_ne!(source_of(loopback, PER_SOURCE), source_of(loopback, 2 * PER_SOURCE));
        assert_eq!(source_of(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 100_000), None);
    }
}
