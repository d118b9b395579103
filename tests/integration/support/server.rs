//! A running server and its HTTP replies.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{TIMEOUT, TestFolder, text};

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A process of `reelseek serve`, which is killed when dropped.
pub(crate) struct ServerProcess {
    pub(crate) child: Child,
    /// `http://HOST:PORT`.
    pub(crate) base: String,
    /// Text that no reply may contain, such as a part of the videos' path.
    pub(crate) secret: Option<String>,
    log: PathBuf,
    agent: ureq::Agent,
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Fails if the process has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl ServerProcess {
    /// Starts a command and waits until it listens. Its standard error is written to `log`.
    pub(crate) fn start(mut command: Command, folder: &TestFolder) -> ServerProcess {
        let log = folder.path("log");
        let stderr = std::fs::File::create(&log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(base) = line.trim().strip_prefix("listening on ") else {
            panic!("it did not start: {line:?} {}", std::fs::read_to_string(log).unwrap());
        };
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT)).proxy(None);
        let secret = folder.root().file_name().unwrap().to_str().unwrap().to_owned();
        ServerProcess { child, base: base.to_owned(), secret: Some(secret), log, agent: config.build().new_agent() }
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> &str {
        self.base.strip_prefix("http://").unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        stream
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> HttpReply {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = match body.is_empty() {
            true => self.agent.run(request.body(()).unwrap()),
            false => self.agent.run(request.body(body).unwrap()),
        };
        let (parts, mut body) = response.unwrap().into_parts();
        let body = body.with_config().limit(1 << 30).read_to_vec().unwrap();
        let reply = HttpReply { status: parts.status.as_u16(), headers: parts.headers, body };
        if let Some(secret) = &self.secret {
            let text = format!("{:?} {}", reply.headers, reply.text());
            assert!(!text.contains(secret.as_str()), "a path is in the reply to {method} {path}: {text}");
        }
        reply
    }

    pub(crate) fn get(&self, path: &str) -> HttpReply {
        self.send("GET", path, &[], b"")
    }

    pub(crate) fn get_with_token(&self, path: &str) -> HttpReply {
        self.send("GET", path, &[("authorization", &format!("Bearer {TOKEN}"))], b"")
    }

    pub(crate) fn post(&self, path: &str, content_type: &str, body: &[u8]) -> HttpReply {
        self.send("POST", path, &[("content-type", content_type)], body)
    }

    /// The JSON of a successful reply.
    pub(crate) fn json(&self, path: &str) -> Value {
        let reply = self.get(path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.json()
    }

    /// Repeats a request until its JSON fulfils a condition.
    pub(crate) fn wait(&self, path: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let value = self.get(path).json();
            if condition(&value) {
                return value;
            }
            assert!(start.elapsed() < TIMEOUT, "{path} stays {value}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[derive(Debug)]
pub(crate) struct HttpReply {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl HttpReply {
    /// The value of a header; empty if the reply does not have it.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        text(&self.body)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The message of an error with this status.
    pub(crate) fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error: {}", self.text())).to_owned()
    }
}
