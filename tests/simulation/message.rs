//! Messages as a client writes and reads them.

use causeway_storage::change::OwnedValue;
use serde_json::{Value, json};

use crate::model::OwnedChange;

pub(crate) fn update(site: &str, version: u64, channel: &str, changes: &[OwnedChange]) -> Value {
    let changes: Vec<Value> = changes.iter().map(change).collect();
    json!({"type": "update", "siteId": site, "version": version, "channel": channel, "changes": changes})
}

pub(crate) fn pull(site: &str, version: u64, channel: &str) -> Value {
    json!({"type": "pull", "siteId": site, "version": version, "channel": channel})
}

fn change(change: &OwnedChange) -> Value {
    let OwnedChange { table, pk, cid, val, col_version, db_version, site_id, cl, seq } = change;
    let val = match val {
        OwnedValue::Null => Value::Null,
        OwnedValue::Integer(i) => json!(i),
        OwnedValue::Real(r) => json!(r),
        OwnedValue::Text(t) => json!(t),
        OwnedValue::Blob(b) => {
            json!({ "$blob": b.iter().map(|byte| format!("{byte:02X}")).collect::<String>() })
        }
    };
    json!([table, pk, cid, val, col_version, db_version, site_id, cl, seq])
}

/// The changes of an update.
pub(crate) fn changes(message: &Value) -> Vec<OwnedChange> {
    message["changes"]
        .as_array()
        .unwrap_or_else(|| panic!("no changes in {message}"))
        .iter()
        .map(read)
        .collect()
}

fn read(change: &Value) -> OwnedChange {
    let text = |field: usize| change[field].as_str().unwrap().to_owned();
    let number = |field: usize| change[field].as_u64().unwrap();
    let val = match &change[3] {
        Value::Null => OwnedValue::Null,
        Value::Number(n) => {
            n.as_i64().map_or_else(|| OwnedValue::Real(n.as_f64().unwrap()), OwnedValue::Integer)
        }
        Value::String(text) => OwnedValue::Text(text.as_str().into()),
        other => {
            let hex = other["$blob"].as_str().unwrap_or_else(|| panic!("no value: {other}"));
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            OwnedValue::Blob((0..hex.len()).step_by(2).map(byte).collect())
        }
    };
    OwnedChange {
        table: text(0),
        pk: text(1),
        cid: text(2),
        val,
        col_version: number(4),
        db_version: number(5),
        site_id: text(6),
        cl: number(7),
        seq: number(8),
    }
}
