//! Three nodes under clients that write to any of them, while nodes and Redis are killed and Redis hangs: in the end all have
//! the same data, and everything that was acked. `redis-server` must be installed.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::redis::{Cluster, Redis};
use common::{Server, cell, update};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

on_durable_stores!(whatever_fails_all_nodes_end_with_everything_that_was_acked);

const NODES: [&str; 3] = ["a", "b", "c"];
const CHANNELS: [&str; 2] = ["list", "other"];
const WRITERS: u64 = 4;

/// Rows that all writers change.
const SHARED: u64 = 10;

/// Updates that a writer sends at once.
const BATCH: u64 = 10;

/// How long faults go on.
const FAULTS: Duration = Duration::from_secs(6);

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Writes to one node after the other until it is told to stop; gives the rows of its own, of each channel, that were acked.
fn write(writer: u64, nodes: &[RwLock<Option<Server>>], stop: &AtomicBool) -> Vec<BTreeSet<String>> {
    let mut random = Random(writer);
    let mut acked = vec![BTreeSet::new(); CHANNELS.len()];
    let mut n = 0;
    while !stop.load(Relaxed) {
        let (node, channel) = (random.below(3) as usize, random.below(2) as usize);
        let node = nodes[node].read().unwrap();
        let Some(server) = &*node else { continue };
        let mut client = server.connect(CHANNELS[channel]);
        for _ in 0..BATCH {
            n += 1;
            let own = format!("{writer}/{n}");
            let shared = cell(&format!("shared {}", random.below(SHARED)), "c", n * 10 + writer, n);
            client.send_json(&update(n, &[cell(&own, "c", n, 1), shared]));
            acked[channel].insert(own);
        }
        let mut acks = 0;
        while acks < BATCH {
            let message = client.recv_json();
            assert_ne!(message["type"], "error", "{message}");
            acks += u64::from(message["type"] == "ack");
        }
    }
    acked
}

fn whatever_fails_all_nodes_end_with_everything_that_was_acked(store: &'static str) {
    let seed = std::env::var("CLUSTER_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut random = Random(seed);
    let redis = Mutex::new(Some(Redis::start()));
    let port = redis.lock().unwrap().as_ref().unwrap().port;
    let cluster = Cluster::new(store, redis.lock().unwrap().as_ref().unwrap());
    let nodes: Vec<_> = NODES.iter().map(|node| RwLock::new(Some(cluster.start(node)))).collect();
    let stop = AtomicBool::new(false);
    let acked = thread::scope(|scope| {
        let (nodes, stop) = (&nodes, &stop);
        let writers: Vec<_> =
            (1..=WRITERS).map(|writer| scope.spawn(move || write(writer, nodes, stop))).collect();
        let end = Instant::now() + FAULTS;
        while Instant::now() < end && !writers.iter().any(|writer| writer.is_finished()) {
            let pause = |random: &mut Random| thread::sleep(Duration::from_millis(50 + random.below(500)));
            pause(&mut random);
            let mut redis = redis.lock().unwrap();
            match random.below(3) {
                0 => {
                    let node = random.below(3) as usize;
                    nodes[node].write().unwrap().take().unwrap().kill();
                    pause(&mut random);
                    *nodes[node].write().unwrap() = Some(cluster.start_alone(NODES[node], &[]));
                }
                1 => {
                    redis.take().unwrap().kill();
                    pause(&mut random);
                    *redis = Some(Redis::on(port));
                }
                _ => {
                    redis.as_ref().unwrap().freeze();
                    pause(&mut random);
                    pause(&mut random);
                    redis.as_ref().unwrap().signal("CONT");
                }
            }
        }
        stop.store(true, Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    for (n, channel) in CHANNELS.iter().enumerate() {
        let own: BTreeSet<&String> = acked.iter().flat_map(|acked| &acked[n]).collect();
        // All shared rows were written, as often as that.
        cluster.agree(&NODES, channel, own.len() + SHARED as usize);
        for node in &nodes {
            let rows = node.read().unwrap().as_ref().unwrap().connect(channel).pull_rows(0);
            let rows: BTreeSet<String> = rows.iter().map(|row| row[1].as_str().unwrap().to_owned()).collect();
            assert!(own.iter().all(|row| rows.contains(*row)), "everything that was acked");
        }
    }
}
