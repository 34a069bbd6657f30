//! RFC 6455 read naively: all bytes at once, one byte of a head after the other, every payload copied.

use causeway::protocol::frame::Event;

/// What a client's bytes mean, up to the first refusal or close frame.
#[derive(Debug, Default)]
pub struct Reading {
    /// The events, each with the count of bytes after which it is due.
    pub events: Vec<(Event, usize)>,
    /// The close code of the refusal that ends it.
    pub refused: Option<u16>,
    /// Where each frame's head and payload end, if the head is there.
    pub frames: Vec<(usize, usize)>,
    /// The places between two messages.
    pub rests: Vec<usize>,
    /// The message whose fragments are being collected: whether it is text, and what it has so far.
    open: Option<(bool, Vec<u8>)>,
}

enum Stop {
    Incomplete,
    Refused(u16),
    Closed,
}

/// Reads `bytes`.
pub fn read(bytes: &[u8], max_message_bytes: usize) -> Reading {
    let mut reading = Reading::default();
    let mut at = 0;
    loop {
        match reading.frame(bytes, at, max_message_bytes) {
            Ok(end) => at = end,
            Err(Stop::Incomplete | Stop::Closed) => return reading,
            Err(Stop::Refused(code)) => {
                reading.refused = Some(code);
                return reading;
            }
        }
    }
}

impl Reading {
    /// Reads the frame at `start`; gives its end.
    fn frame(&mut self, bytes: &[u8], start: usize, max_message_bytes: usize) -> Result<usize, Stop> {
        let byte = |at: usize| bytes.get(start + at).copied().ok_or(Stop::Incomplete);
        let (first, second) = (byte(0)?, byte(1)?);
        let (fin, reserved, opcode) = (first >= 128, first >> 4 & 7, first & 15);
        let (masked, short) = (second >= 128, second & 127);
        refuse_if(reserved != 0, 1002)?;
        refuse_if((3..=7).contains(&opcode) || opcode >= 11, 1002)?;
        refuse_if(!masked, 1002)?;

        let length_bytes = [126, 127].iter().position(|n| *n == short).map_or(0, |n| [2, 8][n]);
        let mut length = u128::from(short);
        if length_bytes > 0 {
            length = 0;
            for n in 0..length_bytes {
                length = length * 256 + u128::from(byte(2 + n)?);
            }
        }
        let shortest = if length < 126 {
            0
        } else if length < 65_536 {
            2
        } else {
            8
        };
        refuse_if(length_bytes != shortest, 1002)?;

        let control = opcode >= 8;
        refuse_if(control && (!fin || length > 125), 1002)?;
        refuse_if(opcode == 0 && self.open.is_none(), 1002)?;
        refuse_if((opcode == 1 || opcode == 2) && self.open.is_some(), 1002)?;
        let before = self.open.as_ref().map_or(0, |(_, payload)| payload.len());
        refuse_if(!control && before as u128 + length > max_message_bytes as u128, 1009)?;

        let mut mask = [0; 4];
        for (n, mask) in mask.iter_mut().enumerate() {
            *mask = byte(2 + length_bytes + n)?;
        }
        let head_bytes = 2 + length_bytes + 4;
        let end = start + head_bytes + length as usize;
        self.frames.push((start + head_bytes, end));
        let mut payload = Vec::new();
        for n in 0..length as usize {
            payload.push(byte(head_bytes + n)? ^ mask[n % 4]);
        }

        match opcode {
            8 => {
                let code = closed_with(&payload).map_err(Stop::Refused)?;
                self.events.push((Event::Close(code), end));
                return Err(Stop::Closed);
            }
            9 => self.events.push((Event::Ping(payload), end)),
            10 => self.events.push((Event::Pong, end)),
            _ => {
                let (text, mut message) = self.open.take().unwrap_or((opcode == 1, Vec::new()));
                message.extend(payload);
                if fin {
                    refuse_if(text && String::from_utf8(message.clone()).is_err(), 1007)?;
                    self.events.push((Event::Message { payload: message, text }, end));
                } else {
                    self.open = Some((text, message));
                }
            }
        }
        if self.open.is_none() {
            self.rests.push(end);
        }
        Ok(end)
    }
}

fn refuse_if(wrong: bool, code: u16) -> Result<(), Stop> {
    if wrong { Err(Stop::Refused(code)) } else { Ok(()) }
}

/// The code to answer a close frame with, or to refuse it with.
fn closed_with(payload: &[u8]) -> Result<u16, u16> {
    match payload.len() {
        0 => return Ok(1000),
        1 => return Err(1002),
        _ => {}
    }
    if String::from_utf8(payload[2..].to_vec()).is_err() {
        return Err(1007);
    }
    let code = u16::from(payload[0]) * 256 + u16::from(payload[1]);
    // Not in use, reserved for what no frame says, not yet given out.
    let bad =
        code < 1000 || [1004, 1005, 1006].contains(&code) || (1015..3000).contains(&code) || code >= 5000;
    if bad { Err(1002) } else { Ok(code) }
}
