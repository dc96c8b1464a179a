//! What a user may choose for a virtual cluster: the keys of today's
//! `vcluster.yaml` that this version carries out. Every leaf has a value (an
//! empty text, list or map where nothing is chosen), so the serialised default
//! also is the list of the keys that exist and of their types.

use std::collections::BTreeMap;

use coracle_machinery::selector::{LabelSelector, SelectorError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[macro_use]
mod section;
pub mod custom;
mod networking;
mod patches;
mod policies;

pub use custom::{CustomFromHost, CustomToHost, Named};
pub use networking::{
    Networking, NetworkingAdvanced, ProxyKubelets, ReplicateServices, ServiceMapping,
};
pub use patches::{KindPatches, Patch, PatchReference};
pub use policies::{
    Limits, NetworkPolicies, PeerRules, Policies, PublicEgress, Quota, ScopeSelector, WorkloadRules,
};
pub(crate) use section::Documented;

/// Free-form part of a Kubernetes object.
pub type Fragment = Map<String, Value>;
/// Labels, annotations, selectors.
pub type Texts = BTreeMap<String, String>;

/// A switch that may be left to the program: `true`, `false` or `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Toggle {
    /// As what it goes along with.
    #[default]
    Auto,
    /// On.
    On,
    /// Off.
    Off,
}

impl Toggle {
    /// How `auto` is written.
    pub const AUTO: &'static str = "auto";

    /// On, or left open while `otherwise` holds.
    pub fn is_on_or(self, otherwise: bool) -> bool {
        match self {
            Self::Auto => otherwise,
            Self::On => true,
            Self::Off => false,
        }
    }
}

impl Serialize for Toggle {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str(Self::AUTO),
            Self::On => serializer.serialize_bool(true),
            Self::Off => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Toggle {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(true) => Ok(Self::On),
            Value::Bool(false) => Ok(Self::Off),
            Value::String(text) if text == Self::AUTO => Ok(Self::Auto),
            _ => Err(serde::de::Error::custom("expected true, false or auto")),
        }
    }
}

section!(
    /// The whole configuration of a virtual cluster.
    Config {
        /// What flows between the two clusters.
        sync: Sync = Sync::default(),
        /// The pod of the control plane.
        control_plane: ControlPlane = ControlPlane::default(),
        /// Addresses and names.
        networking: Networking = Networking::default(),
        /// What the tenant's workloads may use of the host.
        policies: Policies = Policies::default(),
        /// How users reach the virtual cluster.
        export_kube_config: ExportKubeConfig = ExportKubeConfig::default(),
    }
);

section!(
    /// What flows between the two clusters.
    Sync {
        /// From the virtual cluster to the host.
        to_host: ToHost = ToHost::default(),
        /// From the host into the virtual cluster.
        from_host: FromHost = FromHost::default(),
    }
);

section!(
    /// Kinds that flow to the host.
    ToHost {
        /// Pods.
        pods: Pods = Pods::default(),
        /// Services.
        services: Synced = Synced::on(),
        /// Endpoints of services without a selector.
        endpoints: Synced = Synced::on(),
        /// EndpointSlices of services without a selector.
        endpoint_slices: Synced = Synced::on(),
        /// Volume claims.
        persistent_volume_claims: Synced = Synced::on(),
        /// ConfigMaps.
        config_maps: Referenced = Referenced::default(),
        /// Secrets.
        secrets: Referenced = Referenced::default(),
        /// Ingresses.
        ingresses: Synced = Synced::off(),
        /// NetworkPolicies.
        network_policies: Synced = Synced::off(),
        /// PodDisruptionBudgets.
        pod_disruption_budgets: Synced = Synced::off(),
        /// ServiceAccounts: each pod runs under the host's copy of its own,
        /// in place of one for all.
        service_accounts: Synced = Synced::off(),
        /// PriorityClasses; needs a ClusterRole.
        priority_classes: Synced = Synced::off(),
        /// StorageClasses; needs a ClusterRole.
        storage_classes: Synced = Synced::off(),
        /// Volumes of storage that nodes reach over a network, while a claim
        /// of the virtual cluster has them; needs a ClusterRole for all volumes
        /// of the host. Which storage that is, tenants say.
        persistent_volumes: Synced = Synced::off(),
        /// Custom resources, by plural name and group
        /// (`certificates.cert-manager.io`), with a version after a slash where
        /// it is not to be the one that the host stores; needs a ClusterRole.
        custom_resources: Named<CustomToHost> = Named::new(),
    }
);

section!(
    /// Pods on the host.
    Pods {
        /// Whether they flow at all.
        enabled: bool = true,
        /// Tolerations every host pod gets: `key=value:Effect`, `key:Effect`.
        enforce_tolerations: Vec<String> = Vec::new(),
        /// The host's runtime class for every pod; empty for none.
        runtime_class_name: String = String::new(),
        /// The host's priority class for every pod; empty for none.
        priority_class_name: String = String::new(),
        /// Images replaced on the way to the host.
        translate_image: Texts = Texts::new(),
        /// Pods with a subdomain, as those of StatefulSets, find their full name
        /// inside in /etc/hosts: a first container, of coracle's own image,
        /// writes it there.
        rewrite_hosts: Switch = Switch::on(),
        /// What becomes of single fields.
        patches: Vec<Patch> = Vec::new(),
    }
);

section!(
    /// A kind that flows or does not.
    Switch {
        /// Whether it does.
        enabled: bool = false,
    }
);

impl Switch {
    /// It flows.
    pub fn on() -> Self {
        Self { enabled: true }
    }

    /// It does not.
    pub fn off() -> Self {
        Self { enabled: false }
    }
}

section!(
    /// A kind that flows or does not, and what becomes of its objects' fields.
    Synced {
        /// Whether it does.
        enabled: bool = false,
        /// What becomes of single fields.
        patches: Vec<Patch> = Vec::new(),
    }
);

impl Synced {
    /// It flows.
    pub fn on() -> Self {
        Self {
            enabled: true,
            ..Self::default()
        }
    }

    /// It does not.
    pub fn off() -> Self {
        Self::default()
    }
}

section!(
    /// A kind of which only referenced objects flow.
    Referenced {
        /// Whether it flows at all.
        enabled: bool = true,
        /// All objects, also those that nothing refers to.
        all: bool = false,
        /// What becomes of single fields.
        patches: Vec<Patch> = Vec::new(),
    }
);

section!(
    /// Kinds that flow into the virtual cluster.
    FromHost {
        /// Events of objects that flow.
        events: Switch = Switch::on(),
        /// Nodes as they are, in place of one made up per host node in use.
        nodes: Nodes = Nodes::default(),
        /// Ingress classes.
        ingress_classes: Classes = Classes::default(),
        /// Storage classes; `auto` is with a virtual scheduler.
        storage_classes: AutomaticClasses = AutomaticClasses::default(),
        /// Runtime classes.
        runtime_classes: Classes = Classes::default(),
        /// Priority classes; pods keep theirs on the host then.
        priority_classes: Classes = Classes::default(),
        /// ConfigMaps, by name.
        config_maps: Imports = Imports::default(),
        /// Secrets, by name.
        secrets: Imports = Imports::default(),
        /// Custom resources, by plural name and group, with a version after a
        /// slash where it is not to be the one that the host stores; needs a
        /// ClusterRole.
        custom_resources: Named<CustomFromHost> = Named::new(),
    }
);

section!(
    /// Classes of the host that are shown or not.
    Classes {
        /// Whether they are.
        enabled: bool = false,
        /// Which; what uses another one is not synced.
        selector: Selector = Selector::default(),
        /// What becomes of single fields.
        patches: Vec<Patch> = Vec::new(),
    }
);

section!(
    /// Classes of the host that are shown, not, or along with something else.
    AutomaticClasses {
        /// Which of these.
        enabled: Toggle = Toggle::Auto,
        /// Which; what uses another one is not synced.
        selector: Selector = Selector::default(),
        /// What becomes of single fields.
        patches: Vec<Patch> = Vec::new(),
    }
);

section!(
    /// Objects by their labels; all if nothing is asked for.
    Selector {
        /// Labels that they have.
        match_labels: Texts = Texts::new(),
        /// Further conditions, as in Kubernetes: `key`, `operator` and `values`.
        match_expressions: Vec<Value> = Vec::new(),
    }
);

impl Selector {
    /// As Kubernetes has it.
    ///
    /// # Errors
    /// If a key, a value or an operator is none.
    pub fn parsed(&self) -> Result<LabelSelector, SelectorError> {
        LabelSelector::from_value(&serde_json::json!({
            "matchLabels": self.match_labels,
            "matchExpressions": self.match_expressions,
        }))
    }
}

section!(
    /// A kind of which some objects of the host are shown, by name.
    Imports {
        /// Whether they are.
        enabled: bool = false,
        /// Which.
        mappings: Mappings = Mappings::default(),
        /// What becomes of single fields, by `reverseExpression`.
        patches: Vec<Patch> = Vec::new(),
    }
);

section!(
    /// Which objects of the host are shown where.
    Mappings {
        /// `namespace/name` on the host to `namespace/name` inside; `*` for
        /// all names, no namespace on the left for the own one.
        by_name: Texts = Texts::new(),
    }
);

section!(
    /// Real nodes inside.
    Nodes {
        /// Whether real nodes are shown; needs a ClusterRole.
        enabled: bool = false,
        /// Labels and taints set inside are written to the host.
        sync_back_changes: bool = false,
        /// The images that a node has are not shown.
        clear_image_status: bool = true,
        /// Which nodes.
        selector: NodeSelector = NodeSelector::default(),
    }
);

section!(
    /// Which nodes are shown.
    NodeSelector {
        /// Also nodes without a pod of this virtual cluster.
        all: bool = false,
        /// Only nodes with these labels; pods are limited to them.
        labels: Texts = Texts::new(),
    }
);

section!(
    /// The pod of the control plane.
    ControlPlane {
        /// Which Kubernetes it is.
        distro: Distro = Distro::default(),
        /// The StatefulSet.
        stateful_set: StatefulSet = StatefulSet::default(),
        /// The Service in front of the API server.
        service: Service = Service::default(),
        /// An Ingress in front of the Service.
        ingress: Ingress = Ingress::default(),
        /// The listener of the API server.
        proxy: Proxy = Proxy::default(),
        /// Cluster DNS.
        coredns: Switch = Switch::on(),
        /// Further choices.
        advanced: Advanced = Advanced::default(),
    }
);

section!(
    /// Which Kubernetes the control plane is.
    Distro {
        /// The one there is: Kubernetes, built into coracle.
        k8s: Kubernetes = Kubernetes::default(),
    }
);

section!(
    /// Kubernetes, built into coracle.
    Kubernetes {
        /// Chosen by name; it is used in any case.
        enabled: bool = false,
        /// Its version; empty for the newest there is.
        version: String = String::new(),
    }
);

section!(
    /// The StatefulSet of the control plane.
    StatefulSet {
        /// Its image.
        image: Image = Image::default(),
        /// `Always`, `IfNotPresent`, `Never`; empty for Kubernetes' default.
        image_pull_policy: String = String::new(),
        /// Resource requests and limits of the control plane's container.
        resources: Fragment = Fragment::new(),
        /// Further labels.
        labels: Texts = Texts::new(),
        /// Further annotations.
        annotations: Texts = Texts::new(),
        /// The pod of the StatefulSet.
        pods: Extra = Extra::default(),
        /// Further environment variables, as in a pod.
        env: Vec<Value> = Vec::new(),
        /// Where it runs.
        scheduling: Scheduling = Scheduling::default(),
        /// Where its data lies.
        persistence: Persistence = Persistence::default(),
    }
);

section!(
    /// An image, in parts.
    Image {
        /// Host and port of the registry; empty for the default.
        registry: String = String::new(),
        /// Repository; empty for coracle's own.
        repository: String = String::new(),
        /// Tag; empty for the version of this program.
        tag: String = String::new(),
    }
);

section!(
    /// Further labels and annotations.
    Extra {
        /// Labels.
        labels: Texts = Texts::new(),
        /// Annotations.
        annotations: Texts = Texts::new(),
    }
);

section!(
    /// Where the control plane runs.
    Scheduling {
        /// Node labels.
        node_selector: Texts = Texts::new(),
        /// Affinity, as in a pod.
        affinity: Fragment = Fragment::new(),
        /// Tolerations, as in a pod.
        tolerations: Vec<Value> = Vec::new(),
        /// Priority class; empty for none.
        priority_class_name: String = String::new(),
    }
);

section!(
    /// Where the data of the control plane lies.
    Persistence {
        /// The claim.
        volume_claim: VolumeClaim = VolumeClaim::default(),
    }
);

section!(
    /// The volume claim of the control plane.
    VolumeClaim {
        /// A claim; else the data dies with the pod.
        enabled: bool = true,
        /// Its size.
        size: String = "5Gi".to_owned(),
        /// Its storage class; empty for the host's default.
        storage_class: String = String::new(),
        /// `Retain` or `Delete`: what becomes of it with the virtual cluster.
        retention_policy: String = "Retain".to_owned(),
        /// Access modes.
        access_modes: Vec<String> = vec!["ReadWriteOnce".to_owned()],
    }
);

section!(
    /// The Service in front of the API server.
    Service {
        /// Further labels.
        labels: Texts = Texts::new(),
        /// Further annotations.
        annotations: Texts = Texts::new(),
        /// Fields of its spec, such as `type`: `ClusterIP`, `NodePort` or
        /// `LoadBalancer`.
        spec: Fragment = Fragment::new(),
        /// The port on every host node, where the type has one; 0 for one of
        /// the host's choice.
        https_node_port: u16 = 0,
    }
);

section!(
    /// An Ingress in front of the Service. It has to pass TLS through, since
    /// users show their certificates to the API server itself.
    Ingress {
        /// Whether there is one.
        enabled: bool = false,
        /// The name under which it is reached; the certificate has it too.
        host: String = String::new(),
        /// The type of its one path.
        path_type: String = "ImplementationSpecific".to_owned(),
        /// Further labels.
        labels: Texts = Texts::new(),
        /// Annotations: by default those that have ingress-nginx pass TLS
        /// through.
        annotations: Texts = [
            ("nginx.ingress.kubernetes.io/backend-protocol", "HTTPS"),
            ("nginx.ingress.kubernetes.io/ssl-passthrough", "true"),
            ("nginx.ingress.kubernetes.io/ssl-redirect", "true"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        /// Fields of its spec, such as `ingressClassName`.
        spec: Fragment = Fragment::new(),
    }
);

section!(
    /// The listener of the API server.
    Proxy {
        /// Further names and addresses in its certificate.
        #[serde(rename = "extraSANs")]
        extra_sans: Vec<String> = Vec::new(),
    }
);

section!(
    /// Further choices for the control plane.
    Advanced {
        /// A scheduler of its own.
        virtual_scheduler: Switch = Switch::off(),
        /// The host account of workload pods.
        workload_service_account: WorkloadAccount = WorkloadAccount::default(),
        /// The host account of the control plane's pod.
        service_account: Account = Account::default(),
        /// The Service that names the control plane's pod.
        headless_service: Extra = Extra::default(),
        /// What all host objects of the control plane get.
        global_metadata: Global = Global::default(),
    }
);

section!(
    /// What all host objects of the control plane get.
    Global {
        /// Annotations.
        annotations: Texts = Texts::new(),
    }
);

section!(
    /// A host account.
    Account {
        /// Further labels.
        labels: Texts = Texts::new(),
        /// Further annotations.
        annotations: Texts = Texts::new(),
        /// Secrets for private registries, as `{name}`.
        image_pull_secrets: Vec<Value> = Vec::new(),
    }
);

section!(
    /// The host account of workload pods.
    WorkloadAccount {
        /// Its name; empty for `vc-workload-NAME`.
        name: String = String::new(),
        /// Further labels.
        labels: Texts = Texts::new(),
        /// Further annotations.
        annotations: Texts = Texts::new(),
        /// Secrets for private registries, as `{name}`.
        image_pull_secrets: Vec<Value> = Vec::new(),
    }
);

section!(
    /// How users reach the virtual cluster.
    ExportKubeConfig {
        /// The context's name in the published kubeconfig; empty for the
        /// default.
        context: String = String::new(),
        /// The server's address in it; empty for the Service.
        server: String = String::new(),
        /// Clients do not check the server's certificate.
        insecure: bool = false,
        /// A service account of the virtual cluster whose token is in it, in
        /// place of the administrator's client certificate.
        service_account: TokenAccount = TokenAccount::default(),
        /// Further host secrets with a kubeconfig.
        additional_secrets: Vec<AdditionalSecret> = Vec::new(),
    }
);

section!(
    /// A further host secret with a kubeconfig.
    AdditionalSecret {
        /// Its name.
        name: String = String::new(),
        /// Its namespace, which has to be there; empty for that of the virtual
        /// cluster.
        namespace: String = String::new(),
        /// The context's name in it; empty for the default.
        context: String = String::new(),
        /// The server's address in it; empty for the Service.
        server: String = String::new(),
        /// Clients do not check the server's certificate.
        insecure: bool = false,
        /// A service account of the virtual cluster whose token is in it, in
        /// place of the administrator's client certificate.
        service_account: TokenAccount = TokenAccount::default(),
    }
);

section!(
    /// A service account of the virtual cluster, made if it is not there.
    TokenAccount {
        /// Its name; empty for none.
        name: String = String::new(),
        /// Its namespace; empty for `kube-system`.
        namespace: String = String::new(),
        /// A ClusterRole of the virtual cluster to bind it to; empty for none.
        cluster_role: String = String::new(),
    }
);

impl TokenAccount {
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        if self.namespace.is_empty() {
            "kube-system"
        } else {
            &self.namespace
        }
    }
}

impl Config {
    /// Whether the host's storage classes are shown inside. A virtual scheduler
    /// looks at them.
    pub fn shows_storage_classes(&self) -> bool {
        let scheduler = self.control_plane.advanced.virtual_scheduler.enabled;
        let classes = &self.sync.from_host.storage_classes;
        let own = self.sync.to_host.storage_classes.enabled;
        classes.enabled.is_on_or(scheduler && !own)
    }

    /// The host account of workload pods of the virtual cluster `vc`.
    pub fn workload_service_account(&self, vc: &str) -> String {
        let name = &self.control_plane.advanced.workload_service_account.name;
        if name.is_empty() {
            crate::names::workload_service_account(vc)
        } else {
            name.clone()
        }
    }
}

impl AdditionalSecret {
    /// Its namespace, in a virtual cluster of the host namespace `own`.
    pub fn namespace_or<'a>(&'a self, own: &'a str) -> &'a str {
        if self.namespace.is_empty() {
            own
        } else {
            &self.namespace
        }
    }
}
