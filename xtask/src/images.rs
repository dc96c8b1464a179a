//! Images for the demo and the tests, made from Debian's packages: there is no
//! registry to rely on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use coracle_image::{Image, ImageSpec, Layer, Reference};

use crate::install;
use crate::shell::{Result, quiet, say, work_dir};

/// What nginx needs to run.
const NGINX_PACKAGES: &[&str] = &[
    "nginx",
    "nginx-common",
    "libpcre2-8-0",
    "libssl3",
    "zlib1g",
    "libcrypt1",
    "libc6",
];

/// What busybox needs: the dynamic one, for a static program of glibc cannot
/// look names up.
const BUSYBOX_PACKAGES: &[&str] = &["busybox", "libc6"];

/// Commands of busybox that the images offer.
const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "env", "false", "grep", "head", "hostname", "id", "ls", "mkdir", "mount",
    "mv", "nc", "nslookup", "ping", "printf", "ps", "rm", "sed", "seq", "sleep", "sort", "stat",
    "tail", "tar", "test", "touch", "tr", "true", "wc", "wget", "httpd", "date", "tee",
];

/// Serves files of `/www` and answers with the pod's name, for tests.
pub const BUSYBOX: &str = "docker.io/library/busybox:latest";
/// The operator of the tests.
pub const OPERATOR: &str = "docker.io/library/library-operator:latest";
/// The web server of the tutorial.
pub const NGINX: &str = "docker.io/library/nginx:latest";

/// The archive of the nginx image, built if it is not there yet.
pub fn nginx() -> Result<PathBuf> {
    let archive = work_dir().join("nginx.tar");
    if archive.exists() {
        return Ok(archive);
    }
    say("building the nginx image from Debian's packages");
    let root = fresh("nginx-root")?;
    install::unpack_packages(NGINX_PACKAGES, &root)?;
    add_busybox(&root)?;
    for directory in [
        "tmp",
        "run",
        "var/log/nginx",
        "var/lib/nginx",
        "dev",
        "proc",
        "sys",
    ] {
        fs::create_dir_all(root.join(directory)).map_err(|e| e.to_string())?;
    }
    for (link, target) in [("access.log", "/dev/stdout"), ("error.log", "/dev/stderr")] {
        let path = root.join("var/log/nginx").join(link);
        let _ = fs::remove_file(&path);
        symlink(target, path).map_err(|e| e.to_string())?;
    }
    // What nginx-common's installation script does.
    let site = root.join("etc/nginx/sites-enabled/default");
    fs::create_dir_all(root.join("etc/nginx/sites-enabled")).map_err(|e| e.to_string())?;
    let _ = fs::remove_file(&site);
    symlink("/etc/nginx/sites-available/default", site).map_err(|e| e.to_string())?;
    fs::create_dir_all(root.join("var/www/html")).map_err(|e| e.to_string())?;
    fs::copy(
        root.join("usr/share/nginx/html/index.html"),
        root.join("var/www/html/index.html"),
    )
    .map_err(|e| format!("nginx's page: {e}"))?;
    quiet(Command::new("/sbin/ldconfig").arg("-r").arg(&root))?;
    let spec = ImageSpec {
        entrypoint: vec![],
        cmd: ["/usr/sbin/nginx", "-g", "daemon off;"]
            .map(str::to_owned)
            .to_vec(),
        env: vec![default_path()],
        user: String::new(),
        stop_signal: "SIGQUIT".into(),
    };
    write(&spec, &root, NGINX, &archive)?;
    Ok(archive)
}

/// The archive of a busybox image, built if it is not there yet.
pub fn busybox() -> Result<PathBuf> {
    let archive = work_dir().join("busybox.tar");
    if archive.exists() {
        return Ok(archive);
    }
    let root = fresh("busybox-root")?;
    add_busybox(&root)?;
    quiet(Command::new("/sbin/ldconfig").arg("-r").arg(&root))?;
    for directory in ["tmp", "dev", "proc", "sys", "www"] {
        fs::create_dir_all(root.join(directory)).map_err(|e| e.to_string())?;
    }
    let spec = ImageSpec {
        cmd: vec!["sh".into()],
        env: vec![default_path()],
        ..ImageSpec::default()
    };
    write(&spec, &root, BUSYBOX, &archive)?;
    Ok(archive)
}

/// The archive of the image of the tests' own operator, which was built just
/// now.
pub fn operator(program: &Path) -> Result<PathBuf> {
    let archive = work_dir().join("operator.tar");
    let spec = ImageSpec {
        entrypoint: vec!["/operator".into()],
        user: "65532:65532".into(),
        ..ImageSpec::default()
    };
    let layer = Layer::Executable {
        source: program.to_owned(),
        target: "operator",
    };
    write_layer(&spec, &layer, OPERATOR, &archive)?;
    Ok(archive)
}

fn default_path() -> String {
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()
}

fn fresh(name: &str) -> Result<PathBuf> {
    let root = work_dir().join(name);
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).map_err(|e| e.to_string())?;
    Ok(root)
}

fn add_busybox(root: &Path) -> Result {
    let bin = root.join("bin");
    fs::create_dir_all(&bin).map_err(|e| e.to_string())?;
    fs::create_dir_all(root.join("etc")).map_err(|e| e.to_string())?;
    install::unpack_packages(BUSYBOX_PACKAGES, &root.to_path_buf())?;
    for applet in APPLETS {
        let _ = symlink("busybox", bin.join(applet));
    }
    let users = "root:x:0:0:root:/:/bin/sh\nwww-data:x:33:33:www-data:/:/bin/false\n\
                 nobody:x:65534:65534:nobody:/:/bin/false\n";
    let groups = "root:x:0:\nadm:x:4:\nwww-data:x:33:\nnogroup:x:65534:\n";
    fs::write(root.join("etc/passwd"), users).map_err(|e| e.to_string())?;
    fs::write(root.join("etc/group"), groups).map_err(|e| e.to_string())?;
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n").map_err(|e| e.to_string())
}

fn write(spec: &ImageSpec, root: &Path, name: &str, archive: &Path) -> Result {
    write_layer(spec, &Layer::Directory(root.to_owned()), name, archive)
}

fn write_layer(spec: &ImageSpec, layer: &Layer, name: &str, archive: &Path) -> Result {
    let image = Image::build(spec, layer).map_err(|e| e.to_string())?;
    let name = Reference::parse(name).map_err(|e| e.to_string())?;
    // Under another name until it is whole: what is there is taken as it is.
    let incoming = archive.with_extension("tar.tmp");
    let file = fs::File::create(&incoming).map_err(|e| e.to_string())?;
    image
        .write_tar(&name, std::io::BufWriter::new(file))
        .map_err(|e| e.to_string())?;
    fs::rename(&incoming, archive).map_err(|e| e.to_string())
}

/// Writes coracle's own image, `target/xtask/coracle.tar`.
pub fn own() -> Result {
    install::debian_packages()?;
    let program = crate::demo::build_release()?;
    let spec = ImageSpec {
        entrypoint: vec!["/coracle".into()],
        user: "65532:65532".into(),
        ..ImageSpec::default()
    };
    let layer = Layer::Executable {
        source: program,
        target: "coracle",
    };
    let image = Image::build(&spec, &layer).map_err(|e| e.to_string())?;
    let name = Reference::parse(&format!(
        "coracle.dev/coracle:{}",
        env!("CARGO_PKG_VERSION")
    ))
    .map_err(|e| e.to_string())?;
    let archive = work_dir().join("coracle.tar");
    fs::create_dir_all(work_dir()).map_err(|e| e.to_string())?;
    let file = fs::File::create(&archive).map_err(|e| e.to_string())?;
    image
        .write_tar(&name, std::io::BufWriter::new(file))
        .map_err(|e| e.to_string())?;
    say(&format!("wrote {} as {name}", archive.display()));
    Ok(())
}
