//! A trace as what each connection is to do, and when.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::trace::MESSAGE_BYTES_MAX;
use crate::trace::clocks::{Clocks, Place};
use crate::trace::format::{Change, Event, What};
use crate::trace::shape::Shape;

/// One connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Visit {
    pub(super) channel: u32,
    /// Whose connection it is, if it says so.
    pub(super) site: Option<u32>,
    pub(super) opens_us: u64,
    /// None: it is open at the end.
    pub(super) closes_us: Option<u64>,
    /// Whether nothing is written in its channel after it closes: then it stays, to be compared.
    pub(super) stays: bool,
    pub(super) acts: Vec<(u64, Act)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    Update(Vec<Write>),
    /// From so many versions behind; None: from 0.
    Pull(Option<u64>),
}

/// One change, without its value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) place: Place,
    pub(super) key_bytes: u32,
    pub(super) shape: Shape,
    pub(super) cl: u64,
    pub(super) col_version: u64,
}

/// The whole trace, in memory: about as much as the file takes.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// In the order in which they open.
    pub(super) visits: Vec<Visit>,
    pub(super) length_us: u64,
    /// Messages of other kinds than updates and pulls.
    pub(super) left_out: u64,
    clocks: Clocks,
    /// Connections that are open, and where they are in `visits`.
    open: HashMap<u32, usize>,
    opened: HashSet<u32>,
    last_update_us: HashMap<u32, u64>,
}

impl Script {
    /// Adds the next event; an error says what is wrong with it.
    pub(super) fn take(&mut self, Event(at_us, conn, what): Event) -> Result<(), String> {
        self.length_us = at_us;
        if let What::Open { channel } = what {
            if !self.opened.insert(conn) {
                return Err(format!("connection {conn} opens twice"));
            }
            self.open.insert(conn, self.visits.len());
            let (site, closes_us, stays, acts) = (None, None, false, Vec::new());
            self.visits.push(Visit { channel, site, opens_us: at_us, closes_us, stays, acts });
            return Ok(());
        }
        let at = *self.open.get(&conn).ok_or_else(|| format!("connection {conn} is not open"))?;
        let channel = self.visits[at].channel;
        let (by, act) = match what {
            What::Update { site, changes, .. } => {
                let writes = self.writes(channel, &changes)?;
                self.last_update_us.insert(channel, at_us);
                (site, Act::Update(writes))
            }
            What::Pull { site, behind, .. } => (site, Act::Pull(behind)),
            What::Close => {
                self.visits[at].closes_us = Some(at_us);
                self.open.remove(&conn);
                return Ok(());
            }
            What::Auth { .. } | What::Other { .. } => {
                self.left_out += 1;
                return Ok(());
            }
            What::Open { .. } => unreachable!("it was opened above"),
        };
        let visit = &mut self.visits[at];
        visit.site = visit.site.or(by);
        visit.acts.push((at_us, act));
        Ok(())
    }

    /// To be called when all is taken: who stays, and how long it takes.
    pub(super) fn finish(&mut self, length_us: u64) {
        self.length_us = length_us.max(self.length_us);
        for visit in &mut self.visits {
            let last = self.last_update_us.get(&visit.channel).copied();
            visit.stays = visit.closes_us.is_none_or(|closes_us| Some(closes_us) >= last);
        }
    }

    fn writes(&mut self, channel: u32, changes: &[Change]) -> Result<Vec<Write>, String> {
        let bytes: u64 = changes
            .iter()
            .map(|Change(_, _, key_bytes, _, shape, ..)| u64::from(*key_bytes) + shape.bytes())
            .sum();
        if bytes > MESSAGE_BYTES_MAX as u64 {
            return Err(format!("an update of {bytes} bytes, which is above {MESSAGE_BYTES_MAX}"));
        }
        let write = |(at, change): (usize, &Change)| {
            let Change(table, key, key_bytes, column, shape, cl_step, col_step) = *change;
            let place = Place { channel, table, key, column };
            if column.is_none() && shape != Shape::Null {
                return Err(format!("change {at}: a sentinel with a value"));
            }
            match self.clocks.clocks(place, cl_step, col_step) {
                Some((cl, col_version)) => Ok(Write { place, key_bytes, shape, cl, col_version }),
                None => Err(format!("change {at}: its steps lead to clocks that are not allowed")),
            }
        };
        changes.iter().enumerate().map(write).collect()
    }
}

/// How many connections each channel has.
pub(super) fn channels(visits: &[Visit]) -> BTreeMap<u32, usize> {
    let mut channels = BTreeMap::new();
    for visit in visits {
        *channels.entry(visit.channel).or_default() += 1;
    }
    channels
}

/// The most connections that are open at once, at least 1.
pub(super) fn open_at_most(visits: &[Visit]) -> usize {
    let opens = visits.iter().map(|visit| (visit.opens_us, 1));
    let closes = visits.iter().filter_map(|visit| Some((visit.closes_us?, -1)));
    let mut steps: Vec<(u64, isize)> = opens.chain(closes).collect();
    steps.sort_unstable();
    let open = steps.iter().scan(0, |open, (_, step)| {
        *open += step;
        Some(*open)
    });
    open.max().unwrap_or(0).max(1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(at_us: u64, conn: u32, column: Option<u32>, cl_step: i64, col_step: i64) -> Event {
        let shape = if column.is_some() { Shape::Text(3) } else { Shape::Null };
        let changes = vec![Change(0, 0, 4, column, shape, cl_step, col_step)];
        Event(at_us, conn, What::Update { site: Some(conn + 5), bytes: 1, changes })
    }

    fn open(at_us: u64, conn: u32) -> Event {
        Event(at_us, conn, What::Open { channel: 0 })
    }

    #[test]
    fn each_connection_gets_its_acts_in_order() {
        let mut script = Script::default();
        for event in [
            open(0, 0),
            open(1, 7),
            Event(2, 0, What::Pull { site: Some(5), bytes: 1, behind: Some(3) }),
            update(3, 0, Some(0), 1, 1),
            Event(4, 0, What::Close),
            Event(5, 7, What::Auth { bytes: 2 }),
            update(6, 7, Some(0), 0, 1),
            Event(7, 7, What::Close),
            open(8, 8),
        ] {
            assert_eq!(script.take(event), Ok(()));
        }
        script.finish(9);
        let visits: Vec<_> =
            script.visits.iter().map(|v| (v.site, v.opens_us, v.closes_us, v.stays)).collect();
        assert_eq!(
            visits,
            [(Some(5), 0, Some(4), false), (Some(12), 1, Some(7), true), (None, 8, None, true)]
        );
        assert_eq!(script.visits[0].acts[0], (2, Act::Pull(Some(3))));
        let (6, Act::Update(writes)) = &script.visits[1].acts[0] else { panic!("{:?}", script.visits[1]) };
        assert_eq!((writes[0].cl, writes[0].col_version), (1, 2));
        assert_eq!((script.left_out, script.length_us, open_at_most(&script.visits)), (1, 9, 2));
        assert_eq!(channels(&script.visits), BTreeMap::from([(0, 3)]));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let large = Change(0, 0, 4, Some(0), Shape::Text(MESSAGE_BYTES_MAX as u32), 1, 1);
        let strange = Change(0, 0, 4, None, Shape::Text(1), 1, 0);
        let all = |changes| Event(1, 0, What::Update { site: None, bytes: 1, changes });
        for (event, why) in [
            (open(1, 0), "opens twice"),
            (Event(1, 1, What::Close), "is not open"),
            (update(1, 0, Some(0), 2, 1), "change 0"),
            (update(1, 0, None, 1, 1), "change 0"),
            (all(vec![strange]), "a sentinel with a value"),
            (all(vec![large]), "which is above"),
        ] {
            let mut script = Script::default();
            assert_eq!(script.take(open(0, 0)), Ok(()));
            let error = script.take(event).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }
}
