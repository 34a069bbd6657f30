//! Writing JSON values by hand: the few shapes that messages are made of.

use causeway_storage::Value;

/// Writes a string with its quotes.
pub(crate) fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some((plain, byte, after)) = split_at_escape(rest) {
        out.extend_from_slice(plain);
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                out.extend_from_slice(b"\\u00");
                hex(&[byte], out);
            }
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Splits at the first byte that JSON wants escaped: a control character, a quote, a backslash. Eight bytes at a time:
/// this is what most of a forwarded update's time went to.
fn split_at_escape(bytes: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // The high bit of each byte that is below `n`; exact up to the first one, which is all that is asked.
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGH;
    let (words, tail) = bytes.as_chunks::<8>();
    let escape = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    let in_words = words.iter().enumerate().find_map(|(at, word)| {
        let word = u64::from_le_bytes(*word);
        let found = below(word, 0x20)
            | below(word ^ (ONES * u64::from(b'"')), 1)
            | below(word ^ (ONES * u64::from(b'\\')), 1);
        (found != 0).then(|| at * 8 + found.trailing_zeros() as usize / 8)
    });
    let at =
        in_words.or_else(|| tail.iter().position(|byte| escape(*byte)).map(|at| words.len() * 8 + at))?;
    Some((&bytes[..at], bytes[at], &bytes[at + 1..]))
}

/// Writes an integer.
pub(crate) fn integer(i: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(i).as_bytes());
}

/// Writes a cell's value. A real always has a point or an exponent, so that it comes back as a real.
pub(crate) fn value(val: &Value<'_>, out: &mut Vec<u8>) {
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
pub(crate) fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

#[cfg(test)]
mod tests {
    use super::string;

    #[test]
    fn every_byte_at_every_place_is_written_as_serde_writes_it() {
        for len in 0..20 {
            for at in 0..=len {
                for c in (0..=0x7f).chain([0x80, 0xe9, 0x20ac, 0x1f600]).filter_map(char::from_u32) {
                    let text = format!("{}{c}{}\"\u{1}", "x".repeat(at), "é".repeat(len - at));
                    let mut out = Vec::new();
                    string(&text, &mut out);
                    assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
                    assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
                }
            }
        }
    }
}
