//! What a server says of itself: ours in `causeway_build_info` of its `/metrics`. Of any other nothing is known.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::options::Serving;
use crate::target::Target;

const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// More of an answer is not read.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// A server's version, its store, and what its acks promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Identity {
    /// None if it was not asked.
    pub(crate) version: Option<String>,
    pub(crate) store: String,
    pub(crate) durability: String,
}

impl Identity {
    /// Of a server that is started so.
    pub(crate) fn of(serving: &Serving) -> Self {
        let (store, durability) = (serving.store.clone(), serving.durability.clone());
        Self { version: None, store, durability }
    }

    /// Asks the server at the URL.
    pub(crate) async fn ask(url: &str) -> Option<Self> {
        let target = Target::parse(url).ok()?;
        let answer = timeout(ANSWER_WITHIN, metrics(&target)).await.ok()?.ok()?;
        Self::read(&String::from_utf8_lossy(&answer))
    }

    fn read(metrics: &str) -> Option<Self> {
        let labels = metrics.lines().find_map(|line| line.strip_prefix("causeway_build_info{"))?;
        let label = |name: &str| {
            let value = labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\""))?;
            Some(value.split('"').next()?.to_owned())
        };
        Some(Self { version: label("version"), store: label("store")?, durability: label("durability")? })
    }
}

async fn metrics(target: &Target) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(target.address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", target.host);
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, store, durability } = self;
        let version = version.as_ref().map_or(String::new(), |version| format!(" {version}"));
        write!(f, "causeway{version}, store {store}, durability {durability}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_in_any_order() {
        let metrics = "# TYPE causeway_build_info gauge\n\
                       causeway_build_info{durability=\"full\",store=\"sqlite\",version=\"0.1.0\"} 1\nother 2\n";
        let found = Identity::read(metrics).expect("it is there");
        assert_eq!(found.to_string(), "causeway 0.1.0, store sqlite, durability full");
        assert_eq!(Identity::read("other{version=\"1\"} 1"), None);
        assert_eq!(Identity::read("causeway_build_info{version=\"1\"} 1"), None);
    }
}
