//! `cargo xtask tidy`: rules of the repository that no compiler checks. Each
//! has its reason beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::shell::{Result, root};

/// What each crate may depend on among our own (ARCHITECTURE.md says what it
/// must not know; this is the other side of it).
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("store", &[]),
    ("machinery", &[]),
    ("image", &[]),
    ("pki", &[]),
    ("config", &["machinery"]),
    ("apiserver", &["store", "machinery", "pki"]),
    ("controllers", &["machinery"]),
    ("translate", &["config", "machinery"]),
    ("syncer", &["config", "machinery", "pki", "translate"]),
    ("dns", &["machinery"]),
    ("node", &["machinery", "pki"]),
    ("ingress", &["machinery", "pki"]),
    (
        "server",
        &[
            "store",
            "machinery",
            "image",
            "pki",
            "apiserver",
            "controllers",
            "config",
            "syncer",
            "dns",
            "node",
            "ingress",
        ],
    ),
    ("cli", &["config", "image", "machinery", "pki", "server"]),
    ("coracle", &["cli"]),
];

/// Files longer than this have more than one subject. Longer ones are listed
/// in `LONG_FILES` and may only shrink.
const MAX_LINES: usize = 700;

/// Files over `MAX_LINES`, with the most lines that each may have.
const LONG_FILES: &[(&str, usize)] = &[("crates/config/src/load.rs", 714)];

/// Texts that may not appear in sources, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    (
        "todo!(",
        "a part that is missing answers as Kubernetes does for what is absent",
    ),
    (
        "unimplemented!(",
        "a part that is missing answers as Kubernetes does for what is absent",
    ),
    (
        "#[allow(",
        "an expectation with its reason ends when it no longer holds",
    ),
    ("#[ignore", "a test that does not run cannot fail"),
    (
        "println!(",
        "only the command line crate and the tasks print",
    ),
    ("dbg!(", "left from debugging"),
];

/// Where a forbidden text is the rule.
const ALLOWED: &[(&str, &str)] = &[
    ("xtask/", "println!("),
    ("tests/e2e/", "println!("),
    ("tests/bench/", "println!("),
    ("tests/operator/", "println!("),
    ("crates/store/examples/", "println!("),
    ("crates/coracle/build.rs", "println!("),
    ("xtask/src/tidy.rs", ""),
];

/// Checks everything and lists all that is wrong at once.
pub fn run_tidy() -> Result {
    let mut problems = Vec::new();
    check_dependencies(&mut problems)?;
    let mut files = Vec::new();
    for directory in ["crates", "xtask", "tests"] {
        rust_files(&root().join(directory), &mut files)?;
    }
    for file in files {
        check_file(&file, &mut problems)?;
    }
    check_named_tests(&mut problems)?;
    if problems.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the tree breaks its rules:\n  {}",
        problems.join("\n  ")
    ))
}

fn check_dependencies(problems: &mut Vec<String>) -> Result {
    let allowed: BTreeMap<&str, &[&str]> = DEPENDENCIES.iter().copied().collect();
    let crates = fs::read_dir(root().join("crates")).map_err(|e| e.to_string())?;
    for entry in crates {
        let entry = entry.map_err(|e| e.to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(allowed) = allowed.get(name.as_str()) else {
            problems.push(format!("crates/{name}: not in the table of tidy.rs"));
            continue;
        };
        let manifest = read(&entry.path().join("Cargo.toml"))?;
        // Tests may use any crate: what counts is what is shipped.
        let shipped = manifest
            .split("[dev-dependencies]")
            .next()
            .unwrap_or_default();
        for line in shipped.lines() {
            let Some(dependency) = line.strip_prefix("coracle-") else {
                continue;
            };
            let dependency = dependency.split(['.', ' ', '=']).next().unwrap_or_default();
            if !allowed.contains(&dependency) {
                problems.push(format!("crates/{name}: must not depend on {dependency}"));
            }
        }
    }
    Ok(())
}

fn check_file(file: &Path, problems: &mut Vec<String>) -> Result {
    let text = read(file)?;
    let name = file
        .strip_prefix(root())
        .unwrap_or(file)
        .display()
        .to_string();
    let lines = text.lines().count();
    let most = LONG_FILES
        .iter()
        .find(|(f, _)| *f == name)
        .map_or(MAX_LINES, |(_, most)| *most);
    if lines > most {
        problems.push(format!(
            "{name}: {lines} lines, at most {most}: split it by subject"
        ));
    }
    for (pattern, why) in FORBIDDEN {
        // What a test prints is shown only if it fails, or read by its parent.
        let in_test = name.contains("/tests/") && *pattern == "println!(";
        let allowed = in_test
            || ALLOWED.iter().any(|(place, what)| {
                name.starts_with(place) && (what.is_empty() || what == pattern)
            });
        if allowed {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if line.contains(pattern) && !line.trim_start().starts_with("//") {
                problems.push(format!("{name}:{}: {pattern} ({why})", number + 1));
            }
        }
    }
    Ok(())
}

/// The page that names a test for each of its claims, as `FILE.rs::FUNCTION`.
const ISOLATION: &str = "docs/isolation.md";

fn check_named_tests(problems: &mut Vec<String>) -> Result {
    let page = read(&root().join(ISOLATION))?;
    for named in page.split('`').skip(1).step_by(2) {
        let Some((file, function)) = named.split_once(".rs::") else {
            continue;
        };
        let source = fs::read_to_string(root().join(format!("{file}.rs"))).unwrap_or_default();
        if !source.contains(&format!("fn {function}(")) {
            problems.push(format!("{ISOLATION}: there is no test {named}"));
        }
    }
    Ok(())
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) -> Result {
    for entry in fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
