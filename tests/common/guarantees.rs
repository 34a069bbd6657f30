//! The tables of `docs/guarantees.md` and `docs/security.md`, whose rows are written by the tests that have just seen what the
//! row says. It needs nothing but the standard library, so that tests of other crates can take it in by `#[path]`.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// With this in the environment, a row is written; else it must be there.
const WRITE: &str = "WRITE_GUARANTEES";
const BEGIN: &str =
    "| # | fault | its sender | everybody else | lost | seen by |\n| ---: | --- | --- | --- | --- | --- |\n";
const ABUSE_BEGIN: &str = "| # | attack | limit | what the attacker got | what honest clients felt | seen by |\n| ---: | --- | --- | --- | --- | --- |\n";
const END: &str = "\n<!-- The rows end here. -->";

/// A row; `number` is its place.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub number: u32,
    /// What goes wrong.
    pub fault: &'a str,
    /// What the sender of the changes gets.
    pub sender: &'a str,
    /// What all others see.
    pub others: &'a str,
    /// What is lost.
    pub lost: &'a str,
    /// The command that runs the test.
    pub command: &'a str,
}

/// To be called at the end of the test that has asserted all that the row says. Panics if the document does not have
/// exactly this row; writes it there instead if the environment says so.
#[track_caller]
pub fn row(row: Row<'_>) {
    let Row { number, fault, sender, others, lost, command } = row;
    let line = format!("| {number} | {fault} | {sender} | {others} | {lost} | `{command}` |");
    put("docs/guarantees.md", BEGIN, number, &line);
}

/// A row of the abuse table; `number` is its place.
#[derive(Clone, Copy, Debug)]
pub struct Abuse<'a> {
    pub number: u32,
    /// What somebody tries.
    pub attack: &'a str,
    /// The settings that stop it.
    pub limit: &'a str,
    /// What the attacker got.
    pub attacker: &'a str,
    /// What honest clients felt.
    pub honest: &'a str,
    /// The command that runs the test.
    pub command: &'a str,
}

/// [`row`] of the abuse table.
#[track_caller]
pub fn abuse(row: Abuse<'_>) {
    let Abuse { number, attack, limit, attacker, honest, command } = row;
    let line = format!("| {number} | {attack} | {limit} | {attacker} | {honest} | `{command}` |");
    put("docs/security.md", ABUSE_BEGIN, number, &line);
}

#[track_caller]
fn put(document: &str, begin: &str, number: u32, line: &str) {
    let path = self::document(document);
    let mut file = File::options().read(true).write(true).open(&path).unwrap();
    // Other tests want to write their rows too.
    file.lock().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    let Some((before, rest)) = text.split_once(begin) else { panic!("no table in {}", path.display()) };
    let Some((rows, after)) = rest.split_once(END) else {
        panic!("no end of the table in {}", path.display())
    };
    if std::env::var_os(WRITE).is_none() {
        let found = rows.lines().find(|found| number_of(found) == number).unwrap_or("none");
        assert_eq!(found, line, "the row in {}; {WRITE}=1 writes it", path.display());
        return;
    }
    let mut rows: Vec<_> = rows.lines().filter(|row| number_of(row) != number).collect();
    rows.push(line);
    rows.sort_by_key(|row| number_of(row));
    let written = format!("{before}{begin}{}\n{END}{after}", rows.join("\n"));
    if written != text {
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(written.as_bytes()).unwrap();
        file.set_len(written.len() as u64).unwrap();
    }
}

/// The number that a row begins with; 0 if there is none.
fn number_of(row: &str) -> u32 {
    row.split('|').nth(1).and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// The document, in the package that is tested or in one around it.
fn document(name: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = package.ancestors().map(|dir| dir.join(name)).find(|path| path.exists());
    document.unwrap_or_else(|| panic!("no {name} above {}", package.display()))
}
