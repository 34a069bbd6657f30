//! Messages of every kind.

use causeway::bus::message::{Identity, PageFacts, Pull, State};
use causeway_storage::{Digest, Position};

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let says = Identity::new("a", "1");
    let state = State {
        channel: "list".into(),
        site_id: "0A".into(),
        version: 7,
        digest: Digest(1),
        published: 6,
        heard: vec![("0B".into(), 4), ("0C".into(), 5)],
    };
    let at = Position { version: 3, seq: 4 };
    let pull = Pull { id: 9, channel: "list".into(), site_id: "0A".into(), after: at, complete: 2 };
    let facts = PageFacts { from: 2, complete: 5, next: at, is_last: false };
    let last = PageFacts { is_last: true, ..facts };
    let changes = br#"["t","p","c","x\u00e9",1,1,"S",1,0],["t","p","-1",null,1,1,"S",2,1]"#;
    let blob = br#"["t","p","c",{"$blob":"00FF"},1,1,"S",1,0]"#;
    let messages = [
        ("hello", says.hello()),
        ("bye", says.bye()),
        ("here", says.states([], false)),
        ("states", says.states([&state, &State::absent("none".into())], false)),
        ("ask", says.states([&state], true)),
        ("update", says.update("list", "0A", 4, 6, changes)),
        ("blob", says.update("a \"list\"", "0A", 0, 1, blob)),
        ("pull", says.pull(&pull)),
        ("page", says.page(&pull, "0A", facts, changes)),
        ("last", says.page(&pull, "0A", last, b"")),
        ("other_version", r#"{"v":2,"node":"z","news":[true]}"#.into()),
        ("not_ours", "PING".into()),
    ];
    messages.into_iter().map(|(name, message)| (name.to_owned(), message.to_vec())).collect()
}
