use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::cli::output::EncoderOutput;
use crate::cli::terminal::{self, print_line};
use crate::encode::registry::{self, ENTRIES, EncoderEntry, LAYOUT};

#[derive(Debug, Args)]
pub(crate) struct EncodersArgs {
    #[command(subcommand)]
    command: Option<EncodersCommand>,
    /// Print one JSON object for each encoder
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum EncodersCommand {
    /// Print what each encoder is for, and where its weights are (the default)
    List,
    /// Download weights from the Hugging Face hub. Resumes an interrupted download, and checks files that are
    /// already downloaded
    #[cfg(feature = "encoders")]
    Pull {
        /// Names of encoders
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

pub(crate) fn run(args: &EncodersArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        None | Some(EncodersCommand::List) => list(args.json),
        #[cfg(feature = "encoders")]
        Some(EncodersCommand::Pull { names }) => super::pull::run(names, args.json),
    }
}

/// The embedded encoders, which have no entry in the registry.
fn embedded() -> impl Iterator<Item = EncoderOutput<'static>> {
    let layout = embedded_encoder(
        LAYOUT,
        "layout of light, colour and edges: finds the same scene",
        "MIT OR Apache-2.0",
        "this program",
    );
    let kind = registry::default_kind().map(|name| {
        let about = "ImageNet classifier of 2019 for phones: finds the same kind of scene";
        embedded_encoder(name, about, "Apache-2.0", "Tan and Le, ICML 2019")
    });
    std::iter::once(layout).chain(kind)
}

fn embedded_encoder(
    name: &'static str,
    about: &'static str,
    licence: &'static str,
    source: &'static str,
) -> EncoderOutput<'static> {
    EncoderOutput {
        name,
        about,
        licence,
        source,
        repository: None,
        here: true,
        path: None,
        bytes: None,
        hash: None,
        verified: true,
    }
}

fn output(entry: &EncoderEntry) -> EncoderOutput<'static> {
    let path = entry.path();
    let on_disk = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
    EncoderOutput {
        name: entry.name,
        about: entry.about,
        licence: entry.licence,
        source: entry.source,
        repository: entry.hub.map(|hub| hub.repository),
        here: on_disk.is_some(),
        bytes: on_disk.or(entry.hub.map(|hub| hub.bytes)),
        hash: on_disk.and_then(|_| recorded_hash(&path)),
        path: Some(path.to_string_lossy().into_owned()),
        verified: entry.verified,
    }
}

pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn list(json: bool) -> anyhow::Result<ExitCode> {
    let mut encoders = embedded().chain(ENTRIES.iter().map(output));
    if json {
        encoders.try_for_each(|encoder| terminal::print_json(&encoder))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = std::io::stdout().lock();
    for encoder in encoders {
        let size = encoder.bytes.map(megabytes).unwrap_or_default();
        let weights = match (&encoder.path, encoder.repository) {
            (None, _) => "embedded in the program".to_owned(),
            (Some(path), _) if encoder.here => format!("{path}, {size}"),
            (_, Some(_)) => format!("not downloaded; `reelseek encoders pull {}` downloads {size}", encoder.name),
            (_, None) => "not available for download; name a file with --weights".to_owned(),
        };
        let repository = encoder.repository.map(|name| format!("; {name}")).unwrap_or_default();
        let verified = match encoder.verified {
            true => "the features, with the real weights",
            false => "the arithmetic only, with random weights",
        };
        print_line!(out, "{}", encoder.name)?;
        print_line!(out, "    for       {}", encoder.about)?;
        print_line!(out, "    weights   {weights}")?;
        print_line!(out, "    licence   {}", encoder.licence)?;
        print_line!(out, "    source    {}{repository}", encoder.source)?;
        print_line!(out, "    verified  {verified}")?;
    }
    print_line!(out, "onnx:FILE")?;
    print_line!(out, "    for       your own image encoder, with a JSON file beside it")?;
    Ok(ExitCode::SUCCESS)
}

/// The hash that a file had when it was downloaded; `None` without a record of the download.
#[cfg(feature = "encoders")]
fn recorded_hash(weights: &Path) -> Option<String> {
    crate::encode::hub::DownloadRecord::beside(weights).map(|record| record.hash)
}

#[cfg(not(feature = "encoders"))]
fn recorded_hash(_weights: &Path) -> Option<String> {
    None
}
