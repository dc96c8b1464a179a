//! The hosts file of a pod with a full name, written anew inside the pod before
//! its containers start: the kubelet of the host knows the host's names only.

use std::path::PathBuf;

use crate::Error;

/// Largest hosts file: a kubelet writes a few lines and the pod's aliases, and
/// a pod is at most 1.5 MiB.
const MAX_SIZE: u64 = 2 << 20;

/// What a kubelet writes before the aliases of the pod.
const ALIASES: &str = "# Entries added by HostAliases.";

/// What is written.
#[derive(Clone, Debug)]
pub struct RewriteOptions {
    /// The file of the kubelet.
    pub from: PathBuf,
    /// The new file.
    pub to: PathBuf,
    /// The pod's host name.
    pub hostname: String,
    /// Its full name.
    pub name: String,
}

/// Writes the file.
///
/// # Errors
/// If one cannot be read or the other not be written.
pub fn rewrite(options: &RewriteOptions) -> Result<(), Error> {
    let size = std::fs::metadata(&options.from)
        .map_err(Error::file(&options.from))?
        .len();
    if size > MAX_SIZE {
        let file = options.from.display();
        return Err(Error::Setting(format!(
            "{file}: {size} bytes, more than the {MAX_SIZE} of a hosts file"
        )));
    }
    let text = std::fs::read_to_string(&options.from).map_err(Error::file(&options.from))?;
    let text = with_full_name(&text, &options.hostname, &options.name);
    std::fs::write(&options.to, text).map_err(Error::file(&options.to))
}

/// The file with the full name before the host name, in the pod's own lines:
/// the first name of an address is its full one.
fn with_full_name(text: &str, hostname: &str, full: &str) -> String {
    let mut rewritten = String::with_capacity(text.len() + full.len());
    let mut own = true;
    for line in text.split_inclusive('\n') {
        own &= line.trim_end() != ALIASES;
        let mut words = line.split_whitespace();
        match (own, words.next(), words.next(), words.next()) {
            (true, Some(address), Some(name), None) if name == hostname => {
                rewritten.push_str(&format!("{address}\t{full}\t{hostname}\n"));
            }
            _ => rewritten.push_str(line),
        }
    }
    rewritten
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "web-0.web.default.svc.cluster.local";

    #[test]
    fn the_pods_own_lines_get_its_full_name() {
        let text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n10.1.0.7\tweb-0\n\
                    fd00::7\tweb-0\n\n# Entries added by HostAliases.\n10.9.9.9\tweb-0\n";
        assert_eq!(
            with_full_name(text, "web-0", FULL),
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
             10.1.0.7\tweb-0.web.default.svc.cluster.local\tweb-0\n\
             fd00::7\tweb-0.web.default.svc.cluster.local\tweb-0\n\n\
             # Entries added by HostAliases.\n10.9.9.9\tweb-0\n"
        );
        for other in ["", "10.1.0.7\tweb-01\n", "10.1.0.7\tweb-0\tmore", "web-0"] {
            assert_eq!(with_full_name(other, "web-0", FULL), other);
        }
    }

    #[test]
    fn files_are_rewritten_and_strange_ones_refused() {
        let directory = tempfile::tempdir().unwrap();
        let options = RewriteOptions {
            from: directory.path().join("from"),
            to: directory.path().join("to"),
            hostname: "web-0".into(),
            name: FULL.into(),
        };
        let error = rewrite(&options).unwrap_err().to_string();
        assert!(error.contains("from"), "{error}");
        std::fs::write(&options.from, "10.1.0.7\tweb-0\n").unwrap();
        rewrite(&options).unwrap();
        let text = std::fs::read_to_string(&options.to).unwrap();
        assert_eq!(text, format!("10.1.0.7\t{FULL}\tweb-0\n"));
        let large = std::fs::File::create(&options.from).unwrap();
        large.set_len(MAX_SIZE + 1).unwrap();
        let error = rewrite(&options).unwrap_err().to_string();
        assert!(error.contains("hosts file"), "{error}");
    }
}
