//! Points in time and lengths of time.

use jiff::tz::{Offset, TimeZone};

use super::{Outcome, no_overload};
use crate::cel::{Val, fail};

const UNITS: &[(&str, f64)] = &[
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Reads `1h30m`, in nanoseconds.
pub(in crate::cel) fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0.0_f64;
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let length = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..length])?;
        total += number * unit;
        rest = &rest[length..];
        any = true;
    }
    if !any || total > 9.2e18 {
        return None;
    }
    let nanoseconds = total.round() as i64;
    Some(if negative { -nanoseconds } else { nanoseconds })
}

/// `duration(text)` and `timestamp(text or seconds)`.
pub(super) fn make<'a>(name: &str, value: &Val<'a>) -> Outcome<'a> {
    match (name, value) {
        ("duration", Val::Duration(_)) | ("timestamp", Val::Timestamp(_)) => Ok(value.clone()),
        ("duration", Val::Text(text)) => match duration(text) {
            Some(length) => Ok(Val::Duration(length)),
            None => fail(format!("time: invalid duration \"{text}\"")),
        },
        ("timestamp", Val::Int(seconds)) => {
            let nanoseconds = i128::from(*seconds) * 1_000_000_000;
            Ok(Val::Timestamp(nanoseconds))
        }
        ("timestamp", Val::Text(text)) => match text.parse::<jiff::Timestamp>() {
            Ok(time) => Ok(Val::Timestamp(time.as_nanosecond())),
            Err(_) => fail(format!(
                "type conversion error from '{text}' to 'timestamp'"
            )),
        },
        _ => no_overload(),
    }
}

pub(super) fn to_text(value: &Val<'_>) -> String {
    match value {
        Val::Timestamp(time) => jiff::Timestamp::from_nanosecond(*time)
            .map_or_else(|_| String::new(), |t| t.to_string()),
        Val::Duration(length) => {
            let whole = length / 1_000_000_000;
            let fraction = (length % 1_000_000_000).unsigned_abs();
            if fraction == 0 {
                return format!("{whole}s");
            }
            let sign = if *length < 0 { "-" } else { "" };
            let digits = format!("{fraction:09}");
            format!("{sign}{}.{}s", whole.abs(), digits.trim_end_matches('0'))
        }
        _ => String::new(),
    }
}

/// A function of a time.
pub(super) fn call<'a>(name: &str, all: &[Val<'a>]) -> Outcome<'a> {
    match all {
        [Val::Duration(length)] => {
            let unit = match name {
                "getHours" => 3_600_000_000_000,
                "getMinutes" => 60_000_000_000,
                "getSeconds" => 1_000_000_000,
                "getMilliseconds" => 1_000_000,
                _ => return no_overload(),
            };
            Ok(Val::Int(length / unit))
        }
        [Val::Timestamp(time)] => part(name, *time, TimeZone::UTC),
        [Val::Timestamp(time), Val::Text(zone)] => match time_zone(zone) {
            Some(zone) => part(name, *time, zone),
            None => fail(format!("unknown time zone {zone}")),
        },
        _ => no_overload(),
    }
}

/// `UTC`, or an offset such as `-08:00`.
fn time_zone(text: &str) -> Option<TimeZone> {
    if text == "UTC" || text.is_empty() {
        return Some(TimeZone::UTC);
    }
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
    Some(Offset::from_seconds(sign * seconds).ok()?.to_time_zone())
}

fn part<'a>(name: &str, nanoseconds: i128, zone: TimeZone) -> Outcome<'a> {
    let Ok(time) = jiff::Timestamp::from_nanosecond(nanoseconds) else {
        return fail("timestamp overflow");
    };
    let time = time.to_zoned(zone);
    Ok(Val::Int(match name {
        "getFullYear" => time.year().into(),
        "getMonth" => i64::from(time.month()) - 1,
        "getDate" => time.day().into(),
        "getDayOfMonth" => i64::from(time.day()) - 1,
        "getDayOfYear" => i64::from(time.day_of_year()) - 1,
        "getDayOfWeek" => time.weekday().to_sunday_zero_offset().into(),
        "getHours" => time.hour().into(),
        "getMinutes" => time.minute().into(),
        "getSeconds" => time.second().into(),
        "getMilliseconds" => time.millisecond().into(),
        _ => return no_overload(),
    }))
}
