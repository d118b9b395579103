//! `reelseek encoders` against a server that plays the Hugging Face hub: what is fetched, what is gone on with, and what is refused.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The encoder that is fetched: the bytes are made up, nothing opens them.
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

/// How a transfer goes wrong.
enum Cut {
    /// The connection ends after so many bytes.
    Close(usize),
    /// After so many bytes nothing more comes, until somebody says so; then the connection ends.
    Hold(usize, Receiver<()>),
}

/// How the hub behaves from now on.
struct Play {
    bytes: Vec<u8>,
    etag: String,
    /// For the next transfers, one each; then they are whole.
    cuts: Vec<Cut>,
    ranges: bool,
    /// Answers with this status and a page.
    status: Option<u16>,
    /// Ranges that were asked for in transfers.
    transfers: Vec<String>,
    /// Heads of all requests.
    heads: Vec<String>,
}

/// The hub (as 127.0.0.1), which points to a store for the bytes (as localhost), as the real one does.
struct Server {
    port: u16,
    play: Arc<Mutex<Play>>,
}

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let play = Play {
            etag: hex(&Sha256::digest(bytes())),
            bytes: bytes(),
            cuts: Vec::new(),
            ranges: true,
            status: None,
            transfers: Vec::new(),
            heads: Vec::new(),
        };
        let server = Server { port, play: Arc::new(Mutex::new(play)) };
        let play = server.play.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let play = play.clone();
                // A client that goes away early is what some tests are about.
                std::thread::spawn(move || answer(&stream.unwrap(), port, &play).ok());
            }
        });
        server
    }

    fn set(&self, change: impl FnOnce(&mut Play)) {
        change(&mut self.play.lock().unwrap());
    }

    fn transfers(&self) -> Vec<String> {
        std::mem::take(&mut self.play.lock().unwrap().transfers)
    }

    fn requests(&self) -> usize {
        self.play.lock().unwrap().heads.len()
    }
}

fn answer(mut stream: &TcpStream, port: u16, play: &Mutex<Play>) -> std::io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(stream);
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let range = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("range: ").map(str::to_owned));
    let mut play = play.lock().unwrap();
    play.heads.push(head);
    if let Some(status) = play.status {
        let told = format!("X-Repo-Commit: {COMMIT}\r\nETag: \"{}\"\r\nContent-Length: 5", play.etag);
        return write!(stream, "HTTP/1.1 {status} .\r\n{told}\r\nConnection: close\r\n\r\n<html");
    }
    if path.starts_with("/google/") {
        let to = format!("http://localhost:{port}/store{path}");
        let told = format!("X-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{}\"\r\nLocation: {to}", play.etag);
        return write!(stream, "HTTP/1.1 302 Found\r\n{told}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let all = play.bytes.clone();
    let range = range.unwrap_or_default();
    let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap_or(("0", ""));
    let (first, last) = (first.parse().unwrap_or(0), last.parse().unwrap_or(all.len() - 1));
    if last == 0 {
        let told = format!("Content-Range: bytes 0-0/{}\r\nContent-Length: 1", all.len());
        return write!(stream, "HTTP/1.1 206 .\r\n{told}\r\nConnection: close\r\n\r\n{}", char::from(all[0]));
    }
    play.transfers.push(range);
    let cut = if play.cuts.is_empty() { None } else { Some(play.cuts.remove(0)) };
    let (status, first) = if play.ranges { (206, first) } else { (200, 0) };
    drop(play);
    let body = &all[first..];
    let told = format!("Content-Range: bytes {first}-{last}/{}\r\nContent-Length: {}", all.len(), body.len());
    write!(stream, "HTTP/1.1 {status} .\r\n{told}\r\nConnection: close\r\n\r\n")?;
    match cut {
        None => stream.write_all(body),
        Some(Cut::Close(n)) => stream.write_all(&body[..n]),
        Some(Cut::Hold(n, go)) => {
            stream.write_all(&body[..n])?;
            go.recv().ok();
            Ok(())
        }
    }
}

/// A cache folder of its own.
struct Cache(tempfile::TempDir);

impl Cache {
    fn new() -> Cache {
        Cache(tempfile::tempdir().unwrap())
    }

    fn command(&self, port: u16, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reelseek"));
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command
            .env_remove("HF_HUB_OFFLINE")
            .env_remove("HF_HUB_DOWNLOAD_TIMEOUT")
            .env("HF_HOME", self.0.path().join("home"));
        command.env("HF_ENDPOINT", format!("http://127.0.0.1:{port}/")).env("REELSEEK_CACHE", self.0.path());
        command.arg("encoders").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn pull(&self, server: &Server) -> Output {
        self.command(server.port, &["pull", NAME, "--json"]).output().unwrap()
    }

    /// Pulls, which must go well.
    fn pulled(&self, server: &Server) -> Value {
        let output = self.pull(server);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        // Nothing but data: the progress bar speaks to people.
        assert_eq!(text(&output.stdout).lines().count(), 1);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Pulls, which must fail; what it says.
    fn refused(&self, mut command: Command) -> String {
        let output = command.output().unwrap();
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()));
        let told = text(&output.stderr);
        assert!(!told.contains("panicked"), "{told}");
        told
    }

    fn path(&self) -> PathBuf {
        self.0.path().join(NAME).join("model.safetensors")
    }

    /// The files of the encoder's folder.
    fn files(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.0.path().join(NAME)) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn listed(&self) -> Value {
        let output = self.command(0, &["--json"]).output().unwrap();
        let lines: Vec<Value> = text(&output.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!((&lines[0]["name"], &lines[0]["here"]), (&"layout".into(), &true.into()));
        lines.into_iter().find(|line| line["name"] == NAME).unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn weights_come_whole_checked_and_recorded() {
    let (server, cache) = (Server::start(), Cache::new());
    std::fs::create_dir(cache.0.path().join("home")).unwrap();
    std::fs::write(cache.0.path().join("home/token"), "secret\n").unwrap();
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

    let play = server.play.lock().unwrap();
    assert!(play.heads[0].starts_with(&format!("GET {FILE} ")), "{}", play.heads[0]);
    // The transfer is of the commit that was announced, and nobody's token goes anywhere.
    assert!(play.heads.iter().any(|head| head.starts_with(&format!("GET {} ", FILE.replace("main", COMMIT)))));
    assert!(play.heads.iter().all(|head| !head.to_ascii_lowercase().contains("authorization")));
}

#[test]
fn a_second_pull_asks_nobody() {
    let (server, cache) = (Server::start(), Cache::new());
    cache.pulled(&server);
    let requests = server.requests();
    assert_eq!(cache.pulled(&server)["transferred"], 0);
    assert_eq!(server.requests(), requests);
    let mut offline = cache.command(server.port, &["pull", NAME]);
    let output = offline.env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).ends_with("0.3 MB, was here already; its hash is as announced\n"));
}

#[test]
fn a_file_is_fetched_again_only_if_its_hash_is_not_as_announced() {
    let (server, cache) = (Server::start(), Cache::new());
    cache.pulled(&server);
    // Without a record, the hub is asked for the hash, and only that.
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
fn a_broken_transfer_goes_on_by_itself_as_long_as_something_comes() {
    let (server, cache) = (Server::start(), Cache::new());
    server.set(|play| play.cuts = vec![Cut::Close(1000), Cut::Close(500)]);
    assert_eq!(cache.pulled(&server)["transferred"], LENGTH);
    assert_eq!(server.transfers(), ["bytes=0-", "bytes=1000-", "bytes=1500-"]);
    assert_eq!(std::fs::read(cache.path()).unwrap(), bytes());
}

#[test]
fn what_broke_off_is_gone_on_with_by_the_next_pull() {
    let (server, cache) = (Server::start(), Cache::new());
    server.set(|play| play.cuts = vec![Cut::Close(1000), Cut::Close(0)]);
    let told = cache.refused(cache.command(server.port, &["pull", NAME]));
    assert!(told.contains("broke off after 1000 of 300000 bytes"), "{told}");
    assert!(told.contains("the same command goes on from there"), "{told}");
    assert_eq!(cache.files().len(), 1, "only the part: {:?}", cache.files());
    assert_eq!(cache.listed()["here"], false);
    server.transfers();
    assert_eq!(cache.pulled(&server)["transferred"], LENGTH - 1000);
    assert_eq!(server.transfers(), ["bytes=1000-"]);
    assert_eq!(cache.files(), ["model.safetensors", "model.safetensors.json"]);
}

#[test]
fn a_server_without_ranges_starts_anew() {
    let (server, cache) = (Server::start(), Cache::new());
    server.set(|play| play.cuts = vec![Cut::Close(1000), Cut::Close(0)]);
    cache.refused(cache.command(server.port, &["pull", NAME]));
    server.set(|play| play.ranges = false);
    cache.pulled(&server);
    assert_eq!(std::fs::read(cache.path()).unwrap(), bytes());
}

#[test]
fn a_part_that_is_whole_already_needs_no_transfer() {
    let (server, cache) = (Server::start(), Cache::new());
    std::fs::create_dir(cache.0.path().join(NAME)).unwrap();
    let part = format!("safetensors.{}.part", &hex(&Sha256::digest(bytes()))[..16]);
    std::fs::write(cache.path().with_extension(&part), bytes()).unwrap();
    cache.pulled(&server);
    assert!(server.transfers().is_empty());
    // One that is too long is no part of it.
    std::fs::remove_file(cache.path()).unwrap();
    std::fs::write(cache.path().with_extension(&part), vec![0; LENGTH + 1]).unwrap();
    assert_eq!(cache.pulled(&server)["transferred"], LENGTH);
}

#[test]
fn a_wrong_checksum_leaves_nothing_behind() {
    let (server, cache) = (Server::start(), Cache::new());
    let announced = hex(&Sha256::digest(b"something else"));
    server.set(|play| play.etag = announced.clone());
    let told = cache.refused(cache.command(server.port, &["pull", NAME]));
    assert!(told.contains(&format!("has the hash {}", hex(&Sha256::digest(bytes())))), "{told}");
    assert!(told.contains(&format!("the hub announces {announced}")) && told.contains("--weights"), "{told}");
    assert_eq!(cache.files(), [""; 0]);
}

#[test]
fn a_small_file_is_checked_as_git_does() {
    let (server, cache) = (Server::start(), Cache::new());
    let blob = [format!("blob {LENGTH}\0").as_bytes(), &bytes()].concat();
    server.set(|play| play.etag = hex(&Sha1::digest(&blob)));
    assert_eq!(cache.pulled(&server)["hash"], hex(&Sha1::digest(&blob)));
    server.set(|play| play.etag = hex(&Sha1::digest(b"other")));
    std::fs::remove_file(cache.path()).unwrap();
    assert!(text(&cache.pull(&server).stderr).contains("has the hash"));
    assert!(!cache.path().exists());
}

#[test]
fn refusals_say_what_to_do() {
    let (server, cache) = (Server::start(), Cache::new());
    let url = format!("http://127.0.0.1:{}{FILE}", server.port);
    for (status, advice) in
        [(404, "see to HF_ENDPOINT"), (401, "not open to everybody"), (429, "wait a while"), (503, "later")]
    {
        server.set(|play| play.status = Some(status));
        let told = cache.refused(cache.command(server.port, &["pull", NAME]));
        assert!(told.starts_with(&format!("reelseek: {url} answers {status}: ")) && told.contains(advice), "{told}");
    }
    // A page where a hub should be, a redirect to nowhere, and a hub whose ETag is no hash.
    for status in [200, 302] {
        server.set(|play| play.status = Some(status));
        let told = cache.refused(cache.command(server.port, &["pull", NAME]));
        assert!(told.contains("does not answer as a hub does") && told.contains("--weights"), "{told}");
    }
    server.set(|play| (play.status, play.etag) = (None, "W/5f3a".into()));
    let told = cache.refused(cache.command(server.port, &["pull", NAME]));
    assert!(told.contains("the ETag `w/5f3a` is no hash"), "{told}");
    assert_eq!(cache.files(), [""; 0]);
}

/// A hub that answers each request with this head, or never; its port, and a sign for each request.
fn odd_hub(head: Option<String>) -> (u16, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, requests) = channel();
    std::thread::spawn(move || {
        // Those that wait for an answer keep waiting.
        let mut waiting = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(&stream);
            while reader.read_line(&mut line).unwrap_or(0) > 2 {
                line.clear();
            }
            asked.send(()).ok();
            match &head {
                Some(head) => write!(stream, "{head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap_or(()),
                None => waiting.push(stream),
            }
        }
    });
    (port, requests)
}

#[test]
fn a_redirect_without_end_or_aim_is_no_hub() {
    let told = format!("X-Repo-Commit: {COMMIT}\r\nETag: \"{}\"", hex(&Sha256::digest(bytes())));
    for (head, expected, most) in [
        (format!("HTTP/1.1 302 Found\r\n{told}\r\nLocation: {FILE}"), "more than 10 redirects", 11),
        (format!("HTTP/1.1 302 Found\r\n{told}"), "a redirect that leads nowhere", 1),
        (format!("HTTP/1.1 200 OK\r\n{told}"), "no Content-Range", 1),
        ("HTTP/1.1 200 OK\r\nETag: \"5\"".to_owned(), "no X-Repo-Commit", 1),
    ] {
        let cache = Cache::new();
        let (port, requests) = odd_hub(Some(head));
        let told = cache.refused(cache.command(port, &["pull", NAME]));
        assert!(told.contains(&format!("does not answer as a hub does ({expected}")), "{told}");
        assert_eq!((requests.try_iter().count(), cache.files().len()), (most, 0), "{expected}");
    }
}

#[test]
fn a_hub_that_never_answers_is_not_awaited_for_ever() {
    let cache = Cache::new();
    let (port, _requests) = odd_hub(None);
    let mut command = cache.command(port, &["pull", NAME]);
    command.env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
    let told = cache.refused(command);
    assert!(told.contains("cannot be reached (timeout") && told.contains("--weights"), "{told}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_does_not_wait_for_an_answer() {
    let cache = Cache::new();
    let (port, requests) = odd_hub(None);
    let child = cache.command(port, &["pull", NAME]).spawn().unwrap();
    requests.recv().unwrap();
    let start = std::time::Instant::now();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("mobilenet-v2: stopped before anything was fetched"), "{told}");
    assert!(start.elapsed() < std::time::Duration::from_secs(30), "the hub's minute is not waited for");
}

#[test]
fn without_a_network_or_offline_nothing_is_tried_twice() {
    let cache = Cache::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let told = cache.refused(cache.command(closed, &["pull", NAME]));
    assert!(told.contains("cannot be reached (") && told.contains("--weights"), "{told}");

    let server = Server::start();
    let mut offline = cache.command(server.port, &["pull", NAME]);
    offline.env("HF_HUB_OFFLINE", "1");
    let told = cache.refused(offline);
    assert!(told.contains("HF_HUB_OFFLINE is set") && told.contains(&*cache.path().to_string_lossy()), "{told}");
    assert_eq!((server.requests(), cache.files().len()), (0, 0));
}

#[test]
fn names_are_known_before_anything_is_fetched() {
    let (server, cache) = (Server::start(), Cache::new());
    for (name, told) in [
        ("nosuch", "no encoder is called `nosuch`; this version has: layout, "),
        ("layout", "there is nothing to fetch"),
        ("onnx:my.onnx", "a file of your own (my.onnx)"),
    ] {
        let error = cache.refused(cache.command(server.port, &["pull", NAME, name]));
        assert!(error.contains(told), "{error}");
    }
    assert_eq!(server.requests(), 0);
}

#[test]
fn the_list_tells_how_to_get_what_is_not_here() {
    let cache = Cache::new();
    let output = cache.command(0, &["list"]).output().unwrap();
    let list = text(&output.stdout);
    for told in [
        "layout\n",
        "weights   part of the program\n",
        "weights   not here; 14.2 MB with `reelseek encoders pull mobilenet-v2`\n",
        "source    Sandler et al., CVPR 2018; google/mobilenet_v2_1.0_224\n",
        "onnx:FILE\n",
    ] {
        assert!(list.contains(told), "{list}");
    }
}

/// Ctrl-C in the midst of a transfer, and meanwhile another pull of the same file.
#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_has_come() {
    let (server, cache) = (Server::start(), Cache::new());
    let (go, held): (Sender<()>, _) = channel();
    server.set(|play| play.cuts = vec![Cut::Hold(1000, held)]);
    let mut child = cache.command(server.port, &["pull", NAME]).spawn().unwrap();
    let is_part_there = || {
        let files = cache.files();
        files.first().is_some_and(|name| std::fs::metadata(cache.path().with_file_name(name)).unwrap().len() == 1000)
    };
    while !is_part_there() {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let told = cache.refused(cache.command(server.port, &["pull", NAME]));
    assert!(told.contains("is being fetched by another process"), "{told}");

    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut told = String::new();
    stderr.read_line(&mut told).unwrap();
    assert!(told.starts_with("stopping: "), "{told}");
    go.send(()).unwrap();
    stderr.read_to_string(&mut told).unwrap();
    assert!(told.contains("mobilenet-v2: stopped after 1000 of 300000 bytes: they are kept"), "{told}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(cache.pulled(&server)["transferred"], LENGTH - 1000);
}
