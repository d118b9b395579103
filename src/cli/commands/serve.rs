use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::base::allocator::return_large_blocks;
use crate::cli::args::{IndexFolderArgs, StoredModelArgs};
use crate::cli::terminal::print_line;
use crate::serve::{self, LogFormat, ServeOptions, ShutdownSignal, Token};

/// Environment variable with the token.
const TOKEN: &str = "REELSEEK_TOKEN";

const AFTER_HELP: &str =
    "The log has one line for each request and is written to standard error. The address is written to standard output.
SIGINT, SIGTERM or SIGHUP stops the server after the running requests are answered. Media in progress are cancelled.

Environment:
  REELSEEK_TOKEN   token that requests must present, as `Authorization: Bearer TOKEN` or `x-trace-key: TOKEN`
  REELSEEK_INDEX   folder of the index
  REELSEEK_FFMPEG  the ffmpeg program
  REELSEEK_CACHE   folder of thumbnails and previews";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ServeArgs {
    /// Folders of videos that the page and the API may index
    #[arg(value_name = "FOLDER")]
    library: Vec<PathBuf>,
    #[command(flatten)]
    folder: IndexFolderArgs,
    /// Start even if there is no index and no FOLDER, and open the index when it appears
    #[arg(long)]
    await_index: bool,
    /// Address to listen on; port 0 takes a free port. Addresses that other machines can reach need a token
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8787", value_parser = listen)]
    listen: ListenAddress,
    /// File with the token that requests must present [default: REELSEEK_TOKEN, or no token]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Serve without a token on any address, even if REELSEEK_TOKEN is set
    #[arg(long, conflicts_with = "token_file")]
    no_auth: bool,
    /// Accept this host name too, such as the name of a reverse proxy (can be repeated)
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Accept requests from web pages of this origin, such as https://example.org (can be repeated)
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// Allow queries by URL: download their pictures, from public addresses only
    #[arg(long)]
    fetch: bool,
    /// Include the paths of files in answers
    #[arg(long)]
    show_paths: bool,
    /// Number of concurrent searches [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Requests that may wait for a worker; further requests get status 429
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: usize,
    /// Megabytes of thumbnails and previews kept on disk
    #[arg(long, value_name = "MB", default_value_t = 1000)]
    cache_mb: u64,
    /// Format of the log
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log: LogFormat,
    #[command(flatten)]
    model: StoredModelArgs,
}

impl ServeArgs {
    /// The token from the file or the environment. There is no option for it, because the list of processes
    /// would show its value.
    fn token(&self) -> anyhow::Result<Option<Token>> {
        match (&self.token_file, std::env::var(TOKEN)) {
            (Some(path), _) => Ok(Some(Token::read(path)?)),
            (None, _) if self.no_auth => Ok(None),
            (None, Ok(text)) if !text.is_empty() => Ok(Some(Token::new(&text)?)),
            (None, Err(std::env::VarError::NotUnicode(_))) => {
                bail!("{TOKEN} has characters that a header cannot carry")
            }
            (None, _) => Ok(None),
        }
    }
}

/// Address to listen on.
#[derive(Debug, Clone)]
struct ListenAddress {
    address: SocketAddr,
    /// The host name, if the address was given by name.
    name: Option<String>,
}

/// Parses an address. If a name has several addresses, the first is used, IPv4 before IPv6, as browsers do.
fn listen(text: &str) -> Result<ListenAddress, String> {
    let expected = "expected ADDRESS:PORT, such as 127.0.0.1:8787, localhost:8787 or [::1]:8787";
    let mut found: Vec<SocketAddr> = text.to_socket_addrs().map_err(|error| format!("{error}; {expected}"))?.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    let address = *found.first().ok_or_else(|| format!("the name has no address; {expected}"))?;
    let name = text.rsplit_once(':').map(|(name, _)| name.trim_start_matches('[').trim_end_matches(']'));
    let name = name.filter(|name| name.parse::<std::net::IpAddr>().is_err());
    Ok(ListenAddress { address, name: name.map(str::to_owned) })
}

pub(crate) fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    return_large_blocks();
    serve::start_logging(args.log);
    if args.no_auth && std::env::var_os(TOKEN).is_some_and(|token| !token.is_empty()) {
        tracing::warn!("{TOKEN} is ignored: --no-auth admits every request without a token");
    }
    let (token, choices) = (args.token()?, args.model.choices());
    let mut options = ServeOptions::new(args.folder.index)
        .token(token)
        .library(args.library)
        .await_index(args.await_index)
        .listen(args.listen.address)
        .checkpoint(choices.scene.checkpoint)
        .weights(choices.scene.weights)
        .kind_checkpoint(choices.kind.checkpoint)
        .kind_weights(choices.kind.weights)
        .no_auth(args.no_auth)
        // Clients will use the name in the Host header.
        .hosts(args.allow_host.into_iter().chain(args.listen.name).collect())
        .origins(args.cors)
        .fetch(args.fetch)
        .show_paths(args.show_paths)
        .queue(args.queue)
        .cache_bytes(args.cache_mb.saturating_mul(1_000_000));
    if let Some(workers) = args.workers {
        options.workers = workers.into();
    }
    serve::run(options, &ShutdownSignal::on_signals()?, |address| {
        // A closed standard output does not stop the server.
        let mut out = std::io::stdout();
        let _ = print_line!(out, "listening on http://{address}").and_then(|()| out.flush());
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_kept_with_its_address() {
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
