//! A range of IPv4 addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A range of IPv4 addresses, as `10.96.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Cidr {
    network: u32,
    prefix: u8,
}

/// The text is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range of IPv4 addresses such as 10.96.0.0/16")]
pub struct CidrError(String);

impl Ipv4Cidr {
    /// The address at an offset; offset 0 is the network itself.
    fn at(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.network.wrapping_add(offset))
    }

    /// Addresses in the range, network and broadcast address included.
    fn size(&self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The first address that a service can have: that of the API server.
    pub fn first(&self) -> Ipv4Addr {
        self.at(1)
    }

    /// True if the address is in the range and is not the network or the
    /// broadcast address.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let offset = u64::from(u32::from(address).wrapping_sub(self.network));
        offset > 0 && offset < self.size() - 1
    }

    /// How many addresses [`contains`](Self::contains) holds for.
    pub fn usable(&self) -> u32 {
        // At least 2, as the prefix is at most 30.
        (self.size() - 2).min(u64::from(u32::MAX)) as u32
    }

    /// The usable address of that number, counted from 0.
    pub fn usable_at(&self, number: u32) -> Ipv4Addr {
        self.at(number % self.usable() + 1)
    }

    /// How many usable addresses at the start are left to those who choose
    /// an address themselves, as long as others are free.
    pub fn reserved(&self) -> u32 {
        let size = self.size();
        let offset = (size / 16).clamp(16, 256).min(size / 2);
        (offset as u32).saturating_sub(1)
    }
}

impl FromStr for Ipv4Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: Ipv4Addr = address.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().map_err(|_| error())?;
        if !(8..=30).contains(&prefix) {
            return Err(error());
        }
        let mask = u32::MAX << (32 - prefix);
        Ok(Self {
            network: u32::from(address) & mask,
            prefix,
        })
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.at(0), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_counted() {
        let range: Ipv4Cidr = "10.96.3.4/16".parse().unwrap();
        assert_eq!(range.to_string(), "10.96.0.0/16");
        assert_eq!(range.first(), Ipv4Addr::new(10, 96, 0, 1));
        assert_eq!(range.usable(), 65_534);
        assert_eq!(range.reserved(), 255);
        for (address, inside) in [
            ([10, 96, 0, 0], false),
            ([10, 96, 0, 1], true),
            ([10, 96, 255, 254], true),
            ([10, 96, 255, 255], false),
            ([10, 95, 0, 1], false),
        ] {
            assert_eq!(
                range.contains(Ipv4Addr::from(address)),
                inside,
                "{address:?}"
            );
        }
        let small: Ipv4Cidr = "10.0.0.0/30".parse().unwrap();
        assert_eq!(small.usable(), 2);
        assert_eq!(small.usable_at(1), Ipv4Addr::new(10, 0, 0, 2));
        for bad in ["", "10.0.0.0", "10.0.0.0/31", "10.0.0.0/0", "x/8", "::1/64"] {
            assert!(bad.parse::<Ipv4Cidr>().is_err(), "{bad}");
        }
    }
}
