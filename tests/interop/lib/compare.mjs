// What all databases and the relay must agree on.

import { KEY_ONLY, TABLES } from './workload.mjs';

const SHOWN_MAX = 20;

/** A value with its type, as SQLite sees it. */
function literal(value) {
  if (value === null) return 'NULL';
  if (typeof value === 'string') return JSON.stringify(value);
  const integral = typeof value === 'bigint' || Number.isSafeInteger(value);
  return `${integral ? 'INTEGER' : 'REAL'} ${value}`;
}

/** Clocks by cell, from changes as they are on the wire. */
export function clocks(changes) {
  const cells = new Map();
  for (const [table, pk, cid, val, colVersion, , , cl] of changes) {
    // The engine keeps a sentinel of a first life or does not, as it comes; where there is nothing else, it is the row.
    if (cid === '-1' && cl === 1 && !KEY_ONLY.has(table)) continue;
    const cell = `${table} ${pk} ${cid}`;
    if (cells.has(cell)) throw new Error(`${cell} comes twice`);
    cells.set(cell, `val ${literal(val)}, col_version ${colVersion}, cl ${cl}`);
  }
  return cells;
}

/** Whether a cell is there more than once: it was written between two pages of a pull, and comes again in a later one. */
export function comesTwice(changes) {
  return new Set(changes.map(([table, pk, cid]) => `${table} ${pk} ${cid}`)).size < changes.length;
}

/** The clocks of a database. */
export async function databaseClocks(db) {
  return clocks(
    await db.execA(`SELECT "table", hex("pk"), "cid", "val", "col_version", 0, '', "cl" FROM crsql_changes`),
  );
}

/** The application's rows of a database. */
export async function databaseRows(db) {
  const rows = new Map();
  for (const { name, keys, columns } of TABLES) {
    const width = Object.keys(keys).length;
    const quoted = [...Object.keys(keys), ...Object.keys(columns)].map((column) => `quote(${column})`);
    for (const row of await db.execA(`SELECT ${quoted.join(', ')} FROM ${name}`)) {
      rows.set(`${name} (${row.slice(0, width).join(', ')})`, row.slice(width).join(', '));
    }
  }
  return rows;
}

/** A table's rows in no order, a line each: its values as SQL has them, but a REAL as its bits. */
export async function tableLines(db, table) {
  const columns = (await db.execA(`SELECT name FROM pragma_table_info('${table}')`)).flat();
  // As text but for reals: what 64 bits hold, a JavaScript number does not.
  const selected = columns.map((name) => `typeof(${name}), iif(typeof(${name}) = 'real', ${name}, quote(${name}))`);
  const rows = await db.execA(`SELECT ${selected.join(', ')} FROM ${table}`);
  return rows.map((row) => columns.map((_, at) => printed(row[2 * at], row[2 * at + 1])).join(', '));
}

function printed(type, value) {
  if (type !== 'real') return value;
  const bits = Buffer.alloc(8);
  bits.writeDoubleBE(value);
  return `real ${bits.toString('hex').toUpperCase()}`;
}

/** Lines that tell how `actual` differs from `expected`, none if it does not. */
export function differences(actualName, actual, expectedName, expected) {
  const lines = [];
  for (const key of [...new Set([...expected.keys(), ...actual.keys()])].sort()) {
    const [a, b] = [actual.get(key), expected.get(key)];
    if (a === b) continue;
    lines.push(`  ${key}\n    ${actualName}: ${a ?? '(absent)'}\n    ${expectedName}: ${b ?? '(absent)'}`);
  }
  if (lines.length > SHOWN_MAX) lines.splice(SHOWN_MAX, lines.length, `  and ${lines.length - SHOWN_MAX} more`);
  return lines.length ? [`${actualName} and ${expectedName} differ:`, ...lines] : [];
}
