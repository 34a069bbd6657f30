//! Followers that stop reading, read byte by byte, hang up, or vanish, and come back: they miss nothing, the server
//! holds a bounded amount for them, and nobody else notices.
//!
//! What they do is drawn from a seed, which a failure prints. `VANISHING_READERS_SEED=N` draws the same again.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;
#[path = "vanishing_readers/load.rs"]
mod load;
#[path = "vanishing_readers/reader.rs"]
mod reader;

use common::{Certificate, Client, Event, Numbers, PATIENCE, Server, cell, pull, update};
use load::{Load, pulled, under_load};
use reader::{Reader, Visit};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

on_every_store!(
    readers_that_vanish_at_random_miss_nothing_behind_small_limits,
    readers_that_vanish_at_random_miss_nothing_behind_the_default_limits,
    who_stops_reading_is_dropped_and_comes_back,
    who_reads_byte_by_byte_is_kept,
    who_takes_long_to_read_is_not_taken_for_silent,
    memory_stays_bounded_behind_readers_that_stop,
    who_hangs_up_anywhere_in_a_pull_resumes,
    pulls_that_nobody_waits_for_are_not_read,
);

/// The seed of the run; the same in all its tests.
fn seed() -> u64 {
    let seed = match std::env::var("VANISHING_READERS_SEED") {
        Ok(seed) => seed.parse().expect("VANISHING_READERS_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 % 1_000_000,
    };
    eprintln!("VANISHING_READERS_SEED={seed}");
    seed
}

/// Segments with which little waits in the server's system.
const SEGMENT_BYTES: u32 = 536;

const SMALL: [(&str, &str); 4] = [
    ("page-max-changes", "7"),
    ("page-max-bytes", "4096"),
    ("outbox-max-bytes", "65536"),
    ("slow-client-timeout-ms", "1000"),
];

fn small_load(seed: u64) -> Load {
    Load { seed, value_bytes: 150, wide: 30, outbox_max_bytes: 65_536, message_max_bytes: 12_000 }
}

fn default_load(seed: u64) -> Load {
    Load { seed, value_bytes: 6_000, wide: 60, outbox_max_bytes: 4 << 20, message_max_bytes: 1 << 20 }
}

/// How a visit ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Close,
    Reset,
    /// Says that nothing more comes, and reads to the end.
    HalfClose,
    /// The same, and reads no more.
    HalfCloseUnread,
}

const ENDS: [End; 4] = [End::Close, End::Reset, End::HalfClose, End::HalfCloseUnread];

/// One visit of a bad reader.
#[derive(Clone, Copy, Debug)]
struct Plan {
    narrow: bool,
    pulls: bool,
    /// Whole messages that it reads first.
    messages: u64,
    /// Bytes that it reads after them, mostly the beginning of a frame.
    bytes: u64,
    /// How long it reads nothing then.
    stopped: Duration,
    /// How long it reads byte by byte after that.
    trickling: Duration,
    /// Messages that it then reads as fast as it can.
    then: u64,
    end: End,
}

impl Plan {
    fn any(numbers: &mut Numbers) -> Self {
        let millis = |numbers: &mut Numbers, one_in, most| {
            let pauses = numbers.below(one_in) == 0;
            Duration::from_millis(if pauses { numbers.below(most) } else { 0 })
        };
        Plan {
            narrow: numbers.below(3) > 0,
            pulls: numbers.below(5) > 0,
            messages: if numbers.below(3) == 0 { 0 } else { numbers.below(60) },
            bytes: numbers.below(3000) * numbers.below(2),
            stopped: millis(numbers, 3, 1800),
            trickling: millis(numbers, 4, 600),
            then: numbers.below(30),
            end: ENDS[numbers.below(4) as usize],
        }
    }

    fn run(self, reader: &mut Reader, server: &Server) {
        let client =
            if self.narrow { server.connect_narrow("list", SEGMENT_BYTES) } else { server.connect("list") };
        let mut visit = if self.pulls { reader.pull(client) } else { reader.follow(client) };
        if self.steps(&mut visit).is_none() {
            return;
        }
        match self.end {
            End::Close => {}
            End::Reset => visit.client.reset(),
            End::HalfClose => {
                visit.client.half_close();
                visit.read_to_the_end();
                if self.stopped.is_zero() {
                    assert_eq!(visit.closed, Some(1000), "{}: {self:?}", visit.reader.name);
                    let whole = !self.pulls || (visit.continues && !visit.paging);
                    assert!(whole, "{}: a pull is answered to its end: {self:?}", visit.reader.name);
                }
            }
            End::HalfCloseUnread => visit.client.half_close(),
        }
    }

    /// `None` if the connection ended meanwhile.
    fn steps(&self, visit: &mut Visit<'_>) -> Option<()> {
        // The writers may have stopped: nothing need come.
        const LULL: Duration = Duration::from_millis(500);
        for _ in 0..self.messages {
            if !visit.read(LULL)? {
                break;
            }
        }
        let mut bytes = 0;
        while bytes < self.bytes {
            match visit.client.read_bytes((self.bytes - bytes) as usize, LULL)? {
                0 => break,
                read => bytes += read as u64,
            }
        }
        thread::sleep(self.stopped);
        trickle(visit, self.trickling)?;
        for _ in 0..self.then {
            if !visit.read(LULL)? {
                break;
            }
        }
        Some(())
    }
}

/// Reads byte by byte for that long, at a steady pace.
fn trickle(visit: &mut Visit<'_>, time: Duration) -> Option<()> {
    const BYTES_PER_SECOND: u128 = 12_000;
    let (start, mut read) = (Instant::now(), 0);
    while start.elapsed() < time {
        while read < start.elapsed().as_millis() * BYTES_PER_SECOND / 1000 {
            match visit.client.read_bytes(1, Duration::from_millis(5))? {
                0 => break,
                _ => read += 1,
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    Some(())
}

/// Waits until the server has nobody left but those.
fn wait_for_connections(server: &Server, expected: u64) {
    server.wait_for_metric("connections", expected);
    server.wait_for_metric("outbox_bytes", 0);
}

/// All come back, and hold what a fresh pull gives.
fn assert_nothing_missed(server: &Server, readers: &mut [Reader], tail: u64) {
    wait_for_connections(server, 0);
    let expected = pulled(server);
    for reader in readers {
        reader.catch_up(server, tail);
        reader.assert_holds(&expected);
    }
}

fn readers_that_vanish_at_random_miss_nothing_behind_small_limits(store: &str) {
    let seed = seed();
    vanish_at_random(&Server::with(store, &SMALL), &small_load(seed));
    common::guarantees::row(common::guarantees::Row {
        number: 70,
        fault: "Followers stop reading, read a trickle, hang up, reset, half close, at random and in the middle of pages, under load",
        sender: "acks come as if they were not there",
        others: "honest followers get every version live; the others fall back to pages, come back with their cursor, and end with what a pull from 0 gives",
        lost: "nothing; memory stays under the limits",
        command: "cargo test --test vanishing_readers",
    });
}

fn readers_that_vanish_at_random_miss_nothing_behind_the_default_limits(store: &str) {
    let seed = seed();
    vanish_at_random(&Server::start(store), &default_load(seed));
}

fn vanish_at_random(server: &Server, load: &Load) {
    const READERS: u64 = 6;
    const VISITS: usize = 12;
    let visits = |n: u64| {
        let mut reader = Reader::new(format!("reader {n}"));
        let mut numbers = Numbers(load.seed ^ (n << 32));
        for _ in 0..VISITS {
            Plan::any(&mut numbers).run(&mut reader, server);
        }
        reader
    };
    let (mut readers, tail) = under_load(server, load, |_| {
        thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS).map(|n| scope.spawn(move || visits(n))).collect();
            readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
        })
    });
    assert_nothing_missed(server, &mut readers, tail);
}

/// All places are taken: only if those of the stopped readers are given back can they return.
fn who_stops_reading_is_dropped_and_comes_back(store: &str) {
    const STOPPED: u64 = 3;
    // Two writers and the honest follower; and two may look at the metrics.
    const OTHERS: u64 = 3;
    let most = (STOPPED + OTHERS + 2).to_string();
    let server = Server::with(store, &[&SMALL[..], &[("max-connections", &most)]].concat());
    let seed = seed();
    // Something to pull that does not fit between the server and a narrow client.
    let mut writer = server.connect("list");
    for n in 1..=300 {
        let sent: Vec<_> = (0..9).map(|i| cell(&format!("old{n}-{i}"), "c", "v".repeat(60), 1)).collect();
        writer.update(n, &sent);
    }
    drop(writer);
    wait_for_connections(&server, 0);

    let mut readers = ["in a pull", "in the middle of a page", "following"].map(Reader::new);
    let ((), tail) = under_load(&server, &small_load(seed), |progress| {
        let mut stuck: Vec<Visit<'_>> = readers
            .iter_mut()
            .enumerate()
            .map(|(n, reader)| {
                let mut visit = reader.pull(server.connect_narrow("list", SEGMENT_BYTES));
                match n {
                    0 => {}
                    1 => {
                        (0..20).for_each(|_| assert_eq!(visit.read(PATIENCE), Some(true)));
                        assert!(visit.paging);
                        assert!(visit.client.read_bytes(77, PATIENCE).is_some());
                    }
                    _ => visit.read_up_to(300),
                }
                visit
            })
            .collect();
        let before = progress.received();
        // Everyone else goes on: all that is asserted of them holds while nobody reads here.
        server.wait_for_metric("connections", OTHERS);
        assert!(progress.received() > before);
        for visit in &mut stuck {
            // What was still on its way counts, as far as it is whole.
            while visit.read(PATIENCE) == Some(true) {}
            assert!(matches!(visit.closed, None | Some(1013)), "closed with {:?}", visit.closed);
        }
        drop(stuck);
        // While the writers go on, and three at once: one that waited for the others would be slow again.
        thread::scope(|scope| {
            for reader in &mut readers {
                scope.spawn(|| reader.pull(server.connect("list")).read_up_to(progress.received()));
            }
        });
    });
    assert_nothing_missed(&server, &mut readers, tail);
}

/// The server's system would take megabytes for it, and for each bit of room wait until a third of them has left.
fn who_reads_byte_by_byte_is_kept(store: &str) {
    byte_by_byte(&Server::with(store, &BYTE_BY_BYTE));
}

/// Between the server and the system there is TLS, which holds a little of its own.
#[test]
fn who_reads_byte_by_byte_over_tls_is_kept() {
    byte_by_byte(&Server::over_tls("memory", &Certificate::new(), &BYTE_BY_BYTE));
}

const BYTE_BY_BYTE: [(&str, &str); 2] = [("outbox-max-bytes", "1000000"), ("slow-client-timeout-ms", "3000")];

fn byte_by_byte(server: &Server) {
    const LOOPBACK_SEGMENT_BYTES: u32 = 32_000;
    // More than twice what a reader who takes nothing is given.
    const TRICKLING: Duration = Duration::from_secs(7);
    let load = Load {
        seed: seed(),
        value_bytes: 2_500,
        wide: 60,
        outbox_max_bytes: 1_000_000,
        message_max_bytes: 1 << 20,
    };
    let mut reader = Reader::new("byte by byte");
    let (reached, tail) = under_load(server, &load, |progress| {
        let mut visit = reader.pull(server.connect_narrow("list", LOOPBACK_SEGMENT_BYTES));
        let deadline = Instant::now() + PATIENCE;
        while server.metric("lagging_connections") == 0 {
            assert!(Instant::now() < deadline, "it never lags");
            trickle(&mut visit, Duration::from_millis(50)).expect("it is connected");
        }
        assert_eq!(trickle(&mut visit, TRICKLING), Some(()), "who takes bytes is kept");
        assert_eq!(server.metric("connections"), 4, "who takes bytes is kept");
        // On the same connection, up to where the others are.
        let goal = progress.received();
        visit.read_up_to(goal);
        goal
    });
    assert!(reached > 0 && reader.cursor >= reached);
    assert_nothing_missed(server, std::slice::from_mut(&mut reader), tail);
}

/// While the server waits for it to take more it sends no pings, so that none is unanswered.
fn who_takes_long_to_read_is_not_taken_for_silent(store: &str) {
    const UPDATES: u64 = 20;
    let settings =
        [("ping-interval-ms", "100"), ("pong-timeout-ms", "1000"), ("slow-client-timeout-ms", "20000")];
    let server = Server::with(store, &settings);
    let mut writer = server.connect("list");
    let mut reader = Reader::new("slow");
    let mut visit = reader.pull(server.connect_narrow("list", SEGMENT_BYTES));
    visit.read_up_to(0);
    for n in 1..=UPDATES {
        writer.update(n, &[cell(&format!("k{n}"), "c", "v".repeat(50_000), 1)]);
    }
    // Longer than pong_timeout; the writer answers its pings meanwhile.
    assert!(matches!(writer.event(Duration::from_millis(2500)), Event::Nothing));
    visit.read_up_to(UPDATES);
    for n in UPDATES + 1..UPDATES + 4 {
        assert_eq!(visit.read(Duration::from_millis(300)), Some(false), "nothing comes, and no end");
        writer.update(n, &[cell("more", "c", n, n)]);
        visit.read_up_to(n);
    }
}

/// Far more is written than may be held for those who do not read it.
fn memory_stays_bounded_behind_readers_that_stop(store: &str) {
    bounded_behind_readers_that_stop(|settings| Server::with(store, settings));
}

#[test]
fn memory_stays_bounded_behind_readers_over_tls_that_stop() {
    let certificate = Certificate::new();
    bounded_behind_readers_that_stop(|settings| Server::over_tls("memory", &certificate, settings));
}

fn bounded_behind_readers_that_stop(start: impl FnOnce(&[(&str, &str)]) -> Server) {
    const STOPPED: u64 = 4;
    const OUTBOX_BYTES: u64 = 1 << 20;
    const PAGE_BYTES: u64 = 512 << 10;
    const VALUE_BYTES: usize = 300_000;
    // Before anybody reads: what a store holds back of writes is memory, too.
    const ALONE: u64 = 280;
    const UPDATES: u64 = 2 * ALONE;
    // The outbox; what the writer has taken of it, which ends with a whole update; a page, and the next one.
    const EACH: u64 = OUTBOX_BYTES + (256 << 10) + VALUE_BYTES as u64 + 2 * PAGE_BYTES;
    // The store's cache, reading and merging, and what the allocator keeps.
    const FIXED: u64 = 40 << 20;
    let settings = [
        ("outbox-max-bytes", OUTBOX_BYTES.to_string()),
        ("page-max-bytes", PAGE_BYTES.to_string()),
        ("slow-client-timeout-ms", "120000".to_owned()),
    ];
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = start(&settings);
    let mut writer = server.connect("list");
    let value = "v".repeat(VALUE_BYTES);
    // The same few cells again and again: the data stays small.
    let mut write = |n| writer.update(n, &[cell(&format!("k{}", n % 4), "c", value.clone(), n)]);
    (1..=ALONE).for_each(|n| drop(write(n)));
    let before = server.peak_memory_bytes();
    let mut readers: Vec<_> = (0..STOPPED).map(|n| Reader::new(format!("reader {n}"))).collect();
    let mut visits: Vec<_> = readers
        .iter_mut()
        .map(|reader| {
            let mut visit = reader.pull(server.connect_narrow("list", SEGMENT_BYTES));
            visit.read_up_to(ALONE);
            visit
        })
        .collect();
    for n in ALONE + 1..=UPDATES {
        write(n);
        if n % 50 == 0 {
            let waiting = server.metric("outbox_bytes");
            assert!(waiting <= STOPPED * EACH, "{waiting} bytes wait in the outboxes");
        }
    }
    if let (Some(before), Some(peak)) = (before, server.peak_memory_bytes()) {
        let (growth, bound) = (peak - before, STOPPED * EACH + FIXED);
        eprintln!("memory grew by {} KiB, at most {} KiB may be", growth >> 10, bound >> 10);
        assert!(growth <= bound, "memory grew by {growth} bytes, at most {bound} may be");
    }
    // On the same connections: they were slow, and not gone.
    visits.iter_mut().for_each(|visit| visit.read_up_to(UPDATES));
    let expected = pulled(&server);
    drop(visits);
    readers.iter().for_each(|reader| reader.assert_holds(&expected));
}

/// What others write together with a sender's own large updates is little, and is all that may be held for it.
#[test]
fn memory_stays_bounded_behind_a_large_sender_that_does_not_read() {
    const UPDATES: u64 = 60;
    const VALUE_BYTES: usize = 2_000_000;
    // Eight times the default outbox, and what large updates take on their way.
    const MOST_GROWTH: u64 = 80 << 20;
    let server = Server::start("memory");
    let mut large = server.connect_narrow("list", SEGMENT_BYTES);
    let mut small = server.connect("list");
    let value = "v".repeat(VALUE_BYTES);
    let before = server.peak_memory_bytes();
    let mut own = 0;
    for n in 1..=UPDATES {
        large.send_json(&update(n, &[cell("large", "c", value.clone(), n)]));
        // Small ones until the large one has come: the last of them often shares its commit.
        let mut came = false;
        while !came {
            own += 1;
            small.send_json(&update(own, &[cell("small", "c", own, own)]));
            loop {
                let message = small.recv_json();
                if message["type"] == "ack" {
                    break;
                }
                came = true;
            }
        }
    }
    if let (Some(before), Some(peak)) = (before, server.peak_memory_bytes()) {
        assert!(peak - before < MOST_GROWTH, "memory grew by {} KiB", (peak - before) >> 10);
    }
}

/// Hangs up after every few bytes of an answer, in any way, and resumes.
fn who_hangs_up_anywhere_in_a_pull_resumes(store: &str) {
    let server = Server::with(store, &SMALL[..3]);
    let seed = seed();
    let mut numbers = Numbers(seed);
    let mut writer = server.connect("list");
    // Single rows, and versions that fill several pages.
    const SIZES: [u64; 10] = [1, 3, 25, 1, 7, 14, 2, 40, 1, 8];
    for (n, size) in (1..).zip(SIZES) {
        let sent: Vec<_> = (0..size)
            .map(|i| cell(&format!("k{n}-{i}"), "c", "v".repeat(40 * (i as usize % 9)), 1))
            .collect();
        assert_eq!(writer.update(n, &sent)["version"], n);
    }
    drop(writer);
    let tail = SIZES.len() as u64;
    let expected = pulled(&server);
    let mut whole = server.connect("list");
    let pages = whole.pull(0);
    drop(whole);
    let split = pages.windows(2).filter(|two| two[0]["version"] == two[1]["version"]).count();
    assert!(split > 5, "versions are split over pages");
    let total: u64 = pages.iter().map(|page| page.to_string().len() as u64).sum();

    let mut in_a_split = 0;
    for round in 0..24 {
        let mut reader = Reader::new(format!("reader {round}"));
        // An honest visit ends it; until then each goes some way further or breaks off before anything is whole.
        for _ in 0..6 {
            let before = reader.cursor;
            let mut visit = reader.pull(server.connect("list"));
            let cut = numbers.below(total / 3);
            let mut bytes = 0;
            while bytes < cut {
                match visit.client.read_bytes((cut - bytes) as usize, PATIENCE) {
                    Some(read @ 1..) => bytes += read as u64,
                    _ => break,
                }
                // What is whole counts.
                while visit.read(Duration::ZERO) == Some(true) {}
                if visit.continues && !visit.paging {
                    break;
                }
            }
            in_a_split += usize::from(
                visit.paging
                    && pages
                        .iter()
                        .any(|page| page["version"] == visit.reader.cursor && visit.reader.cursor == before),
            );
            match ENDS[numbers.below(4) as usize] {
                End::Close => {}
                End::Reset => visit.client.reset(),
                End::HalfClose => {
                    visit.client.half_close();
                    visit.read_to_the_end();
                    assert_eq!((visit.closed, visit.paging), (Some(1000), false), "{}", visit.reader.name);
                    assert_eq!(visit.reader.cursor, tail);
                }
                End::HalfCloseUnread => visit.client.half_close(),
            }
        }
        reader.catch_up(&server, tail);
        reader.assert_holds(&expected);
    }
    assert!(in_a_split > 0, "nobody hung up in the middle of a version");
    wait_for_connections(&server, 0);
}

fn pulls_that_nobody_waits_for_are_not_read(store: &str) {
    // A page that takes far longer to read than a connection to make.
    const ROWS: u64 = 10_000;
    const GONE: u64 = 120;
    let server = Server::with(
        store,
        &[("page-readers", "1"), ("page-max-changes", "10000"), ("page-max-bytes", "100000000")],
    );
    let mut writer = server.connect("list");
    for n in 0..4 {
        let sent: Vec<_> = (0..ROWS / 4).map(|i| cell(&format!("k{n}-{i}"), "c", "v", 1)).collect();
        writer.update(n, &sent);
    }
    let gone: Vec<_> = (0..GONE)
        .map(|_| {
            let mut client = server.connect("list");
            client.send_json(&pull(0));
            client
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while messages(&server, "received", "pull") < GONE {
        assert!(Instant::now() < deadline, "the pulls do not arrive");
    }
    gone.into_iter().for_each(Client::reset);
    // Behind them all.
    assert_eq!(writer.pull_rows(0).len() as u64, ROWS);
    let pages = messages(&server, "sent", "page");
    assert!(pages < GONE / 2, "{pages} pages were read for {GONE} who had gone");

    // Who closes in good order could still be reading, so that these are answered.
    for _ in 0..10 {
        server.connect("list").send_json(&pull(0));
    }
    assert_eq!(writer.pull_rows(0).len() as u64, ROWS);
    wait_for_connections(&server, 1);
}

/// The messages of a type that were received, or sent.
fn messages(server: &Server, way: &str, kind: &str) -> u64 {
    let sample = format!("causeway_messages_{way}_total{{type=\"{kind}\"}} ");
    let text = server.http_get("/metrics").text();
    text.lines().find_map(|line| line.strip_prefix(&sample)).unwrap().parse().unwrap()
}
