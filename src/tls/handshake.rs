//! The handshake, within its time, and how it fails.

use std::any::Any;
use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::{self, PeerIncompatible};
use tokio_rustls::server::TlsStream;

use super::Tls;
use crate::connection::{Stream, linger};

/// What rustls may hold of what a client has yet to be sent, in bytes. Only when some of it has left is the client seen to
/// take something: so not more than the system holds itself (`server.rs`).
const UNSENT_MAX_BYTES: usize = 16 * 1024;

/// What a client is told that speaks HTTP here, as it would not understand an alert.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 53\r\nconnection: close\r\n\r\nThis port speaks TLS: connect to https:// or wss://.\n";

/// Why a handshake came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// It took longer than `handshake_timeout`.
    Timeout,
    /// The connection broke, or the client left.
    Broken,
    /// The client spoke HTTP without TLS.
    Plain,
    /// The client offered neither TLS 1.2 nor 1.3.
    Version,
    /// No cipher suite, group, signature or protocol in common.
    Incompatible,
    /// The client ended it with an alert: it does not trust the certificate, mostly.
    Refused,
    /// What came is not TLS, or against its rules.
    Malformed,
}

impl HandshakeFailure {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Timeout,
        Self::Broken,
        Self::Plain,
        Self::Version,
        Self::Incompatible,
        Self::Refused,
        Self::Malformed,
    ];

    /// Its name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Plain => "plain",
            Self::Version => "version",
            Self::Incompatible => "incompatible",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
        }
    }

    fn of(error: &io::Error) -> Self {
        use PeerIncompatible::{
            SignatureAlgorithmsExtensionRequired, Tls12NotOffered, Tls12NotOfferedOrEnabled,
        };
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            None => Self::Broken,
            Some(rustls::Error::PeerIncompatible(
                Tls12NotOffered
                | Tls12NotOfferedOrEnabled
                // Which came with 1.2, and is asked for first.
                | SignatureAlgorithmsExtensionRequired,
            )) => Self::Version,
            Some(rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol) => {
                Self::Incompatible
            }
            Some(rustls::Error::AlertReceived(_)) => Self::Refused,
            Some(_) => Self::Malformed,
        }
    }
}

impl Tls {
    /// Does the handshake with a client, until the deadline at most. The stream is boxed: a task moves what it is given, and so
    /// has room for it several times.
    pub async fn accept<S: Stream>(
        &self,
        mut stream: S,
        deadline: Instant,
    ) -> Result<Box<TlsStream<S>>, HandshakeFailure> {
        match timeout_at(deadline, speaks_http(&stream)).await {
            Err(_) => return Err(HandshakeFailure::Timeout),
            Ok(false) => {}
            Ok(true) => {
                let told = async {
                    stream.write_all(NOT_TLS).await?;
                    stream.shutdown().await
                };
                if matches!(timeout_at(deadline, told).await, Ok(Ok(()))) {
                    linger(&mut stream, deadline.saturating_duration_since(Instant::now())).await;
                }
                return Err(HandshakeFailure::Plain);
            }
        }
        let accepting =
            self.acceptor.accept_with(stream, |session| session.set_buffer_limit(Some(UNSENT_MAX_BYTES)));
        match timeout_at(deadline, accepting).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(e)) => {
                tracing::debug!("a TLS handshake failed: {e}");
                Err(HandshakeFailure::of(&e))
            }
            Err(_) => Err(HandshakeFailure::Timeout),
        }
    }
}

/// Whether a socket's first byte is that of an HTTP method; TLS begins with 22.
async fn speaks_http<S: Stream>(stream: &S) -> bool {
    let Some(socket) = (stream as &dyn Any).downcast_ref::<TcpStream>() else { return false };
    let mut first = [0];
    // What goes wrong here goes wrong again in the handshake.
    matches!(socket.peek(&mut first).await, Ok(1..)) && first[0].is_ascii_uppercase()
}
