//! Channels that open, close when they are idle, and open again.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::{Server, cell, keys};
use std::thread;
use std::time::Duration;

on_every_store!(a_channel_that_was_idle_goes_on, more_channels_than_may_be_open_work_together);

fn a_channel_that_was_idle_goes_on(store: &str) {
    let server = Server::with(store, &[("channel-idle-ms", "50")]);
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    for n in 1..=4 {
        assert_eq!(client.update(n, &[cell(&format!("k{n}"), "c", n, 1)])["version"], n);
        assert_eq!(other.recv_type("update")["version"], n, "who was there all the time still hears");
        thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(other.pull_rows(2).len(), 2);
    drop((client, other));
    thread::sleep(Duration::from_millis(300));
    let mut client = server.connect("list");
    assert_eq!(client.connected_version(), 4);
    assert_eq!(keys(&client.pull_rows(0)), ["k1", "k2", "k3", "k4"]);
}

fn more_channels_than_may_be_open_work_together(store: &str) {
    const CHANNELS: usize = 12;
    let server = Server::with(store, &[("max-open-channels", "2")]);
    let mut pairs: Vec<_> = (0..CHANNELS)
        .map(|n| {
            let name = format!("channel{n}");
            (server.connect(&name), server.connect(&name))
        })
        .collect();
    // All have followers, and are written to and read from in turn.
    for round in 1..=4 {
        for (n, (writer, reader)) in pairs.iter_mut().enumerate() {
            let key = format!("{n}-{round}");
            assert_eq!(writer.update(round, &[cell(&key, "c", round, 1)])["version"], round);
            let told = reader.recv_type("update");
            assert_eq!((&told["version"], keys(common::changes(&told))), (&round.into(), vec![key]));
        }
    }
    for (n, (writer, _)) in pairs.iter_mut().enumerate() {
        let expected: Vec<_> = (1..=4).map(|round| format!("{n}-{round}")).collect();
        assert_eq!(keys(&writer.pull_rows(0)), expected);
    }
}
