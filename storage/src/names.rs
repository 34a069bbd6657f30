//! Channel names, and the file names made of them.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::error::{Result, StoreError};

/// The longest channel name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// The longest encoded name that is used as it is; longer ones end in a hash. File systems take 255 bytes with the
/// endings that SQLite adds.
const MAX_STEM_BYTES: usize = 200;

/// Takes 1 to 255 bytes of UTF-8 without control characters (`wire.md`), else [`StoreError::BadName`].
pub fn check(channel: &str) -> Result<()> {
    let fits = (1..=MAX_NAME_BYTES).contains(&channel.len()) && !channel.chars().any(char::is_control);
    fits.then_some(()).ok_or_else(|| StoreError::BadName { name: channel.chars().take(64).collect() })
}

/// The stem of the channel's file: the name itself where it is plain, else with `%xx` for every byte that is not a
/// lower-case letter, a digit, `-` or `_`. So no name is a path, is hidden, or differs from another in case only.
/// What would be too long keeps its start and ends in `~` and the SHA-256 of the name.
pub fn file_stem(channel: &str) -> String {
    let mut stem = String::with_capacity(channel.len());
    for byte in channel.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => stem.push(byte.into()),
            _ => push_hex(&mut stem, "%", byte),
        }
    }
    if stem.len() > MAX_STEM_BYTES {
        stem.truncate(100);
        stem.push('~');
        for byte in Sha256::digest(channel) {
            push_hex(&mut stem, "", byte);
        }
    }
    stem
}

/// The channel whose [`file_stem`] this is; `None` if the stem ends in a hash, or is none that we make.
pub fn of_file_stem(stem: &str) -> Option<String> {
    let mut name = Vec::with_capacity(stem.len());
    let mut bytes = stem.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digit = |b: Option<u8>| char::from(b?).to_digit(16);
                name.push((digit(bytes.next())? * 16 + digit(bytes.next())?) as u8);
            }
            plain => name.push(plain),
        }
    }
    String::from_utf8(name).ok().filter(|name| file_stem(name) == stem)
}

fn push_hex(stem: &mut String, before: &str, byte: u8) {
    write!(stem, "{before}{byte:02x}").expect("a String takes whatever is written to it");
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_that_could_hurt_become_plain_files() {
        assert_eq!(file_stem("test-channel"), "test-channel");
        assert_eq!(file_stem("../x"), "%2e%2e%2fx");
        assert_eq!(file_stem("."), "%2e");
        let long_a = "é".repeat(127);
        let long_b = format!("{}e", "é".repeat(127));
        let dots = ".".repeat(255);
        let names = ["Foo", "foo", "FOO", "NUL", "nul", "a/b", "a%2fb", ".", "..", &long_a, &long_b, &dots];
        for name in names {
            assert_eq!(of_file_stem(&file_stem(name)).as_deref(), (name.len() < 100).then_some(name));
        }
        let stems: HashSet<String> = names.iter().map(|n| file_stem(n).to_lowercase()).collect();
        assert_eq!(stems.len(), names.len());
        for stem in stems {
            assert!(stem.len() <= MAX_STEM_BYTES, "{stem}");
            assert!(stem.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_%~".contains(&b)), "{stem}");
        }
    }

    #[test]
    fn a_name_has_1_to_255_bytes_and_no_control_characters() {
        assert!(check(&"x".repeat(255)).is_ok() && check("日本").is_ok() && check(" ").is_ok());
        for bad in ["", &"x".repeat(256), "a\nb", "\0", "\u{7f}", "\u{85}"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
