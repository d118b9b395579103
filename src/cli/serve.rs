use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::IndexFolder;
use crate::serve::{self, LogFormat, ServeOptions, ShutdownSignal, Token};

/// Where the token may come from.
const TOKEN: &str = "REELSEEK_TOKEN";

#[derive(Debug, Args)]
#[command(
    after_help = "The log goes to standard error, a line for each request; one line on standard output says where the server listens. SIGINT or SIGTERM ends it when the requests that run are answered.

Environment: REELSEEK_TOKEN what requests must show (`Authorization: Bearer TOKEN`, or x-trace-key: TOKEN as trace.moe's clients do); REELSEEK_INDEX folder of the index; REELSEEK_FFMPEG the ffmpeg program."
)]
pub(super) struct Arguments {
    /// Folders whose videos may be indexed from the page
    #[arg(value_name = "FOLDER")]
    library: Vec<PathBuf>,
    #[command(flatten)]
    folder: IndexFolder,
    /// Where to listen; port 0 takes a free one, and a name the first of its addresses. Other addresses than this machine's own need a token
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8787", value_parser = listen)]
    listen: Listen,
    /// File with the token that requests must show [default: REELSEEK_TOKEN, or none]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Let everybody in without a token, whatever the address, even if REELSEEK_TOKEN is set
    #[arg(long, conflicts_with = "token_file")]
    no_auth: bool,
    /// Another name that the server goes by, such as that of a proxy before it (can be repeated)
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Origin whose web pages may ask, such as https://example.org (can be repeated)
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// Fetch pictures that are given by their address, from public addresses only
    #[arg(long)]
    fetch: bool,
    /// Tell in answers where the files lie
    #[arg(long)]
    show_paths: bool,
    /// Searches at once [default: one a processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Requests that may wait for their turn; more are told to come again
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: usize,
    /// Megabytes of thumbnails and previews that are kept on disk, in the folder that REELSEEK_CACHE names
    #[arg(long, value_name = "MB", default_value_t = 1000)]
    cache_mb: u64,
    /// How the log is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Log::Text)]
    log: Log,
    /// Folded checkpoint that the index was made with [default: the one that lies with it]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Weights of the index's encoder [default: where they were when it was made]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Log {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

impl Arguments {
    /// The token of the file, or of the environment. Not an argument: the list of processes would tell it to everybody.
    fn token(&self) -> anyhow::Result<Option<Token>> {
        match (&self.token_file, std::env::var(TOKEN)) {
            (Some(path), _) => Ok(Some(Token::read(path)?)),
            (None, _) if self.no_auth => Ok(None),
            (None, Ok(text)) if !text.is_empty() => Ok(Some(Token::new(&text)?)),
            (None, Err(std::env::VarError::NotUnicode(_))) => {
                anyhow::bail!("{TOKEN} is not of characters that a header can carry")
            }
            (None, _) => Ok(None),
        }
    }
}

/// Where to listen.
#[derive(Debug, Clone)]
struct Listen {
    address: SocketAddr,
    /// The name that it was given by, if it was not an address.
    name: Option<String>,
}

/// An address, or the first one of a name: IPv4 if it has one, as browsers take it.
fn listen(text: &str) -> Result<Listen, String> {
    let expected = "expected ADDRESS:PORT, such as 127.0.0.1:8787, localhost:8787 or [::1]:8787";
    let mut found: Vec<SocketAddr> = text.to_socket_addrs().map_err(|error| format!("{error}; {expected}"))?.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    let address = *found.first().ok_or_else(|| format!("the name has no address; {expected}"))?;
    let name = text.rsplit_once(':').map(|(name, _)| name.trim_start_matches('[').trim_end_matches(']'));
    let name = name.filter(|name| name.parse::<std::net::IpAddr>().is_err());
    Ok(Listen { address, name: name.map(str::to_owned) })
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    serve::start_logging(match arguments.log {
        Log::Text => LogFormat::Text,
        Log::Json => LogFormat::Json,
    });
    if arguments.no_auth && std::env::var_os(TOKEN).is_some_and(|token| !token.is_empty()) {
        tracing::warn!("{TOKEN} is ignored: --no-auth admits every request without a token");
    }
    let mut options = ServeOptions::new(&arguments.folder.index)
        .token(arguments.token()?)
        .library(arguments.library)
        .listen(arguments.listen.address)
        .checkpoint(arguments.checkpoint)
        .weights(arguments.weights)
        .no_auth(arguments.no_auth)
        // Clients use the name that the server was given to listen on.
        .hosts(arguments.allow_host.into_iter().chain(arguments.listen.name).collect())
        .origins(arguments.cors)
        .fetch(arguments.fetch)
        .show_paths(arguments.show_paths)
        .queue(arguments.queue)
        .cache_bytes(arguments.cache_mb.saturating_mul(1_000_000));
    if let Some(workers) = arguments.workers {
        options.workers = workers.into();
    }
    serve::run(options, &ShutdownSignal::on_signals()?, |address| {
        // Another program may read the address, and may have ended already.
        let mut out = std::io::stdout();
        let _ = writeln!(out, "listening on http://{address}").and_then(|()| out.flush());
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_to_listen_by_is_one_that_it_goes_by() {
        let given = |text: &str| listen(text).map(|found| (found.address.to_string(), found.name));
        assert_eq!(given("127.0.0.1:80"), Ok(("127.0.0.1:80".into(), None)));
        assert_eq!(given("[::1]:80"), Ok(("[::1]:80".into(), None)));
        assert_eq!(given("::1:80"), Ok(("[::1]:80".into(), None)));
        let (address, name) = given("localhost:80").unwrap();
        assert!(address.parse::<SocketAddr>().unwrap().ip().is_loopback());
        assert_eq!(name.as_deref(), Some("localhost"));
        assert!(given("localhost").is_err() && given(":80").is_err());
    }
}
