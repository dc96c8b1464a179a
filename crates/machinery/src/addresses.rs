//! Addresses that are not for everybody, and ranges of those that are given out
//! one by one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Where clouds tell machines their secrets, beside link-local addresses.
const METADATA: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// True for an address that leads to whoever uses it, to its link, to several at
/// once, or to the metadata of a cloud: nobody is sent there for the sake of
/// somebody else.
pub fn is_off_limits(address: IpAddr) -> bool {
    let plain = unwrapped(address);
    let local = match plain {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let own = plain.is_loopback() || plain.is_unspecified() || plain.is_multicast();
    local || own || METADATA.contains(&plain)
}

/// The IPv4 address in an IPv6 one that leads to it: mapped, compatible, or
/// behind the well-known prefix of translators.
pub fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let [.., high, low] = v6.segments();
    let embedded = match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => true,
        // The unspecified and the loopback address are no IPv4 ones.
        [0, 0, 0, 0, 0, 0, ..] => high != 0,
        _ => false,
    };
    if !embedded {
        return address;
    }
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// Most addresses of a range: whoever looks for a free one may look at all.
pub const MAX_ADDRESSES: u32 = 1024;

/// Addresses from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

/// Why a text is no range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressRangeError {
    /// It has another form.
    #[error("{0:?} is no range of addresses: write FROM-TO, as in 10.0.0.200-10.0.0.250")]
    Form(String),
    /// It ends before it begins.
    #[error("{0} ends before it begins")]
    Backwards(String),
    /// It is larger than any may be.
    #[error("{0} has more than {MAX_ADDRESSES} addresses")]
    TooMany(String),
    /// It holds addresses that no host on a network may have.
    #[error("{0} holds addresses that cannot be given to services")]
    Special(String),
}

impl AddressRange {
    /// The range of these addresses.
    ///
    /// # Errors
    /// If it is backwards, too large, or holds addresses with a meaning of
    /// their own (loopback, link-local, multicast and the like).
    pub fn new(first: Ipv4Addr, last: Ipv4Addr) -> Result<Self, AddressRangeError> {
        let range = Self { first, last };
        let text = || range.to_string();
        if first > last {
            return Err(AddressRangeError::Backwards(text()));
        }
        if u32::from(last) - u32::from(first) >= MAX_ADDRESSES {
            return Err(AddressRangeError::TooMany(text()));
        }
        if range.iter().any(is_special) {
            return Err(AddressRangeError::Special(text()));
        }
        Ok(range)
    }

    /// True if the range holds an address.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// All addresses, in order.
    pub fn iter(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        (u32::from(self.first)..=u32::from(self.last)).map(Ipv4Addr::from)
    }

    /// True if a block, given by an address and the length of its prefix,
    /// shares an address with the range.
    pub fn overlaps(&self, network: Ipv4Addr, prefix: u8) -> bool {
        let size = block_size(prefix);
        let start = u64::from(u32::from(network)) / size * size;
        start <= u64::from(u32::from(self.last)) && u64::from(u32::from(self.first)) < start + size
    }

    /// The fewest blocks that together are the range.
    pub fn blocks(&self) -> Vec<(Ipv4Addr, u8)> {
        let (mut next, end) = (
            u64::from(u32::from(self.first)),
            u64::from(u32::from(self.last)),
        );
        let mut blocks = Vec::new();
        while next <= end {
            // The largest block that starts here and does not go too far.
            let prefix = (0..=32)
                .find(|p| next % block_size(*p) == 0 && next + block_size(*p) - 1 <= end)
                .unwrap_or(32);
            let address = u32::try_from(next).unwrap_or(u32::MAX);
            blocks.push((Ipv4Addr::from(address), prefix));
            next += block_size(prefix);
        }
        blocks
    }
}

/// How many addresses a block with this prefix has.
fn block_size(prefix: u8) -> u64 {
    1 << (32 - u32::from(prefix.min(32)))
}

fn is_special(address: Ipv4Addr) -> bool {
    address.octets()[0] == 0
        || address.is_loopback()
        || address.is_link_local()
        || address.octets()[0] >= 224
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || AddressRangeError::Form(text.to_owned());
        let (first, last) = text.split_once('-').ok_or_else(form)?;
        let parse = |part: &str| part.trim().parse().map_err(|_| form());
        Self::new(parse(first)?, parse(last)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_read_and_shown() {
        let pool = range("172.18.255.200-172.18.255.250");
        assert_eq!(pool.to_string(), "172.18.255.200-172.18.255.250");
        assert_eq!(pool.iter().count(), 51);
        assert!(pool.contains("172.18.255.250".parse().unwrap()));
        assert!(!pool.contains("172.18.255.251".parse().unwrap()));
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.9-10.0.0.1",
            "10.0.0.1-10.0.9.1",
            "127.0.0.1-127.0.0.9",
            "0.0.0.0-0.0.0.9",
            "169.254.169.250-169.254.169.254",
            "223.255.255.250-224.0.0.3",
            "10.0.0.1-10.0.0.x",
            "::1-::2",
        ] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn blocks_cover_a_range_and_no_more() {
        for (text, blocks) in [
            ("10.0.0.0-10.0.0.255", vec!["10.0.0.0/24"]),
            ("10.0.0.7-10.0.0.7", vec!["10.0.0.7/32"]),
            (
                "10.0.0.1-10.0.0.6",
                vec!["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/31", "10.0.0.6/32"],
            ),
        ] {
            let found = range(text).blocks();
            let found: Vec<String> = found.iter().map(|(a, p)| format!("{a}/{p}")).collect();
            assert_eq!(found, blocks);
        }
    }

    #[test]
    fn overlaps_are_seen_from_both_sides() {
        let pool = range("10.96.255.200-10.97.0.10");
        for (network, prefix, wanted) in [
            ("10.96.0.0", 16, true),
            ("10.97.0.0", 16, true),
            ("10.98.0.0", 16, false),
            ("10.97.0.11", 32, false),
            ("10.97.0.10", 32, true),
            ("0.0.0.0", 0, true),
        ] {
            assert_eq!(
                pool.overlaps(network.parse().unwrap(), prefix),
                wanted,
                "{network}"
            );
        }
    }
}
