//! A program that runs on while a scenario goes on.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use crate::world::{PATIENCE, Result};

/// A running program and the lines that it has written, on either stream. It
/// is stopped when dropped.
pub struct Stream {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Stream {
    /// Starts a command of [`World::command`](crate::world::World::command).
    pub fn start(mut command: Command) -> Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        let (sender, lines) = channel();
        if let Some(out) = child.stdout.take() {
            read_lines(out, sender.clone());
        }
        if let Some(err) = child.stderr.take() {
            read_lines(err, sender);
        }
        let input = child.stdin.take();
        Ok(Self {
            child,
            input,
            lines,
            seen: Vec::new(),
        })
    }

    /// Writes to its standard input.
    pub fn write(&mut self, text: &str) -> Result {
        let input = self.input.as_mut().ok_or("its input is closed")?;
        input
            .write_all(text.as_bytes())
            .and_then(|()| input.flush())
            .map_err(|e| e.to_string())
    }

    /// Waits for a line that holds a part, and returns it.
    pub fn wait_for(&mut self, part: &str) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(part) {
                        return Ok(line);
                    }
                }
                Err(error) => {
                    return Err(format!("no line with {part:?} ({error}): {:?}", self.seen));
                }
            }
        }
    }

    /// Closes its input and waits until it ends by itself. Returns its exit
    /// code and all lines that were not waited for.
    pub fn finish(mut self) -> Result<(i32, String)> {
        self.input = None;
        let until = Instant::now() + PATIENCE;
        let mut rest = String::new();
        // Both streams are closed once it has ended.
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    rest.push_str(&line);
                    rest.push('\n');
                }
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => return Err(format!("it does not end ({error}): {rest}")),
            }
        }
        let status = self.child.wait().map_err(|e| e.to_string())?;
        Ok((status.code().unwrap_or(128), rest))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(from: impl Read + Send + 'static, to: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from)
            .lines()
            .map_while(std::result::Result::ok)
        {
            if to.send(line).is_err() {
                return;
            }
        }
    });
}
