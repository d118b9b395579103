//! The server over HTTP, with clips that ffmpeg makes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::*;

mod closed;
mod document;
mod load;
mod stop;

impl TestFolder {
    /// A folder with an index of two clips.
    fn with_index() -> TestFolder {
        let folder = TestFolder::new();
        folder.clip(ZOOM, 12, "zoom.mp4");
        folder.clip(BARS, 12, "bars.avi");
        folder.index(&[]);
        folder
    }

    /// A frame of a clip as JPEG, scaled to this size.
    fn scaled_frame(&self, clip: &str, at: &str, size: &str) -> Vec<u8> {
        std::fs::read(self.filtered_frame(clip, at, &format!("scale={size}"), "frame.jpg")).unwrap()
    }

    /// Starts a server whose limit of open files leaves room for 64 connections only.
    fn serve_with_few_files(&self) -> ServerProcess {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 300; exec \"$0\" serve --listen 127.0.0.1:0", env!("CARGO_BIN_EXE_reelseek")]);
        command.env("REELSEEK_INDEX", self.path("index")).env_remove("REELSEEK_TOKEN");
        ServerProcess::start(command, self)
    }
}

impl ServerProcess {
    /// Starts to upload a picture: sends the headers, which announce this length, and part of the body.
    fn start_upload(&self, path: &str, length: usize, part: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // Fails if the server refuses or aborts the body.
        let _ = stream.write_all(part);
        stream
    }

    /// Whether the metrics contain this line.
    fn has_metric(&self, line: &str) -> bool {
        self.get("/metrics").text().lines().any(|metric| metric == line)
    }
}

/// The remaining text of a connection.
fn rest(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset ends the text too.
    let _ = stream.read_to_end(&mut bytes);
    text(&bytes)
}

fn form(name: &str, image: &[u8]) -> (String, Vec<u8>) {
    let head = format!(
        "--xx\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"a.jpg\"\r\nContent-Type: image/jpeg\r\n\r\n"
    );
    ("multipart/form-data; boundary=xx".to_owned(), [head.as_bytes(), image, b"\r\n--xx--\r\n"].concat())
}

fn vector() -> Vec<u8> {
    let vector: Vec<f32> = (0..128).map(|i| if i % 7 == 0 { 1.0 } else { 0.1 }).collect();
    json!({ "vector": vector, "top": 2 }).to_string().into()
}

#[test]
fn finds_the_same_as_the_command_line() {
    let folder = TestFolder::with_index();
    let server = folder.serve(&[]);
    let frame = folder.scaled_frame("zoom.mp4", "7", "320:180");
    let (kind, body) = form("image", &frame);
    let formed = server.post("/v1/search?top=2", &kind, &body).json();
    let best = &formed["results"][0];
    assert_eq!(
        (&best["name"], &best["title"], best.get("path")),
        (&"zoom.mp4".into(), &"zoom".into(), None),
        "{formed}"
    );
    assert!((best["at"].as_f64().unwrap() - 7.0).abs() <= 2.0 && best["confidence"].as_f64() > Some(0.95), "{best}");
    let raw = server.post("/v1/search?top=2", "image/jpeg", &frame).json();
    assert_eq!(raw["results"], formed["results"]);

    folder.write("q.jpg", &frame);
    let printed = folder.json(&["search", "--json", "--top", "2", "@q.jpg"]);
    for (ours, theirs) in formed["results"].as_array().unwrap().iter().zip(printed["results"].as_array().unwrap()) {
        for field in ["rank", "video", "title", "score", "confidence", "from", "at", "to", "duration", "labels"] {
            assert_eq!(ours[field], theirs[field], "{field}");
        }
    }

    let batch = server.post("/v1/search/batch?top=2", &kind, &body).json();
    assert_eq!(batch["answers"][0]["results"], formed["results"]);
    let traced = server.post("/search?cutBorders", "application/x-www-form-urlencoded", &frame).json();
    let first = &traced["result"][0];
    assert_eq!(
        (&first["filename"], &first["at"], &first["similarity"]),
        (&"zoom.mp4".into(), &best["at"], &best["confidence"])
    );
    assert_eq!(first["image"], format!("{}{}", server.base, best["thumbnail"].as_str().unwrap()));
}

#[test]
fn opens_new_commits_without_a_restart() {
    let folder = TestFolder::new();
    let server = folder.serve(&["--await-index"]);
    assert_eq!((server.get("/readyz").status, &server.json("/v1/info")["index"]), (503, &false.into()));
    folder.clip(ZOOM, 12, "zoom.mp4");
    folder.index(&[]);
    wait_until("the first index", || server.json("/v1/info")["videos"] == 1);
    assert_eq!(server.get("/readyz").status, 200);
    let before = server.json("/v1/info")["generation"].as_u64().unwrap();
    folder.clip(BARS, 12, "bars.avi");
    folder.index(&[]);
    wait_until("the second video", || server.json("/v1/info")["videos"] == 2);
    assert!(server.json("/v1/info")["generation"].as_u64().unwrap() > before);
    let frame = folder.scaled_frame("bars.avi", "5", "320:180");
    assert_eq!(server.post("/v1/search", "image/jpeg", &frame).json()["results"][0]["name"], "bars.avi");
    // A removal as well.
    assert!(folder.run(&["remove", "@videos/bars.avi"]).status.success());
    wait_until("the removal", || server.json("/v1/info")["videos"] == 1);
}

#[test]
fn serves_the_previous_commit_while_the_index_is_damaged() {
    let folder = TestFolder::with_index();
    let server = folder.serve(&[]);
    let meta = "index/text/meta.json";
    let sound = folder.read(meta);
    folder.write(meta, "{");
    wait_until("the warning", || server.log().contains("cannot open the index"));
    let frame = folder.scaled_frame("zoom.mp4", "7", "320:180");
    let reply = server.post("/v1/search", "image/jpeg", &frame);
    assert_eq!((reply.status, &reply.json()["results"][0]["name"]), (200, &"zoom.mp4".into()));
    folder.write(meta, sound);
    folder.clip(CELLS, 12, "cells.mkv");
    folder.index(&[]);
    wait_until("the new commit", || server.json("/v1/info")["videos"] == 3);
}
