use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::IndexFolder;
use crate::serve::{self, Options};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Folders whose videos may be indexed from the page
    #[arg(value_name = "FOLDER")]
    library: Vec<PathBuf>,
    #[command(flatten)]
    folder: IndexFolder,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8787")]
    listen: SocketAddr,
    /// Folded checkpoint that the index was made with [default: the one that lies with it]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Weights of the index's encoder [default: where they were when it was made]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    serve::run(Options {
        index: arguments.folder.index,
        library: arguments.library,
        listen: arguments.listen,
        checkpoint: arguments.checkpoint,
        weights: arguments.weights,
    })?;
    Ok(ExitCode::SUCCESS)
}
