#![allow(clippy::unwrap_used)]

mod model;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use causeway_storage::Position;
use proptest::prelude::*;

use super::waiting::REPLY_OVERHEAD_BYTES;
use super::*;

const LIMITS: OutboxLimits =
    OutboxLimits { max_bytes: 100, max_reply_bytes: 50 + REPLY_OVERHEAD_BYTES, max_bad_messages: 3 };

fn greeted(version: u64) -> Outbox {
    let outbox = Outbox::new(1, LIMITS);
    outbox.greet(Bytes::from_static(b"hello"), version);
    assert_eq!(take(&outbox).slabs, ["hello"]);
    outbox
}

fn take(outbox: &Outbox) -> Taken {
    let mut taken = Taken::default();
    outbox.take(&mut taken);
    taken
}

fn live(bytes: &'static str, first: u64, last: u64) -> [Delivery; 1] {
    [Delivery::Live { slab: bytes.into(), first, last }]
}

fn ack(bytes: &'static str, version: u64) -> [Delivery; 1] {
    [Delivery::Ack { frames: bytes.into(), version }]
}

fn start(from: Position, complete: u64) -> Option<PageStart> {
    Some(PageStart { from, complete, has_versions: true })
}

/// Answers a page that reaches the tail; gives its version and whether more follow, if it is taken.
fn last_page(outbox: &Outbox, tail: u64) -> Option<(u64, bool)> {
    let mut told = None;
    let end = PageEnd { next: Position { version: tail, seq: 0 }, complete: tail - 1, tail: Some(tail) };
    outbox.page(end, |version, more| {
        told = Some((version, more));
        "page".into()
    });
    told.map(|(version, more)| (version, more.unwrap_or_else(|| outbox.backlog().lags)))
}

/// The bytes that wait, and whether the connection lags.
fn backlog(outbox: &Outbox) -> (usize, bool) {
    let backlog = outbox.backlog();
    (backlog.bytes, backlog.lags)
}

#[test]
fn nothing_looks_like_the_answer_to_a_pull_before_there_is_one() {
    let told = |outbox: &Outbox| {
        take(outbox);
        let mut told = None;
        let end = PageEnd { next: Position::end_of(4), complete: 3, tail: Some(4) };
        outbox.page(end, |_, more| {
            told = more;
            "page".into()
        });
        told
    };
    let outbox = fallen_back();
    assert_eq!(told(&outbox), None);
    outbox.pull(0).unwrap();
    assert_eq!(told(&outbox), Some(false));
}

/// An outbox at version 3 that a slab larger than its limit has made fall back, with 3 left and nothing queued.
fn fallen_back() -> Outbox {
    let outbox = greeted(3);
    outbox.reply("reply".into());
    outbox.deliver([Delivery::Live { slab: vec![b'x'; 200].into(), first: 4, last: 4 }]);
    assert_eq!(backlog(&outbox), (5, true));
    outbox
}

#[test]
fn an_empty_queue_takes_a_slab_of_any_size() {
    let outbox = greeted(3);
    outbox.deliver([Delivery::Live { slab: vec![b'x'; 2000].into(), first: 4, last: 6 }]);
    assert_eq!(backlog(&outbox), (2000, false));
    outbox.deliver(live("x", 7, 7));
    assert_eq!(backlog(&outbox), (0, true), "what is over the limit goes, and waits for pages");
    let taken = take(&outbox);
    assert_eq!((taken.slabs.len(), taken.version), (0, 3));
    assert_eq!(taken.read_page, start(Position::end_of(3), 3));
}

#[test]
fn what_is_missing_is_fetched_in_pages() {
    let outbox = greeted(3);
    outbox.deliver(live("five", 5, 5));
    let taken = take(&outbox);
    assert!(taken.slabs.is_empty());
    assert_eq!(taken.read_page, start(Position::end_of(3), 3));
    assert_eq!(last_page(&outbox, 5), Some((5, false)));
    outbox.deliver(live("five", 5, 5));
    outbox.deliver(live("six", 6, 6));
    assert_eq!(take(&outbox).slabs, ["page", "six"]);
}

#[test]
fn one_page_is_read_at_a_time_and_one_ahead() {
    let outbox = greeted(3);
    outbox.pull(0).unwrap();
    assert_eq!(take(&outbox).read_page, start(Position::end_of(0), 0));
    assert_eq!(take(&outbox).read_page, None, "it is being read");
    let next = Position { version: 2, seq: 7 };
    outbox.page(PageEnd { next, complete: 1, tail: None }, |version, more| {
        assert_eq!((version, more), (1, Some(true)));
        "page".into()
    });
    let taken = take(&outbox);
    assert_eq!((&taken.slabs[..], taken.read_page), (&["page".into()][..], start(next, 1)));
}

/// A pull may come while a page is read that nobody pulled. That page is no answer to it.
#[test]
fn a_page_of_a_fall_back_does_not_answer_a_pull() {
    let outbox = fallen_back();
    assert_eq!(take(&outbox).read_page, start(Position::end_of(3), 3));
    outbox.pull(0).unwrap();
    assert_eq!(take(&outbox).read_page, None, "one page is read at a time");
    assert_eq!(last_page(&outbox, 4), None, "the pull begins before what that page has");
    assert_eq!(take(&outbox).read_page, start(Position::end_of(0), 0));
    assert_eq!(last_page(&outbox, 4), Some((4, false)));
}

#[test]
fn a_pull_above_the_tail_does_not_let_acks_overtake_its_answer() {
    let outbox = greeted(3);
    outbox.pull(1000).unwrap();
    outbox.deliver(ack("ack", 4));
    let taken = take(&outbox);
    assert!(taken.slabs.is_empty(), "the ack waits for the pages, which begin at 0");
    assert_eq!(taken.read_page.unwrap().from, Position::end_of(1000));
    assert_eq!(last_page(&outbox, 4), Some((4, false)));
    assert_eq!(take(&outbox).slabs, ["page", "ack"]);
}

#[test]
fn an_ack_does_not_overtake_one_that_is_held() {
    let outbox = fallen_back();
    outbox.deliver(ack("five", 5));
    outbox.deliver(live("left to the pages", 6, 6));
    // The client has it by another connection.
    outbox.pull(6).unwrap();
    outbox.deliver(ack("six", 6));
    assert_eq!(take(&outbox).slabs, ["reply"]);
    assert_eq!(last_page(&outbox, 6), Some((6, false)));
    assert_eq!(take(&outbox).slabs, ["page", "five", "six"]);
}

#[test]
fn a_fall_back_goes_on_behind_a_page_that_is_queued() {
    let outbox = greeted(3);
    outbox.pull(0).unwrap();
    take(&outbox);
    let next = Position { version: 2, seq: 0 };
    outbox.page(PageEnd { next, complete: 1, tail: None }, |_, _| "first".into());
    let taken = take(&outbox);
    assert_eq!((&taken.slabs[..], taken.version), (&["first".into()][..], 1));
    assert_eq!(last_page(&outbox, 3), Some((3, false)));
    outbox.deliver([Delivery::Live { slab: vec![b'x'; 200].into(), first: 4, last: 4 }]);
    let taken = take(&outbox);
    assert_eq!((&taken.slabs[..], taken.read_page), (&["page".into()][..], start(Position::end_of(3), 3)));
}

#[test]
fn a_commit_that_a_page_was_too_early_for_is_fetched() {
    let outbox = greeted(3);
    outbox.pull(0).unwrap();
    take(&outbox);
    outbox.deliver(live("four", 4, 4));
    assert_eq!(last_page(&outbox, 3), Some((3, true)));
    assert_eq!(take(&outbox).read_page, start(Position::end_of(3), 3));
    assert_eq!(last_page(&outbox, 4), Some((4, false)));
}

#[test]
fn what_comes_between_a_look_and_a_wait_is_not_slept_over() {
    let outbox = greeted(3);
    let polled = || pin!(outbox.wait()).poll(&mut Context::from_waker(Waker::noop()));
    assert!(take(&outbox).slabs.is_empty());
    outbox.deliver(live("four", 4, 4));
    assert!(polled().is_ready());
    assert!(polled().is_ready(), "until it is taken");
    take(&outbox);
    assert!(polled().is_pending());
}

#[test]
fn pulls_wait_their_turn_and_are_not_endless() {
    let outbox = greeted(3);
    for n in 0..=MAX_WAITING_PULLS {
        outbox.pull(n as u64 % 3).unwrap();
    }
    assert!(outbox.pull(0).is_err());
    for n in 0..=MAX_WAITING_PULLS {
        let version = n as u64 % 3;
        assert_eq!(take(&outbox).read_page, start(Position::end_of(version), version));
        assert_eq!(last_page(&outbox, 3), Some((3, false)));
    }
    assert_eq!(take(&outbox).slabs, ["page"]);
    assert_eq!(take(&outbox).read_page, None);
}

#[test]
fn a_close_comes_behind_what_is_queued() {
    for after_pages in [false, true] {
        let outbox = greeted(3);
        outbox.deliver(live("four", 4, 4));
        outbox.close(Ending::DRAINING, after_pages);
        outbox.close(Ending::BAD_MESSAGES, !after_pages);
        let taken = take(&outbox);
        assert_eq!((&taken.slabs[..], taken.close), (&["four".into()][..], Some(Ending::DRAINING)));
    }
}

#[test]
fn a_close_waits_for_pages_if_it_says_so() {
    for after_pages in [false, true] {
        let outbox = greeted(3);
        outbox.pull(0).unwrap();
        outbox.pull(1).unwrap();
        outbox.close(Ending::CLIENT_ENDED, after_pages);
        let taken = take(&outbox);
        assert_eq!(taken.close.is_some(), !after_pages);
        assert_eq!(taken.read_page.is_some(), after_pages);
        if after_pages {
            last_page(&outbox, 3);
            let taken = take(&outbox);
            assert_eq!((taken.close, taken.read_page), (None, start(Position::end_of(1), 1)));
            last_page(&outbox, 3);
            assert!(take(&outbox).close.is_some());
        }
    }
}

#[test]
fn held_acks_leave_before_a_close() {
    let outbox = fallen_back();
    outbox.deliver(ack("ack", 5));
    outbox.close(Ending::DRAINING, false);
    let taken = take(&outbox);
    assert_eq!((&taken.slabs[..], taken.close), (&["reply".into()][..], None));
    assert!(taken.read_page.is_some());
    assert_eq!(last_page(&outbox, 5), Some((5, false)));
    let taken = take(&outbox);
    assert_eq!((&taken.slabs[..], taken.close), (&["page".into(), "ack".into()][..], Some(Ending::DRAINING)));
}

/// Whatever waits for pages, and whatever comes after, an outbox whose pages cannot be read comes to its close.
#[test]
fn a_page_that_cannot_be_read_ends_the_connection() {
    for before in [None, Some(false), Some(true)] {
        let outbox = fallen_back();
        outbox.deliver(ack("ack", 5));
        outbox.pull(0).unwrap();
        assert!(take(&outbox).read_page.is_some());
        if let Some(after_pages) = before {
            outbox.close(Ending::DRAINING, after_pages);
            assert_eq!(take(&outbox).close, None);
        }
        outbox.reply("error".into());
        outbox.page_failed(Ending::PAGE_FAILED);
        outbox.deliver(ack("ack", 6));
        let taken = take(&outbox);
        assert_eq!((&taken.slabs[..], taken.read_page), (&["error".into()][..], None));
        let code = if before.is_some() { Ending::DRAINING } else { Ending::PAGE_FAILED };
        assert_eq!(taken.close, Some(code));
    }
}

#[test]
fn a_commit_that_nobody_was_told_of_comes_in_pages() {
    let outbox = greeted(3);
    outbox.missed(3);
    assert_eq!(backlog(&outbox), (0, false), "it is known");
    outbox.missed(4);
    outbox.deliver(ack("ack", 5));
    let taken = take(&outbox);
    assert!(taken.slabs.is_empty(), "the ack does not pass over what was missed");
    assert_eq!(taken.read_page, start(Position::end_of(3), 3));
    assert_eq!(last_page(&outbox, 4), Some((4, true)), "5 is yet to come");
    assert_eq!(take(&outbox).slabs, ["page"]);
    assert_eq!(last_page(&outbox, 5), Some((5, false)));
    assert_eq!(take(&outbox).slabs, ["page", "ack"]);
}

#[test]
fn a_reader_waits_while_many_answers_are_queued() {
    let polled = |future: &mut std::pin::Pin<&mut dyn Future<Output = ()>>| {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    };
    let outbox = greeted(3);
    outbox.deliver([Delivery::Live { slab: vec![b'x'; 99].into(), first: 4, last: 4 }]);
    let mut wait: std::pin::Pin<&mut dyn Future<Output = ()>> = pin!(outbox.wait_drained());
    assert!(polled(&mut wait).is_ready(), "updates are no answers");
    let mut wait: std::pin::Pin<&mut dyn Future<Output = ()>> = pin!(async {
        outbox.wait_drained().await;
    });
    outbox.reply(vec![b'x'; 51].into());
    assert_eq!(polled(&mut wait), Poll::Pending);
    take(&outbox);
    assert!(polled(&mut wait).is_ready());
    // An empty answer takes room as well.
    let mut wait: std::pin::Pin<&mut dyn Future<Output = ()>> = pin!(outbox.wait_drained());
    outbox.reply(Bytes::new());
    assert!(polled(&mut wait).is_ready());
    let mut wait: std::pin::Pin<&mut dyn Future<Output = ()>> = pin!(outbox.wait_drained());
    outbox.reply(Bytes::new());
    assert_eq!(polled(&mut wait), Poll::Pending);
    // Held acks are answers too, and a close ends the wait.
    let outbox = fallen_back();
    outbox.deliver([Delivery::Ack { frames: vec![b'x'; 51].into(), version: 5 }]);
    take(&outbox);
    let mut wait: std::pin::Pin<&mut dyn Future<Output = ()>> = pin!(outbox.wait_drained());
    assert_eq!(polled(&mut wait), Poll::Pending);
    outbox.close(Ending::DRAINING, false);
    assert!(polled(&mut wait).is_ready());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_holds_all_that_it_was_told_is_complete(
        limits in (20..400usize, 1..5usize), before in prop::collection::vec(model::group(), 0..4),
        steps in prop::collection::vec(model::step(), 0..120), end in model::end(),
    ) {
        let mut run = model::Run::new(limits, before);
        for step in steps {
            run.step(step)?;
        }
        run.finish(end)?;
    }
}
