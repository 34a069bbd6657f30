-- What an operator asks of a channel's file: `sqlite3 FILE 'select * from causeway_peers'` alone is enough.

-- Who wrote last, and who is behind: the last first. Of what a peer has sent, nobody knows how much it still has.
CREATE VIEW causeway_peers AS
SELECT p.site_id, iif(p.event = 0, 'received', 'sent') AS event, p.version,
  iif(p.event = 1, (SELECT version FROM crdt_db_version) - p.version, NULL) AS behind,
  datetime(s.seen_s, 'unixepoch') AS seen, p.tag
FROM crdt_tracked_peers p LEFT JOIN causeway_peers_seen s USING (site_id, tag, event)
ORDER BY s.seen_s DESC, p.site_id;

-- What changed last: the hundred newest cells, the newest first.
CREATE VIEW causeway_latest AS
SELECT "table", pk AS key, cid AS "column", val AS value, db_version AS version, site_id, col_version, cl
FROM crdt_changes ORDER BY db_version DESC, seq DESC LIMIT 100;

-- What was deleted, the last first.
CREATE VIEW causeway_deleted AS
SELECT "table", pk AS key, db_version AS version, site_id, cl
FROM crdt_changes WHERE cid = '-1' AND cl % 2 = 0 ORDER BY db_version DESC, seq DESC;

-- How much each table has: rows that live, rows that are deleted, cells.
CREATE VIEW causeway_tables AS
SELECT "table", rows - coalesce(deleted, 0) AS rows, coalesce(deleted, 0) AS deleted, cells
FROM (SELECT "table", count(*) AS rows, sum(cells) AS cells
  FROM (SELECT "table", count(*) AS cells FROM crdt_changes GROUP BY "table", pk) GROUP BY "table")
LEFT JOIN (SELECT "table", count(*) AS deleted FROM crdt_changes WHERE cid = '-1' AND cl % 2 = 0 GROUP BY "table")
USING ("table");
