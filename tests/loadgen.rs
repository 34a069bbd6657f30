//! The load generator against the real server: what it sends is what a cr-sqlite client of its tables would send.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::Server;
use common::loadgen::{SCHEMA, loadgen};

on_durable_stores!(every_scenario_fits_its_schema);

fn every_scenario_fits_its_schema(store: &str) {
    let server = Server::with(store, &[("schema", SCHEMA)]);
    for scenario in [
        "merge --channels 2 --connections-per-channel 2 --changes 3",
        "merge --keys sequential --changes 100 --columns 8",
        "merge --rows 10 --columns 2",
        "fanout --followers 3",
        "pull --rows 1000 --changes 100 --pulls 2 --keys sequential",
        "idle --connections 20 --channels 3",
        "mixed --channels 1 --rows 20 --columns 8",
        "mixed --channels 1 --rows 20 --columns 8 --values any --keys sequential",
    ] {
        run(&format!("{scenario} --url ws://{} --seconds 0.5 --warmup-seconds 0.1", server.addr));
    }
    assert_eq!(server.metric("errors_total"), 0, "nothing was refused");
    let own = format!("--server {} --server-arg=--schema={SCHEMA}", env!("CARGO_BIN_EXE_causeway"));
    run(&format!("crash --rounds 2 --channels 1 --rows 500 --store {store} --columns 8 --values any {own}"));
}

/// Runs a scenario, which must find no fault: an error that the server answers is one.
#[track_caller]
fn run(arguments: &str) {
    let output = loadgen().args(arguments.split(' ')).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments}: {}", String::from_utf8_lossy(&output.stdout));
}
