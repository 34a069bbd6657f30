//! `causeway health`, which containers ask.

use crate::common::{Finished, Server, run};

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
