//! Resource amounts read from quantities such as `250m` or `1Gi`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The amount in thousandths of a unit, rounded up; `None` if malformed.
///
/// Saturates far beyond any real amount instead of failing.
pub fn milli(text: &str) -> Option<i128> {
    /// Longest text read; a quantity has at most some 40 characters.
    const MAX_LEN: usize = 64;
    if text.is_empty() || text.len() > MAX_LEN {
        return None;
    }
    let number_end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    let (factor, exponent): (i128, i32) = match suffix {
        "" => (1000, 0),
        "n" => (1, -6),
        "u" => (1, -3),
        "m" => (1, 0),
        "k" => (1000, 3),
        "M" => (1000, 6),
        "G" => (1000, 9),
        "T" => (1000, 12),
        "P" => (1000, 15),
        "E" => (1000, 18),
        "Ki" => (1000 << 10, 0),
        "Mi" => (1000 << 20, 0),
        "Gi" => (1000 << 30, 0),
        "Ti" => (1000 << 40, 0),
        "Pi" => (1000_i128 << 50, 0),
        "Ei" => (1000_i128 << 60, 0),
        other => (1000, other.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let negative = number.starts_with('-');
    let digits = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty()
        || !digits.chars().all(|c| c.is_ascii_digit() || c == '.')
        || fraction.contains('.')
    {
        return None;
    }
    // Nine decimals are kept: the finest unit Kubernetes knows is the nano.
    let mut value: i128 = whole.trim_start_matches('0').get(..24).map_or_else(
        || {
            let whole = whole.trim_start_matches('0');
            if whole.is_empty() {
                Some(0)
            } else {
                whole.parse().ok()
            }
        },
        |_| Some(10_i128.pow(24)),
    )?;
    value = value.saturating_mul(1_000_000_000);
    let padded = format!("{:0<9}", fraction.get(..9).unwrap_or(fraction));
    value = value.saturating_add(padded.parse().ok()?);
    value = value.saturating_mul(factor);
    let power = exponent.clamp(-30, 30) - 9;
    let scale = 10_i128.saturating_pow(power.unsigned_abs());
    let value = if power >= 0 {
        value.saturating_mul(scale)
    } else {
        value.div_euclid(scale) + i128::from(value.rem_euclid(scale) != 0)
    };
    Some(if negative { -value } else { value })
}

/// The amount of `resource` in thousandths, if named and well-formed.
pub fn milli_of(list: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Option<i64> {
    let amount = milli(&list?.get(resource)?.0)?;
    Some(i64::try_from(amount).unwrap_or(i64::MAX))
}

/// The amount of `resource` in whole units, rounded up.
pub fn units_of(list: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Option<i64> {
    let amount = milli(&list?.get(resource)?.0)?;
    let units = amount.div_euclid(1000) + i128::from(amount.rem_euclid(1000) != 0);
    Some(i64::try_from(units).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_in_thousandths() {
        for (text, want) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("250m", Some(250)),
            ("1.5", Some(1500)),
            ("0.1", Some(100)),
            (".5", Some(500)),
            ("1Ki", Some(1_024_000)),
            ("128Mi", Some(128 * 1024 * 1024 * 1000)),
            ("1.5Gi", Some(3 * 512 * 1024 * 1024 * 1000)),
            ("1k", Some(1_000_000)),
            ("1e3", Some(1_000_000)),
            ("100n", Some(1)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("-1", Some(-1000)),
            ("", None),
            ("abc", None),
            ("1.2.3", None),
            ("1Kx", None),
            ("--", None),
        ] {
            assert_eq!(milli(text), want, "{text}");
        }
    }

    #[test]
    fn absurd_amounts_saturate() {
        assert!(milli(&"9".repeat(60)).is_some());
        assert!(milli("9e999").is_some());
    }
}
