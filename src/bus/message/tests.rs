use super::*;
use bytes::Bytes;
use proptest::prelude::*;

const MAX: usize = 1 << 20;

fn nodes() -> (Identity, Identity) {
    (Identity::new("a", "1"), Identity::new("b", "2"))
}

/// What `b` makes of what `a` says.
fn heard(say: impl FnOnce(&Identity) -> Bytes) -> Body {
    let (a, b) = nodes();
    let said = say(&a);
    serde_json::from_slice::<serde_json::Value>(&said).expect("it is JSON");
    let message = b.decode(&mut said.to_vec(), MAX).unwrap();
    assert_eq!((&*message.node, &*message.boot), ("a", "1"));
    message.body
}

fn refused(text: &str) -> Unheard {
    nodes().1.decode(&mut text.as_bytes().to_vec(), MAX).unwrap_err()
}

const CHANGE: &str = r#"["t","p","c",1,1,1,"S",1,0]"#;

#[test]
fn what_one_says_the_other_hears() {
    assert!(matches!(heard(Identity::hello), Body::Hello));
    let states: Vec<_> = (0..3)
        .map(|n| State {
            channel: format!("channel \"{n}\"").into(),
            site_id: "S".into(),
            version: n,
            digest: Digest(u128::MAX - u128::from(n)),
            published: n / 2,
            heard: (0..n).map(|n| (n.to_string().into(), n)).collect(),
        })
        .chain([State::absent("none".into())])
        .collect();
    for asks in [false, true] {
        let Body::States { states: heard, ask } = heard(|a| a.states(&states, asks)) else {
            panic!("states")
        };
        assert_eq!((heard, ask), (states.clone(), asks));
    }
    assert!(matches!(heard(Identity::bye), Body::Bye));
    let pull = Pull {
        id: 7,
        channel: "c".into(),
        site_id: "S".into(),
        after: Position { version: 3, seq: 4 },
        complete: 2,
    };
    assert!(matches!(heard(|a| a.pull(&pull)), Body::Pull(heard) if heard == pull));
    let Body::Update { channel, from, update } = heard(|a| a.update("c", "S", 4, 6, CHANGE.as_bytes()))
    else {
        panic!("an update")
    };
    assert_eq!((&*channel, from, update.version, update.site_id(), update.len()), ("c", 4, 6, "S", 1));
    let end = PageFacts { from: 2, complete: 5, next: Position { version: 6, seq: 1 }, is_last: false };
    let Body::Page(page) = heard(|a| a.page(&pull, "Z", end, b"")) else { panic!("a page") };
    assert_eq!((page.id, page.from, page.next, page.is_last), (7, 2, end.next, false));
    assert_eq!((page.update.version, page.update.site_id(), page.update.len()), (5, "Z", 0));
}

#[test]
fn a_node_does_not_hear_itself_and_believes_only_its_like() {
    let (a, _) = nodes();
    assert_eq!(a.decode(&mut a.hello().to_vec(), MAX).unwrap_err(), Unheard::Own);
    let namesake = Identity::new("a", "3").decode(&mut a.hello().to_vec(), MAX).unwrap();
    assert_eq!((&*namesake.node, &*namesake.boot), ("a", "1"));
    let newer = refused(r#"{"v":2,"node":"a","boot":["of","another","shape"]}"#);
    assert_eq!(newer, Unheard::OtherProtocol { node: "a".into(), version: 2 });
    let large = nodes().1.decode(&mut a.hello().to_vec(), 10).unwrap_err();
    assert!(matches!(large, Unheard::TooLarge { max: 10, .. }));
}

#[test]
fn what_does_not_fit_is_malformed() {
    let head = r#""v":1,"node":"a","boot":"1""#;
    let changes = format!(r#""channel":"c","siteId":"S","version":2,"changes":[{CHANGE}]"#);
    for text in [
        "".to_owned(),
        "PING".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        format!("{{{head}}}"),
        format!(r#"{{{head},"type":"other"}}"#),
        r#"{"v":1,"node":"a b","boot":"1","type":"hello"}"#.to_owned(),
        r#"{"v":1,"node":"a","boot":"","type":"hello"}"#.to_owned(),
        format!(r#"{{{head},"type":"state","states":[["c","S",1,"00",0,[]]]}}"#),
        format!(r#"{{{head},"type":"state","states":[["","S",1,"{:032}",0,[]]]}}"#, 0),
        format!(r#"{{{head},"type":"state","states":[["c","S",9007199254740992,"{:032}",0,[]]]}}"#, 0),
        format!(r#"{{{head},"type":"update",{changes}}}"#),
        format!(r#"{{{head},"type":"update","from":2,{changes}}}"#),
        format!(r#"{{{head},"type":"update","from":-1,{changes}}}"#),
        format!(r#"{{{head},"type":"update","from":1,{changes},"changes":[]}}"#),
        format!(r#"{{{head},"type":"update","from":1,{}}}"#, changes.replace(r#""S",1,0]"#, r#""S",2,0]"#)),
        format!(
            r#"{{{head},"type":"update","from":1,{}}}"#,
            changes.replace(r#""siteId":"S""#, r#""siteId":"""#)
        ),
        format!(r#"{{{head},"type":"page","id":1,"from":1,"at":[1],"last":true,{changes}}}"#),
        format!(r#"{{{head},"type":"pull","id":1,"from":1,"channel":"c","siteId":"S"}}"#),
        format!(r#"{{{head},"type":"state","states":[["c","S",1,"{:032}",0]]}}"#, 0),
        format!(r#"{{{head},"type":"state","states":[["c","S",1,"{:032}",0,[["",1]]]]}}"#, 0),
        "[".repeat(100_000),
    ] {
        let shown = &text[..text.len().min(200)];
        assert!(matches!(refused(&text), Unheard::Malformed { .. }), "{shown}");
    }
    let state = format!(r#"["c","S",1,"{:032}",0,[]]"#, 0);
    let many = vec![state; MAX_CHANNELS + 1].join(",");
    let many = refused(&format!(r#"{{{head},"type":"state","states":[{many}]}}"#));
    assert!(matches!(many, Unheard::Malformed { .. }));
    let many = vec![r#"["S",1]"#; MAX_HEARD + 1].join(",");
    let many =
        refused(&format!(r#"{{{head},"type":"state","states":[["c","S",1,"{:032}",0,[{many}]]]}}"#, 0));
    assert!(matches!(many, Unheard::Malformed { .. }));
}

proptest! {
    /// Whatever comes, it is heard or refused; a message with a few bytes changed, too.
    #[test]
    fn nothing_that_comes_does_harm(
        noise in prop::collection::vec(any::<u8>(), 0..200),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (a, b) = nodes();
        drop(b.decode(&mut noise.clone(), MAX));
        let mut message = a.update("c", "S", 4, 6, CHANGE.as_bytes()).to_vec();
        for (at, byte) in edits {
            let at = at.index(message.len());
            message[at] = byte;
        }
        drop(b.decode(&mut message, MAX));
    }
}
