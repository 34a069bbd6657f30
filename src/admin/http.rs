//! The commands over HTTP, for those who cannot come to the socket: on a listener of its own, never on the relay's port, with
//! a token of its own. Answers are lines of JSON, the same as those of `--json`.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::commands::Commands;
use super::{Line, Problem, ProblemCode, ROWS_DEFAULT, ROWS_MAX, Request};
use crate::auth::is_same;
use crate::connection::Stream;
use crate::tls::Tls;

/// Connections at once; more are closed at once.
const CONNECTIONS_MAX: usize = 32;

/// How long a request's head may take to come.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What may be buffered of a request's head, in bytes.
const HEAD_MAX_BYTES: usize = 16 * 1024;

/// Lines that are written together.
const BATCH_LINES: usize = 64;

/// Pause after the system has refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The shortest token, in bytes.
const TOKEN_MIN_BYTES: usize = 16;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What a request must show, as `Authorization: Bearer TOKEN`.
pub struct Token(Box<[u8]>);

impl Token {
    /// Reads the token of a file: its only line, at least 16 printable ASCII characters.
    pub fn read(path: &Path) -> Result<Self, String> {
        let failed = |problem: String| format!("admin_token_file {}: {problem}", path.display());
        let text = fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        let token = text.trim();
        if token.len() < TOKEN_MIN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(failed(format!(
                "a token is at least {TOKEN_MIN_BYTES} printable characters on one line"
            )));
        }
        Ok(Token(token.as_bytes().into()))
    }

    fn is(&self, shown: &[u8]) -> bool {
        is_same(&self.0, shown)
    }
}

/// The listener, before there is anything to answer from.
pub struct AdminListener {
    listener: TcpListener,
    token: Token,
    /// The address with the port that it has.
    pub address: SocketAddr,
}

/// The listener at work; it ends when this is dropped.
#[derive(Debug)]
pub struct AdminHttp {
    task: JoinHandle<()>,
}

impl Drop for AdminHttp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl AdminListener {
    /// Binds the address.
    pub async fn bind(address: SocketAddr, token: Token) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(AdminListener { listener, token, address })
    }

    /// Begins to answer, over TLS if there is any.
    pub fn serve(self, commands: Commands, tls: Option<Arc<Tls>>) -> AdminHttp {
        let AdminListener { listener, token, .. } = self;
        let token = Arc::new(token);
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let task = tokio::spawn(async move {
            loop {
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(e) => {
                        tracing::warn!("cannot accept an operator's connection: {e}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let Ok(permit) = connections.clone().try_acquire_owned() else {
                    tracing::warn!("refused an operator's connection: {CONNECTIONS_MAX} are open");
                    continue;
                };
                let (commands, token, tls) = (commands.clone(), token.clone(), tls.clone());
                tokio::spawn(async move {
                    let _permit = permit;
                    match tls {
                        None => serve_connection(stream, commands, token).await,
                        Some(tls) => match tls.accept(stream, Instant::now() + HEAD_TIMEOUT).await {
                            Ok(stream) => serve_connection(stream, commands, token).await,
                            Err(e) => tracing::debug!("an operator's TLS handshake failed: {}", e.as_str()),
                        },
                    }
                });
            }
        });
        AdminHttp { task }
    }
}

/// Answers one request.
async fn serve_connection(stream: impl Stream, commands: Commands, token: Arc<Token>) {
    let service = service_fn(|request| answer(&commands, &token, request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(e) = served {
        tracing::debug!("an operator's connection broke: {e}");
    }
}

async fn answer(
    commands: &Commands,
    token: &Token,
    request: hyper::Request<Incoming>,
) -> Result<Answer, Infallible> {
    let shown = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    if !shown.and_then(|shown| shown.strip_prefix(b"Bearer ")).is_some_and(|shown| token.is(shown)) {
        let mut refused =
            problem(StatusCode::UNAUTHORIZED, "unauthorized", "Authorization: Bearer TOKEN is wanted");
        refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return Ok(refused);
    }
    let command = match command(request.method(), request.uri().path(), request.uri().query()) {
        Ok(command) => command,
        Err(refused) => return Ok(refused.answer()),
    };
    Ok(match commands.start(command.clone()).await {
        Ok(told) => lines(&command, told).await,
        Err(e) => problem(StatusCode::SERVICE_UNAVAILABLE, "busy", &format!("cannot start a thread: {e}")),
    })
}

/// Why a request is no command.
#[derive(Debug, PartialEq)]
enum Refused {
    NotFound,
    /// The methods that there are.
    Method(&'static str),
    Malformed(String),
}

impl Refused {
    fn answer(self) -> Answer {
        match self {
            Refused::NotFound => problem(StatusCode::NOT_FOUND, "not_found", "there is nothing here"),
            Refused::Method(allowed) => {
                let message = format!("here is {allowed}");
                let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "malformed", &message);
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
                answer
            }
            Refused::Malformed(message) => problem(StatusCode::BAD_REQUEST, "malformed", &message),
        }
    }
}

/// What a request asks for. A name is one segment of the path, percent-encoded.
fn command(method: &Method, path: &str, query: Option<&str>) -> Result<Request, Refused> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
    let path: Result<Vec<String>, _> = path.split('/').skip(1).map(decoded).collect();
    let path = path.map_err(|_| Refused::NotFound)?;
    let mut queried = Vec::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(&value.replace('+', " "));
        queried.push((key, value.map_err(|_| Refused::Malformed(format!("{key}: not UTF-8")))?));
    }
    let get = |request: Request| match method {
        &Method::GET => Ok(request),
        _ => Err(Refused::Method("GET")),
    };
    match &path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["admin", "channels"] => get(Request::Channels),
        ["admin", "channels", name] => match *method {
            Method::GET => Ok(Request::Inspect { channel: (*name).to_owned() }),
            Method::DELETE => Ok(Request::Delete { channel: (*name).to_owned() }),
            _ => Err(Refused::Method("GET, DELETE")),
        },
        ["admin", "channels", name, "rows", table] => {
            let (mut limit, mut after) = (ROWS_DEFAULT, None);
            for (key, value) in queried {
                match key {
                    "limit" => {
                        let number = value.parse().ok().filter(|limit| (1..=ROWS_MAX).contains(limit));
                        let wrong =
                            || Refused::Malformed(format!("limit: it is a number from 1 to {ROWS_MAX}"));
                        limit = number.ok_or_else(wrong)?;
                    }
                    "after" => after = Some(value),
                    _ => return Err(Refused::Malformed(format!("{key}: there is limit and after"))),
                }
            }
            get(Request::Rows { channel: (*name).to_owned(), table: (*table).to_owned(), limit, after })
        }
        ["admin", "channels", name, "rebuild"] => match *method {
            Method::POST => Ok(Request::Rebuild { channel: (*name).to_owned() }),
            _ => Err(Refused::Method("POST")),
        },
        ["admin", "verify"] => {
            let channels = queried.into_iter().filter(|(key, _)| *key == "channel").map(|(_, name)| name);
            get(Request::Verify { channels: channels.collect() })
        }
        _ => Err(Refused::NotFound),
    }
}

/// Answers with the command's lines as they come; the first one may be an error of the whole.
async fn lines(command: &Request, mut told: mpsc::Receiver<Line>) -> Answer {
    let first = told.recv().await;
    let of_one = match command {
        Request::Inspect { .. } | Request::Rows { .. } | Request::Delete { .. } | Request::Rebuild { .. } => {
            true
        }
        Request::Backup { .. } | Request::Verify { .. } | Request::Channels => false,
    };
    if let Some(Line::Problem(Problem { code, problem: message, .. })) = &first {
        let refused = match code {
            ProblemCode::NotFound if of_one => Some((StatusCode::NOT_FOUND, "not_found")),
            ProblemCode::Failed if of_one => Some((StatusCode::INTERNAL_SERVER_ERROR, "storage")),
            ProblemCode::NoSchema => Some((StatusCode::CONFLICT, "no_schema")),
            ProblemCode::Busy => Some((StatusCode::SERVICE_UNAVAILABLE, "busy")),
            ProblemCode::NotFound | ProblemCode::Failed => None,
        };
        if let Some((status, code)) = refused {
            // Whoever is answered may ask again at once: so not before the command has come to its end.
            while told.recv().await.is_some() {}
            return problem(status, code, message);
        }
    }
    let mut answer = Response::new(Lines { first, told }.boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer
}

/// A body of lines.
struct Lines {
    first: Option<Line>,
    told: mpsc::Receiver<Line>,
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut lines: Vec<Line> = self.first.take().into_iter().collect();
        if lines.is_empty() && ready!(self.told.poll_recv_many(cx, &mut lines, BATCH_LINES)) == 0 {
            return Poll::Ready(None);
        }
        let mut text = Vec::new();
        for line in &lines {
            // Nothing in a line can fail to be JSON.
            let _ = serde_json::to_writer(&mut text, line);
            text.push(b'\n');
        }
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}

fn problem(status: StatusCode, code: &str, message: &str) -> Answer {
    let body = serde_json::json!({ "code": code, "message": message }).to_string();
    let mut answer = Response::new(Full::from(body).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_commands() {
        let get = |path: &str, query| command(&Method::GET, path, query);
        assert_eq!(get("/admin/channels", None), Ok(Request::Channels));
        assert_eq!(get("/admin/channels/a%2Fb", None), Ok(Request::Inspect { channel: "a/b".into() }));
        assert_eq!(
            command(&Method::DELETE, "/admin/channels/..", None),
            Ok(Request::Delete { channel: "..".into() })
        );
        assert_eq!(
            command(&Method::POST, "/admin/channels/rebuild/rebuild", None),
            Ok(Request::Rebuild { channel: "rebuild".into() })
        );
        assert_eq!(get("/admin/channels/a/rebuild", None), Err(Refused::Method("POST")));
        let rows = |limit, after: Option<&str>| Request::Rows {
            channel: "c".into(),
            table: "t/u".into(),
            limit,
            after: after.map(str::to_owned),
        };
        assert_eq!(get("/admin/channels/c/rows/t%2fu", None), Ok(rows(ROWS_DEFAULT, None)));
        assert_eq!(
            get("/admin/channels/c/rows/t%2fu", Some("limit=7&after=%20k+")),
            Ok(rows(7, Some(" k ")))
        );
        for query in ["limit=0", "limit=100001", "limit=x", "limit", "from=1", "after=%ff"] {
            let refused = get("/admin/channels/c/rows/t", Some(query));
            assert!(matches!(refused, Err(Refused::Malformed(_))), "{query}: {refused:?}");
        }
        let some = Request::Verify { channels: vec!["a".into(), "b".into()] };
        assert_eq!(get("/admin/verify", Some("channel=a&channel=b")), Ok(some));
        for path in
            ["/", "/admin", "/admin/", "/admin/channels/a/", "/admin/channels/a/rows", "/admin/channels/%ff"]
        {
            assert_eq!(get(path, None), Err(Refused::NotFound), "{path}");
        }
        for (path, allowed) in
            [("/admin/channels", "GET"), ("/admin/channels/a", "GET, DELETE"), ("/admin/verify", "GET")]
        {
            assert_eq!(command(&Method::POST, path, None), Err(Refused::Method(allowed)), "{path}");
        }
    }

    /// Else whoever asks one after the other could be told that too many ask at once.
    #[tokio::test]
    async fn a_problem_is_answered_when_its_command_has_ended() {
        let (tell, told) = mpsc::channel(2);
        let missing = Problem { channel: None, code: ProblemCode::NotFound, problem: "nothing".into() };
        tell.try_send(Line::Problem(missing)).unwrap();
        let request = Request::Inspect { channel: "c".into() };
        let answer = tokio::spawn(async move { lines(&request, told).await.status() });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!answer.is_finished());
        drop(tell);
        assert_eq!(answer.await.unwrap(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn only_the_token_is_the_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "0123456789abcdef\n").unwrap();
        let token = Token::read(file.path()).unwrap();
        assert!(token.is(b"0123456789abcdef"));
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF", "1123456789abcdef"] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
        for bad in ["", "short", "0123456789 abcdef", "0123456789abcdef\n0123456789abcdef", "0123456789abcdé"]
        {
            fs::write(&file, bad).unwrap();
            assert!(Token::read(file.path()).is_err_and(|e| e.contains("admin_token_file")), "{bad:?}");
        }
    }
}
