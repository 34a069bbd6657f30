//! Pages that cannot be read.

use causeway_storage::faulty::{At, Fault};

use super::common::guarantees::{Row, row};
use super::common::{cell, changes, pull};
use super::house::{House, expect_there, expect_told, new_cell};

on_every_store!(
    a_failed_pull_is_told_and_can_come_again,
    a_slow_page_holds_up_nobody_else,
    slow_pages_hold_up_no_large_message,
);

fn a_failed_pull_is_told_and_can_come_again(store: &str) {
    for fault in [Fault::Engine, Fault::Corrupt] {
        let house = House::new(store);
        let (mut sender, mut follower) = (house.connect("list"), house.connect("list"));
        let mut puller = house.connect("list");
        sender.update(1, &[new_cell(1)]);
        expect_told(&mut follower, 1, 1);
        expect_told(&mut puller, 1, 1);
        house.faults.once("list", At::Read, fault);
        puller.send_json(&pull(0));
        let error = puller.recv_type("error");
        assert_eq!(error["code"], "storage", "{error}");
        puller.expect_close(1013);
        let unavailable = r#"causeway_channel_unavailable{channel="list",to="read"} 1"#;
        assert_eq!(house.metrics("causeway_channel_unavailable{"), [unavailable]);
        // Nobody else has noticed, writers least of all.
        assert_eq!(sender.update(2, &[new_cell(2)])["version"], 2);
        expect_told(&mut follower, 2, 2);
        assert_eq!(house.metrics("causeway_channel_unavailable{"), [unavailable], "it says what fails");
        expect_there(&house, "list", &[1, 2]);
        assert_eq!(house.metrics("causeway_channel_unavailable{"), [""; 0]);
    }
    row(Row {
        number: 20,
        fault: "A page cannot be read: an I/O error, a corrupt page",
        sender: "who pulled: `error` with code `storage`, then a close with 1013; it can come again and pull from where it was",
        others: "nothing; commits and live updates of its channel go on",
        lost: "nothing",
        command: "cargo test --test faults a_failed_pull",
    });
}

fn a_slow_page_holds_up_nobody_else(store: &str) {
    let house = House::new(store);
    let (mut sender, mut follower) = (house.connect("list"), house.connect("list"));
    let mut puller = house.connect("list");
    sender.update(1, &[new_cell(1)]);
    expect_told(&mut follower, 1, 1);
    expect_told(&mut puller, 1, 1);
    house.faults.once("list", At::Read, Fault::Held);
    puller.send_json(&pull(0));
    house.faults.wait_held();
    for n in 2..5 {
        assert_eq!(sender.update(n, &[new_cell(n)])["version"], n);
        expect_told(&mut follower, n, n);
    }
    assert_eq!(follower.pull_rows(2).len(), 2, "other pages are read meanwhile");
    house.faults.release();
    let mut found = Vec::new();
    while found.len() < 4 {
        found.extend(super::common::keys(changes(&puller.recv_type("update"))));
    }
    assert_eq!(found, ["k1", "k2", "k3", "k4"], "and what was committed meanwhile is not skipped");
    sender.update(5, &[new_cell(5)]);
    expect_told(&mut puller, 5, 5);
    row(Row {
        number: 21,
        fault: "A page takes long to be read",
        sender: "who pulled waits; then it has all, what was committed meanwhile too",
        others: "nothing: commits, live updates and other pulls of its channel go on meanwhile",
        lost: "nothing",
        command: "cargo test --test faults a_slow_page",
    });
}

fn slow_pages_hold_up_no_large_message(store: &str) {
    let house = House::new(store);
    let mut sender = house.connect("list");
    sender.update(1, &[new_cell(1)]);
    house.faults.set(Some("list"), At::Read, Fault::Held, None);
    let mut pullers: Vec<_> = (0..8).map(|_| house.connect("list")).collect();
    pullers.iter_mut().for_each(|puller| puller.send_json(&pull(0)));
    house.faults.wait_held();
    // It is decoded where pages are read.
    sender.update(2, &[cell("large", "c", "x".repeat(300 << 10), 1)]);
    house.faults.clear();
    house.faults.release();
    for mut puller in pullers {
        let mut found = Vec::new();
        while found.len() < 2 {
            found.extend(super::common::keys(changes(&puller.recv_type("update"))));
        }
        assert_eq!(found, ["k1", "large"]);
    }
}
