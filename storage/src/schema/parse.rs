//! A schema file, read by SQLite itself: what it makes of the tables is what there is.

use rusqlite::{Connection, OptionalExtension};

use super::statements::{Statement, statements};
use super::{
    Affinity, Column, KeyFormat, MAX_FILE_BYTES, MAX_KEY_COLUMNS, MAX_NAME_BYTES, MAX_TABLES, Schema,
    SchemaError, Table,
};
use crate::change::SENTINEL;

/// How names of tables may not begin, in any case: the channel's own tables, and those of cr-sqlite and SQLite.
const RESERVED: [&str; 4] = ["crdt_", "causeway_", "crsql_", "sqlite_"];

/// What is wrong with a statement, and where in it, in bytes.
struct Problem {
    at: usize,
    what: String,
}

impl From<String> for Problem {
    fn from(what: String) -> Self {
        Problem { at: 0, what }
    }
}

impl From<rusqlite::Error> for Problem {
    fn from(e: rusqlite::Error) -> Self {
        match e {
            rusqlite::Error::SqlInputError { msg, offset, .. } => {
                Problem { at: usize::try_from(offset).unwrap_or(0), what: msg }
            }
            rusqlite::Error::SqliteFailure(_, Some(message)) => message.into(),
            e => e.to_string().into(),
        }
    }
}

impl Schema {
    /// Reads a schema: `text` is what the file holds, `file` what its errors call it.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line: SQL that SQLite does not take; anything that is not a `CREATE TABLE` for good;
    /// tables that cr-sqlite does not take (no key, one that may be NULL, `UNIQUE` beside it, `AUTOINCREMENT`, foreign keys, NOT NULL
    /// without a default), or whose rows a change alone could not decide (`CHECK`, generated columns, a key that compares
    /// other than by bytes); names that are taken or that no change can carry; more than the limits of this module.
    pub fn parse(text: &str, file: &str, key_format: KeyFormat) -> Result<Self, SchemaError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let error = |at: usize, problem: String| SchemaError {
            file: file.into(),
            line: 1 + text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count(),
            problem,
        };
        if text.len() > MAX_FILE_BYTES {
            let problem = format!("the file has more than {MAX_FILE_BYTES} bytes");
            return Err(error(0, problem));
        }
        if let Some(at) = text.find('\0') {
            return Err(error(at, "there is a NUL in it".into()));
        }
        let db = Connection::open_in_memory().map_err(|e| error(0, Problem::from(e).what))?;
        let mut schema = Schema { tables: Vec::new(), by_name: Default::default(), key_format };
        for statement in statements(text) {
            let table = schema.read(&db, &statement);
            let table = table.map_err(|problem| error(statement.start + problem.at, problem.what))?;
            schema.by_name.insert(table.name.as_str().into(), schema.tables.len());
            schema.tables.push(table);
        }
        match schema.tables.len() {
            0 => Err(error(text.len(), "there is no CREATE TABLE in it".into())),
            _ => Ok(schema),
        }
    }

    fn read(&self, db: &Connection, statement: &Statement<'_>) -> Result<Table, Problem> {
        let words = &statement.tokens[..statement.tokens.len().min(2)];
        if !words.iter().copied().map(str::to_ascii_uppercase).eq(["CREATE", "TABLE"]) {
            let words = words.join(" ");
            let shown: String = words.chars().take(40).collect();
            return Err(format!("{shown}: there may be nothing but CREATE TABLE").into());
        }
        if self.tables.len() == MAX_TABLES {
            return Err(format!("there are more than {MAX_TABLES} tables").into());
        }
        let head = statement.tokens.iter().take_while(|token| **token != "(");
        if head.clone().any(|token| token.eq_ignore_ascii_case("AS")) {
            return Err("CREATE TABLE AS: a table is made of its columns".to_owned().into());
        }
        if head.clone().any(|token| *token == ".") {
            return Err("a table's name stands alone, without a database".to_owned().into());
        }
        // The words are reserved, so nothing else can be one; of neither does a pragma tell.
        if statement.has_keyword("CHECK") {
            let problem = "a CHECK: changes come one by one and in any order, and could not all be written";
            return Err(problem.to_owned().into());
        }
        if statement.has_keyword("AUTOINCREMENT") {
            let problem = "AUTOINCREMENT: two clients would give two rows the same key";
            return Err(problem.to_owned().into());
        }
        db.prepare(statement.sql)?.execute([])?;
        let made = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY rowid LIMIT 1 OFFSET ?";
        let made = db
            .prepare_cached(made)?
            .query_row([self.tables.len() as i64], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })
            .optional()?;
        // Else SQLite has said so.
        let Some((name, sql)) = made else { return Err("IF NOT EXISTS: it exists".to_owned().into()) };
        let table = inspect(db, name, sql)?;
        check(db, &table, self.key_format)?;
        Ok(table)
    }
}

/// What SQLite made of a table.
fn inspect(db: &Connection, name: String, sql: String) -> Result<Table, Problem> {
    let one = |sql: &str| db.prepare_cached(sql)?.query_row([&name], |row| row.get::<_, i64>(0));
    let table = format!("table {name:?}");
    if one("SELECT count(*) FROM pragma_foreign_key_list(?)")? > 0 {
        let problem = format!("{table}: a foreign key, which changes that come in any order would break");
        return Err(problem.into());
    }
    if one("SELECT count(*) FROM pragma_index_list(?) WHERE origin <> 'pk'")? > 0 {
        return Err(format!("{table}: UNIQUE beside the key, which two clients could both fulfil").into());
    }
    let other_order =
        "SELECT count(*) FROM pragma_index_list(?) AS list, pragma_index_xinfo(list.name) AS info
        WHERE info.key AND info.coll <> 'BINARY'";
    if one(other_order)? > 0 {
        return Err(format!("{table}: a key with a COLLATE other than BINARY").into());
    }
    let strict = one("SELECT strict FROM pragma_table_list(?)")? != 0;
    let has_key_index = one("SELECT count(*) FROM pragma_index_list(?)")? > 0;

    let mut columns = Vec::new();
    let mut key: Vec<(i64, usize)> = Vec::new();
    let mut select = db.prepare_cached(
        "SELECT name, type, \"notnull\", pk, hidden, dflt_value IS NULL FROM pragma_table_xinfo(?)",
    )?;
    let mut rows = select.query([&name])?;
    while let Some(row) = rows.next()? {
        let (column, declared): (String, String) = (row.get(0)?, row.get(1)?);
        let (not_null, place): (bool, i64) = (row.get(2)?, row.get(3)?);
        let (hidden, no_default): (i64, bool) = (row.get(4)?, row.get(5)?);
        let problem = if hidden != 0 {
            "is generated: no change could name it"
        } else if column == SENTINEL {
            "has the name of the sentinel"
        } else if !(1..=MAX_NAME_BYTES).contains(&column.len()) {
            "has a name that no change can carry: it must have 1 to 255 bytes"
        } else if place > 0 && !not_null {
            "is in the key and must be NOT NULL"
        } else if place == 0 && not_null && no_default {
            "is NOT NULL and must have a DEFAULT: changes come one column at a time"
        } else {
            ""
        };
        if !problem.is_empty() {
            return Err(format!("{table}: column {column:?} {problem}").into());
        }
        if place > 0 {
            key.push((place, columns.len()));
        }
        let affinity = Affinity::of(&declared, strict);
        // A key without an index is the rowid, which is an integer and nothing else.
        let exact = (strict && !declared.eq_ignore_ascii_case("ANY")) || (place > 0 && !has_key_index);
        columns.push(Column { name: column, declared, affinity, exact, not_null, in_key: place > 0 });
    }
    key.sort_unstable();
    let by_name = columns.iter().enumerate().map(|(at, column)| (column.name.as_str().into(), at)).collect();
    let key = key.into_iter().map(|(_, at)| at).collect();
    Ok(Table { name, sql, strict, columns, key, by_name })
}

/// What is wrong with a table as a whole.
fn check(db: &Connection, table: &Table, key_format: KeyFormat) -> Result<(), Problem> {
    let name = format!("table {:?}", table.name);
    if let Some(taken) = RESERVED.iter().find(|taken| {
        table
            .name
            .as_bytes()
            .get(..taken.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(taken.as_bytes()))
    }) {
        return Err(format!("{name}: names that begin with {taken} are taken").into());
    }
    if !(1..=MAX_NAME_BYTES).contains(&table.name.len()) {
        return Err(format!("{name}: a name must have 1 to {MAX_NAME_BYTES} bytes").into());
    }
    match (key_format, table.key.len()) {
        (_, 0) => return Err(format!("{name} has no PRIMARY KEY").into()),
        (_, MAX_KEY_COLUMNS..) if table.key.len() > MAX_KEY_COLUMNS => {
            return Err(format!("{name}: more than {MAX_KEY_COLUMNS} columns in its key").into());
        }
        (KeyFormat::Plain, 2..) => {
            let problem = "a key of several columns, but key_format is plain: a plain key is one value";
            return Err(format!("{name}: {problem}").into());
        }
        _ => {}
    }
    let first = &table.columns[table.key[0]];
    if key_format == KeyFormat::Plain
        && (first.affinity == Affinity::Real || (first.exact && first.affinity == Affinity::Blob))
    {
        let problem = "key_format is plain: its key must be of text or integers";
        return Err(format!("{name}: {problem}").into());
    }
    // A row begins as its key: what is the matter with the defaults shows now, not in a client's update.
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let columns: Vec<String> = table.key_columns().map(|column| quoted(&column.name)).collect();
    let values: Vec<&str> = table.key_columns().map(|column| column.some_value()).collect();
    let row =
        format!("INSERT INTO {} ({}) VALUES ({})", quoted(&table.name), columns.join(","), values.join(","));
    db.execute(&row, []).map_err(|e| {
        format!("{name}: a row of nothing but its key and defaults is refused: {}", Problem::from(e).what)
    })?;
    Ok(())
}

impl Column {
    /// An SQL value that it takes.
    fn some_value(&self) -> &'static str {
        match self.affinity {
            Affinity::Text => "'a'",
            Affinity::Blob => "x'00'",
            Affinity::Integer | Affinity::Numeric => "1",
            Affinity::Real => "1.5",
        }
    }
}
