//! Built-in controllers and the scheduler, written as Kubernetes clients.
//!
//! Every controller is a pure core, from observed objects to intended writes,
//! with a thin adapter around it. All share one cache for each resource in use
//! and keep slim views of objects there, not whole ones.

mod api;
mod binder;
mod certificates;
mod claim;
mod context;
mod cronjob;
mod daemonset;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod error;
mod events;
mod gc;
mod hash;
mod informer;
mod intstr;
mod job;
mod loadbalancer;
mod namespace;
mod nodelifecycle;
mod objects;
mod placement;
mod podgc;
mod pods;
mod protection;
mod queue;
mod replicaset;
mod revisions;
mod run;
mod scheduler;
mod selector;
mod statefulset;
mod tenancy;
mod tokens;

pub use certificates::{Asked, CertificateSigner, KUBELET_SERVING, Signing};
pub use error::Error;
pub use run::{Options, Selection, names, run, run_scheduler};
pub use scheduler::SchedulerOptions;
