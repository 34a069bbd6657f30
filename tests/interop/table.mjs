// A cr-sqlite database that comes when all is over: it pulls everything, and prints its table.
//
//   node table.mjs --url ws://127.0.0.1:8080 --channel x --schema todos.sql --table todos
//
// A line for each row, as `tableLines` has them.

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { tableLines } from './lib/compare.mjs';
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

for (const line of await tableLines(client.db, options.table)) console.log(line);
await client.goOffline();
