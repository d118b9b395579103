//! `reelseek encoders` against a fake Hugging Face hub: downloads, resumed downloads and errors.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::support::{Signal, TestFolder, json_lines, send_signal, text};

/// The encoder to download. Its weights are arbitrary bytes, which no test opens.
const NAME: &str = "mobilenet-v2";
const FILE: &str = "/google/mobilenet_v2_1.0_224/resolve/main/model.safetensors";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const LENGTH: usize = 300_000;

fn bytes() -> Vec<u8> {
    (0..LENGTH as u32).map(|i| (i * i / 7 % 251) as u8).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A fault of one transfer.
enum Interruption {
    /// The connection closes after this number of bytes.
    Close(usize),
    /// The transfer stalls after this number of bytes. The connection closes when the channel receives
    /// something.
    Stall(usize, Receiver<()>),
}

/// Behaviour of the fake hub, and what it received.
struct HubState {
    bytes: Vec<u8>,
    etag: String,
    /// Faults of the next transfers, one each; later transfers succeed.
    interruptions: Vec<Interruption>,
    ranges: bool,
    /// Status of a response with an HTML page, instead of a file.
    status: Option<u16>,
    /// Ranges requested in transfers.
    transfers: Vec<String>,
    /// Headers of all requests.
    heads: Vec<String>,
}

/// A hub at 127.0.0.1 that redirects to a store at localhost, like the real hub.
struct FakeHub {
    port: u16,
    state: Arc<Mutex<HubState>>,
}

impl FakeHub {
    fn start() -> FakeHub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = HubState {
            etag: hex(&Sha256::digest(bytes())),
            bytes: bytes(),
            interruptions: Vec::new(),
            ranges: true,
            status: None,
            transfers: Vec::new(),
            heads: Vec::new(),
        };
        let server = FakeHub { port, state: Arc::new(Mutex::new(state)) };
        let state = server.state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = state.clone();
                // Some tests disconnect early.
                std::thread::spawn(move || respond(&stream.unwrap(), port, &state).ok());
            }
        });
        server
    }

    fn set(&self, change: impl FnOnce(&mut HubState)) {
        change(&mut self.state.lock().unwrap());
    }

    fn transfers(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().transfers)
    }

    fn requests(&self) -> usize {
        self.state.lock().unwrap().heads.len()
    }
}

fn respond(mut stream: &TcpStream, port: u16, state: &Mutex<HubState>) -> std::io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(stream);
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let range = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("range: ").map(str::to_owned));
    let mut state = state.lock().unwrap();
    state.heads.push(head);
    if let Some(status) = state.status {
        let headers = format!("X-Repo-Commit: {COMMIT}\r\nETag: \"{}\"\r\nContent-Length: 5", state.etag);
        return write!(stream, "HTTP/1.1 {status} .\r\n{headers}\r\nConnection: close\r\n\r\n<html");
    }
    if path.starts_with("/google/") {
        let to = format!("http://localhost:{port}/store{path}");
        let headers = format!("X-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{}\"\r\nLocation: {to}", state.etag);
        return write!(stream, "HTTP/1.1 302 Found\r\n{headers}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let all = state.bytes.clone();
    let range = range.unwrap_or_default();
    let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap_or(("0", ""));
    let (first, last) = (first.parse().unwrap_or(0), last.parse().unwrap_or(all.len() - 1));
    if last == 0 {
        let headers = format!("Content-Range: bytes 0-0/{}\r\nContent-Length: 1", all.len());
        return write!(stream, "HTTP/1.1 206 .\r\n{headers}\r\nConnection: close\r\n\r\n{}", char::from(all[0]));
    }
    state.transfers.push(range);
    let interruption = if state.interruptions.is_empty() { None } else { Some(state.interruptions.remove(0)) };
    let (status, first) = if state.ranges { (206, first) } else { (200, 0) };
    drop(state);
    let body = &all[first..];
    let headers = format!("Content-Range: bytes {first}-{last}/{}\r\nContent-Length: {}", all.len(), body.len());
    write!(stream, "HTTP/1.1 {status} .\r\n{headers}\r\nConnection: close\r\n\r\n")?;
    match interruption {
        None => stream.write_all(body),
        Some(Interruption::Close(n)) => stream.write_all(&body[..n]),
        Some(Interruption::Stall(n, release)) => {
            stream.write_all(&body[..n])?;
            release.recv().ok();
            Ok(())
        }
    }
}

/// A temporary cache of weights.
struct WeightsCache(TestFolder);

impl WeightsCache {
    fn new() -> WeightsCache {
        WeightsCache(TestFolder::new())
    }

    /// `reelseek encoders` with the hub on this port.
    fn command(&self, port: u16, arguments: &[&str]) -> Command {
        let mut command = self.0.command(&[&["encoders"], arguments].concat());
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command
            .env_remove("HF_HUB_OFFLINE")
            .env_remove("HF_HUB_DOWNLOAD_TIMEOUT")
            .env("HF_HOME", self.0.path("home"))
            .env("HF_ENDPOINT", format!("http://127.0.0.1:{port}/"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn pull(&self, server: &FakeHub) -> Output {
        self.command(server.port, &["pull", NAME, "--json"]).output().unwrap()
    }

    /// Pulls successfully; returns the JSON line.
    fn pulled(&self, server: &FakeHub) -> Value {
        let output = self.pull(server);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        // The progress bar is not part of standard output.
        assert_eq!(text(&output.stdout).lines().count(), 1);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command that fails; returns its standard error.
    fn failing(&self, mut command: Command) -> String {
        let output = command.output().unwrap();
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()));
        let stderr = text(&output.stderr);
        assert!(!stderr.contains("panicked"), "{stderr}");
        stderr
    }

    /// The encoder's folder.
    fn folder(&self) -> PathBuf {
        self.0.path("cache").join(NAME)
    }

    fn path(&self) -> PathBuf {
        self.folder().join("model.safetensors")
    }

    /// The files of the encoder's folder.
    fn files(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.folder()) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn listed(&self) -> Value {
        let lines = json_lines(&self.command(0, &["--json"]).output().unwrap());
        assert_eq!((&lines[0]["name"], &lines[0]["here"]), (&"layout".into(), &true.into()));
        lines.into_iter().find(|line| line["name"] == NAME).unwrap()
    }
}

#[test]
fn a_download_is_whole_verified_and_recorded() {
    let (server, cache) = (FakeHub::start(), WeightsCache::new());
    cache.0.write("home/token", "secret\n");
    let before = cache.listed();
    assert_eq!((&before["here"], &before["bytes"]), (&false.into(), &14_194_904.into()));
    assert_eq!(cache.pulled(&server)["transferred"], LENGTH);
    assert_eq!(std::fs::read(cache.path()).unwrap(), bytes());
    assert_eq!(cache.files(), ["model.safetensors", "model.safetensors.json"]);
    let record: Value =
        serde_json::from_slice(&std::fs::read(cache.path().with_extension("safetensors.json")).unwrap()).unwrap();
    assert_eq!(record["repository"], "google/mobilenet_v2_1.0_224");
    assert_eq!((&record["revision"], &record["commit"]), (&"main".into(), &COMMIT.into()));
    assert_eq!((&record["hash"], &record["bytes"]), (&hex(&Sha256::digest(bytes())).into(), &LENGTH.into()));
    assert!(record["fetched_s"].as_u64() > Some(1_700_000_000));
    let after = cache.listed();
    assert_eq!((&after["here"], &after["bytes"], &after["hash"]), (&true.into(), &LENGTH.into(), &record["hash"]));

    let state = server.state.lock().unwrap();
    assert!(state.heads[0].starts_with(&format!("GET {FILE} ")), "{}", state.heads[0]);
    // The transfer names the announced commit, and no request carries a token.
    assert!(state.heads.iter().any(|head| head.starts_with(&format!("GET {} ", FILE.replace("main", COMMIT)))));
    assert!(state.heads.iter().all(|head| !head.to_ascii_lowercase().contains("authorization")));
}

#[test]
fn a_second_pull_sends_no_request() {
    let (server, cache) = (FakeHub::start(), WeightsCache::new());
    cache.pulled(&server);
    let requests = server.requests();
    assert_eq!(cache.pulled(&server)["transferred"], 0);
    assert_eq!(server.requests(), requests);
    let mut offline = cache.command(server.port, &["pull", NAME]);
    let output = offline.env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).ends_with("0.3 MB, already downloaded; the hash is correct\n"));
}

#[test]
fn a_file_with_the_announced_hash_is_not_downloaded_again() {
    let (server, cache) = (FakeHub::start(), WeightsCache::new());
    cache.pulled(&server);
    // Without a record, only the hash is requested.
    std::fs::remove_file(cache.path().with_extension("safetensors.json")).unwrap();
    assert_eq!(cache.pulled(&server)["transferred"], 0);
    assert_eq!(cache.files(), ["model.safetensors", "model.safetensors.json"]);
    let mut damaged = bytes();
    damaged[77] ^= 1;
    std::fs::write(cache.path(), damaged).unwrap();
    assert_eq!(cache.pulled(&server)["transferred"], LENGTH);
    assert_eq!(std::fs::read(cache.path()).unwrap(), bytes());
}

#[test]
fn a_broken_transfer_resumes_while_attempts_receive_bytes() {
    let (server, cache) = (FakeHub::start(), WeightsCache::new());
    server.set(|state| state.interruptions = vec![Interruption::Close(1000), Interruption::Close(500)]);
    assert_eq!(cache.pulled(&server)["transferred"], LENGTH);
    assert_eq!(server.transfers(), ["bytes=0-", "bytes=1000-", "bytes=1500-"]);
    assert_eq!(std::fs::read(cache.path()).unwrap(), bytes());
}

#[test]
fn the_next_pull_resumes_a_broken_transfer() {
    let (server, cache) = (FakeHub::start(), WeightsCache::new());
    server.set(|state| state.interruptions = vec![Interruption::Close(1000), Interruption::Close(0)]);
    let stderr = cache.failing(cache.command(server.port, &["pull", NAME]));
    assert!(stderr.contains("broke off after 1000 of 300000 bytes"), "{stderr}");
    assert!(stderr.contains("run the same command again to resume"), "{stderr}");
    assert_eq!(cache.files().len(), 1, "only the part: {:?}", cache.files());
    assert_eq!(cache.listed()["here"], false);
    server.transfers();
    assert_eq!(cache.pulled(&server)["transferred"], LENGTH - 1000);
    assert_eq!(server.transfers(), ["bytes=1000-"]);
    assert_eq!(cache.files(), ["model.safetensors", "model.safetensors.json"]);
}

#[test]
fn a_server_without_ranges_restarts_the_transfer() {
    let (server, cache) = (FakeHub::start(), WeightsCache::new());
    server.set(|state| state.interruptions = vec![Interruption::Close(1000), Interruption::Close(0)]);
    cache.failing(cache.command(server.port, &["pull", NAME]));
    server.set(|state| state.ranges = false);
    cache.pulled(&server);
    assert_eq!(std::fs::read(cache.path()).unwrap(), bytes());
}

#[test]
fn a_complete_part_needs_no_transfer() {
    let (server, cache) = (FakeHub::start(), WeightsCache::new());
    std::fs::create_dir_all(cache.folder()).unwrap();
    let part = format!("safetensors.{}.part", &hex(&Sha256::digest(bytes()))[..16]);
    std::fs::write(cache.path().with_extension(&part), bytes()).unwrap();
    cache.pulled(&server);
    assert!(server.transfers().is_empty());
    // A part that is too long is discarded.
    std::fs::remove_file(cache.path()).unwrap();
    std::fs::write(cache.path().with_extension(&part), vec![0; LENGTH + 1]).unwrap();
    assert_eq!(cache.pulled(&server)["transferred"], LENGTH);
}

#[test]
fn a_wrong_hash_leaves_no_file() {
    let (server, cache) = (FakeHub::start(), WeightsCache::new());
    let announced = hex(&Sha256::digest(b"something else"));
    server.set(|state| state.etag = announced.clone());
    let stderr = cache.failing(cache.command(server.port, &["pull", NAME]));
    assert!(stderr.contains(&format!("has the hash {}", hex(&Sha256::digest(bytes())))), "{stderr}");
    assert!(stderr.contains(&format!("the hub announces {announced}")) && stderr.contains("--weights"), "{stderr}");
    assert_eq!(cache.files(), [""; 0]);
}

#[test]
fn a_small_file_is_verified_by_its_git_hash() {
    let (server, cache) = (FakeHub::start(), WeightsCache::new());
    let blob = [format!("blob {LENGTH}\0").as_bytes(), &bytes()].concat();
    server.set(|state| state.etag = hex(&Sha1::digest(&blob)));
    assert_eq!(cache.pulled(&server)["hash"], hex(&Sha1::digest(&blob)));
    server.set(|state| state.etag = hex(&Sha1::digest(b"other")));
    std::fs::remove_file(cache.path()).unwrap();
    assert!(text(&cache.pull(&server).stderr).contains("has the hash"));
    assert!(!cache.path().exists());
}

#[test]
fn error_statuses_come_with_advice() {
    let (server, cache) = (FakeHub::start(), WeightsCache::new());
    let url = format!("http://127.0.0.1:{}{FILE}", server.port);
    for (status, advice) in
        [(404, "check HF_ENDPOINT"), (401, "access is restricted"), (429, "wait a while"), (503, "later")]
    {
        server.set(|state| state.status = Some(status));
        let stderr = cache.failing(cache.command(server.port, &["pull", NAME]));
        assert!(
            stderr.starts_with(&format!("reelseek: {url} responds {status}: ")) && stderr.contains(advice),
            "{stderr}"
        );
    }
    // An HTML page, a redirect without a location, and an ETag that is no hash.
    for status in [200, 302] {
        server.set(|state| state.status = Some(status));
        let stderr = cache.failing(cache.command(server.port, &["pull", NAME]));
        assert!(stderr.contains("does not respond as a hub does") && stderr.contains("--weights"), "{stderr}");
    }
    server.set(|state| (state.status, state.etag) = (None, "W/5f3a".into()));
    let stderr = cache.failing(cache.command(server.port, &["pull", NAME]));
    assert!(stderr.contains("the ETag \"W/5f3a\" is no hash"), "{stderr}");
    assert_eq!(cache.files(), [""; 0]);
}

/// A hub that responds to each request with these headers, or never. Returns its port, and a message for each
/// request.
fn fixed_hub(head: Option<String>) -> (u16, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        // Keeps connections open that get no response.
        let mut waiting = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(&stream);
            while reader.read_line(&mut line).unwrap_or(0) > 2 {
                line.clear();
            }
            sender.send(()).ok();
            match &head {
                Some(head) => write!(stream, "{head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap_or(()),
                None => waiting.push(stream),
            }
        }
    });
    (port, requests)
}

#[test]
fn rejects_endless_redirects_and_missing_headers() {
    let headers = format!("X-Repo-Commit: {COMMIT}\r\nETag: \"{}\"", hex(&Sha256::digest(bytes())));
    for (head, expected, most) in [
        (format!("HTTP/1.1 302 Found\r\n{headers}\r\nLocation: {FILE}"), "more than 10 redirects", 11),
        (format!("HTTP/1.1 302 Found\r\n{headers}"), "a redirect without a location", 1),
        (format!("HTTP/1.1 200 OK\r\n{headers}"), "no Content-Range", 1),
        ("HTTP/1.1 200 OK\r\nETag: \"5\"".to_owned(), "no X-Repo-Commit", 1),
    ] {
        let cache = WeightsCache::new();
        let (port, requests) = fixed_hub(Some(head));
        let stderr = cache.failing(cache.command(port, &["pull", NAME]));
        assert!(stderr.contains(&format!("does not respond as a hub does ({expected}")), "{stderr}");
        assert_eq!((requests.try_iter().count(), cache.files().len()), (most, 0), "{expected}");
    }
}

#[test]
fn a_hub_that_never_responds_times_out() {
    let cache = WeightsCache::new();
    let (port, _requests) = fixed_hub(None);
    let mut command = cache.command(port, &["pull", NAME]);
    command.env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
    let stderr = cache.failing(command);
    assert!(stderr.contains("cannot be reached (timeout") && stderr.contains("--weights"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_does_not_wait_for_a_response() {
    let cache = WeightsCache::new();
    let (port, requests) = fixed_hub(None);
    let child = cache.command(port, &["pull", NAME]).spawn().unwrap();
    requests.recv().unwrap();
    let start = std::time::Instant::now();
    send_signal(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("mobilenet-v2: stopped before the transfer began"), "{stderr}");
    assert!(start.elapsed() < std::time::Duration::from_secs(30), "it waited for the timeout");
}

#[test]
fn without_a_network_or_offline_there_is_no_second_attempt() {
    let cache = WeightsCache::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let stderr = cache.failing(cache.command(closed, &["pull", NAME]));
    assert!(stderr.contains("cannot be reached (") && stderr.contains("--weights"), "{stderr}");

    let server = FakeHub::start();
    let mut offline = cache.command(server.port, &["pull", NAME]);
    offline.env("HF_HUB_OFFLINE", "1");
    let stderr = cache.failing(offline);
    assert!(stderr.contains("HF_HUB_OFFLINE is set") && stderr.contains(&*cache.path().to_string_lossy()), "{stderr}");
    assert_eq!((server.requests(), cache.files().len()), (0, 0));
}

#[test]
fn all_names_are_checked_before_the_first_download() {
    let (server, cache) = (FakeHub::start(), WeightsCache::new());
    for (name, expected) in [
        ("nosuch", "unknown encoder `nosuch`; known are layout, "),
        ("layout", "there is nothing to download"),
        ("onnx:my.onnx", "is your own file (my.onnx)"),
    ] {
        let error = cache.failing(cache.command(server.port, &["pull", NAME, name]));
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(server.requests(), 0);
}

#[test]
fn the_list_names_the_pull_command_of_missing_weights() {
    let cache = WeightsCache::new();
    let output = cache.command(0, &["list"]).output().unwrap();
    let list = text(&output.stdout);
    for expected in [
        "layout\n",
        "weights   embedded in the program\n",
        "weights   not downloaded; `reelseek encoders pull mobilenet-v2` downloads 14.2 MB\n",
        "source    Sandler et al., CVPR 2018; google/mobilenet_v2_1.0_224\n",
        "onnx:FILE\n",
    ] {
        assert!(list.contains(expected), "{list}");
    }
}

/// Ctrl-C during a transfer, and a concurrent pull of the same file.
#[cfg(unix)]
#[test]
fn ctrl_c_keeps_the_received_bytes() {
    let (server, cache) = (FakeHub::start(), WeightsCache::new());
    let (release, stalled): (Sender<()>, _) = channel();
    server.set(|state| state.interruptions = vec![Interruption::Stall(1000, stalled)]);
    let mut child = cache.command(server.port, &["pull", NAME]).spawn().unwrap();
    let is_part_there = || {
        let files = cache.files();
        files.first().is_some_and(|name| std::fs::metadata(cache.path().with_file_name(name)).unwrap().len() == 1000)
    };
    while !is_part_there() {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let stderr = cache.failing(cache.command(server.port, &["pull", NAME]));
    assert!(stderr.contains("is being downloaded by another process"), "{stderr}");

    send_signal(&child, Signal::INT);
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    let mut stderr = String::new();
    reader.read_line(&mut stderr).unwrap();
    assert!(stderr.starts_with("stopping; "), "{stderr}");
    release.send(()).unwrap();
    reader.read_to_string(&mut stderr).unwrap();
    assert!(stderr.contains("mobilenet-v2: stopped after 1000 of 300000 bytes; they are kept"), "{stderr}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(cache.pulled(&server)["transferred"], LENGTH - 1000);
}
