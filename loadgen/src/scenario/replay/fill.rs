//! What a trace does not tell: names, keys and values, made from ids, shapes and the seed.

use super::script::Write;
use crate::plan::{Plan, integer_key, text_key};
use crate::replica::{Edit, SENTINEL};
use crate::rng::Rng;
use crate::trace::shape::Shape;
use crate::val::Val;

/// Packed keys up to here are of integers that are small, so they stay so.
const SMALL_KEY_BYTES_MAX: u32 = 16;
/// Up to here they are of integers, as everywhere in this program; longer ones are text.
const INTEGER_KEY_BYTES_MAX: u32 = 20;

/// The edit that stands for a recorded change; its key begins with its table's name.
pub(super) fn edit(rng: &mut Rng, plan: &Plan, write: &Write) -> Edit {
    let table = match write.place.table {
        0 => plan.table.clone(),
        further => format!("{}{further}", plan.table),
    };
    let key = u64::from(write.place.key);
    let pk = match write.key_bytes {
        small if small <= SMALL_KEY_BYTES_MAX => integer_key(key),
        large if large <= INTEGER_KEY_BYTES_MAX => plan.pk(key),
        long => text_key(plan.key_of(key), long as usize),
    };
    Edit {
        pk: format!("{table} {pk}"),
        cid: write.place.column.map_or(SENTINEL.into(), |column| format!("c{column}")),
        val: value(rng, write.shape),
        col_version: write.col_version,
        cl: write.cl,
    }
}

/// A value of this shape. A boolean is its number, as it comes back from a server.
fn value(rng: &mut Rng, shape: Shape) -> Val {
    match shape {
        Shape::Null => Val::Null,
        Shape::Bool => Val::Integer((rng.next() & 1) as i64),
        Shape::Integer(characters) => integer(rng, characters),
        Shape::Real(characters) => real(rng, characters as usize),
        // A letter first: text that a careless column affinity could take for a number would come back as one.
        Shape::Text(bytes) => Val::Text((0..bytes).map(|_| char::from(b'a' + rng.below(26) as u8)).collect()),
        Shape::Blob(bytes) => Val::Blob((0..bytes).map(|_| rng.next() as u8).collect()),
    }
}

/// Of so many characters; one of 20 has a sign.
fn integer(rng: &mut Rng, characters: u32) -> Val {
    let digits = characters.clamp(1, 19);
    let least = if digits == 1 { 0 } else { 10_u64.pow(digits - 1) };
    let end = 10_u64.pow(digits).min(i64::MAX as u64);
    let number = (least + rng.below(end - least)) as i64;
    Val::Integer(if characters > 19 { -number } else { number })
}

/// Of so many characters, from 3 to 17: what is longer has a sign or an exponent, or is rare.
fn real(rng: &mut Rng, characters: usize) -> Val {
    let digits = characters.clamp(3, 17) - 1;
    let mut text: String = (0..digits).map(|_| char::from(b'1' + rng.below(9) as u8)).collect();
    // A last digit that is not 0 is not left out.
    text.insert(1, '.');
    let real = text.parse::<f64>().expect("digits around a point");
    Val::from_wire(&serde_json::Value::from(real)).expect("a real is a value")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Keys, Shape as PlanShape};
    use crate::trace::clocks::Place;
    use crate::trace::shape::OfValue;
    use crate::val::Values;

    #[test]
    fn values_have_the_shape_that_was_recorded() {
        let mut rng = Rng::new(1);
        for sort in [Shape::Integer, Shape::Real, Shape::Text, Shape::Blob] {
            for size in 0..40 {
                let made = value(&mut rng, sort(size)).to_wire();
                let OfValue(shape) = serde_json::from_value(made.clone()).expect("a value");
                let expected = match sort(size) {
                    Shape::Integer(n) => Shape::Integer(n.clamp(1, 20)),
                    Shape::Real(n) => Shape::Real(n.clamp(3, 17)),
                    shape => shape,
                };
                assert_eq!(shape, expected, "{made}");
            }
        }
        assert_eq!(value(&mut rng, Shape::Null), Val::Null);
        assert!(matches!(value(&mut rng, Shape::Bool), Val::Integer(0 | 1)));
    }

    #[test]
    fn ids_become_keys_of_the_recorded_length_that_never_meet() {
        for keys in [Keys::Random, Keys::Sequential] {
            let (table, values) = ("t".into(), Values::Text);
            let shape = PlanShape { table, columns: 1, keys, values, value_bytes: 20, seed: 1 };
            let plan = Plan::new("c".into(), &shape);
            let mut seen = std::collections::HashSet::new();
            for key in 0..3_000 {
                // A key's length is always the same, but others may have another.
                let key_bytes = [8, 20, 21, 22, 40, 76, 600][key as usize % 7];
                let place = Place { channel: 0, table: 2, key, column: None };
                let write = Write { place, key_bytes, shape: Shape::Null, cl: 2, col_version: 2 };
                let edit = edit(&mut Rng::new(1), &plan, &write);
                let (table, pk) = edit.pk.split_once(' ').expect("a table");
                assert_eq!((table, edit.cid.as_str()), ("t2", "-1"));
                if key_bytes > 40 {
                    assert!(pk.len().abs_diff(key_bytes as usize) <= 3, "{pk}");
                }
                assert!(seen.insert(pk.to_owned()), "{pk}");
            }
        }
    }
}
