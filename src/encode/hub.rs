//! Downloads of weights from the Hugging Face hub, checked against the hash that the hub announces and
//! recorded beside the file.
//!
//! During its download a file is called `FILE.HASH.part`, so an interrupted download resumes as long as the
//! hub has the same file. A file appears under its own name whole and checked.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::Sha256;
use sha2::digest::DynDigest;
use thiserror::Error;

use super::registry::{EncoderEntry, HubFile};
use crate::base::{Cancel, files};

/// Longest wait for a connection, a response, or the next bytes. `HF_HUB_DOWNLOAD_TIMEOUT` overrides it, in
/// seconds.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Most redirects from the hub to the store of the bytes; one is usual.
const MAX_REDIRECTS: usize = 10;
/// Interval of checks for cancellation during the wait for a response.
const CANCEL_INTERVAL: Duration = Duration::from_millis(100);
/// Address of the hub. `HF_ENDPOINT` overrides it.
const ENDPOINT: &str = "https://huggingface.co";
/// The characters that are escaped in a segment of a URL's path: all but the unreserved characters of RFC
/// 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Origin and hash of a downloaded file, stored beside it as `FILE.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadRecord {
    /// Owner and name of the repository.
    pub repository: String,
    /// The requested branch, tag or commit.
    pub revision: String,
    /// The commit of that revision at the time of the download.
    pub commit: String,
    /// Hash of the file, as announced and verified: SHA-256, or for small files git's SHA-1 of the blob;
    /// hexadecimal.
    pub hash: String,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Time of the download in seconds since 1970.
    pub fetched_s: u64,
}

impl DownloadRecord {
    /// Reads the record beside a file; `None` if there is none or it is damaged.
    pub fn beside(path: &Path) -> Option<DownloadRecord> {
        serde_json::from_slice(&std::fs::read(files::with_suffix(path, ".json")).ok()?).ok()
    }
}

/// Weights that are on this machine after [`fetch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Path of the file.
    pub path: PathBuf,
    /// Origin and hash of the file.
    pub record: DownloadRecord,
    /// Bytes that were transferred: 0 if the file was here already.
    pub transferred: u64,
}

/// Why weights could not be fetched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The hub does not have the weights.
    #[error("the weights of {name} are not on the hub; expected files: {weights}")]
    NotOnHub {
        /// The encoder.
        name: &'static str,
        /// The files that the encoder reads.
        weights: &'static str,
    },
    /// `HF_HUB_OFFLINE` is set.
    #[error("HF_HUB_OFFLINE is set, so {url} is not requested; {} does not exist", path.display())]
    Offline {
        /// Address of the file.
        url: String,
        /// The path at which the encoder expects the file.
        path: PathBuf,
    },
    /// The server refuses.
    #[error("{url} responds {status}: {}", status_meaning(*status))]
    Status {
        /// The requested address.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server cannot be reached.
    #[error("{url} cannot be reached ({reason})")]
    Unreachable {
        /// The requested address.
        url: String,
        /// The network error.
        reason: String,
    },
    /// The response is not from a Hugging Face hub.
    #[error("{url} does not respond as a hub does ({found})")]
    NotAHub {
        /// The requested address.
        url: String,
        /// What is wrong with the response.
        found: String,
    },
    /// A transfer ended early.
    #[error("{url} broke off after {received} of {total} bytes ({reason}); they are kept")]
    TransferBroken {
        /// The requested address.
        url: String,
        /// Bytes on disk.
        received: u64,
        /// Size of the file.
        total: u64,
        /// The network error.
        reason: String,
    },
    /// The received bytes do not have the announced hash. They are deleted.
    #[error("the file from {url} has the hash {found}, but the hub announces {announced}; the file was deleted")]
    HashMismatch {
        /// The requested address.
        url: String,
        /// Hash of the received bytes.
        found: String,
        /// Announced hash.
        announced: String,
    },
    /// Another process downloads the file.
    #[error("{} is being downloaded by another process", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The cache folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The caller cancelled.
    #[error("{}", match total {
        None => "stopped before the transfer began".to_owned(),
        Some(total) => format!("stopped after {received} of {total} bytes; they are kept"),
    })]
    Cancelled {
        /// Bytes on disk.
        received: u64,
        /// Size of the file; `None` if the transfer had not begun.
        total: Option<u64>,
    },
}

fn status_meaning(status: u16) -> &'static str {
    match status {
        401 | 403 => "access is restricted",
        404 => "the file does not exist",
        429 => "too many requests",
        500..=599 => "the server has an error",
        _ => "unexpected status",
    }
}

/// The settings of Hugging Face's own tools.
struct HubSettings {
    /// Without a slash at its end.
    endpoint: String,
    offline: bool,
    timeout: Duration,
}

impl HubSettings {
    /// Reads `HF_ENDPOINT`, `HF_HUB_OFFLINE` and `HF_HUB_DOWNLOAD_TIMEOUT`. Tokens are never read or sent.
    fn from_env() -> HubSettings {
        let var = |name: &str| std::env::var(name).unwrap_or_default();
        let endpoint = match var("HF_ENDPOINT").trim_end_matches('/') {
            "" => ENDPOINT.to_owned(),
            endpoint => endpoint.to_owned(),
        };
        let seconds = var("HF_HUB_DOWNLOAD_TIMEOUT").parse().ok().filter(|seconds| *seconds > 0);
        HubSettings {
            endpoint,
            offline: ["1", "true", "yes", "on"].contains(&var("HF_HUB_OFFLINE").to_ascii_lowercase().as_str()),
            timeout: seconds.map_or(TIMEOUT, Duration::from_secs),
        }
    }

    /// The address of a file at a revision. A slash in the revision is escaped, unlike those of repository
    /// and file.
    fn url(&self, hub: &HubFile, revision: &str) -> String {
        let escape = |segment: &str| utf8_percent_encode(segment, ESCAPED).to_string();
        let path = |path: &str| path.split('/').map(escape).collect::<Vec<_>>().join("/");
        format!("{}/{}/resolve/{}/{}", self.endpoint, path(hub.repository), escape(revision), path(hub.file))
    }

    fn agent(&self) -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
        ureq::Agent::config_builder()
            // Ranges of compressed bytes would not match the file.
            .accept_encoding("identity")
            .timeout_connect(Some(self.timeout))
            .timeout_recv_response(Some(self.timeout))
            .timeout_per_read(Some(self.timeout))
    }
}

/// Makes the weights of an encoder available at [`EncoderEntry::path`]. `on_progress` receives the bytes on
/// disk and the size of the file.
///
/// A file with the hash of its record is left alone and needs no network.
///
/// # Errors
/// [`enum@Error`]. The received part of a file is kept if a later call can resume it.
pub fn fetch(entry: &EncoderEntry, cancel: &Cancel, on_progress: impl FnMut(u64, u64)) -> Result<Download, Error> {
    let Some(hub) = entry.hub else { return Err(Error::NotOnHub { name: entry.name, weights: entry.weights }) };
    let path = entry.path();
    if let Some(record) = DownloadRecord::beside(&path)
        && (record.repository.as_str(), record.revision.as_str()) == (hub.repository, hub.revision)
        && file_hash(&path, record.bytes, record.hash.len())?.is_some_and(|hash| hash == record.hash)
    {
        return Ok(Download { path, record, transferred: 0 });
    }
    let settings = HubSettings::from_env();
    let url = settings.url(&hub, hub.revision);
    if settings.offline {
        return Err(Error::Offline { url, path });
    }
    let record = announced(&settings, &hub, &url, cancel)?;
    let mut transferred = 0;
    if file_hash(&path, record.bytes, record.hash.len())?.is_none_or(|hash| hash != record.hash) {
        // Of the commit, because a branch may advance during the transfer.
        let url = settings.url(&hub, &record.commit);
        let agent = settings.agent().build().into();
        transferred = Transfer { agent, url, path: &path, record: &record, cancel, on_progress }.run()?;
    }
    let text = serde_json::to_vec_pretty(&record).expect("a record is text and numbers");
    let beside = files::with_suffix(&path, ".json");
    files::replace(&beside, |part| std::fs::write(part, &text)).map_err(|e| io(&beside, e))?;
    Ok(Download { path, record, transferred })
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}

/// Requests the first byte of a file. The hub's response contains commit and hash, the response of the store
/// to which it redirects contains the size.
fn announced(settings: &HubSettings, hub: &HubFile, url: &str, cancel: &Cancel) -> Result<DownloadRecord, Error> {
    let not_a_hub = |found: &str| Error::NotAHub { url: url.to_owned(), found: found.to_owned() };
    // Redirects are followed here, because the hub announces the file in its redirect.
    let agent: ureq::Agent = settings.agent().max_redirects(0).max_redirects_will_error(false).build().into();
    let (mut commit_and_hash, mut at) = (None, url.to_owned());
    for _ in 0..=MAX_REDIRECTS {
        let response = first_byte(&agent, &at, cancel)?.map_err(|error| request_error(url.to_owned(), error))?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        if commit_and_hash.is_none()
            && let (Some(commit), Some(etag)) =
                (header("x-repo-commit"), header("x-linked-etag").or_else(|| header("etag")))
        {
            let hash = hash_in_etag(etag).ok_or_else(|| not_a_hub(&format!("the ETag {etag} is no hash")))?;
            commit_and_hash = Some((commit.to_owned(), hash));
        }
        if response.status().is_redirection() {
            let location = header("location").ok_or_else(|| not_a_hub("a redirect without a location"))?;
            at = resolve_location(&at, location);
            continue;
        }
        let (commit, hash) = commit_and_hash.ok_or_else(|| not_a_hub("no X-Repo-Commit with an ETag"))?;
        let bytes = header("content-range").and_then(total_in_range).ok_or_else(|| not_a_hub("no Content-Range"))?;
        return Ok(DownloadRecord {
            repository: hub.repository.to_owned(),
            revision: hub.revision.to_owned(),
            commit,
            hash,
            bytes,
            fetched_s: UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
        });
    }
    Err(not_a_hub(&format!("more than {MAX_REDIRECTS} redirects")))
}

/// The hash in an ETag: 40 or 64 hexadecimal digits, in lower case.
fn hash_in_etag(etag: &str) -> Option<String> {
    let hash = etag.trim_matches('"').to_ascii_lowercase();
    (matches!(hash.len(), 40 | 64) && hash.bytes().all(|b| b.is_ascii_hexdigit())).then_some(hash)
}

/// The size of the whole file in a Content-Range, such as 7 in `bytes 0-0/7`.
fn total_in_range(range: &str) -> Option<u64> {
    range.rsplit_once('/')?.1.trim().parse().ok()
}

type HubResponse = ureq::http::Response<ureq::Body>;

/// Sends one request on another thread, so that cancellation does not wait for the response.
fn first_byte(agent: &ureq::Agent, url: &str, cancel: &Cancel) -> Result<Result<HubResponse, ureq::Error>, Error> {
    let (sender, receiver) = channel();
    let request = agent.get(url).header("Range", "bytes=0-0");
    std::thread::spawn(move || {
        // After cancellation nobody receives the response.
        let _ = sender.send(request.call());
    });
    loop {
        match receiver.recv_timeout(CANCEL_INTERVAL) {
            _ if cancel.is_set() => return Err(Error::Cancelled { received: 0, total: None }),
            Ok(response) => return Ok(response),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Unreachable { url: url.to_owned(), reason: "the request failed".to_owned() });
            }
        }
    }
}

/// The target of a redirect, whose location may be relative to the address it comes from.
fn resolve_location(from: &str, location: &str) -> String {
    let authority = from.find("://").map_or(0, |at| at + 3);
    let path = from[authority..].find('/').map_or(from.len(), |at| authority + at);
    if location.split(['/', '?']).next().is_some_and(|scheme| scheme.ends_with(':')) {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{}{location}", &from[..authority.saturating_sub(2)])
    } else if location.starts_with('/') {
        format!("{}{location}", &from[..path])
    } else {
        let folder = from.split('?').next().unwrap_or(from).rfind('/').filter(|at| *at >= path);
        format!("{}/{location}", &from[..folder.unwrap_or(path)])
    }
}

fn request_error(url: String, error: ureq::Error) -> Error {
    match error {
        ureq::Error::StatusCode(status) => Error::Status { url, status },
        other => Error::Unreachable { url, reason: other.to_string() },
    }
}

/// The hash of a file in the format of an announced hash of `digits` digits; `None` if no file of that size
/// exists.
fn file_hash(path: &Path, bytes: u64, digits: usize) -> Result<Option<String>, Error> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(path, e)),
    };
    match file.metadata() {
        Ok(meta) if meta.len() != bytes => Ok(None),
        _ => hash(&mut file, bytes, digits).map(Some).map_err(|e| io(path, e)),
    }
}

fn hash(file: &mut File, bytes: u64, digits: usize) -> std::io::Result<String> {
    let mut hasher: Box<dyn DynDigest> = match digits {
        40 => Box::new(Sha1::default()),
        _ => Box::new(Sha256::default()),
    };
    if digits == 40 {
        hasher.update(format!("blob {bytes}\0").as_bytes());
    }
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// The download of one file.
struct Transfer<'a, F> {
    agent: ureq::Agent,
    url: String,
    path: &'a Path,
    record: &'a DownloadRecord,
    cancel: &'a Cancel,
    on_progress: F,
}

impl<F: FnMut(u64, u64)> Transfer<'_, F> {
    /// Downloads the missing bytes, checks the whole file and renames it. Returns the number of transferred
    /// bytes.
    fn run(mut self) -> Result<u64, Error> {
        let part = files::with_suffix(self.path, &format!(".{}.part", &self.record.hash[..16]));
        let mut file = self.lock(&part)?;
        let total = self.record.bytes;
        let start = match file.metadata().map_err(|e| io(&part, e))?.len() {
            start if start <= total => start,
            _ => file.set_len(0).map(|()| 0).map_err(|e| io(&part, e))?,
        };
        let mut received = start;
        while received < total {
            let before = received;
            let outcome = self.attempt(&mut file, &mut received);
            if self.cancel.is_set() {
                return Err(Error::Cancelled { received, total: Some(total) });
            }
            match outcome {
                Ok(()) => {}
                // A broken transfer resumes as long as each attempt receives something.
                Err(TransferFault::Network(_)) if received > before => {}
                Err(TransferFault::Network(error)) if received == 0 || matches!(error, ureq::Error::StatusCode(_)) => {
                    return Err(request_error(self.url, error));
                }
                Err(TransferFault::Network(error)) => {
                    return Err(Error::TransferBroken { url: self.url, received, total, reason: error.to_string() });
                }
                Err(TransferFault::Disk(e)) => return Err(io(&part, e)),
            }
        }
        file.rewind().map_err(|e| io(&part, e))?;
        let found = hash(&mut file, total, self.record.hash.len()).map_err(|e| io(&part, e))?;
        if received != total || found != self.record.hash {
            std::fs::remove_file(&part).map_err(|e| io(&part, e))?;
            return Err(Error::HashMismatch { url: self.url, found, announced: self.record.hash.clone() });
        }
        file.sync_all().and_then(|()| std::fs::rename(&part, self.path)).map_err(|e| io(self.path, e))?;
        Ok(total - start)
    }

    /// Opens the partial file and locks it against other processes.
    fn lock(&self, part: &Path) -> Result<File, Error> {
        if let Some(folder) = part.parent() {
            std::fs::create_dir_all(folder).map_err(|e| io(folder, e))?;
        }
        let file = File::options().read(true).append(true).create(true).open(part).map_err(|e| io(part, e))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => Err(Error::Locked { path: self.path.to_owned() }),
            Err(std::fs::TryLockError::Error(e)) => Err(io(part, e)),
        }
    }

    /// Requests the missing bytes once and appends the response to the file.
    fn attempt(&mut self, file: &mut File, received: &mut u64) -> Result<(), TransferFault> {
        let request = self.agent.get(&self.url).header("Range", format!("bytes={received}-"));
        let response = request.call().map_err(TransferFault::Network)?;
        // A server without support for ranges sends the whole file.
        if response.status() != 206 {
            file.set_len(0).map_err(TransferFault::Disk)?;
            *received = 0;
        }
        let total = self.record.bytes;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0u8; 1 << 16];
        while !self.cancel.is_set() {
            (self.on_progress)(*received, total);
            let n = match body.read(&mut buffer) {
                Ok(0) if *received < total => {
                    return Err(TransferFault::Network(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()));
                }
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => return Err(TransferFault::Network(e.into())),
            };
            file.write_all(&buffer[..n]).map_err(TransferFault::Disk)?;
            *received += n as u64;
            if *received > total {
                break;
            }
        }
        Ok(())
    }
}

/// The end of a failed attempt.
enum TransferFault {
    Network(ureq::Error),
    Disk(std::io::Error),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encode::registry::entry;

    fn settings() -> HubSettings {
        HubSettings { endpoint: "https://hub.example:8".to_owned(), offline: false, timeout: TIMEOUT }
    }

    #[test]
    fn urls_escape_a_slash_in_the_revision_only() {
        let hub = entry("clip").unwrap().hub.unwrap();
        assert_eq!(
            settings().url(&hub, hub.revision),
            "https://hub.example:8/openai/clip-vit-base-patch32/resolve/refs%2Fpr%2F15/model.safetensors"
        );
        let hub = entry("mobilenet-v2").unwrap().hub.unwrap();
        assert_eq!(
            settings().url(&hub, hub.revision),
            "https://hub.example:8/google/mobilenet_v2_1.0_224/resolve/main/model.safetensors"
        );
    }

    #[test]
    fn locations_resolve_as_in_a_browser() {
        let from = "https://hub.example:8/a/b?c=d/e";
        for (location, to) in [
            ("http://store.example/x", "http://store.example/x"),
            ("//store.example/x", "https://store.example/x"),
            ("/x/y", "https://hub.example:8/x/y"),
            ("/x?to=http://y", "https://hub.example:8/x?to=http://y"),
            ("x", "https://hub.example:8/a/x"),
        ] {
            assert_eq!(resolve_location(from, location), to);
        }
        assert_eq!(resolve_location("https://hub.example", "x"), "https://hub.example/x");
    }

    proptest! {
        #[test]
        fn a_url_contains_the_revision_as_one_segment(revision in "\\PC{0,20}") {
            let hub = entry("clip").unwrap().hub.unwrap();
            let url = settings().url(&hub, &revision);
            prop_assert!(url.is_ascii());
            let segment = url.split('/').nth(6).unwrap();
            prop_assert_eq!(percent_encoding::percent_decode_str(segment).decode_utf8().unwrap(), revision);
            prop_assert_eq!(url.split('/').count(), 8);
        }

        #[test]
        fn headers_of_any_text_do_not_panic(text in "\\PC*", from in "\\PC*") {
            prop_assert!(hash_in_etag(&text).is_none_or(|hash| matches!(hash.len(), 40 | 64)));
            total_in_range(&text);
            resolve_location(&from, &text);
        }

        #[test]
        fn the_total_of_a_range_is_its_last_number(first in any::<u64>(), last in any::<u64>(), total in any::<u64>()) {
            prop_assert_eq!(total_in_range(&format!("bytes {first}-{last}/{total}")), Some(total));
            prop_assert_eq!(total_in_range(&format!("bytes {first}-{last}/*")), None);
        }
    }
}
