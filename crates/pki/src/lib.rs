//! Keys, certificates, service-account tokens and kubeconfigs. The only crate that touches private keys.
