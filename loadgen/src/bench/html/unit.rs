//! Numbers as people read them: with few digits, and a unit of fitting size.

use crate::bench::gate::short;
use crate::bench::markdown::bytes;
use crate::report::grouped;

/// What a figure is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    PerSecond,
    Milliseconds,
    Microseconds,
    Bytes,
    Number,
}

impl Unit {
    /// Of a figure's name.
    pub(super) fn of(figure: &str) -> Self {
        match figure {
            "rate" => Self::PerSecond,
            "cpu_us_per_unit" => Self::Microseconds,
            name if name.ends_with("_ms") => Self::Milliseconds,
            name if name.contains("bytes") => Self::Bytes,
            _ => Self::Number,
        }
    }

    /// The value with its unit.
    pub(super) fn say(self, value: f64) -> String {
        match self {
            Self::PerSecond if value < 100.0 => format!("{} /s", short(value)),
            Self::PerSecond => format!("{} /s", grouped(value)),
            Self::Milliseconds if value >= 10_000.0 => format!("{} s", short(value / 1e3)),
            Self::Milliseconds => format!("{} ms", short(value)),
            Self::Microseconds => format!("{} µs", short(value)),
            Self::Bytes => bytes(value),
            Self::Number if value.fract() == 0.0 => grouped(value),
            Self::Number => short(value),
        }
    }

    /// What an axis up to this value counts in, and by what to divide for it.
    pub(super) fn scale(self, most: f64) -> (f64, &'static str) {
        let all: &[(f64, &str)] = match self {
            Self::PerSecond => &[(1.0, "a second"), (1e3, "thousand a second"), (1e6, "million a second")],
            Self::Milliseconds => &[(1.0, "ms"), (1e3, "s")],
            Self::Microseconds => &[(1.0, "µs"), (1e3, "ms")],
            Self::Bytes => &[(1.0, "bytes"), (1024.0, "KiB"), (1_048_576.0, "MiB"), (1_073_741_824.0, "GiB")],
            Self::Number => &[(1.0, "")],
        };
        // Two of a unit are too few for round ticks to be told from each other.
        *all.iter().rev().find(|(divisor, _)| most >= 2.0 * divisor).unwrap_or(&all[0])
    }
}

/// A tick: all of its digits, and no more.
pub(super) fn tick(value: f64) -> String {
    for (from, divisor, letter) in [(1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")] {
        if value >= from {
            return tick(value / divisor) + letter;
        }
    }
    if value >= 1000.0 && value.fract() == 0.0 {
        return grouped(value);
    }
    let text = format!("{value:.9}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_units() {
        let said = [
            ("rate", 12_345.6, "12 346 /s"),
            ("rate", 1.5, "1.50 /s"),
            ("p99_ms", 0.25, "0.250 ms"),
            ("max_ms", 12_000.0, "12.0 s"),
            ("cpu_us_per_unit", 35.21, "35.2 µs"),
            ("written_bytes_per_change", 20_480.0, "20.0 KiB"),
            ("rss_peak_bytes", 3_145_728.0, "3.0 MiB"),
            ("errors", 3.0, "3"),
            ("others_cores", 0.25, "0.250"),
        ];
        for (figure, value, text) in said {
            assert_eq!(Unit::of(figure).say(value), text, "{figure}");
        }
        assert_eq!(Unit::Bytes.scale(1e6).1, "KiB");
        assert_eq!(Unit::PerSecond.scale(150_000.0), (1e3, "thousand a second"));
        let ticks = [0.0, 0.1 + 0.2, 5000.0, 0.000_5, 40.0, 20_000.0, 2e6, 12_345.0];
        assert_eq!(ticks.map(tick), ["0", "0.3", "5 000", "0.0005", "40", "20k", "2M", "12.345k"]);
    }
}
