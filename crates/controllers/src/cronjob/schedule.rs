//! Cron schedules: five fields, names, steps, and the short forms.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

/// Days that are looked at for the next time: long enough for the 29th of
/// February on a given weekday, short enough for a schedule that never comes.
const MAX_DAYS: usize = 366 * 30;
/// Longest text of a schedule that is read, in bytes.
const MAX_LENGTH: usize = 512;

/// Why a schedule is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unparseable schedule: {0}")]
pub(super) struct ScheduleError(String);

/// When to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// At these times of the calendar.
    Calendar(Calendar),
    /// Again and again after this time.
    Every(SignedDuration),
}

/// Sets of minutes, hours and so on, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Calendar {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether days of the month, and of the week, were left open: of two that
    /// are given, one suffices.
    any_day: bool,
    any_weekday: bool,
}

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule.
    pub(super) fn parse(text: &str) -> Result<Self, ScheduleError> {
        let bad = || ScheduleError(text.chars().take(100).collect());
        if text.len() > MAX_LENGTH {
            return Err(bad());
        }
        if let Some(every) = text.strip_prefix("@every ") {
            let every: SignedDuration = every.trim().parse().map_err(|_| bad())?;
            return Ok(Self::Every(every.max(SignedDuration::from_secs(1))));
        }
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(bad());
        };
        let read = |text: &str, least: u32, most: u32, names: &[&str]| {
            field(text, least, most, names).ok_or_else(bad)
        };
        let (minutes, _) = read(minutes, 0, 59, &[])?;
        let (hours, _) = read(hours, 0, 23, &[])?;
        let (days, any_day) = read(days, 1, 31, &[])?;
        let (months, _) = read(months, 1, 12, MONTHS)?;
        let (mut weekdays, any_weekday) = read(weekdays, 0, 7, WEEKDAYS)?;
        // Sunday is both 0 and 7.
        if weekdays & (1 << 7) != 0 {
            weekdays |= 1;
        }
        Ok(Self::Calendar(Calendar {
            minutes,
            hours,
            days,
            months,
            weekdays,
            any_day,
            any_weekday,
        }))
    }

    /// The first time after `after`, by the clock of `zone`; `None` if there
    /// is none.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(every) => after.checked_add(*every).ok(),
            Self::Calendar(calendar) => calendar.next(after, zone),
        }
    }
}

/// Reads one field: the set, and whether it was left open. Values are below 64.
fn field(text: &str, least: u32, most: u32, names: &[&str]) -> Option<(u64, bool)> {
    let mut set = 0;
    let mut open = false;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|it| *it > 0)?)),
            None => (part, None),
        };
        let (first, last) = match range {
            "*" | "?" => {
                open |= step.is_none();
                (least, most)
            }
            _ => match range.split_once('-') {
                Some((first, last)) => (value(first, least, names)?, value(last, least, names)?),
                None => {
                    let first = value(range, least, names)?;
                    // `5/10` means from five on.
                    (first, if step.is_some() { most } else { first })
                }
            },
        };
        if first < least || last > most || first > last {
            return None;
        }
        let step = usize::try_from(step.unwrap_or(1)).ok()?;
        for number in (first..=last).step_by(step) {
            set |= 1 << number;
        }
    }
    Some((set, open))
}

fn value(text: &str, least: u32, names: &[&str]) -> Option<u32> {
    let named = names
        .iter()
        .position(|name| name.eq_ignore_ascii_case(text));
    match named {
        Some(position) => Some(u32::try_from(position).ok()? + least),
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        None => None,
    }
}

fn bits(set: u64) -> impl Iterator<Item = i8> {
    (0..60).filter(move |bit| set & (1 << bit) != 0)
}

impl Calendar {
    fn includes(&self, date: Date) -> bool {
        let day = self.days & (1 << date.day()) != 0;
        let weekday = self.weekdays & (1 << date.weekday().to_sunday_zero_offset()) != 0;
        let right_day = if self.any_day || self.any_weekday {
            day && weekday
        } else {
            day || weekday
        };
        right_day && self.months & (1 << date.month()) != 0
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = zone.to_datetime(after);
        let mut date = start.date();
        for _ in 0..MAX_DAYS {
            if self.includes(date) {
                let times = bits(self.hours).flat_map(|hour| {
                    bits(self.minutes).filter_map(move |minute| Time::new(hour, minute, 0, 0).ok())
                });
                let moments = times.filter_map(|time| instant(date.to_datetime(time), zone));
                if let Some(found) = moments.filter(|at| *at > after).min() {
                    return Some(found);
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }
}

/// The moment of a local time; `None` if clocks jump over it. Of two moments
/// the first counts.
fn instant(at: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(at);
    match ambiguous.offset() {
        AmbiguousOffset::Gap { .. } => None,
        _ => ambiguous.earlier().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn next(schedule: &str, after: &str, zone: &str) -> Option<String> {
        let zone = TimeZone::get(zone).unwrap();
        let next = Schedule::parse(schedule)
            .unwrap()
            .next(after.parse().unwrap(), &zone);
        next.map(|at| at.to_string())
    }

    #[test]
    fn next_times() {
        for (schedule, after, zone, expected) in [
            (
                "* * * * *",
                "2026-01-01T00:00:00Z",
                "UTC",
                Some("2026-01-01T00:01:00Z"),
            ),
            (
                "* * * * *",
                "2026-01-01T00:00:59Z",
                "UTC",
                Some("2026-01-01T00:01:00Z"),
            ),
            (
                "*/15 3 * * *",
                "2026-01-01T03:46:00Z",
                "UTC",
                Some("2026-01-02T03:00:00Z"),
            ),
            (
                "30 4 1,15 * *",
                "2026-01-02T00:00:00Z",
                "UTC",
                Some("2026-01-15T04:30:00Z"),
            ),
            // The 1st of January 2026 is a Thursday.
            (
                "0 0 * * mon-wed",
                "2026-01-01T00:00:00Z",
                "UTC",
                Some("2026-01-05T00:00:00Z"),
            ),
            (
                "0 0 * * 7",
                "2026-01-01T00:00:00Z",
                "UTC",
                Some("2026-01-04T00:00:00Z"),
            ),
            // Of two given days either will do.
            (
                "0 0 20 * fri",
                "2026-01-01T00:00:00Z",
                "UTC",
                Some("2026-01-02T00:00:00Z"),
            ),
            (
                "0 0 29 feb *",
                "2026-01-01T00:00:00Z",
                "UTC",
                Some("2028-02-29T00:00:00Z"),
            ),
            ("0 0 31 2 *", "2026-01-01T00:00:00Z", "UTC", None),
            (
                "@hourly",
                "2026-01-01T00:30:00Z",
                "UTC",
                Some("2026-01-01T01:00:00Z"),
            ),
            (
                "@every 90m",
                "2026-01-01T00:00:00Z",
                "UTC",
                Some("2026-01-01T01:30:00Z"),
            ),
            (
                "0 9 * * *",
                "2026-07-01T00:00:00Z",
                "Europe/Berlin",
                Some("2026-07-01T07:00:00Z"),
            ),
            // Half past two does not exist on the 29th of March.
            (
                "30 2 * * *",
                "2026-03-29T00:00:00Z",
                "Europe/Berlin",
                Some("2026-03-30T00:30:00Z"),
            ),
            // And comes twice on the 25th of October, of which the first counts.
            (
                "30 2 * * *",
                "2026-10-25T00:00:00Z",
                "Europe/Berlin",
                Some("2026-10-25T00:30:00Z"),
            ),
        ] {
            let expected = expected.map(str::to_owned);
            assert_eq!(
                next(schedule, after, zone),
                expected,
                "{schedule} after {after}"
            );
        }
    }

    #[test]
    fn what_is_no_schedule() {
        for text in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "-1 * * * *",
            "@never",
            "+5 * * * *",
            "1,,2 * * * *",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9*/,a-z@ -]{0,40}") {
            if let Ok(schedule) = Schedule::parse(&text) {
                let after = "2026-01-01T00:00:00Z".parse().unwrap();
                let next = schedule.next(after, &TimeZone::UTC);
                prop_assert!(next.is_none_or(|next| next > after));
            }
        }
    }
}
