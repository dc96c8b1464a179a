//! The formats that upstream checks for custom kinds. Others are notes.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use crate::{names, time};

/// True if the value has the format, or the format is one that nobody checks.
pub fn matches(format: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => text_matches(format, text),
        Value::Number(number) => match format {
            "int32" => number.as_i64().is_none_or(|n| i32::try_from(n).is_ok()),
            _ => true,
        },
        _ => true,
    }
}

fn text_matches(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => time::parse(text).is_some(),
        "date" => text.len() == 10 && time::parse(&format!("{text}T00:00:00Z")).is_some(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => {
            let parts: Vec<&str> = text.split([':', '-']).collect();
            parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && is_hex(p))
        }
        "uuid" | "uuid3" | "uuid4" | "uuid5" => is_uuid(text),
        "email" => {
            let parts = text.split_once('@');
            parts.is_some_and(|(user, host)| {
                !user.is_empty() && !host.is_empty() && !host.contains('@') && !text.contains(' ')
            })
        }
        "hostname" => names::dns1123_subdomain_errors(&text.to_lowercase()).is_empty(),
        "byte" => {
            let body = text.trim_end_matches('=');
            text.len().is_multiple_of(4)
                && text.len() - body.len() <= 2
                && body
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
        }
        "uri" => {
            text.starts_with('/')
                || text.split_once(':').is_some_and(|(scheme, _)| {
                    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                        && scheme
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
                })
        }
        "duration" => is_duration(text),
        _ => true,
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else {
        return false;
    };
    let Ok(bits) = bits.parse::<u8>() else {
        return false;
    };
    (address.parse::<Ipv4Addr>().is_ok() && bits <= 32)
        || (address.parse::<Ipv6Addr>().is_ok() && bits <= 128)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|p| p.len()).collect();
    (lengths == [8, 4, 4, 4, 12] || lengths == [32]) && parts.iter().all(|p| is_hex(p))
}

/// `1h30m`, `1.5s`, `-2ms`, and `3 days` in words.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        if number.parse::<f64>().is_err() {
            return false;
        }
        let after = after.trim_start();
        let end = after
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let known = matches!(
            unit,
            "ns" | "us"
                | "µs"
                | "μs"
                | "ms"
                | "s"
                | "m"
                | "h"
                | "d"
                | "w"
                | "day"
                | "days"
                | "hour"
                | "hours"
                | "minute"
                | "minutes"
                | "min"
                | "second"
                | "seconds"
                | "sec"
                | "week"
                | "weeks"
        );
        if !known {
            return false;
        }
        rest = after.trim_start();
        parts += 1;
    }
    parts > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_checked() {
        for (format, good, bad) in [
            ("date", "2026-01-02", "2026-13-02"),
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "00:11:22:33:44:55", "00:11:22"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
            ("email", "a@b.c", "a"),
            ("hostname", "a.b", "a b"),
            ("byte", "aGk=", "aGk"),
            ("uri", "https://a", "a b"),
            ("duration", "1h30m", "1x"),
        ] {
            assert!(text_matches(format, good), "{format} {good}");
            assert!(!text_matches(format, bad), "{format} {bad}");
        }
        assert!(text_matches("unheard-of", "x"));
        assert!(!matches("int32", &Value::from(5_000_000_000_u64)));
    }
}
