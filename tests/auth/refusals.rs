//! Every refusal before the upgrade, and what is let in.

use serde_json::{Value, json};

use crate::common::{Server, cell};
use crate::house::{House, SECOND, now, token};
use crate::jwt::{Signer, base64url, hs256, sign, sign_with};

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[test]
fn every_way_to_send_a_token_is_taken() {
    let house = House::new();
    let token = token(json!({}));
    for (target, headers) in [
        ("/?channel=list".to_owned(), bearer(&token)),
        (format!("/?channel=list&token={token}"), String::new()),
        (format!("/sync?token={token}&channel=list"), String::new()),
        ("/ws?channel=list".into(), format!("Sec-WebSocket-Protocol: causeway.bearer.{token}\r\n")),
        (format!("/?channel=list&token={token}"), bearer(&token)),
    ] {
        house.accepted(&target, &headers);
    }
    let mut client = house.connect("list", &token);
    client.update(1, &[cell("k", "c", "v", 1)]);
    assert_eq!(client.pull_rows(0).len(), 1);
}

#[test]
fn a_bad_token_is_answered_401_with_the_kind_of_its_badness() {
    let house = House::with(&[("auth-issuer", "us"), ("auth-audience", "relay")]);
    let ours = |more: Value| {
        let mut all = json!({"iss": "us", "aud": ["relay"]});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        token(all)
    };
    house.accepted("/?channel=list", &bearer(&ours(json!({}))));
    let claims = json!({"sub": "ann", "exp": now() + 60.0, "channels": {"list": "write"}});
    let good = ours(json!({}));
    let cases = [
        ("missing", String::new()),
        ("missing", "Authorization: Basic eDp5\r\n".into()),
        ("ambiguous", bearer("a") + &bearer("b")),
        ("malformed", bearer("nonsense")),
        ("malformed", bearer("a.b.c")),
        ("malformed", bearer(&sign(Signer { alg: "none", key: b"" }, &claims))),
        (
            "malformed",
            bearer(&sign_with(hs256(crate::house::SECRET.as_bytes()), json!({"crit": ["x"]}), &claims)),
        ),
        ("malformed", bearer(&format!("{good}="))),
        ("signature", bearer(&sign(hs256(SECOND.as_bytes()), &claims))),
        ("signature", bearer(&sign(Signer { alg: "HS512", key: crate::house::SECRET.as_bytes() }, &claims))),
        ("claims", bearer(&ours(json!({ "sub": null })))),
        ("claims", bearer(&ours(json!({ "exp": null })))),
        ("claims", bearer(&ours(json!({ "channels": ["list"] })))),
        ("issuer", bearer(&ours(json!({"iss": "them"})))),
        ("audience", bearer(&ours(json!({"aud": "them"})))),
        ("not_yet_valid", bearer(&ours(json!({"nbf": now() + 60.0})))),
        ("expired", bearer(&ours(json!({"exp": now() - 0.001})))),
        ("expired", bearer(&ours(json!({"exp": -1e300})))),
    ];
    let mut messages = std::collections::BTreeMap::new();
    for (reason, headers) in &cases {
        let answer = house.refused("/?channel=list", headers);
        assert_eq!(answer.status, 401, "{reason}: {}", answer.text());
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let body: Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!(body["code"], "unauthorized");
        let message = body["message"].as_str().unwrap().to_owned();
        assert_eq!(messages.entry(*reason).or_insert(message.clone()), &message, "one message a kind");
    }
    let kinds: std::collections::BTreeSet<_> = messages.values().collect();
    assert_eq!(kinds.len(), messages.len(), "a message of its own for each kind: {messages:?}");
    // The query's and the subprotocol's are no other.
    assert_eq!(house.refused("/?channel=list&token=nonsense", "").status, 401);
    assert_eq!(house.refused(&format!("/?channel=list&token={good}"), &bearer("x")).status, 401);
    let protocol = format!("Sec-WebSocket-Protocol: causeway, causeway.bearer.{}\r\n", base64url("x"));
    assert_eq!(house.refused("/?channel=list", &protocol).status, 401);
    // A channel's name is not looked at before the token.
    assert_eq!(house.refused("/?channel=%00", "").status, 401);
    assert_eq!(house.refused("/?channel=%00", &bearer(&good)).status, 400);
}

#[test]
fn each_refusal_is_counted_by_its_reason() {
    let house = House::new();
    let sample = |reason| format!("causeway_auth_denied_total{{at=\"request\",reason=\"{reason}\"}}");
    house.refused("/?channel=list", "");
    house.refused("/?channel=list", "");
    house.refused("/?channel=other", &bearer(&token(json!({}))));
    assert_eq!(house.metric(&sample("missing")), 2);
    assert_eq!(house.metric(&sample("channel")), 1);
    assert_eq!(house.metric(&sample("expired")), 0);
    assert_eq!(house.metric("causeway_auth_keys"), 1);
}

#[test]
fn a_channel_outside_the_grant_is_answered_403() {
    let house = House::new();
    let token =
        token(json!({"channels": {"team-7/*": "write", "news": "read", "a\\*b": "read", "日*": "read"}}));
    for channel in ["team-7/", "team-7/a/b", "news", "a*b", "日本"] {
        assert_eq!(house.connect(channel, &token).connected["channel"], channel);
    }
    for channel in ["team-7", "team-77/x", "x/team-7/x", "News", "newsletter", "axb", "default", "*"] {
        let answer =
            house.try_connect(channel, &token).err().unwrap_or_else(|| panic!("{channel} is let in"));
        assert_eq!(answer.status, 403, "{channel}");
        let answer = house.refused(&format!("/?channel={}", crate::common::encode(channel)), &bearer(&token));
        let body: Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!(body["code"], "forbidden", "{channel}");
    }
    // No channel in the URL is the channel `default`, and has to be granted as such.
    assert_eq!(house.refused("/", &bearer(&token)).status, 403);
    assert_eq!(house.refused("/?channel=team-7", &bearer(&token)).status, 403);
}

#[test]
fn an_offered_subprotocol_is_selected_as_browsers_demand() {
    let house = House::new();
    let token = token(json!({}));
    let selected = |offers: &[&str]| {
        let headers: String =
            offers.iter().map(|offer| format!("Sec-WebSocket-Protocol: {offer}\r\n")).collect();
        let answer = house.accepted("/?channel=list", &(headers + &bearer(&token)));
        let count = answer.head.to_lowercase().matches("sec-websocket-protocol").count();
        assert!(count <= 1, "{}", answer.head);
        answer.header("sec-websocket-protocol").map(str::to_owned)
    };
    let offer = format!("causeway.bearer.{token}");
    assert_eq!(selected(&[&format!("causeway, {offer}")]).as_deref(), Some("causeway"));
    assert_eq!(selected(&[&offer, "causeway"]).as_deref(), Some("causeway"));
    assert_eq!(selected(&[&format!("chat, {offer}")]).as_deref(), Some(&*offer));
    assert_eq!(selected(&["chat"]), None);
    assert_eq!(selected(&[]), None);
    // The same where nobody asks for the token that is sent.
    let open = Server::start("memory");
    let headers = format!("Sec-WebSocket-Protocol: {offer}, causeway\r\n");
    let request = crate::common::upgrade_request_with("/?channel=list", &headers);
    use std::io::Write;
    let mut stream = open.stream();
    stream.write_all(request.as_bytes()).unwrap();
    let answer = crate::common::Response::read(&mut stream).unwrap();
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, Some("causeway")));
}

#[test]
fn health_and_metrics_need_no_token_but_names_do() {
    let house = House::new();
    for target in ["/healthz", "/readyz", "/"] {
        assert_eq!(house.server.http_get(target).status, 200, "{target}");
    }
    let get = |token: &str| {
        let request =
            format!("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}\r\n", bearer(token));
        house.server.http(&request)
    };
    assert_eq!(get("x").status, 401);
    // Channels are named to those who may read every one.
    let all = json!({"channels": {"*": "read"}});
    let _reader = house.connect("team-7/secret plan", &token(all.clone()));
    for (answer, named) in [
        (house.server.http_get("/metrics"), false),
        (get(&token(json!({}))), false),
        (get(&token(json!({"channels": {"*-": "write"}}))), false),
        (get(&token(all)), true),
    ] {
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains("causeway_connections 1\n"));
        assert_eq!(answer.text().contains("secret plan"), named, "{}", answer.text());
    }
}
