//! The pages that users read, played: each command of a page is run, and its
//! output must be what the page shows. With `CORACLE_E2E_WRITE_PAGES=1` the
//! pages are written anew instead, from what was seen.

use std::path::{Path, PathBuf};

use crate::page::{self, Block};
use crate::world::{Result, World};

/// Set to write pages instead of checking them.
const WRITE: &str = "CORACLE_E2E_WRITE_PAGES";

/// How lines of progress begin where there is no terminal.
const PROGRESS: &str = "info  Waiting";

/// Plays README.md and the pages below `docs/`.
pub fn tell_the_truth(world: &World) -> Result {
    if !world.own_host() {
        println!("the pages name the embedded host, so they are not played on another");
        return Ok(());
    }
    for file in pages()? {
        play(world, &file).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn pages() -> Result<Vec<PathBuf>> {
    let docs = root().join("docs");
    let mut pages: Vec<PathBuf> = std::fs::read_dir(&docs)
        .map_err(|e| format!("{}: {e}", docs.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    pages.sort();
    pages.insert(0, root().join("README.md"));
    Ok(pages)
}

fn play(world: &World, file: &Path) -> Result {
    let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
    let write = std::env::var_os(WRITE).is_some();
    let name = file.file_stem().unwrap_or_default();
    let directory = world.work_dir.join("pages").join(name);
    std::fs::create_dir_all(&directory).map_err(|e| e.to_string())?;
    let mut blocks = page::blocks(&text);
    for block in &mut blocks {
        match block {
            Block::Prose(_) => {}
            Block::File { name, body, .. } => {
                std::fs::write(directory.join(name.as_str()), body.as_str())
                    .map_err(|e| format!("{name}: {e}"))?;
            }
            Block::Console(steps) => {
                for step in steps {
                    let seen = run(world, &directory, &step.command)?;
                    if write {
                        step.output = seen;
                    } else {
                        page::compare(&step.output, &seen)
                            .map_err(|e| format!("$ {}\n{e}", step.command))?;
                    }
                }
            }
        }
    }
    if write {
        std::fs::write(file, page::text(&blocks)).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// What a user sees of a command: both streams. It must end well.
fn run(world: &World, directory: &Path, command: &str) -> Result<String> {
    let run = world.shell(&format!(
        "cd '{}' && {{ {command}\n}} 2>&1",
        directory.display()
    ));
    if run.code == 0 {
        // Progress: a terminal shows it in a line that goes away.
        let lines = run.out.split_inclusive('\n');
        return Ok(lines.filter(|l| !l.starts_with(PROGRESS)).collect());
    }
    Err(format!(
        "$ {command}\nended with {}:\n{}",
        run.code, run.out
    ))
}
