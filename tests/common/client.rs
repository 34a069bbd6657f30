//! A synchronous WebSocket client, written anew for the tests so that it can also break the rules.

use super::frame::{CLOSE, Frame, PING, PONG, TEXT, frame};
use super::http::{Response, encode, upgrade_request};
use super::stream::Stream;
use super::{PATIENCE, changes, pull, update, version};
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What came from the server.
#[derive(Debug)]
pub enum Event {
    Frame(Frame),
    /// The connection is over, by an end or a reset.
    Ended,
    /// Nothing in the given time.
    Nothing,
}

/// What a narrow connection's system takes in before the client reads, in bytes; the system may double it.
const NARROW_BUFFER_BYTES: usize = 4096;

/// One connection to a channel, after its `connected`.
pub struct Client {
    stream: Stream,
    buffer: Vec<u8>,
    /// The server's `connected`.
    pub connected: Value,
    /// Whether pings are answered while the client reads.
    pub answers_pings: bool,
    /// Pings seen so far.
    pub pings: usize,
}

impl Client {
    /// Connects to `channel` at `/` and takes the `connected` message.
    #[track_caller]
    pub fn connect(addr: SocketAddr, channel: &str) -> Self {
        Self::connect_to(addr, &format!("/?channel={}", encode(channel)))
    }

    /// The same with a request target written by the caller.
    #[track_caller]
    pub fn connect_to(addr: SocketAddr, target: &str) -> Self {
        Self::connect_with(addr, target, &[])
    }

    /// The same, with bytes that follow the handshake in the same write.
    #[track_caller]
    pub fn connect_with(addr: SocketAddr, target: &str, early: &[u8]) -> Self {
        Self::over(TcpStream::connect(addr).unwrap().into(), target, early)
    }

    /// The same over a stream of the caller's.
    #[track_caller]
    pub fn connect_over(stream: Stream, channel: &str) -> Self {
        Self::over(stream, &format!("/?channel={}", encode(channel)), &[])
    }

    /// The same, or the server's answer if it refuses the handshake.
    pub fn try_connect(addr: SocketAddr, channel: &str) -> Result<Self, Response> {
        Self::try_over(
            TcpStream::connect(addr).unwrap().into(),
            &format!("/?channel={}", encode(channel)),
            &[],
        )
    }

    /// The same with a request that is written by the caller.
    pub fn try_request(addr: SocketAddr, request: &str) -> Result<Self, Response> {
        Self::try_send_request(TcpStream::connect(addr).unwrap().into(), request.as_bytes())
    }

    /// A connection from an address of this machine's own, with more headers in its handshake, each with its line's end; or
    /// the server's answer if it refuses.
    pub fn try_connect_from(
        from: Ipv4Addr,
        addr: SocketAddr,
        channel: &str,
        headers: &str,
    ) -> Result<Self, Response> {
        let target = format!("/?channel={}", encode(channel));
        let request = upgrade_request(&target).replacen("\r\n", &format!("\r\n{headers}"), 1);
        Self::try_send_request(connect_from(from, addr).into(), request.as_bytes())
    }

    /// The same with a request target written by the caller.
    #[track_caller]
    pub fn over_to(stream: Stream, target: &str) -> Self {
        Self::over(stream, target, &[])
    }

    #[track_caller]
    fn over(stream: Stream, target: &str, early: &[u8]) -> Self {
        Self::try_over(stream, target, early).unwrap_or_else(|response| panic!("{target}: {response:?}"))
    }

    #[track_caller]
    fn try_over(stream: Stream, target: &str, early: &[u8]) -> Result<Self, Response> {
        Self::try_send_request(stream, &[upgrade_request(target).as_bytes(), early].concat())
    }

    #[track_caller]
    fn try_send_request(mut stream: Stream, request: &[u8]) -> Result<Self, Response> {
        stream.socket().set_nodelay(true).unwrap();
        stream.socket().set_write_timeout(Some(PATIENCE)).unwrap();
        // Who is refused before a word may be told so before a word.
        let sent = stream.write_all(request);
        let response = Response::read(&mut stream)
            .unwrap_or_else(|| panic!("an answer to the handshake, which was sent: {sent:?}"));
        if response.status != 101 {
            return Err(response);
        }
        assert_eq!(response.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        let mut client =
            Self { stream, buffer: response.body, connected: Value::Null, answers_pings: true, pings: 0 };
        client.connected = client.recv_json();
        assert_eq!(client.connected["type"], "connected");
        Ok(client)
    }

    /// What it talks over.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// A second handle on the same connection without TLS, to send while the first one reads.
    pub fn second_handle(&self) -> Self {
        Self {
            stream: self.stream.socket().try_clone().unwrap().into(),
            buffer: Vec::new(),
            connected: self.connected.clone(),
            ..*self
        }
    }

    /// The version that `connected` told.
    #[track_caller]
    pub fn connected_version(&self) -> u64 {
        version(&self.connected)
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the connection takes bytes");
    }

    #[track_caller]
    pub fn send_text(&mut self, text: &str) {
        self.send_bytes(&frame(TEXT, text.as_bytes()));
    }

    #[track_caller]
    pub fn send_json(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    /// Ends the client's direction of the connection.
    pub fn half_close(&mut self) {
        self.stream.end_writing();
    }

    /// Ends both directions, for all handles.
    pub fn hang_up(&self) {
        // It may have ended already.
        let _ = self.stream.socket().shutdown(Shutdown::Both);
    }

    /// Gives the connection up with a reset; what is under way is lost.
    pub fn reset(self) {
        SockRef::from(self.stream.socket()).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads at most `most` bytes with one call, which count for the next frame; 0 if none come in the given time,
    /// `None` at the end of the connection.
    pub fn read_bytes(&mut self, most: usize, patience: Duration) -> Option<usize> {
        self.stream.socket().set_read_timeout(Some(patience)).unwrap();
        let mut chunk = vec![0; most];
        match self.stream.read(&mut chunk) {
            Ok(0) => None,
            Ok(n) => {
                self.buffer.extend(&chunk[..n]);
                Some(n)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Some(0),
            Err(_) => None,
        }
    }

    /// The next frame or end. Server pings are answered on the way and not returned.
    pub fn event(&mut self, patience: Duration) -> Event {
        let deadline = Instant::now() + patience;
        loop {
            match Frame::take(&mut self.buffer) {
                Some(ping) if ping.opcode == PING => {
                    self.pings += 1;
                    if self.answers_pings {
                        let _ = self.try_send(&frame(PONG, &ping.payload));
                    }
                    continue;
                }
                Some(frame) => return Event::Frame(frame),
                None => {}
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                return Event::Nothing;
            };
            self.stream.socket().set_read_timeout(Some(left)).unwrap();
            let mut chunk = [0; 64 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Event::Ended,
                Ok(n) => self.buffer.extend(&chunk[..n]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Event::Ended,
            }
        }
    }

    /// The next frame that is no ping.
    #[track_caller]
    pub fn recv_frame(&mut self) -> Frame {
        match self.event(PATIENCE) {
            Event::Frame(frame) => frame,
            other => panic!("a frame should come, not {other:?}"),
        }
    }

    /// The next message's text.
    #[track_caller]
    pub fn recv_text(&mut self) -> String {
        let frame = self.recv_frame();
        let text = String::from_utf8_lossy(&frame.payload).into_owned();
        assert!(frame.opcode == TEXT && frame.fin, "a text frame should come, not {frame:?}: {text}");
        String::from_utf8(frame.payload).expect("the server sends UTF-8")
    }

    #[track_caller]
    pub fn recv_json(&mut self) -> Value {
        let text = self.recv_text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
    }

    /// The next message, which must be of this type.
    #[track_caller]
    pub fn recv_type(&mut self, expected: &str) -> Value {
        let message = self.recv_json();
        assert_eq!(message["type"], expected, "in {message}");
        message
    }

    /// Sends an update and takes its ack, which must be the next message.
    #[track_caller]
    pub fn update(&mut self, client_version: u64, changes: &[Value]) -> Value {
        self.send_json(&update(client_version, changes));
        let ack = self.recv_type("ack");
        assert_eq!(ack["received"], client_version, "in {ack}");
        ack
    }

    /// Pulls and takes all pages. Nothing else may come in between.
    #[track_caller]
    pub fn pull(&mut self, from: u64) -> Vec<Value> {
        self.send_json(&pull(from));
        let mut pages = Vec::new();
        loop {
            let page = self.recv_type("update");
            let more = page["more"].as_bool().unwrap_or_else(|| panic!("a page without more: {page}"));
            pages.push(page);
            if !more {
                return pages;
            }
        }
    }

    /// Pulls and gives the rows of all pages.
    #[track_caller]
    pub fn pull_rows(&mut self, from: u64) -> Vec<Value> {
        self.pull(from).iter().flat_map(changes).cloned().collect()
    }

    /// Reads on until the connection is over, with the close code if there was one.
    #[track_caller]
    pub fn until_closed(&mut self) -> Option<u16> {
        let deadline = Instant::now() + PATIENCE;
        let mut code = None;
        loop {
            match self.event(deadline.saturating_duration_since(Instant::now())) {
                Event::Frame(frame) if frame.opcode == CLOSE => {
                    code = frame.close_code();
                    let _ = self.try_send(&super::frame(CLOSE, &frame.payload));
                }
                Event::Frame(_) => {}
                Event::Ended => return code,
                Event::Nothing => panic!("the connection should end, close code so far {code:?}"),
            }
        }
    }

    /// The server closes the connection with this code, and ends it.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) {
        assert_eq!(self.until_closed(), Some(code), "the close code");
    }
}

/// A socket whose system takes in little before it is read. The size of its segments, in bytes, says how much the server's
/// system takes: tens of kilobytes if they are small, megabytes if they are loopback's.
pub fn narrow(addr: SocketAddr, segment_bytes: u32) -> TcpStream {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(NARROW_BUFFER_BYTES).unwrap();
    socket.set_tcp_mss(segment_bytes).unwrap();
    socket.connect(&addr.into()).unwrap();
    socket.into()
}

/// A connection from an address of this machine's own: all that begin with 127 are.
pub fn connect_from(from: Ipv4Addr, addr: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&addr.into()).unwrap();
    socket.into()
}
