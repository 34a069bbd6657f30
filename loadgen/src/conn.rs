//! One client connection: connect, upgrade, then frames in and out.
//!
//! Made to cost little for each delivery: all that waits is read at once into a buffer that a worker's connections
//! share, messages are handed out as slices of it, and all frames queued since the last turn leave in one write. Only
//! the tail of an unfinished frame is kept with the connection, so an idle one owns no buffer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use crate::frame::{self, Found, Opcode};
use crate::rng::Rng;
use crate::target::Target;

/// One read takes at most this much; large enough that a busy follower's backlog comes in one system call.
const READ_BYTES: usize = 256 * 1024;
/// An answer to the upgrade that is longer than this is no WebSocket server's.
const HANDSHAKE_BYTES_MAX: usize = 16 * 1024;
/// The example of RFC 6455, section 1.3. The key only shows that the server understood the upgrade, and with a fixed
/// one the expected answer is known without hashing.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const KEY_ACCEPTED: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the server refused the upgrade: {0}")]
    Refused(String),
    #[error("the server broke the WebSocket protocol: {0}")]
    Protocol(&'static str),
    #[error("the server closed with code {0}")]
    Closed(u16),
    #[error("the server went without a close frame")]
    Ended,
    #[error("no answer within {0} s")]
    Timeout(u64),
}

impl ConnError {
    /// A short stable name to count by.
    pub(crate) fn code(&self) -> String {
        match self {
            Self::Io(e) => e.to_string(),
            Self::Refused(_) => "refused".into(),
            Self::Protocol(_) => "protocol".into(),
            Self::Closed(code) => format!("closed {code}"),
            Self::Ended => "ended".into(),
            Self::Timeout(_) => "timeout".into(),
        }
    }
}

/// How to open a connection, where the default does not do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ConnectWith {
    /// The address to connect from: one address has only some 28,000 ports.
    pub(crate) source: Option<IpAddr>,
    /// The socket's receive buffer, small for a client that is to be slow.
    pub(crate) receive_buffer: Option<u32>,
}

/// An open WebSocket connection to one channel.
#[derive(Debug)]
pub(crate) struct Conn {
    stream: TcpStream,
    /// The beginning of a frame whose end has not come yet.
    inbox: Vec<u8>,
    /// How long `inbox` must get before it is worth looking at.
    inbox_need: usize,
    /// The frames so far of a fragmented message.
    fragments: Option<Vec<u8>>,
    outbox: Vec<u8>,
    written: usize,
    /// Why nothing more can be written.
    unwritable: Option<ConnError>,
    masks: Rng,
    /// Bytes read and written since the last [`Conn::take_bytes`].
    bytes_in: u64,
    bytes_out: u64,
}

impl Conn {
    /// Connects and upgrades. What the server sent with its answer is kept for the first [`Conn::turn`].
    pub(crate) async fn open(target: &Target, channel: &str, with: ConnectWith) -> Result<Self, ConnError> {
        let mut stream = connect(target.address, with).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
            target.path_of(channel),
            target.host
        );
        stream.write_all(request.as_bytes()).await?;
        let inbox = read_upgrade(&mut stream).await?;
        let masks = Rng::new(crate::rng::hash_name(u64::from(stream.local_addr()?.port()), channel));
        Ok(Self {
            stream,
            inbox,
            inbox_need: 0,
            fragments: None,
            outbox: Vec::new(),
            written: 0,
            unwritable: None,
            masks,
            bytes_in: 0,
            bytes_out: 0,
        })
    }

    /// Queues a text message; the next [`Conn::turn`] writes it, with all others queued.
    pub(crate) fn queue_text(&mut self, payload: &[u8]) {
        let mask = self.masks.next() as u32;
        frame::write_masked(&mut self.outbox, Opcode::Text, payload, mask);
    }

    /// Whether something that was queued is not written yet.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Writes what is queued, waits for bytes from the server and hands each whole message to `on_text`.
    ///
    /// Returns after each read, also when no message was complete. May be dropped at any point (in a `select!` or a
    /// timeout) without losing a byte.
    pub(crate) async fn turn(&mut self, mut on_text: impl FnMut(&[u8])) -> Result<(), ConnError> {
        poll_fn(|cx| self.poll_turn(cx, &mut on_text)).await
    }

    /// The bytes read and written since this was last asked.
    pub(crate) fn take_bytes(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.bytes_in), std::mem::take(&mut self.bytes_out))
    }

    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        on_text: &mut impl FnMut(&[u8]),
    ) -> Poll<Result<(), ConnError>> {
        // A full socket must not stop us reading: the server may wait for just that. Nor may a broken one: what the
        // server said before it died, its last acks, is still to be read.
        if self.unwritable.is_none()
            && let Poll::Ready(Err(e)) = self.poll_flush(cx)
        {
            self.unwritable = Some(e);
        }
        if self.inbox_need == 0 && !self.inbox.is_empty() {
            // What came with the answer to the upgrade.
            let inbox = std::mem::take(&mut self.inbox);
            return Poll::Ready(self.take_messages(&inbox, on_text));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e.into())),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                    return Poll::Ready(Err(self.unwritable.take().unwrap_or(ConnError::Ended)));
                }
                Poll::Ready(Ok(())) => {}
            }
            self.bytes_in += buf.filled().len() as u64;
            if self.inbox.is_empty() {
                return Poll::Ready(self.take_messages(buf.filled(), on_text));
            }
            self.inbox.extend_from_slice(buf.filled());
            if self.inbox.len() < self.inbox_need {
                return Poll::Ready(Ok(()));
            }
            let inbox = std::mem::take(&mut self.inbox);
            Poll::Ready(self.take_messages(&inbox, on_text))
        })
    }

    /// Hands out the messages in `bytes` and keeps its unfinished tail. `self.inbox` is empty when this is called.
    fn take_messages(&mut self, bytes: &[u8], on_text: &mut impl FnMut(&[u8])) -> Result<(), ConnError> {
        let mut rest = bytes;
        loop {
            let found = match frame::find(rest).map_err(ConnError::Protocol)? {
                Found::Whole(frame) => frame,
                Found::Part { need } => {
                    if !rest.is_empty() {
                        self.inbox.reserve_exact(need.max(rest.len()));
                        self.inbox.extend_from_slice(rest);
                    }
                    self.inbox_need = need;
                    return Ok(());
                }
            };
            let payload = &rest[found.payload_at..found.end];
            rest = &rest[found.end..];
            match found.opcode {
                Opcode::Text | Opcode::Binary if found.fin => on_text(payload),
                Opcode::Text | Opcode::Binary => self.fragments = Some(payload.to_vec()),
                Opcode::Continuation => {
                    let Some(mut message) = self.fragments.take() else {
                        return Err(ConnError::Protocol("a continuation of nothing"));
                    };
                    message.extend_from_slice(payload);
                    if found.fin {
                        on_text(&message);
                    } else {
                        self.fragments = Some(message);
                    }
                }
                Opcode::Ping => {
                    let mask = self.masks.next() as u32;
                    frame::write_masked(&mut self.outbox, Opcode::Pong, payload, mask);
                }
                Opcode::Pong => {}
                Opcode::Close => {
                    let code = payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code));
                    return Err(ConnError::Closed(code));
                }
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnError>> {
        while self.written < self.outbox.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outbox[self.written..]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e.into())),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ConnError::Ended)),
                Poll::Ready(Ok(n)) => {
                    self.written += n;
                    self.bytes_out += n as u64;
                }
            }
        }
        self.outbox.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

async fn connect(address: SocketAddr, with: ConnectWith) -> Result<TcpStream, ConnError> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(bytes) = with.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(source) = with.source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    Ok(socket.connect(address).await?)
}

/// Reads the answer to the upgrade; returns the bytes after it, the server's first frames.
async fn read_upgrade(stream: &mut TcpStream) -> Result<Vec<u8>, ConnError> {
    let mut head = Vec::with_capacity(1024);
    let end = loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(ConnError::Refused("it hung up".into()));
        }
        if let Some(at) = memchr::memmem::find(&head, b"\r\n\r\n") {
            break at + 4;
        }
        if head.len() > HANDSHAKE_BYTES_MAX {
            return Err(ConnError::Refused("its answer has no end".into()));
        }
    };
    let rest = head.split_off(end);
    let text = String::from_utf8_lossy(&head);
    let status = text.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        return Err(ConnError::Refused(format!("{status} {}", String::from_utf8_lossy(&rest))));
    }
    let accepted = text.lines().any(|line| {
        line.split_once(':').is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == KEY_ACCEPTED
        })
    });
    if !accepted {
        return Err(ConnError::Refused("its Sec-WebSocket-Accept is wrong".into()));
    }
    Ok(rest)
}
