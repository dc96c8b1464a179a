//! The objects that a policy is bound with.

use std::sync::Arc;

use coracle_machinery::object::text;
use coracle_machinery::selector::LabelSelector;
use coracle_machinery::{ApiError, GroupVersion};
use serde_json::Value;

use super::policy::{Binding, Policy};
use crate::admission::Extensions;
use crate::hooks::AdmissionRequest;

/// Parameters of one evaluation: it is done once for each.
pub(super) enum Params {
    /// The policy has none.
    None,
    /// These; none is a reason to let the request pass.
    Found(Vec<Arc<Value>>),
    /// They are missing, which refuses the request.
    Missing(String),
}

/// Objects that one binding may select: more would make a request as slow as
/// so many policies.
const MAX_PARAMS: usize = 1000;

impl Params {
    /// The values of `params`, one for each evaluation.
    pub(super) fn sets(&self) -> Result<Vec<&Value>, String> {
        match self {
            Self::None => Ok(vec![&Value::Null]),
            Self::Found(all) => Ok(all.iter().map(|p| &**p).collect()),
            Self::Missing(why) => Err(why.clone()),
        }
    }
}

/// What a binding gives to its policy for a request.
pub(super) async fn of(
    policy: &Policy,
    binding: &Binding,
    request: &AdmissionRequest<'_>,
    with: &Extensions,
) -> Result<Params, ApiError> {
    let Some((api_version, kind)) = &policy.param_kind else {
        return Ok(Params::None);
    };
    let wanted = GroupVersion::parse(api_version);
    let rows = with.registry.all();
    let row = rows.iter().find(|r| {
        let gvk = &r.kind.gvk;
        gvk.group == wanted.group && gvk.version == wanted.version && gvk.kind == *kind
    });
    let Some(row) = row else {
        let why = format!("failed to configure policy: {kind}.{api_version} is not served");
        return Ok(Params::Missing(why));
    };
    let reference = &binding.params;
    if !reference.is_object() {
        // Without a reference, the expressions see null.
        return Ok(Params::None);
    }
    let namespace = match (row.namespaced(), text(reference, "/namespace")) {
        (false, _) => "",
        (true, "") => request.namespace,
        (true, given) => given,
    };
    if row.namespaced() && namespace.is_empty() {
        let why = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
        return Ok(Params::Missing(why.to_owned()));
    }
    let name = text(reference, "/name");
    let mut found = if name.is_empty() {
        let selector = LabelSelector::from_value(&reference["selector"]);
        let selector = selector.unwrap_or_else(|_| LabelSelector::nothing());
        let all = with.objects.list(&row.group_resource, namespace).await?;
        all.into_iter()
            .filter(|object| selector.matches_object(object))
            .take(MAX_PARAMS)
            .collect()
    } else {
        let object = with
            .objects
            .get(&row.group_resource, namespace, name)
            .await?;
        object.into_iter().collect::<Vec<_>>()
    };
    if row.kind.gvk != row.stored_kind.gvk {
        for object in &mut found {
            *object = Arc::new(row.to_served((**object).clone()));
        }
    }
    if found.is_empty() && text(reference, "/parameterNotFoundAction") == "Deny" {
        let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
        return Ok(Params::Missing(why.to_owned()));
    }
    Ok(Params::Found(found))
}
