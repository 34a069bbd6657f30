//! What the commands print: a line as it comes, for people or for scripts, and what it came to.

use std::fmt::Write as _;
use std::io::Write as _;

use causeway::admin::{Event, Line, Problem, Unfit};
use causeway_storage::store::{NODE_TAG, unix_time_s};
use serde_json::Value;

/// The widest that a column of a table of rows is, in characters.
const COLUMN_MAX: usize = 24;

pub(super) struct Report {
    json: bool,
    good: usize,
    bad: usize,
    /// Whether the command ends with what it came to.
    counts: bool,
    ended: bool,
    /// Whether anything was printed.
    told: bool,
    now_s: u64,
    /// What the last line was, so that a table's head comes once.
    last: &'static str,
    columns: Vec<String>,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        let now_s = unix_time_s();
        let (last, columns) = ("", Vec::new());
        Report { json, good: 0, bad: 0, counts: false, ended: false, told: false, now_s, last, columns }
    }

    pub(super) fn tell(&mut self, line: Line) {
        let text = match self.json {
            true => serde_json::to_string(&line).unwrap_or_else(|e| e.to_string()),
            false => self.text(&line),
        };
        match line {
            Line::Ok { .. } | Line::Checked { .. } => {
                self.counts = true;
                self.good += 1;
            }
            Line::Problem(_) => self.bad += 1,
            Line::End => self.ended = true,
            _ => {}
        }
        if !text.is_empty() {
            self.told = true;
            // Nobody may be reading any more; what there is to do is done all the same.
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }

    pub(super) fn end(self) -> Result<bool, String> {
        if !self.ended {
            return Err("the server went away before all was done".into());
        }
        if !self.json && (self.counts || self.bad > 0) {
            let problems = if self.bad == 1 { "problem" } else { "problems" };
            let _ = writeln!(std::io::stdout(), "{} ok, {} {problems}", self.good, self.bad);
        } else if !self.told {
            let _ = writeln!(std::io::stdout(), "there are no channels");
        }
        Ok(self.bad == 0)
    }

    /// A line for people, after the head of its table if it is the first.
    fn text(&mut self, line: &Line) -> String {
        let mut head = |name: &'static str, head: String| {
            let new = self.last != name;
            self.last = name;
            if new { head + "\n" } else { String::new() }
        };
        match line {
            Line::Ok { channel, version, digest, cells } => {
                let channel = plain(channel);
                format!("ok       {channel:<24} version {version:>8}  cells {cells:>8}  digest {digest}")
            }
            Line::Problem(Problem { channel, problem, .. }) => {
                let channel = channel.as_deref().map_or("-".into(), plain);
                format!("PROBLEM  {channel:<24} {}", plain(problem))
            }
            Line::Channel { channel, version, cells, connections, bytes, seen_s } => {
                let row = |channel: &str, [version, cells, connections, bytes, seen]: [&str; 5]| {
                    format!("{channel:<24} {version:>9} {cells:>10} {connections:>11} {bytes:>12}  {seen}")
                };
                let head = head(
                    "channel",
                    row("CHANNEL", ["VERSION", "CELLS", "CONNECTIONS", "BYTES", "LAST HEARD"]),
                );
                let seen = self.ago(seen_s.unwrap_or(0));
                let numbers =
                    [&number(*version), &number(*cells), &known(*connections), &number(*bytes), &seen];
                head + &row(&plain(channel), numbers.map(String::as_str))
            }
            Line::Inspected {
                channel,
                version,
                digest,
                site_id,
                tables,
                rows,
                deleted,
                cells,
                unfit,
                connections,
                bytes,
            } => {
                let mut text = String::new();
                for (name, value) in [
                    ("channel", plain(channel)),
                    ("version", number(*version)),
                    ("digest", digest.clone()),
                    ("site id", plain(site_id)),
                    ("tables", number(*tables)),
                    ("rows", format!("{rows} live, {deleted} deleted")),
                    (
                        "cells",
                        match unfit {
                            None => number(*cells),
                            Some(0) => format!("{cells}, all fit the schema"),
                            Some(unfit) => format!("{cells}, of which {unfit} do not fit the schema"),
                        },
                    ),
                    ("connections", known(*connections)),
                    ("size", format!("{bytes} bytes")),
                ] {
                    // A String takes what is written.
                    let _ = writeln!(text, "{name:<12} {value}");
                }
                text.pop();
                text
            }
            Line::Table { table, rows, deleted, cells } => {
                let row = |table: &str, [rows, deleted, cells]: [&str; 3]| {
                    format!("{table:<24} {rows:>10} {deleted:>10} {cells:>10}")
                };
                let head = head("table", format!("\n{}", row("TABLE", ["LIVE ROWS", "DELETED", "CELLS"])));
                let numbers = [rows, deleted, cells].map(|n| number(*n));
                head + &row(&plain(table), numbers.each_ref().map(String::as_str))
            }
            Line::Unfit(Unfit { table, reason, cells, .. }) => {
                let row =
                    |table: &str, cells: &str, reason: &str| format!("{table:<24} {cells:>10}  {reason}");
                let head = head("unfit", format!("\n{}", row("DOES NOT FIT", "CELLS", "WHY")));
                head + &row(&plain(table), &number(*cells), &plain(reason))
            }
            Line::Peer { site_id, event, tag, version, lag, seen_s } => {
                let row = |site_id: &str, [event, version, lag, seen]: [&str; 4]| {
                    format!("{site_id:<34} {event:<9} {version:>9} {lag:>9}  {seen}")
                };
                let head =
                    head("peer", format!("\n{}", row("PEER", ["EVENT", "VERSION", "BEHIND", "LAST SEEN"])));
                let event = match event {
                    Event::Received if *tag == NODE_TAG => "node",
                    Event::Received => "received",
                    Event::Sent => "sent",
                    Event::Other => "other",
                };
                let (version, lag, seen) = (number(*version), known(*lag), self.ago(*seen_s));
                head + &row(&plain(site_id), [event, &version, &lag, &seen])
            }
            Line::Columns { columns, .. } => {
                self.columns.clone_from(columns);
                let head = columns.iter().map(|column| cut(&plain(column)));
                table_row(std::iter::once("KEY".into()).chain(head))
            }
            Line::Row { key, columns, .. } => {
                let values =
                    self.columns.iter().map(|column| columns.get(column).map_or(String::new(), shown));
                table_row(std::iter::once(shown(key)).chain(values.map(|value| cut(&value))))
            }
            Line::More { after } => {
                format!("there are more; go on with --after {:?}, or a higher --limit", plain(after))
            }
            Line::Removed { channel, of_several } => {
                let note = "; other nodes have it still, and bring it back (docs/cluster.md)";
                format!("removed  {}{}", plain(channel), if *of_several { note } else { "" })
            }
            Line::RebuiltTable { table, rows, unfit } => {
                let row =
                    |table: &str, rows: &str, unfit: &str| format!("{table:<24} {rows:>10} {unfit:>15}");
                let head = head("rebuilt", row("TABLE", "ROWS", "CELLS LEFT OUT"));
                head + &row(&plain(table), &number(*rows), &number(*unfit))
            }
            Line::Rebuilt { channel, tables, rows } => {
                let tables = if *tables == 1 { "1 table".into() } else { format!("{tables} tables") };
                format!("rebuilt  {}: {tables}, {rows} rows", plain(channel))
            }
            Line::NoTables { channel, store } => format!(
                "nothing to rebuild in {}: the {store} store keeps no tables; rows are put together from cells \
                 whenever they are read",
                plain(channel)
            ),
            Line::Checked { setting, found } => format!("ok       {setting:<24} {}", plain(found)),
            Line::End => String::new(),
        }
    }

    /// How long ago something was, about.
    fn ago(&self, seen_s: u64) -> String {
        match self.now_s.saturating_sub(seen_s) {
            _ if seen_s == 0 => "-".into(),
            s @ 0..120 => format!("{s} s ago"),
            s @ 120..7_200 => format!("{} min ago", s / 60),
            s @ 7_200..172_800 => format!("{} h ago", s / 3_600),
            s => format!("{} days ago", s / 86_400),
        }
    }
}

fn number(number: u64) -> String {
    number.to_string()
}

fn known(number: Option<u64>) -> String {
    number.map_or("-".into(), |number| number.to_string())
}

/// Text without what a terminal would obey.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { plain.extend(c.escape_default()) } else { plain.push(c) }
    }
    plain
}

/// A value as people read it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::String(text) => plain(text),
        Value::Object(blob) => {
            format!("x'{}'", blob.get("$blob").and_then(Value::as_str).unwrap_or_default())
        }
        other => other.to_string(),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(COLUMN_MAX) {
        Some(_) => text.chars().take(COLUMN_MAX - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

fn table_row(cells: impl Iterator<Item = String>) -> String {
    let row: Vec<String> = cells.map(|cell| format!("{cell:<COLUMN_MAX$}")).collect();
    row.join(" ").trim_end().to_owned()
}
