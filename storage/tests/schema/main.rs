//! The schema: what a file may say, what a key may be, what a change may hold.

#![allow(clippy::unwrap_used)]

mod changes;
mod file;
mod keys;
mod sqlite;

use causeway_storage::schema::Refused;
use causeway_storage::{Change, KeyFormat, Schema, Value};
use proptest::prelude::*;

fn parse(text: &str) -> Schema {
    Schema::parse(text, "schema.sql", KeyFormat::Packed).unwrap_or_else(|e| panic!("{e} in {text}"))
}

fn change<'a>(table: &'a str, pk: &'a str, cid: &'a str, val: Value<'a>) -> Change<'a> {
    Change { table, pk, cid, val, col_version: 1, db_version: 1, site_id: "S", cl: 1, seq: 0 }
}

fn check(schema: &Schema, change: Change<'_>) -> Result<(), Refused> {
    schema.check(&change, &mut Vec::new())
}

/// A value as it would be written by another program.
#[derive(Clone, Debug)]
enum Any {
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Any {
    fn value(&self) -> Value<'_> {
        match self {
            Any::Integer(i) => Value::Integer(*i),
            Any::Real(r) => Value::Real(*r),
            Any::Text(t) => Value::Text(t),
            Any::Blob(b) => Value::Blob(b),
        }
    }
}

fn any_value() -> impl Strategy<Value = Any> {
    let two_63 = 2f64.powi(63);
    prop_oneof![
        any::<i64>().prop_map(Any::Integer),
        (-300i64..300).prop_map(Any::Integer),
        prop::sample::select(vec![i64::MIN, i64::MAX, 1 << 53, -(1 << 53)]).prop_map(Any::Integer),
        any::<f64>().prop_filter("no NaN", |r| !r.is_nan()).prop_map(Any::Real),
        (-300i32..300).prop_map(|i| Any::Real(f64::from(i) / 2.0)),
        prop::sample::select(vec![two_63, -two_63, two_63 - 1024.0, 1e30, 2f64.powi(53), 5e-324])
            .prop_map(Any::Real),
        "[ \t\x0b]?[-+]?[0-9]{0,3}[.]?[0-9]{0,2}([eE][-+]?[0-9]{0,2})?[ \n\r\x0b\x0c\x1c\u{a0}]?"
            .prop_map(Any::Text),
        "[-+]?9223372036854775(80[678]|8070)([.]0)?|0x1F|inf|nan|NaN|1_000|١".prop_map(Any::Text),
        any::<String>().prop_map(Any::Text),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Any::Blob),
    ]
}
