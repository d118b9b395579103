use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory};

use crate::cli::CommandLine;

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Folder to write the man pages to
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(crate) fn run(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let folder = &args.folder;
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(CommandLine::command(), folder))
        .with_context(|| format!("writing man pages to {}", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}
