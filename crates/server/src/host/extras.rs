//! What a host offers besides, if it is asked to; it is remembered, so that a
//! host that starts again is the same.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use coracle_machinery::addresses::AddressRange;
use serde_json::{Value, json};

use super::{CLUSTER_CIDR, Layout, SERVICE_CIDR};
use crate::Error;

/// The addresses for load balancers unless others are named: of a network that
/// the host uses for nothing else.
pub const DEFAULT_POOL: &str = "10.245.0.200-10.245.0.250";

/// What a host offers besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Addresses that services of type LoadBalancer are given.
    pub load_balancer_addresses: Option<AddressRange>,
    /// An ingress controller, which is reached at one of these addresses.
    pub ingress: bool,
}

impl Extras {
    /// Fails if these addresses cannot be this host's to give.
    ///
    /// # Errors
    /// If they are in use on this machine.
    pub fn check(&self) -> Result<(), Error> {
        let Some(pool) = self.load_balancer_addresses else {
            return Ok(());
        };
        let refuse = |why: String| Err(Error::Pool { pool, why });
        for (range, what) in [(CLUSTER_CIDR, "pods"), (SERVICE_CIDR, "services")] {
            let (network, prefix) = range.split_once('/').unwrap_or((range, "32"));
            if let (Ok(network), Ok(prefix)) = (network.parse(), prefix.parse())
                && pool.overlaps(network, prefix)
            {
                return refuse(format!("{range} is for the addresses of {what}"));
            }
        }
        let own = nix::ifaddrs::getifaddrs().into_iter().flatten();
        let own = own.filter_map(|interface| {
            let address = interface.address?.as_sockaddr_in()?.ip();
            Some((address, interface.interface_name))
        });
        for (address, interface) in own {
            if pool.contains(address) {
                return refuse(format!(
                    "{} is this machine's, on {interface}",
                    IpAddr::V4(address)
                ));
            }
        }
        Ok(())
    }

    fn to_json(&self) -> Value {
        let pool = self.load_balancer_addresses.map(|pool| pool.to_string());
        json!({"loadBalancerAddresses": pool, "ingress": self.ingress})
    }

    fn from_json(value: &Value) -> Self {
        let pool = value["loadBalancerAddresses"].as_str();
        Self {
            load_balancer_addresses: pool.and_then(|pool| pool.parse().ok()),
            ingress: value["ingress"] == true,
        }
    }
}

impl Layout {
    fn extras_file(&self) -> PathBuf {
        self.root().join("extras.json")
    }

    /// What the host offered when it ran last; nothing if it never did.
    pub fn extras(&self) -> Extras {
        let text = fs::read_to_string(self.extras_file()).unwrap_or_default();
        let value = serde_json::from_str(&text).unwrap_or_default();
        Extras::from_json(&value)
    }

    pub(super) fn remember_extras(&self, extras: &Extras) -> Result<(), Error> {
        let path = self.extras_file();
        fs::write(&path, extras.to_json().to_string()).map_err(Error::file(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras_are_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        assert_eq!(layout.extras(), Extras::default());
        let extras = Extras {
            load_balancer_addresses: Some(DEFAULT_POOL.parse().unwrap()),
            ingress: true,
        };
        layout.remember_extras(&extras).unwrap();
        assert_eq!(layout.extras(), extras);
    }

    #[test]
    fn addresses_in_use_are_refused() {
        for (pool, good) in [
            (DEFAULT_POOL, true),
            ("10.96.0.200-10.96.0.250", false),
            ("10.243.255.250-10.244.0.1", false),
        ] {
            let extras = Extras {
                load_balancer_addresses: Some(pool.parse().unwrap()),
                ingress: false,
            };
            assert_eq!(extras.check().is_ok(), good, "{pool}");
        }
    }
}
