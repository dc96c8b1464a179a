//! The check that nobody grants more than they hold, as an admission rule: it
//! looks at what mutation left. It also tells of writes that aggregated roles
//! may follow.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::ApiError;

use crate::access::Authorizer;
use crate::auth::RBAC_GROUP;
use crate::auth::rbac::{CLUSTER_ROLES, Rbac, escalation};
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::registry::Resource;

pub(super) struct RbacEscalation {
    rbac: Arc<Rbac>,
    authorizer: Arc<dyn Authorizer>,
}

impl RbacEscalation {
    pub(super) fn new(rbac: Arc<Rbac>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { rbac, authorizer }
    }
}

#[async_trait]
impl Admission for RbacEscalation {
    fn handles(&self, operation: Operation, resource: &Resource, _subresource: &str) -> bool {
        operation != Operation::Connect && resource.group_resource.group == RBAC_GROUP
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        if request.resource.group_resource == CLUSTER_ROLES {
            self.rbac.cluster_role_written();
        }
        let Some(object) = request.object.as_ref() else {
            return Ok(());
        };
        escalation::check(
            &self.rbac,
            &*self.authorizer,
            request.user,
            &request.resource.group_resource,
            object,
            request.old,
        )
        .await
    }
}
