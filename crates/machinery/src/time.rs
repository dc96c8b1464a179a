//! Times as the API writes them, and ages as kubectl prints them. The present
//! time is always handed in.

use jiff::Timestamp;

/// Seconds since the epoch as `metav1.Time`: `2026-01-02T03:04:05Z`. Times
/// outside the years 0 to 9999 are cut to those.
pub fn rfc3339(seconds: i64) -> String {
    let time = Timestamp::from_second(seconds.clamp(MIN_SECONDS, MAX_SECONDS));
    format!("{:.0}", time.unwrap_or_default())
}

/// Microseconds since the epoch as `metav1.MicroTime`:
/// `2026-01-02T03:04:05.000006Z`.
pub fn rfc3339_micro(microseconds: i64) -> String {
    let limited = microseconds.clamp(MIN_SECONDS * 1_000_000, MAX_SECONDS * 1_000_000);
    let time = Timestamp::from_microsecond(limited);
    format!("{:.6}", time.unwrap_or_default())
}

// 0000-01-01 and 9999-12-30: what RFC 3339 can write in any time zone.
const MIN_SECONDS: i64 = -62_167_219_200;
const MAX_SECONDS: i64 = 253_402_207_200;

/// Reads a time in RFC 3339 form, with any fraction and offset.
pub fn parse(text: &str) -> Option<Timestamp> {
    // jiff also reads forms with annotations or a space; Go does not.
    let bytes = text.as_bytes();
    let plain = (20..=35).contains(&bytes.len())
        && bytes[10] == b'T'
        && bytes[4] == b'-'
        && bytes[13] == b':'
        && !text.contains('[');
    if plain { text.parse().ok() } else { None }
}

/// Seconds since the epoch of an RFC 3339 time.
pub fn parse_seconds(text: &str) -> Option<i64> {
    parse(text).map(Timestamp::as_second)
}

/// The age of something made at `created` (RFC 3339), as kubectl prints it:
/// `<unknown>` for an absent or unreadable time.
pub fn age(created: &str, now: i64) -> String {
    match parse_seconds(created) {
        Some(then) => human_duration(now.saturating_sub(then)),
        None => "<unknown>".to_owned(),
    }
}

/// A duration with about two significant digits: `5m16s`, `3h`, `2d`. Up to a
/// second in the future counts as none, more is `<invalid>`.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{big_unit}")
        } else {
            format!("{big}{big_unit}{small}{small_unit}")
        }
    };
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds / MINUTE, "m", seconds % MINUTE, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(seconds / HOUR, "h", seconds % HOUR / MINUTE, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => two(seconds / YEAR, "y", seconds % YEAR / DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_767_323_045), "2026-01-02T03:04:05Z");
        assert_eq!(
            rfc3339_micro(1_767_323_045_000_006),
            "2026-01-02T03:04:05.000006Z"
        );
        assert_eq!(rfc3339_micro(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(parse_seconds("2026-01-02T03:04:05Z"), Some(1_767_323_045));
        assert_eq!(
            parse_seconds("2026-01-02T05:04:05.123456+02:00"),
            Some(1_767_323_045)
        );
        for bad in [
            "",
            "x",
            "2026-01-02",
            "2026-01-02 03:04:05Z",
            "2026-13-02T03:04:05Z",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        rfc3339(i64::MAX);
        rfc3339_micro(i64::MIN);
    }

    #[test]
    fn ages_are_those_of_kubectl() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (316, "5m16s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (28_800, "8h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (400_000_000, "12y"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
        assert_eq!(age("", 5), "<unknown>");
    }
}
