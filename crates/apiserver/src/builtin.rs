//! The built-in identity, permission and admission rules, put into a server
//! in one step.

use std::sync::Arc;

use coracle_machinery::ApiError;
use coracle_pki::TokenSigner;
use coracle_pki::tls::Identity;
use tokio_util::sync::CancellationToken;

use crate::admission::{
    self, Dependencies, Extensions, HostAddresses, KubernetesService, Quotas, ServiceAddressing,
    ensure_kubernetes_service,
};
use crate::aggregation::Aggregation;
use crate::auth::handlers::{OpenId, handlers};
use crate::auth::node::Authorizers;
use crate::auth::rbac::{Rbac, aggregation};
use crate::auth::reviews::{Reviews, TokenRequests};
use crate::auth::{Authenticators, ServiceAccountTokens, bootstrap};
use crate::callout::{Callouts, ClusterNetwork};
use crate::connect::Reach;
use crate::objects::Objects;
use crate::server::Builder;

/// How callers are told apart and services are addressed.
pub struct BuiltinOptions {
    /// Signs and verifies the tokens of service accounts.
    pub signer: Arc<TokenSigner>,
    /// The URL in the tokens, also this server's audience:
    /// `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// Whether requests without credentials are let in as
    /// `system:anonymous`.
    pub anonymous: bool,
    /// Who gives out cluster IPs and node ports.
    pub addressing: ServiceAddressing,
    /// The way to webhooks, if not over the cluster's network.
    pub callouts: Option<Arc<Callouts>>,
    /// The certificate by which the servers behind APIServices know this one.
    pub front_proxy: Option<Identity>,
    /// Where that network may lead.
    pub reach: Arc<Reach>,
}

/// The parts that [`install`] made.
#[derive(Clone)]
pub struct Builtin {
    /// Roles and bindings.
    pub rbac: Arc<Rbac>,
    /// Service-account tokens.
    pub tokens: Arc<ServiceAccountTokens>,
    /// The way to webhooks.
    pub callouts: Arc<Callouts>,
    /// What other servers serve.
    pub aggregation: Arc<Aggregation>,
    quotas: Arc<Quotas>,
    objects: Arc<dyn Objects>,
}

/// Adds authenticators, authorisers, admission rules, reviews, token requests
/// and the OpenID documents to a server.
#[must_use]
pub fn install(mut builder: Builder, options: BuiltinOptions) -> (Builder, Builtin) {
    let objects = builder.objects();
    let rbac = Arc::new(Rbac::new(objects.clone()));
    let signer = options.signer;
    let tokens = ServiceAccountTokens::new(signer, &options.issuer, objects.clone());
    let tokens = Arc::new(tokens);
    let authorizers = Arc::new(Authorizers::new(objects.clone(), rbac.clone()));
    let authenticators = Authenticators::new(tokens.clone(), options.anonymous);
    let quotas = Arc::new(Quotas::new(objects.clone()));
    if let ServiceAddressing::FromHost { syncer } = &options.addressing {
        let syncer = syncer.clone();
        builder = builder.completion(Arc::new(HostAddresses { syncer }));
    }
    let callouts = options.callouts.unwrap_or_else(|| {
        let network = ClusterNetwork::new(objects.clone(), options.reach);
        Arc::new(Callouts::new(Arc::new(network)))
    });
    let aggregation = Aggregation::new(callouts.resolver(), options.front_proxy);
    let aggregation = Arc::new(aggregation);
    builder = builder.aggregation(aggregation.clone());
    let rules = admission::chain(&Dependencies {
        objects: objects.clone(),
        rbac: rbac.clone(),
        authorizer: authorizers.clone(),
        addressing: options.addressing,
        quotas: quotas.clone(),
        extensions: Arc::new(Extensions {
            objects: objects.clone(),
            registry: builder.registry(),
            callouts: callouts.clone(),
        }),
    });
    let reviews = Reviews::new(authorizers.clone(), rbac.clone(), tokens.clone());
    let requests = TokenRequests::new(tokens.clone(), objects.clone());
    builder = builder
        .authenticator(Arc::new(authenticators))
        .authorizer(authorizers)
        .route(Arc::new(OpenId::new(tokens.clone())));
    for rule in rules {
        builder = builder.admission(rule);
    }
    for (group, resource, subresource, handler) in handlers(Arc::new(reviews), Arc::new(requests)) {
        builder = builder.handler(group, resource, subresource, handler);
    }
    let builtin = Builtin {
        rbac,
        tokens,
        callouts,
        aggregation,
        quotas,
        objects,
    };
    (builder, builtin)
}

impl Builtin {
    /// Creates what a fresh control plane holds, and the service
    /// `kubernetes` if it is to be found anywhere. To be run before requests
    /// are served; does little if all is there.
    ///
    /// # Errors
    /// If reading or writing fails.
    pub async fn prepare(&self, kubernetes: Option<&KubernetesService>) -> Result<(), ApiError> {
        bootstrap::ensure(&*self.objects).await?;
        match kubernetes {
            Some(service) => ensure_kubernetes_service(&*self.objects, service).await,
            None => Ok(()),
        }
    }

    /// Keeps aggregated roles and the status of quotas up to date until
    /// cancelled. Idle while none of them is concerned.
    pub async fn run(self, cancel: CancellationToken) {
        let roles = aggregation::run(self.rbac, cancel.clone());
        tokio::join!(roles, self.quotas.run(cancel));
    }
}
