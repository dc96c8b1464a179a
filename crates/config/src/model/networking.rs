//! Addresses and names, and services on both sides.

use serde::{Deserialize, Serialize};

section!(
    /// Addresses and names.
    Networking {
        /// Services that appear on both sides.
        replicate_services: ReplicateServices = ReplicateServices::default(),
        /// Further choices.
        advanced: NetworkingAdvanced = NetworkingAdvanced::default(),
    }
);

section!(
    /// Services that appear on both sides.
    ReplicateServices {
        /// From the virtual cluster to the host.
        to_host: Vec<ServiceMapping> = Vec::new(),
        /// From the host into the virtual cluster.
        from_host: Vec<ServiceMapping> = Vec::new(),
    }
);

section!(
    /// One service that appears on both sides.
    ServiceMapping {
        /// `namespace/name` where it comes from.
        from: String = String::new(),
        /// `namespace/name` where it goes; on the host the name alone will do.
        to: String = String::new(),
    }
);

section!(
    /// Further networking choices.
    NetworkingAdvanced {
        /// The DNS domain inside.
        cluster_domain: String = "cluster.local".to_owned(),
        /// Names unknown inside are looked up in the host cluster.
        fallback_host_cluster: bool = false,
        /// Which addresses nodes of the host have inside.
        proxy_kubelets: ProxyKubelets = ProxyKubelets::default(),
    }
);

section!(
    /// Which addresses nodes of the host have inside, where
    /// sync.fromHost.nodes shows them. The API server inside reaches kubelets
    /// through the syncer either way.
    ProxyKubelets {
        /// A node's address is the syncer's, so that others inside reach its
        /// kubelet there; else its own, at which node ports answer.
        #[serde(rename = "byIP")]
        by_ip: bool = true,
        /// A node's host name is its name; else its own host names.
        by_hostname: bool = true,
    }
);
