//! Reconciles a virtual cluster with its host namespace and serves the virtual kubelet.
