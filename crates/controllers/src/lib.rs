//! Built-in controllers and the scheduler, written as Kubernetes clients.
