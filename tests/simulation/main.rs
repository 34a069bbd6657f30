//! The server's own code in a simulated network: clients, delays, partitions, half-open connections, a disk that fails and
//! a server that crashes, all drawn from a seed, in one thread and in simulated time; and an oracle that says
//!
//! - that every client's database, and the server's, end as the merge of all updates;
//! - that versions never fall, on a connection or over reconnects;
//! - that what is acked or forwarded is on the disk, and still there after every crash;
//! - that a client that has pulled once and then applied every message up to version V holds every winning change up to V,
//!   at every message.
//!
//! A seed is the same run every time. `cargo test --test simulation` runs seeds 0 to 299.
//!
//! - `SIMULATION_SEEDS=5000 cargo test --release --test simulation` runs as many.
//! - `SIMULATION_SEED=1234 cargo test --test simulation -- --nocapture` runs that one and prints all that happens.

#![allow(missing_docs, clippy::unwrap_used)]

mod client;
#[path = "../common/mod.rs"]
mod common;
mod disk;
mod host;
mod message;
#[path = "../../storage/tests/merge/model.rs"]
#[allow(dead_code)]
mod model;
mod oracle;
mod plan;
mod random;
mod socket;
mod world;
mod writer;

use std::cell::Cell;
use std::sync::Once;

use oracle::Counts;

const SEEDS: u64 = 300;

/// What happens in some run of every share, or the runs have become too tame.
const REACHED: [&str; 18] = [
    "acks",
    "live updates",
    "pages",
    "versions split over pages",
    "falls back to pages",
    "broken links",
    "broke",
    "fell silent",
    "hung up",
    "stopped reading",
    "closed: going away",
    "closed: try again later",
    "crashes",
    "power failures",
    "failed opens",
    "failed pages",
    "failed commits",
    "commits that failed after all was done",
];

/// The seeds are shared by so many tests, for as many cores.
const SHARES: u64 = 4;

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// How often this thread has panicked. A panic in a task of the server's is caught by its runtime, and would go unseen.
fn panics() -> u64 {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            hook(panic);
        }));
    });
    PANICS.get()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

fn check(seed: u64) -> Counts {
    let run = world::run(seed, false, false);
    if let Err(broken) = run.result {
        panic!(
            "seed {seed}: {broken}\nsee it happen: SIMULATION_SEED={seed} cargo test --test simulation -- --nocapture"
        );
    }
    run.counts
}

/// Runs one seed and prints its events, the server's own among them.
fn show(seed: u64) {
    let log = tracing_subscriber::fmt()
        .with_env_filter("causeway=debug")
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr);
    let run = tracing::subscriber::with_default(log.finish(), || world::run(seed, false, true));
    if let Err(broken) = run.result {
        panic!("seed {seed}: {broken}");
    }
}

fn share(share: u64) {
    if let Some(seed) = number("SIMULATION_SEED") {
        if share == seed % SHARES {
            show(seed);
        }
        return;
    }
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let mut counts = Counts::new();
    for seed in (share..seeds).step_by(SHARES as usize) {
        for (what, count) in check(seed) {
            *counts.entry(what).or_default() += count;
        }
    }
    println!("{counts:#?}");
    if seeds >= SEEDS {
        for what in REACHED {
            assert!(counts.contains_key(what), "no seed has reached {what:?}");
        }
    }
}

#[test]
fn promises_are_kept_1() {
    share(0);
    common::guarantees::row(common::guarantees::Row {
        number: 80,
        fault: "The network delays, holds, partitions; connections stay half open; the server crashes, drains and restarts; its disk fails: 300 seeds",
        sender: "no ack without durability, at every crash",
        others: "versions never fall; whoever has applied all up to V holds all that won up to V, at every message; in the end all are equal",
        lost: "nothing acked",
        command: "cargo test --test simulation",
    });
}

#[test]
fn promises_are_kept_2() {
    share(1);
}

#[test]
fn promises_are_kept_3() {
    share(2);
}

#[test]
fn promises_are_kept_4() {
    share(3);
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in 0..6 {
        let (one, two) = (world::run(seed, true, false).trace, world::run(seed, true, false).trace);
        assert!(one.len() > 1000, "seed {seed} has {} events", one.len());
        let apart = one.iter().zip(&two).find(|(one, two)| one != two);
        assert_eq!(apart, None, "seed {seed}");
        assert_eq!(one.len(), two.len());
    }
}
