use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use crate::cli::FAILED;
use crate::cli::args::IndexFolderArgs;
use crate::cli::terminal::{note, print_line};
use crate::collection::Collection;

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    folder: IndexFolderArgs,
}

pub(crate) fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let folder = &args.folder.index;
    let report = Collection::verify(folder)?;
    for problem in &report.problems {
        note!("reelseek: {}: {}", problem.path.display(), problem.message);
    }
    if !report.problems.is_empty() {
        return Ok(ExitCode::from(FAILED));
    }
    print_line!(std::io::stdout(), "{}: no damage found", folder.display())?;
    Ok(ExitCode::SUCCESS)
}
