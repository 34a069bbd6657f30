//! Torn files: whatever is missing at the end of a store's log, or damaged in it, a channel comes back as it was after
//! one of its commits, and goes on from there, or says that it cannot. It is never a mixture.

#[path = "../../../tests/common/guarantees.rs"]
mod guarantees;
mod history;
mod shared_log;
mod sqlite_wal;
