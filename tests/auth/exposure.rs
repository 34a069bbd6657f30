//! Without authentication, loopback only.

use crate::common::{Client, Server, run};

fn serve(more: &[&str]) -> crate::common::Finished {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let finished =
        run(&[&["serve", "--store", "memory", "--data", data.to_str().unwrap()], more].concat(), &[]);
    assert!(!data.exists(), "nothing was begun");
    finished
}

#[test]
fn without_authentication_no_other_address_is_listened_on() {
    for listen in ["0.0.0.0:0", "[::]:0", "0:0", "[::ffff:0.0.0.0]:0", "192.0.2.1:8080", "[2001:db8::1]:80"] {
        let finished = serve(&["--listen", listen]);
        assert_eq!(finished.code, Some(1), "{listen}: {finished:?}");
        let line = finished.stderr.trim_end();
        assert!(!line.contains('\n') && line.contains(listen), "{line}");
        assert!(line.contains("[auth]") && line.contains("--insecure-no-auth"), "both ways out: {line}");
        let checked = run(&["check-config", "--listen", listen], &[]);
        let told = line.strip_prefix("causeway: ").unwrap_or(line);
        assert!(checked.code == Some(1) && checked.stdout.contains(told), "{checked:?}");
        // What means nothing without keys is not taken for them.
        assert_eq!(serve(&["--listen", listen, "--auth-leeway-s", "1"]).code, Some(1));
        assert_eq!(serve(&["--listen", listen, "--insecure-no-auth", "false"]).code, Some(1));
    }
}

#[test]
fn loopback_is_listened_on_however_it_is_written() {
    for listen in ["127.0.0.1:0", "127.1.2.3:0", "localhost:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
        let checked = run(&["check-config", "--listen", listen], &[]);
        assert_eq!(checked.code, Some(0), "{listen}: {checked:?}");
    }
}

#[test]
fn who_says_so_is_served_without_authentication() {
    let server = Server::with("memory", &[("listen", "0.0.0.0:0"), ("insecure-no-auth", "true")]);
    drop(Client::connect(([127, 0, 0, 1], server.addr.port()).into(), "list"));
    let log = server.stop_and_log();
    assert!(log.contains("WARN causeway: everybody who reaches"), "{log}");
    for flags in [&["--insecure-no-auth"][..], &["--insecure-no-auth", "true"], &["--insecure-no-auth=true"]]
    {
        let checked = run(&[&["check-config", "--listen", "0.0.0.0:0"], flags].concat(), &[]);
        assert_eq!(checked.code, Some(0), "{checked:?}");
    }
    let checked = run(&["check-config", "--listen", "0.0.0.0:0"], &[("CAUSEWAY_INSECURE_NO_AUTH", "true")]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[test]
fn keys_open_every_address() {
    let temp = tempfile::tempdir().unwrap();
    let secret = temp.path().join("secret");
    std::fs::write(&secret, crate::house::SECRET).unwrap();
    let secret = secret.to_str().unwrap();
    let server = Server::with("memory", &[("listen", "0.0.0.0:0"), ("auth-hs256-secret-file", secret)]);
    let answer = Client::try_connect(([127, 0, 0, 1], server.addr.port()).into(), "list").err().unwrap();
    assert_eq!(answer.status, 401);
    // As a table of the file, too.
    let file = temp.path().join("causeway.toml");
    std::fs::write(&file, format!("listen = \"0.0.0.0:0\"\n[auth]\nhs256_secret_file = {secret:?}\n"))
        .unwrap();
    let checked = run(&["check-config", "--config", file.to_str().unwrap()], &[]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    std::fs::write(&file, "[auth]\nhs256_secret = \"x\"\n").unwrap();
    let checked = run(&["check-config", "--config", file.to_str().unwrap()], &[]);
    assert!(checked.stderr.contains("auth_hs256_secret:"), "{checked:?}");
}

#[test]
fn keys_that_cannot_be_read_stop_the_start() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("keys");
    let path = file.to_str().unwrap().to_owned();
    for setting in ["hs256-secret", "public-keys", "jwks", "api-keys"] {
        let flag = format!("--auth-{setting}-file");
        let _ = std::fs::remove_file(&file);
        for text in [None, Some("hunter2\n")] {
            if let Some(text) = text {
                std::fs::write(&file, text).unwrap();
            }
            let finished = serve(&["--listen", "127.0.0.1:0", &flag, &path]);
            assert_eq!(finished.code, Some(1), "{flag} {text:?}: {finished:?}");
            assert!(finished.stderr.contains(&path) && !finished.stderr.contains("hunter2"), "{finished:?}");
        }
    }
    for name in ["issuer", "audience"] {
        let finished = serve(&["--listen", "127.0.0.1:0", &format!("--auth-{name}"), "us"]);
        assert_eq!(finished.code, Some(1));
        assert!(finished.stderr.contains(&format!("auth_{name}: tokens are not looked at")), "{finished:?}");
    }
}
