use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use crate::base::files;
use crate::gmf::Weights;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Checkpoint with all layers, as `train` writes it
    #[arg(value_name = "CKPT")]
    checkpoint: PathBuf,
    /// Folded checkpoint to write
    #[arg(long, value_name = "CKPT")]
    out: PathBuf,
    /// Store numbers as f16: half the size
    #[arg(long)]
    half: bool,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let out = &arguments.out;
    if out.exists() && !arguments.force {
        bail!("{} exists; --force replaces it", out.display());
    }
    let (weights, record) = Weights::open(&arguments.checkpoint)?;
    let folded = weights.fold(&record)?;
    let bytes = if arguments.half { folded.halved()? } else { folded }.to_bytes();
    files::replace(out, |part| std::fs::write(part, &bytes)).with_context(|| format!("writing {}", out.display()))?;
    writeln!(std::io::stdout(), "{}: {} bytes, for {}", out.display(), bytes.len(), record.encoder)?;
    Ok(ExitCode::SUCCESS)
}
