//! A virtual cluster of one scenario.

use crate::world::{Result, World, ensure};

/// A virtual cluster and the tools that act on it. It is deleted at the end of
/// the scenario, whatever that is.
pub struct VirtualCluster<'w> {
    host: &'w World,
    /// Its name.
    pub name: String,
    /// Its host namespace.
    pub namespace: String,
    /// The same programs, pointed at the virtual cluster.
    pub inside: World,
    deleted: bool,
}

impl<'w> VirtualCluster<'w> {
    /// Creates one and connects to it.
    pub fn create(host: &'w World, name: &str, namespace: &str, options: &str) -> Result<Self> {
        let mut cluster = Self {
            host,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            inside: host.clone(),
            deleted: false,
        };
        let context = host.kubectl("config current-context")?;
        host.coracle(&format!("create {name} --namespace {namespace} {options}"))?;
        let file = host.file(
            &format!("{namespace}-{name}.kubeconfig"),
            &host.kubectl("config view --minify --flatten")?,
        )?;
        // Not `disconnect`, which would stop forwarding a port to it.
        host.kubectl(&format!("config use-context {context}"))?;
        cluster.inside = host.with_kubeconfig(file);
        Ok(cluster)
    }

    /// Runs a shell script in a pod's only container; returns its output.
    pub fn in_pod(&self, pod: &str, script: &str) -> Result<String> {
        self.inside
            .kubectl(&format!("exec {pod} -- sh -c '{script}'"))
    }

    /// It is gone already.
    pub fn forget(mut self) {
        self.deleted = true;
    }

    /// Deletes it, and fails if an object of it is left on the host.
    pub fn delete(mut self) -> Result {
        self.deleted = true;
        let (name, namespace) = (&self.name, &self.namespace);
        self.host
            .coracle(&format!("delete {name} --namespace {namespace}"))?;
        let kinds = "pods,services,secrets,configmaps,statefulsets,serviceaccounts,roles,\
                     rolebindings,endpointslices,persistentvolumeclaims";
        for selector in [
            format!("coracle.dev/managed-by={name}"),
            format!("release={name}"),
        ] {
            // A namespace that was made for it may be gone by now.
            let left = self
                .host
                .try_kubectl(&format!("get {kinds} -n {namespace} -l {selector} -o name"));
            ensure(
                left.out.is_empty(),
                &format!("left in {namespace}: {}", left.out),
            )?;
        }
        Ok(())
    }
}

impl Drop for VirtualCluster<'_> {
    fn drop(&mut self) {
        if self.deleted {
            return;
        }
        println!("what is inside {}:", self.name);
        self.inside.show_objects();
        self.host.show_state();
        let (name, namespace) = (&self.name, &self.namespace);
        self.host.try_coracle(&format!(
            "delete {name} --namespace {namespace} --timeout 30"
        ));
    }
}
