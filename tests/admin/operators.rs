//! A server with a listener for operators, and a client of that.

use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::common::{Place, Response, Server, exchange, lines};

pub(crate) const TOKEN: &str = "a-token-of-the-operators";

/// The operators' listener of a server, and its address.
pub(crate) struct Operators {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
}

impl Operators {
    pub(crate) fn start(place: &Place) -> Self {
        Self::start_with(place, &[])
    }

    /// The same with more flags, each a name without dashes and a value.
    pub(crate) fn start_with(place: &Place, settings: &[(&str, &str)]) -> Self {
        let file = place.write("token", &format!("{TOKEN}\n"));
        let admin = [("admin-listen", "127.0.0.1:0"), ("admin-token-file", &file)];
        let server = place.serve_with(&[&admin, settings].concat());
        Operators { address: server.operators(), server }
    }

    pub(crate) fn ask_with(&self, method: &str, target: &str, headers: &str) -> Response {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        exchange(TcpStream::connect(self.address).unwrap(), request.as_bytes()).unwrap()
    }

    pub(crate) fn ask(&self, method: &str, target: &str) -> Response {
        self.ask_with(method, target, &format!("Authorization: Bearer {TOKEN}\r\n"))
    }

    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Vec<Value> {
        self.succeed("GET", target)
    }

    /// The lines of an answer, which comes in chunks.
    #[track_caller]
    pub(crate) fn succeed(&self, method: &str, target: &str) -> Vec<Value> {
        let answer = self.ask(method, target);
        assert_eq!(answer.status, 200, "{method} {target}: {}", answer.text());
        lines(&unchunked(&answer.text()))
    }
}

fn unchunked(text: &str) -> String {
    let (mut rest, mut whole) = (text, String::new());
    loop {
        let (length, after) = rest.split_once("\r\n").unwrap_or_else(|| panic!("no chunk in {rest:?}"));
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.push_str(&after[..length]);
        rest = &after[length + 2..];
    }
}
