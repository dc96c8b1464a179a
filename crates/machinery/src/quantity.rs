//! Kubernetes quantities (`100m`, `1.5Gi`, `1e3`), exact to a nano, after
//! `k8s.io/apimachinery/pkg/api/resource`.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use serde_json::Value;

const NANO: i128 = 1_000_000_000;

/// The largest amount held, in nanos: what is greater is cut down to it. It
/// lies far above upstream's int64 and leaves room for sums.
const MAX_NANOS: i128 = 10_i128.pow(37);

/// The longest text that is read, in bytes. Upstream has no limit; an honest
/// quantity has under 30 characters.
const MAX_TEXT: usize = 256;

/// The family of suffixes that a quantity is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `n u m - k M G T P E`, powers of 1000.
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`, powers of 1024.
    BinarySi,
    /// `e3`, powers of ten.
    DecimalExponent,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form number and suffix.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The number is not one.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An amount of something, in a form that people write.
///
/// Two quantities are equal if they are the same amount: `1` equals `1000m`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self {
        nanos: 0,
        format: Format::DecimalSi,
    };

    /// Reads a quantity. As upstream, fractions of a nano round away from
    /// zero.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(QuantityError::Format);
        }
        let (negative, unsigned) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Format);
        }
        let (scale, format) = Scale::of_suffix(suffix)?;
        let magnitude = scale.apply(whole, fraction);
        let nanos = if negative { -magnitude } else { magnitude };
        Ok(Self { nanos, format })
    }

    /// Reads a JSON string or number.
    pub fn from_value(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => Self::parse(text.trim()),
            Value::Number(number) => Self::parse(&number.to_string()),
            _ => Err(QuantityError::Format),
        }
    }

    /// A whole number of units.
    pub fn from_units(units: i64) -> Self {
        Self::from_nanos(i128::from(units) * NANO, Format::DecimalSi)
    }

    /// A number of thousandths, as of a CPU.
    pub fn from_milli(milli: i64) -> Self {
        Self::from_nanos(i128::from(milli) * (NANO / 1000), Format::DecimalSi)
    }

    /// A whole number of units, written with binary suffixes: bytes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self::from_nanos(i128::from(bytes) * NANO, Format::BinarySi)
    }

    fn from_nanos(nanos: i128, format: Format) -> Self {
        Self {
            nanos: nanos.clamp(-MAX_NANOS, MAX_NANOS),
            format,
        }
    }

    /// The amount in units, rounded up, held within `i64`.
    pub fn value(&self) -> i64 {
        self.scaled(NANO)
    }

    /// The amount in thousandths, rounded up, held within `i64`.
    pub fn milli_value(&self) -> i64 {
        self.scaled(NANO / 1000)
    }

    /// The amount as a float, for ratios only.
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// True if it is nothing.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// True if it is less than nothing.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// The suffixes that it is written with.
    pub fn format(&self) -> Format {
        self.format
    }

    /// As upstream's `Value`: rounds away from zero.
    fn scaled(&self, unit: i128) -> i64 {
        let whole = self.nanos / unit;
        let rounded = match self.nanos % unit {
            0 => whole,
            rest => whole + rest.signum(),
        };
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }

    /// The format of a sum: the left one's, unless that is nothing.
    fn sum_format(&self, other: &Self) -> Format {
        if self.is_zero() {
            other.format
        } else {
            self.format
        }
    }
}

/// What a suffix multiplies by.
#[derive(Clone, Copy)]
enum Scale {
    Ten(i64),
    Two(u32),
}

impl Scale {
    fn of_suffix(suffix: &str) -> Result<(Self, Format), QuantityError> {
        let decimal = |exponent| Ok((Self::Ten(exponent), Format::DecimalSi));
        let binary = |exponent| Ok((Self::Two(exponent), Format::BinarySi));
        match suffix {
            "n" => decimal(-9),
            "u" => decimal(-6),
            "m" => decimal(-3),
            "" => decimal(0),
            "k" => decimal(3),
            "M" => decimal(6),
            "G" => decimal(9),
            "T" => decimal(12),
            "P" => decimal(15),
            "E" => decimal(18),
            "Ki" => binary(10),
            "Mi" => binary(20),
            "Gi" => binary(30),
            "Ti" => binary(40),
            "Pi" => binary(50),
            "Ei" => binary(60),
            _ => {
                let exponent = suffix
                    .strip_prefix(['e', 'E'])
                    .and_then(|digits| digits.parse::<i32>().ok())
                    .ok_or(QuantityError::Suffix)?;
                Ok((Self::Ten(i64::from(exponent)), Format::DecimalExponent))
            }
        }
    }

    /// The nanos of `whole.fraction` times this scale, rounded up.
    fn apply(self, whole: &str, fraction: &str) -> i128 {
        // As many digits are kept as leave room for the factor in an i128.
        let (power, factor, limit) = match self {
            Self::Ten(exponent) => (exponent + 9, 1, 10_i128.pow(37)),
            Self::Two(exponent) => (9, 1_i128 << exponent, 10_i128.pow(19)),
        };
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        if whole.is_empty() && fraction.is_empty() {
            return 0;
        }
        // The digits are one integer, to be multiplied by `factor` and by ten
        // to the power of `shift`.
        let mut digits = DecimalAccumulator::default();
        for digit in whole.bytes().chain(fraction.bytes()) {
            digits.push(digit - b'0', limit);
        }
        let shift =
            power - i64::try_from(fraction.len()).unwrap_or(i64::MAX) + i64::from(digits.dropped);
        let product = digits.value.saturating_mul(factor);
        shift_decimal(product, shift, digits.inexact).min(MAX_NANOS)
    }
}

/// Collects decimal digits as far as they matter.
#[derive(Default)]
struct DecimalAccumulator {
    value: i128,
    dropped: u32,
    inexact: bool,
}

impl DecimalAccumulator {
    fn push(&mut self, digit: u8, limit: i128) {
        if self.value < limit {
            self.value = self.value * 10 + i128::from(digit);
        } else {
            self.dropped += 1;
            self.inexact |= digit != 0;
        }
    }
}

/// `value * 10^shift`, rounded up, saturating.
fn shift_decimal(value: i128, shift: i64, inexact: bool) -> i128 {
    // 10^38 is the greatest power of ten in an i128.
    const MOST: i64 = 38;
    if shift >= 0 {
        if shift > MOST {
            return MAX_NANOS;
        }
        let power = 10_i128.pow(u32::try_from(shift).unwrap_or(0));
        return value.saturating_mul(power);
    }
    if -shift > MOST {
        return 1;
    }
    let power = 10_i128.pow(u32::try_from(-shift).unwrap_or(0));
    let rest = value % power != 0 || inexact;
    value / power + i128::from(rest)
}

impl fmt::Display for Quantity {
    /// The canonical form: no precision lost, no fractional digits, the
    /// greatest suffix possible.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let units = self.nanos / NANO;
        let binary = self.format == Format::BinarySi
            && self.nanos % NANO == 0
            && !(-1024 < units && units < 1024);
        if binary {
            let (mut units, mut power) = (units, 0);
            while units % 1024 == 0 && power < 6 {
                units /= 1024;
                power += 1;
            }
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power];
            return write!(f, "{units}{suffix}");
        }
        let (mut number, mut exponent) = (self.nanos, -9_i32);
        while number % 1000 == 0 {
            number /= 1000;
            exponent += 3;
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            18 => "E",
            _ => "e",
        };
        match (self.format, exponent) {
            (_, 0) => write!(f, "{number}"),
            (Format::DecimalExponent, _) | (_, 19..) => write!(f, "{number}e{exponent}"),
            _ => write!(f, "{number}{suffix}"),
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::from_nanos(self.nanos + other.nanos, self.sum_format(&other))
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self::from_nanos(self.nanos - other.nanos, self.sum_format(&other))
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self {
            nanos: -self.nanos,
            format: self.format,
        }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, |sum, item| sum + item)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_forms_are_those_of_upstream() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("1000m", "1"),
            ("100m", "100m"),
            ("0.1", "100m"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("512Ki", "512Ki"),
            ("1023", "1023"),
            ("0.5Ki", "512"),
            ("0.001Ki", "1024m"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e4", "120e3"),
            ("1E", "1E"),
            ("100E", "100E"),
            ("1000E", "1e21"),
            ("-1.5", "-1500m"),
            ("+1", "1"),
            (".5", "500m"),
            ("5.", "5"),
            ("0.0000000001", "1n"),
            ("1e-20", "1e-9"),
            ("123456789012345678", "123456789012345678"),
            ("1.1Mi", "1153433600m"),
            ("3000000", "3M"),
            ("1Ei", "1Ei"),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!(quantity.to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn bad_texts_are_refused() {
        for text in [
            "", "a", "1x", "1.2.3", "--1", "1 Gi", "1gi", "Mi", ".", "-", "1e", "1e1.5", "1kk",
            "1é",
        ] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_add_and_compare() {
        let q = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!(q("1"), q("1000m"));
        assert!(q("1Gi") > q("1G"));
        assert_eq!((q("500m") + q("1")).to_string(), "1500m");
        assert_eq!((Quantity::ZERO + q("1Gi") + q("1Gi")).to_string(), "2Gi");
        assert_eq!((q("1Gi") - q("2Gi")).to_string(), "-1Gi");
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("-1500m").value(), -2);
        assert_eq!(q("0.0001").milli_value(), 1);
        assert_eq!(q("1e30").value(), i64::MAX);
        assert_eq!(Quantity::from_value(&serde_json::json!(2)).unwrap(), q("2"));
        assert_eq!(
            Quantity::from_value(&serde_json::json!(0.5)).unwrap(),
            q("500m")
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[-+]?[0-9.]{0,40}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,12}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                let again = Quantity::parse(&quantity.to_string()).unwrap();
                prop_assert_eq!(again, quantity);
                prop_assert_eq!(again.to_string(), quantity.to_string());
                let _ = quantity + again - quantity;
            }
        }
    }
}
