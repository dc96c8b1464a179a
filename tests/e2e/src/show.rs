//! A scenario as its reader would play it: each command with what it printed.
//! Set `CORACLE_E2E_SHOW=1` to see it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use crate::world::Run;

/// Set to have commands shown.
const VARIABLE: &str = "CORACLE_E2E_SHOW";

static ON: LazyLock<bool> = LazyLock::new(|| std::env::var_os(VARIABLE).is_some());

thread_local! {
    /// What commands printed since this thread began to wait for something;
    /// `None` while it does not wait.
    static SEEN: RefCell<Option<HashMap<String, String>>> = const { RefCell::new(None) };
}

/// A wait, from its making to its end: commands are repeated again and again,
/// and shown where they print something else.
pub struct Wait {
    outer: bool,
}

/// Begins a wait of this thread.
pub fn wait() -> Wait {
    SEEN.with_borrow_mut(|seen| {
        let outer = seen.is_none();
        seen.get_or_insert_default();
        Wait { outer }
    })
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.outer {
            SEEN.with_borrow_mut(|seen| *seen = None);
        }
    }
}

/// Shows a command and what it printed, with the name of whose it is.
pub fn command(caption: &str, words: &str, run: &Run) {
    if *ON
        && !is_known(
            &format!("{caption} {words}"),
            &format!("{}{}", run.out, run.err),
        )
    {
        // In one piece: others may be shown at the same time.
        print!("{}", transcript(caption, words, run));
    }
}

/// Shows what a command is about to read.
pub fn text(text: &str) {
    if *ON {
        println!("\n{}", text.trim());
    }
}

/// True if this thread waits, and the command printed the same before.
fn is_known(command: &str, output: &str) -> bool {
    SEEN.with_borrow_mut(|seen| match seen {
        Some(seen) => {
            let before = seen.insert(command.to_owned(), output.to_owned());
            before.as_deref() == Some(output)
        }
        None => false,
    })
}

fn transcript(caption: &str, words: &str, run: &Run) -> String {
    let prompt = if caption.is_empty() {
        "$".to_owned()
    } else {
        format!("[{caption}] $")
    };
    let mut text = format!("\n{prompt} {words}\n");
    for stream in [&run.out, &run.err] {
        text.push_str(stream);
        if !stream.is_empty() && !stream.ends_with('\n') {
            text.push('\n');
        }
    }
    if run.code != 0 {
        // Writing into a text cannot fail.
        let _ = writeln!(text, "(exit code {})", run.code);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(code: i32, out: &str, err: &str) -> Run {
        Run {
            code,
            out: out.to_owned(),
            err: err.to_owned(),
        }
    }

    #[test]
    fn a_command_is_shown_as_a_terminal_would() {
        assert_eq!(
            transcript("", "kubectl get pods", &run(0, "none", "")),
            "\n$ kubectl get pods\nnone\n"
        );
        assert_eq!(
            transcript("inner", "false", &run(1, "", "no\n")),
            "\n[inner] $ false\nno\n(exit code 1)\n"
        );
    }

    #[test]
    fn what_is_waited_for_is_shown_when_it_changes() {
        assert!(!is_known("get", "one"));
        assert!(!is_known("get", "one"));
        let waiting = wait();
        assert!(!is_known("get", "one"));
        let inner = wait();
        assert!(is_known("get", "one"));
        drop(inner);
        assert!(!is_known("get", "two"));
        assert!(is_known("get", "two"));
        drop(waiting);
        assert!(!is_known("get", "two"));
    }
}
