//! `causeway health`: asks the server how it is. For containers, whose images have nothing else that could.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::time::Duration;

use causeway::config::Config;
use causeway::server::resolve;

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
    let asked = TcpStream::connect_timeout(&address, TIMEOUT).and_then(|mut stream| {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    });
    let answer = asked.map_err(|e| format!("http://{address}{path}: {e}; is the server running?"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let told = body.lines().next().unwrap_or_default().to_owned();
    match head.split(' ').nth(1) {
        Some("200") => Ok(told),
        Some(status) => Err(format!("http://{address}{path}: {status} {told}")),
        None => Err(format!("http://{address}{path}: no HTTP came back")),
    }
}
