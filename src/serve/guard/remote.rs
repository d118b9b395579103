//! Pictures by their address, where the server was told to fetch them: from public addresses only.
//!
//! Addresses are checked after the name was resolved and before the connection is made, for every redirect anew, so that no name server can say one thing
//! to the check and another to the connection.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use bytes::Bytes;
use tokio::sync::Semaphore;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use crate::serve::admission::budget::{Budget, Held};
use crate::serve::connection::body::MAX_BYTES;
use crate::serve::error::ApiError;
use crate::serve::observe::log;
use crate::serve::observe::metrics::Stage;
use crate::serve::state::App;

/// Longest time for all of a picture, redirects included.
const TIME: Duration = Duration::from_secs(15);
/// Longest wait for a turn, where no other limit is given, and how many may wait.
const TURN_TIME: Duration = Duration::from_secs(3);
const MAX_WAITING: usize = 64;
const REDIRECTS: u32 = 5;
/// Fetches at once: they wait for others, and hold a thread and up to 25 MB each.
const AT_ONCE: usize = 8;
/// The longest address that is asked for.
const MAX_URL_BYTES: usize = 4096;

/// What is read of an answer before it is charged.
const PIECE_BYTES: u64 = 64 << 10;

/// What was fetched, and its part of the budget.
struct Fetched {
    bytes: Vec<u8>,
    held: Held,
}

impl AsRef<[u8]> for Fetched {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Fetches pictures.
#[derive(Clone)]
pub(crate) struct Remote {
    agent: ureq::Agent,
    turns: Arc<Semaphore>,
    /// Places for those who wait for one.
    places: Arc<Semaphore>,
}

impl Remote {
    pub(crate) fn new() -> Remote {
        Remote::among(is_public)
    }

    /// From the addresses that are allowed.
    pub(crate) fn among(allowed: fn(IpAddr) -> bool) -> Remote {
        let config = Config::builder()
            .max_redirects(REDIRECTS)
            .max_redirects_will_error(true)
            .save_redirect_history(false)
            // A proxy would resolve names itself.
            .proxy(None)
            .user_agent(concat!("reelseek/", env!("CARGO_PKG_VERSION")))
            .accept("image/*")
            .accept_encoding("identity")
            .build();
        let resolver = Public { inner: DefaultResolver::default(), allowed };
        Remote {
            agent: ureq::Agent::with_parts(config, DefaultConnector::default(), resolver),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            places: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    /// The bytes behind an address, which are charged to the budget as long as they live.
    fn get(&self, url: &str, until: Instant, budget: &Arc<Budget>) -> Result<Bytes, ApiError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(bad("there was no time left to ask the address"));
        }
        let request = self.agent.get(url).config().timeout_global(Some(left)).build();
        let response = request.call().map_err(refused)?;
        let mut fetched = Fetched { bytes: Vec::new(), held: Held::brief(budget) };
        // One byte more, to see whether there is one.
        let body = response.into_body().into_with_config().limit(MAX_BYTES as u64 + 1).reader();
        let mut body = body.take(MAX_BYTES as u64 + 1);
        loop {
            let before = fetched.bytes.len();
            let read = (&mut body).take(PIECE_BYTES).read_to_end(&mut fetched.bytes);
            read.map_err(|_| bad("the address broke off its answer"))?;
            let more = fetched.bytes.len() - before;
            if fetched.bytes.len() > MAX_BYTES {
                let text = format!("the address sends more than the {} MB that are taken", MAX_BYTES / 1_000_000);
                return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text));
            }
            if more == 0 {
                return Ok(Bytes::from_owner(fetched));
            }
            fetched.held.more(more)?;
        }
    }
}

/// What an address must look like, before anything is asked.
fn check(url: &str) -> Result<(), ApiError> {
    let wrong = |what: &str| Err(ApiError::malformed(format!("`url` {what}: expected http://... or https://...")));
    if url.len() > MAX_URL_BYTES {
        return wrong("is too long");
    }
    let Ok(uri) = url.parse::<Uri>() else { return wrong("is no address") };
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
            wrong("has a user's name in it")
        }
        (Some("http" | "https"), Some(authority)) if !authority.host().is_empty() => Ok(()),
        _ => wrong("is not of the web"),
    }
}

fn bad(text: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_GATEWAY, text)
}

fn refused(error: ureq::Error) -> ApiError {
    bad(match error {
        ureq::Error::StatusCode(status) => format!("the address answers {status}"),
        ureq::Error::HostNotFound => "the address has no public host".to_owned(),
        ureq::Error::Timeout(_) => "the address does not answer in time".to_owned(),
        ureq::Error::TooManyRedirects => "the address leads from one to another without end".to_owned(),
        // What the network says of other machines is nobody's business.
        _ => "the address cannot be reached".to_owned(),
    })
}

/// Resolves names as the system does, and keeps the addresses that are allowed.
#[derive(Debug)]
struct Public {
    inner: DefaultResolver,
    allowed: fn(IpAddr) -> bool,
}

impl Resolver for Public {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        let mut kept = self.empty();
        let allowed = |address: &&SocketAddr| (self.allowed)(address.ip());
        found.iter().filter(allowed).for_each(|address| kept.push(*address));
        if kept.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(kept) }
    }
}

/// Whether an address is one of the public internet: none of the special-purpose ones of IANA's registries (RFC 6890), and no IPv6 address that carries
/// an IPv4 one to somewhere else.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(a == 0
        || a == 10
        || a == 127
        || a >= 224
        || (a == 100 && b & 0xc0 == 64)
        || (a == 169 && b == 254)
        || (a == 172 && b & 0xf0 == 16)
        || (a == 192 && b == 168)
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && b & 0xfe == 18)
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113))
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        // Translated by NAT64: the IPv4 address is where it goes.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_public_v4(v4(high, low)),
        // 6to4.
        [0x2002, high, low, ..] => is_public_v4(v4(high, low)),
        // Protocol assignments (Teredo, ORCHID), documentation (two prefixes), and 6bone of old.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3ffe, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Only this block is given out: mapped, loopback, link-local, site-local, unique local and multicast addresses lie outside.
        [0x2000..=0x3fff, ..] => true,
        _ => false,
    }
}

impl App {
    /// Fetches a picture, if the server may; if `until` is given, it must be there by then.
    ///
    /// # Errors
    /// 403 if it may not, 400 for what is no address, 502 if nothing good comes in time, 413 if too much comes, 429 if too many are fetched at once.
    pub(crate) async fn fetch(&self, url: String, until: Option<Instant>) -> Result<Bytes, ApiError> {
        let Some(remote) = &self.remote else {
            let text = "this server does not fetch pictures: send the picture itself, or start it with --fetch";
            return Err(ApiError::new(StatusCode::FORBIDDEN, text));
        };
        check(&url)?;
        // The fetch keeps its turn, even if nobody waits for it any more.
        let busy = || ApiError::busy("too many fetches at once: try again in a moment");
        let place = remote.places.clone().try_acquire_owned().map_err(|_| busy())?;
        let patience = until.unwrap_or_else(|| Instant::now() + TURN_TIME);
        let turn = tokio::time::timeout_at(patience.into(), remote.turns.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| busy())?.map_err(|error| ApiError::internal(&error))?;
        drop(place);
        // What was waited for the turn is not the address's fault.
        let start = Instant::now();
        let until = until.map_or(start + TIME, |until| until.min(start + TIME));
        let (worker, budget) = (remote.clone(), self.bodies.clone());
        let fetched = log::blocking(move || {
            let _turn = turn;
            worker.get(&url, until, &budget)
        })
        .await;
        self.metrics.observe(Stage::Fetch, start.elapsed());
        fetched.map_err(|error| ApiError::internal(&error))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    #[test]
    fn special_addresses_are_not_public() {
        let closed = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        for ip in closed {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        let open = [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ];
        for ip in open {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn what_is_not_of_the_web_is_refused_before_anything_is_asked() {
        for url in [
            "",
            "x",
            "/etc/passwd",
            "file:///etc/passwd",
            "ftp://a.org/x",
            "gopher://a.org/",
            "http://",
            "http://me:secret@a.org/x",
            "data:image/png;base64,AA",
        ] {
            assert_eq!(check(url).unwrap_err().status, StatusCode::BAD_REQUEST, "{url}");
        }
        assert!(check("https://example.org/a.jpg?b=c").is_ok());
        assert!(check(&format!("http://a.org/{}", "a".repeat(MAX_URL_BYTES))).is_err());
    }

    /// A server on loopback that answers each connection with the next of these.
    fn server(answers: Vec<Vec<u8>>) -> (u16, std::thread::JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let mut served = 0;
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                if answer.is_empty() {
                    break;
                }
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                // Who has heard enough closes.
                let _ = stream.write_all(&answer);
                served += 1;
            }
            served
        });
        (port, thread)
    }

    fn answer(status: &str, body: &[u8]) -> Vec<u8> {
        let mut bytes =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len()).into_bytes();
        bytes.extend(body);
        bytes
    }

    fn redirect(to: &str) -> Vec<u8> {
        format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
    }

    fn get(remote: &Remote, url: &str) -> Result<Bytes, ApiError> {
        remote.get(url, Instant::now() + TIME, &Arc::default())
    }

    /// Loopback under its usual address only: what follows stands in for the public internet, 127.0.0.2 for what is not.
    fn usual(ip: IpAddr) -> bool {
        ip == IpAddr::V4(Ipv4Addr::LOCALHOST)
    }

    #[test]
    fn a_picture_comes_over_a_redirect() {
        let (port, thread) = server(vec![redirect("/there"), answer("200 OK", b"picture")]);
        let bytes = get(&Remote::among(usual), &format!("http://127.0.0.1:{port}/here")).unwrap();
        assert_eq!((&bytes[..], thread.join().unwrap()), (&b"picture"[..], 2));
    }

    #[test]
    fn redirects_are_checked_as_the_first_address_is() {
        for to in ["http://127.0.0.2:{port}/", "http://[::1]:{port}/", "file:///etc/passwd", "ftp://127.0.0.1:{port}/"]
        {
            let (port, thread) = server(vec![redirect(&to.replace("{port}", "1"))]);
            let error = get(&Remote::among(usual), &format!("http://127.0.0.1:{port}/")).unwrap_err();
            assert_eq!((error.status, thread.join().unwrap()), (StatusCode::BAD_GATEWAY, 1), "{to}");
        }
    }

    #[test]
    fn a_name_is_judged_by_its_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["localhost", "127.0.0.1", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
            let error = get(&Remote::new(), &format!("http://{host}:{port}/")).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_GATEWAY, "{host}");
        }
        assert!(listener.accept().is_err(), "nobody ever connected");
    }

    #[test]
    fn what_is_too_large_or_refused_is_told_so() {
        let (port, thread) = server(vec![answer("200 OK", &vec![7; MAX_BYTES + 1])]);
        let error = get(&Remote::among(usual), &format!("http://127.0.0.1:{port}/")).unwrap_err();
        assert_eq!(error.status, StatusCode::PAYLOAD_TOO_LARGE);
        thread.join().unwrap();
        let (port, thread) = server(vec![answer("404 Not Found", b"no")]);
        let error = get(&Remote::among(usual), &format!("http://127.0.0.1:{port}/")).unwrap_err();
        assert_eq!((error.status, error.message.as_str()), (StatusCode::BAD_GATEWAY, "the address answers 404"));
        thread.join().unwrap();
        let (port, thread) = server((0..6).map(|_| redirect("/again")).collect());
        let error = get(&Remote::among(usual), &format!("http://127.0.0.1:{port}/")).unwrap_err();
        assert_eq!(error.status, StatusCode::BAD_GATEWAY);
        thread.join().unwrap();
    }

    #[test]
    fn what_is_fetched_is_in_the_budget_as_long_as_it_lives() {
        let (port, thread) = server(vec![answer("200 OK", &vec![7; 300_000])]);
        let budget = Arc::<Budget>::default();
        let url = format!("http://127.0.0.1:{port}/");
        let bytes = Remote::among(usual).get(&url, Instant::now() + TIME, &budget).unwrap();
        thread.join().unwrap();
        assert_eq!((bytes.len(), budget.held()), (300_000, 300_000));
        drop(bytes);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn an_address_that_does_not_answer_costs_no_more_than_the_time_that_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port());
        let start = Instant::now();
        for left in [Duration::ZERO, Duration::from_millis(200)] {
            let error = Remote::among(usual).get(&url, Instant::now() + left, &Arc::default()).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_GATEWAY, "{}", error.message);
        }
        assert!(start.elapsed() < TIME, "{:?}", start.elapsed());
    }
}
