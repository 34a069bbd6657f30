//! The scale of a plot's axis: round numbers that have all values between them.

/// Steps between ticks, at most, on a linear axis.
const STEPS_MAX: f64 = 4.0;
/// Ticks on a logarithmic axis, at most.
const LOG_TICKS_MAX: usize = 7;
/// No figure is less than this, but zero, or more than that.
const LEAST: f64 = 1e-9;
const MOST: f64 = 1e18;

/// An axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    /// Rising; the first is where the axis begins and the last where it ends.
    pub(super) ticks: Vec<f64>,
    pub(super) logarithmic: bool,
}

impl Axis {
    /// From zero to above the greatest value.
    pub(super) fn linear(values: &[f64]) -> Self {
        let most = finite(values).fold(0.0, f64::max).min(MOST);
        let most = if most < LEAST { 1.0 } else { most };
        let step = round_up(most / STEPS_MAX);
        let steps = (most / step).ceil() as usize;
        Self { ticks: (0..=steps).map(|n| step * n as f64).collect(), logarithmic: false }
    }

    /// From below the least value above zero to above the greatest one; what is not above zero lies at its beginning.
    pub(super) fn logarithmic(values: &[f64]) -> Self {
        let positive = || finite(values).filter(|value| *value > 0.0).map(|value| value.clamp(LEAST, MOST));
        let ends = positive().reduce(f64::min).zip(positive().reduce(f64::max));
        let (least, most) = ends.unwrap_or((1.0, 1.0));
        let mut ticks = vec![round_down(least)];
        while ticks.last().is_some_and(|last| *last < most) || ticks.len() < 2 {
            ticks.push(next(ticks[ticks.len() - 1]));
        }
        if ticks.len() > LOG_TICKS_MAX {
            ticks = decades(least, most);
        }
        Self { ticks, logarithmic: true }
    }

    /// Logarithmic if the values span more than `times`, and linear if not, or if there is a zero.
    pub(super) fn fitting(values: &[f64], times: f64) -> Self {
        let least = finite(values).fold(f64::MAX, f64::min);
        let most = finite(values).fold(0.0, f64::max);
        match least > 0.0 && most / least > times {
            true => Self::logarithmic(values),
            false => Self::linear(values),
        }
    }

    /// Where on the axis the value is, from 0 to 1.
    pub(super) fn at(&self, value: f64) -> f64 {
        let (first, last) = (self.ticks[0], self.ticks[self.ticks.len() - 1]);
        let share = match self.logarithmic {
            true => (value.max(first) / first).ln() / (last / first).ln(),
            false => (value - first) / (last - first),
        };
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
    }
}

fn finite(values: &[f64]) -> impl Iterator<Item = f64> {
    values.iter().copied().filter(|value| value.is_finite())
}

/// Ten to this power: of `parse`, which unlike `powi` gives the number that the digits mean.
fn ten(power: i32) -> f64 {
    format!("1e{power}").parse().expect("a number")
}

/// The power of ten at or below it, which must be above zero.
fn decade(value: f64) -> i32 {
    let guess = value.log10().floor() as i32;
    if ten(guess) > value { guess - 1 } else { guess }
}

/// 1, 2 or 5 times a power of ten.
fn rounds(power: i32) -> [f64; 4] {
    [1.0, 2.0, 5.0, 10.0].map(|digit| match power < 0 {
        true => digit / ten(-power),
        false => digit * ten(power),
    })
}

/// The least round number that is no less.
fn round_up(value: f64) -> f64 {
    let rounds = rounds(decade(value));
    rounds.into_iter().find(|round| *round >= value).unwrap_or(rounds[3])
}

/// The greatest round number that is no more.
fn round_down(value: f64) -> f64 {
    let rounds = rounds(decade(value));
    rounds.into_iter().rev().find(|round| *round <= value).unwrap_or(rounds[0])
}

/// The round number after a round one.
fn next(round: f64) -> f64 {
    let rounds = rounds(decade(round));
    rounds.into_iter().find(|next| *next > round * 1.01).unwrap_or(rounds[3])
}

/// Powers of ten about these two, as many apart as leaves few enough.
fn decades(least: f64, most: f64) -> Vec<f64> {
    let first = decade(least);
    let last = decade(most) + i32::from(ten(decade(most)) < most);
    let apart = (last - first).max(1) as usize / (LOG_TICKS_MAX - 1) + 1;
    let mut ticks: Vec<_> = (first..=last).step_by(apart).map(|power| rounds(power)[0]).collect();
    if ticks[ticks.len() - 1] < most {
        let power = first + (ticks.len() * apart) as i32;
        ticks.push(rounds(power)[0]);
    }
    ticks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 1, 2 or 5 times a power of ten.
    fn is_round(value: f64) -> bool {
        let digits = format!("{value:e}");
        ["1", "2", "5"].contains(&digits.split('e').next().expect("digits"))
    }

    fn check(axis: &Axis, values: &[f64]) {
        let Axis { ticks, .. } = axis;
        assert!((2..=LOG_TICKS_MAX + 1).contains(&ticks.len()), "{ticks:?}");
        assert!(ticks.windows(2).all(|two| two[0] < two[1]), "{ticks:?}");
        assert!(ticks.iter().all(|tick| tick.is_finite()));
        match axis.logarithmic {
            true => assert!(ticks.iter().all(|tick| is_round(*tick)), "{ticks:?}"),
            false => assert!(ticks[0] == 0.0 && is_round(ticks[1]), "{ticks:?}"),
        }
        for value in values {
            let inside = *value <= ticks[ticks.len() - 1] && (*value >= ticks[0] || *value <= 0.0);
            assert!(inside, "{value} in {ticks:?}");
            assert!((0.0..=1.0).contains(&axis.at(*value)), "{value} in {ticks:?}");
        }
        assert_eq!((axis.at(ticks[0]), axis.at(ticks[ticks.len() - 1])), (0.0, 1.0));
        assert!(axis.at(f64::NAN).is_finite());
    }

    #[test]
    fn nothing_one_value_and_zero_have_an_axis() {
        let all: [&[f64]; 8] =
            [&[], &[0.0], &[0.0, 0.0], &[7.0], &[1.0], &[1000.0, 1000.0], &[0.0, 3.0], &[1e-12]];
        for values in all {
            [Axis::linear(values), Axis::logarithmic(values), Axis::fitting(values, 10.0)].iter().for_each(
                |axis| {
                    check(
                        axis,
                        values
                            .iter()
                            .filter(|value| **value != 1e-12)
                            .copied()
                            .collect::<Vec<_>>()
                            .as_slice(),
                    )
                },
            );
        }
        assert!(Axis::linear(&[f64::NAN, f64::INFINITY]).ticks.iter().all(|tick| tick.is_finite()));
    }

    #[test]
    fn ticks_are_what_a_person_would_choose() {
        assert_eq!(Axis::linear(&[870.0]).ticks, [0.0, 500.0, 1000.0]);
        assert_eq!(Axis::linear(&[0.31, 0.07]).ticks, [0.0, 0.1, 0.2, 0.30000000000000004, 0.4]);
        assert_eq!(Axis::logarithmic(&[1.0, 10.0, 100.0, 1000.0]).ticks, [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(Axis::logarithmic(&[3.0, 40.0]).ticks, [2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(
            (Axis::fitting(&[1.0, 50.0], 10.0).logarithmic, Axis::fitting(&[0.0, 50.0], 10.0).logarithmic),
            (true, false)
        );
        let axis = Axis::logarithmic(&[1.0, 100.0]);
        assert!((axis.at(10.0) - 0.5).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn ticks_are_round_and_have_all_between_them(
            values in prop::collection::vec((-9..15_i32, 1.0..10.0_f64).prop_map(|(power, digit)| digit * 10_f64.powi(power)), 1..9),
        ) {
            check(&Axis::linear(&values), &values);
            check(&Axis::logarithmic(&values), &values);
            check(&Axis::fitting(&values, 20.0), &values);
        }
    }
}
