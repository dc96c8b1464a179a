//! What the user sees: data on standard output, all else on standard error,
//! colour only on a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// Writes for people, to standard error.
#[derive(Clone, Debug)]
pub struct Output {
    colour: bool,
    terminal: bool,
}

impl Output {
    /// Looks at the terminal and at NO_COLOR.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { colour, terminal }
    }

    /// Something that is good to know.
    pub fn info(&self, text: &str) {
        self.line("info", "36", text);
    }

    /// Something that is done.
    pub fn done(&self, text: &str) {
        self.line("done", "32", text);
    }

    /// Something that went wrong.
    pub fn error(&self, text: &str) {
        self.line("error", "31", text);
    }

    /// A next step.
    pub fn hint(&self, text: &str) {
        self.line("hint", "36", text);
    }

    /// A further line on what came before.
    pub fn detail(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "  {}", crate::product::say(text));
    }

    fn line(&self, label: &str, code: &str, text: &str) {
        let text = crate::product::say(text);
        // A closed standard error is no reason to fail.
        let _ = if self.colour {
            writeln!(std::io::stderr(), "\x1b[{code}m{label:<5}\x1b[0m {text}")
        } else {
            writeln!(std::io::stderr(), "{label:<5} {text}")
        };
    }

    /// Shows what is being waited for: a spinner on a terminal, a line
    /// elsewhere.
    pub fn progress(&self, text: &str) -> Progress {
        let bar = if self.terminal {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
                .expect("a constant template");
            bar.set_style(style);
            bar.set_message(text.to_owned());
            bar.enable_steady_tick(TICK);
            Some(bar)
        } else {
            self.info(text);
            None
        };
        Progress {
            bar,
            output: self.clone(),
            last: text.to_owned(),
        }
    }
}

impl Default for Output {
    fn default() -> Self {
        Self::new()
    }
}

/// Something that is being waited for; disappears when dropped.
pub struct Progress {
    bar: Option<ProgressBar>,
    output: Output,
    last: String,
}

impl Progress {
    /// Shows another text.
    pub fn set(&mut self, text: &str) {
        if self.last == text {
            return;
        }
        self.last = text.to_owned();
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => self.output.info(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Prints data to standard output. A reader that has gone away (`| head`) ends
/// the program quietly.
pub fn data(text: &str) {
    if std::io::stdout().write_all(text.as_bytes()).is_err() {
        std::process::exit(0);
    }
}

/// Prints rows under a header, in columns as kubectl does.
pub fn table(header: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = header.iter().map(|h| h.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(&format!("{cell:<width$}   "));
        }
        format!("{}\n", text.trim_end())
    };
    data(&line(&mut header.iter().copied()));
    for row in rows {
        data(&line(&mut row.iter().map(String::as_str)));
    }
}
