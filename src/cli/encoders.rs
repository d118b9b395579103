use std::io::Write;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};

use super::index::{bar, line};
use super::{INTERRUPTED, api, talk};
use crate::encode::hub::{self, DownloadRecord};
use crate::encode::registry::{self, ENTRIES, EncoderEntry, LAYOUT};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print one JSON object an encoder
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell what each is for, where its weights are or how large, whose they are (this is the default)
    List,
    /// Fetch weights from the Hugging Face hub, or go on with it; what is here already is only checked
    Pull {
        /// Which encoders
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        None | Some(Command::List) => list(arguments.json),
        Some(Command::Pull { names }) => pull(names, arguments.json),
    }
}

/// What the program says of the embedded encoder, which has no entry.
fn embedded() -> api::Encoder<'static> {
    api::Encoder {
        name: LAYOUT,
        about: "where light, colour and edges lie: the same scene",
        licence: "MIT OR Apache-2.0",
        source: "this program",
        repository: None,
        here: true,
        path: None,
        bytes: None,
        hash: None,
        verified: true,
    }
}

fn told(entry: &EncoderEntry) -> api::Encoder<'static> {
    let path = entry.path();
    let on_disk = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
    api::Encoder {
        name: entry.name,
        about: entry.about,
        licence: entry.licence,
        source: entry.source,
        repository: entry.hub.map(|hub| hub.repository),
        here: on_disk.is_some(),
        bytes: on_disk.or(entry.hub.map(|hub| hub.bytes)),
        hash: on_disk.and_then(|_| DownloadRecord::beside(&path)).map(|record| record.hash),
        path: Some(path.to_string_lossy().into_owned()),
        verified: entry.verified,
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn list(json: bool) -> anyhow::Result<ExitCode> {
    let mut encoders = std::iter::once(embedded()).chain(ENTRIES.iter().map(told));
    if json {
        encoders.try_for_each(|encoder| line(&encoder))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = std::io::stdout().lock();
    for encoder in encoders {
        let size = encoder.bytes.map(megabytes).unwrap_or_default();
        let weights = match (&encoder.path, encoder.repository) {
            (None, _) => "part of the program".to_owned(),
            (Some(path), _) if encoder.here => format!("{path}, {size}"),
            (_, Some(_)) => format!("not here; {size} with `reelseek encoders pull {}`", encoder.name),
            (_, None) => "not here; name a file with --weights".to_owned(),
        };
        let repository = encoder.repository.map(|name| format!("; {name}")).unwrap_or_default();
        let verified =
            if encoder.verified { "its answers, with the real weights" } else { "its arithmetic, with seeded weights" };
        writeln!(out, "{}", encoder.name)?;
        writeln!(out, "    for       {}", encoder.about)?;
        writeln!(out, "    weights   {weights}")?;
        writeln!(out, "    licence   {}", encoder.licence)?;
        writeln!(out, "    source    {}{repository}", encoder.source)?;
        writeln!(out, "    verified  {verified}")?;
    }
    writeln!(out, "onnx:FILE")?;
    writeln!(out, "    for       an image encoder of your own, with a JSON file beside it")?;
    Ok(ExitCode::SUCCESS)
}

fn entry(name: &str) -> anyhow::Result<&'static EncoderEntry> {
    if name == LAYOUT {
        bail!("the encoder {LAYOUT} is part of the program: there is nothing to fetch");
    }
    if let Some(file) = registry::onnx_path(name) {
        bail!("{name} is a file of your own ({}): there is nothing to fetch", file.display());
    }
    Ok(registry::entry(name)?)
}

fn pull(names: &[String], json: bool) -> anyhow::Result<ExitCode> {
    // All names are known before anything is fetched.
    let entries = names.iter().map(|name| entry(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let cancel = talk::cancel_on_interrupt()?;
    for entry in entries {
        let bar = bar();
        let outcome = hub::fetch(entry, &cancel, |done, bytes| {
            bar.set_length(bytes);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let fetched = match outcome {
            Err(stopped @ hub::Error::Cancelled { .. }) => {
                eprintln!("{}: {stopped}", entry.name);
                return Ok(ExitCode::from(INTERRUPTED));
            }
            outcome => outcome?,
        };
        let path = fetched.path.to_string_lossy().into_owned();
        if json {
            line(&api::Pulled {
                name: entry.name,
                path,
                bytes: fetched.record.bytes,
                hash: &fetched.record.hash,
                commit: &fetched.record.commit,
                transferred: fetched.transferred,
            })?;
        } else {
            let how = if fetched.transferred == 0 { "was here already" } else { "fetched" };
            let size = megabytes(fetched.record.bytes);
            writeln!(std::io::stdout(), "{}: {path}, {size}, {how}; its hash is as announced", entry.name)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
