-- A Causeway channel: the guide's four tables, when each peer was last seen, and a line about the file itself.
-- Cells lie in the order in which they won, so that what a client missed is one range of the file.
CREATE TABLE crdt_changes (
  "table"     TEXT    NOT NULL,
  pk          TEXT    NOT NULL,
  cid         TEXT    NOT NULL,  -- the column; '-1' for the row itself
  val         ANY,
  col_version INTEGER NOT NULL,
  db_version  INTEGER NOT NULL,  -- of this database, not of the sender's
  site_id     TEXT    NOT NULL,
  cl          INTEGER NOT NULL,  -- odd: the row lives; even: it is deleted
  seq         INTEGER NOT NULL,
  PRIMARY KEY (db_version, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX crdt_changes_key ON crdt_changes ("table", pk, cid);

CREATE TABLE crdt_site_id (id TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE crdt_db_version (version INTEGER NOT NULL) STRICT;

CREATE TABLE crdt_tracked_peers (
  site_id TEXT    NOT NULL,
  version INTEGER NOT NULL,
  tag     INTEGER NOT NULL,
  event   INTEGER NOT NULL,      -- 0 received, 1 sent
  PRIMARY KEY (site_id, tag, event)
) STRICT, WITHOUT ROWID;

CREATE TABLE causeway_peers_seen (
  site_id TEXT    NOT NULL,
  tag     INTEGER NOT NULL,
  event   INTEGER NOT NULL,
  seen_s  INTEGER NOT NULL,      -- in Unix time, up to an hour late
  PRIMARY KEY (site_id, tag, event)
) STRICT, WITHOUT ROWID;

CREATE TABLE causeway_state (
  channel TEXT    NOT NULL,
  digest  TEXT    NOT NULL,
  cells   INTEGER NOT NULL DEFAULT 0,  -- how many there are,
  bytes   INTEGER NOT NULL DEFAULT 0   -- and what they count
) STRICT;
