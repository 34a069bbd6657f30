//! What nodes tell each other. An input is a message, as it comes from Redis; whatever is heard is said again, and then heard the
//! same.

use causeway::bus::message::{Body, Identity, Message, PageFacts};
use causeway::protocol::IncomingUpdate;

/// The longest message.
const MAX_BYTES: usize = 64 << 10;

/// The fuzz target.
pub fn check(input: &[u8]) {
    let hears = Identity::new("hears", "1");
    let Ok(heard) = hears.decode(&mut input.to_vec(), MAX_BYTES) else { return };
    let again = hears.decode(&mut said(&heard).to_vec(), usize::MAX).expect("what was heard can be said");
    assert_eq!((&again.node, &again.boot), (&heard.node, &heard.boot));
    assert_eq!(shape(&again.body), shape(&heard.body));
}

fn said(Message { node, boot, body }: &Message) -> Vec<u8> {
    let says = Identity::new(node, boot);
    let bytes = match body {
        Body::Hello => says.hello(),
        Body::Bye => says.bye(),
        Body::States { states, ask } => says.states(states, *ask),
        Body::Update { channel, from, update } => {
            says.update(channel, update.site_id(), *from, update.version, &changes(update))
        }
        Body::Pull(pull) => says.pull(pull),
        Body::Page(page) => {
            let pull = causeway::bus::message::Pull {
                id: page.id,
                channel: page.channel.clone(),
                site_id: "".into(),
                after: page.next,
                complete: 0,
            };
            let facts = PageFacts {
                from: page.from,
                complete: page.update.version,
                next: page.next,
                is_last: page.is_last,
            };
            says.page(&pull, page.update.site_id(), facts, &changes(&page.update))
        }
    };
    bytes.to_vec()
}

/// All that a message says, to be compared.
fn shape(body: &Body) -> (String, Vec<u8>) {
    match body {
        Body::Update { channel, from, update } => {
            let head = format!("{channel} {from} {} {}", update.site_id(), update.version);
            (head, changes(update))
        }
        Body::Page(page) => {
            let head = (page.id, &page.channel, page.from, page.next, page.is_last);
            let head = format!("{head:?} {} {}", page.update.site_id(), page.update.version);
            (head, changes(&page.update))
        }
        other => (format!("{other:?}"), Vec::new()),
    }
}

fn changes(update: &IncomingUpdate) -> Vec<u8> {
    let mut out = Vec::new();
    let all: Vec<u32> = (0..update.len() as u32).collect();
    if !all.is_empty() {
        update.write_json(&all, &mut out);
    }
    out
}
