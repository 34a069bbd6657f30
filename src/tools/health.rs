//! `causeway health`: asks the server how it is. For containers, whose images have nothing else that could.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use causeway::config::Config;
use causeway::server::resolve;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
};

/// How long each step may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The longest answer that is read, in bytes.
const ANSWER_MAX_BYTES: u64 = 4096;

/// Asks the server that listens where the configuration says. Gives the first line of the answer's body.
pub(super) fn ask(config: &Config, path: &str) -> Result<String, String> {
    let mut address = resolve(&config.listen).map_err(|e| format!("listen {:?}: {e}", config.listen))?;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            _ if address.is_ipv4() => IpAddr::from(Ipv4Addr::LOCALHOST),
            _ => IpAddr::from(Ipv6Addr::LOCALHOST),
        });
    }
    let url = format!("http{}://{address}{path}", if config.tls_cert.is_some() { "s" } else { "" });
    let asked = TcpStream::connect_timeout(&address, TIMEOUT).and_then(|stream| {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        match config.tls_cert {
            Some(_) => exchange(over_tls(stream, address.ip())?, &request),
            None => exchange(stream, &request),
        }
    });
    let answer = asked.map_err(|e| format!("{url}: {e}; is the server running?"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let told = body.lines().next().unwrap_or_default().to_owned();
    match head.split(' ').nth(1) {
        Some("200") => Ok(told),
        Some(status) => Err(format!("{url}: {status} {told}")),
        None => Err(format!("{url}: no HTTP came back")),
    }
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn over_tls(stream: TcpStream, address: IpAddr) -> io::Result<impl Read + Write> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let client = ClientConnection::new(Arc::new(config), ServerName::IpAddress(address.into()));
    Ok(StreamOwned::new(client.map_err(io::Error::other)?, stream))
}

/// Takes whatever certificate is shown. That is right here and nowhere else: what is asked is an address of this machine,
/// for which no certificate is made; nothing secret is sent there, and whoever could answer in the server's place could
/// have the container's check say what they like anyway. A certificate that has expired is for an alert: it is no
/// reason to restart the server, which is what a failed check leads to.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
