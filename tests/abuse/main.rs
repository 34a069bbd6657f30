//! Attacks on a running server: each comes to a limit, while an honest pair beside it keeps working and the server's memory
//! and files stay bounded. Nothing is said about how fast. The rows of `docs/security.md` are written here.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod channels;
mod connections;
mod floods;
mod frames;
mod house;
mod requests;
mod subjects;
