//! A small WebSocket client over the simulated network.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use turmoil::net::TcpStream;
use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::common::{Frame, frame, upgrade_request};
use crate::host::{PORT, SERVER};

/// How long a client tries to connect: longer than a link is held, so that few attempts pile up.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Socket {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    /// What has been read and not been taken.
    buffer: Vec<u8>,
    /// What has yet to be written.
    waiting: Vec<u8>,
}

impl Socket {
    /// Connects and shakes hands; an answer other than 101 is an error.
    pub(crate) async fn connect(channel: &str) -> Result<Self> {
        let connected = timeout(PATIENCE, async {
            let (read, write) = TcpStream::connect((SERVER, PORT)).await?.into_split();
            let request = upgrade_request(&format!("/?channel={channel}"));
            let mut socket = Socket { read, write, buffer: Vec::new(), waiting: request.into() };
            let end = loop {
                if let Some(at) = socket.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                    break at + 4;
                }
                socket.progress(true).await?;
            };
            let head: Vec<u8> = socket.buffer.drain(..end).collect();
            if head.starts_with(b"HTTP/1.1 101 ") {
                return Ok(socket);
            }
            Err(Error::other(String::from_utf8_lossy(&head[..head.len().min(12)])))
        });
        connected.await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    /// Puts a message behind what waits to be written, in one frame.
    pub(crate) fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.waiting.extend(frame(opcode, payload));
    }

    /// The next frame; what waits is written meanwhile. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = Frame::take(&mut self.buffer) {
                return Ok(frame);
            }
            self.progress(true).await?;
        }
    }

    /// Writes what waits and reads nothing, for ever. May be dropped and called again.
    pub(crate) async fn only_write(&mut self) -> Error {
        loop {
            if let Err(error) = self.progress(false).await {
                return error;
            }
        }
    }

    /// Reads once or writes once.
    async fn progress(&mut self, reads: bool) -> Result<()> {
        tokio::select! {
            biased;
            read = self.read.read_buf(&mut self.buffer), if reads => match read? {
                0 => Err(ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            },
            written = self.write.write(&self.waiting), if !self.waiting.is_empty() => {
                self.waiting.drain(..written?);
                Ok(())
            }
            () = std::future::pending() => Ok(()),
        }
    }
}
