//! Files that change all at once: readers see the old set or the new one.
//!
//! The files live in a directory with a unique name; `..data` is a symbolic
//! link to it that is replaced by one rename; what users see are links
//! through `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Component, Path, PathBuf};

/// Most files in one volume, and most bytes in all of them. Objects are at
/// most some MiB and a projected volume unites a few.
const MAX_FILES: usize = 10_000;
const MAX_BYTES: usize = 64 << 20;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its contents.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, if not root.
    pub owner: Option<u32>,
}

/// Files by relative path.
pub type Files = BTreeMap<String, File>;

/// Makes `files` the contents of `target`, for the group `group` to read.
/// Returns whether anything changed.
pub fn write(target: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    check(files)?;
    let old = fs::read_link(target.join(DATA)).ok();
    if let Some(old) = &old
        && same(&target.join(old), files)
    {
        return Ok(false);
    }
    let name = format!(
        "..{}_{:08x}",
        jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S"),
        rand::random::<u32>()
    );
    let fresh = target.join(&name);
    let result = fill(&fresh, files, group).and_then(|()| {
        let link = target.join(DATA_NEW);
        remove_if_there(&link)?;
        symlink(&name, &link)?;
        fs::rename(&link, target.join(DATA))
    });
    if let Err(error) = result {
        // The half-made directory is invisible; failing to remove it only
        // costs space until the pod ends.
        let _ = fs::remove_dir_all(&fresh);
        return Err(error);
    }
    link_visible(target, files)?;
    if let Some(old) = old.filter(|old| is_ours(old)) {
        fs::remove_dir_all(target.join(old))?;
    }
    Ok(true)
}

fn check(files: &Files) -> io::Result<()> {
    let invalid = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    let bytes: usize = files.values().map(|f| f.data.len()).sum();
    if files.len() > MAX_FILES || bytes > MAX_BYTES {
        return invalid(format!(
            "more than {MAX_FILES} files or {MAX_BYTES} bytes in a volume"
        ));
    }
    for path in files.keys() {
        let plain = Path::new(path)
            .components()
            .all(|c| matches!(c, Component::Normal(_)));
        if path.is_empty() || path.len() > 4096 || !plain || path.starts_with("..") {
            return invalid(format!("invalid path {path:?} in a volume"));
        }
    }
    Ok(())
}

/// Whether the directory holds exactly these files.
fn same(directory: &Path, files: &Files) -> bool {
    let mut count = 0;
    let mut stack = vec![directory.to_owned()];
    while let Some(next) = stack.pop() {
        let Ok(entries) = fs::read_dir(next) else {
            return false;
        };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => stack.push(entry.path()),
                Ok(_) => count += 1,
                Err(_) => return false,
            }
        }
    }
    count == files.len()
        && files.iter().all(|(path, file)| {
            let path = directory.join(path);
            let mode = fs::symlink_metadata(&path).map(|m| m.permissions().mode() & 0o7777);
            mode.is_ok_and(|mode| mode & file.mode == file.mode)
                && fs::read(&path).is_ok_and(|data| data == file.data)
        })
}

fn fill(directory: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    fs::create_dir(directory)?;
    set(directory, 0o755, None, group)?;
    for (path, file) in files {
        let full = directory.join(path);
        let parents: Vec<PathBuf> = Path::new(path)
            .ancestors()
            .skip(1)
            .filter(|p| !p.as_os_str().is_empty())
            .map(|p| directory.join(p))
            .collect();
        for parent in parents.into_iter().rev() {
            if !parent.exists() {
                fs::create_dir(&parent)?;
                set(&parent, 0o755, None, group)?;
            }
        }
        fs::write(&full, &file.data)?;
        let mode = if group.is_some() {
            file.mode | 0o040
        } else {
            file.mode
        };
        set(&full, mode, file.owner, group)?;
    }
    Ok(())
}

fn set(path: &Path, mode: u32, owner: Option<u32>, group: Option<u32>) -> io::Result<()> {
    if owner.is_some() || group.is_some() {
        chown(path, owner, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Makes the links that users see and removes those of files now gone.
fn link_visible(target: &Path, files: &Files) -> io::Result<()> {
    let tops: BTreeSet<&str> = files.keys().filter_map(|p| p.split('/').next()).collect();
    for top in &tops {
        let link = target.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(top), link)?;
        }
    }
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !tops.contains(name) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Only a plain name that this module made may be removed.
fn is_ours(name: &Path) -> bool {
    name.to_str()
        .is_some_and(|n| n.starts_with("..20") && !n.contains('/'))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(path, text)| {
                let file = File {
                    data: text.as_bytes().to_vec(),
                    mode: 0o644,
                    owner: None,
                };
                ((*path).to_owned(), file)
            })
            .collect()
    }

    #[test]
    fn replaces_all_at_once_and_drops_what_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path();
        assert!(write(target, &files(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert_eq!(fs::read_to_string(target.join("d/b")).unwrap(), "2");
        assert!(!write(target, &files(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert!(write(target, &files(&[("a", "3")]), None).unwrap());
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "3");
        assert!(fs::symlink_metadata(target.join("d")).is_err());
        let left = fs::read_dir(target).unwrap().count();
        assert_eq!(left, 3, "the link, ..data and one directory");
    }

    #[test]
    fn refuses_paths_that_leave_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "", "..data", "./a"] {
            assert!(
                write(dir.path(), &files(&[(path, "1")]), None).is_err(),
                "{path}"
            );
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
