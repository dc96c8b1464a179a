//! Virtual Kubernetes clusters.

fn main() {}
