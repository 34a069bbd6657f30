//! A follower that goes and comes back: what it holds, and what must hold of every message that it is sent.

use crate::common::{CLOSE, Client, Event, PATIENCE, Replica, Server, TEXT, changes, pull, version};
use serde_json::Value;
use std::time::Duration;

/// A follower. Between two visits it keeps its rows, and the version of the last message that it applied.
pub(crate) struct Reader {
    pub(crate) name: String,
    pub(crate) replica: Replica,
    pub(crate) cursor: u64,
}

/// One connection of a follower.
pub(crate) struct Visit<'r> {
    pub(crate) reader: &'r mut Reader,
    pub(crate) client: Client,
    pulled: bool,
    /// Whether what comes continues what the reader holds.
    pub(crate) continues: bool,
    /// Whether the last page had another behind it.
    pub(crate) paging: bool,
    /// The close code, once there was one.
    pub(crate) closed: Option<u16>,
}

impl Reader {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), replica: Replica::default(), cursor: 0 }
    }

    /// Comes back and asks for what it missed.
    #[track_caller]
    pub(crate) fn pull(&mut self, client: Client) -> Visit<'_> {
        let mut visit = self.follow(client);
        visit.client.send_json(&pull(visit.reader.cursor));
        (visit.pulled, visit.continues) = (true, false);
        visit
    }

    /// Comes back and asks for nothing. What comes counts only if nothing was missed.
    pub(crate) fn follow(&mut self, client: Client) -> Visit<'_> {
        let continues = client.connected_version() == self.cursor;
        Visit { reader: self, client, pulled: false, continues, paging: false, closed: None }
    }

    /// Comes back a last time, and stays up to version `tail`.
    #[track_caller]
    pub(crate) fn catch_up(&mut self, server: &Server, tail: u64) {
        let mut visit = self.pull(server.connect("list"));
        visit.read_up_to(tail);
    }

    #[track_caller]
    pub(crate) fn assert_holds(&self, expected: &Replica) {
        if let Some(difference) = self.replica.difference(expected) {
            panic!("{} does not hold what a fresh pull gives: {difference}", self.name);
        }
    }
}

impl Visit<'_> {
    /// Takes the next message in; `false` if none came in the given time, or the connection is over.
    #[track_caller]
    pub(crate) fn read(&mut self, patience: Duration) -> Option<bool> {
        match self.client.event(patience) {
            Event::Frame(frame) if frame.opcode == TEXT => {
                let message = serde_json::from_slice(&frame.payload).expect("JSON");
                self.take(&message);
                Some(true)
            }
            Event::Frame(frame) => {
                assert_eq!(frame.opcode, CLOSE);
                self.closed = frame.close_code();
                None
            }
            Event::Ended => None,
            Event::Nothing => Some(false),
        }
    }

    #[track_caller]
    pub(crate) fn read_up_to(&mut self, tail: u64) {
        let name = self.reader.name.clone();
        while !self.continues || self.paging || self.reader.cursor < tail {
            let read = self.read(PATIENCE);
            assert_eq!(
                read,
                Some(true),
                "{name} at {} of {tail}, closed {:?}",
                self.reader.cursor,
                self.closed
            );
        }
    }

    /// Reads until the server ends the connection.
    #[track_caller]
    pub(crate) fn read_to_the_end(&mut self) {
        while let Some(read) = self.read(PATIENCE) {
            assert!(read, "{}: the connection should end", self.reader.name);
        }
    }

    /// Applies a message, if it continues what the reader holds.
    #[track_caller]
    fn take(&mut self, message: &Value) {
        let Reader { name, replica, cursor } = &mut *self.reader;
        let short = || message.to_string().chars().take(300).collect::<String>();
        assert_eq!(message["type"], "update", "{name}: {}", short());
        let (told, more) = (version(message), message["more"].as_bool());
        assert!(self.pulled || more.is_none(), "{name} has not pulled: {}", short());
        assert!(!self.paging || more.is_some(), "{name}: live between two pages: {}", short());
        self.continues |= more.is_some();
        if !self.continues {
            // Live, and sent before the pull was read: the pages hold it too.
            return;
        }
        assert!(told >= *cursor, "{name}: the version fell from {cursor}: {}", short());
        // Who has not pulled is not told what is a page.
        let dense = !self.pulled || more.is_some() || told == *cursor + 1;
        assert!(dense, "{name}: a gap between {cursor} and the live {}", short());
        self.paging = more == Some(true);
        *cursor = told;
        changes(message).iter().for_each(|change| replica.apply(change));
    }
}
