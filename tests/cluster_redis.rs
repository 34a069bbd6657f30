//! How nodes get at a real Redis: over TLS, as a user who may do nothing else, with a password that nobody is shown; and what
//! they say when they are not let in. `redis-server` must be installed.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::redis::{Cluster, Redis, free_port};
use common::{Certificate, Place, Server, cell, cert_file, changes, key_file, keys, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const CHANNEL: &str = "list";
const PASSWORD: &str = "s3cret-p@ss/word:#1";

/// All that a node's user must be allowed in Redis' ACL: no key (`~`), the cluster's topics (`redis_prefix`, `causeway` here, and the
/// protocol's version), and three commands. `HELLO`, with which a node shows its password, is allowed to everybody.
const ALLOWED: [&str; 5] = ["resetchannels", "&causeway:1:*", "+subscribe", "+publish", "+ping"];

/// A Redis that knows the user `node`: over TLS at a port, and without it at another, where the test may do everything.
struct House {
    redis: Redis,
    tls_port: u16,
    certificate: Certificate,
    /// Its files are in the place of the nodes.
    cluster: Cluster,
}

impl House {
    fn new(allowed: &[&str]) -> Self {
        let (port, tls_port) = (free_port(), free_port());
        let cluster = Cluster::over("sqlite", format!("rediss://node@localhost:{tls_port}"));
        let certificate = Certificate::new();
        certificate.write(&cluster.place.path(""));
        let dir = cluster.place.path("");
        let (cert, key) = (cert_file(&dir), key_file(&dir));
        let tls_port_text = tls_port.to_string();
        let redis = Redis::with(
            port,
            &[
                &["--tls-port", &tls_port_text, "--tls-auth-clients", "no"][..],
                &["--tls-cert-file", cert.to_str().unwrap(), "--tls-key-file", key.to_str().unwrap()],
            ]
            .concat(),
        );
        let house = House { redis, tls_port, certificate, cluster };
        house.allow(allowed);
        house.password(PASSWORD);
        house
    }

    /// What the nodes' user may do from now on. Those who are connected stay only if they may.
    fn allow(&self, allowed: &[&str]) {
        let password = format!(">{PASSWORD}");
        let user = [&["ACL", "SETUSER", "node", "reset", "on", &password], allowed].concat();
        let parts: Vec<_> = user.iter().map(|part| part.as_bytes()).collect();
        assert_eq!(self.redis.command(&parts), "+OK");
    }

    /// The password that nodes show from now on.
    fn password(&self, password: &str) {
        let path = self.cluster.place.write("password", &format!("{password}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Starts a node that shows the password and believes the certificate, unless the settings have others.
    fn start(&self, node: &str, settings: &[(&str, &str)]) -> Server {
        let path = |name: &str| self.cluster.place.path(name).to_str().unwrap().to_owned();
        let (password, ca) = (path("password"), path("cert.pem"));
        let files = [("redis-password-file", &password[..]), ("redis-ca", &ca), ("log", "trace")];
        let files = files.iter().filter(|(name, _)| settings.iter().all(|(other, _)| other != name));
        let settings: Vec<_> =
            files.chain(settings).copied().filter(|(_, value)| !value.is_empty()).collect();
        self.cluster.start_alone(node, &settings)
    }

    /// A node that is not let in says so once, and serves its clients; let in, it is a node as any.
    #[track_caller]
    fn is_not_let_in(&self, settings: &[(&str, &str)], told: &[&str], let_in: impl FnOnce(&Self)) {
        let server = self.start("a", settings);
        server.wait_for_log(" WARN causeway::bus::redis: ");
        wait_for(&server, "DEBUG causeway::bus::redis: ", 3);
        let mut client = server.connect(CHANNEL);
        client.update(1, &[cell("1", "c", 1, 1)]);
        assert_eq!((server.metric("bus_up"), server.http_get("/readyz").status), (0, 200));
        let log = server.logged();
        let warned: Vec<_> = log.lines().filter(|line| line.contains(" WARN ")).collect();
        assert_eq!(warned.len(), 1, "{warned:?}");
        for told in told {
            assert!(warned[0].contains(told), "{told:?} is not in {}", warned[0]);
        }
        assert!(!log.contains("other nodes can be heard"), "{log}");
        println!("{}", warned[0]);
        let_in(self);
        server.wait_for_log("other nodes can be heard");
        server.wait_for_metric("bus_up", 1);
        assert!(!server.logged().contains(PASSWORD));
        let log = server.stop_and_log();
        assert!(!log.contains(PASSWORD) && !log.contains("s3cret"), "{log}");
    }
}

#[track_caller]
fn wait_for(server: &Server, text: &str, times: usize) {
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while server.logged().matches(text).count() < times {
        assert!(std::time::Instant::now() < deadline, "{text:?} is not {times} times in {}", server.logged());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn nodes_need_nothing_of_redis_but_what_is_documented() {
    let house = House::new(&ALLOWED);
    let (a, b) = (house.start("a", &[]), house.start("b", &[]));
    a.wait_for_log("other nodes can be heard");
    b.wait_for_log("other nodes can be heard");
    let (mut at_a, mut at_b) = (a.connect(CHANNEL), b.connect(CHANNEL));
    at_a.update(1, &[cell("1", "c", 1, 1)]);
    assert_eq!(keys(changes(&at_b.recv_type("update"))), ["1"]);
    // A node that has missed something asks for it, and is answered.
    b.kill();
    at_a.update(2, &[cell("2", "c", 1, 1)]);
    let b = house.start("b", &[]);
    house.cluster.agree(&["a", "b"], CHANNEL, 2);
    assert!(b.metric("bus_repairs_total") > 0);
    assert_eq!(house.redis.command(&[b"ACL", b"LOG"]), "*0", "nothing was refused");
    for log in [a.stop_and_log(), b.stop_and_log()] {
        assert!(!log.contains(" WARN ") && !log.contains("s3cret"), "{log}");
    }
}

#[test]
fn each_of_it_is_needed() {
    for missing in ["&causeway:1:*", "+subscribe", "+publish", "+ping"] {
        let allowed: Vec<_> = ALLOWED.into_iter().filter(|allowed| *allowed != missing).collect();
        let told = ["Redis' ACL does not let this node hear and tell others", "docs/cluster.md", "NoPerm"];
        House::new(&allowed).is_not_let_in(&[], &told, |house| house.allow(&ALLOWED));
    }
}

#[test]
fn a_wrong_password_is_told_and_may_be_put_right() {
    let house = House::new(&ALLOWED);
    house.password("s3cret, but another");
    let told = ["Redis does not take the user and password", "redis_password_file", "WRONGPASS"];
    house.is_not_let_in(&[], &told, |house| house.password(PASSWORD));
    // In the URL, where it stands encoded.
    let url = |password: &str| format!("rediss://node:{password}@localhost:{}", house.tls_port);
    let (wrong, right, shown) = (url("s3cret"), url("s3cret-p%40ss%2Fword%3A%231"), url("***"));
    let settings = [("redis", &wrong[..]), ("redis-password-file", "")];
    let told = [&told[..], &[&shown]].concat();
    let other = format!(">{}", "s3cret");
    let user = [&b"ACL"[..], b"SETUSER", b"node", other.as_bytes()];
    house.is_not_let_in(&settings, &told, |house| assert_eq!(house.redis.command(&user), "+OK"));
    let server = house.start("a", &[("redis", &right), ("redis-password-file", "")]);
    server.wait_for_log("other nodes can be heard");
    assert!(!server.stop_and_log().contains("s3cret"));
}

#[test]
fn a_certificate_of_somebody_else_is_told() {
    let house = House::new(&ALLOWED);
    let told = ["Redis' certificate is not believed", "redis_ca", "invalid peer certificate"];
    let other = house.cluster.place.write("other.pem", &Certificate::new().cert_pem);
    house.is_not_let_in(&[("redis-ca", &other)], &told, |house| {
        house.cluster.place.write("other.pem", &house.certificate.cert_pem);
    });
    // The system does not trust it either.
    let server = house.start("a", &[("redis-ca", "")]);
    server.wait_for_log("Redis' certificate is not believed");
    // Nor is it for every name.
    let url = format!("rediss://node@127.0.0.1:{}", house.tls_port);
    let server = house.start("b", &[("redis", &url)]);
    server.wait_for_log("Redis' certificate is not believed");
    assert!(server.logged().contains("not valid for name"), "{}", server.logged());
}

#[test]
fn a_password_that_others_can_read_is_told() {
    let house = House::new(&ALLOWED);
    let path = house.cluster.place.path("password");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let server = house.start("a", &[]);
    server.wait_for_log("other nodes can be heard");
    let warned = format!(
        "redis_password_file {}: others can read this secret (mode 644); chmod 600 it",
        path.display()
    );
    assert_eq!(server.logged().matches(&warned).count(), 1, "{}", server.logged());
}

#[test]
fn files_that_cannot_be_used_are_told_at_the_start() {
    let place = Place::new("memory");
    place.write("empty", "\n");
    place.write("lines", "s3cret\nand more\n");
    place.write("no.pem", "s3cret");
    place.write("damaged.pem", "-----BEGIN CERTIFICATE-----\ns3cr\n-----END CERTIFICATE-----\n");
    for (setting, file) in [
        ("redis-password-file", "/nowhere"),
        ("redis-password-file", "/empty"),
        ("redis-password-file", "/lines"),
        ("redis-ca", "/nowhere"),
        ("redis-ca", "/no.pem"),
        ("redis-ca", "/damaged.pem"),
    ] {
        let flag = format!("--{setting}");
        let arguments =
            ["--redis", "rediss://localhost", "--node", "a", &flag, file, "--listen", "127.0.0.1:0"];
        let refused = place.run(&[&["serve"], &arguments[..]].concat());
        assert_eq!(refused.code, Some(1), "{refused:?}");
        let checked = place.run(&[&["check-config"], &arguments[..]].concat());
        assert_eq!(checked.code, Some(1), "{checked:?}");
        let named = format!("{} {}", setting.replace('-', "_"), place.path(&file[1..]).display());
        for told in [refused.stderr, checked.stdout] {
            assert!(told.contains(&named) && !told.contains("s3cr"), "{setting} {file}: {told}");
        }
    }
}

#[test]
fn a_password_in_the_url_is_shown_to_nobody() {
    let place = Place::new("memory");
    let url = "redis://node:s3cret@127.0.0.1:1";
    let shown = "redis://node:***@127.0.0.1:1";
    let node = ["--node", "a", "--redis"];
    for (command, told) in [
        (&["serve", "--print-config"][..], format!("redis = \"{shown}\"")),
        (&["check-config"], format!(" {shown}\n")),
        (&["check-config", "--json"], format!("\"found\":\"{shown}\"")),
    ] {
        let finished = place.run(&[command, &node, &[url]].concat());
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert!(finished.stdout.contains(&told), "{told} is not in {finished:?}");
        assert!(!format!("{finished:?}").contains("s3cret"), "{finished:?}");
    }
    // What is wrong shows it as little, wherever it stands.
    for text in ["redis = \"redis://node:s3cret@127.0.0.1", "redis = \"http://node:s3cret@h\"\nnode = \"a\""]
    {
        let file = place.write("bad.toml", text);
        let finished = run(&["check-config", "--config", &file], &[("CAUSEWAY_NODE", "a")]);
        assert!(finished.code == Some(1) && finished.stderr.contains("bad.toml"), "{finished:?}");
        assert!(!format!("{finished:?}").contains("s3cret"), "{finished:?}");
    }
    let finished = run(&["check-config"], &[("CAUSEWAY_REDIS", "valkey://node:s3cret@h")]);
    assert!(
        finished.stderr.contains("CAUSEWAY_REDIS") && !finished.stderr.contains("s3cret"),
        "{finished:?}"
    );
    // A file that was printed says why it cannot be used.
    let finished = place.run(&[&["check-config"], &node[..], &[shown]].concat());
    assert!(finished.stderr.contains("redis_password_file"), "{finished:?}");
    // While it runs.
    let file = place.write("causeway.toml", &format!("node = \"a\"\nredis = \"{url}\"\n"));
    let server = place.serve_with(&[("config", &file), ("log", "trace")]);
    server.wait_for_log(&format!("redis={shown}"));
    place.write("causeway.toml", "node = \"a\"\nredis = \"redis://node:s3cret2@127.0.0.1:2\"\n");
    server.signal("HUP");
    server.wait_for_log("not reloaded: redis: ");
    place.write("causeway.toml", "redis = \"redis://node:s3cret3@127.0.0.1:2\n");
    server.signal("HUP");
    server.wait_for_log("nothing is reloaded");
    let log = server.stop_and_log();
    assert!(log.contains(shown) && !log.contains("s3cret"), "{log}");
}
