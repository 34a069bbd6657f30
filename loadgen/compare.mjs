// Runs two servers by turns under the same load (the baseline and Causeway, Causeway without and with a schema, or
// alone and as one of two nodes), and prints markdown tables. Started by compare.sh.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values: options } = parseArgs({
  options: {
    baseline: { type: 'string', default: '' },
    bin: { type: 'string', default: 'target/release' },
    work: { type: 'string', default: '.' },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '10' },
    only: { type: 'string', multiple: true },
    with: { type: 'string', default: '' },
    list: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

// `rate`: work a second, more is better. `memory`: figures in bytes, less is better. `servers`: the pair that is compared.
const BASELINE = ['baseline', 'Causeway'];
const SCHEMA = ['no schema', 'schema'];
const NODES = ['alone', 'of two'];
const AWAY = ['pulled', 'caught up'];
const MERGE_64 = ['merge', '--channels', '64', '--in-flight', '8'];
const MERGE_8X100 = ['merge', '--channels', '8', '--changes', '100', '--in-flight', '4'];
const ROWS = [
  { id: 'fanout-4', title: 'fan-out: deliveries, 500 followers, 4 in flight',
    args: ['fanout', '--followers', '500', '--in-flight', '4'], rate: 'deliveries' },
  { id: 'fanout-16', title: 'fan-out: deliveries, 500 followers, 16 in flight',
    args: ['fanout', '--followers', '500', '--in-flight', '16'], rate: 'deliveries' },
  { id: 'merge-64', title: 'durable changes: 64 channels × 1 change × 8 in flight',
    args: MERGE_64, rate: 'changes acked' },
  { id: 'merge-8x100', title: 'durable changes: 8 channels × 100 changes × 4 in flight',
    args: MERGE_8X100, rate: 'changes acked' },
  { id: 'pull', title: 'pulled rows: full pulls of 100,000',
    args: ['pull', '--rows', '100000', '--pulls', '20'], rate: 'rows pulled' },
  { id: 'idle', title: 'memory of 5,000 idle connections over 100 channels',
    args: ['idle', '--connections', '5000', '--channels', '100'], seconds: 5,
    memory: [
      { title: 'an idle connection, of 5,000', of: (report) => report.facts['bytes a further connection'] },
      { title: 'an open channel with one idle connection', of: (report) => report.facts['bytes a channel, 1 connection each'] },
    ] },
  { id: 'slow', title: 'memory growth while a follower never reads, 30 s',
    // Open loop, so that both servers get the same bytes to keep or to drop: some 3 MB a second.
    args: ['fanout', '--followers', '10', '--changes', '100', '--value-bytes', '200', '--rate', '100', '--slow-follower'],
    seconds: 30,
    memory: [{ title: 'growth while a follower never reads, 30 s', of: (report) => report.server.rss_growth_max_bytes }] },
  { id: 'schema-64', title: 'a schema of one table: 64 channels × 1 change × 8 in flight',
    args: MERGE_64, rate: 'changes acked', servers: SCHEMA },
  { id: 'schema-8x100', title: 'a schema of one table: 8 channels × 100 changes × 4 in flight',
    args: MERGE_8X100, rate: 'changes acked', servers: SCHEMA },
  { id: 'schema-rows', title: 'a schema of one table: 8 channels × 100 changes, 1,000 rows of 8 columns over and over',
    args: [...MERGE_8X100, '--rows', '1000', '--columns', '8'], rate: 'changes acked', servers: SCHEMA },
  { id: 'nodes-64', title: 'a second node over Redis: 64 channels × 1 change × 8 in flight',
    args: MERGE_64, rate: 'changes acked', servers: NODES },
  { id: 'nodes-8x100', title: 'a second node over Redis: 8 channels × 100 changes × 4 in flight',
    args: MERGE_8X100, rate: 'changes acked', servers: NODES },
  { id: 'nodes-fanout', title: 'a second node over Redis: fan-out to 500 followers, 16 in flight',
    args: ['fanout', '--followers', '500', '--in-flight', '16'], rate: 'deliveries', servers: NODES },
  { id: 'catch-up', title: '100,000 changes: read by a client, and by a node that was away, which keeps them',
    args: ['pull', '--rows', '100000', '--pulls', '10', '--channel-prefix', 'away'], rate: 'rows pulled', servers: AWAY },
];

const SCHEMA_FILE = join(dirname(fileURLToPath(import.meta.url)), 'todos.sql');
const causeway = (...more) => (port, data) =>
  [join(options.bin, 'causeway'), 'serve', '--listen', `127.0.0.1:${port}`, '--data', data, '--durability', 'full',
    ...more, ...options.with.split(' ').filter(Boolean)];
const SERVERS = {
  baseline: { cwd: options.baseline,
    command: (port, data) => [process.execPath, 'server.mjs', '--port', port, '--data', data, '--tuned', '--sync', 'full'] },
  Causeway: { cwd: '.', command: causeway() },
  'no schema': { cwd: '.', command: causeway() },
  schema: { cwd: '.', command: causeway('--schema', SCHEMA_FILE) },
  alone: { cwd: '.', command: causeway() },
  // What is measured is the first node: the second one has no clients, but merges all that the first one's do.
  'of two': { cwd: '.', command: causeway('--node', 'a'),
    beside: async (data) => {
      const redis = await startRedis(data);
      const { child } = await start({ cwd: '.', command: causeway('--node', 'b') }, join(data, 'b'), redis.args);
      return { children: [child, redis.child], args: redis.args };
    } },
  pulled: { cwd: '.', command: causeway() },
  // A second node is started when the load is over, with nothing in it.
  'caught up': { cwd: '.', command: causeway('--node', 'a'),
    beside: async (data) => {
      const redis = await startRedis(data);
      return { children: [redis.child], args: redis.args };
    },
    figures: async (data, args) => {
      const digest = async (node) => {
        const inspect = spawn(join(options.bin, 'causeway'), ['inspect', 'away-0', '--json', '--data', join(data, node)]);
        let lines = '';
        inspect.stdout.on('data', (text) => { lines += text; });
        await once(inspect, 'close');
        return lines === '' ? undefined : JSON.parse(lines.split('\n')[0]).digest;
      };
      const wanted = await digest('a');
      const began = performance.now();
      const { child } = await start({ cwd: '.', command: causeway('--node', 'b') }, join(data, 'b'), args);
      try {
        while (await digest('b') !== wanted) await sleep(5);
        return { value: 100_000 / ((performance.now() - began) / 1000) };
      } finally {
        await stop(child);
      }
    } },
};

if (options.list || options.help) {
  console.log('usage: compare.sh [--rounds 3] [--seconds 10] [--only ROW]... [--with "OPTIONS OF causeway serve"] [--list]\n\nrows:');
  for (const row of ROWS) console.log(`  ${row.id.padEnd(12)} ${row.title}`);
  process.exit(0);
}
const rows = ROWS.filter((row) => options.only === undefined || options.only.includes(row.id));
const unknown = (options.only ?? []).filter((id) => !ROWS.some((row) => row.id === id));
if (unknown.length > 0 || !(Number(options.rounds) >= 1) || !(Number(options.seconds) > 0)) {
  console.error(unknown.length > 0 ? `no row ${unknown.join(', ')}; see --list` : 'bad --rounds or --seconds');
  process.exit(2);
}

/** A port that nobody listens on. */
async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return String(port);
}

/** Starts a Redis that keeps nothing. */
async function startRedis(data) {
  const port = await freePort();
  const child = spawn('redis-server', ['--port', port, '--bind', '127.0.0.1', '--save', ''],
    { cwd: data, stdio: ['ignore', 'ignore', 'pipe'] });
  await listening(child, port);
  return { child, args: ['--redis', `redis://127.0.0.1:${port}`] };
}

/** Starts a server and waits until it accepts connections. */
async function start(server, data, more = []) {
  const port = await freePort();
  const [program, ...args] = server.command(port, data);
  return listening(spawn(program, [...args, ...more], { cwd: server.cwd, stdio: ['ignore', 'ignore', 'pipe'] }), port);
}

/** Waits until a process accepts connections. */
async function listening(child, port) {
  let log = '';
  child.stderr.on('data', (text) => { log = (log + text).slice(-4000); });
  let failure;
  child.on('error', (error) => { failure = error; });
  for (let tries = 0; tries < 200; tries += 1) {
    if (failure || child.exitCode !== null) break;
    const socket = connect(Number(port), '127.0.0.1');
    const open = await Promise.race([once(socket, 'connect').then(() => true), once(socket, 'error').then(() => false)]).catch(() => false);
    socket.destroy();
    if (open) return { child, port };
    await sleep(50);
  }
  child.kill('SIGKILL');
  throw new Error(`it does not listen: ${failure?.message ?? log}`);
}

async function stop(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
  await exited;
  clearTimeout(timer);
}

/** One load on one fresh server: its figures, or why there are none. */
async function measure(server, row) {
  const data = join(options.work, 'data');
  const json = join(options.work, 'report.json');
  rmSync(data, { recursive: true, force: true });
  rmSync(json, { force: true });
  mkdirSync(join(data, 'a'), { recursive: true });
  const beside = await server.beside?.(data);
  const { child, port } = await start(server, join(data, 'a'), beside?.args);
  try {
    const seconds = String(row.seconds ?? options.seconds);
    const args = [...row.args, '--url', `ws://127.0.0.1:${port}/`, '--seconds', seconds, '--pid', String(child.pid),
      '--json', json, '--quiet'];
    const load = spawn(join(options.bin, 'causeway-loadgen'), args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    load.stdout.on('data', (text) => { output += text; });
    load.stderr.on('data', (text) => { output += text; });
    const [code] = await once(load, 'close');
    if (code !== 0) throw new Error(`causeway-loadgen ${args.join(' ')}\n${output}`);
    if (server.figures) return await server.figures(data, beside.args);
    return figuresOf(JSON.parse(readFileSync(json, 'utf8')), row);
  } finally {
    for (const one of [child, ...(beside?.children ?? [])]) await stop(one);
    rmSync(data, { recursive: true, force: true });
  }
}

/** What a report says for a row: the memory figures, or the rate, the rate per server CPU second, and a 99th percentile. */
function figuresOf(report, row) {
  if (row.memory) return row.memory.map(({ of }) => of(report));
  const rate = report.rates.find(({ name }) => name === row.rate);
  return { value: rate.per_second, perCpu: rate.per_server_cpu_second, p99: report.latencies[0]?.p99_ms };
}

function median(values) {
  const sorted = values.filter((value) => Number.isFinite(value)).sort((a, b) => a - b);
  if (sorted.length === 0) return undefined;
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

const number = (value) => (value === undefined ? '–' : Math.round(value).toLocaleString('en-US'));
const bytes = (value) => {
  if (value === undefined) return '–';
  return Math.abs(value) >= 1 << 20 ? `${(value / (1 << 20)).toFixed(1)} MiB` : `${(value / 1024).toFixed(1)} KiB`;
};
const ratio = (over, under) => (over > 0 && under > 0 ? `${(over / under).toFixed(2)}×` : '–');

const results = rows.map((row) => ({ row, servers: row.servers ?? BASELINE, figures: [[], []] }));
const failures = [];
for (const { row, servers, figures } of results) {
  for (let round = 1; round <= Number(options.rounds); round += 1) {
    for (const [at, name] of servers.entries()) {
      process.stderr.write(`${row.id}, round ${round}, ${name}: `);
      try {
        const found = await measure(SERVERS[name], row);
        figures[at].push(found);
        process.stderr.write(`${row.memory ? found.map(bytes).join(', ') : `${number(found.value)}/s`}\n`);
      } catch (error) {
        failures.push(`${row.id}, round ${round}, ${name}: ${error.message}`);
        process.stderr.write('FAILED\n');
      }
    }
  }
}

const of = (figures, name) => figures.map((all) => median(all.map((one) => one[name])));
console.log(`Medians of ${options.rounds} rounds; both servers by turns, each round on an empty data directory.`);
for (const pair of [BASELINE, SCHEMA, NODES, AWAY]) {
  const [one, other] = pair;
  const rates = results.filter(({ row, servers }) => row.rate && servers === pair);
  if (rates.length > 0) {
    console.log(`\n| load | ${one} /s | ${other} /s | ratio | ${one} /CPU s | ${other} /CPU s | ratio | ${one} p99 ms | ${other} p99 ms |`);
    console.log('| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |');
  }
  for (const { row, figures } of rates) {
    const [wall, cpu, p99] = ['value', 'perCpu', 'p99'].map((name) => of(figures, name));
    const cells = [row.title, ...wall.map(number), ratio(wall[1], wall[0]), ...cpu.map(number), ratio(cpu[1], cpu[0]),
      ...p99.map((ms) => ms?.toFixed(1) ?? '–')];
    console.log(`| ${cells.join(' | ')} |`);
  }
}
const memories = results.filter(({ row }) => row.memory);
if (memories.length > 0) {
  console.log('\n| memory | baseline | Causeway | baseline ÷ Causeway |\n| --- | ---: | ---: | ---: |');
}
for (const { row, figures } of memories) {
  for (const [at, { title }] of row.memory.entries()) {
    const [base, ours] = of(figures, at);
    console.log(`| ${title} | ${bytes(base)} | ${bytes(ours)} | ${ratio(base, ours)} |`);
  }
}
for (const failure of failures) console.log(`\nFAILED: ${failure}`);
process.exitCode = failures.length > 0 ? 1 : 0;
