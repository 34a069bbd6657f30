//! What a pull gives, page by page.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::{Client, SITE, Server, cell, changes, keys, number, pull, update, version};
use serde_json::{Value, json};
use std::collections::BTreeSet;

on_every_store!(
    a_large_answer_comes_in_pages_that_end_at_the_tail,
    pages_keep_their_limit_of_bytes,
    a_change_larger_than_a_page_is_sent_all_the_same,
    a_version_is_complete_when_its_last_row_ends_a_page,
    versions_whose_cells_moved_on_do_not_hold_the_pages_up,
    a_client_that_resumes_from_any_page_misses_nothing,
    live_updates_wait_while_pages_are_sent,
    a_second_pull_starts_anew,
    a_pull_while_others_write_misses_nothing,
);

const PAGE: usize = 3;

/// How many changes each seeded version has: pages of three end inside, at and beyond versions.
const SIZES: [usize; 9] = [2, 1, 7, 3, 1, 1, 5, 6, 2];

fn server(store: &str) -> Server {
    Server::with(store, &[("page-max-changes", "3")])
}

/// Writes one version per size, every change to a row of its own. Gives all keys in order.
fn seed(client: &mut Client, sizes: &[usize]) -> Vec<String> {
    let mut all = Vec::new();
    for (n, size) in sizes.iter().enumerate() {
        let sent: Vec<_> = (0..*size).map(|i| cell(&format!("k{n}-{i}"), "c", "v", 1)).collect();
        all.extend(keys(&sent));
        assert_eq!(client.update(n as u64 + 1, &sent)["version"], n + 1);
    }
    all
}

/// What must hold of every answer to a pull from `cursor` that ends at `tail`.
fn assert_sound(pages: &[Value], cursor: u64, tail: u64) {
    let places: Vec<Vec<_>> = pages
        .iter()
        .map(|page| changes(page).iter().map(|row| (number(row, 5), number(row, 8))).collect())
        .collect();
    let all: Vec<_> = places.iter().flatten().copied().collect();
    assert!(all.is_sorted_by(|a, b| a < b), "rows in order of (db_version, seq), each once: {all:?}");
    assert!(all.iter().all(|(version, _)| *version > cursor && *version <= tail), "{all:?}");
    let mut sent = 0;
    for (n, (page, rows)) in pages.iter().zip(&places).enumerate() {
        let last = n + 1 == pages.len();
        assert_eq!(page["more"], !last, "page {n} of {}: {page}", pages.len());
        assert!(pages.len() == 1 || !rows.is_empty(), "page {n} is empty");
        sent += rows.len();
        // Complete is all below the next row's version; what is known of that are the versions that have rows.
        let next = all.get(sent).map_or(tail + 1, |(version, _)| *version);
        let complete =
            all[..sent].iter().map(|(version, _)| *version).filter(|version| *version < next).max();
        let (least, most) = if last { (tail, tail) } else { (complete.unwrap_or(cursor), next - 1) };
        let got = version(page);
        assert!((least..=most).contains(&got), "page {n} has version {got}, not {least} to {most}: {page}");
    }
}

fn rows(pages: &[Value]) -> Vec<Value> {
    pages.iter().flat_map(changes).cloned().collect()
}

fn a_large_answer_comes_in_pages_that_end_at_the_tail(store: &str) {
    let server = server(store);
    let mut client = server.connect("list");
    let all = seed(&mut client, &SIZES);
    let tail = SIZES.len() as u64;
    for cursor in 0..=tail {
        let pages = client.pull(cursor);
        assert_sound(&pages, cursor, tail);
        assert!(pages.iter().all(|page| changes(page).len() <= PAGE), "at most {PAGE} changes a page");
        let skipped: usize = SIZES[..cursor as usize].iter().sum();
        assert_eq!(keys(&rows(&pages)), all[skipped..], "pull from {cursor}");
    }
}

fn pages_keep_their_limit_of_bytes(store: &str) {
    const BYTES: usize = 2000;
    // Room for the message around the changes.
    const ENVELOPE: usize = 400;
    let server = Server::with(store, &[("page-max-bytes", "2000")]);
    let mut client = server.connect("list");
    for n in 0..30 {
        let sent: Vec<_> =
            (0..=n % 4).map(|i| cell(&format!("k{n}-{i}"), "c", "v".repeat(20 * n), 1)).collect();
        client.update(n as u64, &sent);
    }
    client.send_json(&pull(0));
    let mut pages = Vec::new();
    loop {
        let text = client.recv_text();
        let page: Value = serde_json::from_str(&text).unwrap();
        assert!(
            changes(&page).len() == 1 || text.len() <= BYTES + ENVELOPE,
            "a page of {} bytes",
            text.len()
        );
        let more = page["more"] == true;
        pages.push(page);
        if !more {
            break;
        }
    }
    assert!(pages.len() > 5, "{} pages", pages.len());
    assert_sound(&pages, 0, 30);
}

fn a_change_larger_than_a_page_is_sent_all_the_same(store: &str) {
    let server = Server::with(store, &[("page-max-bytes", "1000")]);
    let mut client = server.connect("list");
    let large = "x".repeat(50_000);
    client.update(1, &[cell("a", "c", "v", 1), cell("b", "c", large.clone(), 1), cell("c", "c", "v", 1)]);
    client.update(2, &[cell("d", "c", large.clone(), 1)]);
    let pages = client.pull(0);
    assert_sound(&pages, 0, 2);
    let rows = rows(&pages);
    assert_eq!(keys(&rows), ["a", "b", "c", "d"]);
    assert_eq!((&rows[1][3], &rows[3][3]), (&json!(large), &json!(large)));
}

fn a_version_is_complete_when_its_last_row_ends_a_page(store: &str) {
    let server = server(store);
    let mut client = server.connect("list");
    seed(&mut client, &[3, 6, 4]);
    let pages = client.pull(0);
    let versions: Vec<_> = pages.iter().map(version).collect();
    assert_eq!(versions, [1, 1, 2, 2, 3], "{pages:?}");
    let sizes: Vec<_> = pages.iter().map(|page| changes(page).len()).collect();
    assert_eq!(sizes, [3, 3, 3, 3, 1]);
}

fn versions_whose_cells_moved_on_do_not_hold_the_pages_up(store: &str) {
    let server = server(store);
    let mut client = server.connect("list");
    // Every version writes the same four cells and one of its own: all but the last keep one row.
    for n in 1..=20 {
        let mut sent: Vec<_> = (0..4).map(|i| cell(&format!("same{i}"), "c", n, n)).collect();
        sent.push(cell(&format!("own{n}"), "c", n, 1));
        client.update(n, &sent);
    }
    // A version with no row left at the tail's end as well.
    client.update(21, &[cell("last", "c", 1, 1)]);
    client.update(22, &[cell("last", "c", 2, 2)]);
    for cursor in [0, 1, 7, 19, 20, 21, 22] {
        let pages = client.pull(cursor);
        assert_sound(&pages, cursor, 22);
        let expected = if cursor < 20 { 20 - cursor as usize + 4 + 1 } else { usize::from(cursor < 22) };
        assert_eq!(rows(&pages).len(), expected, "pull from {cursor}");
    }
}

fn a_client_that_resumes_from_any_page_misses_nothing(store: &str) {
    let server = server(store);
    let mut writer = server.connect("list");
    let all: BTreeSet<_> = seed(&mut writer, &SIZES).into_iter().collect();
    let pages = writer.pull(0).len();
    for read in 1..=pages {
        let mut client = server.connect("list");
        client.send_json(&pull(0));
        let mut held = BTreeSet::new();
        let mut cursor = 0;
        for _ in 0..read {
            let page = client.recv_type("update");
            held.extend(keys(changes(&page)));
            cursor = version(&page);
        }
        // Gone without a word, and back with what it stored.
        drop(client);
        let mut client = server.connect("list");
        let answer = client.pull(cursor);
        assert_sound(&answer, cursor, SIZES.len() as u64);
        held.extend(keys(&rows(&answer)));
        assert_eq!(held, all, "after {read} of {pages} pages, resumed from {cursor}");
    }
}

fn live_updates_wait_while_pages_are_sent(store: &str) {
    let server = server(store);
    let (mut writer, mut follower) = (server.connect("list"), server.connect("list"));
    let mut all: BTreeSet<_> = seed(&mut writer, &[300]).into_iter().collect();
    assert_eq!(follower.recv_type("update")["version"], 1);

    follower.send_json(&pull(0));
    for n in 0..60 {
        let sent = cell(&format!("live{n}"), "c", n, 1);
        all.extend(keys(std::slice::from_ref(&sent)));
        writer.send_json(&update(n, &[sent]));
    }

    let mut held = BTreeSet::new();
    let (mut paging, mut paged, mut reached) = (false, false, 0);
    while reached < 61 || !paged {
        let message = follower.recv_type("update");
        match message["more"].as_bool() {
            Some(more) => {
                assert!(changes(&message).len() <= PAGE);
                if !paging {
                    // The pull moves the cursor back.
                    reached = 0;
                }
                paging = more;
                paged |= !more;
            }
            None => assert!(!paging, "a live update between two pages: {message}"),
        }
        let told = version(&message);
        assert!(told >= reached, "the version fell from {reached} to {told}");
        reached = told;
        held.extend(keys(changes(&message)));
    }
    assert_eq!(held, all);
}

fn a_second_pull_starts_anew(store: &str) {
    let server = server(store);
    let mut client = server.connect("list");
    let all = seed(&mut client, &SIZES);
    // All three are sent at once. The second pull may take the first one's place, but its own answer is whole.
    client.send_json(&pull(0));
    client.send_json(&pull(4));
    client.send_json(&update(50, &[cell("next", "c", 1, 1)]));
    let tail = SIZES.len() as u64;
    let (mut held, mut acked, mut paged) = (BTreeSet::new(), 0, false);
    while acked == 0 || !paged {
        let message = client.recv_json();
        if message["type"] == "ack" {
            acked = version(&message);
            continue;
        }
        assert!(version(&message) >= acked, "the ack of {acked} overtook {message}");
        held.extend(keys(changes(&message)));
        paged |= message["more"] == false && version(&message) >= tail;
    }
    assert_eq!(acked, tail + 1);
    let late: usize = SIZES[..4].iter().sum();
    assert!(all[late..].iter().all(|key| held.contains(key)), "{held:?}");
}

fn a_pull_while_others_write_misses_nothing(store: &str) {
    const WRITES: u64 = 150;
    let server = Server::with(store, &[("page-max-changes", "4"), ("outbox-max-bytes", "4096")]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = server.connect("list");
            for n in 1..=WRITES {
                let sent: Vec<_> = (0..n % 7 + 1)
                    .map(|i| json!(["todos", format!("k{n}-{i}"), "c", "x".repeat(50), 1, n, SITE, 1, i]))
                    .collect();
                writer.update(n, &sent);
            }
        });
        for start in 0..3 {
            let server = &server;
            scope.spawn(move || {
                let mut held = BTreeSet::new();
                let mut cursor = 0;
                // Comes back again and again, and leaves in the middle of pages and live updates.
                for round in 0.. {
                    let mut client = server.connect("list");
                    client.send_json(&pull(cursor));
                    let (mut reached, mut paged) = (cursor, false);
                    for _ in 0..(7 + 5 * start + round) {
                        let message = client.recv_type("update");
                        // Live updates that were on their way before the pull count as well as any other.
                        paged |= message.get("more").is_some();
                        held.extend(keys(changes(&message)));
                        if paged {
                            assert!(
                                version(&message) >= reached,
                                "the version fell from {reached}: {message}"
                            );
                            reached = version(&message);
                        }
                        if reached == WRITES {
                            break;
                        }
                    }
                    cursor = reached;
                    if cursor == WRITES {
                        break;
                    }
                }
                let expected: usize = (1..=WRITES as usize).map(|n| n % 7 + 1).sum();
                assert_eq!(held.len(), expected, "reader {start} holds every change");
            });
        }
    });
}
