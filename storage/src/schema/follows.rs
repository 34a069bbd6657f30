//! Whether a schema may follow another one: tables and columns may come, nothing may go or become something else.

use super::{Schema, Table};

/// Why a schema cannot follow the one before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotFollow {
    /// A table is missing.
    #[error("table {table:?} is there no more; tables and columns may be added, not taken away")]
    TableGone {
        /// Its name.
        table: String,
    },
    /// A column is missing.
    #[error(
        "table {table:?} has no column {column:?} any more; tables and columns may be added, not taken away"
    )]
    ColumnGone {
        /// The table's name.
        table: String,
        /// The column's.
        column: String,
    },
    /// A column has another type, or takes NULL where it did not, or the other way round.
    #[error("column {column:?} of table {table:?} is not what it was: {before} then, {now} now")]
    ColumnChanged {
        /// The table's name.
        table: String,
        /// The column's.
        column: String,
        /// What it was.
        before: String,
        /// What it is.
        now: String,
    },
    /// The key has other columns, or has them in another order.
    #[error("the key of table {table:?} is not what it was; its rows would be other rows")]
    KeyChanged {
        /// The table's name.
        table: String,
    },
}

impl Schema {
    /// Whether data that was taken under the schema `before` fits this one.
    pub fn follows(&self, before: &Schema) -> Result<(), CannotFollow> {
        before.tables().iter().try_for_each(|old| match self.table(&old.name) {
            Some(new) => follows(new, old),
            None => Err(CannotFollow::TableGone { table: old.name.clone() }),
        })
    }

    /// All its tables as one text, which [`Schema::parse`] reads.
    pub fn to_sql(&self) -> String {
        // A statement may end in a comment.
        self.tables()
            .iter()
            .map(|table| format!("{}\n;\n", table.sql.trim_end().trim_end_matches(';')))
            .collect()
    }
}

fn follows(new: &Table, old: &Table) -> Result<(), CannotFollow> {
    let table = || old.name.clone();
    let key = |table: &Table| table.key_columns().map(|column| column.name.clone()).collect::<Vec<_>>();
    if key(new) != key(old) {
        return Err(CannotFollow::KeyChanged { table: table() });
    }
    for column in &old.columns {
        let Some(now) = new.column(&column.name) else {
            return Err(CannotFollow::ColumnGone { table: table(), column: column.name.clone() });
        };
        let what = |table: &Table, column: &super::Column| {
            let declared = if column.declared.is_empty() { "no type" } else { &column.declared };
            let not_null = if column.not_null { " NOT NULL" } else { "" };
            let strict = if table.strict { ", STRICT" } else { "" };
            format!("{declared}{not_null}{strict}")
        };
        let (before, now) = (what(old, column), what(new, now));
        if before != now {
            let column = column.name.clone();
            return Err(CannotFollow::ColumnChanged { table: table(), column, before, now });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::schema::{KeyFormat, Schema};

    fn schema(text: &str) -> Schema {
        Schema::parse(text, "schema.sql", KeyFormat::Packed).expect("a schema")
    }

    #[test]
    fn what_is_added_follows_and_what_is_taken_away_or_changed_does_not() {
        let old = schema("CREATE TABLE a (x NOT NULL, y NOT NULL, v TEXT, PRIMARY KEY (x, y)) -- the end\n;");
        assert!(schema(&old.to_sql()).follows(&old).is_ok());
        let wider = "CREATE TABLE a (x NOT NULL, y NOT NULL, new, v TEXT, PRIMARY KEY (x, y)); CREATE TABLE b (id NOT NULL PRIMARY KEY)";
        assert!(schema(wider).follows(&old).is_ok());
        for (new, problem) in [
            ("CREATE TABLE b (id NOT NULL PRIMARY KEY)", "table \"a\" is there no more"),
            ("CREATE TABLE a (x NOT NULL, y NOT NULL, PRIMARY KEY (x, y))", "no column \"v\""),
            ("CREATE TABLE a (x NOT NULL, y NOT NULL, v INT, PRIMARY KEY (x, y))", "TEXT then, INT now"),
            (
                "CREATE TABLE a (x NOT NULL, y NOT NULL, v TEXT NOT NULL DEFAULT '', PRIMARY KEY (x, y))",
                "TEXT NOT NULL now",
            ),
            ("CREATE TABLE a (x NOT NULL, y NOT NULL, v TEXT, PRIMARY KEY (y, x))", "the key of table \"a\""),
            (
                "CREATE TABLE a (x NOT NULL PRIMARY KEY, y NOT NULL DEFAULT 0, v TEXT)",
                "the key of table \"a\"",
            ),
        ] {
            let told = schema(new).follows(&old).expect_err(new).to_string();
            assert!(told.contains(problem), "{new}: {told}");
        }
    }
}
