//! Shutdown of the server.

use super::*;

#[test]
fn answers_requests_in_progress_and_refuses_new_ones() {
    let folder = TestFolder::with_index();
    let mut server = folder.serve(&[]);
    let frame = folder.scaled_frame("zoom.mp4", "7", "320:180");
    // A request with a partial body, an idle connection, and a request with a partial head.
    let mut running = server.start_upload("/v1/search", frame.len(), &frame[..frame.len() / 2]);
    let idle = server.connect();
    let mut begun = server.connect();
    begun.write_all(b"GET /v1/in").unwrap();
    wait_until("the request is in flight", || server.has_metric("reelseek_requests_in_flight 2"));
    send_signal(&server.child, Signal::TERM);
    let address = server.address().to_owned();
    wait_until("new connections are refused", || TcpStream::connect(&address).is_err());
    assert!(server.child.try_wait().unwrap().is_none(), "it waits for the request");
    running.write_all(&frame[frame.len() / 2..]).unwrap();
    let answer = rest(&running);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("zoom.mp4"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert_eq!((rest(&idle), rest(&begun)), (String::new(), String::new()));
    assert!(server.log().contains("stopped"));
}

#[test]
fn stops_waiting_for_stalled_requests_after_a_while() {
    let folder = TestFolder::with_index();
    let mut server = folder.serve(&[]);
    let _running = server.start_upload("/v1/search", 9, b"half");
    wait_until("the request is in flight", || server.has_metric("reelseek_requests_in_flight 2"));
    let start = Instant::now();
    send_signal(&server.child, Signal::TERM);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[cfg(target_os = "linux")]
#[test]
fn a_hangup_stops_it_unless_it_is_ignored() {
    let folder = TestFolder::with_index();
    let mut server = folder.serve(&[]);
    send_signal(&server.child, Signal::HUP);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(server.log().contains("stopped"));
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" serve --listen 127.0.0.1:0", env!("CARGO_BIN_EXE_reelseek")]);
    command.env("REELSEEK_INDEX", folder.path("index")).env_remove("REELSEEK_TOKEN");
    let mut server = ServerProcess::start(command, &folder);
    send_signal(&server.child, Signal::HUP);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(server.get("/readyz").status, 200);
    send_signal(&server.child, Signal::TERM);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn starts_again_at_the_same_port_after_a_kill() {
    let folder = TestFolder::with_index();
    let mut server = folder.serve(&[]);
    let address = server.address().to_owned();
    for _ in 0..3 {
        // Connections that the server closes keep the port for a while.
        let sockets: Vec<TcpStream> = (0..4).map(|_| server.connect()).collect();
        assert_eq!(server.get("/healthz").status, 200);
        let _running = server.start_upload("/v1/search", 9, b"half");
        send_signal(&server.child, Signal::KILL);
        server.child.wait().unwrap();
        server = ServerProcess::start(folder.command(&["serve", "--listen", &address]), &folder);
        assert_eq!(server.get("/readyz").status, 200);
        drop(sockets);
    }
}

#[test]
fn a_second_signal_stops_at_once() {
    let folder = TestFolder::with_index();
    let mut server = folder.serve(&[]);
    let _running = server.start_upload("/v1/search", 9, b"half");
    wait_until("the request is in flight", || server.has_metric("reelseek_requests_in_flight 2"));
    send_signal(&server.child, Signal::TERM);
    wait_until("it stops", || server.log().contains("stopping"));
    let start = Instant::now();
    send_signal(&server.child, Signal::TERM);
    server.child.wait().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
