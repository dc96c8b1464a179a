//! The host cluster: which one, and how it is reached.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::error::{CliError, Result};
use crate::kubeconfig::Files;
use crate::product;

/// The host cluster of a command.
pub struct Host {
    /// A client with the user's own rights.
    pub client: Client,
    /// The name of its context.
    pub context: String,
    /// The namespace that the context chooses.
    pub namespace: String,
}

/// The context that `connect` writes for a virtual cluster:
/// `coracle_NAME_NAMESPACE_HOSTCONTEXT`.
pub fn virtual_context(name: &str, namespace: &str, host_context: &str) -> String {
    format!("{}_{name}_{namespace}_{host_context}", product::name())
}

/// All contexts that may have been written for it, whatever the program was
/// called by then.
pub fn virtual_contexts(name: &str, namespace: &str, host_context: &str) -> Vec<String> {
    product::all()
        .map(|product| format!("{product}_{name}_{namespace}_{host_context}"))
        .collect()
}

/// The parts of such a context: name, namespace, host context. Names of
/// virtual clusters and namespaces hold no underscore.
pub fn parse_virtual_context(context: &str) -> Option<(&str, &str, &str)> {
    let (product, rest) = context.split_once('_')?;
    if !product::all().any(|known| known == product) {
        return None;
    }
    let mut parts = rest.splitn(3, '_');
    Some((parts.next()?, parts.next()?, parts.next()?))
}

impl Host {
    /// Connects to the host of `--context` or of the current context. From
    /// within a virtual cluster, that is the cluster which carries it.
    ///
    /// # Errors
    /// If there is no kubeconfig or no such context.
    pub async fn connect(files: &Files, flag: Option<&str>) -> Result<Self> {
        let context = match flag {
            Some(context) => context.to_owned(),
            None => files.current_context()?.ok_or_else(|| no_context(files))?,
        };
        let context = match parse_virtual_context(&context) {
            Some((_, _, host)) if flag.is_none() => host.to_owned(),
            _ => context,
        };
        if !files.has_context(&context)? {
            return Err(CliError::failure(format!("there is no context {context:?} in the kubeconfig"))
                .hint("`kubectl config get-contexts` lists them; `coracle host up` makes an embedded host"));
        }
        let options = KubeConfigOptions {
            context: Some(context.clone()),
            ..Default::default()
        };
        let config = Config::from_custom_kubeconfig(merged(files)?, &options)
            .await
            .map_err(|e| unusable(&context, &e))?;
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|e| unusable(&context, &e))?;
        Ok(Self {
            client,
            context,
            namespace,
        })
    }
}

fn unusable(context: &str, error: &dyn std::error::Error) -> CliError {
    CliError::failure(format!("context {context:?} cannot be used"))
        .because(crate::error::root_cause(error))
        .hint("`kubectl config view` shows it; --context and --kubeconfig name another")
}

fn no_context(files: &Files) -> CliError {
    let paths: Vec<String> = files
        .paths()
        .iter()
        .map(|p| p.display().to_string())
        .collect();
    CliError::failure(format!(
        "no host cluster: {} names no current context",
        paths.join(", ")
    ))
    .hint("`coracle host up` makes one on this machine; --kubeconfig and --context name another")
}

/// As kubectl merges: with paths in a file relative to that file.
fn merged(files: &Files) -> Result<Kubeconfig> {
    let mut merged = Kubeconfig::default();
    for path in files.paths().iter().filter(|path| Path::exists(path)) {
        let failed = |e: kube::config::KubeconfigError| {
            CliError::failure(format!("cannot read the kubeconfig {}", path.display())).because(e)
        };
        merged = merged
            .merge(Kubeconfig::read_from(path).map_err(failed)?)
            .map_err(failed)?;
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_of_virtual_clusters_are_taken_apart() {
        let context = virtual_context("a", "demo", "my_host");
        assert_eq!(context, "coracle_a_demo_my_host");
        assert_eq!(
            parse_virtual_context(&context),
            Some(("a", "demo", "my_host"))
        );
        assert_eq!(
            parse_virtual_context("vcluster_a_demo_kind-demo"),
            Some(("a", "demo", "kind-demo"))
        );
        assert!(virtual_contexts("a", "demo", "my_host").contains(&context));
        assert_eq!(parse_virtual_context("kind-demo"), None);
        assert_eq!(parse_virtual_context("coracle_a"), None);
    }
}
