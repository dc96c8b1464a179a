//! `coracle schema`.

use clap::Args;
use coracle_config::refused::REFUSED;

use crate::output::{data, table};

/// Print the JSON schema of values files, for editors
///
/// Editors that know YAML take it from a first line in the file:
/// # yaml-language-server: $schema=vcluster.schema.json
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  coracle schema > vcluster.schema.json
  coracle schema --refused          # keys that are not supported, and why")]
pub struct Schema {
    /// Print the keys of vcluster's files that are not supported, and why
    #[arg(long)]
    refused: bool,
}

impl Schema {
    /// Runs the command.
    pub fn run(self) {
        if self.refused {
            let rows: Vec<Vec<String>> = REFUSED
                .iter()
                .map(|refused| vec![refused.path.to_owned(), refused.reason.to_owned()])
                .collect();
            return table(&["KEY", "REASON"], &rows);
        }
        let text = serde_json::to_string_pretty(&coracle_config::schema());
        data(&(text.expect("values always serialise") + "\n"));
    }
}
