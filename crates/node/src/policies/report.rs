//! Word of namespaces whose policies are too many.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::bounds::Bound;
use super::model::Part;
use crate::events::{Kind, Recorder};

/// The reason of the event.
const REASON: &str = "TooManyNetworkPolicies";
/// A namespace is told this often at most, however its policies change. As long
/// as events are kept, so that there is one to find while it lasts.
const AGAIN: Duration = Duration::from_secs(3600);

/// A namespace whose policies are too many.
pub struct Too {
    namespace: String,
    bound: Bound,
    longest: Arc<NetworkPolicy>,
}

impl Too {
    /// The namespace, if its policies are still too many.
    pub fn of(namespace: &str, part: &Part) -> Option<Self> {
        let excess = part.excess.as_ref().filter(|excess| !excess.is_over)?;
        Some(Self {
            namespace: namespace.to_owned(),
            bound: excess.bound,
            longest: Arc::clone(&excess.longest),
        })
    }
}

/// Who was told, and when.
pub struct Report {
    events: Recorder,
    told: Told,
}

impl Report {
    /// Tells by events.
    pub fn new(events: Recorder) -> Self {
        Self {
            events,
            told: Told::default(),
        }
    }

    /// Tells these namespaces, unless they were told not long ago.
    pub fn tell(&mut self, all: Vec<Too>, now: Instant) {
        for too in all {
            if !self.told.is_due(&too.namespace, now) {
                continue;
            }
            let advice = too.bound.advice();
            tracing::warn!(namespace = too.namespace, "{advice}");
            self.events
                .policy(&too.longest, Kind::Warning, REASON, advice);
        }
    }
}

/// Those who were told within [`AGAIN`].
#[derive(Default)]
struct Told(BTreeMap<String, Instant>);

impl Told {
    fn is_due(&mut self, namespace: &str, now: Instant) -> bool {
        self.0
            .retain(|_, told| now.saturating_duration_since(*told) < AGAIN);
        let due = !self.0.contains_key(namespace);
        if due {
            self.0.insert(namespace.to_owned(), now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_told_once_in_an_hour() {
        let mut told = Told::default();
        let start = Instant::now();
        let minutes = |n: u64| start + Duration::from_secs(60 * n);
        for (name, at, wanted) in [
            ("a", 0, true),
            ("a", 1, false),
            ("b", 2, true),
            ("a", 59, false),
            ("a", 60, true),
            ("b", 61, false),
            ("b", 62, true),
        ] {
            assert_eq!(told.is_due(name, minutes(at)), wanted, "{name} {at}");
        }
        assert!(!told.is_due("a", minutes(100)));
        assert!(told.is_due("c", minutes(500)));
        assert_eq!(told.0.len(), 1, "only the last hour is remembered");
    }
}
