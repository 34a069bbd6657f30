//! A tiny server of the guide's protocol, that can be told to make one mistake.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::{Value, json};

/// The one mistake, made at the third update of the server's life (at the first pull, for those about pulls).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// None at all.
    None,
    /// The update is acked and forwarded, but not stored.
    ForgetsAcked,
    /// One follower does not get the update.
    SkipsFollower,
    /// The followers get a value that was altered.
    AltersValue,
    /// The ack carries a lower version than the one before.
    VersionFalls,
    /// The update is answered by an error.
    AnswersError,
    /// The update is never answered.
    NeverAcks,
    /// All connections are closed with code 1013.
    HangsUp,
}

/// What else differs between servers of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// As in the guide: one message answers a pull, acks name nothing.
    Guide,
    /// As Causeway: pages with `more`, acks with `received`.
    Paged,
}

#[derive(Debug, Default)]
struct Channel {
    version: u64,
    updates: u64,
    /// By table, key and column.
    cells: BTreeMap<(String, String, String), Value>,
    followers: HashMap<u64, TcpStream>,
}

#[derive(Debug)]
struct Server {
    mistake: Mistake,
    dialect: Dialect,
    channels: Mutex<HashMap<String, Channel>>,
}

/// Starts the server on a free port, for the life of the test process; returns its URL.
pub(crate) fn start(mistake: Mistake, dialect: Dialect) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let server = Arc::new(Server { mistake, dialect, channels: Mutex::default() });
    thread::spawn(move || {
        for (id, stream) in (0..).zip(listener.incoming().flatten()) {
            let server = Arc::clone(&server);
            // A client that goes away ends its thread by an error, as it should.
            thread::spawn(move || server.serve(id, stream));
        }
    });
    format!("ws://{address}/")
}

impl Server {
    fn serve(&self, id: u64, mut stream: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            reader.read_line(&mut request)?;
        }
        let (_, rest) = request.split_once("channel=").ok_or(io::ErrorKind::InvalidData)?;
        let name = rest.split_whitespace().next().unwrap_or_default().to_owned();
        // The answer to the key of RFC 6455's example, which the generator sends.
        stream.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )?;
        {
            let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
            let channel = channels.entry(name.clone()).or_default();
            send(&mut stream, &json!({"type": "connected", "siteId": "S", "version": channel.version}))?;
            channel.followers.insert(id, stream.try_clone()?);
        }
        loop {
            let message: Value = serde_json::from_slice(&read_frame(&mut reader)?)?;
            let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
            let channel = channels.entry(name.clone()).or_default();
            match message["type"].as_str() {
                Some("update") => self.update(id, channel, &message, &mut stream)?,
                Some("pull") => self.pull(channel, &message, &mut stream)?,
                _ => {}
            }
        }
    }

    fn update(
        &self,
        id: u64,
        channel: &mut Channel,
        update: &Value,
        sender: &mut TcpStream,
    ) -> io::Result<()> {
        channel.updates += 1;
        let mistake = if channel.updates == 3 { self.mistake } else { Mistake::None };
        let mut changes = update["changes"].as_array().cloned().unwrap_or_default();
        channel.version += 1;
        let mut version = channel.version;
        match mistake {
            Mistake::HangsUp => {
                for follower in channel.followers.values_mut() {
                    follower.write_all(&[0x88, 2, 0x03, 0xf5])?;
                }
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Mistake::AnswersError => {
                let error = json!({"type": "error", "code": "storage", "message": "no", "received": update["version"]});
                return send(sender, &error);
            }
            Mistake::NeverAcks => return Ok(()),
            Mistake::VersionFalls => version = 1,
            _ => {}
        }
        if mistake != Mistake::ForgetsAcked {
            for change in &changes {
                let text = |at: usize| change[at].as_str().unwrap_or_default().to_owned();
                let mut stored = change.clone();
                stored[5] = channel.version.into();
                let known = channel.cells.entry((text(0), text(1), text(2))).or_insert(Value::Null);
                if known[4].as_u64() < stored[4].as_u64() {
                    *known = stored;
                }
            }
        }
        let mut ack = json!({"type": "ack", "siteId": "S", "version": version});
        if self.dialect == Dialect::Paged {
            ack["received"] = update["version"].clone();
        }
        send(sender, &ack)?;
        if mistake == Mistake::AltersValue {
            changes[0][3] = "v00000000000000000000".into();
        }
        let forwarded =
            json!({"type": "update", "changes": changes, "version": channel.version, "siteId": "S"});
        let mut skip = mistake == Mistake::SkipsFollower;
        for (_, follower) in channel.followers.iter_mut().filter(|(other, _)| **other != id) {
            // Followers may have gone; the others still get theirs.
            if !std::mem::take(&mut skip) {
                let _ = send(follower, &forwarded);
            }
        }
        Ok(())
    }

    fn pull(&self, channel: &Channel, pull: &Value, stream: &mut TcpStream) -> io::Result<()> {
        let mut changes: Vec<&Value> =
            channel.cells.values().filter(|c| c[5].as_u64() > pull["version"].as_u64()).collect();
        changes.sort_by_key(|change| (change[5].as_u64(), change[8].as_u64()));
        if self.dialect == Dialect::Guide {
            let all =
                json!({"type": "update", "changes": changes, "version": channel.version, "siteId": "S"});
            return send(stream, &all);
        }
        // Pages cut through versions: their version is the last one before the cut.
        let pages: Vec<_> = changes.chunks(7).collect();
        for (at, page) in pages.iter().enumerate() {
            let more = at + 1 < pages.len();
            let next = pages.get(at + 1).map_or(channel.version + 1, |next| next[0][5].as_u64().unwrap_or(0));
            let version = next - 1;
            let page =
                json!({"type": "update", "changes": page, "version": version, "siteId": "S", "more": more});
            send(stream, &page)?;
        }
        if pages.is_empty() {
            send(
                stream,
                &json!({"type": "update", "changes": [], "version": channel.version, "more": false}),
            )?;
        }
        Ok(())
    }
}

fn send(stream: &mut TcpStream, message: &Value) -> io::Result<()> {
    let text = message.to_string();
    let mut frame = vec![0x81];
    match text.len() {
        len @ 0..=125 => frame.push(len as u8),
        len @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(text.as_bytes());
    stream.write_all(&frame)
}

/// One client frame, which must be masked and whole.
fn read_frame(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = [0; 2];
    reader.read_exact(&mut head)?;
    assert_eq!(head[1] & 0x80, 0x80, "client frames must be masked");
    let len = match head[1] & 0x7f {
        126 => {
            let mut len = [0; 2];
            reader.read_exact(&mut len)?;
            u64::from(u16::from_be_bytes(len))
        }
        127 => {
            let mut len = [0; 8];
            reader.read_exact(&mut len)?;
            u64::from_be_bytes(len)
        }
        len => u64::from(len),
    };
    let mut mask = [0; 4];
    reader.read_exact(&mut mask)?;
    let mut payload = vec![0; len as usize];
    reader.read_exact(&mut payload)?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok(payload)
}
