//! A server that asks for tokens, and the tokens that it takes.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::common::{Client, PATIENCE, Response, Server, encode, exchange, upgrade_request_with};
use crate::jwt::secret_file;
pub(crate) use crate::jwt::{SECRET, claims, now, token};

pub(crate) const SECOND: &str = "the second secret, 32 bytes or more";

/// See the module.
pub(crate) struct House {
    pub(crate) server: Server,
    dir: TempDir,
}

impl House {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// With one secret, no leeway, and more settings.
    pub(crate) fn with(settings: &[(&str, &str)]) -> Self {
        Self::with_leeway("0", settings)
    }

    pub(crate) fn with_leeway(seconds: &str, settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = secret_file(dir.path());
        let secret = ("auth-hs256-secret-file", secret.to_str().unwrap());
        let settings = [&[secret, ("auth-leeway-s", seconds)], settings].concat();
        House { server: Server::with("memory", &settings), dir }
    }

    /// Writes a file as those who rotate keys should: whole or not at all.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        let unfinished = self.dir.path().join("unfinished");
        fs::write(&unfinished, text).unwrap();
        fs::rename(unfinished, &path).unwrap();
        path
    }

    /// The answer to a handshake that is refused.
    #[track_caller]
    pub(crate) fn refused(&self, target: &str, headers: &str) -> Response {
        let request = upgrade_request_with(target, &format!("{headers}Connection: close\r\n"));
        let answer = exchange(self.server.tcp(), request.as_bytes()).unwrap();
        assert_ne!(answer.status, 101, "{target} {headers}");
        answer
    }

    /// The head of the answer to one that is not.
    #[track_caller]
    pub(crate) fn accepted(&self, target: &str, headers: &str) -> Response {
        use std::io::Write;
        let mut stream = self.server.stream();
        stream.write_all(upgrade_request_with(target, headers).as_bytes()).unwrap();
        let answer = Response::read(&mut stream).unwrap();
        assert_eq!(answer.status, 101, "{target} {headers}: {answer:?}");
        answer
    }

    pub(crate) fn try_connect(&self, channel: &str, token: &str) -> Result<Client, Response> {
        let headers = format!("Authorization: Bearer {token}\r\n");
        let request = upgrade_request_with(&format!("/?channel={}", encode(channel)), &headers);
        Client::try_request(self.server.addr, &request)
    }

    #[track_caller]
    pub(crate) fn connect(&self, channel: &str, token: &str) -> Client {
        self.try_connect(channel, token).unwrap_or_else(|answer| panic!("{answer:?}"))
    }

    /// A connection to `list` whose token expires in so many seconds, or more if the machine is too slow for that; its expiry and
    /// its token.
    pub(crate) fn passing(&self, mut seconds: f64) -> (Client, f64, String) {
        loop {
            let exp = now() + seconds;
            let token = token(json!({ "exp": exp }));
            if let Ok(client) = self.try_connect("list", &token) {
                return (client, exp, token);
            }
            seconds *= 2.0;
        }
    }

    /// What `/metrics` has of a sample.
    pub(crate) fn metric(&self, sample: &str) -> u64 {
        let token = token(json!({"channels": {"*": "read"}}));
        let answer = self.server.http_get(&format!("/metrics?token={token}"));
        let text = answer.text();
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {sample} in {text}")).parse().unwrap()
    }
}

/// Waits until it holds.
#[track_caller]
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}
