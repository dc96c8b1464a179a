//! A page for users, in parts: prose, files to write (```` ```yaml NAME ````)
//! and commands with their output (```` ```console ````, a command after `$ `).

/// A part of a page.
pub enum Block {
    /// Text that is only read, with its line ends.
    Prose(String),
    /// A file that the reader is to write.
    File {
        /// The line that opens the block.
        fence: String,
        /// The file's name.
        name: String,
        /// Its content.
        body: String,
    },
    /// Commands.
    Console(Vec<Step>),
}

/// A command and what it prints.
pub struct Step {
    /// For a shell.
    pub command: String,
    /// Lines; one of three dots stands for any number of others.
    pub output: String,
}

/// The parts of a page.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut prose = String::new();
    let mut lines = text.split_inclusive('\n');
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (console, name) = match words.as_slice() {
            ["```console"] => (true, ""),
            [fence, name] if fence.starts_with("```") => (false, *name),
            _ => {
                prose.push_str(line);
                continue;
            }
        };
        blocks.push(Block::Prose(std::mem::take(&mut prose)));
        let body: Vec<&str> = lines.by_ref().take_while(|l| l.trim() != "```").collect();
        blocks.push(if console {
            Block::Console(steps(&body))
        } else {
            Block::File {
                fence: line.to_owned(),
                name: name.to_owned(),
                body: body.concat(),
            }
        });
    }
    blocks.push(Block::Prose(prose));
    blocks
}

fn steps(lines: &[&str]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in lines {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step {
                command: command.trim_end().to_owned(),
                output: String::new(),
            }),
            (None, Some(step)) if step.output.is_empty() && step.command.ends_with('\\') => {
                step.command.push('\n');
                step.command.push_str(line.trim_end());
            }
            (None, Some(step)) => step.output.push_str(line),
            (None, None) => {}
        }
    }
    steps
}

/// The page of these parts.
pub fn text(blocks: &[Block]) -> String {
    let mut text = String::new();
    for block in blocks {
        match block {
            Block::Prose(prose) => text.push_str(prose),
            Block::File { fence, body, .. } => {
                text.push_str(&format!("{fence}{body}```\n"));
            }
            Block::Console(steps) => {
                text.push_str("```console\n");
                for step in steps {
                    let output = step.output.trim_end();
                    text.push_str(&format!("$ {}\n", step.command));
                    text.push_str(output);
                    text.push_str(if output.is_empty() { "" } else { "\n" });
                }
                text.push_str("```\n");
            }
        }
    }
    text
}

/// Fails unless the output seen is the one shown, but for what differs from
/// run to run: ages, addresses, generated names and the width of columns.
pub fn compare(shown: &str, seen: &str) -> Result<(), String> {
    let lines = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|l| !l.trim().is_empty());
        lines.map(lasting).collect()
    };
    if alike(&lines(shown), &lines(seen)) {
        return Ok(());
    }
    Err(format!("the page shows:\n{shown}seen was:\n{seen}"))
}

fn alike(shown: &[String], seen: &[String]) -> bool {
    match (shown, seen) {
        ([], seen) => seen.is_empty(),
        ([dots, rest @ ..], seen) if dots == "..." => {
            (0..=seen.len()).any(|skipped| alike(rest, &seen[skipped..]))
        }
        ([first, shown @ ..], [line, seen @ ..]) => first == line && alike(shown, seen),
        (_, []) => false,
    }
}

/// A line with its passing parts taken out.
fn lasting(line: &str) -> String {
    let words: Vec<String> = line.split_whitespace().map(word).collect();
    words.join(" ")
}

fn word(word: &str) -> String {
    let bare = word.trim_matches(|c: char| "(),;:.`'\"".contains(c));
    if is_age(bare) || is_address(bare) {
        return word.replace(bare, "~");
    }
    if let Some(ports) = node_ports(word) {
        return ports;
    }
    let mut segments: Vec<&str> = word.split('-').collect();
    if let Some(at) = segments.windows(UUID.len()).position(is_uuid) {
        segments.splice(at..at + UUID.len(), ["~"]);
    }
    let segments: Vec<&str> = segments.into_iter().map(segment).collect();
    segments.join("-")
}

/// The lengths of the parts of a UUID.
const UUID: [usize; 5] = [8, 4, 4, 4, 12];

fn is_uuid(parts: &[&str]) -> bool {
    let hexadecimal = |part: &&str| part.chars().all(|c| c.is_ascii_hexdigit());
    parts.iter().map(|part| part.len()).eq(UUID) && parts.iter().all(hexadecimal)
}

/// `80:30596/TCP,443:31865/TCP` without the ports of nodes, which are chosen
/// at random; `None` for other words.
fn node_ports(word: &str) -> Option<String> {
    let parts = word.split(',').map(|part| {
        let (port, rest) = part.split_once(':')?;
        let (node_port, protocol) = rest.split_once('/')?;
        port.parse::<u16>().ok()?;
        node_port.parse::<u16>().ok()?;
        Some(format!("{port}:~/{protocol}"))
    });
    let parts: Vec<String> = parts.collect::<Option<_>>()?;
    Some(parts.join(","))
}

/// `4s`, `3m12s`, `0.9`, `1.2s`.
fn is_age(word: &str) -> bool {
    let units = word.trim_start_matches(|c: char| c.is_ascii_digit() || "smhd.".contains(c));
    let digits = word.starts_with(|c: char| c.is_ascii_digit());
    let unit = word.ends_with(['s', 'm', 'h', 'd']);
    digits && units.is_empty() && (unit || word.contains('.'))
}

/// `10.96.0.1`, also with a port or a mask.
fn is_address(word: &str) -> bool {
    let host = word.split([':', '/']).next().unwrap_or_default();
    host.split('.').count() == 4 && host.split('.').all(|part| part.parse::<u8>().is_ok())
}

/// The letters and digits of generated names: upstream leaves out vowels and
/// what looks like another.
const GENERATED: &str = "bcdfghjklmnpqrstvwxz2456789";

/// A part of a name, or a mark in place of a generated one.
fn segment(segment: &str) -> &str {
    let generated = segment.chars().all(|c| GENERATED.contains(c));
    let length = segment.len();
    if generated && (length == 5 || (8..=10).contains(&length)) {
        "~"
    } else {
        segment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "Text.\n\n```yaml a.yaml\nkey: 1\n```\n\nMore.\n\n```console\n$ one \\\n  two\nout\n$ three\n```\nEnd.\n";

    #[test]
    fn a_page_is_read_and_written_as_it_is() {
        let blocks = blocks(PAGE);
        assert_eq!(text(&blocks), PAGE);
        let Block::Console(steps) = &blocks[3] else {
            panic!("no commands");
        };
        assert_eq!(steps[0].command, "one \\\n  two");
        assert_eq!(steps[0].output, "out\n");
        assert_eq!(steps[1].output, "");
        assert!(matches!(&blocks[1], Block::File { name, .. } if name == "a.yaml"));
    }

    #[test]
    fn what_passes_is_left_out_of_the_comparison_and_nothing_else() {
        for (shown, seen) in [
            ("NAME   AGE\nweb    4s\n", "NAME AGE\nweb  1m2s\n"),
            (
                "frontend-7f9649877f-mrckw 1/1",
                "frontend-5d8b6f7c9-x2z4q   1/1",
            ),
            ("first\n...\nlast\n", "first\nsecond\nthird\nlast\n"),
            ("ready after 0.9 s", "ready after 1.4 s"),
            ("at 10.96.0.12:80", "at 10.96.200.4:80"),
            (
                "pvc-b73a5933-8cf9-49bc-9f41-fe7d3d306a8b 5Gi",
                "pvc-00000000-8cf9-49bc-9f41-0123456789ab 5Gi",
            ),
            ("80:30596/TCP,443:31865/TCP", "80:31000/TCP,443:32000/TCP"),
            ("", "\n"),
        ] {
            assert_eq!(compare(shown, seen), Ok(()), "{shown}");
        }
        for (shown, seen) in [
            ("web 1/1", "web 0/1"),
            ("80:30596/TCP", "81:30596/TCP"),
            ("frontend", "backend"),
            ("first\nlast\n", "first\nsecond\nlast\n"),
            ("one\n", "one\ntwo\n"),
            ("v1.36.2", "v1.35.0"),
            ("testcluster-0 2/2", "testcluster-1 2/2"),
        ] {
            assert!(compare(shown, seen).is_err(), "{shown}");
        }
    }
}
