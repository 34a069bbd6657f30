//! A second decoder, slow and plain: serde_json one level at a time, and `wire.md` read literally.

use std::collections::BTreeMap;

use causeway_storage::Value;
use serde_json::value::RawValue;

use crate::protocol::decode::{self, DecodeRules, MAX_INTEGER, MAX_NESTING};
use crate::protocol::{Code, Incoming, IncomingUpdate, Refusal};

/// Asserts that both decoders say the same of a message; gives what the one under test says.
pub(super) fn compare(bytes: &[u8], rules: DecodeRules<'_>) -> Result<Incoming, Refusal> {
    let shown = String::from_utf8_lossy(bytes);
    match (decode::decode(&mut bytes.to_vec(), rules), decode(bytes, rules)) {
        (Ok(taken), Ok(expected)) => {
            assert_eq!(message_of(&taken), expected, "{shown}");
            Ok(taken)
        }
        (Err(refusal), Err(expected)) => {
            assert_eq!(refusal.code, expected.code, "{refusal}: {shown}");
            assert_eq!(refusal.received, expected.received, "{refusal}: {shown}");
            let named = expected.places.iter().any(|place| refusal.message.starts_with(place));
            assert!(named, "{refusal} is about none of {:?}: {shown}", expected.places);
            Err(refusal)
        }
        (taken, expected) => panic!("{taken:?}, but should be {expected:?}: {shown}"),
    }
}

/// JSON with what `serde_json::Value` does not keep: -0.0 beside 0, and whether a key stood twice.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Integer(i64),
    Real(f64),
    Text(String),
    Array(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

/// Reads JSON; `None` if it is none, has a duplicate key, more than [`MAX_NESTING`] levels from `level` on, or a number
/// beyond what a double holds.
pub(super) fn parse(raw: &str, level: usize) -> Option<Json> {
    let raw: &RawValue = serde_json::from_str(raw).ok()?;
    let raw = raw.get();
    Some(match raw.as_bytes()[0] {
        b'n' => Json::Null,
        b't' => Json::Bool(true),
        b'f' => Json::Bool(false),
        b'"' => Json::Text(serde_json::from_str(raw).ok()?),
        b'[' if level <= MAX_NESTING => {
            let items: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
            Json::Array(items.into_iter().map(|item| parse(item.get(), level + 1)).collect::<Option<_>>()?)
        }
        b'{' if level <= MAX_NESTING => {
            let entries: BTreeMap<String, &RawValue> = serde_json::from_str(raw).ok()?;
            if entries.len() != count_entries(raw) {
                return None;
            }
            let entries = entries.into_iter().map(|(key, raw)| Some((key, parse(raw.get(), level + 1)?)));
            Json::Object(entries.collect::<Option<_>>()?)
        }
        b'[' | b'{' => return None,
        _ => match raw.parse() {
            Ok(integer) => Json::Integer(integer),
            Err(_) => Json::Real(raw.parse().ok().filter(|r: &f64| r.is_finite())?),
        },
    })
}

/// How many entries an object has, whose JSON is known to be right.
fn count_entries(raw: &str) -> usize {
    let (mut level, mut in_text, mut escaped, mut colons) = (0, false, false, 0);
    for byte in raw.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' | b'[' => level += 1,
            b'}' | b']' => level -= 1,
            b':' if level == 1 => colons += 1,
            _ => {}
        }
    }
    colons
}

/// What a message means. Doubles are bits, so that equal is the same.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Message {
    Update { version: u64, site_id: String, changes: Vec<Nine> },
    Pull(u64),
    Auth(String),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Nine {
    pub(super) table: String,
    pub(super) pk: String,
    pub(super) cid: String,
    pub(super) val: Val,
    /// `col_version`, `db_version`, `cl`, `seq`.
    pub(super) numbers: [u64; 4],
    pub(super) site_id: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Val {
    Null,
    Integer(i64),
    Real(u64),
    Text(String),
    Blob(Vec<u8>),
}

#[derive(Debug, PartialEq)]
pub(super) struct Refused {
    pub(super) code: Code,
    pub(super) received: Option<u64>,
    /// What the refusal's text may start with.
    pub(super) places: Vec<String>,
}

/// The same as [`crate::protocol::decode::decode`].
pub(super) fn decode(bytes: &[u8], rules: DecodeRules<'_>) -> Result<Message, Refused> {
    let malformed =
        |place: &str| Refused { code: Code::Malformed, received: None, places: vec![place.into()] };
    let json = std::str::from_utf8(bytes).ok().and_then(|text| parse(text, 1)).ok_or(malformed(""))?;
    let Json::Object(fields) = json else { return Err(malformed("a message is a JSON object")) };
    let text = |name: &str| match fields.get(name) {
        Some(Json::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    let kind = text("type").ok_or(malformed("type: "))?;
    let version = fields.get("version").and_then(|v| integer(v, 0));
    let received = version.filter(|_| kind == "update");
    let refuse = |code, place: &str| Refused { code, received, places: vec![place.into()] };
    if let (Some(ours), Some(theirs)) = (rules.strict_channel, text("channel"))
        && ours != theirs
    {
        return Err(refuse(Code::WrongChannel, "channel: "));
    }
    match kind {
        "pull" => version.map(Message::Pull).ok_or(refuse(Code::Malformed, "version: ")),
        "auth" => {
            let token = text("token").filter(|token| token.len() <= 16 << 10);
            token.map(|token| Message::Auth(token.into())).ok_or(refuse(Code::Malformed, "token: "))
        }
        "update" => {
            let version = version.ok_or(refuse(Code::Malformed, "version: "))?;
            let site_id = text("siteId").filter(|s| (1..=64).contains(&s.len()));
            let site_id = site_id.ok_or(refuse(Code::Malformed, "siteId: "))?.to_owned();
            let Some(Json::Array(rows)) = fields.get("changes") else {
                return Err(refuse(Code::Malformed, "changes: "));
            };
            if rows.len() > rules.max_changes {
                return Err(refuse(Code::TooManyChanges, "changes: "));
            }
            let changes = rows.iter().enumerate().map(|(index, row)| {
                nine(row).map_err(|fields| Refused {
                    code: Code::InvalidChange,
                    received,
                    places: fields
                        .iter()
                        .map(|field| format!("changes[{index}].{field}").replace(". ", " "))
                        .collect(),
                })
            });
            Ok(Message::Update { version, site_id, changes: changes.collect::<Result<_, _>>()? })
        }
        _ => Err(refuse(Code::UnknownType, "type: ")),
    }
}

fn integer(json: &Json, min: u64) -> Option<u64> {
    match json {
        Json::Integer(i) => u64::try_from(*i).ok().filter(|i| (min..=MAX_INTEGER).contains(i)),
        _ => None,
    }
}

/// The change, or the fields that are wrong.
fn nine(row: &Json) -> Result<Nine, Vec<&'static str>> {
    let row = match row {
        Json::Array(row) if row.len() == 9 => row,
        _ => return Err(vec![" must be an array of nine"]),
    };
    let mut wrong = Vec::new();
    let mut text = |name, at: usize, max, nul: bool| match &row[at] {
        Json::Text(s) if (1..=max).contains(&s.len()) && (nul || !s.contains('\0')) => s.clone(),
        _ => {
            wrong.push(name);
            String::new()
        }
    };
    let [table, cid] = [text("table: ", 0, 255, false), text("cid: ", 2, 255, false)];
    let [pk, site_id] = [text("pk: ", 1, 4096, true), text("site_id: ", 6, 64, true)];
    let numbers = [("col_version: ", 4, 0), ("db_version: ", 5, 0), ("cl: ", 7, 1), ("seq: ", 8, 0)];
    let numbers = numbers.map(|(name, at, min)| {
        integer(&row[at], min).unwrap_or_else(|| {
            wrong.push(name);
            0
        })
    });
    let val = val(&row[3]);
    if val.is_none() || (cid == "-1" && val != Some(Val::Null)) {
        wrong.push("val: ");
    }
    if cid == "-1" && numbers[0] != numbers[2] {
        wrong.push("col_version: ");
    }
    if cid != "-1" && numbers[2] % 2 == 0 {
        wrong.push("cl: ");
    }
    match val {
        Some(val) if wrong.is_empty() => Ok(Nine { table, pk, cid, val, numbers, site_id }),
        _ => Err(wrong),
    }
}

fn val(json: &Json) -> Option<Val> {
    match json {
        Json::Null => Some(Val::Null),
        Json::Bool(b) => Some(Val::Integer(i64::from(*b))),
        Json::Integer(i) => Some(Val::Integer(*i)),
        Json::Real(r) => Some(Val::Real(r.to_bits())),
        Json::Text(text) => Some(Val::Text(text.clone())),
        Json::Array(_) => None,
        Json::Object(entries) => match entries.first_key_value() {
            Some((key, Json::Text(hex))) if key == "$blob" && entries.len() == 1 => unhex(hex).map(Val::Blob),
            _ => None,
        },
    }
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = hex.chars().map(|c| Some(c.to_digit(16)? as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// What the decoder made of a message.
pub(super) fn message_of(incoming: &Incoming) -> Message {
    match incoming {
        Incoming::Update(update) => Message::Update {
            version: update.version,
            site_id: update.site_id().into(),
            changes: nines_of(update),
        },
        Incoming::Pull { version } => Message::Pull(*version),
        Incoming::Auth { token } => Message::Auth(token.as_str().into()),
    }
}

/// What an update will be merged as.
pub(super) fn nines_of(update: &IncomingUpdate) -> Vec<Nine> {
    let val = |val: Value<'_>| match val {
        Value::Null => Val::Null,
        Value::Integer(i) => Val::Integer(i),
        Value::Real(r) => Val::Real(r.to_bits()),
        Value::Text(text) => Val::Text(text.into()),
        Value::Blob(blob) => Val::Blob(blob.into()),
    };
    let nine = |c: causeway_storage::Change<'_>| Nine {
        table: c.table.into(),
        pk: c.pk.into(),
        cid: c.cid.into(),
        val: val(c.val),
        numbers: [c.col_version, c.db_version, c.cl, c.seq],
        site_id: c.site_id.into(),
    };
    update.changes().map(nine).collect()
}

/// What a client makes of an update that is forwarded: a reader of its own, `serde_json::Value`.
pub(super) fn forwarded(update: &IncomingUpdate, indexes: &[u32]) -> Vec<Nine> {
    let mut json = b"[".to_vec();
    update.write_json(indexes, &mut json);
    json.push(b']');
    let rows: Vec<Vec<serde_json::Value>> = serde_json::from_slice(&json).expect("JSON is forwarded");
    let row = |row: Vec<serde_json::Value>| {
        assert_eq!(row.len(), 9);
        let text = |at: usize| row[at].as_str().expect("a text").to_owned();
        let number = |at: usize| row[at].as_u64().expect("an integer");
        Nine {
            table: text(0),
            pk: text(1),
            cid: text(2),
            val: match &row[3] {
                serde_json::Value::Null => Val::Null,
                serde_json::Value::Number(n) => match n.as_i64() {
                    Some(i) => Val::Integer(i),
                    None => Val::Real(n.as_f64().expect("a double").to_bits()),
                },
                serde_json::Value::String(text) => Val::Text(text.clone()),
                serde_json::Value::Object(blob) => {
                    Val::Blob(unhex(blob["$blob"].as_str().expect("hex")).expect("hex"))
                }
                other => panic!("forwarded {other}"),
            },
            numbers: [4, 5, 7, 8].map(number),
            site_id: text(6),
        }
    };
    rows.into_iter().map(row).collect()
}
