//! A ClientHello written by hand, of any version, and the first thing that the server says to it.

use crate::common::PATIENCE;
use std::io::{Read, Write};
use std::net::TcpStream;

/// Suites of each version: three of SSL 3.0 and TLS 1.0's, three of 1.2's, one of 1.3's.
const SUITES: [u16; 7] = [0x002f, 0x0035, 0xc009, 0xc02b, 0xc02c, 0xcca9, 0x1301];

/// A hello of a version, with extensions as bytes.
pub(crate) struct Hello {
    pub(crate) version: u16,
    pub(crate) extensions: Vec<u8>,
}

/// What the server answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    /// A hello that chooses this version.
    Hello(u16),
    /// A fatal alert: 70 `protocol_version`, 40 `handshake_failure`.
    Alert(u8),
    /// The end.
    End,
}

impl Hello {
    /// The hello in its record, which never says more than TLS 1.0.
    pub(crate) fn record(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([0x42; 32]);
        body.push(0);
        body.extend(with_length(&SUITES.map(u16::to_be_bytes).concat()));
        body.extend([1, 0]);
        if !self.extensions.is_empty() {
            body.extend(with_length(&self.extensions));
        }
        let message = [&[1, 0][..], &with_length(&body)].concat();
        let version = self.version.min(0x0301).to_be_bytes();
        [&[0x16][..], &version, &with_length(&message)].concat()
    }

    /// Sends it, and reads the server's first record.
    pub(crate) fn ask(&self, mut stream: TcpStream) -> Answer {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&self.record()).unwrap();
        let mut head = [0; 5];
        if stream.read_exact(&mut head).is_err() {
            return Answer::End;
        }
        let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut body).unwrap();
        match head[0] {
            0x15 => {
                assert_eq!(body[0], 2, "a fatal alert");
                Answer::Alert(body[1])
            }
            0x16 => {
                assert_eq!(body[0], 2, "a ServerHello");
                Answer::Hello(chosen(&body).unwrap_or(u16::from_be_bytes([body[4], body[5]])))
            }
            other => panic!("a record of type {other}"),
        }
    }
}

/// The version in a ServerHello's `supported_versions`, where 1.3 has it.
fn chosen(hello: &[u8]) -> Option<u16> {
    let after_session = 4 + 2 + 32 + 1 + usize::from(hello[38]);
    let mut rest = hello.get(after_session + 2 + 1 + 2..)?;
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_be_bytes([c, d]));
        if u16::from_be_bytes([a, b]) == 0x002b {
            return Some(u16::from_be_bytes([rest[4], rest[5]]));
        }
        rest = &rest[4 + length..];
    }
    None
}

/// The extensions of 1.2: groups, point formats, signature algorithms.
pub(crate) fn tls12() -> Vec<u8> {
    [
        extension(0x000a, &with_length(&[0, 0x1d, 0, 0x17])),
        extension(0x000b, &[1, 0]),
        extension(0x000d, &with_length(&[4, 3, 8, 4, 4, 1])),
    ]
    .concat()
}

pub(crate) fn supported_versions(versions: &[u16]) -> Vec<u8> {
    let list: Vec<u8> = versions.iter().flat_map(|version| version.to_be_bytes()).collect();
    extension(0x002b, &[&[list.len() as u8][..], &list].concat())
}

/// No share of a key: the server's hello asks for one, and names the version.
pub(crate) fn no_key_share() -> Vec<u8> {
    extension(0x0033, &[0, 0])
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &with_length(content)].concat()
}

/// Two bytes of length before it.
fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}
