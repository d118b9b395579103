//! Fetches pictures by their URL, if enabled: from public addresses only.
//! The addresses of a host name are checked after the name is resolved and before the connection is made,
//! again for every redirect. So a name server cannot return one address to the check and another to the
//! connection.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::http::StatusCode;
use bytes::Bytes;
use tokio::sync::Semaphore;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use crate::serve::admission::budget::{BodyBudget, Reservation};
use crate::serve::error::ApiError;
use crate::serve::limits::{
    FETCH_CHUNK_BYTES, FETCH_QUEUE_TIME, FETCH_TIME, MAX_BODY_BYTES, MAX_FETCHES, MAX_QUEUED_FETCHES, MAX_REDIRECTS,
    MAX_URL_BYTES,
};
use crate::serve::observe::logging::spawn_blocking;
use crate::serve::observe::metrics::{Metrics, Stage};

/// A fetched picture and its share of the memory budget.
struct FetchedPicture {
    bytes: Vec<u8>,
    reservation: Reservation,
}

impl AsRef<[u8]> for FetchedPicture {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Fetches pictures, if the server is allowed to.
pub(crate) struct Fetcher {
    client: Option<FetchClient>,
    /// Permits of running fetches, and of those that wait.
    running: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    budget: Arc<BodyBudget>,
    metrics: Arc<Metrics>,
}

#[derive(Clone)]
pub(crate) struct FetchClient(ureq::Agent);

impl FetchClient {
    /// A client that connects to public addresses only.
    pub(crate) fn public() -> FetchClient {
        FetchClient::restricted(is_public)
    }

    /// A client that connects to the addresses for which `allowed` is true.
    pub(crate) fn restricted(allowed: fn(IpAddr) -> bool) -> FetchClient {
        let config = Config::builder()
            .max_redirects(MAX_REDIRECTS)
            .max_redirects_will_error(true)
            .save_redirect_history(false)
            // A proxy would resolve names itself.
            .proxy(None)
            .user_agent(concat!("reelseek/", env!("CARGO_PKG_VERSION")))
            .accept("image/*, video/*")
            .accept_encoding("identity")
            .build();
        let resolver = FilteredResolver { inner: DefaultResolver::default(), allowed };
        FetchClient(ureq::Agent::with_parts(config, DefaultConnector::default(), resolver))
    }

    /// The bytes behind a URL. They are charged to the budget while they live.
    fn get(&self, url: &str, deadline: Instant, budget: &Arc<BodyBudget>) -> Result<Bytes, ApiError> {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(bad_gateway("the deadline passed before the URL was fetched"));
        }
        let request = self.0.get(url).config().timeout_global(Some(remaining)).build();
        let response = request.call().map_err(fetch_error)?;
        let mut fetched = FetchedPicture { bytes: Vec::new(), reservation: Reservation::fixed(budget) };
        // One byte more than allowed, to detect a picture that is too large.
        let body = response.into_body().into_with_config().limit(MAX_BODY_BYTES as u64 + 1).reader();
        let mut body = body.take(MAX_BODY_BYTES as u64 + 1);
        loop {
            let before = fetched.bytes.len();
            let read = (&mut body).take(FETCH_CHUNK_BYTES).read_to_end(&mut fetched.bytes);
            read.map_err(|_| bad_gateway("the response of the URL is incomplete"))?;
            let more = fetched.bytes.len() - before;
            if fetched.bytes.len() > MAX_BODY_BYTES {
                let text = format!("the URL sends more than the limit of {} MB", MAX_BODY_BYTES / 1_000_000);
                return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text));
            }
            if more == 0 {
                return Ok(Bytes::from_owner(fetched));
            }
            fetched.reservation.grow(more)?;
        }
    }
}

impl Fetcher {
    /// A fetcher, disabled if there is no client.
    pub(crate) fn new(client: Option<FetchClient>, budget: &Arc<BodyBudget>, metrics: &Arc<Metrics>) -> Fetcher {
        Fetcher {
            client,
            running: Arc::new(Semaphore::new(MAX_FETCHES)),
            queue: Arc::new(Semaphore::new(MAX_QUEUED_FETCHES)),
            budget: budget.clone(),
            metrics: metrics.clone(),
        }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.client.is_some()
    }

    /// Fetches a picture, by `deadline` if there is one.
    ///
    /// # Errors
    /// 403 if fetching is disabled, 400 for a malformed URL, 502 if the other server fails or is too slow,
    /// 413 for too many bytes, 429 for too many fetches at once.
    pub(crate) async fn fetch(&self, url: String, deadline: Option<Instant>) -> Result<Bytes, ApiError> {
        let Some(client) = self.client.clone() else {
            let text = "this server does not fetch pictures: send the picture itself, or start the server with --fetch";
            return Err(ApiError::forbidden(text));
        };
        check(&url)?;
        let busy = || ApiError::busy("too many fetches at once: try again in a moment");
        let place = self.queue.clone().try_acquire_owned().map_err(|_| busy())?;
        let start_by = deadline.unwrap_or_else(|| Instant::now() + FETCH_QUEUE_TIME);
        let permit = tokio::time::timeout_at(start_by.into(), self.running.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| busy())?.map_err(|error| ApiError::internal(&error))?;
        drop(place);
        // The time in the queue does not count as time of the other server.
        let start = Instant::now();
        let deadline = deadline.map_or(start + FETCH_TIME, |deadline| deadline.min(start + FETCH_TIME));
        let budget = self.budget.clone();
        let fetched = spawn_blocking(move || {
            // Kept until the fetch ends, even if its client has left.
            let _permit = permit;
            client.get(&url, deadline, &budget)
        })
        .await;
        self.metrics.observe(Stage::Fetch, start.elapsed());
        fetched.map_err(|error| ApiError::internal(&error))?
    }
}

/// Checks a URL before anything is sent.
fn check(url: &str) -> Result<(), ApiError> {
    let wrong = |what: &str| Err(ApiError::malformed(format!("`url` {what}: expected http://... or https://...")));
    if url.len() > MAX_URL_BYTES {
        return wrong("is too long");
    }
    let Ok(uri) = url.parse::<Uri>() else { return wrong("is not a URL") };
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => wrong("contains a user name"),
        (Some("http" | "https"), Some(authority)) if !authority.host().is_empty() => Ok(()),
        _ => wrong("is not a web address"),
    }
}

fn bad_gateway(text: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_GATEWAY, text)
}

fn fetch_error(error: ureq::Error) -> ApiError {
    bad_gateway(match error {
        ureq::Error::StatusCode(status) => format!("the URL returns status {status}"),
        ureq::Error::HostNotFound => "the host of the URL has no public address".to_owned(),
        ureq::Error::Timeout(_) => "the URL does not respond in time".to_owned(),
        ureq::Error::TooManyRedirects => "the URL redirects too often".to_owned(),
        // Details would reveal other machines of the network.
        _ => "the URL cannot be reached".to_owned(),
    })
}

/// Resolves names as the system does, and keeps the allowed addresses.
#[derive(Debug)]
struct FilteredResolver {
    inner: DefaultResolver,
    allowed: fn(IpAddr) -> bool,
}

impl Resolver for FilteredResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        let mut kept = self.empty();
        let allowed = |address: &&SocketAddr| (self.allowed)(address.ip());
        found.iter().filter(allowed).for_each(|address| kept.push(*address));
        if kept.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(kept) }
    }
}

/// Whether an address belongs to the public internet. Addresses of IANA's special-purpose registries (RFC
/// 6890) do not, nor do IPv6 addresses that embed such an IPv4 address.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    // This network, shared addresses, protocol assignments, the former 6to4 relays, benchmarks, multicast and
    // reserved addresses.
    let special = a == 0
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && b & 0xfe == 18)
        || a >= 224;
    !(special || ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_documentation())
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        // NAT64 translates to the embedded IPv4 address.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_public_v4(v4(high, low)),
        // 6to4.
        [0x2002, high, low, ..] => is_public_v4(v4(high, low)),
        // Protocol assignments (Teredo, ORCHID), documentation (two prefixes), and the former 6bone.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3ffe, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Only this block is assigned. Mapped, loopback, link-local, site-local, unique local and multicast
        // addresses are outside of it.
        [0x2000..=0x3fff, ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;
    use std::time::Duration;

    #[test]
    fn only_public_addresses_are_public() {
        let closed = "0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.9.9.9 169.254.169.254 \
            172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 \
            198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 \
            :: ::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 64:ff9b::a00:1 64:ff9b::7f00:1 \
            64:ff9b:1::1 100::1 2001::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:c0a8:101::1 \
            3fff::1 5f00::1 fc00::1 fd12:3456::1 fe80::1 fec0::1 ff02::1";
        for ip in closed.split_whitespace() {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        let open = "1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 192.0.1.1 198.17.0.1 \
            198.20.0.1 223.255.255.255 2606:4700::1111 2a00:1450::1 64:ff9b::808:808 2002:808:808::1";
        for ip in open.split_whitespace() {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn refuses_urls_that_are_not_web_addresses() {
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

    /// A server on loopback that sends the next of these responses on each connection.
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
                // The client may close early.
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

    fn get(client: &FetchClient, url: &str) -> Result<Bytes, ApiError> {
        client.get(url, Instant::now() + FETCH_TIME, &Arc::default())
    }

    /// In these tests 127.0.0.1 stands for a public address and 127.0.0.2 for a private one.
    fn usual(ip: IpAddr) -> bool {
        ip == IpAddr::V4(Ipv4Addr::LOCALHOST)
    }

    #[test]
    fn follows_a_redirect_to_a_picture() {
        let (port, thread) = server(vec![redirect("/there"), answer("200 OK", b"picture")]);
        let bytes = get(&FetchClient::restricted(usual), &format!("http://127.0.0.1:{port}/here")).unwrap();
        assert_eq!((&bytes[..], thread.join().unwrap()), (&b"picture"[..], 2));
    }

    #[test]
    fn checks_the_address_of_every_redirect() {
        for to in ["http://127.0.0.2:{port}/", "http://[::1]:{port}/", "file:///etc/passwd", "ftp://127.0.0.1:{port}/"]
        {
            let (port, thread) = server(vec![redirect(&to.replace("{port}", "1"))]);
            let error = get(&FetchClient::restricted(usual), &format!("http://127.0.0.1:{port}/")).unwrap_err();
            assert_eq!((error.status, thread.join().unwrap()), (StatusCode::BAD_GATEWAY, 1), "{to}");
        }
    }

    #[test]
    fn refuses_names_of_private_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["localhost", "127.0.0.1", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
            let error = get(&FetchClient::public(), &format!("http://{host}:{port}/")).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_GATEWAY, "{host}");
        }
        assert!(listener.accept().is_err(), "no connection was made");
    }

    #[test]
    fn reports_large_pictures_errors_and_endless_redirects() {
        let (port, thread) = server(vec![answer("200 OK", &vec![7; MAX_BODY_BYTES + 1])]);
        let error = get(&FetchClient::restricted(usual), &format!("http://127.0.0.1:{port}/")).unwrap_err();
        assert_eq!(error.status, StatusCode::PAYLOAD_TOO_LARGE);
        thread.join().unwrap();
        let (port, thread) = server(vec![answer("404 Not Found", b"no")]);
        let error = get(&FetchClient::restricted(usual), &format!("http://127.0.0.1:{port}/")).unwrap_err();
        assert_eq!((error.status, error.message.as_str()), (StatusCode::BAD_GATEWAY, "the URL returns status 404"));
        thread.join().unwrap();
        let (port, thread) = server((0..6).map(|_| redirect("/again")).collect());
        let error = get(&FetchClient::restricted(usual), &format!("http://127.0.0.1:{port}/")).unwrap_err();
        assert_eq!(error.status, StatusCode::BAD_GATEWAY);
        thread.join().unwrap();
    }

    #[test]
    fn a_fetched_picture_is_charged_to_the_budget_while_it_lives() {
        let (port, thread) = server(vec![answer("200 OK", &vec![7; 300_000])]);
        let budget = Arc::<BodyBudget>::default();
        let url = format!("http://127.0.0.1:{port}/");
        let bytes = FetchClient::restricted(usual).get(&url, Instant::now() + FETCH_TIME, &budget).unwrap();
        thread.join().unwrap();
        assert_eq!((bytes.len(), budget.reserved()), (300_000, 300_000));
        drop(bytes);
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn a_silent_server_costs_at_most_the_remaining_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port());
        let start = Instant::now();
        for remaining in [Duration::ZERO, Duration::from_millis(200)] {
            let error =
                FetchClient::restricted(usual).get(&url, Instant::now() + remaining, &Arc::default()).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_GATEWAY, "{}", error.message);
        }
        assert!(start.elapsed() < FETCH_TIME, "{:?}", start.elapsed());
    }
}
