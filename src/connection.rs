//! One connection: a reader that decodes and hands over, a writer that sends what the outbox holds. Both are one task,
//! so that an idle connection costs one, and the end of either ends the other.

mod life;

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use causeway_storage::Schema;
use fastwebsockets::OpCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use crate::auth::Denied;
use crate::ending::{Ending, Reason};
use crate::fanout::{Pending, Sender};
use crate::limits::Limit;
use crate::limits::meter::{Limited, Meter};
use crate::limits::partial::Partial;
use crate::metrics::{AuthAt, MessageType};
use crate::outbox::{Outbox, PageStart, TAKE_MAX_SLABS as WRITE_SLABS, Taken};
use crate::page::PageLimits;
use crate::protocol::decode::{self, DecodeRules};
use crate::protocol::frame::{self, Event, FrameCollector, close};
use crate::protocol::{self, Code, Incoming, Refusal};
use crate::relay::{Member, Relay};
use crate::shard::Job;
use crate::unavailable::Use;

pub use life::Origin;
use life::{LastHeard, Life, Traffic};

/// What one read asks the system for, in bytes. The buffer belongs to the thread, not to the connection.
const READ_BYTES: usize = 64 * 1024;

/// Messages above this, in bytes, are decoded on a thread that may block: 256 KiB take about half a millisecond.
const DECODE_INLINE_MAX_BYTES: usize = 256 * 1024;

/// When a pull is worth a try again that was one too many, in milliseconds.
const PULLS_RETRY_AFTER_MS: u64 = 1_000;

/// What a connection runs over: a socket, or a simulated network's.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static> Stream for S {}

/// Why a writer ended without a close frame.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("the client took no byte for slow_client_timeout")]
    Slow,
    #[error("the client answered no ping within pong_timeout")]
    Silent,
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
}

impl WriteError {
    fn reason(&self) -> Reason {
        match self {
            WriteError::Slow => Reason::Slow,
            WriteError::Silent => Reason::Silent,
            WriteError::Broken(_) => Reason::Broken,
        }
    }
}

/// Serves a connection to its end. `received` is what came together with the handshake.
pub async fn serve(relay: Arc<Relay>, io: impl Stream, received: Bytes, member: Member, origin: Origin) {
    let mut life = Life::new(&relay.metrics, &member, &origin);
    let (mut read, mut write) = tokio::io::split(io);
    let heard = LastHeard::new();
    let mut writer = pin!(write_loop(&relay, &member, &mut write, &heard, &life.traffic));
    let first = {
        let reader = Reader::new(&relay, &member, &mut read, &heard, &life);
        tokio::select! {
            biased;
            written = &mut writer => Err(written),
            denied = member.session.ended(Duration::from_millis(relay.config.ping_interval_ms)) => {
                Ok(Ok(session_ended(&relay, &member, denied)))
            }
            end = reader.run(received) => Ok(end),
        }
    };
    let (read_end, written) = match first {
        Ok(Ok(end)) => {
            // Who has said no more may still read: what it sent is acked, what it pulled is sent.
            member.leave(end, end.reason == Reason::ClientEnded);
            (Some(end.reason), writer.await)
        }
        Ok(Err(e)) => (None, Err(WriteError::Broken(e))),
        Err(written) => (None, written),
    };
    let end = match &written {
        Ok(ending) => (ending.reason, Some(ending.code)),
        // What began the end says more than what it then broke at.
        Err(e) => (read_end.unwrap_or(e.reason()), None),
    };
    life.end = end;
    match written {
        Ok(_) => linger(&mut read, Duration::from_millis(relay.config.close_timeout_ms)).await,
        Err(e) => tracing::debug!(connection = member.outbox.id(), "no close frame: {e}"),
    }
}

/// Tells the client that its token is no longer good.
fn session_ended(relay: &Relay, member: &Member, denied: Denied) -> Ending {
    relay.metrics.session_ended(denied);
    refuse(relay, member, &Refusal::new(Code::Unauthorized, denied.to_string()));
    match denied {
        Denied::Revoked => Ending::KEY_REMOVED,
        _ => Ending::TOKEN_EXPIRED,
    }
}

fn refuse(relay: &Relay, member: &Member, refusal: &Refusal) {
    relay.metrics.refused(refusal.code);
    member.outbox.reply(member.encoder.error_frame(refusal));
}

/// Reads the client's last words away, so that the system does not answer them with a reset that would overtake ours.
pub(crate) async fn linger(read: &mut (impl AsyncRead + Unpin), timeout: Duration) {
    let mut rest = [0; 1024];
    let _ =
        tokio::time::timeout(timeout, async { while matches!(read.read(&mut rest).await, Ok(1..)) {} }).await;
}

/// The reading half.
struct Reader<'c, R> {
    relay: &'c Relay,
    member: &'c Member,
    io: &'c mut R,
    frames: FrameCollector,
    heard: &'c LastHeard,
    traffic: &'c Traffic,
    meter: Meter<'c>,
    partial: Partial<'c>,
    /// When what is being taken was read.
    received: Instant,
    /// What has been read and not yet been handed over: all that came with one read is handed over together.
    jobs: Vec<Job>,
}

impl<'c, R: AsyncRead + Unpin> Reader<'c, R> {
    fn new(
        relay: &'c Relay,
        member: &'c Member,
        io: &'c mut R,
        heard: &'c LastHeard,
        life: &'c Life<'c>,
    ) -> Self {
        Reader {
            relay,
            member,
            io,
            frames: FrameCollector::new(relay.config.max_message_bytes),
            heard,
            traffic: &life.traffic,
            meter: Meter::new(&relay.limits, life.origin.client.subject.as_ref()),
            partial: Partial::new(&relay.limits),
            received: Instant::now(),
            jobs: Vec::new(),
        }
    }

    /// Reads until the client closes, breaks a rule, or the server drains.
    async fn run(mut self, received: Bytes) -> io::Result<Ending> {
        self.frames.buffer().extend_from_slice(&received);
        // It may be a small part of the handshake's buffer.
        drop(received);
        let mut draining = pin!(self.relay.draining.wait(self.member.outbox.id()));
        loop {
            let end = self.take_all().await;
            self.member.shard.send_all(&mut self.jobs);
            if let Some(end) = end {
                return Ok(end);
            }
            self.frames.rest();
            if !self.partial.hold(self.frames.held_bytes()) {
                return Ok(Ending::NO_ROOM);
            }
            self.member.outbox.wait_drained().await;
            tokio::select! {
                biased;
                () = &mut draining => return Ok(Ending::DRAINING),
                read = fill(self.io, &mut self.frames) => if read? == 0 {
                    return Ok(Ending::CLIENT_ENDED);
                },
            }
            // The clock is read once a read, for all.
            self.received = self.heard.now();
            self.meter.read(self.received);
        }
    }

    /// Takes every whole message that has arrived.
    async fn take_all(&mut self) -> Option<Ending> {
        loop {
            match self.frames.next_event() {
                // Fragments that end no message, and cost as much as messages.
                Ok(None) => return self.take_frames(0).err().and_then(|limited| self.limited(limited, None)),
                Ok(Some(Event::Message { payload, .. })) => {
                    if let Some(end) = self.message(payload).await {
                        return Some(end);
                    }
                }
                Ok(Some(Event::Ping(payload))) => {
                    if let Err(limited) = self.take_frames(payload.len()) {
                        match self.limited(limited, None) {
                            Some(end) => return Some(end),
                            None => continue,
                        }
                    }
                    let mut pong = Vec::new();
                    frame::write(OpCode::Pong, &payload, &mut pong);
                    self.member.outbox.reply(pong.into());
                }
                Ok(Some(Event::Pong)) => {}
                Ok(Some(Event::Close(code))) => return Some(Ending::client_closed(code)),
                Err(broken) => {
                    match broken.code {
                        close::TOO_LARGE => {
                            self.relay.metrics.limited(Limit::MessageBytes);
                            self.refuse(&Refusal::new(Code::TooLarge, broken.reason));
                        }
                        close::NOT_UTF8 => self.refuse(&Refusal::new(Code::Malformed, broken.reason)),
                        _ => {}
                    }
                    return Some(broken.into());
                }
            }
        }
    }

    async fn message(&mut self, payload: Vec<u8>) -> Option<Ending> {
        self.relay.metrics.received_bytes(payload.len());
        self.traffic.messages_in.add(1);
        self.traffic.bytes_in.add(payload.len());
        let taken = self.take_frames(payload.len());
        let decoded = self.decode(payload).await;
        if let Err(limited) = taken {
            // It was read to say which update is to be sent again.
            let received = match decoded {
                Ok(Incoming::Update(update)) => Some(update.version),
                Ok(_) => None,
                Err(refusal) => refusal.received,
            };
            return self.limited(limited, received);
        }
        let incoming = match decoded {
            Ok(incoming) => incoming,
            Err(refusal) => return self.bad_message(&refusal),
        };
        match incoming {
            Incoming::Update(update) => {
                self.relay.metrics.received(MessageType::Update, update.len());
                self.traffic.changes_in.add(update.len());
                if let Err(limited) = self.meter.take_changes(update.len()) {
                    return self.limited(limited, Some(update.version));
                }
                if !self.member.session.may_write() {
                    let refusal =
                        Refusal::new(Code::Forbidden, "the token grants only reading in this channel");
                    return self.bad_message(&refusal.of_update(update.version));
                }
                let bytes = update.memory_bytes();
                let permit = match self.member.shard.try_reserve(bytes) {
                    Some(permit) => permit,
                    None => {
                        // What is held back here could be what keeps the queue full.
                        self.member.shard.send_all(&mut self.jobs);
                        self.member.shard.reserve(bytes).await
                    }
                };
                let sender = Sender::Client(self.member.outbox.clone());
                let pending = Pending { sender, update, received: self.received };
                self.jobs.push(Job::Update { channel: self.member.channel.clone(), pending, permit });
            }
            Incoming::Pull { version } => {
                self.relay.metrics.received(MessageType::Pull, 0);
                if let Err(e) = self.member.outbox.pull(version) {
                    let refusal = Refusal::new(Code::RateLimited, e.to_string());
                    self.refuse(&Refusal { retry_after_ms: Some(PULLS_RETRY_AFTER_MS), ..refusal });
                }
                self.member.outbox.good_message();
            }
            Incoming::Auth { token } => {
                self.relay.metrics.received(MessageType::Auth, 0);
                if let Err(denied) = self.member.session.refresh(&token, &self.member.channel) {
                    self.relay.metrics.denied(AuthAt::Message, denied);
                    return self.bad_message(&Refusal::new(Code::Unauthorized, denied.to_string()));
                }
                self.member.outbox.good_message();
                // This task is to look again at when the session ends.
                self.member.outbox.deliver([]);
            }
        }
        None
    }

    async fn decode(&self, mut payload: Vec<u8>) -> Result<Incoming, Refusal> {
        let max_changes = self.relay.config.max_changes_per_update;
        let channel = self.relay.config.strict_channel.then_some(&self.member.channel);
        if payload.len() <= DECODE_INLINE_MAX_BYTES {
            let rules = DecodeRules { max_changes, strict_channel: channel.map(|c| &**c) };
            return decode_and_check(&mut payload, rules, self.relay.schema.as_deref());
        }
        let schema = self.relay.schema.clone();
        let channel = channel.cloned();
        let (answer, decoded) = oneshot::channel();
        self.relay.work.spawn(
            move || {
                let rules = DecodeRules { max_changes, strict_channel: channel.as_deref() };
                decode_and_check(&mut payload, rules, schema.as_deref())
            },
            // Whoever waits may have gone.
            |decoded| drop(answer.send(decoded)),
        );
        // The runtime is going away, and the client is told so in its own time.
        decoded.await.unwrap_or_else(|_| Err(Refusal::new(Code::ShuttingDown, "the server is going away")))
    }

    /// Charges what was taken since it last was.
    fn take_frames(&mut self, bytes: usize) -> Result<(), Limited> {
        match self.frames.take_count() {
            0 => Ok(()),
            frames => self.meter.take(frames, bytes),
        }
    }

    /// Refuses what is beyond a rate; nothing of it is applied. Who goes on all the same is closed.
    fn limited(&mut self, limited: Limited, received: Option<u64>) -> Option<Ending> {
        let message = format!("too much in too short a time ({})", limited.limit);
        let refusal = Refusal::new(Code::RateLimited, message);
        self.refuse(&Refusal { received, retry_after_ms: Some(limited.retry_after_ms()), ..refusal });
        self.meter.refused(limited).then_some(Ending::RATE_LIMITED)
    }

    fn bad_message(&mut self, refusal: &Refusal) -> Option<Ending> {
        if refusal.code == Code::TooManyChanges {
            self.relay.metrics.limited(Limit::UpdateChanges);
        }
        self.refuse(refusal);
        self.member.outbox.bad_message().then_some(Ending::BAD_MESSAGES)
    }

    fn refuse(&self, refusal: &Refusal) {
        refuse(self.relay, self.member, refusal);
    }
}

fn decode_and_check(
    payload: &mut Vec<u8>,
    rules: DecodeRules<'_>,
    schema: Option<&Schema>,
) -> Result<Incoming, Refusal> {
    let incoming = decode::decode(payload, rules)?;
    match schema {
        Some(schema) => protocol::check(incoming, schema),
        None => Ok(incoming),
    }
}

/// Reads once, into the thread's buffer unless a large frame is on its way; gives the number of bytes, 0 at the end.
async fn fill(io: &mut (impl AsyncRead + Unpin), frames: &mut FrameCollector) -> io::Result<usize> {
    thread_local! {
        static SCRATCH: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; READ_BYTES]);
    }
    let wanted = frames.wanted();
    if wanted > READ_BYTES {
        // At most twice what has arrived is reserved: a head that announces much and a client that sends little.
        let buffer = frames.buffer();
        buffer.reserve(wanted.min(buffer.len().max(READ_BYTES)));
        return io.read_buf(buffer).await;
    }
    std::future::poll_fn(|cx| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            let ready = Pin::new(&mut *io).poll_read(cx, &mut read);
            ready.map_ok(|()| {
                frames.buffer().extend_from_slice(read.filled());
                read.filled().len()
            })
        })
    })
    .await
}

/// Writes what the outbox holds until it says to close; gives how.
async fn write_loop(
    relay: &Arc<Relay>,
    member: &Member,
    io: &mut (impl AsyncWrite + Unpin),
    heard: &LastHeard,
    traffic: &Traffic,
) -> Result<Ending, WriteError> {
    let config = &relay.config;
    let ping_interval = Duration::from_millis(config.ping_interval_ms);
    let mut pings = tokio::time::interval_at(Instant::now() + ping_interval, ping_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let slow = Duration::from_millis(config.slow_client_timeout_ms);
    let mut taken = Taken::default();
    loop {
        member.outbox.take(&mut taken);
        if let Some(start) = taken.read_page {
            read_page(relay, member, start);
        }
        if !taken.slabs.is_empty() {
            let bytes = write_all(io, &taken.slabs, slow, heard).await?;
            relay.metrics.sent_bytes(bytes);
            traffic.bytes_out.add(bytes);
            member.outbox.sent(taken.version);
        }
        if let Some(ending) = taken.close {
            let mut bytes = Vec::new();
            frame::write_close(ending.code, ending.text, &mut bytes);
            write_all(io, &[bytes.into()], slow, heard).await?;
            // The close is on its way, whatever becomes of TLS' own last words.
            let _ = tokio::time::timeout(slow, io.shutdown()).await;
            return Ok(ending);
        }
        if !taken.slabs.is_empty() {
            continue;
        }
        tokio::select! {
            biased;
            () = member.outbox.wait() => {}
            _ = pings.tick() => {
                if heard.elapsed() >= Duration::from_millis(config.pong_timeout_ms) {
                    return Err(WriteError::Silent);
                }
                let mut ping = Vec::new();
                frame::write(OpCode::Ping, b"", &mut ping);
                member.outbox.reply(ping.into());
            }
        }
    }
}

/// Has the page read where it may block, and put into the outbox.
fn read_page(relay: &Arc<Relay>, member: &Member, start: PageStart) {
    let limits =
        PageLimits { max_bytes: relay.config.page_max_bytes, max_changes: relay.config.page_max_changes };
    let (reading, channel) = (relay.clone(), member.channel.clone());
    let (metrics, encoder) = (relay.metrics.clone(), member.encoder.clone());
    let outbox = Arc::downgrade(&member.outbox);
    let expected = ExpectedPage { outbox: outbox.clone(), came: false };
    let read = move |permit: OwnedSemaphorePermit| {
        let work = reading.work.clone();
        let page = move || {
            let _permit = permit;
            // Those who have gone meanwhile leave no read behind for others to wait for.
            outbox.upgrade()?;
            let began = Instant::now();
            let read = reading.readers.read(&channel, start, limits);
            reading.metrics.read_page(began.elapsed());
            match &read {
                Ok(_) => reading.metrics.storage_works(&channel, Use::Read),
                Err(e) => reading.metrics.storage_failed(&channel, Use::Read, e),
            }
            Some(read)
        };
        work.spawn(page, move |read| {
            let (Some(read), Some(outbox)) = (read, expected.outbox.upgrade()) else { return };
            match read {
                Ok((page, end)) => {
                    metrics.sent_page(page.changes());
                    outbox.page(end, |version, more| page.finish(&encoder, version, more));
                    expected.came();
                }
                Err(_) => {
                    let message = "the server could not read the channel; come back later";
                    let refusal = Refusal::new(Code::Storage, message);
                    metrics.refused(refusal.code);
                    outbox.reply(encoder.error_frame(&refusal));
                }
            }
        });
    };
    // Pages wait for one another here: on the threads they would keep large messages waiting as well.
    let (permits, waiting) = (relay.page_permits.clone(), relay.metrics.clone());
    match permits.clone().try_acquire_owned() {
        Ok(permit) => read(permit),
        Err(_) => drop(tokio::spawn(async move {
            let waiting = waiting.page_waits();
            // Nobody closes the semaphore.
            let Ok(permit) = permits.acquire_owned().await else { return };
            drop(waiting);
            read(permit);
        })),
    }
}

/// A page that a connection waits for. The connection is closed if it never comes, for whatever reason: else it would
/// wait for ever.
struct ExpectedPage {
    outbox: Weak<Outbox>,
    came: bool,
}

impl ExpectedPage {
    fn came(mut self) {
        self.came = true;
    }
}

impl Drop for ExpectedPage {
    fn drop(&mut self) {
        if let Some(outbox) = self.outbox.upgrade().filter(|_| !self.came) {
            outbox.page_failed(Ending::PAGE_FAILED);
        }
    }
}

/// Writes the slabs with as few calls as the system allows; gives the number of bytes.
async fn write_all(
    io: &mut (impl AsyncWrite + Unpin),
    slabs: &[Bytes],
    slow: Duration,
    heard: &LastHeard,
) -> Result<usize, WriteError> {
    let mut written = 0;
    let total = slabs.iter().map(Bytes::len).sum();
    while written < total {
        // The common case needs no timer.
        let now = std::future::poll_fn(|cx| match poll_write(io, cx, slabs, written) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => Poll::Ready(None),
        });
        let result = match now.await {
            Some(result) => result,
            None => {
                let later = std::future::poll_fn(|cx| poll_write(io, cx, slabs, written));
                let result = tokio::time::timeout(slow, later).await.map_err(|_| WriteError::Slow)?;
                // It takes what it is sent, and no ping has been sent meanwhile.
                heard.now();
                result
            }
        };
        match result? {
            0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            n => written += n,
        }
    }
    // A socket has nothing to do here; TLS may hold the last of it still.
    let flushed = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *io).poll_flush(cx)));
    match flushed.await {
        Poll::Ready(result) => result?,
        Poll::Pending => {
            tokio::time::timeout(slow, io.flush()).await.map_err(|_| WriteError::Slow)??;
            heard.now();
        }
    }
    Ok(total)
}

/// One vectored write of what is left of the slabs after `written` bytes.
fn poll_write(
    io: &mut (impl AsyncWrite + Unpin),
    cx: &mut std::task::Context<'_>,
    slabs: &[Bytes],
    mut written: usize,
) -> Poll<io::Result<usize>> {
    // One slab is what a follower mostly has, and a plain send is cheaper than a vectored one.
    if let [slab] = slabs {
        return Pin::new(io).poll_write(cx, &slab[written..]);
    }
    let mut slices = [IoSlice::new(&[]); WRITE_SLABS];
    let mut count = 0;
    for slab in slabs {
        if written >= slab.len() {
            written -= slab.len();
            continue;
        }
        slices[count] = IoSlice::new(&slab[written..]);
        written = 0;
        count += 1;
        if count == WRITE_SLABS {
            break;
        }
    }
    Pin::new(io).poll_write_vectored(cx, &slices[..count])
}
