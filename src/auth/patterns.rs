//! Patterns of channel names, and what each allows.
//!
//! `*` stands for any characters, `/` among them, or none; `\*` and `\\` are the characters themselves. All else is compared byte by
//! byte: a name has no parts, and two ways to write one character are two names.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// The most patterns in one grant.
pub const PATTERNS_MAX: usize = 256;

/// The longest pattern, in bytes: a channel's name of which each byte is escaped.
pub const PATTERN_MAX_BYTES: usize = 510;

/// What a connection may do in its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Pull and follow.
    Read,
    /// Send updates as well.
    Write,
}

impl Access {
    /// Reads it as it stands in a claim.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "read" => Some(Access::Read),
            "write" => Some(Access::Write),
            _ => None,
        }
    }
}

/// A pattern that cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// Its length.
    #[error("a pattern is 1 to {PATTERN_MAX_BYTES} bytes")]
    Length,
    /// An escape of nothing.
    #[error("in a pattern \\ stands before * or \\")]
    Escape,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// What stands between the stars: one more than there are stars.
    literals: Box<[Box<str>]>,
}

impl Pattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        if !(1..=PATTERN_MAX_BYTES).contains(&text.len()) {
            return Err(BadPattern::Length);
        }
        let mut literals = vec![String::new()];
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            let literal = match character {
                '*' => {
                    literals.push(String::new());
                    continue;
                }
                '\\' => characters.next().filter(|c| matches!(c, '*' | '\\')).ok_or(BadPattern::Escape)?,
                other => other,
            };
            literals.last_mut().expect("there is always one").push(literal);
        }
        Ok(Pattern { literals: literals.into_iter().map(String::into_boxed_str).collect() })
    }

    /// Whether the name is one of the pattern's, in time that grows with the name and the pattern only.
    pub fn matches(&self, name: &str) -> bool {
        let (first, rest) = self.literals.split_first().expect("there is always one");
        let Some((last, middle)) = rest.split_last() else { return name == &**first };
        let Some(name) = name.strip_prefix(&**first) else { return false };
        let Some(mut name) = name.strip_suffix(&**last) else { return false };
        // Whatever place a literal can have, the leftmost leaves most to those behind it.
        for literal in middle {
            let Some(at) = name.find(&**literal) else { return false };
            name = &name[at + literal.len()..];
        }
        true
    }

    /// Whether it has every name.
    fn is_all(&self) -> bool {
        self.literals.len() > 1 && self.literals.iter().all(|literal| literal.is_empty())
    }
}

/// What is allowed in which channels: of the patterns that match, the one that allows most counts. In JSON and TOML an object:
/// `{"team-7/*": "write", "news": "read"}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channels(Vec<(Pattern, Access)>);

impl Channels {
    /// What is allowed in the channel, if anything.
    pub fn access(&self, channel: &str) -> Option<Access> {
        self.0.iter().filter(|(pattern, _)| pattern.matches(channel)).map(|(_, access)| *access).max()
    }

    /// Whether every channel may be read.
    pub fn is_all(&self) -> bool {
        self.0.iter().any(|(pattern, _)| pattern.is_all())
    }
}

impl<'de> Deserialize<'de> for Channels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Channels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("patterns, each with read or write")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Channels, A::Error> {
                let mut channels = Vec::new();
                while let Some((pattern, access)) = map.next_entry::<String, String>()? {
                    if channels.len() == PATTERNS_MAX {
                        return Err(A::Error::custom(format!("there are more than {PATTERNS_MAX} patterns")));
                    }
                    let pattern = Pattern::parse(&pattern).map_err(A::Error::custom)?;
                    let access = Access::parse(&access)
                        .ok_or_else(|| A::Error::custom("a pattern's access is read or write"))?;
                    channels.push((pattern, access));
                }
                Ok(Channels(channels))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(name)
    }

    #[test]
    fn a_star_is_anything_and_all_else_is_itself() {
        for (pattern, name) in [
            ("news", "news"),
            ("*", ""),
            ("*", "a/b"),
            ("**", "a/b"),
            ("team-7/*", "team-7/"),
            ("team-7/*", "team-7/a/b"),
            ("team-*/news", "team-1/x/news"),
            ("*a*b*", "xxaxxbxx"),
            ("*ab*ab", "ababab"),
            ("a\\*b", "a*b"),
            ("a\\\\*", "a\\b"),
            ("日*語", "日本語"),
            ("[a-z]?.", "[a-z]?."),
        ] {
            assert!(matches(pattern, name), "{pattern} has {name}");
        }
        for (pattern, name) in [
            ("news", "News"),
            ("news", "news "),
            ("team-7/*", "team-7"),
            ("team-7/*", "team-77/a"),
            ("team-7/*", "x/team-7/a"),
            ("a*a", "a"),
            ("*ab*ab", "ab"),
            ("a\\*b", "axb"),
            ("*é", "e\u{301}"),
            ("a*b*c", "acb"),
        ] {
            assert!(!matches(pattern, name), "{pattern} does not have {name}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        assert_eq!(Pattern::parse(""), Err(BadPattern::Length));
        assert_eq!(Pattern::parse(&"x".repeat(511)), Err(BadPattern::Length));
        for bad in ["\\", "a\\", "\\a", "\\\\\\"] {
            assert_eq!(Pattern::parse(bad), Err(BadPattern::Escape), "{bad}");
        }
    }

    #[test]
    fn the_pattern_that_allows_most_counts() {
        let channels: Channels =
            serde_json::from_str(r#"{"*":"read","team-7/*":"write","team-7/news":"read"}"#).unwrap();
        assert_eq!(channels.access("news"), Some(Access::Read));
        assert_eq!(channels.access("team-7/news"), Some(Access::Write));
        assert!(channels.is_all());
        let channels: Channels = serde_json::from_str(r#"{"*/":"read","x":"read","x":"write"}"#).unwrap();
        assert_eq!((channels.access("y"), channels.access("x")), (None, Some(Access::Write)));
        assert!(!channels.is_all());
    }

    #[test]
    fn other_accesses_and_too_many_patterns_are_refused() {
        for bad in [r#"{"a":"admin"}"#, r#"{"a":true}"#, r#"["a"]"#, r#"{"":"read"}"#, r#"{"\\a":"read"}"#] {
            assert!(serde_json::from_str::<Channels>(bad).is_err(), "{bad}");
        }
        let parse = |n: usize| {
            let channels = (0..n).map(|n| (n.to_string(), "read".into()));
            serde_json::from_value::<Channels>(serde_json::Value::Object(channels.collect()))
        };
        assert!(parse(PATTERNS_MAX).is_ok());
        assert!(parse(PATTERNS_MAX + 1).is_err());
    }

    /// The definition, written as it is said.
    fn naive(pattern: &[char], name: &[char]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (['*', pattern @ ..], _) => (0..=name.len()).any(|n| naive(pattern, &name[n..])),
            (['\\', literal, pattern @ ..], [first, name @ ..]) => literal == first && naive(pattern, name),
            ([literal, pattern @ ..], [first, name @ ..]) => literal == first && naive(pattern, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_match_is_what_the_definition_says(pattern in "([ab/é*]|\\\\[*]){1,10}", name in "[ab/é*]{0,10}") {
            let characters = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &name), naive(&characters(&pattern), &characters(&name)));
        }

        #[test]
        fn an_escaped_name_is_that_name_only(name in ".{1,20}", other in ".{0,20}") {
            let escaped = name.replace('\\', "\\\\").replace('*', "\\*");
            prop_assert!(matches(&escaped, &name));
            prop_assert_eq!(matches(&escaped, &other), name == other);
        }
    }
}
