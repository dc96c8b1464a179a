//! How much the policies of one namespace may ask for. One table serves all
//! pods of the host, so whoever asks for more is the only one to feel it: the
//! pods that those policies choose are isolated.

use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Most that the policies of a namespace list: rules, peers, blocks and their
/// exceptions, ports, and what selectors ask for. All of it is read whenever
/// the namespace changes: this much in less than a tenth of a second, without
/// the compiler's optimisations.
pub const MAX_TERMS: usize = 20_000;

/// Most members that they name: the pods that each policy chooses, the pods of
/// each group of peers, and ranges of addresses and ports. Each becomes an
/// element of a set or a map; nft writes this many in half a second.
pub const MAX_MEMBERS: usize = 65_536;

/// What counts for a group that may have pods of other namespaces, and for a
/// name of ports, whatever they hold: else a neighbour with many pods could push
/// a namespace over its bound. More than a node has pods.
pub const SHARED: usize = 256;

/// Most sets: groups of peers with pods in them, names of ports, lists of ranges.
/// The kernel has them in one list per table, which it walks for each set that
/// is made or named: a table of two thousand takes a third of a second to write,
/// one of five thousand three seconds.
pub const MAX_SETS: usize = 512;

/// Most rules of nftables. The first packet of a connection may meet them all,
/// one by one, and the kernel does it for everybody on the same processors.
pub const MAX_RULES: usize = 4096;

/// Most ways from its pods through the rules that hold for them, in both
/// directions together. Kernels that do not remember which chains they have checked (those
/// before 2026) walk along all of them whenever a chain changes, for whomever.
pub const MAX_PATHS: usize = 262_144;

/// Which bound the policies of a namespace exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// [`MAX_TERMS`].
    Terms,
    /// [`MAX_MEMBERS`].
    Members,
    /// [`MAX_SETS`].
    Sets,
    /// [`MAX_RULES`].
    Rules,
    /// [`MAX_PATHS`].
    Paths,
}

impl Bound {
    /// What there is too much of and how to have less, for who wrote the
    /// policies.
    pub fn advice(self) -> String {
        let (what, limit, instead) = match self {
            Self::Terms => (
                "list more peers, blocks, ports and terms of selectors",
                MAX_TERMS,
                "delete policies or shorten their lists",
            ),
            Self::Members => (
                "name more pods and ranges of addresses and ports",
                MAX_MEMBERS,
                "let fewer policies choose the same pods, and share selectors among peers",
            ),
            Self::Sets => (
                "have more different selectors of peers, names of ports and lists",
                MAX_SETS,
                "share selectors among peers, and number ports in place of naming them",
            ),
            Self::Rules => (
                "come to more rules, of each peer with each port,",
                MAX_RULES,
                "put peers under one selector, and ports into ranges",
            ),
            Self::Paths => (
                "have more pairs of a pod and a rule for it",
                MAX_PATHS,
                "let fewer policies choose the same pods",
            ),
        };
        format!(
            "The network policies of this namespace {what} than the {limit} that are enforced. \
             Until there are fewer, the pods that these policies choose are isolated: only their \
             node reaches them, and they reach nobody. To end this, {instead}."
        )
    }
}

/// What the policies of a namespace have used up.
#[derive(Debug, Default)]
pub struct Budget {
    members: usize,
    sets: usize,
    rules: usize,
    paths: usize,
}

impl Budget {
    /// Counts members.
    ///
    /// # Errors
    /// If they are too many.
    pub fn members(&mut self, more: usize) -> Result<(), Bound> {
        count(&mut self.members, more, MAX_MEMBERS, Bound::Members)
    }

    /// Counts sets.
    ///
    /// # Errors
    /// If they are too many.
    pub fn sets(&mut self, more: usize) -> Result<(), Bound> {
        count(&mut self.sets, more, MAX_SETS, Bound::Sets)
    }

    /// Counts rules.
    ///
    /// # Errors
    /// If they are too many.
    pub fn rules(&mut self, more: usize) -> Result<(), Bound> {
        count(&mut self.rules, more, MAX_RULES, Bound::Rules)
    }

    /// Counts ways from pods through rules.
    ///
    /// # Errors
    /// If they are too many.
    pub fn paths(&mut self, more: usize) -> Result<(), Bound> {
        count(&mut self.paths, more, MAX_PATHS, Bound::Paths)
    }
}

fn count(have: &mut usize, more: usize, most: usize, bound: Bound) -> Result<(), Bound> {
    *have = have.saturating_add(more);
    if *have > most { Err(bound) } else { Ok(()) }
}

/// How much a policy lists.
pub fn terms(spec: &NetworkPolicySpec) -> usize {
    let ingress = spec.ingress.iter().flatten();
    let ingress = ingress.map(|rule| of_rule(rule.from.as_deref(), rule.ports.as_deref()));
    let egress = spec.egress.iter().flatten();
    let egress = egress.map(|rule| of_rule(rule.to.as_deref(), rule.ports.as_deref()));
    1 + of_selector(spec.pod_selector.as_ref()) + ingress.chain(egress).sum::<usize>()
}

fn of_rule(peers: Option<&[NetworkPolicyPeer]>, ports: Option<&[NetworkPolicyPort]>) -> usize {
    let of_peer = |peer: &NetworkPolicyPeer| {
        let except = peer.ip_block.iter().flat_map(|block| &block.except);
        1 + except.map(Vec::len).sum::<usize>()
            + of_selector(peer.namespace_selector.as_ref())
            + of_selector(peer.pod_selector.as_ref())
    };
    let peers = peers.unwrap_or_default().iter().map(of_peer);
    1 + peers.sum::<usize>() + ports.map_or(0, <[_]>::len)
}

/// How much a selector asks for.
pub fn of_selector(selector: Option<&LabelSelector>) -> usize {
    let labels = selector.iter().flat_map(|s| &s.match_labels);
    let expressions = selector.iter().flat_map(|s| &s.match_expressions).flatten();
    let values = expressions.map(|e| 1 + e.values.as_ref().map_or(0, Vec::len));
    labels.map(|l| l.len()).sum::<usize>() + values.sum::<usize>()
}
