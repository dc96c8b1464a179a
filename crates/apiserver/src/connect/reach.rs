//! Which addresses this server connects to for the sake of its users. What
//! they write into pods, endpoints, nodes and URLs of webhooks is theirs to
//! choose, and this server may stand in a network that is none of theirs.

use std::net::{IpAddr, SocketAddr};

use coracle_machinery::addresses::{is_off_limits, readings};
use coracle_machinery::{ApiError, Reason};

/// The addresses that are open to users. By default all but those that no
/// server may be sent to: itself, its link, and metadata services of clouds.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    refused: Vec<IpAddr>,
    own: Option<IpAddr>,
    kubelet: Option<SocketAddr>,
}

impl Reach {
    /// Refuses further addresses.
    #[must_use]
    pub fn without(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.refused.extend(addresses);
        self
    }

    /// Refuses URLs that lead to this address of the server itself. Endpoints
    /// may lead there: those of the service `kubernetes` do.
    #[must_use]
    pub fn standing_at(mut self, own: IpAddr) -> Self {
        self.own = Some(own);
        self
    }

    /// Reaches all nodes at this one endpoint, whatever Node objects say.
    #[must_use]
    pub fn with_kubelet(mut self, kubelet: SocketAddr) -> Self {
        self.kubelet = Some(kubelet);
        self
    }

    /// The address of a pod or an endpoint, if it may be connected to.
    ///
    /// # Errors
    /// If not.
    pub fn address(&self, text: &str) -> Result<IpAddr, ApiError> {
        let address: IpAddr = text
            .parse()
            .map_err(|_| ApiError::new(Reason::ServiceUnavailable, "address not allowed"))?;
        let why = if is_off_limits(address) {
            "neither this server itself, nor its link, nor the metadata of a cloud can be reached through it"
        } else if readings(address).any(|plain| self.refused.contains(&plain)) {
            "it belongs to the cluster below this one"
        } else {
            return Ok(address);
        };
        Err(refused(&address.to_string(), why))
    }

    /// The address that the host of a URL has, if it may be connected to.
    ///
    /// # Errors
    /// If not.
    pub fn url_address(&self, address: IpAddr) -> Result<IpAddr, ApiError> {
        if readings(address).any(|plain| self.own == Some(plain)) {
            let why = "it is that of this server; use a service";
            return Err(refused(&address.to_string(), why));
        }
        self.address(&address.to_string())
    }

    /// Where all nodes are reached, if it is one place.
    pub fn only_kubelet(&self) -> Option<SocketAddr> {
        self.kubelet
    }
}

fn refused(address: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!("address not allowed: {address}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_metadata_services_or_to_this_machine() {
        let reach = Reach::default();
        for bad in [
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "2002:7f00:1::",
            "2001:0:c000:201::5601:5601",
            "fd00:ec2::254",
            "localhost",
            "",
        ] {
            let error = reach.address(bad).unwrap_err();
            assert!(error.message.starts_with("address not allowed"), "{bad}");
        }
        for good in ["10.1.2.3", "64:ff9b::a01:203", "2001:db8::1"] {
            assert!(reach.address(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn the_cluster_below_is_out_of_reach() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let reach = Reach::default()
            .without([ip("10.0.0.1"), ip("10.96.0.1")])
            .standing_at(ip("10.244.0.7"));
        for bad in [
            "10.0.0.1",
            "10.96.0.1",
            "::ffff:10.96.0.1",
            "2002:a00:1::1",
            "64:ff9b:1::a60:1",
        ] {
            let error = reach.address(bad).unwrap_err();
            assert!(error.message.contains("cluster below"), "{bad}");
            assert!(reach.url_address(ip(bad)).is_err(), "{bad}");
        }
        assert!(reach.address("10.244.0.7").is_ok());
        let error = reach.url_address(ip("10.244.0.7")).unwrap_err();
        assert!(error.message.contains("use a service"), "{error}");
        assert!(reach.url_address(ip("10.244.0.8")).is_ok());
        assert!(reach.url_address(ip("2002:af4:7::1")).is_err());
    }
}
