//! Tests of the router with its handlers and guards, without a socket.

mod api;
mod auth;
mod guards;
mod openapi;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use reelseek_index::{Index, IndexSettings, Span, Video};
use serde_json::Value;
use tower::ServiceExt;

use super::guard::fetch::{FetchClient, Fetcher};
use super::state::App;
use super::{ServeOptions, Token, router};

/// Length of the vectors of the embedded checkpoint.
const DIM: usize = 128;

/// A router on its own index.
struct Server {
    app: App,
    router: Router,
    folder: tempfile::TempDir,
}

fn options(index: &Path) -> ServeOptions {
    ServeOptions::new(index).workers(2).queue(8).cache_bytes(1_000_000)
}

/// A vector that points along one axis, and a little along the next.
fn vector(axis: usize) -> Vec<f32> {
    let mut vector = vec![0.0; DIM];
    vector[axis % DIM] = 0.9;
    vector[(axis + 1) % DIM] = 0.1;
    vector
}

/// Adds a video of three rows of ten seconds, along three axes that depend on its number.
fn put(index: &Path, number: usize) {
    let index = match Index::exists(index) {
        true => Index::open(index).unwrap(),
        false => Index::create(index, &IndexSettings::new(DIM)).unwrap(),
    };
    let mut writer = index.writer().unwrap();
    let spans: Vec<Span> =
        (0..3).map(|i| Span { start_ms: i * 10_000, end_ms: (i + 1) * 10_000, at_ms: i * 10_000 + 5_000 }).collect();
    let rows: Vec<f32> = (0..3).flat_map(|row| vector(number * 8 + row)).collect();
    let video = Video {
        id: format!("id{number}"),
        path: format!("/secret/folder/clip {number}.mp4"),
        title: format!("clip {number}"),
        labels: vec![if number.is_multiple_of(2) { "even".to_owned() } else { "odd".to_owned() }],
        duration_ms: 30_000,
        ..Video::default()
    };
    writer.put(video, &spans, &rows, &[]).unwrap();
    writer.commit().unwrap();
}

impl Server {
    /// A server on an index of five videos.
    fn new() -> Server {
        Server::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ServeOptions)) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("index");
        (0..5).for_each(|number| put(&index, number));
        Server::on(folder, change)
    }

    fn on(folder: tempfile::TempDir, change: impl FnOnce(&mut ServeOptions)) -> Server {
        let mut options = options(&folder.path().join("index"));
        change(&mut options);
        let app = App::open(options).unwrap();
        Server { router: router(&app).unwrap(), app, folder }
    }

    /// A server that fetches from the addresses for which `allowed` is true.
    fn fetching(allowed: fn(IpAddr) -> bool) -> Server {
        let mut server = Server::with(|options| options.fetch = true);
        let (client, app) = (FetchClient::restricted(allowed), &mut server.app);
        app.fetcher = Arc::new(Fetcher::new(Some(client), &app.bodies, &app.metrics));
        server.router = router(app).unwrap();
        server
    }

    fn with_token() -> Server {
        Server::with(|options| {
            options.token = Some(Token::new("correct horse battery staple".replace(' ', "-").as_str()).unwrap())
        })
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        Reply::of(self.router.clone(), request).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(request(Method::GET, path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, kind: &str, body: impl Into<Body>) -> Reply {
        self.send(request(Method::POST, path).header("content-type", kind).body(body.into()).unwrap()).await
    }

    async fn search(&self, query: &str, vector: &[f32]) -> Value {
        let body = serde_json::json!({ "vector": vector }).to_string();
        let reply = self.post(&format!("/v1/search{query}"), "application/json", body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        reply.json()
    }
}

fn request(method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header("host", "localhost:8787")
}

/// A complete response.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    async fn of(router: Router, request: Request<Body>) -> Reply {
        let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The error text of a response whose JSON is `error` only.
    fn error(&self) -> String {
        assert_eq!(self.header("content-type"), "application/json", "{}", self.text());
        let json = self.json();
        assert_eq!(json.as_object().unwrap().len(), 1, "{json}");
        json["error"].as_str().unwrap().to_owned()
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

/// A multipart form: its Content-Type and its body. Each field has a name, whether it is a file, and a value.
fn form(fields: &[(&str, bool, &[u8])]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, is_file, value) in fields {
        let file = if *is_file { "; filename=\"a.jpg\"\r\nContent-Type: image/jpeg" } else { "" };
        body.extend(format!("--xx\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes());
        body.extend(*value);
        body.extend(b"\r\n");
    }
    body.extend(b"--xx--\r\n");
    ("multipart/form-data; boundary=xx".to_owned(), body)
}

/// A PNG picture of coloured blocks.
fn png() -> Vec<u8> {
    let mut random = crate::base::seeded::Random::new(3, "picture");
    let blocks: Vec<u8> = (0..64 * 3).map(|_| random.up_to(255) as u8).collect();
    let image = image::RgbImage::from_fn(128, 128, |x, y| {
        let at = (y / 16 * 8 + x / 16) as usize * 3;
        image::Rgb([blocks[at], blocks[at + 1], blocks[at + 2]])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}
