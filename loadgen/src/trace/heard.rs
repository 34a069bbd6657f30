//! What a message is, with names as keyed hashes and values as their shapes.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};

use serde::Deserialize;

use super::clocks;
use super::shape::{OfValue, Shape};
use crate::replica::SENTINEL;

/// A client's message. Nothing of its text is in here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Update { site: Option<u64>, changes: Vec<Change> },
    Pull { site: Option<u64>, version: u64 },
    Auth,
    Other,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) table: u64,
    pub(super) key: u64,
    pub(super) key_bytes: u32,
    /// None: the sentinel.
    pub(super) column: Option<u64>,
    pub(super) shape: Shape,
    pub(super) cl: u64,
    pub(super) col_version: u64,
}

#[derive(Debug, Deserialize)]
struct Message<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, rename = "siteId")]
    site: Option<Cow<'a, str>>,
    version: Option<u64>,
    #[serde(borrow)]
    changes: Option<Vec<Row<'a>>>,
}

/// `[table, pk, cid, val, col_version, db_version, site_id, cl, seq]`
#[derive(Debug, Deserialize)]
struct Row<'a>(
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    OfValue,
    u64,
    u64,
    #[serde(borrow)] Cow<'a, str>,
    u64,
    u64,
);

/// Reads a client's message; one that the contract does not allow, as far as a proxy can tell, is [`Heard::Other`].
pub(super) fn client(payload: &[u8], key: &RandomState) -> Heard {
    let Ok(message) = serde_json::from_slice::<Message<'_>>(payload) else { return Heard::Other };
    let site = message.site.map(|site| key.hash_one(site));
    match (&*message.kind, message.version, message.changes) {
        ("update", _, Some(rows)) => match rows.into_iter().map(|row| change(row, key)).collect() {
            Some(changes) => Heard::Update { site, changes },
            None => Heard::Other,
        },
        ("pull", Some(version), _) => Heard::Pull { site, version },
        ("auth", ..) => Heard::Auth,
        _ => Heard::Other,
    }
}

fn change(row: Row<'_>, key: &RandomState) -> Option<Change> {
    let Row(table, pk, cid, OfValue(shape), col_version, db_version, site, cl, seq) = row;
    let is_sentinel = cid == SENTINEL;
    let fits = clocks::are_valid(is_sentinel, cl, col_version)
        && (!is_sentinel || shape == Shape::Null)
        && db_version.max(seq) <= clocks::CLOCK_MAX
        && [(&table, 255), (&cid, 255), (&pk, 4_096), (&site, 64)]
            .iter()
            .all(|(name, most)| (1..=*most).contains(&name.len()));
    fits.then(|| Change {
        table: key.hash_one(table),
        key_bytes: pk.len() as u32,
        key: key.hash_one(pk),
        column: (!is_sentinel).then(|| key.hash_one(cid)),
        shape,
        cl,
        col_version,
    })
}

/// The channel's version in a message of the server.
pub(super) fn server_version(payload: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Message {
        version: u64,
    }
    serde_json::from_slice::<Message>(payload).ok().map(|message| message.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let key = RandomState::new();
        let heard = |text: &str| client(text.as_bytes(), &key);
        let update =
            |change: &str| format!(r#"{{"type":"update","siteId":"S","version":1,"changes":[{change}]}}"#);
        let Heard::Update { site: Some(_), changes } =
            heard(&update(r#"["t\u00e4","k","c","v",1,1,"S",1,0],["t\u00e4","k","-1",null,2,1,"S",2,1]"#))
        else {
            panic!("an update")
        };
        assert_eq!((changes[0].table, changes[0].key), (changes[1].table, changes[1].key));
        assert_eq!((changes[0].shape, changes[0].column.is_some()), (Shape::Text(1), true));
        assert_eq!((changes[1].cl, changes[1].column), (2, None));
        assert_eq!(changes[0].key, key.hash_one("k"), "however it is spelled");
        let pull = r#"{"type":"pull","version":7,"channel":"c","else":[{}]}"#;
        assert_eq!(heard(pull), Heard::Pull { site: None, version: 7 });
        assert_eq!(heard(r#"{"type":"auth","token":"secret"}"#), Heard::Auth);
        for other in ["", "{}", "[]", r#"{"type":"pull"}"#, r#"{"type":"else"}"#, r#"{"type":"update"}"#] {
            assert_eq!(heard(other), Heard::Other, "{other}");
        }
        for bad in [
            r#"["t","k","c","v",1,1,"S",2,0]"#,
            r#"["t","k","c","v",1,1,"S",0,0]"#,
            r#"["t","k","-1",null,1,1,"S",2,0]"#,
            r#"["t","k","-1",1,2,1,"S",2,0]"#,
            r#"["t","k","c",[],1,1,"S",1,0]"#,
            r#"["t","k","c",1,1,1,"S",1]"#,
            r#"["t","","c",1,1,1,"S",1,0]"#,
            r#"["t","k","c",1,1,9007199254740992,"S",1,0]"#,
            r#"["t","k","c",1,1,1,"S",1,0,0]"#,
        ] {
            assert_eq!(heard(&update(bad)), Heard::Other, "{bad}");
        }
        assert_eq!(server_version(br#"{"type":"ack","changes":[[{"version":4}]],"version":9}"#), Some(9));
        assert_eq!(server_version(b"{"), None);
    }
}
