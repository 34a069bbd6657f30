//! Causeway's storage: what a channel keeps, and the one rule that decides what it keeps.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`change`] | a change, its values, their order |
//! | [`mod@merge`] | the merge rule, pure, and the merge of one group commit over it |
//! | [`digest`] | the content digest of a channel |
//! | [`store`] | the contract of a backend: [`ChangeStore`], [`ChannelStore`], [`ChannelReader`] |
//! | [`mod@backend`], [`registry`] | what a backend says of itself; the backends by name |
//! | [`sqlite`], [`sled`], [`fjall`], [`memory`] | the backends |
//! | `kv` | all of a backend over a key-value engine but the engine |
//! | [`mod@verify`], [`mod@copy`] | whether a channel is whole; a channel from one store into another |
//! | [`conformance`] | the one suite that every backend passes |
//! | [`faulty`] | a store that fails on command, for tests |
//! | [`schema`] | the application's tables, and what of a change they refuse; packed keys |
//! | [`names`], [`lock`], [`error`] | channel names as file names, the data directory's lock, errors |
//!
//! Nothing in here knows of the server, of sockets or of JSON.

pub mod backend;
pub mod change;
pub mod copy;

pub mod conformance;
pub mod digest;
pub mod error;
pub mod faulty;
pub mod fjall;
mod kv;
pub mod lock;
pub mod memory;
pub mod merge;
pub mod names;
pub mod registry;
pub mod schema;
pub mod sled;
pub mod sqlite;
pub mod store;
pub mod verify;

pub use backend::{Backend, Durability, StoreOptions};
pub use change::{Change, Position, SENTINEL, Value};
pub use copy::copy;
pub use digest::Digest;
pub use error::StoreError;
pub use merge::{Clamp, Excess, Origin, Outcome, Quota, Update, merge, merge_from, merge_within};
pub use registry::{BACKENDS, backend};
pub use schema::{KeyFormat, Schema, SchemaError};
pub use store::{
    Cell, ChangeStore, ChannelReader, ChannelStore, Head, OwnedCell, RemadeTable, Size, TableCounts,
    TrackedPeer,
};
pub use verify::{Verified, verify};
