//! Reads a trace line by line, up to its end or to where it was cut.

use std::io::{self, BufRead, Read};

use super::format::{End, Event, Header, VERSION};

/// Lines above this are none that `record` writes.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("this is no trace: its first line is not {{\"causeway_trace\":{VERSION}}}")]
    NoTrace,
    #[error("a trace of version {0}: this program reads version {VERSION}")]
    Version(u32),
    #[error("line {line}: {why}")]
    Line { line: u64, why: String },
}

/// How a trace ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Well(End),
    /// In the middle of a line, or after one that is not the last; with the number of whole lines.
    Cut(u64),
}

/// Hands on each event, in order; what `take` refuses is an error in its line.
pub(crate) fn read(
    mut from: impl BufRead,
    mut take: impl FnMut(Event) -> Result<(), String>,
) -> Result<Ended, TraceError> {
    let mut text = Vec::new();
    next_line(&mut from, &mut text)?;
    let Header { causeway_trace: version } =
        serde_json::from_slice(&text).map_err(|_| TraceError::NoTrace)?;
    if version != VERSION {
        return Err(TraceError::Version(version));
    }
    let mut last_us = 0;
    let mut line = 1;
    loop {
        line += 1;
        let wrong = |why: String| TraceError::Line { line, why };
        let is_whole = next_line(&mut from, &mut text)?;
        if text.is_empty() {
            return Ok(Ended::Cut(line - 1));
        }
        if text.len() as u64 > LINE_BYTES_MAX {
            return Err(wrong(format!("more than {LINE_BYTES_MAX} bytes")));
        }
        if text.first() == Some(&b'{') {
            let end: End = match serde_json::from_slice(&text) {
                Ok(end) => end,
                Err(_) if !is_whole => return Ok(Ended::Cut(line - 1)),
                Err(e) => return Err(wrong(e.to_string())),
            };
            return match next_line(&mut from, &mut text)? || !text.is_empty() {
                true => Err(TraceError::Line { line: line + 1, why: "something follows the end".into() }),
                false => Ok(Ended::Well(end)),
            };
        }
        let event: Event = match serde_json::from_slice(&text) {
            Ok(event) => event,
            Err(_) if !is_whole => return Ok(Ended::Cut(line - 1)),
            Err(e) => return Err(wrong(e.to_string())),
        };
        if event.0 < last_us {
            return Err(wrong(format!("time falls from {last_us} to {}", event.0)));
        }
        last_us = event.0;
        take(event).map_err(wrong)?;
    }
}

/// Reads a line into `text`; whether it has its end.
fn next_line(from: &mut impl BufRead, text: &mut Vec<u8>) -> io::Result<bool> {
    text.clear();
    from.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', text)?;
    Ok(text.last() == Some(&b'\n'))
}

#[cfg(test)]
mod tests;
