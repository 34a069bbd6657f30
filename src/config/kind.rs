//! The kinds of values that settings have: how each is read from text, and written into a file.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use causeway_storage::{Durability, KeyFormat};

use crate::logging::LogFormat;

/// A kind of value that a setting has.
pub(super) trait Kind: Sized {
    const IS_SWITCH: bool = false;

    fn parse(value: &str, bounds: std::ops::RangeInclusive<u64>) -> Result<Self, String>;
    fn toml(&self) -> String;
}

macro_rules! number {
    ($($type:ty),+) => { $(
        impl Kind for $type {
            fn parse(value: &str, bounds: std::ops::RangeInclusive<u64>) -> Result<Self, String> {
                let (min, max) = (*bounds.start(), (*bounds.end()).min(<$type>::MAX as u64).min(i64::MAX as u64));
                let number = value.trim().replace('_', "").parse::<u64>().ok();
                match number.filter(|n| (min..=max).contains(n)) {
                    Some(n) => Ok(n as $type),
                    None => Err(format!("{value:?} is not a number from {min} to {max}")),
                }
            }

            fn toml(&self) -> String {
                self.to_string()
            }
        }
    )+ };
}
number!(u8, u32, u64, usize);

impl Kind for bool {
    const IS_SWITCH: bool = true;

    fn parse(value: &str, _: std::ops::RangeInclusive<u64>) -> Result<Self, String> {
        value.trim().parse().map_err(|_| format!("{value:?} is neither true nor false"))
    }

    fn toml(&self) -> String {
        self.to_string()
    }
}

impl Kind for String {
    fn parse(value: &str, _: std::ops::RangeInclusive<u64>) -> Result<Self, String> {
        if value.is_empty() { Err("it must not be empty".into()) } else { Ok(value.into()) }
    }

    fn toml(&self) -> String {
        toml::Value::String(self.clone()).to_string()
    }
}

impl Kind for PathBuf {
    fn parse(value: &str, bounds: std::ops::RangeInclusive<u64>) -> Result<Self, String> {
        String::parse(value, bounds).map(PathBuf::from)
    }

    fn toml(&self) -> String {
        toml::Value::String(self.to_string_lossy().into_owned()).to_string()
    }
}

impl Kind for KeyFormat {
    fn parse(value: &str, _: std::ops::RangeInclusive<u64>) -> Result<Self, String> {
        value.parse()
    }

    fn toml(&self) -> String {
        format!("\"{self}\"")
    }
}

/// Empty for none.
impl<T: Kind> Kind for Option<T> {
    fn parse(value: &str, bounds: std::ops::RangeInclusive<u64>) -> Result<Self, String> {
        if value.is_empty() { Ok(None) } else { T::parse(value, bounds).map(Some) }
    }

    fn toml(&self) -> String {
        self.as_ref().map_or_else(|| "\"\"".into(), T::toml)
    }
}

impl Kind for LogFormat {
    fn parse(value: &str, _: std::ops::RangeInclusive<u64>) -> Result<Self, String> {
        value.parse()
    }

    fn toml(&self) -> String {
        format!("\"{self}\"")
    }
}

/// Several values of a kind: an array in a file, with commas between them elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List<T>(pub Vec<T>);

impl<T: FromStr<Err = String> + Display> Kind for List<T> {
    fn parse(value: &str, _: std::ops::RangeInclusive<u64>) -> Result<Self, String> {
        let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(str::parse).collect::<Result<_, _>>().map(List)
    }

    fn toml(&self) -> String {
        let items = self.0.iter().map(|item| toml::Value::String(item.to_string()));
        toml::Value::Array(items.collect()).to_string()
    }
}

impl Kind for Durability {
    fn parse(value: &str, _: std::ops::RangeInclusive<u64>) -> Result<Self, String> {
        value.parse()
    }

    fn toml(&self) -> String {
        format!("\"{self}\"")
    }
}
