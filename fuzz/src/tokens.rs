//! Changes JSON by its tokens: libFuzzer changes bytes, and hardly ever comes upon a key that stands twice, or a value where
//! another one stood.

use std::ops::Range;

/// Changes the message in the first `size` bytes of `data`, which it may fill; gives the new size. `None` if that has no
/// tokens or does not fit.
pub fn mutate(data: &mut [u8], size: usize, seed: u32) -> Option<usize> {
    let mut random = u64::from(seed) << 1 | 1;
    let mut below = |end: usize| {
        // xorshift; its low bits are the worst.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as usize % end.max(1)
    };
    let message = data.get(..size)?.to_vec();
    let tokens = tokens(&message);
    // A token, or a token and some behind it: `"key":value,`.
    let mut span = |longest: usize| {
        let first = below(tokens.len());
        let last = (first + below(longest)).min(tokens.len().checked_sub(1)?);
        Some(tokens[first].start..tokens[last].end)
    };
    let (to, from, other) = (span(1)?, span(8)?, span(8)?);
    let mut out = message.clone();
    match below(5) {
        0 => drop(out.splice(to.clone(), message[from].iter().copied())),
        1 => drop(out.splice(to.start..to.start, message[from].iter().copied())),
        2 => drop(out.drain(from)),
        3 => {
            let copies = message[from].repeat(1 + below(20));
            out.splice(to.start..to.start, copies);
        }
        _ => {
            let (first, second) = if from.end <= other.start { (from, other) } else { (other, from) };
            if first.end > second.start {
                return None;
            }
            out = [
                &message[..first.start],
                &message[second.clone()],
                &message[first.end..second.start],
                &message[first],
                &message[second.end..],
            ]
            .concat();
        }
    }
    data.get_mut(..out.len())?.copy_from_slice(&out);
    Some(out.len())
}

/// Where the tokens lie: strings, runs of letters and digits, single other bytes.
fn tokens(message: &[u8]) -> Vec<Range<usize>> {
    let mut tokens = Vec::new();
    let mut start = 0;
    while start < message.len() {
        let rest = &message[start..];
        let len = match rest[0] {
            b'"' => {
                let mut escaped = false;
                let end = rest[1..].iter().position(|byte| {
                    let ends = *byte == b'"' && !escaped;
                    escaped = *byte == b'\\' && !escaped;
                    ends
                });
                end.map_or(rest.len(), |end| end + 2)
            }
            byte if is_word(byte) => rest.iter().take_while(|byte| is_word(**byte)).count(),
            _ => 1,
        };
        tokens.push(start..start + len);
        start += len;
    }
    tokens
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}
