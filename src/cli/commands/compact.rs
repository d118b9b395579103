use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use crate::cli::args::IndexFolderArgs;
use crate::cli::terminal::{count, print_line};
use crate::collection::Collection;

#[derive(Debug, Args)]
pub(crate) struct CompactArgs {
    #[command(flatten)]
    folder: IndexFolderArgs,
}

pub(crate) fn run(args: &CompactArgs) -> anyhow::Result<ExitCode> {
    let collection = Collection::open_for_writing(&args.folder.index)?;
    let mut writer = collection.writer()?;
    writer.compact()?;
    writer.close()?;
    let rows = count(collection.searcher()?.rows(), "row");
    print_line!(std::io::stdout(), "{}: {rows} in one segment", collection.folder().display())?;
    Ok(ExitCode::SUCCESS)
}
