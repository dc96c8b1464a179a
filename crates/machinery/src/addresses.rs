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
/// once, or to the metadata of a cloud, in any of its [`readings`]: nobody is
/// sent there for the sake of somebody else.
pub fn is_off_limits(address: IpAddr) -> bool {
    readings(address).any(|plain| {
        let local = match plain {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || is_this_network(v4),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let own = plain.is_loopback() || plain.is_unspecified() || plain.is_multicast();
        local || own || METADATA.contains(&plain)
    })
}

/// The address itself, and the IPv4 addresses that it leads to if it is a form
/// of them: mapped or compatible (RFC 4291), translated (RFC 2765), behind the
/// prefixes of translators (RFC 6052 and RFC 8215), and in tunnels (6to4 and
/// Teredo). Whether anybody on the way translates cannot be seen here.
pub fn readings(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let within = match address {
        IpAddr::V6(v6) => embedded(v6),
        IpAddr::V4(_) => Vec::new(),
    };
    [address]
        .into_iter()
        .chain(within.into_iter().map(IpAddr::V4))
}

/// Where translators that use a prefix of 48, 56 or 64 bits have the address:
/// around the ninth octet, which is not theirs.
const AROUND_NINTH: [[usize; 4]; 3] = [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12]];
/// Where all other forms have it.
const LAST: [usize; 4] = [12, 13, 14, 15];

fn embedded(v6: Ipv6Addr) -> Vec<Ipv4Addr> {
    let octets = v6.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| octets[place]));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..] => vec![at(LAST)],
        // The unspecified and the loopback address are no IPv4 ones.
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => vec![at(LAST)],
        // Each network chooses a prefix in this block. Translators ignore what
        // comes after the address, so any place counts; the zeros of a longer
        // prefix are no address, and nobody translates to them.
        [0x64, 0xff9b, 1, ..] => {
            let places = AROUND_NINTH.into_iter().chain([LAST]).map(at);
            places.filter(|v4| !is_this_network(*v4)).collect()
        }
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        // The server, and the client with all bits turned.
        [0x2001, 0, ..] => vec![at([4, 5, 6, 7]), Ipv4Addr::from(!u32::from(at(LAST)))],
        _ => Vec::new(),
    }
}

/// True for the addresses of a host that does not know its own.
fn is_this_network(address: Ipv4Addr) -> bool {
    address.octets()[0] == 0
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
    is_this_network(address)
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

    /// Forms of an IPv4 address in which it may be reached.
    fn forms(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
        let [a, b, c, d] = v4.octets();
        let all = u128::from(u32::from(v4));
        let text = |text: &str| u128::from(text.parse::<Ipv6Addr>().unwrap());
        let octets = |places: &[(usize, u8)], prefix: &str| {
            let mut octets = prefix.parse::<Ipv6Addr>().unwrap().octets();
            for (place, octet) in places {
                octets[*place] = *octet;
            }
            Ipv6Addr::from(octets)
        };
        let client = u128::from(!u32::from(v4));
        vec![
            v4.to_ipv6_mapped(),
            Ipv6Addr::from(all),
            Ipv6Addr::from(text("::ffff:0:0:0") | all),
            Ipv6Addr::from(text("64:ff9b::") | all),
            // Local translators, at each length of the prefix.
            Ipv6Addr::from(text("64:ff9b:1::") | all),
            Ipv6Addr::from(text("64:ff9b:1:7::") | all),
            octets(&[(6, a), (7, b), (9, c), (10, d)], "64:ff9b:1::"),
            octets(&[(7, a), (9, b), (10, c), (11, d)], "64:ff9b:1::"),
            octets(&[(9, a), (10, b), (11, c), (12, d)], "64:ff9b:1:7::"),
            // With something behind the address.
            octets(&[(6, a), (7, b), (9, c), (10, d)], "64:ff9b:1::7"),
            // 6to4, whatever the rest; Teredo, by server and by client.
            octets(&[(2, a), (3, b), (4, c), (5, d)], "2002::"),
            octets(&[(2, a), (3, b), (4, c), (5, d)], "2002:0:0:1::1"),
            octets(&[(4, a), (5, b), (6, c), (7, d)], "2001::1234:3fff:fdfe"),
            Ipv6Addr::from(text("2001:0:c000:201:0:1234::") | client),
        ]
    }

    #[test]
    fn an_address_is_off_limits_in_all_its_forms() {
        for bad in [
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "255.255.255.255",
            "224.0.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
        ] {
            let v4: Ipv4Addr = bad.parse().unwrap();
            assert!(is_off_limits(v4.into()), "{bad}");
            for form in forms(v4) {
                assert!(is_off_limits(form.into()), "{bad} as {form}");
                assert!(readings(form.into()).any(|r| r == v4), "{bad} as {form}");
            }
        }
        for good in ["10.1.2.3", "192.0.2.1", "198.51.100.7"] {
            let v4: Ipv4Addr = good.parse().unwrap();
            for form in forms(v4) {
                assert!(!is_off_limits(form.into()), "{good} as {form}");
            }
        }
        for bad in ["0.0.0.0", "0.1.2.3", "::", "::1", "fe80::1", "ff02::1"] {
            assert!(is_off_limits(bad.parse().unwrap()), "{bad}");
        }
        for good in [
            "2001:db8::1",
            "2001:1::7f00:1",
            "2003:7f00:1::1",
            "64:ff9b:2::7f00:1",
            "fd00::1",
            "64:ff9b:1::a01:203",
            "64:ff9b::a01:203",
            "2002:a01:203::1",
            "2001:0:c000:201:0:1234:f5fe:fdfc",
        ] {
            assert!(!is_off_limits(good.parse().unwrap()), "{good}");
        }
    }

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
