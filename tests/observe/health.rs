//! `causeway health`, which containers ask.

use crate::common::{Certificate, Finished, Server, cert_file, key_file, run};

fn health(server: &str, more: &[&str]) -> Finished {
    run(&[&["health", "--listen", server], more].concat(), &[])
}

#[test]
fn the_command_tells_what_the_server_tells() {
    let mut server = Server::with("memory", &[("close-timeout-ms", "5000")]);
    let addr = server.addr.to_string();
    let told = |more: &[&str]| {
        let Finished { code, stdout, stderr } = health(&addr, more);
        (code, stdout + &stderr)
    };
    assert_eq!(told(&[]), (Some(0), "ok\n".into()));
    assert_eq!(told(&["--ready"]), (Some(0), "ready\n".into()));
    // What listens everywhere is asked here.
    assert_eq!(health(&format!("0.0.0.0:{}", server.addr.port()), &[]).code, Some(0));
    // This one never answers the close, so the server drains for a while.
    let mut client = server.connect("list");
    server.signal("TERM");
    assert_eq!(client.recv_frame().close_code(), Some(1001));
    assert_eq!(told(&[]).0, Some(0));
    let (code, text) = told(&["--ready"]);
    assert!(code == Some(1) && text.contains("503 draining"), "{code:?} {text}");
    drop(client);
    server.wait();
    let (code, text) = told(&[]);
    assert!(code == Some(1) && text.contains("is the server running?"), "{code:?} {text}");
}

/// Whatever its certificate says: here one for another name, which nobody trusts and which has expired.
#[test]
fn the_command_speaks_tls_where_the_server_does() {
    let dir = tempfile::tempdir().unwrap();
    let day = std::time::Duration::from_secs(86_400);
    let expired = Certificate::with(|params| {
        let now = std::time::SystemTime::now();
        (params.not_before, params.not_after) = ((now - 2 * day).into(), (now - day).into());
    });
    let server = Server::over_tls_in(dir.path(), "memory", &expired, &[]);
    let addr = server.addr.to_string();
    let (cert, key) = (cert_file(dir.path()), key_file(dir.path()));
    let tls = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    for (more, told) in [(&[][..], "ok\n"), (&["--ready"], "ready\n")] {
        let Finished { code, stdout, stderr } = health(&addr, &[&tls, more].concat());
        assert_eq!((code, stdout + &stderr), (Some(0), told.into()));
    }
    drop(server);
    let Finished { code, stderr, .. } = health(&addr, &tls);
    assert!(code == Some(1) && stderr.contains(&format!("https://{addr}")), "{stderr}");
}
