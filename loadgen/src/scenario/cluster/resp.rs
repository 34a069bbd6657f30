//! Where a message of Redis' protocol ends: what is swallowed between a node and Redis is whole messages, as a stream with a
//! hole in the middle of one is nothing that TCP could give.

/// A message that is longer than this is none of a node's.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A stream that is not of Redis' protocol.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotRedis;

/// The length of the message that the bytes begin with, or None if its end is not there yet.
pub(super) fn message(bytes: &[u8]) -> Result<Option<usize>, NotRedis> {
    let mut at = 0;
    // An array is followed by its elements, which are messages themselves.
    let mut wanted = 1_usize;
    while wanted > 0 {
        let Some(rest) = bytes.get(at..) else { break };
        let Some(line_end) = memchr::memmem::find(rest, b"\r\n") else { break };
        let (kind, number) = rest[..line_end].split_first().ok_or(NotRedis)?;
        at += line_end + 2;
        wanted -= 1;
        let number = || str::from_utf8(number).ok()?.parse::<i64>().ok();
        // -1 is nothing, where something else could be.
        let count = || Ok(number().ok_or(NotRedis)?.max(0) as usize);
        match kind {
            b'*' | b'>' | b'~' => wanted = wanted.saturating_add(count()?),
            b'%' | b'|' => wanted = wanted.saturating_add(count()?.saturating_mul(2)),
            b'$' | b'=' | b'!' if number() == Some(-1) => {}
            b'$' | b'=' | b'!' => at = at.saturating_add(count()?).saturating_add(2),
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
            _ => return Err(NotRedis),
        }
        // An attribute precedes the message that it is of.
        if *kind == b'|' {
            wanted += 1;
        }
    }
    if at > MESSAGE_BYTES_MAX || bytes.len() > MESSAGE_BYTES_MAX {
        return Err(NotRedis);
    }
    Ok((wanted == 0 && at <= bytes.len()).then_some(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_ends_where_its_last_element_does() {
        for whole in [
            "+OK\r\n",
            ":12\r\n",
            "_\r\n",
            "$-1\r\n",
            "$0\r\n\r\n",
            "$4\r\na\r\nb\r\n",
            "*0\r\n",
            "*3\r\n$7\r\nPUBLISH\r\n$1\r\nt\r\n$2\r\n\r\n\r\n",
            ">3\r\n$7\r\nmessage\r\n$3\r\nall\r\n$5\r\n{...}\r\n",
            "%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n$1\r\nx\r\n",
            "|1\r\n+ttl\r\n:1\r\n+OK\r\n",
        ] {
            let twice = [whole, whole].concat();
            assert_eq!(message(twice.as_bytes()), Ok(Some(whole.len())), "{whole:?}");
            for cut in 0..whole.len() {
                assert_eq!(message(&whole.as_bytes()[..cut]), Ok(None), "{:?}", &whole[..cut]);
            }
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["GET / HTTP/1.1\r\n", "\r\n", "$x\r\n", "*\r\n", "$999999999999\r\n"] {
            assert_eq!(message(bad.as_bytes()), Err(NotRedis), "{bad:?}");
        }
    }
}
