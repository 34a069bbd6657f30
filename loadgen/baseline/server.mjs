// A server of the Server Implementation Guide's protocol on Node: what Causeway is measured against.
// See README.md for what it does well on purpose, and what it leaves out.
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import Database from 'better-sqlite3';
import { WebSocketServer } from 'ws';

const { values: options } = parseArgs({
  options: {
    port: { type: 'string', default: '8081' },
    data: { type: 'string', default: 'data' },
    sync: { type: 'string', default: 'full' },
    tuned: { type: 'boolean', default: false },
  },
});
if (!['off', 'normal', 'full'].includes(options.sync)) {
  console.error('--sync must be off, normal or full');
  process.exit(2);
}
mkdirSync(options.data, { recursive: true });

// `val` has no declared type: with any other affinity SQLite would turn text like "12E3" into a number.
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS crdt_site_id (id TEXT PRIMARY KEY);
  CREATE TABLE IF NOT EXISTS crdt_db_version (version INTEGER NOT NULL);
  CREATE TABLE IF NOT EXISTS crdt_changes (
    "table" TEXT, pk TEXT, cid TEXT, val, col_version INTEGER, db_version INTEGER, site_id TEXT, cl INTEGER,
    seq INTEGER, PRIMARY KEY ("table", pk, cid)
  ) WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS crdt_changes_by_version ON crdt_changes (db_version, seq);
  CREATE TABLE IF NOT EXISTS crdt_tracked_peers (
    site_id TEXT, version INTEGER, tag INTEGER, event INTEGER, PRIMARY KEY (site_id, tag, event)
  ) WITHOUT ROWID;`;
const COLUMNS = '"table", pk, cid, val, col_version, db_version, site_id, cl, seq';
const EVENT_RECEIVED = 0;
const SENTINEL = '-1';

/** One channel: its database, and who is connected. */
class Channel {
  constructor(name) {
    this.name = name;
    this.sockets = new Set();
    const db = new Database(join(options.data, `${encodeURIComponent(name)}.db`));
    if (options.tuned) db.pragma('journal_mode = WAL');
    db.pragma(`synchronous = ${options.sync}`);
    db.exec(SCHEMA);

    this.siteId = db.prepare('SELECT id FROM crdt_site_id').pluck().get();
    if (this.siteId === undefined) {
      this.siteId = randomBytes(16).toString('hex').toUpperCase();
      db.prepare('INSERT INTO crdt_site_id VALUES (?)').run(this.siteId);
      db.prepare('INSERT INTO crdt_db_version VALUES (0)').run();
    }
    this.version = db.prepare('SELECT version FROM crdt_db_version').pluck().get();

    this.setVersion = db.prepare('UPDATE crdt_db_version SET version = ?');
    this.track = db.prepare(
      `INSERT INTO crdt_tracked_peers VALUES (?, ?, 0, ${EVENT_RECEIVED})
       ON CONFLICT DO UPDATE SET version = max(version, excluded.version)`,
    );
    this.changesSince = db
      .prepare(`SELECT ${COLUMNS} FROM crdt_changes WHERE db_version > ? ORDER BY db_version, seq`)
      .raw();
    // Tuned: one statement decides and writes.
    this.upsert = db.prepare(
      `INSERT INTO crdt_changes (${COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
       ON CONFLICT DO UPDATE SET val = excluded.val, col_version = excluded.col_version,
         db_version = excluded.db_version, site_id = excluded.site_id, cl = excluded.cl, seq = excluded.seq
       WHERE (excluded.cl, excluded.col_version) > (cl, col_version)
         OR ((excluded.cl, excluded.col_version) = (cl, col_version) AND excluded.val > val)`,
    );
    // As the guide has it: look, compare, write.
    this.find = db
      .prepare('SELECT cl, col_version, val FROM crdt_changes WHERE "table" = ? AND pk = ? AND cid = ?')
      .raw();
    this.replace = db.prepare(`INSERT OR REPLACE INTO crdt_changes (${COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`);
    this.dropOldCells = db.prepare('DELETE FROM crdt_changes WHERE "table" = ? AND pk = ? AND cl < ?');

    this.sentinels = db.prepare(`SELECT "table", pk, cl FROM crdt_changes WHERE cid = '${SENTINEL}'`).raw();
    this.readCausalLengths();
    this.mergeAtOnce = db.transaction((update) => this.mergeChanges(update, this.putAtOnce));
  }

  /** Rows that were ever deleted, by their causal length. In memory, so that all others cost no look-up. */
  readCausalLengths() {
    this.causalLengths = new Map(this.sentinels.all().map(([table, pk, cl]) => [rowKey(table, pk), cl]));
  }

  merge(update) {
    try {
      if (options.tuned) this.mergeAtOnce(update);
      else this.mergeChanges(update, this.putAfterLooking);
    } catch (error) {
      this.readCausalLengths(); // what was rolled back must not stay in memory
      throw error;
    }
    this.version += 1;
  }

  mergeChanges({ changes, siteId, version }, put) {
    const next = this.version + 1;
    for (const change of changes) {
      if (change[2] !== SENTINEL && change[7] === 1 && this.causalLengths.size === 0) put.call(this, change, next);
      else this.mergeWithCausalLength(change, next, put);
    }
    this.setVersion.run(next);
    this.track.run(siteId, version);
  }

  /** Deletes and re-inserts: a higher causal length replaces the row, a lower one is ignored. */
  mergeWithCausalLength(change, next, put) {
    const [table, pk, cid, , , , site, cl] = change;
    const key = rowKey(table, pk);
    const current = this.causalLengths.get(key) ?? 1;
    if (cl < current) return;
    if (cl > current) {
      this.causalLengths.set(key, cl);
      this.dropOldCells.run(table, pk, cl);
      this.replace.run(table, pk, SENTINEL, null, cl, next, site, cl, change[8]);
    }
    if (cid !== SENTINEL) put.call(this, change, next);
  }

  putAtOnce([table, pk, cid, val, colVersion, , site, cl, seq], next) {
    this.upsert.run(table, pk, cid, toSql(val), colVersion, next, site, cl, seq);
  }

  putAfterLooking([table, pk, cid, val, colVersion, , site, cl, seq], next) {
    const found = this.find.get(table, pk, cid);
    if (found) {
      const [oldCl, oldVersion, oldVal] = found;
      const wins = cl > oldCl || (cl === oldCl && (colVersion > oldVersion || (colVersion === oldVersion && val > oldVal)));
      if (!wins) return;
    }
    this.replace.run(table, pk, cid, toSql(val), colVersion, next, site, cl, seq);
  }

  /** Changes since a version, as text. */
  pull(version) {
    const changes = this.changesSince.all(version);
    for (const change of changes) if (Buffer.isBuffer(change[3])) change[3] = { $blob: change[3].toString('hex') };
    return this.message('update', { changes });
  }

  message(type, more) {
    return JSON.stringify({ type, ...more, version: this.version, siteId: this.siteId, channel: this.name });
  }
}

const rowKey = (table, pk) => `${table}\u0000${pk}`;

function toSql(val) {
  if (typeof val === 'boolean') return val ? 1 : 0;
  if (val !== null && typeof val === 'object') return Buffer.from(val.$blob, 'hex');
  return val;
}

const channels = new Map();

function openChannel(name) {
  let channel = channels.get(name);
  if (channel === undefined) {
    channel = new Channel(name);
    channels.set(name, channel);
  }
  return channel;
}

function handle(channel, socket, message) {
  switch (message.type) {
    case 'update': {
      channel.merge(message);
      socket.send(channel.message('ack'));
      if (channel.sockets.size < 2) return;
      // Encoded once, to bytes: a string would be encoded again for each follower.
      const update = Buffer.from(channel.message('update', { changes: message.changes }));
      for (const follower of channel.sockets) {
        if (follower !== socket && follower.readyState === follower.OPEN) follower.send(update, { binary: false });
      }
      return;
    }
    case 'pull':
      socket.send(channel.pull(message.version));
  }
}

const server = new WebSocketServer({ port: Number(options.port), host: '127.0.0.1', perMessageDeflate: false });
server.on('connection', (socket, request) => {
  const name = new URL(request.url, 'http://localhost').searchParams.get('channel') || 'default';
  let channel;
  try {
    channel = openChannel(name);
  } catch (error) {
    console.error(`channel ${name}: ${error.message}`);
    socket.close(1011);
    return;
  }
  channel.sockets.add(socket);
  socket.send(channel.message('connected'));
  socket.on('message', (data) => {
    try {
      handle(channel, socket, JSON.parse(data.toString()));
    } catch (error) {
      console.error(`a message to ${name}: ${error.message}`);
    }
  });
  socket.on('close', () => channel.sockets.delete(socket));
  socket.on('error', (error) => console.error(`a connection to ${name}: ${error.message}`));
});
server.on('listening', () => {
  console.log(`listening on ${options.port}, ${options.tuned ? 'tuned' : 'as in the guide'}, synchronous ${options.sync}`);
});
