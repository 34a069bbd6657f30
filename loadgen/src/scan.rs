//! Reading the server's messages, cheaply.
//!
//! A follower's deliveries are most of what a run parses, and nearly all of their bytes are the generator's own changes
//! coming back. So messages go through a scanner that knows that layout and reads each byte about once. Where the text
//! does not fit (another key order inside a change, spaces, escapes), the whole message goes through serde_json instead:
//! slower, never wrong.

use memchr::memmem;

use crate::plan::{Change, Plan, STAMP_PREFIX, hex, take_key};

/// What a message from the server is, without its changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incoming {
    Connected { version: u64 },
    Ack { version: u64, received: Option<u64> },
    Update { version: u64, more: Option<bool> },
    Error { code: String, text: String, received: Option<u64> },
    Other,
}

/// A message that cannot be what a server of the protocol sends.
#[derive(Debug, thiserror::Error)]
#[error("{reason}: {start}")]
pub(crate) struct BadMessage {
    reason: String,
    start: String,
}

impl BadMessage {
    fn new(reason: impl Into<String>, text: &[u8]) -> Self {
        let start = String::from_utf8_lossy(&text[..text.len().min(200)]).into_owned();
        Self { reason: reason.into(), start }
    }
}

/// Reads messages; keeps the changes of the last `update` in a buffer that is used again.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// The changes of the last message that was an `update`, in its order.
    pub(crate) changes: Vec<Change>,
    /// How many changes of that message do not prove to be of this plan (foreign, or corrupted).
    pub(crate) foreign: u64,
}

impl Scanner {
    /// Reads one message.
    pub(crate) fn read(&mut self, text: &[u8], plan: &Plan) -> Result<Incoming, BadMessage> {
        self.changes.clear();
        self.foreign = 0;
        if let Some(ack) = fast_ack(text) {
            return Ok(ack);
        }
        if let Some(update) = self.fast_update(text, plan) {
            return Ok(update);
        }
        self.changes.clear();
        self.foreign = 0;
        self.slow(text, plan)
    }

    fn fast_update(&mut self, text: &[u8], plan: &Plan) -> Option<Incoming> {
        let start = memmem::find(text, b"\"changes\":[")?;
        let (head, mut rest) = (&text[..start], &text[start + 11..]);
        if rest.first() == Some(&b']') {
            rest = &rest[1..];
        } else {
            loop {
                rest = self.fast_change(rest, plan)?;
                match rest.split_first()? {
                    (b',', after) => rest = after,
                    (b']', after) => {
                        rest = after;
                        break;
                    }
                    _ => return None,
                }
            }
        }
        let of_update = b"\"type\":\"update\"";
        memmem::find(head, of_update).or_else(|| memmem::find(rest, of_update))?;
        let version = number_of(head, b"\"version\":").or_else(|| number_of(rest, b"\"version\":"))?;
        let more = flag_of(head, b"\"more\":").or_else(|| flag_of(rest, b"\"more\":"));
        Some(Incoming::Update { version, more })
    }

    /// Reads one change as [`Plan::write_change`] writes it; returns what follows its `]`.
    fn fast_change<'a>(&mut self, text: &'a [u8], plan: &Plan) -> Option<&'a [u8]> {
        let text = text.strip_prefix(b"[\"")?.strip_prefix(plan.table.as_bytes())?.strip_prefix(b"\",\"")?;
        let (key, text) = take_key(text)?;
        let (column, text) = number(text.strip_prefix(b"\",\"c")?)?;
        let text = text.strip_prefix(b"\",\"")?.strip_prefix(STAMP_PREFIX.as_bytes())?;
        let (stamp, text) = text.split_first_chunk::<16>()?;
        let stamp = hex(stamp)?;
        let text = after_string(text)?.strip_prefix(b",")?;
        let (col_version, text) = number(text)?;
        let (_db_version, text) = number(text.strip_prefix(b",")?)?;
        let text = after_string(text.strip_prefix(b",\"")?)?.strip_prefix(b",")?;
        let (_cl, text) = number(text)?;
        let (_seq, text) = number(text.strip_prefix(b",")?)?;
        let text = text.strip_prefix(b"]")?;
        self.keep(plan, key, u32::try_from(column).ok()?, col_version, stamp);
        Some(text)
    }

    /// Keeps a change whose stamp proves it to be the plan's, counts any other.
    fn keep(&mut self, plan: &Plan, key: u64, column: u32, col_version: u64, stamp: u64) {
        let change = Change {
            row: plan.row_of(key),
            column,
            col_version: col_version as u32,
            update: (stamp >> 32) as u32,
        };
        if column < plan.columns && plan.check(&change) == stamp as u32 {
            self.changes.push(change);
        } else {
            self.foreign += 1;
        }
    }

    fn slow(&mut self, text: &[u8], plan: &Plan) -> Result<Incoming, BadMessage> {
        let message: serde_json::Value =
            serde_json::from_slice(text).map_err(|e| BadMessage::new(e.to_string(), text))?;
        let number = |name: &str| message[name].as_u64();
        let version = || number("version").ok_or_else(|| BadMessage::new("it has no version", text));
        Ok(match message["type"].as_str() {
            Some("connected") => Incoming::Connected { version: version()? },
            Some("ack") => Incoming::Ack { version: version()?, received: number("received") },
            Some("error") => Incoming::Error {
                code: message["code"].as_str().unwrap_or("(none)").to_owned(),
                text: message["message"].as_str().unwrap_or_default().to_owned(),
                received: number("received"),
            },
            Some("update") => {
                let changes = message["changes"]
                    .as_array()
                    .ok_or_else(|| BadMessage::new("it has no changes", text))?;
                for change in changes {
                    match slow_change(change, plan) {
                        Some((key, column, col_version, stamp)) => {
                            self.keep(plan, key, column, col_version, stamp);
                        }
                        None => self.foreign += 1,
                    }
                }
                Incoming::Update { version: version()?, more: message["more"].as_bool() }
            }
            _ => Incoming::Other,
        })
    }
}

fn slow_change(change: &serde_json::Value, plan: &Plan) -> Option<(u64, u32, u64, u64)> {
    let fields = change.as_array().filter(|fields| fields.len() == 9)?;
    if fields[0].as_str()? != plan.table {
        return None;
    }
    let (key, b"") = take_key(fields[1].as_str()?.as_bytes())? else { return None };
    let column = fields[2].as_str()?.strip_prefix('c')?.parse().ok()?;
    let stamp = hex(fields[3].as_str()?.strip_prefix(STAMP_PREFIX)?.as_bytes().first_chunk::<16>()?)?;
    Some((key, column, fields[4].as_u64()?, stamp))
}

fn fast_ack(text: &[u8]) -> Option<Incoming> {
    // Short, and without changes: so a field's name cannot be part of someone's data, but for the channel's name, which
    // is the generator's own.
    if text.len() > 512 || memmem::find(text, b"\"type\":\"ack\"").is_none() {
        return None;
    }
    Some(Incoming::Ack {
        version: number_of(text, b"\"version\":")?,
        received: number_of(text, b"\"received\":"),
    })
}

fn number_of(text: &[u8], name: &[u8]) -> Option<u64> {
    let at = memmem::find(text, name)?;
    number(&text[at + name.len()..]).map(|(value, _)| value)
}

fn flag_of(text: &[u8], name: &[u8]) -> Option<bool> {
    let at = memmem::find(text, name)?;
    match &text[at + name.len()..] {
        [b't', ..] => Some(true),
        [b'f', ..] => Some(false),
        _ => None,
    }
}

/// Digits, and what follows them. No digits, or a fraction or exponent after them: not a plain number.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    let mut at = 0;
    while let Some(digit) = text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
        at += 1;
    }
    let plain = at > 0 && !matches!(text.get(at), Some(b'.' | b'e' | b'E'));
    plain.then(|| (value, &text[at..]))
}

/// What follows the end of the string that `text` is inside of. An escape is left to the slow way.
fn after_string(text: &[u8]) -> Option<&[u8]> {
    let at = memchr::memchr2(b'"', b'\\', text)?;
    (text[at] == b'"').then(|| &text[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Keys, Shape};
    use crate::val::Values;

    fn plan() -> Plan {
        let shape = Shape {
            table: "todos".into(),
            columns: 2,
            keys: Keys::Random,
            values: Values::Text,
            value_bytes: 24,
            seed: 3,
        };
        Plan::new("one".into(), &shape)
    }

    fn some_changes(plan: &Plan) -> (Vec<Change>, String) {
        let changes: Vec<_> = (0..5)
            .map(|n| Change { row: n * 7, column: n as u32 % 2, col_version: 1 + n as u32, update: 12 })
            .collect();
        let texts: Vec<_> = changes
            .iter()
            .enumerate()
            .map(|(seq, change)| {
                let mut out = Vec::new();
                plan.write_change(&mut out, change, "AB12", seq as u32);
                String::from_utf8(out).expect("ASCII")
            })
            .collect();
        (changes, texts.join(","))
    }

    #[test]
    fn updates_are_read_whatever_the_key_order_and_the_spacing() {
        let plan = plan();
        let (changes, text) = some_changes(&plan);
        let fast = [
            format!(r#"{{"type":"update","changes":[{text}],"version":9,"siteId":"S","channel":"one"}}"#),
            format!(r#"{{"version":9,"siteId":"S","changes":[{text}],"type":"update"}}"#),
        ];
        let slow = [
            format!(r#"{{ "type": "update", "changes": [{text}], "version": 9 }}"#),
            format!(r#"{{"type":"update","changes":[{}],"version":9}}"#, text.replace(',', ", ")),
            format!(r#"{{"type":"update","changes":[{}],"version":9}}"#, text.replace("AB12", r"\u0041B12")),
        ];
        let mut scanner = Scanner::default();
        for (text, is_fast) in fast.iter().map(|t| (t, true)).chain(slow.iter().map(|t| (t, false))) {
            assert_eq!(scanner.fast_update(text.as_bytes(), &plan).is_some(), is_fast, "{text}");
            let got = scanner.read(text.as_bytes(), &plan).expect("a good message");
            assert_eq!(got, Incoming::Update { version: 9, more: None }, "{text}");
            assert_eq!(scanner.changes, changes, "{text}");
            assert_eq!(scanner.foreign, 0);
        }
    }

    #[test]
    fn pages_acks_errors_and_greetings_are_told_apart() {
        let plan = plan();
        let mut scanner = Scanner::default();
        let mut read = |text: &str| scanner.read(text.as_bytes(), &plan).expect("a good message");
        assert_eq!(
            read(r#"{"type":"update","changes":[],"version":4,"more":true}"#),
            Incoming::Update { version: 4, more: Some(true) }
        );
        assert_eq!(
            read(r#"{"type":"update","version":4,"more":false,"changes":[]}"#),
            Incoming::Update { version: 4, more: Some(false) }
        );
        assert_eq!(
            read(r#"{"type":"ack","siteId":"S","version":7,"channel":"one","received":3}"#),
            Incoming::Ack { version: 7, received: Some(3) }
        );
        assert_eq!(read(r#"{"version": 7, "type": "ack"}"#), Incoming::Ack { version: 7, received: None });
        assert_eq!(
            read(r#"{"type":"connected","siteId":"S","version":2,"channel":"one"}"#),
            Incoming::Connected { version: 2 }
        );
        assert_eq!(
            read(r#"{"type":"error","code":"storage","message":"disk","received":5}"#),
            Incoming::Error { code: "storage".into(), text: "disk".into(), received: Some(5) }
        );
        assert!(Scanner::default().read(b"{nonsense", &plan).is_err());
    }

    #[test]
    fn a_change_that_was_altered_or_is_foreign_is_counted_not_kept() {
        let plan = plan();
        let change = Change { row: 1, column: 0, col_version: 3, update: 8 };
        let mut good = Vec::new();
        plan.write_change(&mut good, &change, "AB12", 0);
        let good = String::from_utf8(good).expect("ASCII");
        let bad = [
            good.replace(&plan.pk(1), &plan.pk(2)),
            good.replace("\"c0\"", "\"c1\""),
            good.replace(",3,9,", ",4,9,"),
            good.replace("00000008", "00000009"),
            good.replace("todos", "other"),
            good.replace("\"c0\"", "\"-1\""),
        ];
        let mut scanner = Scanner::default();
        for bad in bad {
            assert_ne!(bad, good);
            let text = format!(r#"{{"type":"update","changes":[{bad},{good}],"version":9}}"#);
            scanner.read(text.as_bytes(), &plan).expect("a well-formed message");
            assert_eq!((scanner.foreign, scanner.changes.as_slice()), (1, &[change][..]), "{bad}");
        }
    }
}
