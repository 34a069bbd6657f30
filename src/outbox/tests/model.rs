//! A channel as a map, a client that believes what it is told, and an outbox between them.
//!
//! The channel keeps, as a store does, where each cell stands: in the newest version that won it. The client keeps the
//! newest version of each cell that it has been given. Whenever a message tells it that a version is complete, it must hold
//! every cell that stands at or below.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use proptest::collection::vec;
use proptest::sample::Index;

use super::*;

/// One update of a group commit.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// Whether the client of the outbox sent it.
    own: bool,
    /// The cells that it wins.
    cells: Vec<u8>,
    refused: bool,
    padding: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The channel commits; the outbox hears of it with the next commit, at the latest.
    Commit(Vec<Sent>),
    /// A commit reaches the disk, and its senders are told that it did not.
    CommitUntold(Vec<Sent>),
    /// The outbox hears of the commit.
    Deliver,
    /// The client forgets everything above a version, and pulls from there.
    Pull(Index),
    /// The client pulls from far above the tail: the server was wiped.
    PullWiped,
    /// The writer comes round.
    Take,
    /// The page that was asked for is read.
    Read,
    /// The page that was read is put in.
    Page,
    Pong,
}

/// How a run ends: with a close or without.
pub(super) type End = Option<bool>;

pub(super) fn group() -> impl Strategy<Value = Vec<Sent>> {
    let sent = (any::<bool>(), vec(0..9u8, 0..5), prop::bool::weighted(0.1), 0..60usize);
    let sent = sent.prop_map(|(own, mut cells, refused, padding)| {
        cells.sort_unstable();
        cells.dedup();
        Sent { own, cells, refused, padding }
    });
    vec(sent, 1..5)
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => group().prop_map(Step::Commit),
        1 => group().prop_map(Step::CommitUntold),
        4 => Just(Step::Deliver),
        2 => any::<Index>().prop_map(Step::Pull),
        1 => Just(Step::PullWiped),
        5 => Just(Step::Take),
        4 => Just(Step::Read),
        4 => Just(Step::Page),
        1 => Just(Step::Pong),
    ]
}

pub(super) fn end() -> impl Strategy<Value = End> {
    any::<Option<bool>>()
}

/// A message on its way, which the client need not parse.
#[derive(Clone, Debug)]
enum Message {
    Live { version: u64, cells: Vec<u8>, pulls_begun: usize },
    Ack { version: u64, pulls_begun: usize },
    Page { version: u64, more: bool, rows: Vec<(Position, u8)>, pull: Option<usize> },
    Reply,
}

type Outcome = Result<(), TestCaseError>;

pub(super) struct Run {
    channel: Channel,
    outbox: Outbox,
    page_cells: usize,
    /// Every message by the number that its frame carries.
    messages: Vec<Message>,
    /// What the outbox has yet to hear of a commit.
    undelivered: Vec<Delivery>,
    /// Whether it has yet to hear of a commit that nobody was told of.
    untold: bool,
    /// The page that was asked for, and what was read for it.
    asked: Option<PageStart>,
    read: Option<(PageEnd, Vec<(Position, u8)>)>,
    /// Where the next page of the pages that are being sent must start.
    expected_start: Option<Position>,
    /// Pulls in order: their versions. So many were begun, and so many answered.
    pulls: Vec<u64>,
    pulls_begun: usize,
    pulls_answered: usize,
    woken: Option<Arc<Woken>>,
    client: Client,
    /// Bytes of answers that have not left.
    reply_bytes: usize,
    largest_bytes: usize,
    unsent_acks: usize,
    closed: Option<Ending>,
    max_bytes: usize,
}

#[derive(Default)]
struct Channel {
    version: u64,
    cells: BTreeMap<Position, u8>,
}

#[derive(Default)]
struct Client {
    holds: BTreeMap<u8, u64>,
    /// The version that it was last told is complete.
    version: u64,
    acked: u64,
    /// The pull whose first page it waits for, since it forgot.
    forgot_for: Option<usize>,
    /// The pull that pages were last an answer to.
    pull: Option<usize>,
    answers: usize,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Channel {
    /// Gives the version of the update, if anything won.
    fn commit(&mut self, cells: &[u8]) -> Option<u64> {
        if cells.is_empty() {
            return None;
        }
        self.version += 1;
        self.cells.retain(|_, cell| !cells.contains(cell));
        for (seq, &cell) in cells.iter().enumerate() {
            self.cells.insert(Position { version: self.version, seq: seq as u64 }, cell);
        }
        Some(self.version)
    }

    /// What `page::read_page` gives, said in another way.
    fn read(&self, start: PageStart, max: usize) -> (PageEnd, Vec<(Position, u8)>) {
        let wiped = start.from.version > self.version;
        let (from, complete) = if wiped { (Position::default(), 0) } else { (start.from, start.complete) };
        let mut rows = self.cells.iter().filter(|(at, _)| **at > from).map(|(at, cell)| (*at, *cell));
        let page: Vec<_> = rows.by_ref().take(max).collect();
        let next = page.last().map_or(from, |(at, _)| *at);
        let complete_with = |at: Position| complete.max(at.version - 1);
        match rows.next() {
            Some((at, _)) => (PageEnd { next, complete: complete_with(at), tail: None }, page),
            None => (
                PageEnd {
                    next,
                    complete: complete_with(Position { version: next.version.max(1), seq: 0 }),
                    tail: Some(self.version),
                },
                page,
            ),
        }
    }
}

impl Run {
    pub(super) fn new((max_bytes, page_cells): (usize, usize), before: Vec<Vec<Sent>>) -> Self {
        let mut channel = Channel::default();
        for sent in before.iter().flatten() {
            channel.commit(&sent.cells);
        }
        let outbox = Outbox::new(1, OutboxLimits { max_bytes, max_reply_bytes: 100, max_bad_messages: 9 });
        let client = Client {
            holds: channel.cells.iter().map(|(at, cell)| (*cell, at.version)).collect(),
            version: channel.version,
            ..Client::default()
        };
        let mut run = Run {
            channel,
            outbox,
            page_cells,
            messages: Vec::new(),
            undelivered: Vec::new(),
            untold: false,
            asked: None,
            read: None,
            expected_start: None,
            pulls: Vec::new(),
            pulls_begun: 0,
            pulls_answered: 0,
            woken: None,
            client,
            reply_bytes: 0,
            largest_bytes: 0,
            unsent_acks: 0,
            closed: None,
            max_bytes,
        };
        let greeting = run.reply();
        run.outbox.greet(greeting, run.channel.version);
        run
    }

    /// A frame for the message: its number, and as many bytes more as are wished.
    fn frame(&mut self, message: Message, padding: usize) -> Vec<u8> {
        let mut frame = (self.messages.len() as u32).to_be_bytes().to_vec();
        frame.extend_from_slice(&(padding as u32).to_be_bytes());
        frame.resize(8 + padding, 0);
        self.messages.push(message);
        self.largest_bytes = self.largest_bytes.max(frame.len());
        frame
    }

    fn reply(&mut self) -> Bytes {
        let frame = self.frame(Message::Reply, 3);
        self.reply_bytes += frame.len();
        frame.into()
    }

    pub(super) fn step(&mut self, step: Step) -> Outcome {
        match step {
            Step::Commit(group) => self.commit(&group),
            Step::CommitUntold(group) => {
                self.deliver();
                for sent in group.iter().filter(|sent| !sent.refused) {
                    self.channel.commit(&sent.cells);
                }
                self.untold = true;
            }
            Step::Deliver => self.deliver(),
            Step::Pull(index) => self.pull(index.index(self.channel.version as usize + 1) as u64),
            Step::PullWiped => self.pull(self.channel.version + 1000),
            Step::Take => self.take()?,
            Step::Read => self.read(),
            Step::Page => self.page()?,
            Step::Pong => {
                let pong = self.reply();
                self.outbox.reply(pong);
            }
        }
        let bound = self.max_bytes + 2 * self.largest_bytes + self.reply_bytes;
        prop_assert!(self.outbox.backlog().bytes <= bound, "{:?} of {bound} bytes", self.outbox.backlog());
        Ok(())
    }

    /// As [`crate::channel::Channel`] does it: runs of the others' frames and of acks, in order.
    fn commit(&mut self, group: &[Sent]) {
        self.deliver();
        if std::mem::take(&mut self.untold) {
            self.outbox.missed(self.channel.version);
        }
        for sent in group {
            if sent.refused {
                if sent.own {
                    let frame = self.reply();
                    self.undelivered.push(Delivery::Error { frame });
                }
                continue;
            }
            let won = self.channel.commit(&sent.cells);
            let version = self.channel.version;
            if sent.own {
                self.client.holds.extend(sent.cells.iter().map(|cell| (*cell, version)));
                // Whether it has left is known when it is delivered.
                let frame = self.frame(Message::Ack { version, pulls_begun: 0 }, 5);
                self.reply_bytes += frame.len();
                self.unsent_acks += 1;
                match self.undelivered.last_mut() {
                    Some(Delivery::Ack { frames, version: last }) => {
                        *frames = [&frames[..], &frame].concat().into();
                        *last = version;
                    }
                    _ => self.undelivered.push(Delivery::Ack { frames: frame.into(), version }),
                }
            } else if let Some(version) = won {
                let frame = self.frame(
                    Message::Live { version, cells: sent.cells.clone(), pulls_begun: 0 },
                    sent.padding,
                );
                match self.undelivered.last_mut() {
                    Some(Delivery::Live { slab, last, .. }) => {
                        *slab = [&slab[..], &frame].concat().into();
                        *last = version;
                    }
                    _ => self.undelivered.push(Delivery::Live {
                        slab: frame.into(),
                        first: version,
                        last: version,
                    }),
                }
            }
        }
    }

    fn deliver(&mut self) {
        for delivery in &self.undelivered {
            let (Delivery::Live { slab: frames, .. } | Delivery::Ack { frames, .. }) = delivery else {
                continue;
            };
            self.largest_bytes = self.largest_bytes.max(frames.len());
            for number in numbers(frames) {
                match &mut self.messages[number] {
                    Message::Live { pulls_begun, .. } | Message::Ack { pulls_begun, .. } => {
                        *pulls_begun = self.pulls_begun
                    }
                    Message::Page { .. } | Message::Reply => {}
                }
            }
        }
        self.outbox.deliver(self.undelivered.drain(..));
    }

    fn pull(&mut self, version: u64) {
        if self.outbox.pull(version).is_err() {
            assert_eq!(self.pulls.len() - self.pulls_begun, MAX_WAITING_PULLS);
            return;
        }
        self.pulls.push(version);
        self.client.forgot_for = Some(self.pulls.len() - 1);
        let known = if version > self.channel.version { 0 } else { version };
        self.client.holds = self
            .channel
            .cells
            .iter()
            .filter(|(at, _)| at.version <= known)
            .map(|(at, cell)| (*cell, at.version))
            .collect();
        // A page that is being read comes in first.
        if self.asked.is_none() && self.read.is_none() {
            self.begin_pull();
        }
    }

    fn begin_pull(&mut self) {
        if self.pulls_begun == self.pulls_answered && self.pulls_begun < self.pulls.len() {
            self.expected_start = Some(Position::end_of(self.pulls[self.pulls_begun]));
            self.pulls_begun += 1;
        }
    }

    /// What the connection's writer does, but for the writing.
    fn take(&mut self) -> Outcome {
        let mut taken = Taken::default();
        self.outbox.take(&mut taken);
        let idle = taken.slabs.is_empty() && taken.close.is_none();
        if let Some(woken) = self.woken.take()
            && !woken.0.load(Ordering::Relaxed)
        {
            prop_assert!(idle && taken.read_page.is_none(), "the writer was not woken for {taken:?}");
        }
        prop_assert!(self.closed.is_none(), "the writer has gone");
        for slab in &taken.slabs {
            for number in numbers(slab) {
                self.receive(self.messages[number].clone())?;
            }
            let replies = numbers(slab)
                .iter()
                .any(|n| matches!(self.messages[*n], Message::Ack { .. } | Message::Reply));
            self.reply_bytes -= if replies { slab.len() } else { 0 };
        }
        self.outbox.sent(taken.version);
        if let Some(start) = taken.read_page {
            prop_assert!(self.asked.is_none() && self.read.is_none(), "two pages are read at once");
            if let Some(expected) = self.expected_start {
                prop_assert_eq!(start.from, expected);
            }
            self.asked = Some(start);
        }
        self.closed = taken.close;
        if idle && taken.read_page.is_none() {
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(woken.clone());
            if pin!(self.outbox.wait()).poll(&mut Context::from_waker(&waker)).is_pending() {
                self.woken = Some(woken);
            }
        }
        Ok(())
    }

    fn read(&mut self) {
        if let Some(start) = self.asked.take() {
            self.read = Some(self.channel.read(start, self.page_cells));
        }
    }

    fn page(&mut self) -> Outcome {
        let Some((end, rows)) = self.read.take() else { return Ok(()) };
        let answers = self.pulls_begun > self.pulls_answered;
        let pull = answers.then(|| self.pulls_begun - 1);
        let number = self.messages.len();
        let frame = Bytes::from(self.frame(Message::Reply, 5 * rows.len()));
        let mut told = None;
        self.outbox.page(end, |version, more| {
            told = Some((version, more));
            frame
        });
        let Some((version, more)) = told else {
            // A pull that came while the page was read begins where it says, not where the page did.
            prop_assert!(self.pulls_begun < self.pulls.len());
            self.begin_pull();
            return Ok(());
        };
        // Nobody is told of more before the first pull.
        prop_assert_eq!(more.is_some(), self.pulls_begun > 0);
        let more = more.unwrap_or_else(|| self.outbox.backlog().lags);
        self.messages[number] = Message::Page { version, more, rows, pull };
        self.expected_start =
            more.then(|| if end.tail.is_some() { Position::end_of(version) } else { end.next });
        if answers && !more {
            self.pulls_answered += 1;
        }
        self.begin_pull();
        Ok(())
    }

    fn receive(&mut self, message: Message) -> Outcome {
        let client = &mut self.client;
        let before = client.version;
        let (version, checked) = match &message {
            Message::Reply => return Ok(()),
            Message::Live { version, cells, pulls_begun } => {
                prop_assert!(*version > before, "{message:?} after {before}: given twice, or falling");
                for cell in cells {
                    let held = client.holds.entry(*cell).or_default();
                    *held = (*version).max(*held);
                }
                (*version, client.forgot_for.is_none_or(|pull| *pulls_begun > pull))
            }
            Message::Ack { version, pulls_begun } => {
                // One that was held comes behind the page that has its version, and perhaps more.
                prop_assert!(*version >= client.acked, "{message:?} after {}", client.acked);
                client.acked = *version;
                self.unsent_acks -= 1;
                (*version, client.forgot_for.is_none_or(|pull| *pulls_begun > pull))
            }
            Message::Page { version, more, rows, pull } => {
                let first_of_pull = *pull != client.pull && pull.is_some();
                if first_of_pull {
                    client.pull = *pull;
                } else {
                    prop_assert!(*version >= before, "{message:?} after {before}");
                    prop_assert!(
                        rows.iter().all(|(at, _)| at.version > before),
                        "{message:?} after {before}: given twice"
                    );
                }
                if client.forgot_for == *pull {
                    client.forgot_for = None;
                }
                for (at, cell) in rows {
                    let held = client.holds.entry(*cell).or_default();
                    *held = at.version.max(*held);
                }
                client.answers += usize::from(pull.is_some() && !more);
                (*version, client.forgot_for.is_none())
            }
        };
        client.version = if matches!(message, Message::Ack { .. }) { before.max(version) } else { version };
        for (at, cell) in self.channel.cells.iter().filter(|(at, _)| checked && at.version <= version) {
            prop_assert_eq!(client.holds.get(cell), Some(&at.version), "cell {} after {:?}", cell, &message);
        }
        Ok(())
    }

    /// Lets everything come to rest, or to its close.
    pub(super) fn finish(mut self, end: End) -> Outcome {
        self.commit(&[]);
        self.deliver();
        if let Some(after_pages) = end {
            self.outbox.close(Ending::DRAINING, after_pages);
        }
        for _ in 0..10_000 {
            self.take()?;
            let rests = self.woken.is_some() && self.asked.is_none() && self.read.is_none();
            if self.closed.is_some() || (rests && end.is_none()) {
                prop_assert_eq!(self.outbox.backlog().bytes, 0);
                prop_assert_eq!(self.unsent_acks, 0, "every ack has left");
                break;
            }
            self.read();
            self.page()?;
        }
        prop_assert_eq!(self.closed, end.map(|_| Ending::DRAINING), "it comes to its end");
        if end != Some(false) {
            prop_assert_eq!(self.client.answers, self.pulls.len(), "every pull is answered to its end");
            prop_assert!(self.client.forgot_for.is_none());
            prop_assert_eq!(self.client.version, self.channel.version);
            let holds: BTreeMap<u8, u64> =
                self.channel.cells.iter().map(|(at, cell)| (*cell, at.version)).collect();
            prop_assert_eq!(&self.client.holds, &holds);
        }
        Ok(())
    }
}

/// The numbers of the messages in a slab.
fn numbers(mut slab: &[u8]) -> Vec<usize> {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap()) as usize;
    let mut numbers = Vec::new();
    while !slab.is_empty() {
        numbers.push(number(&slab[..4]));
        slab = &slab[8 + number(&slab[4..8])..];
    }
    numbers
}
