//! `encoders pull`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::bail;

use super::encoders::megabytes;
use crate::cli::INTERRUPTED;
use crate::cli::output::PullOutput;
use crate::cli::terminal::{self, ByteBar, note, print_line};
use crate::encode::hub;
use crate::encode::registry::{self, EncoderEntry, LAYOUT};

fn entry(name: &str) -> anyhow::Result<&'static EncoderEntry> {
    if name == LAYOUT {
        bail!("the encoder {LAYOUT} is embedded in the program: there is nothing to download");
    }
    if let Some(file) = registry::onnx_path(name) {
        bail!("{name} is your own file ({}): there is nothing to download", file.display());
    }
    Ok(registry::entry(name)?)
}

pub(super) fn run(names: &[String], json: bool) -> anyhow::Result<ExitCode> {
    // A wrong name is reported before anything is downloaded.
    let entries = names.iter().map(|name| entry(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let cancel = terminal::cancel_on_interrupt()?;
    for entry in entries {
        let bar = ByteBar::new();
        let outcome = hub::fetch(entry, &cancel, |done, total| bar.update(done, total));
        bar.finish();
        let fetched = match outcome {
            Err(stopped @ hub::Error::Cancelled { .. }) => {
                note!("{}: {}", entry.name, terminal::error_text(&stopped.into()));
                return Ok(ExitCode::from(INTERRUPTED));
            }
            outcome => outcome?,
        };
        let path = fetched.path.to_string_lossy().into_owned();
        if json {
            terminal::print_json(&PullOutput {
                name: entry.name,
                path,
                bytes: fetched.record.bytes,
                hash: &fetched.record.hash,
                commit: &fetched.record.commit,
                transferred: fetched.transferred,
            })?;
        } else {
            let how = if fetched.transferred == 0 { "already downloaded" } else { "downloaded" };
            let size = megabytes(fetched.record.bytes);
            print_line!(std::io::stdout(), "{}: {path}, {size}, {how}; the hash is correct", entry.name)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
