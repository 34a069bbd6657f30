// The real cr-sqlite, made for browsers, under Node: `fetch` reads the wasm file, and files live in memory.

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

let engine;

/** Opens a database by name. Opened again after a close, it still holds its data, as long as the process lives. */
export async function open(name) {
  engine ??= start();
  return (await engine).open(`file:${name}?vfs=memory`);
}

async function start() {
  const network = globalThis.fetch;
  globalThis.fetch = async (resource, options) => {
    if (!String(resource).startsWith('file:')) return network(resource, options);
    const bytes = await readFile(fileURLToPath(resource));
    return new Response(bytes, { headers: { 'content-type': 'application/wasm' } });
  };
  // The package registers a file system over IndexedDB, which never opens here, because no database uses it.
  globalThis.indexedDB = { open: () => new EventTarget() };
  const { default: initialize } = await import('@vlcn.io/crsqlite-wasm');
  const { MemoryVFS } = await import('@vlcn.io/wa-sqlite/src/examples/MemoryVFS.js');
  const sqlite = await initialize();
  sqlite.base.vfs_register(new MemoryVFS(), false);
  return sqlite;
}

/** Binds an integer as one: the wasm takes a JavaScript number beyond 32 bits for a REAL. And the wire's blob as one. */
export function bindable(value) {
  if (value?.$blob !== undefined) return Uint8Array.from(Buffer.from(value.$blob, 'hex'));
  return Number.isSafeInteger(value) && value !== (value | 0) ? BigInt(value) : value;
}
