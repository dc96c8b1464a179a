//! The user's configuration of a virtual cluster, and the names and marks of host objects.
