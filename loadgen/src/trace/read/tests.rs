use std::hash::{BuildHasher, RandomState};

use proptest::prelude::*;

use super::super::clocks::{Clocks, Place};
use super::super::format::{Change, What};
use super::super::heard::{self, Heard};
use super::super::scribe::{Noted, Scribe};
use super::super::shape::Shape;
use super::*;

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Null),
        Just(Shape::Bool),
        any::<u32>().prop_map(Shape::Integer),
        any::<u32>().prop_map(Shape::Real),
        any::<u32>().prop_map(Shape::Text),
        any::<u32>().prop_map(Shape::Blob),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let places = (any::<u32>(), any::<u32>(), any::<u32>(), any::<Option<u32>>());
    (places, shape(), any::<i64>(), any::<i64>()).prop_map(|((table, key, bytes, column), shape, cl, col)| {
        Change(table, key, bytes, column, shape, cl, col)
    })
}

fn what() -> impl Strategy<Value = What> {
    let site = any::<Option<u32>>;
    prop_oneof![
        any::<u32>().prop_map(|channel| What::Open { channel }),
        Just(What::Close),
        (site(), any::<u64>(), prop::collection::vec(change(), 0..4))
            .prop_map(|(site, bytes, changes)| What::Update { site, bytes, changes }),
        (site(), any::<u64>(), any::<Option<u64>>()).prop_map(|(site, bytes, behind)| What::Pull {
            site,
            bytes,
            behind
        }),
        any::<u64>().prop_map(|bytes| What::Auth { bytes }),
        any::<u64>().prop_map(|bytes| What::Other { bytes }),
    ]
}

/// Events in the order of their times.
fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec((any::<u64>(), any::<u32>(), what()), 0..12).prop_map(|events| {
        let mut events: Vec<_> = events.into_iter().map(|(at, conn, what)| Event(at, conn, what)).collect();
        events.sort_by_key(|event| event.0);
        events
    })
}

/// The trace's lines, each with its end.
fn lines(events: &[Event], end: Option<End>) -> Vec<String> {
    let header = serde_json::to_string(&Header { causeway_trace: VERSION });
    let events = events.iter().map(serde_json::to_string);
    let end = end.iter().map(serde_json::to_string);
    [header].into_iter().chain(events).chain(end).map(|line| line.expect("JSON") + "\n").collect()
}

fn read_all(text: &[u8]) -> Result<(Vec<Event>, Ended), TraceError> {
    let mut events = Vec::new();
    let ended = read(text, |event| {
        events.push(event);
        Ok(())
    })?;
    Ok((events, ended))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(events in events(), end in any::<u64>(), full in any::<bool>()) {
        let end = End { end, full };
        let (read, ended) = read_all(lines(&events, Some(end)).concat().as_bytes()).expect("a trace");
        prop_assert_eq!((read, ended), (events, Ended::Well(end)));
    }

    #[test]
    fn a_cut_file_is_read_up_to_the_cut(events in events(), cut in any::<prop::sample::Index>()) {
        let lines = lines(&events, Some(End { end: u64::MAX, full: false }));
        let text = lines.concat();
        let cut = lines[0].len() + cut.index(text.len() - lines[0].len());
        let (read, ended) = read_all(&text.as_bytes()[..cut]).expect("up to the cut");
        // Its newline is no part of an event.
        let whole = text[..cut].lines().zip(text.lines()).filter(|(cut, line)| cut == line).count();
        let events_left = (whole - 1).min(events.len());
        prop_assert_eq!(&read[..], &events[..events_left]);
        let is_end = whole == lines.len();
        prop_assert!(is_end || ended == Ended::Cut(whole as u64), "{:?} {}", ended, whole);
    }

    #[test]
    fn rubbish_is_named_by_its_line(
        events in events(), at in any::<prop::sample::Index>(), rubbish in "[^\n\r\t 0-9\\[{]{1,9}[^\n]{0,9}",
    ) {
        let mut lines = lines(&events, Some(End { end: u64::MAX, full: false }));
        let at = 1 + at.index(lines.len());
        lines.insert(at, rubbish + "\n");
        match read_all(lines.concat().as_bytes()) {
            Err(TraceError::Line { line, .. }) => prop_assert_eq!(line, at as u64 + 1),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn any_bytes_are_no_panic(text in prop::collection::vec(any::<u8>(), 0..200), is_headed in any::<bool>()) {
        let header = if is_headed { lines(&[], None).concat() } else { String::new() };
        let _ = read_all(&[header.as_bytes(), &text].concat());
    }
}

#[test]
fn what_is_no_trace_is_told() {
    let why = |text: &str| read_all(text.as_bytes()).expect_err("no trace").to_string();
    assert!(why("").contains("no trace") && why("{\"causeway_tra").contains("no trace"));
    assert_eq!(why("{\"causeway_trace\":7}\n"), "a trace of version 7: this program reads version 1");
    let header = "{\"causeway_trace\":1}\n";
    assert!(why(&format!("{header}[5,0,\"close\"]\n[4,0,\"close\"]\n")).starts_with("line 3: time falls"));
    assert!(
        why(&format!("{header}[5,0,{{\"open\":{{\"channel\":0,\"name\":1}}}}]\n")).starts_with("line 2:")
    );
    let after = format!("{header}{{\"end\":5,\"full\":false}}\n[6,0,\"close\"]\n");
    assert_eq!(why(&after), "line 3: something follows the end");
    let refused = read(format!("{header}[5,0,\"close\"]\n").as_bytes(), |_| Err("no".into()));
    assert_eq!(refused.expect_err("refused").to_string(), "line 2: no");
}

/// Notes some messages; the file, and whether all fitted.
fn scribed(bytes_max: u64) -> (Vec<u8>, bool) {
    let key = RandomState::new();
    let mut out = Vec::new();
    let mut scribe = Scribe::new(&mut out, bytes_max).expect("written");
    let mut fits = true;
    for conn in 0..2_u32 {
        let channel = key.hash_one(format!("marker channel {conn}"));
        fits = fits && scribe.note(1, conn, &Noted::Open(channel)).expect("written");
        for version in 1..=20 {
            let text = format!(
                r#"{{"type":"update","siteId":"marker","version":1,"changes":[["marker","k{version}","marker",["marker"][0],1,1,"m",1,0]]}}"#
            )
            .replace("[\"marker\"][0]", "\"marker\"");
            let heard = heard::client(text.as_bytes(), &key);
            assert!(matches!(heard, Heard::Update { .. }));
            fits = fits
                && scribe
                    .note(version, conn, &Noted::Message { heard, bytes: 9, behind: 0 })
                    .expect("written");
        }
    }
    let totals = scribe.end(99, !fits).expect("written");
    assert_eq!(totals.file_bytes, out.len() as u64);
    (out, fits)
}

#[test]
fn a_full_file_is_complete_and_below_its_limit() {
    let (all, fits) = scribed(u64::MAX);
    assert!(fits && !String::from_utf8_lossy(&all).contains("marker"));
    let (events, ended) = read_all(&all).expect("a trace");
    assert_eq!((events.len(), ended), (42, Ended::Well(End { end: 99, full: false })));
    for bytes_max in (200..all.len() as u64).step_by(97) {
        let (some, fits) = scribed(bytes_max);
        assert!(some.len() as u64 <= bytes_max && !fits);
        let (read, ended) = read_all(&some).expect("a trace");
        assert_eq!(ended, Ended::Well(End { end: 99, full: true }));
        assert_eq!(read[..], events[..read.len()]);
    }
}

#[test]
fn ids_and_steps_give_clocks_that_are_allowed() {
    let (all, _) = scribed(u64::MAX);
    let mut clocks = Clocks::default();
    let mut seen = 0;
    for Event(_, conn, what) in read_all(&all).expect("a trace").0 {
        if let What::Update { site, changes, .. } = what {
            let Change(table, key, 2 | 3, Some(0), Shape::Text(6), cl_step, col_step) = changes[0] else {
                panic!("{changes:?}")
            };
            let place = Place { channel: conn, table, key, column: Some(0) };
            assert_eq!(clocks.clocks(place, cl_step, col_step), Some((1, 1)));
            assert_eq!((site, key), (Some(0), seen % 20));
            seen += 1;
        }
    }
    assert_eq!(seen, 40);
}
