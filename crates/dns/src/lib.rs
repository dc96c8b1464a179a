//! Cluster DNS over an index of services and endpoints.
