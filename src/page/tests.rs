#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use causeway_storage::faulty::{At, Fault, Faults, Faulty};
use causeway_storage::{Change, Clamp, Durability, Outcome, StoreOptions, Update, Value, memory, merge};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::protocol::encode::Encoder;

const SITE: &str = "00FF00FF00FF00FF00FF00FF00FF00FF";
/// The longest name, and each byte of it takes two.
const CHANNEL: [u8; 255] = [b'"'; 255];

fn encoder() -> Encoder {
    Encoder::new(std::str::from_utf8(&CHANNEL).unwrap(), SITE)
}

fn store() -> Arc<dyn ChangeStore> {
    let options = StoreOptions { durability: Durability::Off, ..StoreOptions::new("nowhere") };
    (memory::BACKEND.open)(&options).unwrap()
}

/// A version to be written: the cells that win it, each with the size of its value.
type Version = Vec<(u8, usize)>;

fn versions(max: usize) -> impl Strategy<Value = Vec<Version>> {
    let cell = (0..40u8, prop_oneof![9 => 0..30usize, 1 => 0..700usize]);
    vec(prop_oneof![4 => vec(cell.clone(), 1..4), 1 => vec(cell, 1..30)], 0..max)
}

/// Writes a version, so that each of its cells wins over all that was there.
fn write(store: &dyn ChangeStore, version: u64, cells: &Version) {
    let texts: Vec<(String, String)> = cells
        .iter()
        .map(|(cell, size)| (format!("row {}", cell / 4), format!("{:.<size$}", cell % 4)))
        .collect();
    let changes: Vec<Change<'_>> = texts
        .iter()
        .enumerate()
        .map(|(n, (pk, val))| Change {
            table: "t",
            pk,
            cid: &val[..1],
            val: Value::Text(val),
            // Above all before it, in this version too.
            col_version: version * 100 + n as u64,
            db_version: 1,
            site_id: "s",
            cl: 1,
            seq: 0,
        })
        .collect();
    let update = Update { site_id: "s", version, changes: &changes };
    let outcomes = merge(store.open("c").unwrap().as_mut(), &[update], &Clamp::default()).unwrap();
    assert!(matches!(&outcomes[..], [Outcome::Merged { version: v, .. }] if *v == version));
}

fn written(versions: &[Version]) -> (Arc<dyn ChangeStore>, u64) {
    let store = store();
    store.open("c").unwrap();
    for (version, cells) in (1..).zip(versions) {
        write(store.as_ref(), version, cells);
    }
    (store, versions.len() as u64)
}

/// Where every cell stands that is above `version`.
fn places(store: &dyn ChangeStore, version: u64) -> Vec<Position> {
    let mut places = Vec::new();
    let mut reader = store.reader("c").unwrap();
    let visit = &mut |cell: &causeway_storage::Cell<'_>| {
        places.push(cell.at);
        ControlFlow::Continue(())
    };
    reader.read(Position::end_of(version), visit).unwrap();
    places
}

/// One page as a client gets it, and where the next one starts.
struct Page {
    json: Json,
    bytes: usize,
    next: Option<PageStart>,
}

impl Page {
    fn read(store: &dyn ChangeStore, start: PageStart, limits: PageLimits) -> Self {
        let (page, end) = read_page(store.reader("c").unwrap().as_mut(), "c", start, limits).unwrap();
        // As the outbox has it.
        let version = end.tail.unwrap_or(end.complete);
        let more = end.tail.is_none();
        let next = more.then_some(PageStart { from: end.next, complete: version, has_versions: true });
        let frame = page.finish(&encoder(), version, Some(more));
        let head = match frame[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        Page { json: serde_json::from_slice(&frame[head..]).unwrap(), bytes: frame.len() - head, next }
    }

    fn version(&self) -> u64 {
        self.json["version"].as_u64().unwrap()
    }

    fn places(&self) -> Vec<Position> {
        let at = |row: &Json| Position { version: row[5].as_u64().unwrap(), seq: row[8].as_u64().unwrap() };
        self.json["changes"].as_array().unwrap().iter().map(at).collect()
    }
}

fn start(version: u64) -> PageStart {
    PageStart { from: Position::end_of(version), complete: version, has_versions: true }
}

fn limits() -> impl Strategy<Value = PageLimits> {
    (256..3000usize, 1..20usize).prop_map(|(max_bytes, max_changes)| PageLimits { max_bytes, max_changes })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pages_are_all_rows_above_the_cursor(versions in versions(14), limits in limits(), cursor in 0..20u64, known in any::<bool>()) {
        let (store, tail) = written(&versions);
        let all = places(store.as_ref(), if cursor > tail { 0 } else { cursor });
        prop_assert!(all.is_sorted());
        let mut got = Vec::new();
        // The outbox may know that nothing is complete that lies above its channel's version.
        let complete = if cursor > tail && known { 0 } else { cursor };
        let mut next = Some(PageStart { complete, ..start(cursor) });
        while let Some(start) = next {
            let page = Page::read(store.as_ref(), start, limits);
            let places = page.places();
            prop_assert!(places.len() <= limits.max_changes);
            prop_assert!(page.bytes <= limits.max_bytes || places.len() <= 1, "{} bytes, {:?}", page.bytes, limits);
            got.extend(places.iter().copied());
            // Complete is what lies below the next row; when there is none, all.
            let complete = all.get(got.len()).map_or(tail, |at| at.version - 1);
            prop_assert_eq!(page.version(), complete);
            prop_assert_eq!(&page.json["more"], &json!(got.len() < all.len()));
            prop_assert_eq!(page.next.is_some(), got.len() < all.len());
            prop_assert!(!places.is_empty() || all.is_empty(), "only an answer of nothing is empty");
            next = page.next;
        }
        prop_assert_eq!(got, all);
    }

    /// Cells that are written again while a client pages move on, and it finds them there.
    #[test]
    fn pages_between_commits_miss_nothing(
        before in versions(10), between in versions(10), limits in limits(), resumes in vec(any::<bool>(), 40),
    ) {
        let (store, mut tail) = written(&before);
        let mut between = between.into_iter();
        let mut holds = BTreeMap::new();
        let mut next = Some(start(0));
        let mut resumes = resumes.into_iter();
        while let Some(from) = next {
            let page = Page::read(store.as_ref(), from, limits);
            for (row, at) in page.json["changes"].as_array().unwrap().iter().zip(page.places()) {
                let cell = format!("{} {}", row[1], row[2]);
                prop_assert!(holds.insert(cell, (at, row[3].clone())).is_none_or(|(held, _)| held <= at));
            }
            // It holds what stands at or below the version that it was told of.
            let held: Vec<Position> = holds.values().map(|(at, _)| *at).collect();
            let due = places(store.as_ref(), 0).into_iter().filter(|at| at.version <= page.version());
            for at in due {
                prop_assert!(held.contains(&at), "{at:?} is missing at {}", page.version());
            }
            // It goes on, or comes back later with the version it has.
            next = if resumes.next() == Some(true) { Some(start(page.version())) } else { page.next };
            if let Some(cells) = between.next() {
                tail += 1;
                write(store.as_ref(), tail, &cells);
                next = next.or(Some(start(page.version())));
            }
        }
        let mut held: Vec<Position> = holds.values().map(|(at, _)| *at).collect();
        held.sort();
        prop_assert_eq!(held, places(store.as_ref(), 0));
    }
}

const FEW: PageLimits = PageLimits { max_bytes: 1 << 20, max_changes: 2 };

#[test]
fn a_version_larger_than_a_page_is_complete_with_its_last() {
    let (store, _) = written(&[vec![(0, 1)], (4..9).map(|cell| (cell, 1)).collect(), vec![(9, 1)]]);
    let mut told = Vec::new();
    let mut next = Some(start(0));
    while let Some(start) = next {
        let page = Page::read(store.as_ref(), start, FEW);
        told.push((page.places().len(), page.version()));
        next = page.next;
    }
    assert_eq!(told, [(2, 1), (2, 1), (2, 2), (1, 3)]);
}

#[test]
fn a_cursor_at_the_tail_gets_nothing_and_one_above_it_all() {
    let (store, _) = written(&[vec![(0, 1)], vec![(1, 1)]]);
    for (cursor, rows) in [(2, 0), (1, 1), (0, 2), (3, 2), ((1 << 53) - 1, 2)] {
        let page = Page::read(store.as_ref(), start(cursor), FEW);
        assert_eq!(
            (page.places().len(), page.version(), &page.json["more"]),
            (rows, 2, &json!(false)),
            "from {cursor}"
        );
    }
    let (empty, _) = written(&[]);
    for cursor in [0, 1, 100] {
        let page = Page::read(empty.as_ref(), start(cursor), FEW);
        assert_eq!((page.places().len(), page.version()), (0, 0));
    }
}

#[test]
fn the_answer_from_the_beginning_goes_on_where_it_was() {
    let (store, _) = written(&[vec![(0, 1), (1, 1)], vec![(2, 1)], vec![(3, 1)]]);
    let first = Page::read(store.as_ref(), start(99), FEW);
    assert_eq!((first.places().len(), first.version()), (2, 1));
    let second = Page::read(store.as_ref(), first.next.unwrap(), FEW);
    assert_eq!((second.places().len(), second.version()), (2, 3));
}

#[test]
fn a_change_larger_than_a_page_is_a_page() {
    let (store, _) = written(&[vec![(0, 1), (1, 5000), (2, 5000)], vec![(3, 1)]]);
    let limits = PageLimits { max_bytes: 1000, max_changes: 10 };
    let mut told = Vec::new();
    let mut next = Some(start(0));
    while let Some(start) = next {
        let page = Page::read(store.as_ref(), start, limits);
        told.push((page.places().len(), page.version()));
        next = page.next;
    }
    assert_eq!(told, [(1, 0), (1, 0), (1, 1), (1, 2)]);
}

#[test]
fn handles_are_kept_but_not_too_many() {
    let store = store();
    let names: Vec<Arc<str>> = (0..3 * IDLE_HANDLES_PER_READER).map(|n| format!("c{n}").into()).collect();
    let readers = Readers::new(store.clone(), 1);
    for name in &names {
        assert!(readers.read(name, start(0), FEW).is_err(), "there is no such channel");
        store.open(name).unwrap();
        readers.read(name, start(0), FEW).unwrap();
        readers.read(name, start(0), FEW).unwrap();
    }
    let kept: Vec<Arc<str>> = readers.state().idle.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(kept, names[names.len() - IDLE_HANDLES_PER_READER..], "the last that were used, each once");
}

/// Not one that is idle, and not one that reads a page while its channel is removed.
#[test]
fn no_handle_of_a_removed_channel_is_used_again() {
    let faults = Faults::default();
    let store: Arc<dyn ChangeStore> = Arc::new(Faulty::new(store(), faults.clone()));
    let readers = Readers::new(store.clone(), 1);
    let names: [Arc<str>; 2] = ["a".into(), "b".into()];
    let kept = || -> Vec<Arc<str>> { readers.state().idle.iter().map(|(name, _)| name.clone()).collect() };
    for name in &names {
        store.open(name).unwrap();
        readers.read(name, start(0), FEW).unwrap();
    }
    readers.forget("a");
    assert_eq!(kept(), names[1..]);
    faults.once("a", At::Read, Fault::Held);
    std::thread::scope(|scope| {
        let page = scope.spawn(|| readers.read(&names[0], start(0), FEW).is_ok());
        faults.wait_held();
        readers.forget("a");
        faults.release();
        assert!(page.join().unwrap());
    });
    assert_eq!(kept(), names[1..]);
    readers.read(&names[0], start(0), FEW).unwrap();
    assert_eq!(kept(), [&names[1..], &names[..1]].concat());
}
