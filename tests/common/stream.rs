//! What a client talks over: a socket, or TLS over one.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

/// The name that the tests' certificates are for.
pub const NAME: &str = "localhost";

/// A connection's bytes.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// The same socket, over TLS if there is a configuration for it; the handshake comes with the first byte.
    pub fn over(socket: TcpStream, tls: Option<&Arc<ClientConfig>>) -> Self {
        let Some(config) = tls else { return Self::Plain(socket) };
        let name = ServerName::try_from(NAME).unwrap();
        let client = ClientConnection::new(config.clone(), name).unwrap();
        Self::Tls(Box::new(StreamOwned::new(client, socket)))
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &tls.sock,
        }
    }

    /// What TLS knows of the connection.
    #[track_caller]
    pub fn tls(&self) -> &ClientConnection {
        let Self::Tls(tls) = self else { panic!("there is no TLS here") };
        &tls.conn
    }

    /// Says that nothing more comes.
    pub fn end_writing(&mut self) {
        if let Self::Tls(tls) = self {
            tls.conn.send_close_notify();
            tls.flush().unwrap();
        }
        self.socket().shutdown(Shutdown::Write).unwrap();
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket)
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Tls(tls) => tls.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            // All of it: what TLS holds back is sent with the next call only.
            Self::Tls(tls) => tls.write(bytes).and_then(|n| tls.flush().map(|()| n)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}
