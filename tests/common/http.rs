//! Plain HTTP/1.1 over a socket, enough for the handshake and the few pages of the server.

use super::PATIENCE;
use super::stream::Stream;
use std::io::{ErrorKind, Read, Write};
use std::time::Instant;

/// What a handshake must carry, with the sample key of RFC 6455.
pub const HANDSHAKE_HEADERS: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

/// The answer to a request.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// What followed the headers.
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| key.trim().eq_ignore_ascii_case(name).then_some(value.trim()))
    }

    /// Reads a response's head; what came after it is the body so far. `None` if the connection ended before that.
    pub fn read(stream: &mut Stream) -> Option<Self> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            if !read_some(stream, &mut bytes) {
                return None;
            }
        };
        let body = bytes.split_off(end + 4);
        let head = String::from_utf8(bytes).unwrap();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Some(Self { status: status.unwrap_or_else(|| panic!("no status in {head:?}")), head, body })
    }
}

/// A request that asks for the upgrade.
pub fn upgrade_request(target: &str) -> String {
    upgrade_request_with(target, "")
}

/// The same with more headers, each ended by `\r\n`.
pub fn upgrade_request_with(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{HANDSHAKE_HEADERS}{headers}\r\n")
}

/// Sends a request and reads the whole answer, or what of it is there when the connection ends.
pub fn exchange(stream: impl Into<Stream>, request: &[u8]) -> Option<Response> {
    let mut stream = stream.into();
    stream.write_all(request).ok()?;
    let mut response = Response::read(&mut stream)?;
    let length = response.header("content-length").and_then(|length| length.parse().ok());
    while length.is_none_or(|length: usize| response.body.len() < length) {
        if !read_some(&mut stream, &mut response.body) {
            break;
        }
    }
    Some(response)
}

/// Percent-encodes every byte, so that any name can stand in a query.
pub fn encode(name: impl AsRef<[u8]>) -> String {
    name.as_ref().iter().map(|byte| format!("%{byte:02X}")).collect()
}

/// Reads once; `false` at the end of the connection.
fn read_some(stream: &mut Stream, into: &mut Vec<u8>) -> bool {
    stream.socket().set_read_timeout(Some(PATIENCE)).unwrap();
    let started = Instant::now();
    let mut chunk = [0; 16 << 10];
    match stream.read(&mut chunk) {
        Ok(0) => false,
        Ok(n) => {
            into.extend(&chunk[..n]);
            true
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("no answer in {:?}, so far {:?}", started.elapsed(), String::from_utf8_lossy(into))
        }
        Err(_) => false,
    }
}
