//! Forms of texts, with upstream's words for what is wrong.

use std::net::IpAddr;

use coracle_machinery::names::dns1123_subdomain_errors;
use coracle_machinery::{FieldError, FieldPath};

use super::Errors;

/// A check of a text: all that is wrong with it.
pub(super) type Check = fn(&str) -> Vec<String>;

/// Adds an error for everything that `check` finds wrong with `value`.
pub(super) fn check(errors: &mut Errors, path: &FieldPath, value: &str, check: Check) {
    errors.extend(
        check(value)
            .into_iter()
            .map(|detail| FieldError::invalid(path, value, detail)),
    );
}

/// As [`check`], with a required value.
pub(super) fn check_required(errors: &mut Errors, path: &FieldPath, value: &str, rule: Check) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        check(errors, path, value, rule);
    }
}

/// Port number.
pub(super) fn port_number(errors: &mut Errors, path: &FieldPath, port: i64) {
    if !(1..=65_535).contains(&port) {
        let detail = "must be between 1 and 65535, inclusive";
        errors.push(FieldError::invalid(path, port, detail));
    }
}

/// IP address in its usual form.
pub(super) fn ip_address(text: &str) -> Vec<String> {
    match text.parse::<IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// IP address of something that is elsewhere: neither this machine nor its
/// link, where clouds keep their metadata.
pub(super) fn non_special_address(text: &str) -> Vec<String> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return vec!["must be a valid IP address".to_owned()];
    };
    // Upstream looks at an IPv4 address in its other form as well.
    let address = address.to_canonical();
    let multicast = match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let mut errors = Vec::new();
    if address.is_unspecified() {
        errors.push(format!("may not be unspecified ({text})"));
    }
    for (special, range) in [
        (
            address.is_loopback(),
            "loopback range (127.0.0.0/8, ::1/128)",
        ),
        (link_local, "link-local range (169.254.0.0/16, fe80::/10)"),
        (
            multicast,
            "link-local multicast range (224.0.0.0/24, ff02::/10)",
        ),
    ] {
        if special {
            errors.push(format!("may not be in the {range}"));
        }
    }
    errors
}

/// Address block such as `10.0.0.0/8`.
pub(super) fn cidr(text: &str) -> Vec<String> {
    let valid = text.split_once('/').is_some_and(|(address, bits)| {
        let Ok(address) = address.parse::<IpAddr>() else {
            return false;
        };
        let max = if address.is_ipv4() { 32 } else { 128 };
        bits.parse::<u8>().is_ok_and(|bits| bits <= max)
    });
    if valid {
        Vec::new()
    } else {
        vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
    }
}

/// IP address without leading zeros, in the family that it belongs to.
pub(super) fn strict_ip_address(text: &str) -> Vec<String> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(_) => Vec::new(),
        Err(_) if without_zeros(text).parse::<IpAddr>().is_ok() => {
            vec!["must not have leading 0s".to_owned()]
        }
        Err(_) => ip_address(text),
    }
}

/// An IPv4 address whose numbers have no leading zeros.
fn without_zeros(text: &str) -> String {
    let number = |number: &str| match number.trim_start_matches('0') {
        "" if !number.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    text.split('.').map(number).collect::<Vec<_>>().join(".")
}

/// Address block that is written as such: no bits beyond its length.
pub(super) fn strict_cidr(text: &str) -> Vec<String> {
    let (address, bits) = text.split_once('/').unwrap_or((text, ""));
    let zeros = bits.len() > 1 && bits.starts_with('0');
    let Ok(parsed) = address.parse::<IpAddr>() else {
        let sane = format!("{}/{bits}", without_zeros(address));
        return match cidr(&sane).is_empty() {
            true => vec!["must not have leading 0s in IP or prefix length".to_owned()],
            false => cidr(text),
        };
    };
    let wrong = cidr(text);
    let Some(bits) = bits.parse::<u32>().ok().filter(|_| wrong.is_empty()) else {
        return wrong;
    };
    let beyond = match parsed {
        IpAddr::V4(v4) => u32::from(v4).checked_shl(bits).unwrap_or(0) != 0,
        IpAddr::V6(v6) => u128::from(v6).checked_shl(bits).unwrap_or(0) != 0,
    };
    let mapped = matches!(parsed, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let detail = match (zeros, mapped, beyond) {
        (true, ..) => "must not have leading 0s in IP or prefix length",
        (_, true, _) => "must not have an IPv4-mapped IPv6 address",
        (.., true) => "must not have bits set beyond the prefix length",
        _ => return Vec::new(),
    };
    vec![detail.to_owned()]
}

/// Characters of a path in a URL besides letters and digits.
const PATH_CHARACTERS: &str = "/-._~%!$&'()*+,;=:";

/// A name such as `example.com/controller`.
pub(super) fn domain_prefixed_path(errors: &mut Errors, path: &FieldPath, value: &str) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let parts = value.split_once('/');
    let Some((domain, rest)) = parts.filter(|(d, r)| !d.is_empty() && !r.is_empty()) else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(FieldError::invalid(path, value, detail));
        return;
    };
    check(errors, path, domain, dns1123_subdomain_errors);
    let allowed = |c: char| c.is_ascii_alphanumeric() || PATH_CHARACTERS.contains(c);
    if !rest.chars().all(allowed) {
        let detail =
            "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.push(FieldError::invalid(path, rest, detail));
    }
}

/// A path that stays below where it is mounted.
pub(super) fn local_path(errors: &mut Errors, path: &FieldPath, value: &str) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    no_parent(errors, path, value);
}

/// A path without `..`.
pub(super) fn no_parent(errors: &mut Errors, path: &FieldPath, value: &str) {
    if value.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, value, "must not contain '..'"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let table: &[(Check, &[&str], &[&str])] = &[
            (ip_address, &["10.0.0.1", "::1"], &["10.0.0", "x"]),
            (
                cidr,
                &["10.0.0.0/8", "fd00::/64"],
                &["10.0.0.0", "10.0.0.0/33"],
            ),
            (
                strict_ip_address,
                &["10.0.0.1", "0.0.0.0", "fd00::1"],
                &["10.0.0.01", "::ffff:10.0.0.1", "x", ""],
            ),
            (
                strict_cidr,
                &[
                    "10.0.0.0/8",
                    "0.0.0.0/0",
                    "10.0.0.1/32",
                    "fd00::/64",
                    "::/0",
                ],
                &[
                    "10.0.0.1/8",
                    "010.0.0.0/8",
                    "10.0.0.0/08",
                    "::ffff:a00:0/104",
                    "fd00::1/64",
                    "x",
                    "10.0.0.0",
                ],
            ),
        ];
        for (check, good, bad) in table {
            assert!(good.iter().all(|text| check(text).is_empty()));
            assert!(bad.iter().all(|text| !check(text).is_empty()));
        }
    }
}
