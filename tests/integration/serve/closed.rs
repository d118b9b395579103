//! Requests that the server refuses, and data that it never reveals.

use super::*;

#[test]
fn listens_to_the_network_only_with_a_token_or_no_auth() {
    let folder = TestFolder::with_index();
    let refused = folder.run(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(refused.status.code(), Some(2));
    let message = text(&refused.stderr);
    assert!(message.contains("REELSEEK_TOKEN") && message.contains("--no-auth"), "{message}");

    folder.write("token", format!("{TOKEN}\n"));
    let command = folder.command(&["serve", "--listen", "0.0.0.0:0", "--token-file", "@token"]);
    let mut server = ServerProcess::start(command, &folder);
    server.base = server.base.replace("0.0.0.0", "127.0.0.1");
    assert_eq!(server.get("/v1/info").status, 401);
    assert_eq!(server.get_with_token("/v1/info").status, 200);
    drop(server);

    let command = folder.command(&["serve", "--listen", "0.0.0.0:0", "--no-auth"]);
    let mut server = ServerProcess::start(command, &folder);
    server.base = server.base.replace("0.0.0.0", "127.0.0.1");
    assert_eq!(server.get("/v1/info").status, 200);

    folder.write("token", "\n");
    let empty = folder.run(&["serve", "--token-file", "@token"]);
    assert_eq!(empty.status.code(), Some(2));
    let taken = folder.run(&["serve", "--no-auth", "--listen", &server.address().replace("127.0.0.1", "0.0.0.0")]);
    assert!(text(&taken.stderr).contains("name another address with --listen"));
}

#[test]
fn refuses_rebound_names_and_pages_of_other_origins() {
    let folder = TestFolder::with_index();
    let server = folder.serve(&["--allow-host", "videos.test", "--cors", "https://app.test"]);
    let ask = |method: &str, headers: &str| {
        let mut stream = server.connect();
        write!(stream, "{method} /v1/info HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n")
            .unwrap();
        rest(&stream).split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(ask("GET", "Host: videos.test\r\n"), "200");
    assert_eq!(ask("GET", "Host: evil.test\r\n"), "403");
    assert_eq!(ask("GET", ""), "400");
    assert_eq!(ask("GET", &format!("Host: {}\r\nOrigin: https://app.test\r\n", server.address())), "200");
    assert_eq!(ask("GET", &format!("Host: {}\r\nOrigin: https://evil.test\r\n", server.address())), "403");
    assert_eq!(ask("POST", &format!("Host: {}\r\nSec-Fetch-Site: cross-site\r\n", server.address())), "403");
}

#[test]
fn a_session_cookie_searches_and_signed_links_open_media() {
    let folder = TestFolder::with_index();
    let server = folder.serve_with_token(&[]);
    let body = json!({ "token": TOKEN }).to_string();
    let session = server.post("/v1/session", "application/json", body.as_bytes());
    assert_eq!(session.status, 204);
    let cookie = session.header("set-cookie").split(';').next().unwrap().to_owned();
    let frame = folder.scaled_frame("zoom.mp4", "7", "320:180");
    let headers = [("cookie", cookie.as_str()), ("content-type", "image/jpeg")];
    let best = server.send("POST", "/v1/search", &headers, &frame).json()["results"][0].clone();
    for (link, kind) in [("thumbnail", "image/jpeg"), ("preview", "video/"), ("media", "video/mp4")] {
        let link = best[link].as_str().unwrap();
        let (unsigned, key) = link.split_once("key=").unwrap();
        assert!(key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit()), "{link}");
        // Without a token or cookie, also with the parameters that clients of trace.moe append.
        for link in [link.to_owned(), format!("{link}&size=l&mute")] {
            let opened = server.get(&link);
            assert_eq!(opened.status, 200, "{link}");
            assert!(opened.header("content-type").starts_with(kind), "{link}");
            assert!(opened.body.len() > 1000, "{link}");
        }
        assert_eq!(server.get(&unsigned[..unsigned.len() - 1]).status, 401);
    }
}

#[test]
fn logs_every_request_and_no_secret() {
    let folder = TestFolder::with_index();
    let mut server = folder.serve_with_token(&["--log", "json"]);
    let info = server.get_with_token("/v1/info?secret-word=1");
    server.get_with_token("/v1/media/whatever?key=0123456789abcdef0123456789abcdef");
    server.get_with_token("/search?url=http%3A%2F%2Fsecret-host.test%2F");
    server.post("/v1/session", "application/json", json!({ "token": TOKEN }).to_string().as_bytes());
    server.get("/secret-path");
    send_signal(&server.child, Signal::TERM);
    server.child.wait().unwrap();
    let log = server.log();
    for secret in [TOKEN, "key=", "secret", "url="] {
        assert!(!log.contains(secret), "{secret} is in\n{log}");
    }
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    let requests: Vec<&Value> = lines.iter().filter(|line| line["message"] == "request").collect();
    assert_eq!(requests.len(), 5, "{log}");
    assert_eq!(requests[0]["id"], info.header("x-request-id"));
    assert_eq!(
        (&requests[0]["route"], &requests[0]["status"], &requests[0]["method"]),
        (&"/v1/info".into(), &200.into(), &"GET".into())
    );
    assert!(
        requests.iter().all(|r| r["ms"].is_number() && r["level"] == "INFO" && r["timestamp"].is_string()),
        "{log}"
    );
    assert_eq!((&requests[4]["route"], &requests[4]["status"]), (&"none".into(), &404.into()));
}

#[test]
fn logs_failed_requests_and_clients_that_left() {
    let folder = TestFolder::with_index();
    let server = folder.serve(&["--log", "json", "--workers", "1"]);
    let listed = server.json("/v1/videos");
    let frame = folder.scaled_frame("bars.avi", "5", "6000:4000");
    // The index is damaged while it is searched.
    let segment = std::fs::read_dir(folder.path("index/segments")).unwrap().next().unwrap().unwrap().path();
    std::fs::OpenOptions::new().write(true).open(segment).unwrap().set_len(100).unwrap();
    let reply = server.post("/v1/search", "application/json", &vector());
    assert!(!reply.error(500).contains("segments"), "{}", reply.text());
    // The video is overwritten after it was indexed.
    let (name, id) = (listed["videos"][0]["name"].as_str().unwrap(), listed["videos"][0]["video"].as_str().unwrap());
    folder.write(&format!("videos/{name}"), "no video");
    let picture = server.get(&format!("/v1/thumbnail?video={id}"));
    assert_eq!(picture.status, 410, "{}", picture.text());
    // A client that disconnects in the middle of its body.
    let half = server.start_upload("/v1/search", 1000, b"half");
    let half_from = half.local_addr().unwrap().to_string();
    drop(half);
    // A client that disconnects while it waits in the queue.
    let upload = || server.start_upload("/v1/search", frame.len(), &frame);
    let before: Vec<TcpStream> = (0..8).map(|_| upload()).collect();
    let left = upload();
    let from = left.local_addr().unwrap().to_string();
    drop(left);
    // The last line may be half written.
    let lines = || -> Vec<Value> { server.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect() };
    wait_until("both clients are logged", || {
        [&from, &half_from].iter().all(|peer| lines().iter().any(|line| line["peer"] == peer.as_str()))
    });
    let lines = lines();
    let gone = lines.iter().find(|line| line["peer"] == from.as_str()).unwrap();
    assert_eq!((&gone["status"], &gone["message"]), (&499.into(), &"client left".into()), "{gone}");
    let half = lines.iter().find(|line| line["peer"] == half_from.as_str()).unwrap();
    assert_eq!(half["status"], 499, "{half}");
    drop(before);
    let error = lines.iter().find(|line| line["level"] == "ERROR").unwrap();
    let id = reply.header("x-request-id");
    assert_eq!((&error["span"]["id"], &error["span"]["route"]), (&id.into(), &"/v1/search".into()), "{error}");
    let peer = error["span"]["peer"].as_str().unwrap();
    assert!(peer.starts_with("127.0.0.1:"), "{error}");
    let request = lines.iter().find(|line| line["id"] == id).unwrap();
    assert_eq!((&request["status"], &request["peer"]), (&500.into(), &peer.into()), "{request}");
    let warning =
        lines.iter().find(|line| line["level"] == "WARN" && line["span"]["route"] == "/v1/thumbnail").unwrap();
    assert_eq!(warning["span"]["id"], picture.header("x-request-id"), "{warning}");
}

#[test]
fn reports_unusable_options_at_the_start() {
    let folder = TestFolder::with_index();
    folder.write("token", "x");
    let refused = folder.run(&["serve", "--index", "@token"]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0));
    assert!(text(&refused.stderr).contains("not a folder"));
    let nowhere = folder.path("nowhere");
    let missing = format!("there is no index at {}", nowhere.display());
    let refused = folder.run(&["serve", "--index", "@nowhere"]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0));
    assert!(text(&refused.stderr).contains(&missing) && text(&refused.stderr).contains("--await-index"));
    // An index cannot be made among other files.
    for options in [&["@videos"][..], &["--await-index"]] {
        let refused = folder.run(&[&["serve", "--index", "@videos"], options].concat());
        assert_eq!(refused.status.code(), Some(2));
        assert!(text(&refused.stderr).contains("expected a new or empty folder"), "{}", text(&refused.stderr));
    }
    let refused = folder.run(&["serve", "--listen", "localhost"]);
    assert!(text(&refused.stderr).contains("expected ADDRESS:PORT"));

    let mut command =
        folder.command(&["serve", "@videos", "--no-auth", "--listen", "localhost:0", "--index", "@nowhere"]);
    command.env("REELSEEK_TOKEN", TOKEN);
    let server = ServerProcess::start(command, &folder);
    assert_eq!((server.get("/v1/info").status, server.get("/readyz").status), (200, 503));
    let log = server.log();
    assert!(log.contains(&missing), "{log}");
    assert!(log.contains("--no-auth admits every request"), "{log}");
}

#[test]
fn fetches_nothing_from_private_addresses() {
    let folder = TestFolder::with_index();
    let server = folder.serve(&["--fetch"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"] {
        let encoded = host.replace('[', "%5B").replace(']', "%5D").replace(':', "%3A");
        let reply = server.get(&format!("/search?url=http%3A%2F%2F{encoded}%3A{port}%2Fa.jpg"));
        assert_eq!(reply.status, 502, "{host}: {}", reply.text());
        let body = json!({ "url": format!("http://{host}:{port}/a.jpg") }).to_string();
        let reply = server.post("/v1/search", "application/json", body.as_bytes());
        assert_eq!(reply.status, 502, "{host}: {}", reply.text());
    }
    assert!(listener.accept().is_err(), "no connection was made");
    // The metadata service of clouds.
    let body = json!({ "url": "http://169.254.169.254/latest/meta-data/" }).to_string();
    assert_eq!(server.post("/v1/search", "application/json", body.as_bytes()).status, 502);
    let file = json!({ "url": "file:///etc/passwd" }).to_string();
    assert_eq!(server.post("/v1/search", "application/json", file.as_bytes()).status, 400);
}

#[test]
fn each_unusable_body_has_its_own_status() {
    let folder = TestFolder::with_index();
    let server = folder.serve(&[]);
    // A client that sends its body without waiting still receives the response.
    let large = vec![0; 26_000_000];
    let reply = server.post("/v1/search", "image/jpeg", &large);
    assert!(reply.error(413).contains("25 MB"));
    // A client that sends Expect gets the response before it sends the body.
    let mut stream = server.connect();
    let head = "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 900000000\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let answer = rest(&stream);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(server.post("/v1/search", "image/jpeg", b"no picture").status, 415);
    assert_eq!(server.post("/v1/search", "text/plain", b"no picture").status, 415);
    assert_eq!(server.post("/v1/search", "image/x-portable-pixmap", b"P6\n9000 9000\n255\n").status, 422);
    assert_eq!(server.post("/v1/search", "application/json", b"{").status, 400);
    let put = server.send("PUT", "/v1/search", &[], b"");
    assert_eq!((put.status, put.header("allow")), (405, "POST"));
    assert_eq!(server.get("/nothing/here").status, 404);
}

#[test]
fn refuses_library_folders_that_are_not_folders() {
    let folder = TestFolder::with_index();
    for (path, found) in [("nope", "No such file"), ("videos/zoom.mp4", "not a folder")] {
        let refused = folder.run(&["serve", "--listen", "127.0.0.1:0", &format!("@{path}")]);
        let message = text(&refused.stderr);
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "{message}");
        assert!(message.contains(found) && message.contains(path), "{message}");
    }
}
