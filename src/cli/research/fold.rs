use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::check_absent;
use crate::base::files;
use crate::cli::terminal::{count, print_line};
use crate::gmf::GmfWeights;

#[derive(Debug, Args)]
pub(in crate::cli) struct FoldArgs {
    /// Checkpoint with all layers, as `train` writes it
    #[arg(value_name = "CKPT")]
    checkpoint: PathBuf,
    /// Folded checkpoint to write
    #[arg(long, value_name = "CKPT")]
    out: PathBuf,
    /// Store values as f16: half the size
    #[arg(long)]
    half: bool,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &FoldArgs) -> anyhow::Result<ExitCode> {
    let out = &args.out;
    check_absent(out, args.force)?;
    let (weights, record) = GmfWeights::open(&args.checkpoint)?;
    let folded = weights.fold(&record)?;
    let bytes = if args.half { folded.halved()? } else { folded }.to_bytes();
    files::replace(out, |part| std::fs::write(part, &bytes)).with_context(|| format!("writing {}", out.display()))?;
    print_line!(std::io::stdout(), "{}: {}, for {}", out.display(), count(bytes.len(), "byte"), record.encoder)?;
    Ok(ExitCode::SUCCESS)
}
