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
    let kind = collection.kind_for_writing()?;
    for space in std::iter::once(&collection).chain(&kind) {
        let mut writer = space.writer()?;
        writer.compact()?;
        writer.close()?;
        let rows = count(space.searcher()?.rows(), "row");
        print_line!(std::io::stdout(), "{}: {rows} in one segment", space.folder().display())?;
    }
    Ok(ExitCode::SUCCESS)
}
