//! Why a pod found no node, in the words that users know.

use std::collections::BTreeMap;

/// One node's reasons to refuse a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Refusal {
    pub reasons: Vec<String>,
    /// No removal of other pods would help.
    pub final_: bool,
}

impl Refusal {
    /// A reason that other pods have nothing to do with.
    pub(super) fn lasting(reason: impl Into<String>) -> Self {
        Self {
            reasons: vec![reason.into()],
            final_: true,
        }
    }

    /// A reason that goes away with other pods.
    pub(super) fn passing(reason: impl Into<String>) -> Self {
        Self {
            reasons: vec![reason.into()],
            final_: false,
        }
    }
}

/// The reasons of all nodes, or one that concerns the pod as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Unplaced {
    Nodes(BTreeMap<String, Refusal>),
    Whole(String),
}

impl Unplaced {
    /// A reason that no node can change.
    pub(super) fn whole(reason: String) -> Self {
        Self::Whole(reason)
    }

    /// The message of the event and of the condition. `preempting` says that
    /// room is being made.
    pub(super) fn message(&self, preempting: bool) -> String {
        let refusals = match self {
            Self::Nodes(refusals) if refusals.is_empty() => {
                return "no nodes available to schedule pods".to_owned();
            }
            Self::Nodes(refusals) => refusals,
            Self::Whole(reason) => return reason.clone(),
        };
        let total = refusals.len();
        let reasons = count(
            refusals
                .values()
                .flat_map(|refusal| refusal.reasons.clone()),
        );
        let mut message = format!("0/{total} nodes are available: {}.", reasons.join(", "));
        if !preempting {
            let help = count(refusals.values().map(|refusal| {
                let help = if refusal.final_ {
                    "Preemption is not helpful for scheduling"
                } else {
                    "No preemption victims found for incoming pod"
                };
                help.to_owned()
            }));
            message.push_str(&format!(
                " preemption: 0/{total} nodes are available: {}.",
                help.join(", ")
            ));
        }
        message
    }
}

/// `N reason` for each reason, sorted as text.
fn count(reasons: impl Iterator<Item = String>) -> Vec<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut lines: Vec<String> = counts
        .into_iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    lines.sort();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let refusals = [
            (
                "a",
                Refusal {
                    reasons: vec!["Insufficient cpu".into(), "Insufficient memory".into()],
                    final_: false,
                },
            ),
            ("b", Refusal::passing("Insufficient cpu")),
            ("c", Refusal::lasting("node(s) were unschedulable")),
        ];
        let refusals = refusals
            .into_iter()
            .map(|(name, it)| (name.to_owned(), it))
            .collect();
        assert_eq!(
            Unplaced::Nodes(refusals).message(false),
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable, \
             2 Insufficient cpu. preemption: 0/3 nodes are available: 1 Preemption is not helpful \
             for scheduling, 2 No preemption victims found for incoming pod."
        );
        assert_eq!(
            Unplaced::Nodes(BTreeMap::new()).message(false),
            "no nodes available to schedule pods"
        );
    }
}
