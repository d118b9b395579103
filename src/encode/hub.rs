//! Weights from the Hugging Face hub: fetched, checked against the hash that the hub announces, and recorded beside the file.
//!
//! `hf-hub` tells where a file is. The requests are ours: `hf-hub` waits for an answer without end, follows redirects without end and panics at one that leads
//! nowhere, and its transfer checks no hash, appends to what it has even if the server starts anew, and cannot finish a part that is whole already.
//!
//! While it comes, the file is called `FILE.HASH.part`, so that what broke off (a transfer, or the program) is gone on with as long as the hub has the same file;
//! under its own name it appears whole and checked.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, UNIX_EPOCH};

use hf_hub::{Repo, RepoType};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::Sha256;
use sha2::digest::DynDigest;
use thiserror::Error;

use super::registry::Entry;
use crate::base::Cancel;
use crate::base::files;

/// Longest wait for a connection, an answer, or the next bytes, unless `HF_HUB_DOWNLOAD_TIMEOUT` says otherwise, in seconds, as the hub's own tools take it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Redirects from the hub to where the bytes are: usually one.
const MAX_REDIRECTS: usize = 10;
/// While an answer is awaited, a wish to stop is looked for this often.
const GLANCE: Duration = Duration::from_millis(100);
/// Where the hub is, unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// What is known of a fetched file; it lies beside it as `FILE.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Owner and name of the repository.
    pub repository: String,
    /// What was asked for: a branch, tag or commit.
    pub revision: String,
    /// The commit that this was.
    pub commit: String,
    /// As the hub announces it, and the file was found to have: SHA-256, or for small files git's SHA-1 of the blob; hexadecimal.
    pub hash: String,
    /// Size of the file.
    pub bytes: u64,
    /// When it was fetched, in seconds since 1970.
    pub fetched_s: u64,
}

impl Record {
    /// Reads what lies beside a file; `None` if nothing that can be read does.
    pub fn of(path: &Path) -> Option<Record> {
        serde_json::from_slice(&std::fs::read(beside(path, ".json")).ok()?).ok()
    }
}

/// What became of a wish for weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Where they are.
    pub path: PathBuf,
    /// What is known of them.
    pub record: Record,
    /// Bytes that came over the network: none if the file was here.
    pub transferred: u64,
}

/// Why weights could not be fetched.
#[derive(Debug, Error)]
pub enum Error {
    /// There is nothing to fetch.
    #[error("the weights of {name} are not on the hub: name a file with --weights ({weights})")]
    NotOnHub {
        /// Which encoder.
        name: &'static str,
        /// Which files would do.
        weights: &'static str,
    },
    /// `HF_HUB_OFFLINE` is set.
    #[error(
        "HF_HUB_OFFLINE is set, so {url} is not asked for: unset it, put the file at {}, or name a file with --weights", path.display()
    )]
    Offline {
        /// Where the file is.
        url: String,
        /// Where it would be looked for.
        path: PathBuf,
    },
    /// The server refuses.
    #[error("{url} answers {status}: {}", advice(*status))]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server cannot be reached.
    #[error(
        "{url} cannot be reached ({why}): see to the network and HF_ENDPOINT, or fetch the file elsewhere and name it with --weights"
    )]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the network says.
        why: String,
    },
    /// An answer that is not a hub's.
    #[error(
        "{url} does not answer as a hub does ({found}): see to HF_ENDPOINT, or fetch the file elsewhere and name it with --weights"
    )]
    NoHub {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        found: String,
    },
    /// A transfer that ended early.
    #[error(
        "{url} broke off after {done} of {bytes} bytes ({why}): they are kept, the same command goes on from there"
    )]
    Broken {
        /// What was asked for.
        url: String,
        /// Bytes that are here.
        done: u64,
        /// Bytes of the whole.
        bytes: u64,
        /// What the network says.
        why: String,
    },
    /// Other bytes than announced.
    #[error(
        "what {url} sent has the hash {found}, but the hub announces {announced}: it was thrown away; run the command again, and if that does not help name a file with --weights"
    )]
    Hash {
        /// What was asked for.
        url: String,
        /// Of what came.
        found: String,
        /// Of what should have come.
        announced: String,
    },
    /// Another process is at it.
    #[error("{} is being fetched by another process: wait for it", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The cache folder cannot be read or written.
    #[error("{}: {source}; REELSEEK_CACHE names another folder for weights", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody asked to stop before anything came.
    #[error("stopped before anything was fetched: the same command begins again")]
    Stopped,
    /// Somebody asked to stop.
    #[error("stopped after {done} of {bytes} bytes: they are kept, the same command goes on from there")]
    Cancelled {
        /// Bytes that are here.
        done: u64,
        /// Bytes of the whole.
        bytes: u64,
    },
}

fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => "it is not open to everybody; fetch it elsewhere and name it with --weights",
        404 => "the file is not there; see to HF_ENDPOINT, or fetch it elsewhere and name it with --weights",
        429 => "it is asked too often; wait a while and run the command again",
        _ => "run the command again later, or fetch the file elsewhere and name it with --weights",
    }
}

/// Sees to it that the weights of an encoder are where it looks for them. `tell` hears how many bytes of how many are here.
///
/// A file that is there with the hash of its record is left alone, without any network.
///
/// # Errors
/// [`enum@Error`]; what has come of the file is kept if it can be gone on with, and nothing else.
pub fn fetch(entry: &Entry, cancel: &Cancel, tell: impl FnMut(u64, u64)) -> Result<Fetched, Error> {
    let Some(hub) = entry.hub else { return Err(Error::NotOnHub { name: entry.name, weights: entry.weights }) };
    let path = entry.path();
    if let Some(record) = Record::of(&path)
        && (record.repository.as_str(), record.revision.as_str()) == (hub.repository, hub.revision)
        && hash_of(&path, record.bytes, record.hash.len())?.is_some_and(|hash| hash == record.hash)
    {
        return Ok(Fetched { path, record, transferred: 0 });
    }
    let url_at = |revision: &str| {
        let repository = Repo::with_revision(hub.repository.to_owned(), RepoType::Model, revision.to_owned());
        format!("{}/{}/resolve/{}/{}", endpoint(), repository.url(), repository.url_revision(), hub.file)
    };
    let url = url_at(hub.revision);
    if is_offline() {
        return Err(Error::Offline { url, path });
    }
    let announced = announced(&url, cancel)?;
    let record = Record {
        repository: hub.repository.to_owned(),
        revision: hub.revision.to_owned(),
        commit: announced.commit,
        hash: announced.hash,
        bytes: announced.bytes,
        fetched_s: UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
    };
    let mut transferred = 0;
    if hash_of(&path, record.bytes, record.hash.len())?.is_none_or(|hash| hash != record.hash) {
        // Of the commit: a branch may move on while the file comes.
        let url = url_at(&record.commit);
        transferred = Transfer { url, path: &path, record: &record, cancel, tell }.run()?;
    }
    let text = serde_json::to_vec_pretty(&record).expect("a record is plain text and numbers");
    let beside = beside(&path, ".json");
    files::replace(&beside, |part| std::fs::write(part, &text)).map_err(|e| io(&beside, e))?;
    Ok(Fetched { path, record, transferred })
}

fn endpoint() -> String {
    let named = std::env::var("HF_ENDPOINT").unwrap_or_default();
    let named = named.trim_end_matches('/');
    if named.is_empty() { ENDPOINT.to_owned() } else { named.to_owned() }
}

/// As the hub's own tools read it.
fn is_offline() -> bool {
    let value = std::env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();
    ["1", "true", "yes", "on"].contains(&value.as_str())
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}

/// What the hub says of a file.
struct Announced {
    commit: String,
    hash: String,
    bytes: u64,
}

/// Asks for the first byte of a file. The answer of the hub tells commit and hash; that of the store that it points to, the size.
fn announced(url: &str, cancel: &Cancel) -> Result<Announced, Error> {
    let no_hub = |found: String| Error::NoHub { url: url.to_owned(), found };
    // Looked at one by one: what the hub says of the file stands in its redirect.
    let agent: ureq::Agent = patient().max_redirects(0).max_redirects_will_error(false).build().into();
    let (mut told, mut at) = (None, url.to_owned());
    for _ in 0..=MAX_REDIRECTS {
        let answer = first_byte(&agent, &at, cancel)?.map_err(|error| unanswered(url.to_owned(), error))?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        if told.is_none()
            && let (Some(commit), Some(etag)) =
                (header("x-repo-commit"), header("x-linked-etag").or_else(|| header("etag")))
        {
            let hash = etag.trim_matches('"').to_ascii_lowercase();
            if !matches!(hash.len(), 40 | 64) || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(no_hub(format!("the ETag `{hash}` is no hash")));
            }
            told = Some((commit.to_owned(), hash));
        }
        if answer.status().is_redirection() {
            let location = header("location").ok_or_else(|| no_hub("a redirect that leads nowhere".to_owned()))?;
            at = joined(&at, location);
            continue;
        }
        let (commit, hash) = told.ok_or_else(|| no_hub("no X-Repo-Commit with an ETag".to_owned()))?;
        let size = header("content-range").and_then(|range| range.rsplit('/').next()?.trim().parse().ok());
        return Ok(Announced { commit, hash, bytes: size.ok_or_else(|| no_hub("no Content-Range".to_owned()))? });
    }
    Err(no_hub(format!("more than {MAX_REDIRECTS} redirects")))
}

type Answer = ureq::http::Response<ureq::Body>;

/// One request, on a thread of its own: whoever wants to stop need not wait for an answer.
fn first_byte(agent: &ureq::Agent, url: &str, cancel: &Cancel) -> Result<Result<Answer, ureq::Error>, Error> {
    let (sender, receiver) = channel();
    let request = agent.get(url).header("Range", "bytes=0-0");
    std::thread::spawn(move || {
        // Nobody may listen any more.
        let _ = sender.send(request.call());
    });
    loop {
        match receiver.recv_timeout(GLANCE) {
            _ if cancel.is_set() => return Err(Error::Stopped),
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Unreachable { url: url.to_owned(), why: "the request failed".to_owned() });
            }
        }
    }
}

/// Where a redirect leads from an address.
fn joined(from: &str, location: &str) -> String {
    let authority = from.find("://").map_or(0, |at| at + 3);
    let path = from[authority..].find('/').map_or(from.len(), |at| authority + at);
    if location.contains("://") {
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

fn unanswered(url: String, error: ureq::Error) -> Error {
    match error {
        ureq::Error::StatusCode(status) => Error::Status { url, status },
        other => Error::Unreachable { url, why: other.to_string() },
    }
}

/// The hash of a file of that size in the way that the announced one was made, known by its digits; `None` if there is no such file.
fn hash_of(path: &Path, bytes: u64, digits: usize) -> Result<Option<String>, Error> {
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

/// One file on its way.
struct Transfer<'a, T> {
    url: String,
    path: &'a Path,
    record: &'a Record,
    cancel: &'a Cancel,
    tell: T,
}

impl<T: FnMut(u64, u64)> Transfer<'_, T> {
    /// Fetches what is missing, checks the whole and puts it in its place. Gives the bytes that came.
    fn run(mut self) -> Result<u64, Error> {
        let part = beside(self.path, &format!(".{}.part", &self.record.hash[..16]));
        if let Some(folder) = part.parent() {
            std::fs::create_dir_all(folder).map_err(|e| io(folder, e))?;
        }
        let mut file = File::options().read(true).append(true).create(true).open(&part).map_err(|e| io(&part, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(Error::Busy { path: self.path.to_owned() }),
            Err(std::fs::TryLockError::Error(e)) => return Err(io(&part, e)),
        }
        let bytes = self.record.bytes;
        let start = match file.metadata().map_err(|e| io(&part, e))?.len() {
            start if start <= bytes => start,
            _ => file.set_len(0).map(|()| 0).map_err(|e| io(&part, e))?,
        };
        let agent = agent();
        let mut done = start;
        while done < bytes {
            let before = done;
            let outcome = self.attempt(&agent, &mut file, &mut done);
            if self.cancel.is_set() {
                return Err(Error::Cancelled { done, bytes });
            }
            match outcome {
                Ok(()) => {}
                // A transfer that breaks is taken up again as long as each attempt brings something.
                Err(Fault::Network(_)) if done > before => {}
                Err(Fault::Network(error)) if done == 0 || matches!(error, ureq::Error::StatusCode(_)) => {
                    return Err(unanswered(self.url, error));
                }
                Err(Fault::Network(error)) => {
                    return Err(Error::Broken { url: self.url, done, bytes, why: error.to_string() });
                }
                Err(Fault::Disk(e)) => return Err(io(&part, e)),
            }
        }
        file.rewind().map_err(|e| io(&part, e))?;
        let found = hash(&mut file, bytes, self.record.hash.len()).map_err(|e| io(&part, e))?;
        if done != bytes || found != self.record.hash {
            std::fs::remove_file(&part).map_err(|e| io(&part, e))?;
            return Err(Error::Hash { url: self.url, found, announced: self.record.hash.clone() });
        }
        file.sync_all().and_then(|()| std::fs::rename(&part, self.path)).map_err(|e| io(self.path, e))?;
        Ok(bytes - start)
    }

    /// One request for what is missing, and as much of the answer as comes.
    fn attempt(&mut self, agent: &ureq::Agent, file: &mut File, done: &mut u64) -> Result<(), Fault> {
        let request = agent.get(&self.url).header("Range", format!("bytes={done}-"));
        let response = request.call().map_err(Fault::Network)?;
        // A server that knows no ranges sends the whole file.
        if response.status() != 206 {
            file.set_len(0).map_err(Fault::Disk)?;
            *done = 0;
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0u8; 1 << 16];
        while !self.cancel.is_set() {
            (self.tell)(*done, self.record.bytes);
            let n = match body.read(&mut buffer) {
                Ok(0) if *done < self.record.bytes => {
                    return Err(Fault::Network(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()));
                }
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => return Err(Fault::Network(e.into())),
            };
            file.write_all(&buffer[..n]).map_err(Fault::Disk)?;
            *done += n as u64;
            if *done > self.record.bytes {
                break;
            }
        }
        Ok(())
    }
}

/// What ends an attempt.
enum Fault {
    Network(ureq::Error),
    Disk(std::io::Error),
}

fn agent() -> ureq::Agent {
    patient().build().into()
}

fn patient() -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
    let named = std::env::var("HF_HUB_DOWNLOAD_TIMEOUT").ok().and_then(|seconds| seconds.parse().ok());
    let patience = named.filter(|seconds| *seconds > 0).map_or(PATIENCE, Duration::from_secs);
    ureq::Agent::config_builder()
        // Compressed bytes have no ranges.
        .accept_encoding("identity")
        .timeout_connect(Some(patience))
        .timeout_recv_response(Some(patience))
        .timeout_per_read(Some(patience))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_browsers_would_go() {
        let from = "https://hub.example:8/a/b?c=d/e";
        for (location, to) in [
            ("http://store.example/x", "http://store.example/x"),
            ("//store.example/x", "https://store.example/x"),
            ("/x/y", "https://hub.example:8/x/y"),
            ("x", "https://hub.example:8/a/x"),
        ] {
            assert_eq!(joined(from, location), to);
        }
        assert_eq!(joined("https://hub.example", "x"), "https://hub.example/x");
    }
}
