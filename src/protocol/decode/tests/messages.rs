//! Random messages: mostly right, spelt in every way that JSON allows, then perhaps broken.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A text and how it is spelt.
fn text(chars: impl Strategy<Value = char>, len: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    vec((chars, 0..4u8), len).prop_map(|chars| {
        let mut out = String::from("\"");
        for (c, spelling) in chars {
            match (c, spelling) {
                ('"' | '\\' | '/', 1) => out.extend(['\\', c]),
                ('\n', 1) => out.push_str("\\n"),
                ('\u{8}', 1) => out.push_str("\\b"),
                ('\u{c}', 1) => out.push_str("\\f"),
                ('"' | '\\' | '\0'..='\u{1f}', _) | (_, 0) => {
                    c.encode_utf16(&mut [0; 2])
                        .iter()
                        .for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
                }
                _ => out.push(c),
            }
        }
        out + "\""
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        150 => text(select(vec!['a', 'b', 'é', '"', '\\', '😀', '\n', '\u{8}']), 1..6),
        1 => text(any::<char>(), 0..8),
        1 => text(Just('\0'), 1..3),
        1 => text(Just('é'), 30..34),
        1 => text(Just('x'), 250..260),
    ]
}

pub(super) fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any::<i64>().prop_map(|i| i.to_string()),
        4 => any::<f64>().prop_filter("JSON has no other", |r| r.is_finite()).prop_map(|r| format!("{r:?}")),
        2 => any::<f32>().prop_filter("JSON has no other", |r| r.is_finite()).prop_map(|r| format!("{r:e}")),
        2 => any::<u64>().prop_map(|i| i.to_string()),
        2 => "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?",
        1 => select(vec!["-0", "-0.0", "1.0", "0e5", "1E+2", "5e-324", "1e400", "9007199254740992"]).prop_map(Into::into),
    ]
}

/// Any JSON.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        select(vec!["null", "true", "false", "{}", "[]"]).prop_map(String::from),
        number(),
        text(any::<char>(), 0..5),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" ,"))),
            vec((text(select(vec!['a', 'b', 'c']), 1..4), inner), 0..4).prop_map(|entries| object(&entries)),
        ]
    })
}

fn object(entries: &[(String, String)]) -> String {
    let entries: Vec<String> = entries.iter().map(|(key, value)| format!("{key}:{value}")).collect();
    format!("{{{}}}", entries.join(","))
}

fn val() -> impl Strategy<Value = String> {
    let blob = "([0-9a-fA-F]{2}){0,9}".prop_map(|hex| format!("{{ \"$blob\" :\"{hex}\"}}"));
    prop_oneof![
        30 => number(),
        30 => text(any::<char>(), 0..20),
        15 => select(vec!["null", "true", "false"]).prop_map(String::from),
        15 => blob,
        1 => any_json(),
        1 => Just("{\"$blob\":\"0\"}".into()),
    ]
}

fn integer() -> impl Strategy<Value = String> {
    prop_oneof![
        120 => (0..5u64).prop_map(|i| i.to_string()),
        60 => (0..1u64 << 53).prop_map(|i| i.to_string()),
        1 => number(),
        1 => any_json(),
    ]
}

fn change() -> impl Strategy<Value = String> {
    let odd = prop_oneof![20 => (0..9u64).prop_map(|i| (2 * i + 1).to_string()), 1 => integer()];
    let cell = (name(), name(), name(), val(), integer(), integer(), name(), odd, integer());
    let cell = cell.prop_map(|(table, pk, cid, val, col_version, db_version, site_id, cl, seq)| {
        format!("[{table},{pk},{cid},{val},{col_version},{db_version},{site_id},{cl},{seq}]")
    });
    let sentinel = (name(), name(), val(), 0..4u64, 1..5u64, name(), proptest::bool::weighted(0.95));
    let sentinel = sentinel.prop_map(|(table, pk, val, col_version, cl, site_id, right)| {
        let (val, col_version) = if right { ("null".into(), cl) } else { (val, col_version) };
        format!("[{table},\t{pk}, \"\\u002d1\",{val},{col_version},1,{site_id},{cl},0 ]")
    });
    prop_oneof![60 => cell, 20 => sentinel, 1 => any_json()]
}

/// A message that has what its type needs, nearly always, in any order and with more beside it.
pub(super) fn message() -> impl Strategy<Value = String> {
    let kind = select(vec!["update", "update", "update", "update", "pull", "auth", "connected"]);
    let changes = prop_oneof![
        20 => vec(change(), 0..5).prop_map(|changes| format!("[{}]", changes.join(",\r\n "))),
        1 => any_json()
    ];
    let extra = vec((text(select(vec!['a', 'b', 't']), 1..4), any_json()), 0..3);
    let known = (kind, name(), integer(), changes, name());
    (known, extra, any::<[Index; 5]>(), prop_oneof![20 => Just(6), 1 => 0..6usize]).prop_map(
        |((kind, site_id, version, changes, token), mut entries, places, dropped)| {
            let fields = [
                ("type", format!("\"{kind}\"")),
                ("siteId", site_id),
                ("version", version),
                ("changes", changes),
                ("token", token),
            ];
            for ((n, (key, value)), place) in fields.into_iter().enumerate().zip(places) {
                if n != dropped {
                    entries.insert(place.index(entries.len() + 1), (format!(" \"{key}\"\n"), value));
                }
            }
            object(&entries)
        },
    )
}

/// Bytes that were a message, until they were broken in a few places.
pub(super) fn broken() -> impl Strategy<Value = Vec<u8>> {
    (message(), vec((any::<Index>(), any::<Index>(), 0..6u8, any::<u8>()), 1..3)).prop_map(
        |(message, breaks)| {
            const TOKENS: [&[u8]; 16] = [
                b"\"", b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"\\ud800", b"\\udc00", b"\xff",
                b"\0", b"-", b"e9", b"1",
            ];
            let mut bytes = message.into_bytes();
            for (at, to, how, byte) in breaks {
                if bytes.is_empty() {
                    break;
                }
                let (at, to) = (at.index(bytes.len()), to.index(bytes.len()));
                match how {
                    0 => bytes.truncate(at),
                    1 => bytes[at] ^= 1 << (byte % 8),
                    2 => bytes[at] = byte,
                    3 => drop(bytes.drain(at.min(to)..at.max(to).min(at.min(to) + 12))),
                    4 => bytes.swap(at, to),
                    _ => drop(bytes.splice(at..at, TOKENS[usize::from(byte % 16)].iter().copied())),
                }
            }
            bytes
        },
    )
}
