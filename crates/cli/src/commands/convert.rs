//! `coracle convert`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::Environment;
use crate::error::{CliError, Result};
use crate::output::data;
use crate::values;

/// Where a values file is standard input.
const STDIN: &str = "-";

/// Convert a values file of 0.15 to today's keys
///
/// Prints the keys that the file sets, in their places of today. What is not
/// carried out is left out; why is told on standard error.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  coracle convert -f values.yaml > vcluster.yaml
  coracle convert < values.yaml > vcluster.yaml")]
pub struct Convert {
    /// What is converted: there is only one thing
    #[arg(hide = true, value_parser = ["config"])]
    what: Option<String>,
    /// The values file; - for standard input
    #[arg(short = 'f', long = "file", default_value = STDIN, value_name = "FILE")]
    file: PathBuf,
    /// The form of output
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// YAML.
    #[default]
    Yaml,
    /// JSON.
    Json,
}

impl Convert {
    /// Runs the command.
    ///
    /// # Errors
    /// If the file cannot be read, or is wrong in the keys of both versions.
    pub fn run(self, environment: &Environment) -> Result {
        let text = read(&self.file).map_err(|error| {
            CliError::usage(format!(
                "cannot read the values file {}",
                self.file.display()
            ))
            .because(error)
            .hint("-f names a YAML file; `-f -` reads standard input")
        })?;
        let source = self.file.display().to_string();
        let converted =
            coracle_config::convert(&source, &text).map_err(|error| values::unusable(&error))?;
        for hint in &converted.hints {
            environment.output.hint(&hint.to_string());
        }
        let text = match self.output {
            Form::Yaml => serde_saphyr::to_string(&converted.values)
                .expect("a tree of texts, numbers and switches serialises"),
            Form::Json => {
                let text = serde_json::to_string_pretty(&converted.values);
                text.expect("values always serialise") + "\n"
            }
        };
        data(&text);
        Ok(())
    }
}

fn read(file: &Path) -> std::io::Result<String> {
    if file != Path::new(STDIN) {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    std::io::stdin()
        .take(coracle_config::load::MAX_BYTES as u64 + 1)
        .read_to_string(&mut text)?;
    Ok(text)
}
