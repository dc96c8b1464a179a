//! Numbers that may be percentages.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How a percentage of something indivisible is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    Up,
    Down,
}

/// The number that `value` means out of `total`; `None` if it is neither a
/// number nor a percentage.
pub(crate) fn resolve(value: &IntOrString, total: i32, round: Round) -> Option<i32> {
    match value {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            let scaled = i64::from(total).checked_mul(percent)?;
            let number = match round {
                Round::Up => scaled.checked_add(99)?.div_euclid(100),
                Round::Down => scaled.div_euclid(100),
            };
            i32::try_from(number).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        let text = |text: &str| IntOrString::String(text.to_owned());
        for (value, total, up, down) in [
            (IntOrString::Int(3), 10, Some(3), Some(3)),
            (text("25%"), 10, Some(3), Some(2)),
            (text("100%"), 7, Some(7), Some(7)),
            (text("0%"), 7, Some(0), Some(0)),
            (text("7"), 7, None, None),
            (text("99999999999999999%"), i32::MAX, None, None),
        ] {
            assert_eq!(resolve(&value, total, Round::Up), up, "{value:?}");
            assert_eq!(resolve(&value, total, Round::Down), down, "{value:?}");
        }
    }
}
