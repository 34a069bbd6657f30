//! What the fuzz targets hold: a module each, whose `check` takes an input and panics at a finding. The README of this
//! directory says how to run them.
//!
//! The second decoder and the model of the merge are those of the product's own tests.

pub mod bus;
pub mod decode;
pub mod frames;
pub mod key;
pub mod merge;
pub mod naive;
pub mod tokens;

use causeway::protocol;

#[allow(dead_code)]
#[path = "../../storage/tests/merge/model.rs"]
mod model;
#[path = "../../src/protocol/decode/tests/oracle.rs"]
mod oracle;
#[allow(dead_code)]
#[path = "../../storage/tests/merge/support.rs"]
mod support;
