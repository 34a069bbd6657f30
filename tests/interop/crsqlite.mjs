// Real cr-sqlite databases that edit at random, on and off line, and must all end up equal, and equal to the relay.
//
//   node crsqlite.mjs --url ws://127.0.0.1:8080 [--seed 1] [--runs 1] [--clients 5] [--rounds 60]
//
// One line per run (seeds SEED, SEED + 1, ...), each on a channel of its own. The seed decides what is done; how it
// meets on the network is up to the day. `--crashes N` prints `crash now` N times in each run, for whoever kills the
// server then. `--lose N` drops every N-th live update, to show that the test would see it. `--tables FILE` writes the tables
// that all databases had in the end, by channel and name, as JSON.
//
// With several `--url`s they are nodes of a cluster: clients are spread over them, and move between them. `--apart MS` prints
// `apart now` and `together now` with at least so many milliseconds in between, for whoever keeps the nodes apart then.

import { clocks, comesTwice, databaseClocks, databaseRows, differences, tableLines } from './lib/compare.mjs';
import { SyncClient } from './lib/client.mjs';
import { Random } from './lib/random.mjs';
import { SCHEMA, TABLES, bulk, givenUp, transaction } from './lib/workload.mjs';
import { parse, stringify } from './lib/json.mjs';
import WebSocket from 'ws';
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';

const PATIENCE_MS = 30_000;
/** How often nodes are asked for all they have, until they have the same. */
const AGREE_PAUSE_MS = 100;

const { values: options } = parseArgs({
  options: {
    url: { type: 'string', multiple: true, default: [] },
    seed: { type: 'string', default: '1' },
    runs: { type: 'string', default: '1' },
    clients: { type: 'string', default: '5' },
    rounds: { type: 'string', default: '60' },
    lose: { type: 'string', default: '0' },
    crashes: { type: 'string', default: '0' },
    apart: { type: 'string', default: '0' },
    tables: { type: 'string' },
  },
});
const names = ['seed', 'runs', 'clients', 'rounds', 'crashes', 'lose', 'apart'];
const [firstSeed, runs, clientCount, rounds, crashes, lose, apartMs] = names.map((name) => {
  const number = Number(options[name]);
  if (!Number.isSafeInteger(number) || number < 0) throw new Error(`--${name} must be a whole number`);
  return number;
});
if (!options.url.length) throw new Error('--url is missing');

const tables = {};
for (let seed = firstSeed; seed < firstSeed + runs; seed += 1) await run(seed);
if (options.tables) writeFileSync(options.tables, JSON.stringify(tables));
process.exit(0);

async function run(seed) {
  const started = performance.now();
  const random = new Random(seed);
  const channel = `run ${seed} ${process.pid}`;
  const nodes = options.url.map((node) => {
    const url = new URL(node);
    url.searchParams.set('channel', channel);
    return url;
  });
  const fail = (message) => giveUp(seed, [message]);
  const client = (name, url, batch, loses) =>
    new SyncClient({ name: `${name}-${seed}`, url, schema: SCHEMA, batch, fail, lose: loses });

  const clients = [];
  for (let n = 1; n <= clientCount; n += 1) {
    const loses = (updates, page) => lose > 0 && !page && updates % lose === 0;
    clients.push(client(`client${n}`, nodes[n % nodes.length], random.pick([1, 10, 1000]), loses));
  }
  for (const each of clients) {
    await each.open();
    if (random.chance(0.7)) each.goOnline();
  }
  const counts = { edits: 0, apart: 0, offline: 0, restarts: 0, moves: 0 };
  const crashEvery = Math.ceil(rounds / (crashes + 1));
  const third = Math.ceil(rounds / 3);
  for (let round = 0; round < rounds; round += 1) {
    if (round > 0 && round % crashEvery === 0) {
      await connect(seed, clients);
      console.log('crash now');
    }
    const isApart = apartMs > 0 && round >= third && round < 2 * third;
    if (isApart && round === third) console.log('apart now');
    const edits = counts.edits;
    await step(random, random.pick(clients), counts, nodes);
    if (isApart) {
      counts.apart += counts.edits - edits;
      await sleep(apartMs / third);
      if (round === 2 * third - 1) console.log('together now');
    }
    if (random.chance(0.05)) await settle(seed, clients);
  }

  const relay = await agree(seed, nodes, clients);
  const late = client('late', nodes[0], 1, () => false);
  await late.open();
  await settle(seed, [late]);

  const expected = clocks(relay);
  const expectedRows = await databaseRows(clients[0].db);
  const differing = [];
  for (const { name, db } of [...clients, late]) {
    differing.push(...differences(name, await databaseClocks(db), 'the relay', expected));
    differing.push(...differences(name, await databaseRows(db), clients[0].name, expectedRows));
  }
  if (differing.length) giveUp(seed, differing);
  tables[channel] = {};
  for (const { name } of TABLES) tables[channel][name] = await tableLines(late.db, name);

  for (const each of [...clients, late]) await each.goOffline();
  const sum = (name) => clients.reduce((total, each) => total + each.counts[name], 0);
  const live = expectedRows.size;
  const died = relay.filter(([, , cid, , , , , cl]) => cid === '-1' && cl > 1).length;
  console.log(
    `ok: seed ${seed}, ${clients.length} databases, ${counts.edits} transactions (${counts.apart} while apart), ` +
      `${counts.offline} offline spells, ${counts.moves} moves, ${counts.restarts} restarts, ${sum('connections')} connections of which ${sum('lost')} lost, ` +
      `${sum('sent')} changes sent, ${sum('merged')} merged in ${sum('updates')} live updates and ${sum('pages')} ` +
      `pages; all hold ${live} rows, ${expected.size} cells, ${died} rows that died or live ` +
      `again; ${Math.round(performance.now() - started)} ms`,
  );
}

async function step(random, client, counts, nodes) {
  const action = random.fraction();
  if (action < 0.7) {
    for (let edits = 1 + random.below(4); edits > 0; edits -= 1) {
      counts.edits += 1;
      await client.edit(transaction(random));
    }
  } else if (action < 0.72) {
    await client.exclusively(() => givenUp(random, (doomed) => client.db.tx(doomed)));
  } else if (action < 0.74) {
    counts.edits += 1;
    await client.edit(bulk(random));
  } else if (action < 0.76) {
    counts.restarts += 1;
    await client.restart();
  } else if (action < 0.79) {
    await client.exclusively(() => client.pull());
  } else if (client.wanted) {
    counts.offline += 1;
    await client.goOffline({ abruptly: random.chance(0.5) });
  } else {
    if (nodes.length > 1) {
      const url = random.pick(nodes);
      counts.moves += Number(url !== client.url);
      client.url = url;
    }
    client.goOnline();
  }
  if (random.chance(0.4)) await sleep(random.below(8));
}

/** Everyone online and greeted, and maybe in the middle of something. */
async function connect(seed, clients) {
  clients.forEach((client) => client.goOnline());
  await until(seed, clients, 'not everyone is connected', () => clients.every((client) => client.server));
}

/** Everyone online, everything acked, everything arrived that the client's own node has. Gives the version of each node. */
async function settle(seed, clients) {
  clients.forEach((client) => client.goOnline());
  const newest = () => {
    const tails = new Map();
    for (const { url, heardOf } of clients) tails.set(url, Math.max(heardOf, tails.get(url) ?? 0));
    return tails;
  };
  let tails;
  await until(seed, clients, 'not everything arrived', async () => {
    tails = newest();
    const settled = await Promise.all(clients.map((client) => client.isSettled(tails.get(client.url))));
    // Nobody can have moved a lone server on, if nobody has anything to send and nobody is ahead.
    return settled.every(Boolean) && [...newest()].every(([url, tail]) => tail === tails.get(url));
  });
  return tails;
}

/** The same, and all nodes have the same. Gives the rows of one. */
async function agree(seed, nodes, clients) {
  let relay;
  await until(seed, clients, 'the nodes do not agree', async () => {
    const tails = await settle(seed, clients);
    const stored = await Promise.all(nodes.map(pullAll));
    relay = stored[0].rows;
    const isThere = ({ version }, n) => version === (tails.get(nodes[n]) ?? version);
    // A node that is being repaired writes while it is pulled.
    if (stored.every(isThere) && !stored.some(({ rows }) => comesTwice(rows))) {
      const [first, ...others] = stored.map(({ rows }) => clocks(rows));
      if (others.every((other) => !differences('', other, '', first).length)) return true;
    }
    await sleep(AGREE_PAUSE_MS);
    return false;
  });
  return relay;
}

async function until(seed, clients, complaint, isDone) {
  const deadline = performance.now() + PATIENCE_MS;
  while (!(await isDone())) {
    if (performance.now() > deadline) {
      giveUp(seed, [`${complaint} in ${PATIENCE_MS} ms:`, ...clients.map((client) => `  ${client.describe()}`)]);
    }
    await sleep(2);
  }
}

/** What a node stores: every row of a pull from 0, and its version. */
async function pullAll(url) {
  const socket = new WebSocket(url);
  const rows = [];
  const version = await new Promise((resolve, reject) => {
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('the relay closed the connection in the middle of a pull')));
    socket.on('message', (data) => {
      const message = parse(data.toString());
      if (message.type === 'connected') {
        socket.send(stringify({ type: 'pull', version: 0, siteId: 'observer', channel: 'observer' }));
        return;
      }
      // Live, before the pull was read: the pages hold it too.
      if (message.more === undefined) return;
      rows.push(...message.changes);
      if (!message.more) resolve(message.version);
    });
  });
  socket.terminate();
  rows.reduce(([, , , , , lastVersion, , , lastSeq], row) => {
    const inOrder = lastVersion < row[5] || (lastVersion === row[5] && lastSeq < row[8]);
    if (!inOrder) throw new Error(`out of order: (${lastVersion}, ${lastSeq}) before (${row[5]}, ${row[8]})`);
    return row;
  }, [, , , , , 0, , , -1]);
  return { rows, version };
}

function giveUp(seed, lines) {
  console.log([`FAILED: seed ${seed}`, ...lines].join('\n'));
  process.exit(1);
}
