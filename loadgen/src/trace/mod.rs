//! Recorded traffic: what clients did and when, without anything of what they said.
//!
//! [`record`] is the command: a [`proxy`] whose connections are [`tap`]ped, message by message ([`heard`]); a [`scribe`]
//! makes the lines of the [`mod@format`] of it, by [`ids`] and [`clocks`]. [`read`] reads them again, for `scenario::replay`.

pub(crate) mod clocks;
pub(crate) mod format;
mod heard;
mod ids;
mod proxy;
pub(crate) mod read;
pub(crate) mod record;
mod scribe;
pub(crate) mod shape;
mod tap;
mod upgrade;

/// Messages above this are noted by their size alone, and a trace's updates are no larger.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;
