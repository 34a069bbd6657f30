//! Nodes behind nginx as `deploy/nginx/causeway-cluster.conf` has it: who shares a channel is at the same node, and where that fails, at
//! the same other one. `nginx` and `redis-server` must be installed.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::redis::{Cluster, Redis, free_port};
use common::{
    Certificate, Client, PATIENCE, Response, Server, Stream, cell, cert_file, changes, exchange, key_file,
    keys, signal, update,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio_rustls::rustls::ClientConfig;

const NODES: [&str; 3] = ["a", "b", "c"];

/// So many that each node is some channel's.
const CHANNELS: usize = 60;

/// A running nginx, stopped when it is dropped.
struct Nginx {
    addr: SocketAddr,
    tls: Arc<ClientConfig>,
    child: Child,
}

impl Nginx {
    /// One before these nodes, with the example as it stands but for addresses and files.
    fn start(cluster: &Cluster, nodes: &[SocketAddr]) -> Self {
        let dir = cluster.place.path("");
        let certificate = Certificate::new();
        certificate.write(&dir);
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (cert, key) = (cert_file(&dir), key_file(&dir));
        let mut example = include_str!("../deploy/nginx/causeway-cluster.conf").to_owned();
        let mut put = |old: &str, new: &str| {
            assert_eq!(example.matches(old).count(), 1, "{old}");
            example = example.replace(old, new);
        };
        put("    listen [::]:443 ssl;\n", "");
        put("listen 443 ssl", &format!("listen {addr} ssl"));
        put("/etc/ssl/relay.example.org.pem", cert.to_str().unwrap());
        put("/etc/ssl/relay.example.org.key", key.to_str().unwrap());
        put("/var/log/nginx/causeway.log", cluster.place.path("access.log").to_str().unwrap());
        for (n, node) in nodes.iter().enumerate() {
            put(&format!("10.0.0.{}:8080", n + 1), &node.to_string());
        }
        let conf = cluster.place.write("nginx.conf", &around(&example, cluster));
        let child = Command::new("nginx")
            .args(["-e", "stderr", "-c", &conf, "-p", dir.to_str().unwrap()])
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx is installed, and in the PATH");
        let nginx = Self { addr, tls: certificate.client(), child };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(nginx.addr).is_err() {
            assert!(Instant::now() < deadline, "nginx does not start");
            thread::sleep(Duration::from_millis(10));
        }
        nginx
    }

    fn stream(&self) -> Stream {
        Stream::over(TcpStream::connect(self.addr).unwrap(), Some(&self.tls))
    }

    fn connect(&self, channel: &str) -> Client {
        Client::connect_over(self.stream(), channel)
    }

    fn get(&self, target: &str) -> Response {
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        exchange(self.stream(), request.as_bytes()).unwrap()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it, which they would not if it were killed.
        signal(self.child.id(), "TERM");
        let _ = self.child.wait();
    }
}

/// What nginx needs around a file of conf.d to run anywhere.
fn around(conf: &str, cluster: &Cluster) -> String {
    let path = |name: &str| cluster.place.path(name).display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {};\n", path(what)))
        .collect();
    let pid = path("nginx.pid");
    format!(
        "daemon off;\nworker_processes 2;\npid {pid};\nerror_log stderr crit;\nevents {{}}\nhttp {{\n{temporary}{conf}}}\n"
    )
}

/// At which of the nodes a client is; they have the channel under site ids of their own.
#[track_caller]
fn node_of(client: &Client, nodes: &[Option<Server>], channel: &str) -> usize {
    let is = |node: &Option<Server>| {
        node.as_ref()
            .is_some_and(|node| node.connect(channel).connected["siteId"] == client.connected["siteId"])
    };
    nodes.iter().position(is).unwrap_or_else(|| panic!("{:?} is of no node", client.connected))
}

fn rows(prefix: &str, n: u64) -> Value {
    cell(&format!("{prefix}{n}"), "c", n, 1)
}

#[test]
fn the_clients_of_a_channel_are_at_one_node_and_if_that_fails_at_one_other() {
    let redis = Redis::start();
    let cluster = Cluster::new("sqlite", &redis);
    let mut nodes = NODES.map(|node| Some(cluster.start(node)));
    let addrs = nodes.each_ref().map(|node| node.as_ref().unwrap().addr);
    let nginx = Nginx::start(&cluster, &addrs);
    let homes: Vec<_> = (0..CHANNELS)
        .map(|n| {
            let channel = format!("list {n}");
            let found = [nginx.connect(&channel), nginx.connect(&channel), nginx.connect(&channel)]
                .map(|client| node_of(&client, &nodes, &channel));
            assert!(found.iter().all(|node| *node == found[0]), "{channel} is at {found:?}");
            found[0]
        })
        .collect();
    assert_eq!(homes.iter().collect::<BTreeSet<_>>().len(), NODES.len(), "{homes:?}");
    // Who names no channel is where `default` is, whatever path it came by.
    let found = ["/?channel=default", "/", "/?", "/ws?channel=", "/sync?channel=default&x=1"]
        .map(|target| node_of(&Client::over_to(nginx.stream(), target), &nodes, "default"));
    assert!(found.iter().all(|node| *node == found[0]), "{found:?}");
    for (target, status) in [("/healthz", 200), ("/metrics", 404), ("/readyz", 404), ("/admin/channels", 404)]
    {
        assert_eq!(nginx.get(target).status, status, "{target}");
    }

    let channel = "list 0";
    let home = homes[0];
    let (mut writer, mut reader) = (nginx.connect(channel), nginx.connect(channel));
    for n in 1..=50 {
        writer.update(n, &[rows("before", n)]);
        assert_eq!(keys(changes(&reader.recv_type("update"))), [format!("before{n}")]);
    }
    nodes[home].take().unwrap().kill();
    assert_eq!((writer.until_closed(), reader.until_closed()), (None, None));
    let (mut writer, mut reader) = (nginx.connect(channel), nginx.connect(channel));
    let other = node_of(&writer, &nodes, channel);
    assert!(other != home && other == node_of(&reader, &nodes, channel));
    for n in 1..=50 {
        // What was published before the end may still come in between.
        writer.send_json(&update(n, &[rows("after", n)]));
        while writer.recv_json()["type"] != "ack" {}
        while !keys(changes(&reader.recv_type("update"))).contains(&format!("after{n}")) {}
    }
    // The channels of others stay where they are.
    for (n, was) in homes.iter().enumerate().filter(|(_, was)| **was != home) {
        let channel = format!("list {n}");
        assert_eq!(node_of(&nginx.connect(&channel), &nodes, &channel), *was, "{channel}");
    }
    // Once it is back it has everything, and so do the others; and new clients come to it again.
    nodes[home] = Some(cluster.start_with(NODES[home], &[("listen", &addrs[home].to_string())]));
    cluster.agree(&NODES, channel, 100);
    let deadline = Instant::now() + PATIENCE;
    while node_of(&nginx.connect(channel), &nodes, channel) != home {
        assert!(Instant::now() < deadline, "nobody comes back to {home}");
        thread::sleep(Duration::from_millis(100));
    }
    let mut at_home = nginx.connect(channel);
    assert_eq!(at_home.pull_rows(0).len(), 100);
    at_home.update(101, &[rows("home", 1)]);
    // Those who are still at the other node hear of it.
    while !keys(changes(&reader.recv_type("update"))).contains(&"home1".to_owned()) {}
}

#[test]
fn who_is_refused_for_want_of_room_comes_to_the_next_node() {
    let redis = Redis::start();
    let cluster = Cluster::new("memory", &redis);
    let nodes = NODES.map(|node| cluster.start_with(node, &[("max-connections-per-channel", "1")]));
    let nginx = Nginx::start(&cluster, &nodes.each_ref().map(|node| node.addr));
    let clients = [nginx.connect("list"), nginx.connect("list"), nginx.connect("list")];
    let ids: BTreeSet<_> = clients.iter().map(|client| client.connected["siteId"].to_string()).collect();
    assert_eq!(ids.len(), NODES.len());
}
