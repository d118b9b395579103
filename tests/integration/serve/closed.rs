//! Requests that the server refuses, and data that it never reveals.

use super::*;

#[test]
fn listens_to_the_network_only_with_a_token_or_no_auth() {
    let place = Place::new();
    let refused = place.run(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(refused.status.code(), Some(2));
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("REELSEEK_TOKEN") && message.contains("--no-auth"), "{message}");

    let file = place.path("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let command = place.command(&["serve", "--listen", "0.0.0.0:0", "--token-file", file.to_str().unwrap()]);
    let mut server = Server::start(command, &place.path("log"));
    server.base = server.base.replace("0.0.0.0", "127.0.0.1");
    assert_eq!(server.get("/v1/info").status, 401);
    let bearer =
        server.agent.get(format!("{}/v1/info", server.base)).header("authorization", format!("Bearer {TOKEN}"));
    assert_eq!(Reply::of(bearer.call()).status, 200);
    drop(server);

    let command = place.command(&["serve", "--listen", "0.0.0.0:0", "--no-auth"]);
    let mut server = Server::start(command, &place.path("log"));
    server.base = server.base.replace("0.0.0.0", "127.0.0.1");
    assert_eq!(server.get("/v1/info").status, 200);

    std::fs::write(&file, "\n").unwrap();
    let empty = place.run(&["serve", "--token-file", file.to_str().unwrap()]);
    assert_eq!(empty.status.code(), Some(2));
    let taken = place.run(&["serve", "--no-auth", "--listen", &server.address().replace("127.0.0.1", "0.0.0.0")]);
    assert!(String::from_utf8_lossy(&taken.stderr).contains("name another address with --listen"));
}

#[test]
fn refuses_rebound_names_and_pages_of_other_origins() {
    let place = Place::new();
    let server = place.serve(&["--allow-host", "videos.test", "--cors", "https://app.test"]);
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
    let place = Place::new();
    let server = place.serve_with_token(&[]);
    let body = json!({ "token": TOKEN }).to_string();
    let session = server.post("/v1/session", "application/json", body.as_bytes());
    assert_eq!(session.status, 204);
    let cookie = session.head["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let frame = place.frame("zoom.mp4", "7", "320:180");
    let search = server
        .agent
        .post(format!("{}/v1/search", server.base))
        .header("cookie", &cookie)
        .header("content-type", "image/jpeg");
    let best = Reply::of(search.send(&frame[..])).json()["results"][0].clone();
    for (link, kind) in [("thumbnail", "image/jpeg"), ("preview", "video/"), ("media", "video/mp4")] {
        let link = best[link].as_str().unwrap();
        let (unsigned, key) = link.split_once("key=").unwrap();
        assert!(key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit()), "{link}");
        // Without a token or cookie, also with the parameters that clients of trace.moe append.
        for link in [link.to_owned(), format!("{link}&size=l&mute")] {
            let mut opened = server.agent.get(format!("{}{link}", server.base)).call().unwrap();
            assert_eq!(opened.status().as_u16(), 200, "{link}");
            assert!(opened.headers()["content-type"].to_str().unwrap().starts_with(kind), "{link}");
            assert!(opened.body_mut().read_to_vec().unwrap().len() > 1000, "{link}");
        }
        assert_eq!(server.get(&unsigned[..unsigned.len() - 1]).status, 401);
    }
}

#[test]
fn logs_every_request_and_no_secret() {
    let place = Place::new();
    let mut server = place.serve_with_token(&["--log", "json"]);
    let bearer = |path: &str| {
        let request =
            server.agent.get(format!("{}{path}", server.base)).header("authorization", format!("Bearer {TOKEN}"));
        Reply::of(request.call())
    };
    let info = bearer("/v1/info?secret-word=1");
    bearer("/v1/media/whatever?key=0123456789abcdef0123456789abcdef");
    bearer("/search?url=http%3A%2F%2Fsecret-host.test%2F");
    server.post("/v1/session", "application/json", json!({ "token": TOKEN }).to_string().as_bytes());
    server.get("/secret-path");
    stop::terminate(&server);
    server.child.wait().unwrap();
    let log = server.log();
    for secret in [TOKEN, "key=", "secret", "url="] {
        assert!(!log.contains(secret), "{secret} is in\n{log}");
    }
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    let requests: Vec<&Value> = lines.iter().filter(|line| line["message"] == "request").collect();
    assert_eq!(requests.len(), 5, "{log}");
    assert_eq!(requests[0]["id"], info.head["x-request-id"].to_str().unwrap());
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
    let place = Place::new();
    let server = place.serve(&["--log", "json", "--workers", "1"]);
    let listed: Value = serde_json::from_str(&server.get("/v1/videos").body).unwrap();
    let frame = place.frame("bars.avi", "5", "6000:4000");
    // The index is damaged while it is searched.
    let segment = std::fs::read_dir(place.path("index/segments")).unwrap().next().unwrap().unwrap().path();
    std::fs::OpenOptions::new().write(true).open(segment).unwrap().set_len(100).unwrap();
    let reply = server.post("/v1/search", "application/json", &vector());
    assert_eq!((reply.status, reply.error().contains("segments")), (500, false), "{}", reply.body);
    // The video is damaged after it was indexed.
    let (name, id) = (listed["videos"][0]["name"].as_str().unwrap(), listed["videos"][0]["video"].as_str().unwrap());
    std::fs::write(place.path("videos").join(name), b"no video").unwrap();
    let picture = server.get(&format!("/v1/thumbnail?video={id}"));
    assert_eq!(picture.status, 422, "{}", picture.body);
    // A client that leaves within its body.
    let mut half = server.connect();
    let half_from = half.local_addr().unwrap().to_string();
    let head =
        "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 1000\r\n\r\nhalf";
    half.write_all(head.as_bytes()).unwrap();
    drop(half);
    // A client that leaves the queue.
    let ask = || {
        let mut stream = server.connect();
        let head = format!(
            "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n",
            frame.len()
        );
        stream.write_all(&[head.as_bytes(), &frame].concat()).unwrap();
        stream
    };
    let before: Vec<TcpStream> = (0..8).map(|_| ask()).collect();
    let left = ask();
    let from = left.local_addr().unwrap().to_string();
    drop(left);
    // The last line may be half written.
    let lines = || -> Vec<Value> { server.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect() };
    until("both clients are logged", || {
        [&from, &half_from].iter().all(|peer| lines().iter().any(|line| line["peer"] == peer.as_str()))
    });
    let lines = lines();
    let gone = lines.iter().find(|line| line["peer"] == from.as_str()).unwrap();
    assert_eq!((&gone["status"], &gone["message"]), (&499.into(), &"client left".into()), "{gone}");
    let half = lines.iter().find(|line| line["peer"] == half_from.as_str()).unwrap();
    assert_eq!(half["status"], 499, "{half}");
    drop(before);
    let error = lines.iter().find(|line| line["level"] == "ERROR").unwrap();
    let id = reply.head["x-request-id"].to_str().unwrap();
    assert_eq!((&error["span"]["id"], &error["span"]["route"]), (&id.into(), &"/v1/search".into()), "{error}");
    let peer = error["span"]["peer"].as_str().unwrap();
    assert!(peer.starts_with("127.0.0.1:"), "{error}");
    let request = lines.iter().find(|line| line["id"] == id).unwrap();
    assert_eq!((&request["status"], &request["peer"]), (&500.into(), &peer.into()), "{request}");
    let warning =
        lines.iter().find(|line| line["level"] == "WARN" && line["span"]["route"] == "/v1/thumbnail").unwrap();
    assert_eq!(warning["span"]["id"], picture.head["x-request-id"].to_str().unwrap(), "{warning}");
}

#[test]
fn reports_unusable_options_at_the_start() {
    let place = Place::new();
    let file = place.path("token");
    std::fs::write(&file, "x").unwrap();
    let refused = place.run(&["serve", "--index", file.to_str().unwrap()]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not a folder"));
    let refused = place.run(&["serve", "--listen", "localhost"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("expected ADDRESS:PORT"));

    let nowhere = place.path("nowhere");
    let mut command = place.command(&["serve", "--no-auth", "--listen", "localhost:0"]);
    command.args(["--index", nowhere.to_str().unwrap()]).env("REELSEEK_TOKEN", TOKEN);
    let server = Server::start(command, &place.path("log"));
    assert_eq!((server.get("/v1/info").status, server.get("/readyz").status), (200, 503));
    let log = server.log();
    assert!(log.contains(&format!("there is no index at {}", nowhere.display())), "{log}");
    assert!(log.contains("--no-auth admits every request"), "{log}");
}

#[test]
fn fetches_nothing_from_private_addresses() {
    let place = Place::new();
    let server = place.serve(&["--fetch"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"] {
        let encoded = host.replace('[', "%5B").replace(']', "%5D").replace(':', "%3A");
        let reply = server.get(&format!("/search?url=http%3A%2F%2F{encoded}%3A{port}%2Fa.jpg"));
        assert_eq!(reply.status, 502, "{host}: {}", reply.body);
        let body = json!({ "url": format!("http://{host}:{port}/a.jpg") }).to_string();
        let reply = server.post("/v1/search", "application/json", body.as_bytes());
        assert_eq!(reply.status, 502, "{host}: {}", reply.body);
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
    let place = Place::new();
    let server = place.serve(&[]);
    // Sent without waiting: the client still receives the response.
    let large = vec![0; 26_000_000];
    let reply = server.post("/v1/search", "image/jpeg", &large);
    assert_eq!(reply.status, 413);
    assert!(reply.error().contains("25 MB"));
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
    let put = server.agent.put(format!("{}/v1/search", server.base)).send_empty();
    let put = Reply::of(put);
    assert_eq!((put.status, put.head["allow"].to_str().unwrap()), (405, "POST"));
    assert_eq!(server.get("/nothing/here").status, 404);
}

#[test]
fn refuses_library_folders_that_are_not_folders() {
    let place = Place::new();
    for (path, found) in [("nope", "No such file"), ("videos/zoom.mp4", "not a folder")] {
        let refused = place.run(&["serve", "--listen", "127.0.0.1:0", place.path(path).to_str().unwrap()]);
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "{message}");
        assert!(message.contains(found) && message.contains(path), "{message}");
    }
}
