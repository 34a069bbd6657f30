// The application: its tables, and random transactions on them.

import { bindable } from './engine.mjs';

const TEXTS = [
  '', 'a', 'A', 'Z', 'ä', 'a\u0308', 'é', '日本', 'ﬃ', '\u{1F469}\u200D\u{1F680}', '\uFFFD', '\u{10FFFF}', '\uFFFF',
  'null', '1', '1.5', '"quoted" \\ and \'single\'', 'line\nbreak\ttab\u0001', '\u2028\u2029', ' ', 'x'.repeat(300),
];
// Either side of what 32 bits, a double, a length byte of the packed key, and SQLite itself hold.
const INTEGERS = [
  0, 1, -1, 7, 127, 128, -128, 255, 256, 65_536, 2 ** 31 - 1, 2 ** 31, -(2 ** 31), -(2 ** 31) - 1, 2 ** 40,
  -(2 ** 40), 2 ** 53 - 1, -(2 ** 53) + 1, 2n ** 53n, 2n ** 53n + 1n, -(2n ** 53n) - 1n, 2n ** 63n - 1n, -(2n ** 63n),
];
// None with an integral value that an INTEGER holds: JSON from JavaScript would make it one.
const REALS = [
  0.5, -0.5, 0.1, 1.5, -99.25, 1 / 3, Math.PI, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e20, -1e300,
  1e21, 123456789.123456789, 4503599627370495.5,
];

const text = (random) => (random.chance(0.7) ? random.pick(TEXTS) : `text ${random.below(1000)}`);
const integer = (random) => (random.chance(0.5) ? random.pick(INTEGERS) : random.below(10));
const real = (random) => (random.chance(0.7) ? random.pick(REALS) : random.below(100_000) / 100 + 0.001);
const anything = (random) => random.pick([text, integer, real])(random);
const orNull = (kind) => (random) => (random.chance(0.2) ? null : kind(random));

/** The tables: how random keys and values of each column are made. */
export const TABLES = [
  {
    name: 'notes',
    sql: `CREATE TABLE IF NOT EXISTS notes (id TEXT NOT NULL PRIMARY KEY, title TEXT, body TEXT NOT NULL DEFAULT '',
      stars INTEGER DEFAULT 3, weight REAL, extra)`,
    keys: { id: (random) => random.pick(['n1', 'N1', 'n2', 'é', 'e\u0301', '', '\u{1F600}', 'n 3']) },
    columns: {
      title: orNull(text), body: text, stars: orNull(integer), weight: orNull(real), extra: orNull(anything),
    },
  },
  {
    name: 'places',
    sql: `CREATE TABLE IF NOT EXISTS places (x INTEGER NOT NULL, label NOT NULL, size INTEGER, info,
      PRIMARY KEY (x, label))`,
    keys: {
      x: (random) => random.pick([0, -1, 300, 2n ** 60n]),
      label: (random) => random.pick(['', 1, '1', 'ü', 2.5]),
    },
    columns: { size: orNull(integer), info: orNull(anything) },
  },
  {
    name: 'tags',
    sql: `CREATE TABLE IF NOT EXISTS tags (note TEXT NOT NULL, tag TEXT NOT NULL, PRIMARY KEY (note, tag))`,
    keys: {
      note: (random) => random.pick(['n1', 'n2', 'é']),
      tag: (random) => random.pick(['red', 'Red', '緑', '']),
    },
    columns: {},
  },
];

export const SCHEMA = TABLES.flatMap(({ name, sql }) => [sql, `SELECT crsql_as_crr('${name}')`]);

/** The tables whose rows have no columns but the key. */
export const KEY_ONLY = new Set(TABLES.filter(({ columns }) => !Object.keys(columns).length).map(({ name }) => name));

class GivenUp extends Error {}

/** A random transaction for `SyncClient.edit`. */
export function transaction(random) {
  return async (tx) => {
    const statements = random.chance(0.6) ? 1 : 1 + random.below(6);
    for (let n = 0; n < statements; n += 1) await statement(random, tx);
  };
}

/** One that is rolled back, so that nobody may ever see it. */
export async function givenUp(random, edit) {
  const fill = transaction(random);
  const doomed = edit(async (tx) => {
    await fill(tx);
    throw new GivenUp();
  });
  await doomed.catch((error) => {
    if (!(error instanceof GivenUp)) throw error;
  });
}

/** A transaction of many new rows, so that a pull has more than one page. */
export function bulk(random) {
  const first = random.below(1e6);
  const rows = 20 + random.below(100);
  return async (tx) => {
    for (let n = 0; n < rows; n += 1) {
      await tx.exec(`INSERT OR IGNORE INTO notes (id, title) VALUES (?, ?)`, [`bulk ${first + n}`, text(random)]);
    }
  };
}

async function statement(random, tx) {
  const table = random.pick(TABLES);
  if (random.chance(0.04)) return wholeTable(random, tx, table);
  const key = draw(random, table.keys, Object.keys(table.keys));
  const where = Object.keys(key).map((column) => `${column} = ?`).join(' AND ');
  const at = Object.values(key);
  const [row] = await tx.execA(`SELECT 1 FROM ${table.name} WHERE ${where}`, at);
  const columns = Object.keys(table.columns);
  const remove = () => tx.exec(`DELETE FROM ${table.name} WHERE ${where}`, at);
  if (!row) return insert(random, tx, 'INSERT', table, key);
  switch (random.pick(['update', 'update', 'update', 'update', 'delete', 'delete', 'renew', 'replace', 'upsert'])) {
    case 'delete':
      return remove();
    case 'renew':
      await remove();
      return insert(random, tx, 'INSERT', table, key);
    case 'replace':
      return insert(random, tx, 'INSERT OR REPLACE', table, key);
    case 'upsert':
      return insert(random, tx, 'INSERT', table, key, 'ON CONFLICT DO NOTHING');
    default: {
      if (!columns.length) return undefined;
      const set = draw(random, table.columns, random.some(columns));
      const assign = Object.keys(set).map((column) => `${column} = ?`).join(', ');
      return tx.exec(`UPDATE ${table.name} SET ${assign} WHERE ${where}`, [...Object.values(set), ...at]);
    }
  }
}

async function wholeTable(random, tx, table) {
  const column = random.pick(Object.keys(table.columns));
  if (!column || random.chance(0.3)) return tx.exec(`DELETE FROM ${table.name} WHERE rowid % 2 = 0`);
  const value = bindable(table.columns[column](random));
  return tx.exec(`UPDATE ${table.name} SET ${column} = ? WHERE rowid % 3 = 0`, [value]);
}

async function insert(random, tx, verb, table, key, conflict = '') {
  const columns = Object.keys(table.columns);
  const given = { ...key, ...draw(random, table.columns, columns.length ? random.some(columns) : []) };
  const places = Object.keys(given).map(() => '?');
  const into = `${table.name} (${Object.keys(given).join(', ')})`;
  await tx.exec(`${verb} INTO ${into} VALUES (${places.join(', ')}) ${conflict}`, Object.values(given));
}

function draw(random, kinds, columns) {
  return Object.fromEntries(columns.map((column) => [column, bindable(kinds[column](random))]));
}
