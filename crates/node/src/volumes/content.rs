//! Contents of volumes that are made from API objects. Pure but for the
//! objects, which the caller has fetched.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};

use super::atomic::{File, Files};
use crate::downward::{self, DownwardError, NodeFacts};

/// Why a volume has no contents.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// An item names a key that the object lacks.
    #[error("references non-existent config key: {0}")]
    MissingKey(String),
    /// A downward API reference has no value.
    #[error(transparent)]
    Downward(#[from] DownwardError),
}

/// How an object's keys become files.
pub struct Keys<'a> {
    /// Chosen keys; all of them if absent.
    pub items: Option<&'a [KeyToPath]>,
    /// Permission bits of files that name none.
    pub mode: u32,
    /// Whether a chosen key may be missing.
    pub optional: bool,
}

impl Keys<'_> {
    fn select(
        &self,
        data: BTreeMap<String, Vec<u8>>,
        files: &mut Files,
    ) -> Result<(), ContentError> {
        let Some(items) = self.items.filter(|items| !items.is_empty()) else {
            for (key, data) in data {
                files.insert(
                    key,
                    File {
                        data,
                        mode: self.mode,
                        owner: None,
                    },
                );
            }
            return Ok(());
        };
        for item in items {
            match data.get(&item.key) {
                Some(bytes) => {
                    let mode = item.mode.map_or(self.mode, mode_bits);
                    files.insert(
                        item.path.clone(),
                        File {
                            data: bytes.clone(),
                            mode,
                            owner: None,
                        },
                    );
                }
                None if self.optional => {}
                None => return Err(ContentError::MissingKey(item.key.clone())),
            }
        }
        Ok(())
    }
}

/// Permission bits from the API's number.
pub fn mode_bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0) & 0o777
}

/// Adds a configMap's files.
pub fn config_map(map: &ConfigMap, keys: &Keys<'_>, files: &mut Files) -> Result<(), ContentError> {
    let text = map
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map
        .binary_data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.0.clone()));
    keys.select(text.chain(binary).collect(), files)
}

/// Adds a secret's files.
pub fn secret(secret: &Secret, keys: &Keys<'_>, files: &mut Files) -> Result<(), ContentError> {
    let data = secret
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.0.clone()));
    keys.select(data.collect(), files)
}

/// Adds files of the downward API.
pub fn downward(
    pod: &Pod,
    node: &NodeFacts,
    items: &[DownwardAPIVolumeFile],
    default_mode: u32,
    files: &mut Files,
) -> Result<(), ContentError> {
    for item in items {
        let value = if let Some(field) = &item.field_ref {
            downward::field(pod, &[], node, &field.field_path)?
        } else if let Some(resource) = &item.resource_field_ref {
            downward::resource(pod, None, node, resource)?
        } else {
            continue;
        };
        let mode = item.mode.map_or(default_mode, mode_bits);
        files.insert(
            item.path.clone(),
            File {
                data: value.into_bytes(),
                mode,
                owner: None,
            },
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_become_files() {
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"a": "1"}, "binaryData": {"b": "AAE="}}))
                .unwrap();
        let item = |key: &str| KeyToPath {
            key: key.into(),
            mode: Some(0o400),
            path: "p/q".into(),
        };
        let run = |items: Option<&[KeyToPath]>, optional| {
            let mut files = Files::new();
            config_map(
                &map,
                &Keys {
                    items,
                    mode: 0o644,
                    optional,
                },
                &mut files,
            )
            .map(|()| files)
        };
        let all = run(None, false).unwrap();
        assert_eq!(all["a"].data, b"1");
        assert_eq!(all["b"].data, [0, 1]);
        let one = run(Some(&[item("a")]), false).unwrap();
        assert_eq!((one.len(), one["p/q"].mode), (1, 0o400));
        assert!(run(Some(&[item("zz")]), false).is_err());
        assert!(run(Some(&[item("zz")]), true).unwrap().is_empty());
    }
}
