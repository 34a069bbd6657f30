// A client that knows nothing but the Server Implementation Guide: connect, update, ack, broadcast, pull.
//
//   node guide.mjs --url ws://127.0.0.1:8080
//
// What the relay adds to the guide's messages is never looked at. Exit code 1 if the relay breaks the guide's word.

import assert from 'node:assert/strict';
import { parseArgs } from 'node:util';
import { WebSocket } from 'ws';

const PATIENCE_MS = 20_000;

const { values: options } = parseArgs({ options: { url: { type: 'string' } } });
if (!options.url) throw new Error('--url is missing');
const unique = `${process.pid}-${Date.now()}`;

/** The four messages' fields as the guide has them, and nothing else of a message. */
const FIELDS = {
  connected: ['siteId', 'version', 'channel'],
  update: ['changes', 'version', 'siteId', 'channel'],
  ack: ['siteId', 'version', 'channel'],
};

class Client {
  /** `channel` undefined: the URL names none, as in the guide's `|| 'default'`. */
  static async connect(channel, siteId) {
    const url = new URL(options.url);
    if (channel !== undefined) url.searchParams.set('channel', channel);
    const client = new Client();
    Object.assign(client, { channel, siteId, inbox: [], waiting: null });
    client.socket = new WebSocket(url);
    client.socket.on('message', (data) => client.take(JSON.parse(data.toString())));
    client.socket.on('error', (error) => client.wake(error));
    client.socket.on('close', () => client.wake(new Error('the relay closed the connection')));
    client.connected = await client.next('connected');
    return client;
  }

  take(message) {
    // A client of the guide has no case for another type.
    if (!(message.type in FIELDS)) return;
    this.inbox.push(message);
    this.wake();
  }

  wake(error) {
    this.waiting?.(error);
  }

  /** The next message, which must be of this type and have the guide's fields. */
  async next(type) {
    if (this.inbox.length === 0) {
      await new Promise((resolve, reject) => {
        const late = setTimeout(() => reject(new Error(`no ${type} came`)), PATIENCE_MS);
        this.waiting = (error) => {
          clearTimeout(late);
          this.waiting = null;
          error ? reject(error) : resolve();
        };
      });
    }
    const message = this.inbox.shift();
    assert.equal(message.type, type, JSON.stringify(message));
    for (const field of FIELDS[type]) assert.ok(field in message, `${type} has no ${field}`);
    assert.equal(typeof message.siteId, 'string');
    assert.ok(Number.isSafeInteger(message.version));
    assert.equal(typeof message.channel, 'string');
    if (type === 'update') assert.ok(Array.isArray(message.changes));
    return message;
  }

  send(message) {
    this.socket.send(JSON.stringify(message));
  }

  update(version, changes) {
    this.send({ type: 'update', changes, version, siteId: this.siteId, channel: this.channel });
    return this.next('ack');
  }

  /** Everything since `version`: the answer is done when it has come to the version that the relay is at. */
  async pull(version, tail) {
    this.send({ type: 'pull', version, siteId: this.siteId, channel: this.channel });
    const changes = [];
    for (;;) {
      const update = await this.next('update');
      changes.push(...update.changes);
      if (update.version >= tail) return { ...update, changes };
    }
  }

  async close() {
    const closed = new Promise((resolve) => this.socket.once('close', resolve));
    this.socket.close();
    await closed;
  }
}

const SITES = ['A', 'B', 'C'].map((letter) => letter.repeat(32));

/** A cell of the guide's `todos`, in a row's first life. */
const todo = (siteId, id, cid, val, colVersion, dbVersion, seq = 0) =>
  ['todos', id, cid, val, colVersion, dbVersion, siteId, 1, seq];

/** What identifies a cell and what it holds, without the version that each database gives it for itself. */
const held = (changes) => changes.map(([table, pk, cid, val, colVersion]) => [table, pk, cid, val, colVersion]).sort();

const checks = {
  async 'a new channel greets with its site id, version 0 and its name'() {
    const channel = `greet-${unique}`;
    const client = await Client.connect(channel, SITES[0]);
    assert.equal(client.connected.version, 0);
    assert.equal(client.connected.channel, channel);
    assert.ok(client.connected.siteId.length > 0);
    await client.close();
  },

  async 'an update is acked to its sender and broadcast to all others as it was sent'() {
    const channel = `broadcast-${unique}`;
    const [a, b, c] = await Promise.all(SITES.map((site) => Client.connect(channel, site)));
    const server = a.connected.siteId;
    assert.equal(b.connected.siteId, server, 'one site id for all');
    const changes = [todo(SITES[0], 't1', 'title', 'buy milk', 1, 7), todo(SITES[0], 't1', 'done', 0, 1, 7, 1)];
    const ack = await a.update(7, changes);
    assert.equal(ack.siteId, server);
    assert.equal(ack.channel, channel);
    assert.ok(ack.version > a.connected.version);
    for (const other of [b, c]) {
      const update = await other.next('update');
      assert.deepEqual(update.changes, changes);
      assert.equal(update.version, ack.version);
      assert.equal(update.siteId, server);
      assert.equal(update.channel, channel);
    }
    // The other direction: had A been sent its own update, it would come before this one.
    const back = [todo(SITES[1], 't2', 'title', 'naïve 日本 \u{1F600}', 1, 1)];
    const backAck = await b.update(1, back);
    assert.ok(backAck.version > ack.version);
    assert.deepEqual((await a.next('update')).changes, back);
    await Promise.all([a, b, c].map((client) => client.close()));
  },

  async 'a pull gives everything since a version, and nothing from the newest on'() {
    const channel = `pull-${unique}`;
    const a = await Client.connect(channel, SITES[0]);
    const first = [todo(SITES[0], 't1', 'title', 'one', 1, 1), todo(SITES[0], 't2', 'title', null, 1, 1, 1)];
    const second = [todo(SITES[0], 't1', 'title', 'two', 2, 2), todo(SITES[0], 't3', 'weight', 2.5, 1, 2, 1)];
    const firstAck = await a.update(1, first);
    const secondAck = await a.update(2, second);
    const b = await Client.connect(channel, SITES[1]);
    assert.equal(b.connected.version, secondAck.version);
    const all = await b.pull(0, b.connected.version);
    assert.equal(all.version, secondAck.version);
    assert.equal(all.siteId, a.connected.siteId);
    assert.deepEqual(held(all.changes), held([first[1], ...second]));
    assert.deepEqual(held((await b.pull(firstAck.version, secondAck.version)).changes), held(second));
    assert.deepEqual((await b.pull(secondAck.version, secondAck.version)).changes, []);
    await Promise.all([a.close(), b.close()]);
  },

  async 'what was missed while away comes with a pull since the last version'() {
    const channel = `away-${unique}`;
    const a = await Client.connect(channel, SITES[0]);
    let b = await Client.connect(channel, SITES[1]);
    await a.update(1, [todo(SITES[0], 't1', 'title', 'seen', 1, 1)]);
    const { version } = await b.next('update');
    await b.close();
    const missed = Array.from({ length: 300 }, (_, n) => todo(SITES[0], `m${n}`, 'title', `missed ${n}`, 1, n + 2));
    for (const change of missed) await a.update(change[5], [change]);
    b = await Client.connect(channel, SITES[1]);
    assert.deepEqual(held((await b.pull(version, b.connected.version)).changes), held(missed));
    // And live again.
    await a.update(999, [todo(SITES[0], 't1', 'title', 'live', 2, 999)]);
    assert.equal((await b.next('update')).changes[0][3], 'live');
    await Promise.all([a.close(), b.close()]);
  },

  async 'the newer of two edits of a cell stays, whichever comes first'() {
    const channel = `merge-${unique}`;
    const a = await Client.connect(channel, SITES[0]);
    const b = await Client.connect(channel, SITES[1]);
    await a.update(5, [todo(SITES[0], 't1', 'title', 'newer', 5, 5)]);
    await b.next('update');
    const { version } = await b.update(3, [todo(SITES[1], 't1', 'title', 'older', 3, 3)]);
    const all = await b.pull(0, version);
    assert.deepEqual(held(all.changes), [['todos', 't1', 'title', 'newer', 5]]);
    await Promise.all([a.close(), b.close()]);
  },

  async 'channels do not hear of each other, and none named is the channel default'() {
    const [a, b] = [await Client.connect(`one-${unique}`, SITES[0]), await Client.connect(`two-${unique}`, SITES[1])];
    await a.update(1, [todo(SITES[0], 't1', 'title', 'only in one', 1, 1)]);
    assert.deepEqual((await b.pull(0, 0)).changes, []);
    const [unnamed, named] = [await Client.connect(undefined, SITES[0]), await Client.connect('default', SITES[1])];
    assert.equal(unnamed.connected.channel, 'default');
    const change = todo(SITES[0], unique, 'title', 'for all', 1, 1);
    await unnamed.update(1, [change]);
    assert.deepEqual((await named.next('update')).changes, [change]);
    await Promise.all([a, b, unnamed, named].map((client) => client.close()));
  },

  async 'what the guide has no word for disturbs nobody'() {
    const channel = `noise-${unique}`;
    const a = await Client.connect(channel, SITES[0]);
    const b = await Client.connect(channel, SITES[1]);
    a.socket.send('not JSON');
    a.send({ type: 'a type of some other day' });
    // `data.toString()` takes a binary frame as well.
    const change = todo(SITES[0], 't1', 'title', 'in a binary frame', 1, 1);
    const update = { type: 'update', changes: [change], version: 1, siteId: SITES[0], channel };
    a.socket.send(Buffer.from(JSON.stringify(update)), { binary: true });
    await a.next('ack');
    assert.deepEqual((await b.next('update')).changes, [change]);
    await Promise.all([a.close(), b.close()]);
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok: ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED: ${name}\n${error.stack}`);
  }
}
process.exit(failed ? 1 : 0);
