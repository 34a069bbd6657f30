//! The HTTP before a WebSocket: which channel is asked for, and whether it was upgraded.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// A head that is longer is passed on all the same, but its connection is not recorded.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Reads until a head is complete and gives its length; None: there is none, and what was read is all or too much.
pub(super) async fn read_head(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Option<usize>> {
    loop {
        if let Some(at) = memchr::memmem::find(read, b"\r\n\r\n") {
            return Ok(Some(at + 4));
        }
        if read.len() > HEAD_BYTES_MAX || stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
}

/// The channel that a request to upgrade names; None: it is another request.
pub(super) fn channel_of(head: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines();
    let target = lines.next()?.strip_prefix("GET ")?.split(' ').next()?;
    let upgrades = lines.filter_map(|line| line.split_once(':')).any(|(name, value)| {
        name.eq_ignore_ascii_case("upgrade") && value.trim().eq_ignore_ascii_case("websocket")
    });
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let named = query.split('&').find_map(|pair| pair.strip_prefix("channel="));
    upgrades.then(|| unescape(named.unwrap_or("default").as_bytes()))
}

/// Whether the answer's head says that the connection is a WebSocket now.
pub(super) fn is_upgraded(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.1 101")
}

/// Undoes percent-encoding, so that two spellings of a name are one channel.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        let escaped =
            after.first_chunk::<2>().filter(|_| *byte == b'%').and_then(|hex| crate::plan::hex(hex));
        match escaped {
            Some(escaped) => {
                out.push(escaped as u8);
                rest = &after[2..];
            }
            None => {
                out.push(if *byte == b'+' { b' ' } else { *byte });
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_is_found_in_every_spelling() {
        let head = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: h\r\nupgrade: WebSocket\r\n\r\n");
        for (target, channel) in [
            ("/?channel=a", "a"),
            ("/sync?token=x&channel=a%20b%2f", "a b/"),
            ("/?channel=a+b", "a b"),
            ("/?channel=50%", "50%"),
            ("/ws", "default"),
        ] {
            assert_eq!(channel_of(head(target).as_bytes()).as_deref(), Some(channel.as_bytes()), "{target}");
        }
        assert_eq!(channel_of(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"), None);
        assert_eq!(channel_of(b"POST / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"), None);
        assert_eq!(channel_of(b"\xff\x00"), None);
        assert!(is_upgraded(b"HTTP/1.1 101 Switching Protocols\r\n") && !is_upgraded(b"HTTP/1.1 404 "));
    }
}
