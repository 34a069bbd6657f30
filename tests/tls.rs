//! TLS on the relay's port: who gets in, who does not, and certificates that change meanwhile.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "tls/files.rs"]
mod files;
#[path = "tls/hello.rs"]
mod hello;

use common::{
    CLOSE, Certificate, Client, PATIENCE, Server, Stream, cell, keys, pull, update, upgrade_request,
    write_certificate, write_key,
};
use hello::{Answer, Hello};
use rcgen::SerialNumber;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio_rustls::rustls::{ClientConfig, HandshakeKind, ProtocolVersion, version};

/// How many handshakes have failed in this way.
fn failed(server: &Server, kind: &str) -> u64 {
    let lines = server.metric_lines(&format!("causeway_tls_handshakes_failed_total{{kind=\"{kind}\"}}"));
    lines[0].rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[track_caller]
fn wait_for_failed(server: &Server, kind: &str, expected: u64) {
    let deadline = Instant::now() + PATIENCE;
    while failed(server, kind) != expected {
        let found = server.metric_lines("causeway_tls_handshakes_failed_total");
        assert!(Instant::now() < deadline, "{kind} is not {expected}: {found:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for the end of a connection, and gives what came before it.
fn read_to_end(mut stream: impl Read, socket: &TcpStream) -> Vec<u8> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    if let Err(e) = stream.read_to_end(&mut bytes) {
        let waits = matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
        assert!(!waits, "the server should end it, so far {bytes:?}");
    }
    bytes
}

/// Connects as a client of its own, which resumes nothing.
fn connect_as(server: &Server, client: &Arc<ClientConfig>) -> Client {
    Client::connect_over(Stream::over(server.tcp(), Some(client)), "list")
}

#[test]
fn a_session_is_the_same_over_either_version() {
    let certificate = Certificate::new();
    for (version, expected) in
        [(&version::TLS12, ProtocolVersion::TLSv1_2), (&version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let mut server = Server::over_tls("sqlite", &certificate, &[]);
        server.tls = Some(certificate.client_of(&[version]));
        let (mut client, mut other) = (server.connect("list"), server.connect("list"));
        assert_eq!(client.stream().tls().protocol_version(), Some(expected));
        for n in 1..=50 {
            // From a record to many.
            let value = "v".repeat(if n % 10 == 0 { 300_000 } else { n as usize });
            assert_eq!(client.update(n, &[cell(&format!("k{n}"), "c", value, 1)])["version"], n);
            assert_eq!(other.recv_type("update")["version"], n);
        }
        assert_eq!(other.pull_rows(0).len(), 50);
        // Many in one write, and the last words.
        for n in 51..=80 {
            client.send_json(&update(n, &[cell(&format!("k{n}"), "c", "v", 1)]));
        }
        client.half_close();
        for n in 51..=80 {
            assert_eq!(client.recv_type("ack")["received"], n);
        }
        client.expect_close(1000);
        assert_eq!(server.http_get("/readyz").status, 200);
        assert!(server.metric("tls_handshakes_total") >= 3);
        assert!(server.metric("tls_certificate_end_timestamp_seconds") > 1_700_000_000);
        drop(other);
        server.stop();
    }
}

/// What `testssl` would ask: each version by itself, by hand, as clients that we have do not speak the old ones.
#[test]
fn only_tls_1_2_and_1_3_are_spoken() {
    let server = Server::over_tls("memory", &Certificate::new(), &[]);
    let ask = |hello: &Hello| hello.ask(server.tcp());
    let alert = |answer: Answer| matches!(answer, Answer::Alert(70 | 40));
    let mut refused = 0;
    for (name, version) in [("SSL 3.0", 0x0300), ("TLS 1.0", 0x0301), ("TLS 1.1", 0x0302)] {
        let old = ask(&Hello { version, extensions: vec![] });
        let with_algorithms = ask(&Hello { version, extensions: hello::tls12() });
        let in_extension = ask(&Hello {
            version: 0x0303,
            extensions: [hello::tls12(), hello::supported_versions(&[version])].concat(),
        });
        eprintln!(
            "{name}: {old:?}, with signature_algorithms {with_algorithms:?}, in supported_versions {in_extension:?}"
        );
        assert!(alert(old), "{name}: {old:?}");
        assert_eq!((with_algorithms, in_extension), (Answer::Alert(70), Answer::Alert(70)), "{name}");
        refused += 3;
    }
    let tls12 = ask(&Hello { version: 0x0303, extensions: hello::tls12() });
    let tls13 = ask(&Hello {
        version: 0x0303,
        extensions: [hello::tls12(), hello::supported_versions(&[0x0304]), hello::no_key_share()].concat(),
    });
    let not_yet = ask(&Hello {
        version: 0x0303,
        extensions: [hello::tls12(), hello::supported_versions(&[0x0305])].concat(),
    });
    eprintln!("TLS 1.2: {tls12:?}\nTLS 1.3: {tls13:?}\n\"TLS 1.4\": {not_yet:?}");
    assert_eq!(tls12, Answer::Hello(0x0303));
    assert_eq!(tls13, Answer::Hello(0x0304));
    assert_eq!(not_yet, Answer::Alert(70));
    wait_for_failed(&server, "version", refused + 1);
    // SSL 2.0's hello.
    let mut stream = server.tcp();
    stream.write_all(b"\x80\x1c\x01\x00\x02\x00\x03\x00\x00\x00\x10\x07\x00\xc0").unwrap();
    stream.write_all(&[7; 20]).unwrap();
    assert!(!read_to_end(&stream, &stream).windows(2).any(|two| two == [0x16, 0x03]), "no handshake");
}

#[test]
fn who_comes_back_resumes_and_is_kept_nowhere() {
    let certificate = Certificate::new();
    for version in [&version::TLS12, &version::TLS13] {
        let mut server = Server::over_tls("memory", &certificate, &[]);
        server.tls = Some(certificate.client_of(&[version]));
        let kind = |mut client: Client| {
            // The ticket comes with what follows the handshake.
            client.pull(0);
            client.stream().tls().handshake_kind()
        };
        assert_eq!(kind(server.connect("list")), Some(HandshakeKind::Full), "{version:?}");
        assert_eq!(kind(server.connect("list")), Some(HandshakeKind::Resumed), "{version:?}");
    }
}

#[test]
fn a_client_that_does_not_trust_the_certificate_is_counted() {
    let certificate = Certificate::new();
    let server = Server::over_tls("memory", &certificate, &[]);
    let mut stranger = Stream::over(server.tcp(), Some(&Certificate::new().client()));
    assert!(stranger.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").is_err());
    wait_for_failed(&server, "refused", 1);

    let mut client = Arc::unwrap_or_clone(certificate.client());
    client.alpn_protocols = vec![b"h2".to_vec()];
    assert!(Stream::over(server.tcp(), Some(&Arc::new(client))).write_all(b"x").is_err());
    wait_for_failed(&server, "incompatible", 1);
    let log = server.stop_and_log();
    assert!(!log.contains("handshake"), "nobody can fill the log: {log}");
}

#[test]
fn a_new_certificate_is_served_and_nobody_is_dropped() {
    let serial = |n: u64| Certificate::with(|params| params.serial_number = Some(SerialNumber::from(n)));
    let (first, second, third) = (serial(0xa1), serial(0xb2), serial(0xc3));
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::over_tls_in(dir.path(), "memory", &first, &[]);
    let mut old = server.connect("list");
    old.update(1, &[cell("k1", "c", "v", 1)]);

    // Renewed, the certificate a while before the key: it does not fit, and is not served.
    write_certificate(dir.path(), &second.cert_pem);
    server.wait_for_metric("tls_files_unusable", 1);
    // Looked at some more times.
    thread::sleep(Duration::from_millis(2500));
    connect_as(&server, &first.client()).update(2, &[cell("k2", "c", "v", 1)]);
    write_key(dir.path(), &second.key_pem);
    // Whom the server does not trust any more is not trusted by it: so wait for the metric with a client of either.
    let served = |certificate: &Certificate| {
        let client = certificate.client();
        let deadline = Instant::now() + PATIENCE;
        while Stream::over(server.tcp(), Some(&client)).write_all(b"x").is_err() {
            assert!(Instant::now() < deadline, "the new certificate is not served");
            thread::sleep(Duration::from_millis(50));
        }
    };
    served(&second);
    assert_eq!(
        connect_as(&server, &second.client()).stream().tls().peer_certificates().unwrap()[0],
        second.der
    );

    // As tools do it that mind: a link that is set to another directory.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    third.write(&other);
    for file in ["cert.pem", "key.pem"] {
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(other.join(file), &link).unwrap();
        std::fs::rename(&link, dir.path().join(file)).unwrap();
    }
    served(&third);
    server.tls = Some(third.client());
    assert_eq!(server.metric("tls_files_unusable"), 0);

    // Gone, and damaged: what is served stays.
    std::fs::remove_file(dir.path().join("cert.pem")).unwrap();
    server.wait_for_metric("tls_files_unusable", 1);
    write_certificate(dir.path(), "nonsense");
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(server.metric("tls_files_unusable"), 1);
    write_certificate(dir.path(), &third.cert_pem);
    server.wait_for_metric("tls_files_unusable", 0);

    // Through all of it.
    assert_eq!(old.recv_type("update")["version"], 2);
    old.update(3, &[cell("k3", "c", "v", 1)]);
    assert_eq!(keys(&old.pull_rows(0)), ["k1", "k2", "k3"]);
    drop(old);
    let log = server.stop_and_log();
    let times = |text: &str| log.matches(text).count();
    assert_eq!(times("this is not the key of the first certificate"), 1, "{log}");
    assert_eq!(times("a new TLS certificate is served"), 2, "{log}");
    assert!(log.to_lowercase().contains("b2, valid") && log.to_lowercase().contains("c3, valid"), "{log}");
    assert_eq!(times("there is no certificate in it"), 1, "{log}");
    assert!(!log.contains("PRIVATE"), "{log}");
}

#[test]
fn a_handshake_has_its_time_and_no_more() {
    let certificate = Certificate::new();
    let server = Server::over_tls("memory", &certificate, &[("handshake-timeout-ms", "1000")]);
    let mut client = server.connect("list");
    let hello = Hello { version: 0x0303, extensions: hello::tls12() }.record();
    // Nothing, half a head, a whole head, half a hello, a hello whose answer is not answered.
    for sent in [&b""[..], &hello[..3], &hello[..5], &hello[..hello.len() - 10], &hello] {
        let mut stream = server.tcp();
        stream.write_all(sent).unwrap();
        read_to_end(&stream, &stream);
    }
    wait_for_failed(&server, "timeout", 5);

    // Byte by byte, so that it is never silent.
    let mut stream = server.tcp();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let ended =
        hello.iter().any(|byte| match stream.write_all(&[*byte]).and_then(|()| stream.read(&mut [0])) {
            Ok(read) => read == 0,
            Err(e) => !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        });
    assert!(ended);
    wait_for_failed(&server, "timeout", 6);

    // TLS in time, and then nothing, or half of a request.
    for sent in ["", "GET / HTTP/1.1\r\n"] {
        let mut stream = server.stream();
        stream.write_all(sent.as_bytes()).unwrap();
        let Stream::Tls(tls) = &mut stream else { panic!("there is no TLS") };
        tls.conn.complete_io(&mut tls.sock).unwrap();
        let socket = stream.socket().try_clone().unwrap();
        read_to_end(&mut stream, &socket);
    }
    // What was in time stays.
    client.update(1, &[cell("k", "c", "v", 1)]);
}

#[test]
fn what_is_no_tls_is_refused_and_http_is_told_so() {
    let server = Server::over_tls("memory", &Certificate::new(), &[]);
    let mut client = server.connect("list");
    let hello = Hello { version: 0x0303, extensions: hello::tls12() }.record();
    let mut spoilt = hello.clone();
    spoilt[5..].iter_mut().for_each(|byte| *byte ^= 0x5a);
    let rubbish: &[&[u8]] = &[
        &[0; 100],
        &[0xff; 70_000],
        &spoilt,
        // The largest record there can be, and a larger one.
        &[&b"\x16\x03\x01\x40\x00"[..], &[1; 0x4000]].concat(),
        &[&b"\x16\x03\x01\xff\xff"[..], &[1; 0xffff]].concat(),
        // Data, an alert, a change of ciphers, before anything.
        b"\x17\x03\x03\x00\x05hello",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x14\x03\x03\x00\x01\x01",
        // A handshake message that says that it is 16 MiB long.
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
    ];
    for (n, rubbish) in rubbish.iter().enumerate() {
        let mut stream = server.tcp();
        let _ = stream.write_all(rubbish);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        read_to_end(&stream, &stream);
        client.update(n as u64, &[cell(&format!("k{n}"), "c", "v", 1)]);
    }
    let count = ["malformed", "broken", "refused"].map(|kind| failed(&server, kind)).iter().sum::<u64>();
    assert_eq!(count, rubbish.len() as u64, "{:?}", server.metric_lines("causeway_tls"));

    for request in ["GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", &upgrade_request("/?channel=list")] {
        let answer = common::exchange(server.tcp(), request.as_bytes()).unwrap();
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains("https://") && answer.text().contains("wss://"), "{}", answer.text());
        let length = answer.header("content-length").unwrap().parse();
        assert_eq!(length, Ok(answer.body.len()));
    }
    assert_eq!(failed(&server, "plain"), 2);
}

#[test]
fn a_full_server_closes_before_the_handshake() {
    let server = Server::over_tls("memory", &Certificate::new(), &[("max-connections", "1")]);
    let mut client = server.connect("list");
    let refused = server.tcp();
    assert!(read_to_end(&refused, &refused).is_empty());
    client.update(1, &[cell("k", "c", "v", 1)]);
}

/// Between a server and a client that does not read there is room for so many bytes, wherever they wait. Of all these sizes,
/// some leave the last of an answer in TLS, with the system's buffers full.
const STEP_BYTES: usize = 6_000;
const STEPS: usize = 40;

/// Clients that each have been sent an answer of another size and have read none of it.
fn unread_answers(server: &Server) -> Vec<Client> {
    let ask = |n| {
        let channel = format!("unread{n}");
        let value = "v".repeat(n * STEP_BYTES);
        server.connect(&channel).update(1, &[cell("k", "c", value, 1)]);
        let mut client = server.connect_narrow(&channel, 536);
        client.send_json(&pull(0));
        client
    };
    let clients = (1..=STEPS).map(ask).collect();
    // The server fills everything that there is between them.
    thread::sleep(Duration::from_millis(300));
    clients
}

/// What TLS still holds when the last write is done is sent as soon as there is room, though nothing follows that would push it.
#[test]
fn the_last_bytes_come_without_a_push() {
    let server = Server::over_tls("memory", &Certificate::new(), &[("ping-interval-ms", "600000")]);
    for (n, client) in (1..).zip(&mut unread_answers(&server)) {
        let page = client.recv_type("update");
        assert_eq!(common::changes(&page)[0][3].as_str().unwrap().len(), n * STEP_BYTES);
    }
}

/// Who takes all that it is sent and answers no ping is silent, who does not take it all is slow: nobody stays.
#[test]
fn who_stops_reading_over_tls_is_dropped() {
    let settings =
        [("slow-client-timeout-ms", "1000"), ("ping-interval-ms", "200"), ("pong-timeout-ms", "2000")];
    let server = Server::over_tls("memory", &Certificate::new(), &settings);
    let stuck = unread_answers(&server);
    server.wait_for_metric("connections", 0);
    server.wait_for_metric("outbox_bytes", 0);
    drop(stuck);
}

/// The close frame and the end of TLS both come, and a client that reads nothing holds nothing up.
#[test]
fn a_drain_says_1001_over_tls() {
    let server = Server::over_tls("memory", &Certificate::new(), &[("slow-client-timeout-ms", "1000")]);
    let stuck = unread_answers(&server);
    let mut clients: Vec<_> = (0..5).map(|n| server.connect(&format!("list{n}"))).collect();
    clients[0].update(1, &[cell("k", "c", "v", 1)]);
    let stopping = thread::spawn(move || server.stop_and_log());
    for client in &mut clients {
        let frame = client.recv_frame();
        assert_eq!((frame.opcode, frame.close_code()), (CLOSE, Some(1001)));
        client.try_send(&common::close_frame(1001, b"")).unwrap();
        // Only after the end of TLS there is nothing more to read: one of the socket alone would be an error.
        assert_eq!(client.read_bytes(1, PATIENCE), None);
        assert!(!client.stream().tls().wants_read(), "the end of TLS");
    }
    let log = stopping.join().unwrap();
    assert!(!log.contains("did not end within"), "{log}");
    drop(stuck);
}

/// Operators are asked over TLS if they want to be.
#[test]
fn operators_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "0123456789abcdef").unwrap();
    let certificate = Certificate::new();
    let settings = [
        ("admin-listen", "127.0.0.1:0"),
        ("admin-token-file", token.to_str().unwrap()),
        ("admin-tls", "true"),
    ];
    let server = Server::over_tls_in(dir.path(), "memory", &certificate, &settings);
    let address = server.operators();
    let request = "GET /admin/channels HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer 0123456789abcdef\r\n\r\n";
    let tls = Stream::over(TcpStream::connect(address).unwrap(), Some(&certificate.client()));
    assert_eq!(common::exchange(tls, request.as_bytes()).unwrap().status, 200);
    let plain = common::exchange(TcpStream::connect(address).unwrap(), request.as_bytes()).unwrap();
    assert_eq!(plain.status, 400);
}

/// The commands of the README, as they stand there.
#[test]
fn the_readme_makes_a_certificate() {
    let readme = include_str!("../README.md");
    let section = readme.split("\n### TLS\n").nth(1).unwrap().split("\n### ").next().unwrap();
    let commands: Vec<_> = section.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let make: Vec<_> = commands.iter().take_while(|line| !line.contains("causeway")).copied().collect();
    let dir = tempfile::tempdir().unwrap();
    files::shell(dir.path(), &make.join("\n"));
    let serve = commands.iter().find(|line| line.contains("causeway")).unwrap();
    let file = |flag: &str| {
        let mut words = serve.split_whitespace().skip_while(|word| *word != flag);
        dir.path().join(words.nth(1).unwrap()).to_str().unwrap().to_owned()
    };
    let (cert, key) = (file("--tls-cert"), file("--tls-key"));
    let server = Server::with("memory", &[("tls-cert", &cert), ("tls-key", &key)]);
    let log = trusting(&server, Path::new(&cert));
    assert_eq!(log, Some(200));
}

/// The answer to a client that trusts the certificate of a file.
fn trusting(server: &Server, cert: &Path) -> Option<u16> {
    use tokio_rustls::rustls::RootCertStore;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cert).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = Stream::over(server.tcp(), Some(&Arc::new(client)));
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    common::exchange(stream, request).map(|answer| answer.status)
}
