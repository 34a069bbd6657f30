//! Commits and opens that fail.

use causeway_storage::faulty::{At, Fault};

use super::common::guarantees::{Row, row};
use super::common::{changes, keys, update};
use super::house::{House, expect_storage, expect_there, expect_told, new_cell, send_and_see_it_wait, write};

on_every_store!(
    a_failed_commit_is_told_to_its_sender_only,
    each_sender_of_a_failed_group_is_answered,
    what_failed_and_was_durable_comes_with_the_next,
    a_channel_that_cannot_be_opened_is_refused,
    a_disk_that_stays_full_refuses_until_there_is_room,
);

fn a_failed_commit_is_told_to_its_sender_only(store: &str) {
    for at in [At::Begin, At::Lookup, At::Put, At::Commit, At::Open] {
        for fault in [Fault::Engine, Fault::Full, Fault::Corrupt] {
            fail_a_commit(store, at, fault);
        }
    }
    row(Row {
        number: 10,
        fault: "A commit fails before anything of it is durable, at any step: an I/O error, a full disk, a corrupt page",
        sender: "`error` with code `storage` and the update's version as `received`; no ack",
        others: "nothing of it, ever; the next good commit gets the next version; `/metrics` names the channel \
                 until then; others of the same shard go on",
        lost: "nothing",
        command: "cargo test --test faults a_failed_commit",
    });
}

fn fail_a_commit(store: &str, at: At, fault: Fault) {
    // Opened again for each batch of updates, so that an open can fail under a follower.
    let house = House::with(store, |config| (config.shards, config.channel_idle_ms) = (1, 0));
    let (mut sender, mut follower) = (house.connect("list"), house.connect("list"));
    let mut elsewhere = house.connect("elsewhere");
    assert_eq!(sender.update(1, &[new_cell(1)])["version"], 1);
    expect_told(&mut follower, 1, 1);
    if at == At::Open {
        // An idle channel is closed.
        while house.metrics("causeway_open_stores") != ["causeway_open_stores 0"] {
            std::thread::yield_now();
        }
    }
    house.faults.once("list", at, fault);
    sender.send_json(&write(2));
    expect_storage(&mut sender, 2);
    assert!(!house.faults.are_set(), "it was this fault");
    let unavailable = r#"causeway_channel_unavailable{channel="list",to="write"} 1"#;
    assert_eq!(house.metrics("causeway_channel_unavailable{"), [unavailable], "{at:?} {fault:?}");
    expect_there(&house, "list", &[1]);
    assert_eq!(elsewhere.update(1, &[new_cell(1)])["version"], 1);
    // Whoever wrote before or not, the next one works, and is the next message of all others.
    assert_eq!(follower.update(3, &[new_cell(3)])["version"], 2, "{at:?} {fault:?}");
    expect_told(&mut sender, 2, 3);
    assert_eq!(sender.update(2, &[new_cell(2)])["version"], 3, "what failed can be sent again");
    expect_told(&mut follower, 3, 2);
    expect_there(&house, "list", &[1, 3, 2]);
    expect_there(&house, "elsewhere", &[1]);
    assert_eq!(house.metrics("causeway_channel_unavailable{"), [""; 0]);
    assert_eq!(house.metrics("causeway_merge_errors_total"), ["causeway_merge_errors_total 1"]);
    let kind = match fault {
        Fault::Full => "full",
        Fault::Corrupt => "corrupt",
        _ => "engine",
    };
    let counted = format!("causeway_storage_errors_total{{kind=\"{kind}\"}} 1");
    assert!(house.metrics("causeway_storage_errors_total").contains(&counted), "{at:?} {fault:?}");
}

fn each_sender_of_a_failed_group_is_answered(store: &str) {
    let house = House::new(store);
    let mut senders: Vec<_> = (0..4).map(|_| house.connect("list")).collect();
    let mut elsewhere = house.connect("elsewhere");
    let mut follower = house.connect("list");
    // While one commit is held, all others come together for the next.
    house.faults.once("list", At::Commit, Fault::Held);
    senders[0].send_json(&write(1));
    house.faults.wait_held();
    house.faults.once("list", At::Commit, Fault::Full);
    for (n, sender) in senders.iter_mut().enumerate().skip(1) {
        let n = 10 * n as u64;
        sender.send_json(&write(n));
        send_and_see_it_wait(sender, &write(n + 1), 0);
    }
    send_and_see_it_wait(&mut elsewhere, &write(1), 0);
    house.faults.release();
    assert_eq!(senders[0].recv_type("ack")["received"], 1);
    for (n, sender) in senders.iter_mut().enumerate().skip(1) {
        expect_told(sender, 1, 1);
        expect_storage(sender, 10 * n as u64);
        expect_storage(sender, 10 * n as u64 + 1);
    }
    assert_eq!(elsewhere.recv_type("ack")["version"], 1, "committed in the same round of the shard");
    expect_told(&mut follower, 1, 1);
    expect_there(&house, "list", &[1]);
    assert_eq!(senders[1].update(2, &[new_cell(2)])["version"], 2);
    expect_told(&mut follower, 2, 2);
    expect_told(&mut senders[2], 2, 2);
    expect_there(&house, "list", &[1, 2]);
    row(Row {
        number: 11,
        fault: "The commit that fails holds several updates of several senders",
        sender: "each of them an `error` for each of its updates, in their order",
        others: "nothing of any of them; the commits before and after are whole; other channels go on",
        lost: "nothing",
        command: "cargo test --test faults each_sender_of_a_failed_group",
    });
}

fn what_failed_and_was_durable_comes_with_the_next(store: &str) {
    let house = House::new(store);
    let (mut sender, mut other) = (house.connect("list"), house.connect("list"));
    let mut follower = house.connect("list");
    for client in [&mut sender, &mut other, &mut follower] {
        client.pull(0);
    }
    sender.update(1, &[new_cell(1)]);
    expect_told(&mut other, 1, 1);
    expect_told(&mut follower, 1, 1);
    house.faults.once("list", At::Committed, Fault::Engine);
    sender.send_json(&write(2));
    expect_storage(&mut sender, 2);
    // The next commit is another one's: it brings both to everyone, and to its own sender what is below its ack.
    other.send_json(&update(3, &[new_cell(3)]));
    for client in [&mut sender, &mut follower] {
        let mut found = Vec::new();
        while found.len() < 2 {
            found.extend(keys(changes(&client.recv_type("update"))));
        }
        assert_eq!(found, ["k2", "k3"]);
    }
    let mut found = Vec::new();
    let ack = loop {
        let message = other.recv_json();
        if message["type"] == "ack" {
            break message;
        }
        found.extend(keys(changes(&message)));
    };
    assert_eq!((&ack["received"], &ack["version"]), (&3.into(), &3.into()), "behind what failed");
    assert_eq!(found.first().map(String::as_str), Some("k2"), "before the ack of a higher version");
    expect_there(&house, "list", &[1, 2, 3]);
    // Sent again, it changes nothing.
    assert_eq!(sender.update(4, &[new_cell(2)])["version"], 3);
    assert_eq!(sender.update(5, &[new_cell(5)])["version"], 4);
    expect_told(&mut follower, 4, 5);
    expect_told(&mut other, 4, 5);
    expect_there(&house, "list", &[1, 2, 3, 5]);
    row(Row {
        number: 12,
        fault: "A commit reaches the disk, and the store reports a failure",
        sender: "`error` with code `storage`; no ack; then its own changes with the next commit, as everybody",
        others: "its changes with the next commit, in a version of their own and before that commit's ack, without a gap",
        lost: "nothing; sent again, it changes nothing",
        command: "cargo test --test faults what_failed_and_was_durable",
    });
}

fn a_channel_that_cannot_be_opened_is_refused(store: &str) {
    for fault in [Fault::Engine, Fault::Full, Fault::Corrupt] {
        let house = House::new(store);
        let mut elsewhere = house.connect("elsewhere");
        house.faults.set(Some("list"), At::Open, fault, Some(3));
        for _ in 0..3 {
            let answer = house.refused("list");
            assert_eq!(answer.status, 503, "{}", answer.text());
            let body: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
            assert_eq!(body["code"], "storage");
            let unavailable = r#"causeway_channel_unavailable{channel="list",to="write"} 1"#;
            assert_eq!(house.metrics("causeway_channel_unavailable{"), [unavailable]);
            elsewhere.update(1, &[new_cell(1)]);
        }
        let mut client = house.connect("list");
        assert_eq!(house.metrics("causeway_channel_unavailable{"), [""; 0]);
        assert_eq!(client.update(1, &[new_cell(1)])["version"], 1);
        expect_there(&house, "list", &[1]);
    }
    row(Row {
        number: 13,
        fault: "A channel cannot be opened: an I/O error, a full disk, a corrupt file",
        sender: "whoever connects to it is answered 503 with code `storage`, and can come again",
        others: "nothing; `/metrics` names the channel until it opens; others of the same shard go on",
        lost: "nothing",
        command: "cargo test --test faults a_channel_that_cannot_be_opened",
    });
}

fn a_disk_that_stays_full_refuses_until_there_is_room(store: &str) {
    let house = House::new(store);
    let mut clients: Vec<_> = ["a", "b"].iter().map(|name| (*name, house.connect(name))).collect();
    for (_, client) in &mut clients {
        client.update(1, &[new_cell(1)]);
    }
    house.faults.set(None, At::Commit, Fault::Full, None);
    for n in 2..10 {
        for (_, client) in &mut clients {
            client.send_json(&write(n));
            expect_storage(client, n);
        }
    }
    for (name, client) in &mut clients {
        assert_eq!(client.pull_rows(0).len(), 1, "what is there can be read");
        expect_there(&house, name, &[1]);
    }
    house.faults.clear();
    for (name, client) in &mut clients {
        assert_eq!(client.update(10, &[new_cell(10)])["version"], 2, "on the same connection");
        expect_there(&house, name, &[1, 10]);
    }
    row(Row {
        number: 14,
        fault: "The disk is full for all channels, and stays so",
        sender: "`error` with code `storage` for every update; pulls are answered",
        others: "nothing of what failed; once there is room the next update is acked, on the same connection",
        lost: "nothing",
        command: "cargo test --test faults a_disk_that_stays_full",
    });
}
