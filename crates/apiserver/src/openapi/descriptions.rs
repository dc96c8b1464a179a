//! What the types of the API and their fields mean, in upstream's words, for
//! `kubectl explain`. The schemas that machinery compiles hold no prose; the
//! types of k8s-openapi carry it, and it is joined to a document when one is
//! asked for.

use std::collections::BTreeSet;

use coracle_machinery::GroupVersion;
use coracle_machinery::schema::OpenApi;
use k8s_openapi::schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};

/// The described definitions of some groups and versions, by type name.
pub struct Descriptions(Map<String, Value>);

impl Descriptions {
    /// What is known of the kinds of these groups and versions, and of all
    /// types that they refer to.
    pub fn of<'a>(versions: impl IntoIterator<Item = &'a GroupVersion>) -> Self {
        let versions: BTreeSet<(&str, &str)> = versions
            .into_iter()
            .map(|gv| (&*gv.group, &*gv.version))
            .collect();
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        meta(&mut generator);
        for (group, version) in versions {
            kinds(group, version, &mut generator);
        }
        Self(generator.take_definitions(false))
    }

    /// Adds to a definition of our own what is known of the type `name`.
    pub fn describe(&self, name: &str, definition: &mut Value, form: OpenApi) {
        if let (Some(map), Some(known)) = (definition.as_object_mut(), self.0.get(name)) {
            join(map, known, form);
        }
    }
}

/// Adds the descriptions of `known` to the same places of `schema`, down to
/// references: what they lead to is described by itself.
fn join(schema: &mut Map<String, Value>, known: &Value, form: OpenApi) {
    for key in ["items", "additionalProperties"] {
        if let Some(Value::Object(inner)) = schema.get_mut(key) {
            join(inner, &known[key], form);
        }
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (name, property) in properties {
            if let Value::Object(property) = property {
                join(property, &known["properties"][name.as_str()], form);
            }
        }
    }
    let Some(text) = known.get("description") else {
        return;
    };
    if form == OpenApi::V3 && schema.contains_key("$ref") {
        // Version 3 ignores what stands beside a reference.
        let reference = std::mem::take(schema);
        schema.insert("allOf".into(), Value::Array(vec![reference.into()]));
    }
    schema.entry("description").or_insert_with(|| text.clone());
}

/// Types that every document refers to.
fn meta(generator: &mut SchemaGenerator) {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
        APIResourceList, DeleteOptions, Patch, Status, WatchEvent,
    };
    add::<APIResourceList>(generator);
    add::<DeleteOptions>(generator);
    add::<Patch>(generator);
    add::<Status>(generator);
    add::<WatchEvent<Value>>(generator);
}

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

/// The function `kinds`, which adds the kinds of a group and version.
macro_rules! kinds {
    ($($group:literal $version:literal in $($module:ident)::+: $($kind:ident),+;)+) => {
        fn kinds(group: &str, version: &str, generator: &mut SchemaGenerator) {
            match (group, version) {
                $(($group, $version) => {
                    use k8s_openapi::$($module)::+ as module;
                    $(add::<module::$kind>(generator);)+
                })+
                _ => {}
            }
        }
    };
}

kinds! {
    "" "v1" in api::core::v1: Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount;
    "admissionregistration.k8s.io" "v1" in api::admissionregistration::v1: MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration;
    "apiextensions.k8s.io" "v1" in apiextensions_apiserver::pkg::apis::apiextensions::v1: CustomResourceDefinition;
    "apiregistration.k8s.io" "v1" in kube_aggregator::pkg::apis::apiregistration::v1: APIService;
    "apps" "v1" in api::apps::v1: ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet;
    "authentication.k8s.io" "v1" in api::authentication::v1: SelfSubjectReview, TokenRequest, TokenReview;
    "authorization.k8s.io" "v1" in api::authorization::v1: LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview;
    "autoscaling" "v1" in api::autoscaling::v1: HorizontalPodAutoscaler, Scale;
    "autoscaling" "v2" in api::autoscaling::v2: HorizontalPodAutoscaler;
    "batch" "v1" in api::batch::v1: CronJob, Job;
    "certificates.k8s.io" "v1" in api::certificates::v1: CertificateSigningRequest;
    "coordination.k8s.io" "v1" in api::coordination::v1: Lease;
    "discovery.k8s.io" "v1" in api::discovery::v1: EndpointSlice;
    "events.k8s.io" "v1" in api::events::v1: Event;
    "flowcontrol.apiserver.k8s.io" "v1" in api::flowcontrol::v1: FlowSchema, PriorityLevelConfiguration;
    "networking.k8s.io" "v1" in api::networking::v1: IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR;
    "node.k8s.io" "v1" in api::node::v1: RuntimeClass;
    "policy" "v1" in api::policy::v1: Eviction, PodDisruptionBudget;
    "rbac.authorization.k8s.io" "v1" in api::rbac::v1: ClusterRole, ClusterRoleBinding, Role, RoleBinding;
    "resource.k8s.io" "v1" in api::resource::v1: DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice;
    "scheduling.k8s.io" "v1" in api::scheduling::v1: PriorityClass;
    "storage.k8s.io" "v1" in api::storage::v1: CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass;
}
