//! Tokens against keys, each made without the code that is tested.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

#[path = "../../tests/common/jwt.rs"]
pub(super) mod jwt;
use jwt::{Signer, base64url, hs256, sha256_hex, sign, sign_parts, sign_with};

const NOW_MS: u64 = 1_000_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER: &[u8] = b"another secret that is long enough";
const RS256: Signer<'_> = Signer { alg: "RS256", key: include_bytes!("../../tests/auth/data/rsa.pem") };
const ES256: Signer<'_> = Signer { alg: "ES256", key: include_bytes!("../../tests/auth/data/ec.pem") };
const EDDSA: Signer<'_> = Signer { alg: "EdDSA", key: include_bytes!("../../tests/auth/data/ed.pem") };

fn data(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/auth/data").join(name);
    fs::read_to_string(path).unwrap()
}

fn claims() -> Value {
    json!({"sub": "ann", "exp": NOW_MS / 1000 + 60, "channels": {"team-7/*": "write"}})
}

/// Keys in files of their own.
struct Files {
    dir: TempDir,
    config: Config,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let mut all = Files { dir: tempfile::tempdir().unwrap(), config: Config::default() };
        for (setting, text) in files {
            let path = Some(all.write(setting, text));
            match *setting {
                "hs256" => all.config.auth_hs256_secret_file = path,
                "pem" => all.config.auth_public_keys_file = path,
                "jwks" => all.config.auth_jwks_file = path,
                _ => all.config.auth_api_keys_file = path,
            }
        }
        all
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn open(&self) -> Result<Arc<Auth>, String> {
        Auth::open(&self.config).map(Option::unwrap).map_err(|e| e.to_string())
    }
}

fn auth(files: &[(&str, &str)]) -> Arc<Auth> {
    Files::new(files).open().unwrap()
}

fn with_secret() -> Arc<Auth> {
    auth(&[("hs256", std::str::from_utf8(SECRET).unwrap())])
}

fn verify(auth: &Auth, token: impl Into<String>) -> Result<Grant, Denied> {
    auth.verify(&Token::from(token.into()), NOW_MS)
}

#[track_caller]
fn refused(auth: &Auth, token: impl Into<String>) -> Denied {
    verify(auth, token).unwrap_err()
}

#[test]
fn every_kind_of_key_verifies_its_own_tokens_and_no_others() {
    let pem = data("rsa.pub.pem") + "\n# a comment\n" + &data("ec.pub.pem") + &data("ed.pub.pem");
    let signers = [hs256(SECRET), RS256, ES256, EDDSA];
    let every = auth(&[("hs256", std::str::from_utf8(SECRET).unwrap()), ("pem", &pem)]);
    let jwks = auth(&[("jwks", &data("jwks.json"))]);
    for signer in signers {
        let token = sign(signer, &claims());
        let grant = verify(&every, &*token).unwrap();
        assert_eq!(&*grant.subject, "ann");
        assert_eq!(grant.channels.access("team-7/x"), Some(Access::Write));
        assert_eq!(verify(&jwks, &*token).is_ok(), signer.alg != "HS256", "{}", signer.alg);
    }
    for (signer, key) in signers.into_iter().skip(1).zip(["rsa", "ec", "ed"]) {
        let one = auth(&[("pem", &data(&format!("{key}.pub.pem")))]);
        for other in signers {
            let expected = (other.alg == signer.alg).then_some(()).ok_or(Denied::Signature);
            assert_eq!(verify(&one, sign(other, &claims())).map(drop), expected, "{} by {key}", other.alg);
        }
    }
}

#[test]
fn a_public_keys_text_is_no_secret() {
    let auth = auth(&[("pem", &data("rsa.pub.pem")), ("jwks", &data("jwks.json"))]);
    for text in [data("rsa.pub.pem"), data("rsa.pub.pem").trim().to_owned(), data("jwks.json")] {
        assert_eq!(refused(&auth, sign(hs256(text.as_bytes()), &claims())), Denied::Signature);
    }
    let told = Files::new(&[("hs256", &data("rsa.pub.pem"))]).open().err().unwrap();
    assert!(told.contains("auth_public_keys_file"), "{told}");
}

#[test]
fn no_token_decides_how_it_is_checked() {
    let auth = with_secret();
    for alg in ["none", "None", "NONE", "nOnE", "", "HS999"] {
        let none = Signer { alg, key: b"" };
        assert_eq!(refused(&auth, sign(none, &claims())), Denied::Malformed, "{alg}");
        let signed = sign_with(hs256(SECRET), json!({ "alg": alg }), &claims());
        assert_eq!(refused(&auth, signed), Denied::Malformed, "{alg}");
    }
    // Known, and with the right secret, but not among the algorithms of any key.
    let hs512 = Signer { alg: "HS512", key: SECRET };
    assert_eq!(refused(&auth, sign(hs512, &claims())), Denied::Signature);
    // An embedded key, or a place to fetch one from, is not looked at.
    let jwk = serde_json::from_str::<Value>(&data("jwks.json")).unwrap()["keys"][2].clone();
    for header in [json!({ "jwk": jwk }), json!({"jku": "http://127.0.0.1:1/jwks.json"})] {
        assert_eq!(refused(&auth, sign_with(EDDSA, header, &claims())), Denied::Signature);
    }
    for crit in [json!(["b64"]), json!(["exp"]), json!([])] {
        let token = sign_with(hs256(SECRET), json!({"crit": crit, "b64": false}), &claims());
        assert_eq!(refused(&auth, token), Denied::Malformed, "{crit}");
    }
    let twice = sign_parts(hs256(SECRET), r#"{"alg":"none","alg":"HS256"}"#, &claims().to_string());
    assert_eq!(refused(&auth, twice), Denied::Malformed);
}

#[test]
fn a_changed_token_is_refused() {
    let auth = with_secret();
    let token = sign(hs256(SECRET), &claims());
    let parts: Vec<&str> = token.split('.').collect();
    let more = json!({"sub": "ann", "exp": 9e9, "channels": {"*": "write"}}).to_string();
    let forged = [parts[0], &base64url(more), parts[2]].join(".");
    assert_eq!(refused(&auth, forged), Denied::Signature);
    assert_eq!(refused(&auth, sign(hs256(OTHER), &claims())), Denied::Signature);
    assert_eq!(refused(&auth, format!("{}.{}.", parts[0], parts[1])), Denied::Signature);
    for (at, character) in token.char_indices().filter(|(_, c)| *c != '.') {
        let other = if character == 'A' { "B" } else { "A" };
        let changed = [&token[..at], other, &token[at + 1..]].concat();
        assert!(verify(&auth, changed).is_err(), "character {at} changed");
    }
    for form in [
        "".to_owned(),
        ".".into(),
        "..".into(),
        "a.b.c".into(),
        "x".into(),
        parts[..2].join("."),
        format!("{token}."),
        format!("{token}.x"),
        format!("{token}="),
        format!(" {token}"),
        format!("{token}\0"),
        token.replace('.', "。"),
    ] {
        assert_eq!(refused(&auth, &*form), Denied::Malformed, "{form:?}");
    }
    let long = sign(hs256(SECRET), &json!({"pad": "x".repeat(MAX_TOKEN_BYTES)}));
    assert_eq!(refused(&auth, long), Denied::Malformed);
}

#[test]
fn what_a_token_says_is_looked_at_after_its_signature() {
    let auth = with_secret();
    for bad in [json!({}), json!({"exp": 1}), json!([]), json!("x")] {
        assert_eq!(refused(&auth, sign(hs256(OTHER), &bad)), Denied::Signature, "{bad}");
        assert_eq!(refused(&auth, sign(hs256(SECRET), &bad)), Denied::Claims, "{bad}");
    }
    let not_json = sign_parts(hs256(SECRET), r#"{"alg":"HS256"}"#, "x");
    assert_eq!(refused(&auth, not_json), Denied::Claims);
    let deep = sign_parts(hs256(SECRET), r#"{"alg":"HS256"}"#, &"[".repeat(10_000));
    assert_eq!(refused(&auth, deep), Denied::Claims);
}

#[test]
fn a_token_may_name_its_key() {
    let auth = auth(&[("jwks", &data("jwks.json")), ("hs256", std::str::from_utf8(SECRET).unwrap())]);
    let named = |signer, name: &str| sign_with(signer, json!({ "kid": name }), &claims());
    assert!(verify(&auth, named(ES256, "ec-1")).is_ok());
    assert_eq!(refused(&auth, named(ES256, "ec-2")), Denied::Signature);
    // The name of another algorithm's key.
    assert_eq!(refused(&auth, named(ES256, "rsa-1")), Denied::Signature);
    // Secrets have no names.
    assert!(verify(&auth, named(hs256(SECRET), "rsa-1")).is_ok());
}

#[test]
fn several_secrets_are_valid_at_once_and_read_again() {
    let text =
        |secrets: &[&[u8]]| secrets.iter().map(|s| String::from_utf8_lossy(s) + "\n").collect::<String>();
    let files = Files::new(&[("hs256", &text(&[SECRET, OTHER]))]);
    let auth = files.open().unwrap();
    let old = verify(&auth, sign(hs256(SECRET), &claims())).unwrap();
    assert!(verify(&auth, sign(hs256(OTHER), &claims())).is_ok());
    files.write("hs256", &text(&[OTHER]));
    assert_eq!(auth.reload().unwrap(), Reloaded { added: 0, removed: 1, total: 1 });
    assert_eq!(refused(&auth, sign(hs256(SECRET), &claims())), Denied::Signature);
    assert!(!auth.keys().has(&old.key));
    assert!(verify(&auth, sign(hs256(OTHER), &claims())).is_ok());
    for bad in ["", "\n\n", "short\n", "-----BEGIN PUBLIC KEY-----\n"] {
        files.write("hs256", bad);
        auth.reload().unwrap_err();
        assert_eq!(auth.state(), (1, true), "{bad:?}");
        assert!(verify(&auth, sign(hs256(OTHER), &claims())).is_ok());
    }
    fs::remove_file(files.dir.path().join("hs256")).unwrap();
    auth.reload().unwrap_err();
    files.write("hs256", &text(&[SECRET]));
    assert_eq!(auth.reload().unwrap(), Reloaded { added: 1, removed: 1, total: 1 });
    assert_eq!(auth.state(), (1, false));
}

#[test]
fn an_api_key_is_known_by_its_hash() {
    let key = "causeway_0123456789";
    let entry =
        |channels: &str| format!("[batch]\nsha256 = \"{}\"\nchannels = {channels}\n", sha256_hex(key));
    let files = Files::new(&[("api", &entry("{ \"a b\" = \"write\" }"))]);
    let auth = files.open().unwrap();
    let grant = verify(&auth, key).unwrap();
    assert_eq!((&*grant.subject, grant.expires_ms), ("batch", u64::MAX));
    assert_eq!(grant.channels.access("a b"), Some(Access::Write));
    assert_eq!(refused(&auth, "causeway_0123456780"), Denied::Signature);
    assert_eq!(refused(&auth, sha256_hex(key)), Denied::Signature);
    assert_eq!(refused(&auth, sign(hs256(SECRET), &claims())), Denied::Signature);
    // With other rights it is another key: who is connected by it has to come again.
    files.write("api", &entry("{ \"a b\" = \"read\" }"));
    assert_eq!(auth.reload().unwrap(), Reloaded { added: 1, removed: 1, total: 1 });
    assert!(!auth.keys().has(&grant.key));
    assert_eq!(refused(&with_secret(), key), Denied::Malformed);
}

#[test]
fn a_minted_token_is_taken() {
    let files =
        Files::new(&[("hs256", "0123456789abcdef0123456789abcdef\nanother secret that is long enough\n")]);
    let config = Config {
        auth_issuer: Some("us".into()),
        auth_audience: Some("relay".into()),
        auth_public_keys_file: Some(
            files.write("pem", &(data("rsa.pub.pem") + &data("ec.pub.pem") + &data("ed.pub.pem"))),
        ),
        ..files.config.clone()
    };
    let auth = Auth::open(&config).unwrap().unwrap();
    let mut wanted = mint::Wanted {
        subject: "ann".into(),
        channels: vec![("team-7/*".into(), "write".into()), ("a=b".into(), "read".into())],
        expires_in_s: 60,
        private_key_file: None,
    };
    for key in [None, Some("rsa.pem"), Some("ec.pem"), Some("ed.pem")] {
        wanted.private_key_file = key.map(|key| files.write(key, &data(key)));
        let grant = verify(&auth, mint::token(&config, &wanted, NOW_MS / 1000).unwrap()).unwrap();
        assert_eq!((&*grant.subject, grant.expires_ms), ("ann", NOW_MS + 65_000));
        assert_eq!(grant.channels.access("a=b"), Some(Access::Read));
    }
    wanted.channels[0].1 = "admin".into();
    mint::token(&config, &wanted, 0).unwrap_err();
    wanted.channels[0].1 = "read".into();
    let (key, entry) = mint::api_key(&wanted).unwrap();
    let auth = Files::new(&[("api", &entry)]).open().unwrap();
    assert_eq!(verify(&auth, &*key).unwrap().channels.access("team-7/x"), Some(Access::Read));
}

#[test]
fn files_that_cannot_be_are_refused_and_never_shown() {
    let hex = "0".repeat(64);
    let many = (0..17).map(|n| format!("{n:032}\n")).collect::<String>();
    let jwks = data("jwks.json");
    for (setting, text, told) in [
        ("hs256", "hunter2", "shorter than 32 bytes"),
        ("hs256", "", "no key"),
        ("hs256", &*many, "17 keys"),
        ("pem", "x", "no key"),
        ("pem", &data("ed.pem"), "private key"),
        ("pem", &data("rsa1024.pub.pem"), "2048 bits"),
        ("pem", &data("p384.pub.pem"), "P-256"),
        ("pem", "-----BEGIN PUBLIC KEY-----\nhunter2\n-----END PUBLIC KEY-----\n", "block 1"),
        ("jwks", "{}", "keys"),
        ("jwks", r#"{"keys":[]}"#, "no key"),
        ("jwks", r#"{"keys":[{"kty":"oct","k":"hunter2"}]}"#, "key 1 is a private or a secret one"),
        ("jwks", &jwks.replacen("\"n\"", "\"d\": \"hunter2\", \"n\"", 1), "key 1 is a private"),
        ("jwks", &jwks.replacen("\"x\": \"", "\"x\": \"AAAA", 1), "not sound"),
        ("api", "[a]\nsha256 = \"hunter2\"\nchannels = {}", "64 hexadecimal digits"),
        ("api", &format!("[a]\nsha256 = \"{hex}\"\nchannels = {{ x = \"admin\" }}"), "read or write"),
        ("api", &format!("[a]\nsha256 = \"{hex}\"\n"), "channels"),
        ("api", &format!("[a]\nsha256 = \"{hex}\"\nchannels = {{}}\nsecret = \"hunter2\""), "secret"),
        ("api", &format!("[\"\"]\nsha256 = \"{hex}\"\nchannels = {{}}"), "subject"),
    ] {
        let files = Files::new(&[(setting, text)]);
        let error = files.open().err().unwrap_or_else(|| panic!("{setting} {text} is taken"));
        assert!(error.contains(told) && !error.contains("hunter2"), "{setting}: {error}");
        assert!(error.contains(files.dir.path().to_str().unwrap()), "{error} names the file");
    }
    let mut files = Files::new(&[("hs256", std::str::from_utf8(SECRET).unwrap())]);
    files.config.auth_hs256_secret_file = Some(files.dir.path().into());
    assert!(files.open().err().unwrap().contains("regular file"));
}

proptest::proptest! {
    #[test]
    fn no_text_is_taken_that_is_not_signed(text in "\\PC{0,40}(\\.\\PC{0,40}){0,3}") {
        let entry = format!("[a]\nsha256 = \"{}\"\nchannels = {{}}\n", sha256_hex("a key"));
        let auth = auth(&[("hs256", std::str::from_utf8(SECRET).unwrap()), ("api", &entry)]);
        proptest::prop_assert!(verify(&auth, text).is_err());
    }

    #[test]
    fn no_signed_claims_disturb_the_server(
        header in "[{\"alg:HS256,}\\[\\]0-9.e-]{0,40}",
        claims in "[{\"subexpchanl:,}*\\[\\]0-9.e-]{0,60}",
    ) {
        let auth = with_secret();
        let token = sign_parts(hs256(SECRET), &header, &claims);
        proptest::prop_assert!(verify(&auth, token).is_err());
        let token = sign_parts(hs256(SECRET), r#"{"alg":"HS256"}"#, &claims);
        proptest::prop_assert!(verify(&auth, token).is_err());
    }
}
