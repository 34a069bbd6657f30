//! The log: for people on a terminal, else a JSON object a line, to standard error.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt as lines, reload};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people if standard error is a terminal, else JSON.
    Auto,
    /// For people, with colours if it is a terminal.
    Human,
    /// A JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(LogFormat::Auto),
            "human" => Ok(LogFormat::Human),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("{text:?} is none of auto, human, json")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Auto => "auto",
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        })
    }
}

/// A filter that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// It is not one.
    #[error(
        "{filter:?} is no log filter ({problem}); it is a level, such as info, or parts such as causeway=debug"
    )]
    Bad {
        /// What was to be the filter.
        filter: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no log whose filter could be set.
    #[error("the log was not started")]
    NotStarted,
}

/// The filter in effect, and what changes it.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Whether [`set_filter`] would take the filter.
pub fn check_filter(filter: &str) -> Result<(), FilterError> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, FilterError> {
    let parsed = EnvFilter::try_new(filter);
    let parsed = parsed.map_err(|e| FilterError::Bad { filter: filter.into(), problem: e.to_string() })?;
    // What is never logged in more detail: at `trace`, engines tell keys and values.
    let engines = causeway_storage::BACKENDS.iter().flat_map(|backend| backend.crates);
    let quiet = engines.map(|name| format!("{name}=warn").parse().expect("it is a directive"));
    Ok(quiet.fold(parsed, EnvFilter::add_directive))
}

/// Starts the log of the process, once; panics are lines in it from then on.
pub fn start(filter: &str, format: LogFormat) -> Result<(), FilterError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let terminal = io::stderr().is_terminal();
    let json = format == LogFormat::Json || (format == LogFormat::Auto && !terminal);
    let layer = if json {
        lines::layer().json().flatten_event(true).with_writer(io::stderr).boxed()
    } else {
        lines::layer().with_ansi(terminal).with_writer(|| OneLine(io::stderr())).boxed()
    };
    tracing_subscriber::registry().with(filter).with(layer).init();
    let _ = FILTER.set(handle);
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        tracing::error!(at, "a bug: {}; please report it", panic.payload_as_str().unwrap_or("a panic"));
    }));
    Ok(())
}

/// Changes what is logged from now on.
pub fn set_filter(filter: &str) -> Result<(), FilterError> {
    let filter = parse(filter)?;
    let handle = FILTER.get().ok_or(FilterError::NotStarted)?;
    handle.reload(filter).map_err(|_| FilterError::NotStarted)
}

/// Keeps an event on its line: what comes from a client cannot look like a line of ours. (Colours and other escapes
/// in values are made visible before they get here.)
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    /// Takes one event, as it is written with one call.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        if text.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            let escaped = text.iter().flat_map(|byte| match byte {
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                other => std::slice::from_ref(other),
            });
            let line: Vec<u8> = escaped.copied().chain(*b"\n").collect();
            self.0.write_all(&line)?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What stands in the line about lines that are missing.
pub const MISSING: &str = "lines like the next were left out; /metrics has counted all";

/// A bound for lines of one kind: at most so many a second.
#[derive(Debug)]
pub struct Lines {
    per_s: u32,
    second: Mutex<Second>,
}

#[derive(Debug)]
struct Second {
    start: Option<Instant>,
    written: u32,
    missing: u64,
}

impl Lines {
    /// At most `per_s` lines a second.
    pub const fn new(per_s: u32) -> Self {
        Lines { per_s, second: Mutex::new(Second { start: None, written: 0, missing: 0 }) }
    }

    /// Whether a line may be written. Before the first after some that might not, `tell` gets their number.
    pub fn take(&self, tell: impl FnOnce(u64)) -> bool {
        // Nothing panics while the lock is held.
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        if second.start.is_none_or(|start| start.elapsed() >= Duration::from_secs(1)) {
            (second.start, second.written) = (Some(Instant::now()), 0);
        }
        if second.written == self.per_s {
            second.missing += 1;
            return false;
        }
        second.written += 1;
        let missing = std::mem::take(&mut second.missing);
        drop(second);
        if missing > 0 {
            tell(missing);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_whatever_is_in_it() {
        let mut out = OneLine(Vec::new());
        out.write_all(b"INFO name=a\r\nINFO forged\n").unwrap();
        out.write_all(b"INFO \x1b[31mred\x1b[0m\n").unwrap();
        assert_eq!(out.0, b"INFO name=a\\r\\nINFO forged\nINFO \x1b[31mred\x1b[0m\n");
    }

    #[test]
    fn lines_beyond_the_bound_are_counted() {
        let lines = Lines::new(2);
        let told = std::cell::Cell::new(0);
        let take = || lines.take(|missing| told.set(missing));
        assert_eq!([take(), take(), take(), take()], [true, true, false, false]);
        // As if a second had passed.
        lines.second.lock().unwrap().start = None;
        assert_eq!((told.get(), take(), told.get()), (0, true, 2));
    }
}
