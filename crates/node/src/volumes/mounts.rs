//! Mounts below a pod's directory: tmpfs, sub-paths without escapes, and
//! taking everything down again.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};

/// Deepest sub-path followed.
const MAX_DEPTH: usize = 64;

/// Mounts a tmpfs on `path` unless one is there already.
pub fn tmpfs(path: &Path, size_bytes: Option<i64>, mode: u32) -> io::Result<()> {
    if is_mount_point(path)? {
        return Ok(());
    }
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size_bytes.filter(|s| *s > 0) {
        options.push_str(&format!(",size={size}"));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        flags,
        Some(options.as_str()),
    )?;
    Ok(())
}

/// Bind-mounts `sub_path` of the volume on `target`, following symbolic links
/// only as long as they stay inside the volume. A missing directory is made.
pub fn bind_sub_path(volume: &Path, sub_path: &str, target: &Path) -> io::Result<()> {
    if is_mount_point(target)? {
        return Ok(());
    }
    let source = open_beneath(volume, sub_path)?;
    let source_path = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
    let is_dir = fs::metadata(&source_path)?.is_dir();
    if is_dir {
        fs::create_dir_all(target)?;
    } else {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(target)?;
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(
        Some(&source_path),
        target,
        None::<&str>,
        flags,
        None::<&str>,
    )?;
    Ok(())
}

fn open_beneath(volume: &Path, sub_path: &str) -> io::Result<OwnedFd> {
    let root = nix::fcntl::open(volume, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let parts: Vec<&str> = sub_path
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    if parts.len() > MAX_DEPTH || parts.contains(&"..") || sub_path.starts_with('/') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("subPath {sub_path:?} must be a plain path inside the volume"),
        ));
    }
    let how = || {
        OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS)
    };
    if parts.is_empty() {
        return Ok(root);
    }
    for depth in 1..=parts.len() {
        let path = parts[..depth].join("/");
        match openat2(&root, path.as_str(), how()) {
            Ok(fd) if depth == parts.len() => return Ok(fd),
            Ok(_) => {}
            Err(nix::errno::Errno::ENOENT) => {
                let parent = match depth {
                    1 => openat2(&root, ".", how())?,
                    _ => openat2(&root, parts[..depth - 1].join("/").as_str(), how())?,
                };
                mkdirat(&parent, parts[depth - 1], Mode::from_bits_truncate(0o750))?;
                if depth == parts.len() {
                    return Ok(openat2(&root, path.as_str(), how())?);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Whether something is mounted on `path`.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    Ok(mount_points()?.iter().any(|m| m == path))
}

/// All mount points of this mount namespace.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .collect())
}

/// Octal escapes of mountinfo: space, tab, newline, backslash.
fn unescape(field: &str) -> String {
    field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// Unmounts all that is mounted below `directory` and removes it.
///
/// Refuses to remove anything while a mount is left: what is mounted belongs
/// to somebody else.
pub fn remove_tree(directory: &Path) -> io::Result<()> {
    unmount_below(directory)?;
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Unmounts all that is mounted on `directory` and below it.
pub fn unmount_below(directory: &Path) -> io::Result<()> {
    /// A mount point may carry several mounts, one on the other.
    const MAX_ROUNDS: usize = 16;
    for _ in 0..MAX_ROUNDS {
        let mut below: Vec<PathBuf> = mount_points()?
            .into_iter()
            .filter(|m| m.starts_with(directory))
            .collect();
        if below.is_empty() {
            return Ok(());
        }
        below.sort_by_key(|m| std::cmp::Reverse(m.components().count()));
        for mount_point in below {
            if umount2(&mount_point, MntFlags::UMOUNT_NOFOLLOW).is_err() {
                umount2(
                    &mount_point,
                    MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH,
                )?;
            }
        }
    }
    Err(io::Error::other(format!(
        "{} still has mounts",
        directory.display()
    )))
}

/// Gives a tree to a group: readable (and writable) for it, and new files
/// inherit it. Symbolic links are not followed.
pub fn give_to_group(path: &Path, group: u32) -> io::Result<()> {
    use std::os::unix::fs::{PermissionsExt as _, lchown};
    let meta = fs::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mode = meta.permissions().mode();
    let wanted = if meta.is_dir() {
        mode | 0o2770
    } else {
        mode | 0o660
    };
    fs::set_permissions(path, fs::Permissions::from_mode(wanted))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            give_to_group(&entry?.path(), group)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir_all(volume.join("real")).unwrap();
        std::os::unix::fs::symlink("real", volume.join("inside")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("absolute")).unwrap();
        std::os::unix::fs::symlink("..", volume.join("up")).unwrap();
        for (sub_path, ok) in [
            ("real", true),
            ("inside", true),
            ("new/deep", true),
            ("", true),
            ("absolute", false),
            ("absolute/passwd", false),
            ("up", false),
            ("up/x", false),
            ("../v/real", false),
            ("/etc", false),
        ] {
            assert_eq!(open_beneath(&volume, sub_path).is_ok(), ok, "{sub_path}");
        }
        assert!(volume.join("new/deep").is_dir());
        assert!(!dir.path().join("x").exists());
    }

    #[test]
    fn mountinfo_escapes() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
