#![allow(clippy::unwrap_used)]

use causeway_storage::faulty::{At, Fault, Faults, Faulty};
use causeway_storage::{Durability, Head, StoreOptions, memory};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::bus::hub::HubLimits;
use crate::bus::mailbox::Mailbox;
use crate::bus::message::{Body, Identity};
use crate::outbox::{OutboxLimits, Taken};
use crate::page::{PageLimits, read_page};
use crate::protocol::Incoming;
use crate::protocol::decode::{DecodeRules, decode};

const RULES: CommitRules = CommitRules {
    clamp: Clamp { max_col_version_jump: 100, max_cl_jump: 100 },
    peer_retention: Duration::from_secs(3600),
    quota: Quota { max_cells: 0, max_bytes: 0 },
};

/// A channel with a few connections.
struct House {
    store: Arc<Faulty>,
    faults: Faults,
    channel: Channel,
    outboxes: Vec<Arc<Outbox>>,
    encoder: Arc<Encoder>,
    metrics: Metrics,
}

/// A change of a row to a clock; the higher wins.
type Write = (u8, u64);

impl House {
    fn new(connections: u64) -> Self {
        Self::on_bus(connections, None)
    }

    fn on_bus(connections: u64, bus: Option<Arc<Hub>>) -> Self {
        let options = StoreOptions { durability: Durability::Off, ..StoreOptions::new("nowhere") };
        let faults = Faults::default();
        let store = Arc::new(Faulty::new((memory::BACKEND.open)(&options).unwrap(), faults.clone()));
        // Made, so that its pages can be read.
        drop(store.open("c").unwrap());
        let mut channel = Channel::open(store.as_ref(), &"c".into(), "seed", bus).unwrap();
        let limits = OutboxLimits { max_bytes: 1 << 20, max_reply_bytes: 1 << 20, max_bad_messages: 1000 };
        let outboxes: Vec<_> = (0..connections).map(|id| Arc::new(Outbox::new(id, limits))).collect();
        let encoder = outboxes
            .iter()
            .map(|outbox| channel.join(store.as_ref(), outbox.clone()).unwrap())
            .last()
            .unwrap();
        let mut house = House { store, faults, channel, outboxes, encoder, metrics: Metrics::default() };
        for connection in 0..connections as usize {
            let greeting = house.received(connection).remove(0);
            assert_eq!((&greeting["type"], &greeting["version"]), (&json!("connected"), &json!(0)));
        }
        house
    }

    /// An update of a connection; `received` names it.
    fn pending(&self, connection: usize, received: u64, writes: &[Write]) -> Pending {
        let rows: Vec<_> = writes.iter().map(|(row, clock)| change(*row, *clock)).collect();
        let message = json!({"type": "update", "siteId": format!("site {connection}"), "version": received, "changes": rows});
        let rules = DecodeRules { max_changes: 100, strict_channel: None };
        match decode(&mut message.to_string().into_bytes(), rules).unwrap() {
            Incoming::Update(update) => {
                let sender = Sender::Client(self.outboxes[connection].clone());
                Pending { sender, update, received: Instant::now() }
            }
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, updates: &[(usize, u64, &[Write])]) {
        let pending: Vec<_> =
            updates.iter().map(|(from, received, writes)| self.pending(*from, *received, writes)).collect();
        self.channel.commit(self.store.as_ref(), pending, &RULES, &self.metrics);
    }

    /// All that a connection has been sent, pages too.
    fn received(&mut self, connection: usize) -> Vec<Json> {
        let outbox = &self.outboxes[connection];
        let mut bytes = Vec::new();
        let mut taken = Taken::default();
        loop {
            outbox.take(&mut taken);
            taken.slabs.iter().for_each(|slab| bytes.extend_from_slice(slab));
            if let Some(start) = taken.read_page {
                let mut reader = self.store.reader("c").unwrap();
                let limits = PageLimits { max_bytes: 1 << 20, max_changes: 3 };
                let (page, end) = read_page(reader.as_mut(), "c", start, limits).unwrap();
                outbox.page(end, |version, more| page.finish(&self.encoder, version, more));
            } else if taken.slabs.is_empty() {
                return messages(&bytes);
            }
        }
    }
}

fn change(row: u8, clock: u64) -> Json {
    json!(["t", format!("row {row}"), "c", 0, clock, 1, "s", 1, 0])
}

/// The messages of whole frames, without what is the same in all of them.
fn messages(mut bytes: &[u8]) -> Vec<Json> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[0], 0x81, "a whole text");
        let (len, at) = match bytes[1] {
            126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
            short => (usize::from(short), 2),
        };
        let mut message: Json = serde_json::from_slice(&bytes[at..at + len]).unwrap();
        bytes = &bytes[at + len..];
        assert_eq!(message.as_object_mut().unwrap().remove("channel"), Some(json!("c")));
        message.as_object_mut().unwrap().remove("siteId");
        messages.push(message);
    }
    messages
}

fn ack(version: u64, received: u64) -> Json {
    json!({"type": "ack", "version": version, "received": received})
}

fn update(version: u64, writes: &[Write]) -> Json {
    let changes: Vec<_> = writes.iter().map(|(row, clock)| change(*row, *clock)).collect();
    json!({"type": "update", "version": version, "changes": changes})
}

fn refused(received: u64, index: usize, max: u64) -> Json {
    let message = format!("changes[{index}].col_version: too far ahead, here it is at most {max}");
    json!({"type": "error", "code": "invalid_change", "message": message, "received": received})
}

fn storage(received: u64) -> Json {
    let message = "the server could not store this update; send it again later";
    json!({"type": "error", "code": "storage", "message": message, "received": received})
}

#[test]
fn each_sender_gets_acks_in_the_place_of_its_own() {
    let mut house = House::new(3);
    house.commit(&[
        (0, 10, &[(1, 5), (2, 5)]),
        (1, 20, &[(3, 5)]),
        // Lost, all of it: the version stays.
        (0, 11, &[(3, 4)]),
        // Refused between the others.
        (1, 21, &[(4, 5), (4, 101)]),
        (1, 22, &[(1, 4), (2, 6)]),
        (0, 12, &[(5, 1)]),
        (0, 13, &[]),
    ]);
    let [first, second, third] = [update(1, &[(1, 5), (2, 5)]), update(2, &[(3, 5)]), update(3, &[(2, 6)])];
    let fourth = update(4, &[(5, 1)]);
    assert_eq!(
        house.received(0),
        [ack(1, 10), second.clone(), ack(2, 11), third.clone(), ack(4, 12), ack(4, 13)]
    );
    assert_eq!(
        house.received(1),
        [first.clone(), ack(2, 20), refused(21, 1, 100), ack(3, 22), fourth.clone()]
    );
    assert_eq!(house.received(2), [first, second, third, fourth]);
    assert_eq!(house.channel.version(), 4);
}

#[test]
fn who_has_left_is_answered_and_told_no_more() {
    let mut house = House::new(2);
    house.channel.leave(0);
    house.channel.leave(77);
    house.commit(&[(0, 1, &[(1, 1)]), (1, 2, &[(2, 1)])]);
    assert_eq!(house.received(0), [ack(1, 1), update(2, &[(2, 1)])]);
    house.commit(&[(1, 3, &[(2, 2)])]);
    assert_eq!(house.received(0), [json!(null); 0]);
    assert_eq!(house.received(1), [update(1, &[(1, 1)]), ack(2, 2), ack(3, 3)]);
}

#[test]
fn a_commit_that_fails_is_answered_to_its_senders_and_nobody_else() {
    for fails in [At::Begin, At::Lookup, At::Put, At::Commit, At::Open] {
        let mut house = House::new(3);
        house.commit(&[(0, 1, &[(1, 1)])]);
        if fails == At::Open {
            house.channel.close();
        }
        (0..3).for_each(|connection| drop(house.received(connection)));
        house.faults.once("c", fails, Fault::Engine);
        house.commit(&[(0, 2, &[(1, 2)]), (1, 3, &[(2, 2)]), (0, 4, &[(1, 3)])]);
        assert!(!house.channel.is_open(), "{fails:?}");
        assert_eq!(house.received(0), [storage(2), storage(4)], "{fails:?}");
        assert_eq!(house.received(1), [storage(3)], "{fails:?}");
        assert_eq!(house.received(2), [json!(null); 0], "{fails:?}");
        assert_eq!(house.channel.version(), 1);
        // The next one works, with the next version, and nothing of the failed one is there.
        house.commit(&[(1, 5, &[(1, 2)])]);
        assert_eq!(house.received(0), [update(2, &[(1, 2)])], "{fails:?}");
        assert_eq!(house.received(1), [ack(2, 5)], "{fails:?}");
        assert_eq!(house.received(2), [update(2, &[(1, 2)])], "{fails:?}");
    }
}

/// The disk had it, and then the store failed: everybody is to learn of it, the next sender above all, whose ack names a
/// version behind it.
#[test]
fn a_commit_that_fails_after_it_is_durable_reaches_everyone_with_the_next() {
    let page = |writes: &[(Write, u64, u64)], version: u64| {
        let row = |((row, clock), version, seq): &(Write, u64, u64)| {
            json!(["t", format!("row {row}"), "c", 0, clock, version, "s", 1, seq])
        };
        json!({"type": "update", "version": version, "changes": writes.iter().map(row).collect::<Vec<_>>()})
    };
    let mut house = House::new(3);
    house.faults.once("c", At::Committed, Fault::Engine);
    house.commit(&[(0, 1, &[(1, 1), (2, 1)])]);
    assert_eq!(house.received(0), [storage(1)]);
    house.commit(&[(1, 2, &[(3, 1)]), (0, 3, &[(1, 1)])]);
    let all = page(&[((1, 1), 1, 0), ((2, 1), 1, 1), ((3, 1), 2, 0)], 2);
    assert_eq!(house.received(0), [all.clone(), ack(2, 3)]);
    assert_eq!(house.received(1), [all.clone(), ack(2, 2)]);
    assert_eq!(house.received(2), [all]);
    // And then all is as ever.
    house.commit(&[(1, 4, &[(3, 2)])]);
    assert_eq!(house.received(0), [update(3, &[(3, 2)])]);
    assert_eq!(house.received(1), [ack(3, 4)]);
}

/// A page has shown it to somebody already, and versions never fall.
#[test]
fn who_comes_after_a_commit_that_failed_when_it_was_durable_is_greeted_at_its_version() {
    let mut house = House::new(2);
    house.faults.once("c", At::Committed, Fault::Engine);
    house.commit(&[(0, 1, &[(1, 1)])]);
    assert_eq!(house.received(0), [storage(1)]);
    let limits = OutboxLimits { max_bytes: 1 << 20, max_reply_bytes: 1 << 20, max_bad_messages: 1000 };
    let late = Arc::new(Outbox::new(2, limits));
    house.faults.once("c", At::Open, Fault::Engine);
    assert!(house.channel.join(house.store.as_ref(), late.clone()).is_err(), "its version cannot be told");
    house.channel.join(house.store.as_ref(), late.clone()).unwrap();
    house.outboxes.push(late);
    assert_eq!(house.received(2), [json!({"type": "connected", "version": 1})]);
    // Those who were there are not left behind either, and the next commit is for all.
    let row = json!(["t", "row 1", "c", 0, 1, 1, "s", 1, 0]);
    assert_eq!(house.received(1), [json!({"type": "update", "version": 1, "changes": [row]})]);
    house.commit(&[(1, 2, &[(2, 1)])]);
    assert_eq!(house.received(2), [update(2, &[(2, 1)])]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every connection's messages are those of all updates in order, its own turned into answers, whatever is committed
    /// together and whenever the store is closed between.
    #[test]
    fn all_messages_come_in_commit_order(
        commits in vec((vec((0..3usize, vec((0..4u8, 0..160u64), 0..4)), 1..7), any::<bool>(), any::<bool>()), 1..8),
    ) {
        let mut house = House::new(4);
        let mut clocks = std::collections::BTreeMap::new();
        let (mut version, mut received) = (0, 0);
        let mut expected = vec![Vec::new(); 4];
        for (updates, closes, looks) in commits {
            let mut group = Vec::new();
            for (sender, writes) in &updates {
                received += 1;
                group.push((*sender, received, &writes[..]));
                let max = |clocks: &std::collections::BTreeMap<u8, u64>, row| clocks.get(&row).copied().unwrap_or(0) + 100;
                let beyond = writes.iter().position(|(row, clock)| *clock > max(&clocks, *row));
                if let Some(index) = beyond {
                    expected[*sender].push(refused(received, index, max(&clocks, writes[index].0)));
                    continue;
                }
                let mut winners = Vec::new();
                for (row, clock) in writes {
                    if clocks.get(row).is_none_or(|known| known < clock) {
                        clocks.insert(*row, *clock);
                        winners.push((*row, *clock));
                    }
                }
                version += u64::from(!winners.is_empty());
                for (connection, expected) in expected.iter_mut().enumerate() {
                    if connection == *sender {
                        expected.push(ack(version, received));
                    } else if !winners.is_empty() {
                        expected.push(update(version, &winners));
                    }
                }
            }
            house.commit(&group);
            prop_assert_eq!(house.channel.version(), version);
            if closes {
                house.channel.close();
            }
            if looks {
                for (connection, expected) in expected.iter_mut().enumerate() {
                    prop_assert_eq!(house.received(connection), std::mem::take(expected));
                }
            }
        }
        for (connection, expected) in expected.into_iter().enumerate() {
            prop_assert_eq!(house.received(connection), expected, "connection {}", connection);
        }
    }
}

#[test]
fn peers_that_are_not_heard_of_again_are_forgotten() {
    let mut house = House::new(1);
    let now = unix_time_s();
    let mut store = house.store.open("c").unwrap();
    store.begin().unwrap();
    for (site_id, seen_s) in [("long ago", now - 3700), ("lately", now - 3500)] {
        let (site_id, tag, event, version) = (site_id.into(), 0, 0, 1);
        store.track(&causeway_storage::TrackedPeer { site_id, tag, event, version, seen_s }).unwrap();
    }
    store.commit(Head::default()).unwrap();
    house.commit(&[(0, 7, &[(1, 1)])]);
    let peers = house.store.reader("c").unwrap().peers().unwrap();
    let sites: Vec<_> = peers.iter().map(|peer| (peer.site_id.as_str(), peer.version)).collect();
    assert_eq!(sites, [("lately", 1), ("site 0", 7)]);
    assert_eq!(house.received(0)[0]["type"], "ack");
    assert!(house.channel.peers_due > Instant::now(), "not with every commit");
}

/// A node's hub, whose messages nobody takes away.
fn hub() -> Arc<Hub> {
    let metrics = Metrics::default().bus.clone();
    let limits = HubLimits {
        max_update_bytes: 100,
        max_active: 10,
        max_remembered: 10,
        catch_up_timeout: Duration::from_secs(1),
    };
    let (hub, _) = Hub::new(Identity::new("a", "1"), Mailbox::new(1 << 20), limits, metrics);
    hub.set_up(true);
    hub.others().send_replace(vec!["b".into()]);
    Arc::new(hub)
}

/// What was published, as another node hears it: `from`, version, changes.
fn published(hub: &Hub) -> Vec<(u64, u64, usize)> {
    let hear = |(_, message): (_, bytes::Bytes)| {
        let heard = Identity::new("b", "2").decode(&mut message.to_vec(), 1 << 20).unwrap();
        match heard.body {
            Body::Update { from, update, .. } => (from, update.version, update.len()),
            other => panic!("{other:?}"),
        }
    };
    hub.outgoing.take(usize::MAX).into_iter().map(hear).collect()
}

/// An update of node `b`, whose channel has the site id `B`.
fn of_node(from: u64, version: u64, writes: &[Write]) -> Pending {
    let changes: Vec<_> = writes.iter().map(|(row, clock)| change(*row, *clock).to_string()).collect();
    let message = Identity::new("b", "2").update("c", "B", from, version, changes.join(",").as_bytes());
    match Identity::new("a", "1").decode(&mut message.to_vec(), 1 << 20).unwrap().body {
        Body::Update { from, update, .. } => {
            let sender = Sender::Node { node: "b".into(), from, merged: None };
            Pending { sender, update, received: Instant::now() }
        }
        other => panic!("{other:?}"),
    }
}

impl House {
    fn commit_all(&mut self, pending: Vec<Pending>) {
        self.channel.commit(self.store.as_ref(), pending, &RULES, &self.metrics);
    }

    /// Up to which version node `b` was heard, as the store has it.
    fn heard(&self) -> u64 {
        HeardOf::read(self.store.reader("c").unwrap().as_mut()).unwrap().of("B")
    }
}

#[test]
fn clients_updates_are_published_in_messages_of_whole_updates() {
    let hub = hub();
    let mut house = House::on_bus(1, Some(hub.clone()));
    // The third loses; a change has about 32 bytes, and 100 are a message.
    let updates: Vec<Vec<Write>> =
        vec![vec![(1, 1), (2, 1)], vec![(3, 1)], vec![(1, 1)], vec![(4, 1), (5, 1)], vec![(6, 1)]];
    let pending = updates.iter().enumerate().map(|(n, writes)| house.pending(0, n as u64, writes)).collect();
    house.commit_all(pending);
    assert_eq!(published(&hub), [(0, 2, 3), (2, 4, 3)]);
    house.commit(&[(0, 9, &[(1, 2)])]);
    assert_eq!(published(&hub), [(4, 5, 1)]);
    let stands = hub.active().get("c").unwrap().state.clone();
    let head = house.store.reader("c").unwrap().head().unwrap();
    assert_eq!((stands.version, stands.published, stands.digest), (5, 5, head.digest));
}

#[test]
fn a_nodes_update_is_merged_whatever_its_clocks_and_told_to_clients_but_not_to_nodes() {
    let hub = hub();
    let mut house = House::on_bus(2, Some(hub.clone()));
    let client = house.pending(0, 7, &[(2, 1)]);
    house.commit_all(vec![of_node(0, 4, &[(1, 1_000_000)]), client]);
    let heard = house.received(1);
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert_eq!((&heard[0]["version"], &heard[0]["changes"][0][4]), (&json!(1), &json!(1_000_000)));
    let sender = house.received(0);
    assert_eq!((&sender[0]["version"], &sender[1]["type"]), (&json!(1), &json!("ack")));
    assert_eq!(published(&hub), [(0, 2, 1)], "the client's alone");
    assert_eq!(house.heard(), 4);
    // Clients cannot say that a node was heard.
    let peers = house.store.reader("c").unwrap().peers().unwrap();
    assert_eq!(
        peers.iter().map(|peer| (peer.site_id.as_str(), peer.tag)).collect::<Vec<_>>(),
        [("B", 1), ("site 0", 0)]
    );
}

#[test]
fn a_gap_is_noted_and_what_follows_it_is_merged_but_not_counted_as_heard() {
    let hub = hub();
    let mut house = House::on_bus(1, Some(hub.clone()));
    house.commit_all(vec![of_node(0, 4, &[(1, 1)]), of_node(5, 6, &[(2, 1)]), of_node(6, 7, &[(3, 1)])]);
    assert_eq!((house.heard(), house.received(0).len()), (4, 3));
    let missed: Vec<_> = hub.take_missed().into_iter().map(|m| (m.node, m.site_id, m.version)).collect();
    assert_eq!(missed, [("b".into(), "B".into(), 6), ("b".into(), "B".into(), 7)]);
    // A page fills it.
    house.commit_all(vec![of_node(4, 7, &[(4, 1)]), of_node(7, 8, &[(5, 1)])]);
    assert_eq!((house.heard(), hub.take_missed().len()), (8, 0));
    // What wins nothing counts as heard, too, in a commit of its own.
    house.commit_all(vec![of_node(8, 9, &[(5, 1)])]);
    assert_eq!((house.heard(), house.channel.version()), (9, 5));
}

#[test]
fn what_a_failed_commit_had_of_a_node_is_missed_and_what_it_left_of_a_client_is_a_gap_to_others() {
    let hub = hub();
    let mut house = House::on_bus(1, Some(hub.clone()));
    house.commit(&[(0, 1, &[(1, 1)])]);
    assert_eq!(published(&hub), [(0, 1, 1)]);
    house.faults.once("c", At::Committed, Fault::Engine);
    let client = house.pending(0, 2, &[(2, 1)]);
    house.commit_all(vec![client, of_node(0, 4, &[(3, 1)])]);
    assert_eq!((hub.take_missed().len(), published(&hub)), (1, vec![]));
    house.commit(&[(0, 3, &[(4, 1)])]);
    assert_eq!(published(&hub), [(3, 4, 1)], "the versions 2 and 3 were told to nobody");
}
