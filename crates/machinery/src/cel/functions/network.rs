//! Addresses, ranges and URLs.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Outcome, no_overload};
use crate::cel::value::Key;
use crate::cel::{Val, fail};

pub(super) const IP: &str = "net.IP";
pub(super) const CIDR: &str = "net.CIDR";
pub(super) const URL: &str = "kubernetes.URL";

/// An address as Kubernetes takes it: no zone, no IPv4 in IPv6.
fn ip(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        address => Some(address),
    }
}

fn cidr(text: &str) -> Option<(IpAddr, u32)> {
    let (address, prefix) = text.split_once('/')?;
    let address = ip(address)?;
    let padded = prefix.len() > 1 && prefix.starts_with('0');
    if padded || !prefix.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let prefix: u32 = prefix.parse().ok()?;
    (prefix <= bits(address)).then_some((address, prefix))
}

fn bits(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with the bits beyond the prefix cleared, as a number.
fn masked(address: IpAddr, prefix: u32) -> u128 {
    let (number, width) = match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let low = width - prefix;
    number
        .checked_shr(low)
        .unwrap_or(0)
        .checked_shl(low)
        .unwrap_or(0)
}

fn from_number(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4((number as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(number.into()),
    }
}

/// Scheme, host with port, path and query of an absolute URL or path.
fn url(text: &str) -> Option<[&str; 4]> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || "\"<>\\^`{|}".contains(c);
    if text.contains(bad) || text.is_empty() {
        return None;
    }
    let text = text.split('#').next().unwrap_or_default();
    let (before, query) = text.split_once('?').unwrap_or((text, ""));
    if before.starts_with('/') {
        return Some(["", "", before, query]);
    }
    let (scheme, rest) = before.split_once(':')?;
    let mut letters = scheme.chars();
    let fine = letters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && letters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    if !fine {
        return None;
    }
    let Some(rest) = rest.strip_prefix("//") else {
        return Some([scheme, "", rest, query]);
    };
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let (_, port) = host_and_port(host);
    port.bytes()
        .all(|b| b.is_ascii_digit())
        .then_some([scheme, host, path, query])
}

pub(super) fn is_url(text: &str) -> bool {
    url(text).is_some()
}

fn host_and_port(host: &str) -> (&str, &str) {
    if let Some(end) = host.find(']') {
        let port = host[end + 1..].strip_prefix(':').unwrap_or_default();
        return (host[..end].trim_start_matches('['), port);
    }
    host.rsplit_once(':').unwrap_or((host, ""))
}

/// `ip`, `cidr`, `url` and the questions whether a text is one.
pub(super) fn make<'a>(name: &str, text: &str) -> Outcome<'a> {
    let special = |kind: &'static str, text: String| Ok(Val::Special(kind, Arc::from(text)));
    match name {
        "isIP" => Ok(Val::Bool(ip(text).is_some())),
        "isCIDR" => Ok(Val::Bool(cidr(text).is_some())),
        "isURL" => Ok(Val::Bool(is_url(text))),
        "ip" => match ip(text) {
            Some(address) => special(IP, address.to_string()),
            None => fail(format!(
                "IP Address \"{text}\" parse error during conversion from string"
            )),
        },
        "cidr" => match cidr(text) {
            Some((address, prefix)) => special(CIDR, format!("{address}/{prefix}")),
            None => fail(format!(
                "network address parse error during conversion from string: {text}"
            )),
        },
        _ if is_url(text) => special(URL, text.to_owned()),
        _ => fail(format!(
            "URL parse error during conversion from string: {text}"
        )),
    }
}

/// A function of an address, range or URL.
pub(super) fn call<'a>(name: &str, kind: &str, held: &str, rest: &[Val<'a>]) -> Outcome<'a> {
    match kind {
        IP => of_ip(name, held, rest),
        CIDR => of_cidr(name, held, rest),
        _ => of_url(name, held, rest),
    }
}

fn of_ip<'a>(name: &str, held: &str, rest: &[Val<'a>]) -> Outcome<'a> {
    let Some(address) = ip(held).filter(|_| rest.is_empty()) else {
        return no_overload();
    };
    Ok(match name {
        "family" => Val::Int(if address.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Val::Bool(address.is_unspecified()),
        "isLoopback" => Val::Bool(address.is_loopback()),
        "isLinkLocalMulticast" => Val::Bool(match address {
            IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
            IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
        }),
        "isLinkLocalUnicast" => Val::Bool(is_link_local(address)),
        "isGlobalUnicast" => Val::Bool(
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || is_link_local(address)
                || address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST)),
        ),
        _ => return no_overload(),
    })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn of_cidr<'a>(name: &str, held: &str, rest: &[Val<'a>]) -> Outcome<'a> {
    let Some((address, prefix)) = cidr(held) else {
        return no_overload();
    };
    let network = masked(address, prefix);
    let inside =
        |other: IpAddr| other.is_ipv4() == address.is_ipv4() && masked(other, prefix) == network;
    match (name, rest) {
        ("ip", []) => Ok(Val::Special(IP, Arc::from(address.to_string()))),
        ("prefixLength", []) => Ok(Val::Int(prefix.into())),
        ("masked", []) => {
            let text = format!("{}/{prefix}", from_number(network, address));
            Ok(Val::Special(CIDR, Arc::from(text)))
        }
        ("containsIP", [Val::Text(text)]) => match ip(text) {
            Some(other) => Ok(Val::Bool(inside(other))),
            None => fail(format!(
                "IP Address \"{text}\" parse error during conversion from string"
            )),
        },
        ("containsIP", [Val::Special(IP, text)]) => Ok(Val::Bool(ip(text).is_some_and(inside))),
        ("containsCIDR", [Val::Text(_) | Val::Special(CIDR, _)]) => {
            let text = match rest {
                [Val::Text(text)] => text.as_ref(),
                [Val::Special(_, text)] => text,
                _ => "",
            };
            match cidr(text) {
                Some((other, length)) => Ok(Val::Bool(length >= prefix && inside(other))),
                None => fail(format!(
                    "network address parse error during conversion from string: {text}"
                )),
            }
        }
        _ => no_overload(),
    }
}

fn of_url<'a>(name: &str, held: &str, rest: &[Val<'a>]) -> Outcome<'a> {
    let Some([scheme, host, path, query]) = url(held).filter(|_| rest.is_empty()) else {
        return no_overload();
    };
    let (hostname, port) = host_and_port(host);
    Ok(match name {
        "getScheme" => Val::text(scheme),
        "getHost" => Val::text(host),
        "getHostname" => Val::text(hostname),
        "getPort" => Val::text(port),
        "getEscapedPath" => Val::text(path),
        "getQuery" => {
            let mut map: std::collections::BTreeMap<Key, Vec<Val<'a>>> = Default::default();
            for pair in query.split('&').filter(|p| !p.is_empty()) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                let values = map.entry(Key::Text(decoded(key))).or_default();
                values.push(Val::text(decoded(value)));
            }
            let lists = map
                .into_iter()
                .map(|(key, values)| (key, Val::list(values)));
            Val::Map(Arc::new(lists.collect()))
        }
        _ => return no_overload(),
    })
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let code = code.and_then(|d| u8::from_str_radix(d, 16).ok());
        match (first, code) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
