//! A server within the test, over a real store that fails on command.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use causeway::config::Config;
use causeway::relay::Relay;
use causeway::server::Server;
use causeway_storage::faulty::{Faults, Faulty};
use causeway_storage::{ChangeStore, StoreOptions};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::common::{Client, Response, cell, changes, exchange, keys, number, pull, update, upgrade_request};

pub(crate) struct House {
    pub(crate) faults: Faults,
    addr: SocketAddr,
    server: Arc<Server>,
    store: Arc<dyn ChangeStore>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<bool>>,
    runtime: Runtime,
    _temp: TempDir,
}

impl House {
    /// One shard: its channels share a thread.
    pub(crate) fn new(store: &str) -> Self {
        Self::with(store, |config| config.shards = 1)
    }

    pub(crate) fn with(store: &str, configure: impl FnOnce(&mut Config)) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let mut config = Config { listen: "127.0.0.1:0".into(), ..Config::default() };
        configure(&mut config);
        let faults = Faults::default();
        let backend = causeway_storage::backend(store).unwrap();
        let inner = (backend.open)(&StoreOptions::new(temp.path().join("data"))).unwrap();
        let store: Arc<dyn ChangeStore> = Arc::new(Faulty::new(inner, faults.clone()));
        // As many threads as the real server has.
        let threads = config.page_readers + 2;
        let runtime = Builder::new_multi_thread().max_blocking_threads(threads).enable_all().build().unwrap();
        let (stop, stopped) = oneshot::channel();
        let (server, addr, running) = runtime.block_on(async {
            let (server, listener, addr) = Server::bind(&config, None).unwrap();
            server.open(store.clone(), None).unwrap();
            let running = tokio::spawn(server.clone().run(listener, async { drop(stopped.await) }));
            (server, addr, running)
        });
        let (stop, running) = (Some(stop), Some(running));
        House { faults, addr, server, store, stop, running, runtime, _temp: temp }
    }

    pub(crate) fn connect(&self, channel: &str) -> Client {
        Client::connect(self.addr, channel)
    }

    /// A handshake that is answered with HTTP.
    pub(crate) fn refused(&self, channel: &str) -> Response {
        self.http(&upgrade_request(&format!("/?channel={channel}")))
    }

    /// The lines of `/metrics` that begin so.
    pub(crate) fn metrics(&self, prefix: &str) -> Vec<String> {
        let text = self.http("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").text();
        text.lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect()
    }

    pub(crate) fn relay(&self) -> Arc<Relay> {
        self.server.relay().unwrap()
    }

    /// The version of a channel as it is stored.
    pub(crate) fn stored(&self, channel: &str) -> u64 {
        self.store.reader(channel).unwrap().head().unwrap().version
    }

    fn http(&self, request: &str) -> Response {
        exchange(TcpStream::connect(self.addr).unwrap(), request.as_bytes()).unwrap()
    }

    /// Begins to drain.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for the end; gives whether it came within `drain_timeout`.
    pub(crate) fn stopped(&mut self) -> bool {
        self.stop();
        let in_time = self.running.take().is_none_or(|running| self.runtime.block_on(running).unwrap());
        if let Some(relay) = self.server.relay() {
            relay.readers.close();
            relay.shards.stop();
        }
        self.store.close().unwrap();
        in_time
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.faults.clear();
        self.faults.release();
        self.stopped();
    }
}

/// An update of one new cell, named after its number.
pub(crate) fn write(n: u64) -> Value {
    update(n, &[new_cell(n)])
}

pub(crate) fn new_cell(n: u64) -> Value {
    cell(&format!("k{n}"), "c", n, 1)
}

/// The next message is the `storage` error that answers the update `received`.
#[track_caller]
pub(crate) fn expect_storage(client: &mut Client, received: u64) {
    let error = client.recv_type("error");
    assert_eq!((&error["code"], &error["received"]), (&"storage".into(), &received.into()), "{error}");
}

/// The next message is the live update of that version, with just that cell.
#[track_caller]
pub(crate) fn expect_told(client: &mut Client, version: u64, n: u64) {
    let told = client.recv_type("update");
    assert_eq!((&told["version"], keys(changes(&told))), (&version.into(), vec![format!("k{n}")]), "{told}");
}

/// A client that comes now finds just these cells, in versions without a gap.
#[track_caller]
pub(crate) fn expect_there(house: &House, channel: &str, cells: &[u64]) {
    let mut client = house.connect(channel);
    assert_eq!(client.connected_version(), cells.len() as u64, "the channel's version");
    let rows = client.pull_rows(0);
    assert_eq!(keys(&rows), cells.iter().map(|n| format!("k{n}")).collect::<Vec<_>>());
    let versions: Vec<_> = rows.iter().map(|row| number(row, 5)).collect();
    assert_eq!(versions, (1..=cells.len() as u64).collect::<Vec<_>>());
}

/// Sends an update, and comes back when it waits in its shard: the answer to a pull that came with it is there.
/// Nothing else has come by then.
#[track_caller]
pub(crate) fn send_and_see_it_wait(client: &mut Client, message: &Value, version: u64) {
    client.send_json(message);
    client.send_json(&pull(version));
    let page = client.recv_type("update");
    assert_eq!((&page["version"], changes(&page).len()), (&version.into(), 0), "{page}");
}
