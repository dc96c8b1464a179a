//! The name that the program was called by: `coracle`, or `vcluster` for those
//! whose fingers and scripts know that one. Names that commands make start
//! with it, and texts show it.

use std::path::Path;
use std::sync::OnceLock;

use clap::builder::StyledStr;

/// The name that texts in the sources are written with.
const OWN: &str = "coracle";
/// Other names that the program answers to.
const OTHERS: &[&str] = &["vcluster"];

static NAME: OnceLock<&'static str> = OnceLock::new();

/// Sets the name by the first word of the command line.
pub fn called_as(word: Option<&std::ffi::OsStr>) {
    let _ = NAME.set(of(word));
}

fn of(word: Option<&std::ffi::OsStr>) -> &'static str {
    let called = word.and_then(|word| Path::new(word).file_stem());
    OTHERS
        .iter()
        .find(|other| called.is_some_and(|called| called == **other))
        .unwrap_or(&OWN)
}

/// The name.
pub fn name() -> &'static str {
    NAME.get().unwrap_or(&OWN)
}

/// All names that contexts may start with.
pub fn all() -> impl Iterator<Item = &'static str> {
    std::iter::once(OWN).chain(OTHERS.iter().copied())
}

/// A text for the user, with the commands in it under the name that the
/// program was called by.
pub fn say(text: &str) -> String {
    say_as(text, name())
}

fn say_as(text: &str, name: &str) -> String {
    if name == OWN {
        return text.to_owned();
    }
    let mut said = text.to_owned();
    // A command stands in backquotes or begins a line of examples; the default
    // namespace ends with NAME.
    for (before, after) in [("`", " "), ("  ", " "), ("(", " "), ("", "-NAME")] {
        said = said.replace(
            &format!("{before}{OWN}{after}"),
            &format!("{before}{name}{after}"),
        );
    }
    said
}

/// The command line under that name: usage, help and examples.
pub fn rename(command: clap::Command) -> clap::Command {
    let name = name();
    if name == OWN {
        return command;
    }
    rename_tree(command.name(name).bin_name(name), name)
}

fn rename_tree(command: clap::Command, name: &str) -> clap::Command {
    let examples = command.get_after_help().map(|text| said(text, name));
    let mut command = command
        .mut_args(
            |argument| match argument.get_help().map(|text| said(text, name)) {
                Some(help) => argument.help(help),
                None => argument,
            },
        )
        .mut_subcommands(|inner| rename_tree(inner, name));
    if let Some(about) = command.get_long_about().map(|text| said(text, name)) {
        command = command.long_about(about);
    }
    if let Some(examples) = examples {
        command = command.after_help(examples);
    }
    command
}

fn said(text: &StyledStr, name: &str) -> String {
    say_as(&text.to_string(), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_that_of_the_file() {
        let called = |word: &str| of(Some(word.as_ref()));
        assert_eq!(called("vcluster"), "vcluster");
        assert_eq!(called("/usr/local/bin/vcluster"), "vcluster");
        assert_eq!(called("./coracle"), "coracle");
        assert_eq!(called("anything"), "coracle");
        assert_eq!(of(None), "coracle");
    }

    #[test]
    fn commands_change_and_marks_do_not() {
        for (text, said) in [
            (
                "`coracle connect a` uses it",
                "`vcluster connect a` uses it",
            ),
            ("Examples:\n  coracle list", "Examples:\n  vcluster list"),
            (
                "  source <(coracle completion bash)",
                "  source <(vcluster completion bash)",
            ),
            ("[default: coracle-NAME]", "[default: vcluster-NAME]"),
            ("coracle.dev/created-by", "coracle.dev/created-by"),
            ("context coracle-host", "context coracle-host"),
        ] {
            assert_eq!(say_as(text, "vcluster"), said);
            assert_eq!(say_as(text, "coracle"), text);
        }
    }

    #[test]
    fn the_whole_command_line_shows_the_name() {
        let command = <crate::Cli as clap::CommandFactory>::command();
        let mut command = rename_tree(command.name("vcluster").bin_name("vcluster"), "vcluster");
        command.build();
        let mut texts = vec![command.render_long_help().to_string()];
        for inner in command.get_subcommands_mut() {
            texts.push(inner.render_long_help().to_string());
        }
        for text in texts {
            assert!(!text.contains("coracle "), "{text}");
        }
    }
}
