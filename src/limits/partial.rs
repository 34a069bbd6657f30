//! What messages take until they are whole, of all connections together: each may be as large as `max_message_bytes`, and
//! nothing makes a client send the rest of it.

use std::sync::atomic::Ordering::Relaxed;

use super::{Limit, Limits};

/// What a connection has beside it, in bytes: small messages, and as much as one read brings of a large one.
const FREE_BYTES: usize = 64 * 1024;

/// A connection's part of it, given back when this is dropped.
#[derive(Debug)]
pub struct Partial<'c> {
    limits: &'c Limits,
    bytes: usize,
}

impl<'c> Partial<'c> {
    /// Of a connection that holds nothing yet.
    pub fn new(limits: &'c Limits) -> Self {
        Partial { limits, bytes: 0 }
    }

    /// Notes that the connection holds so many bytes; gives whether there is room for what is new of them.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let bytes = if bytes <= FREE_BYTES { 0 } else { bytes };
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes <= before {
            if bytes < before {
                self.limits.partial_bytes.fetch_sub(before - bytes, Relaxed);
            }
            return true;
        }
        let held = self.limits.partial_bytes.fetch_add(bytes - before, Relaxed) + bytes - before;
        let max = self.limits.settings.get().max_partial_bytes;
        let is_room = max == 0 || held <= max;
        if !is_room {
            self.limits.metrics.limited(Limit::PartialBytes);
        }
        is_room
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        self.limits.partial_bytes.fetch_sub(self.bytes, Relaxed);
    }
}
