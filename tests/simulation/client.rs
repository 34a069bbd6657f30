//! A client as the guide has it: it keeps its own database, sends what it has written until that is acked, and pulls from
//! the version of the last message that it has applied whenever it connects.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use crate::common::{CLOSE, Frame, PING, PONG, TEXT};
use crate::message;
use crate::model::Model;
use crate::oracle::Oracle;
use crate::plan::Habits;
use crate::random::Random;
use crate::socket::Socket;
use crate::writer::Writer;

/// A client gives a connection up on which it has heard nothing for so long: pings come more often.
const SILENCE: Duration = Duration::from_millis(1500);

pub(crate) struct Client {
    pub(crate) name: String,
    habits: Habits,
    oracle: Oracle,
    random: Random,
    /// Its database.
    model: Model,
    writer: Writer,
    /// The channel's version up to which it has applied all.
    cursor: u64,
    /// Up to where the oracle has seen that.
    checked: u64,
    /// The highest version that the server has ever told, and the server's site.
    seen: u64,
    server: Option<String>,
    /// Its updates without an ack, by its own version.
    open: BTreeMap<u64, Value>,
    version: u64,
}

/// What a client knows of one connection.
#[derive(Default)]
struct Session {
    greeted: bool,
    /// Whether the answer to a pull has begun. What came before it is above a gap.
    pulled: bool,
    /// Whether the last page has said that another follows.
    more: bool,
    /// No update may be below this, and no ack below that.
    floor: u64,
    ack_floor: u64,
    /// Pulls on their way, each of which may lower the floor once.
    pulls: Vec<u64>,
    /// Updates to send again.
    refused: Vec<u64>,
    /// The version that the channel is known to have come to.
    reached: u64,
}

/// Why a connection ends.
enum End {
    /// All is done.
    Done,
    HungUp,
    Closed(Option<u16>),
    Silent,
    Broken(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        End::Broken(error)
    }
}

impl Client {
    pub(crate) fn new(name: String, habits: Habits, oracle: Oracle, mut random: Random) -> Self {
        let writer = Writer::new(&name, &habits, random.fork());
        Client {
            name,
            habits,
            oracle,
            random,
            model: Model::default(),
            writer,
            cursor: 0,
            checked: 0,
            seen: 0,
            server: None,
            open: BTreeMap::new(),
            version: 0,
        }
    }

    /// Connects again and again until all is done.
    pub(crate) async fn run(mut self) {
        loop {
            match Socket::connect(&self.habits.channel).await {
                Ok(mut socket) => {
                    self.oracle.count("connections");
                    match self.session(&mut socket).await {
                        Ok(()) | Err(End::Done) => break,
                        Err(end) => self.note_end(&end),
                    }
                }
                Err(e) => self.oracle.trace(|| format!("{}: no connection: {e}", self.name)),
            }
            sleep(self.random.millis(1..=150)).await;
        }
        self.oracle.trace(|| format!("{}: done", self.name));
        self.oracle.at_the_end(self.name, &self.habits.channel, self.model.content());
    }

    fn note_end(&self, end: &End) {
        let (count, text) = match end {
            End::Done => return,
            End::HungUp => ("hung up", "hung up".to_owned()),
            End::Closed(Some(1001)) => ("closed: going away", "closed: 1001".into()),
            End::Closed(Some(1013)) => ("closed: try again later", "closed: 1013".into()),
            End::Closed(code) => ("closed", format!("closed: {code:?}")),
            End::Silent => ("fell silent", "fell silent".into()),
            End::Broken(e) => ("broke", format!("broke: {e}")),
        };
        self.oracle.count(count);
        self.oracle.trace(|| format!("{}: {text}", self.name));
    }

    async fn session(&mut self, socket: &mut Socket) -> Result<(), End> {
        let mut session = Session::default();
        if self.habits.writes_first {
            self.send_open(socket);
        }
        self.pull(socket, &mut session, self.cursor);
        if !self.habits.writes_first {
            self.send_open(socket);
        }
        let mut heard = Instant::now();
        let mut reads_again = Instant::now();
        let mut acts = Instant::now() + self.random.millis(1..=self.habits.pause_ms);
        loop {
            if Instant::now() < reads_again {
                if let Ok(error) = timeout_at(acts.min(reads_again), socket.only_write()).await {
                    return Err(error.into());
                }
                heard = Instant::now();
            } else {
                match timeout_at(acts.min(heard + SILENCE), socket.next()).await {
                    Ok(frame) => {
                        heard = Instant::now();
                        self.frame(socket, &mut session, frame?)?;
                    }
                    Err(_) if heard.elapsed() >= SILENCE => return Err(End::Silent),
                    Err(_) => {}
                }
            }
            if Instant::now() >= acts {
                if let Some(pause) = self.act(socket, &mut session)? {
                    reads_again = Instant::now() + pause;
                }
                acts = Instant::now() + self.random.millis(1..=self.habits.pause_ms);
            }
        }
    }

    /// Does one thing; gives for how long to stop reading.
    fn act(&mut self, socket: &mut Socket, session: &mut Session) -> Result<Option<Duration>, End> {
        session.refused.drain(..).for_each(|version| self.send(socket, version));
        if self.oracle.is_healed() {
            let done = self.open.is_empty()
                && session.pulled
                && self.oracle.all_acked(&self.habits.channel)
                && session.reached >= self.oracle.tail(&self.habits.channel);
            return if done { Err(End::Done) } else { Ok(None) };
        }
        let what = self.random.below(1000);
        if what < self.habits.stops_reading {
            self.oracle.count("stopped reading");
            return Ok(Some(self.random.millis(50..=1200)));
        }
        if what < self.habits.stops_reading + self.habits.pulls_again {
            let from = self.random.between(0..=self.cursor);
            self.oracle.count("pulled again");
            self.pull(socket, session, from);
            return Ok(None);
        }
        for _ in 0..self.random.between(1..=self.habits.burst) {
            self.version += 1;
            let changes = self.writer.update(&mut self.model);
            self.oracle.made(&self.habits.channel, &self.name, self.version, &changes);
            let update = message::update(&self.name, self.version, &self.habits.channel, &changes);
            self.open.insert(self.version, update);
            self.send(socket, self.version);
        }
        Ok(None)
    }

    fn pull(&self, socket: &mut Socket, session: &mut Session, from: u64) {
        self.oracle.trace(|| format!("{}: pulls from {from}", self.name));
        session.pulls.push(from);
        let pull = message::pull(&self.name, from, &self.habits.channel);
        socket.send(TEXT, pull.to_string().as_bytes());
    }

    fn send(&self, socket: &mut Socket, version: u64) {
        self.oracle.trace(|| format!("{}: sends {version}", self.name));
        socket.send(TEXT, self.open[&version].to_string().as_bytes());
    }

    fn send_open(&self, socket: &mut Socket) {
        for version in self.open.keys() {
            self.send(socket, *version);
        }
    }

    fn frame(&mut self, socket: &mut Socket, session: &mut Session, frame: Frame) -> Result<(), End> {
        match frame.opcode {
            PING => socket.send(PONG, &frame.payload),
            CLOSE => return Err(End::Closed(frame.close_code())),
            TEXT => {
                let message: Value = serde_json::from_slice(&frame.payload).unwrap();
                self.message(session, &message);
                if self.random.permille(self.habits.hangs_up) && !self.oracle.is_healed() {
                    return Err(End::HungUp);
                }
            }
            other => self.oracle.broken(|| format!("{}: a frame of opcode {other}", self.name)),
        }
        Ok(())
    }

    fn message(&mut self, session: &mut Session, message: &Value) {
        let version = message["version"].as_u64();
        let kind = message["type"].as_str().unwrap_or_default();
        self.oracle.trace(|| {
            let changes = message["changes"].as_array().map(Vec::len);
            let (received, more) = (&message["received"], &message["more"]);
            format!(
                "{}: {kind} {version:?}, {changes:?} changes, received {received}, more {more}",
                self.name
            )
        });
        self.oracle.expect(session.greeted != (kind == "connected"), || {
            format!("{}: {message} at the wrong place", self.name)
        });
        match (kind, version) {
            ("connected", Some(version)) => self.connected(session, version, message),
            ("ack", Some(version)) => self.acked(session, version, message),
            ("update", Some(version)) => self.updated(session, version, message),
            ("error", _) => {
                let code = message["code"].as_str().unwrap_or_default();
                match code {
                    "storage" => self.oracle.count("storage errors"),
                    // It was too slow for all the pulls that it has asked for; it holds no less for that.
                    "rate_limited" if self.habits.pulls_again > 0 => self.oracle.count("pulls refused"),
                    _ => self.oracle.broken(|| format!("{}: {message}", self.name)),
                }
                if let Some(received) = message["received"].as_u64().filter(|n| self.open.contains_key(n)) {
                    // "Send it again later."
                    session.refused.push(received);
                }
            }
            _ => self.oracle.broken(|| format!("{}: {message}", self.name)),
        }
    }

    fn connected(&mut self, session: &mut Session, version: u64, message: &Value) {
        session.greeted = true;
        (session.floor, session.ack_floor) = (version, version);
        let site = message["siteId"].as_str().unwrap_or_default();
        // A channel is made with its first update; before, every server has another site for it.
        let server = self.server.replace(site.into()).filter(|_| self.seen > 0);
        self.oracle.expect(server.is_none_or(|server| server == site), || {
            format!("{}: the channel's site has changed", self.name)
        });
        self.sees(version, message);
        self.oracle.expect(version >= self.seen, || {
            format!("{}: the server is at {version}, and was at {}", self.name, self.seen)
        });
        self.seen = version;
    }

    fn acked(&mut self, session: &mut Session, version: u64, message: &Value) {
        let received = message["received"].as_u64().unwrap_or_default();
        self.oracle.count("acks");
        self.sees(version, message);
        self.seen = self.seen.max(version);
        let (floor, channel) = (session.ack_floor, &self.habits.channel);
        self.oracle.expect(version >= floor, || format!("{}: {message} after an ack of {floor}", self.name));
        session.ack_floor = version;
        self.oracle.expect(self.open.remove(&received).is_some(), || {
            format!("{}: {message}, which does not wait for an ack", self.name)
        });
        self.oracle.acked(channel, &self.name, received, version);
        // No update of a lower version may follow. Before the pull's answer there is a gap below; and a pull under way will go back.
        if session.pulls.is_empty() {
            session.floor = session.floor.max(version);
        }
        self.applied(session, version, self.habits.acks_count);
    }

    fn updated(&mut self, session: &mut Session, version: u64, message: &Value) {
        self.sees(version, message);
        self.seen = self.seen.max(version);
        match message["more"].as_bool() {
            None => self.oracle.count("live updates"),
            Some(more) => {
                self.oracle.count("pages");
                if !session.pulled {
                    // Nothing has `more` before the answer to the first pull.
                    session.pulled = true;
                    session.floor = session.pulls.remove(0);
                } else if !session.more && session.pulls.is_empty() {
                    self.oracle.count("falls back to pages");
                }
                session.more = more;
            }
        }
        if version < session.floor
            && let Some(at) = session.pulls.iter().position(|from| *from <= version)
        {
            // The answer to this pull has begun, so those before it are answered.
            session.floor = session.pulls.drain(..=at).next_back().unwrap_or_default();
        }
        let floor = session.floor;
        self.oracle.expect(version >= floor, || format!("{}: {message} after version {floor}", self.name));
        session.floor = version;
        let changes = message::changes(message);
        if session.more && changes.last().is_some_and(|change| change.db_version > version) {
            self.oracle.count("versions split over pages");
        }
        self.oracle.received(&self.habits.channel, &self.name, version, &changes);
        self.model.update(&changes);
        self.applied(session, version, true);
    }

    /// A message of that version is applied.
    fn applied(&mut self, session: &mut Session, version: u64, counts: bool) {
        if session.pulled {
            session.reached = session.reached.max(version);
            self.oracle.holds(&self.habits.channel, &self.name, &mut self.model, &mut self.checked, version);
            if counts {
                self.cursor = version;
            }
        }
    }

    /// The server has told a version: it is on the disk.
    fn sees(&mut self, version: u64, message: &Value) {
        let tail = self.oracle.tail(&self.habits.channel);
        self.oracle
            .expect(version <= tail, || format!("{}: {message}, and the disk is at {tail}", self.name));
    }
}

/// Somebody new pulls everything at the end.
pub(crate) async fn pull_all(oracle: &Oracle, channel: &str) -> io::Result<()> {
    let mut socket = Socket::connect(channel).await?;
    socket.send(TEXT, message::pull("fresh", 0, channel).to_string().as_bytes());
    let mut model = Model::default();
    loop {
        let frame = socket.next().await?;
        if frame.opcode == PING {
            socket.send(PONG, &frame.payload);
        }
        if frame.opcode != TEXT {
            continue;
        }
        let message: Value = serde_json::from_slice(&frame.payload)?;
        oracle
            .trace(|| format!("fresh: {} {}, more {}", message["type"], message["version"], message["more"]));
        if message["type"] == "update" {
            model.update(&message::changes(&message));
            if message["more"] == false {
                oracle.at_the_end(format!("fresh {channel}"), channel, model.content());
                return Ok(());
            }
        }
    }
}
