// A sync client for a cr-sqlite database, written from the wire contract.

import { bindable, open } from './engine.mjs';
import { parse, stringify } from './json.mjs';
import WebSocket from 'ws';

const EXPORT = `SELECT "table", hex("pk"), "cid", "val", "col_version", "db_version", hex("site_id"), "cl", "seq"
  FROM crsql_changes WHERE db_version > ? AND site_id = crsql_site_id() ORDER BY db_version, seq`;
const MERGE = `INSERT INTO crsql_changes VALUES (?, unhex(?), ?, ?, ?, ?, unhex(?), ?, ?)`;
// Where this database stands with each server: the server's version up to which it holds everything, and its own
// version up to which the server has acked.
const STATE = `CREATE TABLE IF NOT EXISTS sync_state (server TEXT NOT NULL PRIMARY KEY, pulled INTEGER, acked INTEGER)`;

const RETRY_MS = 20;
const UNACKED_UPDATES_MAX = 3;

export class SyncClient {
  /** `fail` is told what breaks the contract. `lose` (tests of the test) picks updates to drop by their count. */
  constructor({ name, url, schema, batch, fail, lose = () => false }) {
    Object.assign(this, { name, url, schema, batch, fail, lose });
    this.counts = { merged: 0, sent: 0, updates: 0, pages: 0, connections: 0, lost: 0 };
    this.wanted = false;
    this.socket = null;
    this.work = Promise.resolve();
    this.forgetConnection();
  }

  async open() {
    this.db = await open(this.name);
    await this.db.exec(STATE);
    for (const statement of this.schema) await this.db.exec(statement);
    this.merge = await this.db.prepare(MERGE);
  }

  /** The application ends and starts again: only what the database holds remains. */
  async restart() {
    await this.goOffline();
    await this.exclusively(async () => {
      await this.merge.finalize();
      await this.db.close();
      await this.open();
    });
  }

  /** Runs one step at a time on the database, in order. */
  exclusively(step) {
    const done = this.work.then(step);
    this.work = done.catch((error) => this.fail(`${this.name}: ${error.stack}`));
    return done;
  }

  /** A local transaction, which is sent at once if the client is online. */
  edit(transaction) {
    return this.exclusively(async () => {
      await this.db.tx(transaction);
      await this.push();
    });
  }

  goOnline() {
    this.wanted = true;
    if (!this.socket) this.connect();
  }

  async goOffline({ abruptly = false } = {}) {
    this.wanted = false;
    const { socket } = this;
    if (!socket) return;
    const closed = new Promise((resolve) => socket.once('close', resolve));
    abruptly ? socket.terminate() : socket.close();
    await closed;
  }

  connect() {
    const socket = (this.socket = new WebSocket(this.url));
    this.forgetConnection();
    let opened = false;
    socket.on('open', () => {
      opened = true;
      this.counts.connections += 1;
    });
    socket.on('message', (data) =>
      this.exclusively(async () => {
        // What the application did not read before the connection ended is lost to it.
        if (this.socket === socket) await this.receive(parse(data.toString()));
      }),
    );
    socket.on('error', () => {});
    socket.on('close', () => {
      this.socket = null;
      if (!this.wanted) return;
      if (opened) this.counts.lost += 1;
      setTimeout(() => this.wanted && !this.socket && this.connect(), RETRY_MS);
    });
  }

  forgetConnection() {
    this.server = null;
    /** The version of the pull that is still to be answered to its end, if any. */
    this.pulling = null;
    /** Whether a pull was answered to its end. */
    this.following = false;
    /** Whether the first page has come: before it, live updates say nothing about what lies between. */
    this.paged = false;
    this.unacked = [];
    /** The server's version that the last ack told. */
    this.ackedAt = 0;
    this.connectedAt = 0;
    this.pulled = 0;
  }

  async receive(message) {
    switch (message.type) {
      case 'connected':
        return this.greet(message);
      case 'update':
        return this.apply(message);
      case 'ack':
        return this.acknowledge(message);
      default:
        this.fail(`${this.name}: unexpected ${stringify(message)}`);
    }
  }

  async greet({ siteId, version }) {
    this.server = siteId;
    this.connectedAt = version;
    await this.db.exec(`INSERT OR IGNORE INTO sync_state VALUES (?, 0, 0)`, [siteId]);
    const [state] = await this.db.execA(`SELECT pulled, acked FROM sync_state WHERE server = ?`, [siteId]);
    [this.pulled, this.acked] = state;
    this.sent = this.acked;
    if (version < this.pulled) this.fail(`${this.name}: the server went back from ${this.pulled} to ${version}`);
    await this.pull();
    await this.push();
  }

  /** Asks again for everything above the cursor. Does no harm at any time. */
  async pull() {
    if (!this.server || this.pulling !== null) return;
    this.pulling = this.lastPull = this.pulled;
    await this.send({ type: 'pull', version: this.pulled });
  }

  async apply({ changes, version, more }) {
    const page = more !== undefined;
    this.counts[page ? 'pages' : 'updates'] += 1;
    // A page that was under way may be taken for the answer, which then comes later and begins where it was asked to.
    const floor = this.lastPull;
    if (page && version < floor) this.fail(`${this.name}: a page of version ${version} after a pull of ${floor}`);
    if (!page && this.paged && version < this.pulled) {
      this.fail(`${this.name}: a live update of version ${version} after ${this.pulled}`);
    }
    this.paged ||= page;
    const lost = this.lose(this.counts.updates, page);
    // The cursor and the changes that it stands for become durable together.
    await this.db.tx(async (tx) => {
      for (const change of lost ? [] : changes) await this.merge.run(tx, ...change.map(bindable));
      if (this.paged) {
        await tx.exec(`UPDATE sync_state SET pulled = ? WHERE server = ?`, [bindable(version), this.server]);
      }
    });
    this.counts.merged += changes.length;
    if (this.paged) this.pulled = version;
    if (more === false) {
      this.pulling = null;
      this.following = true;
    }
    // A merge can leave cells of this site in need of another push.
    await this.push();
  }

  async acknowledge({ version, received }) {
    const expected = this.unacked.shift();
    if (received !== expected) this.fail(`${this.name}: an ack of ${received} where ${expected} was next`);
    this.acked = received;
    this.ackedAt = version;
    await this.db.exec(`UPDATE sync_state SET acked = ? WHERE server = ?`, [bindable(received), this.server]);
    await this.push();
  }

  /** Sends what this site wrote and has not sent yet, whole versions at a time. */
  async push() {
    while (this.server && this.unacked.length < UNACKED_UPDATES_MAX) {
      const rows = await this.db.execA(EXPORT, [bindable(this.sent)]);
      if (rows.length === 0) return;
      const version = (rows[this.batch - 1] ?? rows.at(-1))[5];
      const changes = rows.filter((row) => row[5] <= version);
      this.sent = version;
      this.unacked.push(version);
      this.counts.sent += changes.length;
      await this.send({ type: 'update', version, changes });
    }
  }

  async send(message) {
    const socket = this.socket;
    if (socket?.readyState !== WebSocket.OPEN) return;
    socket.send(stringify({ ...message, siteId: this.db.siteid, channel: this.name }));
  }

  /** The highest version of its server that this client has heard of. */
  get heardOf() {
    return Math.max(this.connectedAt, this.pulled, this.ackedAt);
  }

  /** Whether nothing is left to send, and nothing left to come up to the server's version `tail`. */
  async isSettled(tail) {
    if (!this.following || this.pulling !== null || this.unacked.length > 0) return false;
    // An ack never overtakes an update of a lower version.
    if (Math.max(this.pulled, this.ackedAt) < tail) return false;
    return this.exclusively(async () => (await this.db.execA(EXPORT, [bindable(this.sent)])).length === 0);
  }

  describe() {
    const { name, server, following, pulling, pulled, sent, acked, ackedAt, unacked } = this;
    return stringify({ name, server, following, pulling, pulled, sent, acked, ackedAt, unacked });
  }
}
