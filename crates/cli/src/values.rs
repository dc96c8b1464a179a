//! The values of a virtual cluster as the user gives them: files, single
//! values, and options that stand for some.

use std::path::PathBuf;

use clap::Args;
use coracle_config::{Config, ConfigError};

use crate::error::{CliError, Result};
use crate::output::Output;

/// The name, in messages, of the values that a virtual cluster has.
const PRESENT: &str = "the values that it has";

/// Options that give values.
#[derive(Args, Clone, Debug, Default)]
pub struct Values {
    /// A file of values; may be given several times, later ones win
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    values: Vec<PathBuf>,
    /// A single value, as in sync.toHost.ingresses.enabled=true
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The distribution of Kubernetes; k8s is the one there is
    #[arg(long, value_name = "NAME", value_parser = distro)]
    distro: Option<String>,
    /// The version of Kubernetes
    #[arg(long, value_name = "VERSION", value_parser = version)]
    kubernetes_version: Option<String>,
    /// Have the host give the API server an address by a load balancer
    #[arg(long)]
    expose: bool,
}

fn distro(name: &str) -> std::result::Result<String, String> {
    match name {
        "k8s" => Ok(name.to_owned()),
        other => Err(format!("there is no {other:?} here; k8s is built in")),
    }
}

fn version(name: &str) -> std::result::Result<String, String> {
    if coracle_config::KUBERNETES_VERSION_NAMES.contains(&name) {
        return Ok(name.to_owned());
    }
    Err(format!(
        "version {} is the one built in",
        coracle_config::KUBERNETES_VERSION
    ))
}

impl Values {
    /// The configuration: the values that it `present`ly has, if any, then
    /// files, options and single values, later ones over earlier ones.
    ///
    /// # Errors
    /// If a file cannot be read or a value makes no sense.
    pub fn load(&self, present: Option<String>, output: &Output) -> Result<Config> {
        let mut texts: Vec<(String, String)> = present
            .map(|text| (PRESENT.to_owned(), text))
            .into_iter()
            .collect();
        for path in &self.values {
            let text = std::fs::read_to_string(path).map_err(|error| {
                CliError::usage(format!("cannot read the values file {}", path.display()))
                    .because(error)
                    .hint("-f names a YAML file; --set key=value needs none")
            })?;
            texts.push((path.display().to_string(), text));
        }
        let sources: Vec<(&str, &str)> = texts
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        let mut sets = Vec::new();
        if self.distro.is_some() {
            sets.push("controlPlane.distro.k8s.enabled=true".to_owned());
        }
        if let Some(version) = &self.kubernetes_version {
            sets.push(format!("controlPlane.distro.k8s.version={version}"));
        }
        if self.expose {
            sets.push("controlPlane.service.spec.type=LoadBalancer".to_owned());
        }
        sets.extend(self.set.iter().cloned());
        let (config, hints) = Config::load(&sources, &sets).map_err(|error| unusable(&error))?;
        for hint in hints {
            output.hint(&hint.to_string());
        }
        Ok(config)
    }
}

/// What to tell of values that cannot be used.
pub fn unusable(error: &ConfigError) -> CliError {
    let mut out = CliError::usage("the values cannot be used");
    out.causes = error.problems.iter().map(ToString::to_string).collect();
    out.hint("`coracle schema` prints which keys there are, `coracle schema --refused` which not")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_for_values_and_single_values_win() {
        let values = Values {
            expose: true,
            distro: Some("k8s".into()),
            kubernetes_version: Some("v1.36".into()),
            set: vec!["sync.toHost.ingresses.enabled=true".into()],
            ..Values::default()
        };
        let present = "sync: {toHost: {secrets: {all: true}, ingresses: {enabled: false}}}";
        let config = values
            .load(Some(present.into()), &Output::new())
            .expect("they are right");
        assert_eq!(config.control_plane.service.spec["type"], "LoadBalancer");
        assert_eq!(config.control_plane.distro.k8s.version, "v1.36");
        assert!(config.sync.to_host.secrets.all && config.sync.to_host.ingresses.enabled);
    }

    #[test]
    fn what_is_not_there_is_refused_with_what_is() {
        assert!(distro("k3s").unwrap_err().contains("k8s is built in"));
        assert!(version("1.20").unwrap_err().contains("v1.36.2"));
    }
}
