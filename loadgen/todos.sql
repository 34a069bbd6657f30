-- The table that causeway-loadgen writes: up to eight columns, of every affinity that SQLite has.
CREATE TABLE todos (
  id INTEGER PRIMARY KEY NOT NULL,
  c0 TEXT,
  c1,
  c2 INTEGER,
  c3 REAL,
  c4 BLOB,
  c5 NUMERIC,
  c6 TEXT DEFAULT 'none',
  c7 INTEGER DEFAULT 0
);
