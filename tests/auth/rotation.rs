//! Keys that come and go while the server runs.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use crate::common::{CLOSE, Server, cell, upgrade_request_with};
use crate::house::{House, SECOND, SECRET, claims, token, until};
use crate::jwt::{Signer, hs256, sha256_hex, sign, sign_with};

fn by_second() -> String {
    sign(hs256(SECOND.as_bytes()), &claims(json!({"sub": "bob"})))
}

/// A setting that names a file of the tests.
fn data(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/auth/data").join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_secret_is_rotated_under_open_connections() {
    let house = House::with(&[("ping-interval-ms", "100")]);
    let mut old = house.connect("list", &token(json!({})));
    assert_eq!(house.try_connect("list", &by_second()).err().unwrap().status, 401);
    house.write("secret", &format!("{SECOND}\n{SECRET}\n"));
    until("the second secret is taken", || house.try_connect("list", &by_second()).is_ok());
    let mut new = house.connect("list", &by_second());
    house.connect("list", &token(json!({})));
    old.update(1, &[cell("k", "c", "v", 1)]);
    // Whoever came by the first and has a token of the second by now stays.
    let mut moved = house.connect("list", &token(json!({"sub": "bob"})));
    moved.send_json(&json!({"type": "auth", "token": by_second()}));
    moved.update(1, &[cell("k2", "c", "v", 1)]);
    house.write("secret", SECOND);
    until("the first is refused", || house.try_connect("list", &token(json!({}))).is_err());
    assert_eq!(old.recv_type("update")["version"], 2);
    let error = old.recv_type("error");
    assert_eq!(error["code"], "unauthorized", "{error}");
    let close = old.recv_frame();
    assert_eq!((close.opcode, close.close_code()), (CLOSE, Some(1008)));
    moved.update(2, &[cell("k2", "c", "w", 2)]);
    for version in 1..=3 {
        assert_eq!(new.recv_type("update")["version"], version);
    }
}

#[test]
fn a_bad_file_leaves_the_keys_as_they_were_and_is_told() {
    let house = House::new();
    let stale = |is: u64| until("the gauge follows", || house.metric("causeway_auth_keys_stale") == is);
    house.write("secret", "short\n");
    stale(1);
    house.connect("list", &token(json!({})));
    house.write("secret", &format!("{SECRET}\n{SECOND}\n"));
    stale(0);
    house.connect("list", &by_second());
    let path = house.write("secret", "");
    stale(1);
    std::fs::remove_file(path).unwrap();
    house.connect("list", &by_second());
    let log = house.server.stop_and_log();
    assert!(log.contains("secret 1 is shorter than 32 bytes"), "{log}");
    assert!(log.contains("stay in use"), "{log}");
    assert!(log.contains("1 keys added, 0 removed, 2 in all"), "{log}");
}

#[test]
fn public_keys_of_every_kind_are_taken() {
    let [rsa, ec, ed] = ["rsa.pem", "ec.pem", "ed.pem"].map(|name| std::fs::read(data(name)).unwrap());
    let pem = Server::with("memory", &[("auth-public-keys-file", &data("ec.pub.pem"))]);
    let jwks = Server::with("memory", &[("auth-jwks-file", &data("jwks.json"))]);
    for (alg, key, name) in [("RS256", &rsa, "rsa-1"), ("ES256", &ec, "ec-1"), ("EdDSA", &ed, "ed-1")] {
        let signer = Signer { alg, key };
        let status = |server: &Server, token: &str| {
            let headers = format!("Authorization: Bearer {token}\r\n");
            let request = upgrade_request_with("/?channel=list", &headers);
            crate::common::Client::try_request(server.addr, &request)
                .map_or_else(|answer| answer.status, |_| 101)
        };
        let token = sign_with(signer, json!({ "kid": name }), &claims(json!({})));
        assert_eq!(status(&jwks, &token), 101, "{alg}");
        assert_eq!(status(&pem, &token), if alg == "ES256" { 101 } else { 401 }, "{alg}");
        let other = sign_with(signer, json!({"kid": "unknown"}), &claims(json!({})));
        assert_eq!(status(&jwks, &other), 401, "{alg}");
    }
}

#[test]
fn an_api_key_lets_in_until_it_is_removed() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("keys.toml");
    let entry = |name: &str, key: &str| {
        format!("[{name}]\nsha256 = \"{}\"\nchannels = {{ \"list\" = \"write\" }}\n", sha256_hex(key))
    };
    let both = entry("one", "key-one") + &entry("two", "key-two");
    std::fs::write(&file, both).unwrap();
    let settings = [("auth-api-keys-file", file.to_str().unwrap()), ("ping-interval-ms", "100")];
    let server = Server::with("memory", &settings);
    let connect = |key: &str| {
        let request = upgrade_request_with(&format!("/?channel=list&token={key}"), "");
        crate::common::Client::try_request(server.addr, &request)
    };
    assert_eq!(connect("key-three").err().unwrap().status, 401);
    let (mut one, mut two) = (connect("key-one").unwrap(), connect("key-two").unwrap());
    one.update(1, &[cell("k", "c", "v", 1)]);
    std::fs::write(&file, entry("two", "key-two")).unwrap();
    assert_eq!(one.recv_type("error")["code"], "unauthorized");
    one.expect_close(1008);
    assert_eq!(connect("key-one").err().unwrap().status, 401);
    assert_eq!(two.recv_type("update")["version"], 1);
    two.update(1, &[cell("k", "c", "w", 2)]);
}

#[test]
fn a_secret_that_others_can_read_is_warned_of() {
    for (mode, warned) in [(0o600, false), (0o640, true), (0o604, true)] {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("secret");
        std::fs::write(&file, SECRET).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let server = Server::with("memory", &[("auth-hs256-secret-file", file.to_str().unwrap())]);
        let log = server.stop_and_log();
        assert_eq!(log.contains("others can read this secret"), warned, "{mode:o}: {log}");
    }
}
