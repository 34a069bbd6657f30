//! HTTP on the relay's port: the upgrade to a WebSocket, health, metrics, and a page that says what this is.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use causeway_storage::{StoreError, names};
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    WWW_AUTHENTICATE,
};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tracing::Instrument;

use crate::auth::{self, Auth, Denied, Grant, Session};
use crate::connection::{self, Origin, Stream};
use crate::limits::{Admission, Limit, Limits, Refused};
use crate::metrics::{AuthAt, Metrics, Now};
use crate::protocol::Code;
use crate::relay::{JoinError, Relay};
use crate::request_id::{RequestId, X_REQUEST_ID};

type Answer = Response<Full<Bytes>>;

/// What requests are answered from.
pub struct Routes {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The keys, where clients have to show tokens.
    pub auth: Option<Arc<Auth>>,
    /// What clients may take.
    pub limits: Arc<Limits>,
    /// The relay, once there is a store.
    pub relay: OnceLock<Arc<Relay>>,
}

impl Routes {
    /// What the request's token grants; `None` where nobody has to show one.
    fn grant(&self, request: &Request<Body>) -> Result<Option<Grant>, Denied> {
        let Some(auth) = &self.auth else { return Ok(None) };
        let token = auth::request::token(request.headers(), request.uri().query())?.ok_or(Denied::Missing)?;
        auth.verify(&token, auth::now_ms()).map(Some)
    }

    fn session(&self, grant: Option<&Grant>, channel: &str) -> Result<Session, Denied> {
        match (&self.auth, grant) {
            (Some(auth), Some(grant)) => Session::new(auth, grant, channel),
            (Some(_), None) => Err(Denied::Missing),
            (None, _) => Ok(Session::default()),
        }
    }

    /// Whether the metrics may name channels: to those who may read every one.
    fn may_see_channels(&self, request: &Request<Body>) -> Result<bool, Denied> {
        match self.grant(request) {
            Ok(grant) => Ok(grant.is_none_or(|grant| grant.channels.is_all())),
            Err(Denied::Missing) => Ok(false),
            Err(denied) => Err(denied),
        }
    }

    fn denied(&self, denied: Denied) -> Answer {
        self.metrics.denied(AuthAt::Request, denied);
        tracing::debug!(reason = denied.as_str(), "refused a request");
        if denied == Denied::Channel {
            return problem(StatusCode::FORBIDDEN, Code::Forbidden.as_str(), &denied.to_string());
        }
        let mut answer = problem(StatusCode::UNAUTHORIZED, Code::Unauthorized.as_str(), &denied.to_string());
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        answer
    }
}

/// Answers the one request of a connection over an `S` from `peer`; `admission` lives as long as the WebSocket that it becomes.
/// If it becomes none it is closed, so that who may make so many connections may ask for so much and no more.
pub async fn answer<S: Stream>(
    routes: Arc<Routes>,
    request: Request<Body>,
    peer: SocketAddr,
    admission: Arc<Admission>,
) -> Result<Answer, Infallible> {
    let id = RequestId::of(request.headers());
    // Never the query: it may hold a token.
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut answer = match routes.limits.admit_request(&admission, request.headers()) {
        Ok(client) => {
            route::<S>(&routes, request, Origin { peer, request: id.clone(), admission, client }).await
        }
        Err(refused) => too_many(&refused),
    };
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    routes.metrics.answered(answer.status());
    tracing::debug!(request = %id, %peer, %method, ?path, status = answer.status().as_u16(), "answered");
    answer.headers_mut().insert(X_REQUEST_ID, id.header());
    Ok(answer)
}

async fn route<S: Stream>(routes: &Routes, request: Request<Body>, origin: Origin) -> Answer {
    let relay = routes.relay.get().cloned();
    let upgrade = fastwebsockets::upgrade::is_upgrade_request(&request);
    match request.uri().path() {
        "/" | "/sync" | "/ws" if upgrade => match relay {
            Some(relay) if !relay.draining.has_begun() => connect::<S>(routes, relay, request, origin).await,
            Some(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the server is going away"),
            None => problem(StatusCode::SERVICE_UNAVAILABLE, "storage", "the server is starting"),
        },
        _ if !matches!(*request.method(), Method::GET | Method::HEAD) => {
            problem(StatusCode::METHOD_NOT_ALLOWED, "malformed", "only GET is served here")
        }
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match relay {
            Some(relay) if !relay.draining.has_begun() && !relay.lacks_bus() => {
                text(StatusCode::OK, "ready\n")
            }
            Some(relay) if !relay.draining.has_begun() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "other nodes cannot be heard\n")
            }
            Some(_) => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            None => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        },
        "/metrics" => match routes.may_see_channels(&request) {
            Ok(named) => metrics(routes, relay, named).await,
            Err(denied) => routes.denied(denied),
        },
        "/" | "/sync" | "/ws" => text(StatusCode::OK, WELCOME),
        _ => problem(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is nothing here; connect a WebSocket to /?channel=NAME",
        ),
    }
}

const WELCOME: &str = "This is Causeway, a relay for local-first apps.\n\n\
    Connect a WebSocket to /?channel=NAME on this address and send\n\
    {\"type\":\"pull\",\"siteId\":\"me\",\"version\":0,\"channel\":\"NAME\"}\n\n\
    /healthz  alive\n/readyz   ready for clients\n/metrics  Prometheus metrics\n";

/// Makes the connection a member of its channel, and a WebSocket.
async fn connect<S: Stream>(
    routes: &Routes,
    relay: Arc<Relay>,
    mut request: Request<Body>,
    mut origin: Origin,
) -> Answer {
    let bad = |message: &str| problem(StatusCode::BAD_REQUEST, "malformed", message);
    if *request.method() != Method::GET {
        return bad("a WebSocket starts with GET");
    }
    let grant = match routes.grant(&request) {
        Ok(grant) => grant,
        Err(denied) => return routes.denied(denied),
    };
    if !relay.limits.allows_origin(request.headers()) {
        return problem(StatusCode::FORBIDDEN, "forbidden", "this web page may not connect here");
    }
    let channel = match channel_of(request.uri().query()) {
        Ok(channel) => channel,
        Err(message) => return bad(&message),
    };
    let session = match routes.session(grant.as_ref(), &channel) {
        Ok(session) => session,
        Err(denied) => return routes.denied(denied),
    };
    let subprotocol = auth::request::subprotocol(request.headers());
    let (mut response, upgraded) = match fastwebsockets::upgrade::upgrade(&mut request) {
        Ok(upgrade) => upgrade,
        Err(fastwebsockets::WebSocketError::InvalidSecWebsocketVersion) => {
            let mut answer =
                problem(StatusCode::UPGRADE_REQUIRED, "malformed", "Sec-WebSocket-Version must be 13");
            answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            return answer;
        }
        Err(e) => return bad(&e.to_string()),
    };
    if let Some(subject) = session.subject()
        && let Err(refused) = relay.limits.admit_subject(&mut origin.client, subject)
    {
        return too_many(&refused);
    }
    let member = match relay.join(&channel, session).await {
        Ok(member) => member,
        Err(JoinError::Store(StoreError::BadName { .. })) => return bad("channel: not a channel name"),
        Err(JoinError::Full) => {
            relay.metrics.limited(Limit::ConnectionsPerChannel);
            let message = "the channel has as many connections as it may; come back later";
            return problem(StatusCode::SERVICE_UNAVAILABLE, "quota_exceeded", message);
        }
        Err(JoinError::Store(_)) => {
            return problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "storage",
                "the channel cannot be opened; come back later",
            );
        }
    };
    let span = tracing::debug_span!("connection", id = member.outbox.id(), request = %origin.request);
    let serve = async move {
        match upgraded.await {
            Ok(socket) => match socket.into_inner().into_inner().downcast::<TokioIo<S>>() {
                Ok(parts) => {
                    connection::serve(relay, parts.io.into_inner(), parts.read_buf, member, origin).await
                }
                Err(other) => {
                    let _: Upgraded = other;
                    tracing::error!("a connection is not what the server accepted: a bug, please report it");
                }
            },
            Err(e) => tracing::debug!("the handshake broke: {e}"),
        }
    };
    tokio::spawn(serve.instrument(span));
    if let Some(subprotocol) = subprotocol {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    response.map(|_| Full::default())
}

/// The channel of a query string: `default` if it names none, as in the guide.
fn channel_of(query: Option<&str>) -> Result<String, String> {
    let mut pairs =
        query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let encoded = match pairs.find(|(key, _)| percent_decode_str(key).eq(b"channel".iter().copied())) {
        None | Some((_, "")) => return Ok("default".into()),
        Some((_, encoded)) => encoded.replace('+', " "),
    };
    let channel = percent_decode_str(&encoded).decode_utf8().map_err(|_| "channel: not UTF-8".to_owned())?;
    names::check(&channel)
        .map_err(|_| "channel: a name is 1 to 255 bytes of UTF-8 without control characters".to_owned())?;
    Ok(channel.into_owned())
}

/// Everything that is counted; with the busiest channels one by one if they may be `named`.
async fn metrics(routes: &Routes, relay: Option<Arc<Relay>>, named: bool) -> Answer {
    let metrics = &routes.metrics;
    if let Some(auth) = &routes.auth {
        let (keys, stale) = auth.state();
        metrics.auth_keys(keys, stale);
    }
    let now = match relay {
        Some(relay) => {
            let max_channels = if named { relay.config.metrics_channels } else { 0 };
            let shards = relay.shards.stats(max_channels).await;
            Now {
                silent: relay.shards.count() - shards.len(),
                shards,
                max_channels,
                ready: !relay.draining.has_begun() && !relay.lacks_bus(),
                queue_bytes: relay.shards.queue_bytes(),
                pages_reading: relay.config.page_readers - relay.page_permits.available_permits(),
            }
        }
        None => Now::default(),
    };
    match metrics.encode(now) {
        Ok(body) => {
            let mut answer = text(StatusCode::OK, body);
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            answer
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the metrics: {e}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body.into())
}

fn problem(status: StatusCode, code: &str, message: &str) -> Answer {
    let body = serde_json::json!({ "code": code, "message": message }).to_string();
    with_type(status, "application/json", body.into())
}

/// The answer to a client that is, or makes, one connection too many.
fn too_many(refused: &Refused) -> Answer {
    let (code, message, retry_after_s) = match refused {
        Refused::Full(limit) => ("quota_exceeded", format!("too many connections ({limit})"), 1),
        Refused::TooFast(limited) => {
            let limit = limited.limit;
            (
                "rate_limited",
                format!("too many new connections ({limit})"),
                limited.retry_after_ms().div_ceil(1_000),
            )
        }
    };
    let mut answer = problem(StatusCode::TOO_MANY_REQUESTS, code, &message);
    answer.headers_mut().insert(RETRY_AFTER, retry_after_s.into());
    answer
}

fn with_type(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
mod tests {
    use super::channel_of;

    #[test]
    fn a_query_names_a_channel_or_the_default() {
        assert_eq!(channel_of(None).unwrap(), "default");
        assert_eq!(channel_of(Some("x=1&channel=")).unwrap(), "default");
        assert_eq!(channel_of(Some("channel&channel=x")).unwrap(), "default");
        assert_eq!(channel_of(Some("%63hannel=x")).unwrap(), "x");
        assert_eq!(channel_of(Some("channel=a%2Fb+c&channel=d")).unwrap(), "a/b c");
        assert!(channel_of(Some("channel=%ff")).is_err());
        assert!(channel_of(Some("channel=%00")).is_err());
        assert!(channel_of(Some(&format!("channel={}", "x".repeat(256)))).is_err());
    }
}
