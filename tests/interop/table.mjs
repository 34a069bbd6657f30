// A cr-sqlite database that comes when all is over: it pulls everything, and prints its table.
//
//   node table.mjs --url ws://127.0.0.1:8080 --channel x --schema todos.sql --table todos
//
// A line for each row, in the order of the key: its values, each with its type, as literals of SQL; a REAL as its bits.

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { SyncClient } from './lib/client.mjs';

const PATIENCE_MS = 60_000;

const text = { type: 'string' };
const { values: options } = parseArgs({ options: { url: text, channel: text, schema: text, table: text } });
const url = new URL(options.url);
url.searchParams.set('channel', options.channel);
const fail = (complaint) => {
  console.log(`FAILED: ${complaint}`);
  process.exit(1);
};

const schema = [readFileSync(options.schema, 'utf8'), `SELECT crsql_as_crr('${options.table}')`];
const client = new SyncClient({ name: options.channel, url, schema, batch: 100, fail });
await client.open();
client.goOnline();
const deadline = performance.now() + PATIENCE_MS;
while (!(client.server && (await client.isSettled(client.heardOf)))) {
  if (performance.now() > deadline) fail(`not everything arrived in ${PATIENCE_MS} ms: ${client.describe()}`);
  await new Promise((resolve) => setTimeout(resolve, 5));
}

const columns = await client.db.execA(`SELECT name FROM pragma_table_info('${options.table}')`);
// As text but for reals: what 64 bits hold, a JavaScript number does not.
const selected = columns.map(([name]) => `typeof(${name}), iif(typeof(${name}) = 'real', ${name}, quote(${name}))`);
for (const row of await client.db.execA(`SELECT ${selected.join(', ')} FROM ${options.table} ORDER BY id`)) {
  const values = [];
  for (let at = 0; at < row.length; at += 2) values.push(literal(row[at], row[at + 1]));
  console.log(values.join(', '));
}
await client.goOffline();

function literal(type, value) {
  if (type !== 'real') return value;
  const bits = Buffer.alloc(8);
  bits.writeDoubleBE(value);
  return `real ${bits.toString('hex').toUpperCase()}`;
}
