//! Many clients, slow clients, idle clients.

use super::*;

/// Lets this process hold many connections.
fn allow_many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// Runs searches one after another, each over its own connection. Returns the time of the slowest.
fn slowest(server: &ServerProcess, searches: usize) -> Duration {
    let body = vector();
    let search = |_| {
        let start = Instant::now();
        let mut stream = server.connect();
        let head = format!(
            "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        let answer = rest(&stream);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        start.elapsed()
    };
    (0..searches).map(search).max().unwrap()
}

/// Limit for a search: much longer than a search on a busy machine, and much shorter than any delay by a slow
/// client.
const PROMPT: Duration = Duration::from_secs(3);

#[test]
fn idle_connections_and_slow_heads_do_not_delay_searches() {
    allow_many_files();
    let folder = TestFolder::with_index();
    let server = folder.serve(&[]);
    let idle: Vec<TcpStream> = (0..1000).map(|_| server.connect()).collect();
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nX-Sl").unwrap();
            stream
        })
        .collect();
    wait_until("all are connected", || server.get("/metrics").text().contains("reelseek_connections 110"));
    let worst = slowest(&server, 50);
    assert!(worst < PROMPT, "{worst:?}");
    // All of them are closed in the end.
    let start = Instant::now();
    for stream in slow.iter().chain(&idle[..10]) {
        rest(stream);
    }
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    wait_until("all are closed", || server.has_metric("reelseek_connections 1"));
}

#[test]
fn evicts_idle_connections_when_all_are_taken() {
    let folder = TestFolder::with_index();
    let server = folder.serve_with_few_files();
    let idle: Vec<TcpStream> = (0..200).map(|_| server.connect()).collect();
    let worst = slowest(&server, 20);
    assert!(worst < PROMPT, "{worst:?}");
    assert!(evicted(&server) >= 100);
    drop(idle);
}

#[test]
fn aborts_stalled_bodies() {
    let folder = TestFolder::with_index();
    let server = folder.serve(&[]);
    let slow: Vec<TcpStream> = (0..40).map(|_| server.start_upload("/v1/search", 5000, b"half")).collect();
    let worst = slowest(&server, 30);
    assert!(worst < PROMPT, "{worst:?}");
    for stream in &slow {
        let answer = rest(stream);
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("{\"error\":"), "{answer}");
    }
}

#[test]
fn slow_bodies_do_not_hold_every_connection() {
    let folder = TestFolder::with_index();
    let server = folder.serve_with_few_files();
    let head = |bytes: usize| {
        format!(
            "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n"
        )
    };
    // A slow body that makes progress. It begins before all others and ends after them.
    let mut picture = folder.scaled_frame("zoom.mp4", "7", "640:360");
    picture.resize(16 * 20_000, 0);
    let (first, later) = picture.split_at(6 * 20_000);
    let mut steady = server.connect();
    steady.write_all(head(picture.len()).as_bytes()).unwrap();
    for piece in first.chunks(20_000) {
        steady.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut slow: Vec<TcpStream> = (0..70).map(|_| server.connect()).collect();
    // Writing to evicted connections fails.
    let mut drip = |bytes: &[u8]| slow.iter_mut().for_each(|stream| stream.write_all(bytes).unwrap_or_default());
    drip(head(5000).as_bytes());
    for piece in later.chunks(20_000) {
        steady.write_all(piece).unwrap();
        drip(b"x");
        let worst = slowest(&server, 1);
        assert!(worst < PROMPT, "{worst:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let answer = rest(&steady);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(evicted(&server) >= 7);
}

/// Number of evicted connections.
fn evicted(server: &ServerProcess) -> u32 {
    let metrics = server.get("/metrics").text();
    let evicted = metrics.lines().find_map(|line| line.strip_prefix("reelseek_connections_evicted_total "));
    evicted.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

/// Number of open file descriptors of the server; 0 where the system does not list them.
fn open_files(server: &ServerProcess) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).map_or(0, Iterator::count)
}

#[test]
fn clients_that_read_nothing_do_not_hold_every_connection_or_file() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 4, "zoom.mp4");
    // More than the buffers of a socket hold.
    let clip = std::fs::File::options().append(true).open(folder.videos().join("zoom.mp4")).unwrap();
    clip.set_len(10_000_000).unwrap();
    folder.index(&[]);
    let server = folder.serve_with_few_files();
    let id = server.json("/v1/videos")["videos"][0]["video"].as_str().unwrap().to_owned();
    let before = open_files(&server);
    let standing: Vec<TcpStream> = (0..150)
        .map(|_| {
            let mut stream = server.connect();
            write!(stream, "GET /v1/media/{id} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            stream
        })
        .collect();
    let worst = slowest(&server, 20);
    assert!(worst < PROMPT, "{worst:?}");
    assert!(evicted(&server) >= 80);
    // A connection costs one descriptor, not one for the socket and one for the file.
    let files = open_files(&server) - before;
    assert!(files < 80, "{files} more files than before");
    // A client that reads gets the whole file although all connections are taken.
    let whole = server.get(&format!("/v1/media/{id}"));
    assert_eq!((whole.status, whole.body.len()), (200, 10_000_000));
    drop(standing);
    wait_until("the memory of all responses is returned", || server.has_metric("reelseek_response_bytes 0"));
}

/// Ten bodies of 25 MB without their last bytes: the whole memory budget.
fn fill(server: &ServerProcess, path: &str) -> Vec<TcpStream> {
    const BYTES: usize = 24_999_000;
    let body = vec![b' '; BYTES];
    (0..10).map(|_| server.start_upload(path, BYTES + 1000, &body)).collect()
}

#[test]
fn stalled_bodies_that_fill_the_budget_do_not_block_searches() {
    let folder = TestFolder::with_index();
    let frame = folder.scaled_frame("zoom.mp4", "7", "2560:1440");
    assert!(frame.len() > 100_000, "{} bytes: too small for a usual picture", frame.len());
    let bearer = format!("Bearer {TOKEN}");
    let closed = folder.serve_with_token(&[]);
    let open = folder.serve(&[]);
    for (server, path) in [(&closed, "/v1/session"), (&open, "/v1/search")] {
        let mut held = fill(server, path);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            let headers = [("content-type", "image/jpeg"), ("authorization", bearer.as_str())];
            let reply = server.send("POST", "/v1/search", &headers, &frame);
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            held.iter_mut().for_each(|stream| stream.write_all(b" ").unwrap_or_default());
        }
        // All of them end: refused, aborted, or too slow.
        for stream in &held {
            let answer = rest(stream);
            let status = answer.get(9..12).unwrap_or("none");
            assert!(["413", "429", "408", "none"].contains(&status), "{path}: {answer}");
        }
        assert!(start.elapsed() < Duration::from_secs(40), "{path}: {:?}", start.elapsed());
    }
}

#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn memory_is_returned_to_the_system_after_large_bodies() {
    let folder = TestFolder::with_index();
    let server = folder.serve(&[]);
    let mut body = folder.scaled_frame("zoom.mp4", "7", "640:360");
    body.resize(24_000_000, 0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..4).for_each(|_| assert_ne!(server.post("/v1/search", "image/jpeg", &body).status, 500)));
        }
    });
    let resident_mb = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1000
    };
    wait_until("less than 100 MB are resident", || resident_mb() < 100);
}

#[test]
fn returns_429_with_retry_after_when_the_queue_is_full() {
    let folder = TestFolder::with_index();
    let server = folder.serve(&["--workers", "1", "--queue", "2"]);
    // The picture is large, so that each search takes a while.
    let frame = folder.scaled_frame("bars.avi", "5", "6000:4000");
    let statuses: Vec<(u16, bool)> = std::thread::scope(|scope| {
        let ask = || {
            let reply = server.post("/v1/search", "image/jpeg", &frame);
            (reply.status, reply.header("retry-after") == "1")
        };
        let all: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
        // Health needs no worker.
        assert_eq!(server.get("/healthz").status, 200);
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let count = |wanted| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!(count((200, false)) + count((429, true)), 12, "{statuses:?}");
    assert!(count((200, false)) >= 3 && count((429, true)) >= 1, "{statuses:?}");
    assert!(server.has_metric("reelseek_queue_depth 0"));
}
