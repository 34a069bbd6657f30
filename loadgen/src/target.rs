//! The server under test: its URL, taken apart.

use std::net::{SocketAddr, ToSocketAddrs};

/// Where the server listens and what to ask it for.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// As in the URL, for the `Host` header.
    pub(crate) host: String,
    /// Path and query up to where the channel goes.
    path: String,
}

impl Target {
    /// Parses `ws://host[:port][/path][?query]` and resolves the host once.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("ws://").ok_or_else(|| format!("{url}: only ws:// is known here"))?;
        let (host, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        if path.contains("channel=") {
            return Err("the scenario chooses the channels: use --channel-prefix, not the URL".into());
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port { host.to_owned() } else { format!("{host}:80") };
        let address = with_port
            .to_socket_addrs()
            .map_err(|e| format!("{host}: {e}"))?
            .next()
            .ok_or_else(|| format!("{host}: no address"))?;
        Ok(Self { address, host: host.to_owned(), path })
    }

    /// The request's path and query for a channel.
    pub(crate) fn path_of(&self, channel: &str) -> String {
        let mut out = self.path.clone();
        out.push(if out.contains('?') { '&' } else { '?' });
        out.push_str("channel=");
        for byte in channel.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_apart() {
        let target = Target::parse("ws://127.0.0.1:8081").expect("a good URL");
        assert_eq!(
            (target.address.port(), target.path_of("a b/é").as_str()),
            (8081, "/?channel=a%20b%2F%C3%A9")
        );
        let target = Target::parse("ws://127.0.0.1/sync?token=x").expect("a good URL");
        assert_eq!((target.address.port(), target.path_of("c").as_str()), (80, "/sync?token=x&channel=c"));
        assert!(Target::parse("wss://127.0.0.1/").is_err());
        assert!(Target::parse("ws://127.0.0.1/?channel=x").is_err());
    }
}
