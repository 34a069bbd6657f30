//! `causeway token`.

use serde_json::json;

use crate::common::{Finished, Server, cell, run, upgrade_request_with};
use crate::house::{House, SECRET};

fn token(arguments: &[&str]) -> Finished {
    run(&[&["token"], arguments].concat(), &[])
}

#[test]
fn a_token_is_all_that_is_printed_and_is_taken() {
    let house = House::new();
    let file = house.write("secret-of-the-command", SECRET);
    let file = file.to_str().unwrap();
    let arguments = ["--auth-hs256-secret-file", file, "--subject", "ann", "--channel", "li*=write"];
    let made = token(&[&arguments[..], &["--channel", "news=read", "--expires-in", "10m"]].concat());
    assert_eq!(made.code, Some(0), "{made:?}");
    assert_eq!(made.stdout.lines().count(), 1);
    let made = made.stdout.trim_end();
    house.connect("list", made).update(1, &[cell("k", "c", "v", 1)]);
    let mut reader = house.connect("news", made);
    reader.send_json(&crate::common::update(1, &[cell("k", "c", "v", 1)]));
    assert_eq!(reader.recv_type("error")["code"], "forbidden");
    reader.send_json(&json!({"type": "auth", "token": made}));
    assert_eq!(house.try_connect("other", made).err().unwrap().status, 403);
}

#[test]
fn an_api_key_is_printed_beside_its_entry() {
    let made = token(&["--api-key", "--subject", "batch job", "--channel", "team-7/*=write"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let key = made.stdout.trim_end();
    assert!(!made.stderr.contains(key), "the file holds its hash only");
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("keys.toml");
    std::fs::write(&file, &made.stderr).unwrap();
    let server = Server::with("memory", &[("auth-api-keys-file", file.to_str().unwrap())]);
    let headers = format!("Authorization: Bearer {key}\r\n");
    let request = upgrade_request_with("/?channel=team-7%2Fa", &headers);
    crate::common::Client::try_request(server.addr, &request).unwrap().update(1, &[cell("k", "c", "v", 1)]);
    let again = token(&["--api-key", "--subject", "batch job", "--channel", "team-7/*=write"]);
    assert_ne!(again.stdout, made.stdout);
}

#[test]
fn what_cannot_be_made_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let secret = temp.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let with = ["--auth-hs256-secret-file", secret.to_str().unwrap()];
    let public = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/auth/data/rsa.pub.pem");
    for (arguments, told) in [
        (&["--subject", "ann", "--channel", "x=read"][..], "openssl rand -hex 32"),
        (&[with[0], with[1], "--subject", "ann", "--channel", "x=admin"], "read or write"),
        (&[with[0], with[1], "--subject", "ann", "--channel", "x"], "PATTERN=read"),
        (&[with[0], with[1], "--subject", "ann", "--channel", "=read"], "1 to 510 bytes"),
        (&[with[0], with[1], "--subject", "", "--channel", "x=read"], "--subject"),
        (
            &[with[0], with[1], "--subject", "ann", "--channel", "x=read", "--expires-in", "soon"],
            "--expires-in",
        ),
        (&[with[0], with[1], "--subject", "ann", "--channel", "x=read", "--expires-in", "0"], "--expires-in"),
        (&["--private-key-file", public, "--subject", "ann", "--channel", "x=read"], "no private key"),
        (&[with[0], with[1], "--subject", "ann"], "--channel"),
    ] {
        let made = token(arguments);
        assert!(matches!(made.code, Some(1 | 2)), "{arguments:?}: {made:?}");
        assert!(made.stderr.contains(told) && made.stdout.is_empty(), "{arguments:?}: {made:?}");
    }
}
