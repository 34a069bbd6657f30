//! The application's schema as a file of the operator's, and the one that a data directory was last served with, which is kept in
//! there: a schema that takes something away from that one is refused.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use causeway_storage::{Schema, schema};

use crate::config::{Config, flag};

/// The last schema's file, in the data directory.
const LAST: &str = "causeway.schema.sql";

/// Its last line while there may be cells that nobody has held against it.
const UNCHECKED: &str = "-- There may be cells that do not fit.\n";

/// How a schema stands to the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// There was none.
    First,
    /// It is the same.
    Same,
    /// It is the same or adds something, and there may be cells that do not fit it.
    Unchecked,
}

/// Reads the schema that is configured, if one is.
///
/// # Errors
/// A line for the operator: the file, where in it, why.
pub fn load(config: &Config) -> Result<Option<Arc<Schema>>, String> {
    let Some(path) = &config.schema else { return Ok(None) };
    let mut text = String::new();
    // One byte more than may be is enough to be told so.
    let read = File::open(path)
        .and_then(|file| file.take(schema::MAX_FILE_BYTES as u64 + 1).read_to_string(&mut text));
    read.map_err(|e| format!("{} {}: {e}", flag("schema"), path.display()))?;
    let schema = Schema::parse(&text, &path.to_string_lossy(), config.key_format);
    schema.map(|schema| Some(Arc::new(schema))).map_err(|e| e.to_string())
}

/// A schema for people: how much there is in it.
pub fn describe(schema: &Schema) -> String {
    let count = schema.tables().len();
    let tables = if count == 1 { "table" } else { "tables" };
    format!("{count} {tables}, {} keys", schema.key_format())
}

/// Whether the schema may follow the data directory's last one; writes nothing.
///
/// # Errors
/// A line for the operator: what the schema takes away or changes.
pub fn follows(data: &Path, schema: &Schema) -> Result<Follows, String> {
    let path = data.join(LAST);
    let Some(last) = read(&path)? else { return Ok(Follows::First) };
    if last == text(schema) {
        return Ok(Follows::Same);
    }
    let format = last.lines().next().unwrap_or_default();
    if format != key_format(schema) {
        let format = format.trim_start_matches("-- ");
        return Err(format!("{}: the data directory was served with {format}", flag("key_format")));
    }
    let last = Schema::parse(&last, &path.to_string_lossy(), schema.key_format());
    let last = last.map_err(|e| e.to_string())?;
    schema.follows(&last).map_err(|e| format!("{}: {e}", flag("schema")))?;
    Ok(Follows::Unchecked)
}

/// Notes the schema in the data directory if it may follow the last one. Unless that is the same, there may be cells that do not
/// fit, and this is noted as well, until [`note_checked`].
pub fn follow(data: &Path, schema: &Schema) -> Result<Follows, String> {
    let follows = follows(data, schema)?;
    if follows != Follows::Same {
        write(&data.join(LAST), &(text(schema) + UNCHECKED))?;
    }
    Ok(follows)
}

/// Notes that all cells were held against the schema.
pub fn note_checked(data: &Path, schema: &Schema) -> Result<(), String> {
    write(&data.join(LAST), &text(schema))
}

/// Notes, if the data directory was ever served with a schema, that cells come into it that nobody holds against that.
pub fn note_unchecked(data: &Path) -> Result<(), String> {
    let path = data.join(LAST);
    match read(&path)? {
        Some(last) if !last.ends_with(UNCHECKED) => write(&path, &(last + UNCHECKED)),
        _ => Ok(()),
    }
}

fn text(schema: &Schema) -> String {
    format!("{}\n{}", key_format(schema), schema.to_sql())
}

fn key_format(schema: &Schema) -> String {
    format!("-- key_format = {}", schema.key_format())
}

fn read(path: &Path) -> Result<Option<String>, String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(path, e)),
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let unfinished: PathBuf = path.with_extension("sql.unfinished");
    fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, path)).map_err(|e| failed(path, e))
}

fn failed(path: &Path, e: std::io::Error) -> String {
    format!("{}: {e}", path.display())
}
