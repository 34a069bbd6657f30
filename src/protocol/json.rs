//! Writing JSON values by hand: the few shapes that messages are made of.

use causeway_storage::Value;

/// Writes a string with its quotes.
pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (i, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[written..i]);
        written = i + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                hex(&[byte], out);
            }
        }
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

/// Writes an integer.
pub(super) fn integer(i: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(i).as_bytes());
}

/// Writes a cell's value. A real always has a point or an exponent, so that it comes back as a real.
pub(super) fn value(val: &Value<'_>, out: &mut Vec<u8>) {
    match *val {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Integer(i) => integer(i, out),
        Value::Real(r) => out.extend_from_slice(ryu::Buffer::new().format_finite(r).as_bytes()),
        Value::Text(t) => string(t, out),
        Value::Blob(b) => {
            out.extend_from_slice(b"{\"$blob\":\"");
            hex(b, out);
            out.extend_from_slice(b"\"}");
        }
    }
}

/// Writes bytes as lower-case hex.
pub(super) fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}
