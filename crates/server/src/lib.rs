//! Composition root: from configuration to running roles, readiness and shutdown order.
