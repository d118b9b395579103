//! Responses with a file, or with bytes in memory: all of the content, a range of it, or 304 (RFC 9110,
//! sections 8.8, 13 and 14).

use std::fs::Metadata;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG};
use axum::http::header::{HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, IF_RANGE, RANGE};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::Semaphore;

use crate::base::files::{read_exact_at, since_1970_ns};
use crate::collection::open_at_once;
use crate::serve::connection::response::StreamedMemory;
use crate::serve::error::ApiError;
use crate::serve::limits::{FILE_CHUNK_BYTES, FILE_READS, FILE_RESPONSE_BYTES};
use crate::serve::observe::logging::spawn_blocking;

/// The headers of a file, known before it is read.
#[derive(Debug, Clone)]
pub(crate) struct FileHeaders {
    pub(crate) content_type: &'static str,
    /// Entity tag of the content, without quotes.
    pub(crate) tag: String,
    pub(crate) cache_control: &'static str,
}

/// The parts of a request that determine which part of a file is sent.
#[derive(Debug)]
pub(crate) struct FileRequest<'a> {
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
}

impl FileRequest<'_> {
    /// Whether the client has this content already.
    pub(crate) fn is_current(&self, head: &FileHeaders) -> bool {
        let lists = self.headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        lists.flat_map(|list| list.split(',')).map(str::trim).any(|tag| {
            tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"') == head.tag && tag.ends_with('"')
        })
    }

    /// The part to send of `length` bytes.
    fn selection(&self, head: &FileHeaders, length: u64) -> Selection {
        let text = |name: HeaderName| self.headers.get(name).and_then(|value| value.to_str().ok());
        // A client that has a part of other content must get all of the current content. A date never
        // matches, because no response has `Last-Modified`.
        let other = text(IF_RANGE).is_some_and(|tag| tag != format!("\"{}\"", head.tag));
        match text(RANGE) {
            Some(range) if *self.method == Method::GET && !other => parse_range(range, length),
            _ => Selection::All,
        }
    }
}

/// The part of a file to send.
#[derive(Debug, PartialEq, Eq)]
enum Selection {
    All,
    Range(Range<u64>),
    /// The range is outside the file.
    Unsatisfiable,
}

/// Parses the value of `Range`. Malformed values and several ranges select all of the file, as the RFC
/// allows.
fn parse_range(range: &str, length: u64) -> Selection {
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().unwrap_or(u64::MAX));
    let Some((first, last)) = range.trim().strip_prefix("bytes=").and_then(|spec| spec.trim().split_once('-')) else {
        return Selection::All;
    };
    let range = match (first.is_empty(), last.is_empty(), number(first), number(last)) {
        (true, false, _, Some(count)) => length.saturating_sub(count)..length,
        (false, true, Some(first), _) => first..length,
        (false, false, Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(length),
        _ => return Selection::All,
    };
    if range.start < range.end { Selection::Range(range) } else { Selection::Unsatisfiable }
}

/// The response to a client that has the current content.
pub(crate) fn not_modified(head: &FileHeaders) -> Response {
    (StatusCode::NOT_MODIFIED, common(head)).into_response()
}

fn common(head: &FileHeaders) -> [(HeaderName, HeaderValue); 3] {
    let tag = HeaderValue::from_str(&format!("\"{}\"", head.tag)).unwrap_or(HeaderValue::from_static("\"\""));
    [
        (ETAG, tag),
        (CACHE_CONTROL, HeaderValue::from_static(head.cache_control)),
        (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
    ]
}

/// A response with the selected part of `length` bytes. `body` returns the bytes of a range.
fn respond(
    request: &FileRequest<'_>,
    head: &FileHeaders,
    length: u64,
    body: impl FnOnce(Range<u64>) -> Body,
) -> Response {
    let (status, range) = match request.selection(head, length) {
        Selection::All => (StatusCode::OK, 0..length),
        Selection::Range(range) => (StatusCode::PARTIAL_CONTENT, range),
        Selection::Unsatisfiable => {
            let message = format!("the range is outside the {length} bytes of the file");
            let refused = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, message);
            return ([(CONTENT_RANGE, format!("bytes */{length}"))], refused).into_response();
        }
    };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(head.content_type)),
        (CONTENT_LENGTH, HeaderValue::from(range.end - range.start)),
    ];
    let mut response = (status, common(head), headers).into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let place = format!("bytes {}-{}/{length}", range.start, range.end - 1);
        response.headers_mut().extend(HeaderValue::from_str(&place).ok().map(|place| (CONTENT_RANGE, place)));
    }
    if *request.method != Method::HEAD {
        *response.body_mut() = body(range);
    }
    response
}

/// A response with bytes in memory.
pub(crate) fn bytes_response(request: &FileRequest<'_>, head: &FileHeaders, bytes: &Bytes) -> Response {
    if request.is_current(head) {
        return not_modified(head);
    }
    respond(request, head, bytes.len() as u64, |range| {
        Body::from(bytes.slice(range.start as usize..range.end as usize))
    })
}

/// A response with a file, which is read while it is sent.
pub(crate) fn file_response(request: &FileRequest<'_>, head: &FileHeaders, file: FileSource) -> Response {
    if request.is_current(head) {
        return not_modified(head);
    }
    let length = file.stamp.length;
    let next = move |range: Range<u64>| {
        let file = file.clone();
        async move {
            if range.is_empty() {
                return Ok::<_, std::io::Error>(None);
            }
            let end = range.end.min(range.start + FILE_CHUNK_BYTES as u64);
            // An error closes the connection, so that the client notices that bytes are missing.
            let chunk = file.chunk(range.start..end).await?;
            Ok(Some((chunk, end..range.end)))
        }
    };
    let mut response = respond(request, head, length, |range| Body::from_stream(stream::try_unfold(range, next)));
    response.extensions_mut().insert(StreamedMemory(FILE_RESPONSE_BYTES));
    response
}

/// Whether a file is still the same: its size, the time of its last change and its place on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp {
    /// Size in bytes.
    pub(crate) length: u64,
    pub(crate) modified_ns: i64,
    #[cfg(unix)]
    device_and_inode: (u64, u64),
}

impl FileStamp {
    pub(crate) fn new(meta: &Metadata) -> FileStamp {
        FileStamp {
            length: meta.len(),
            modified_ns: meta.modified().map_or(0, since_1970_ns),
            #[cfg(unix)]
            device_and_inode: (std::os::unix::fs::MetadataExt::dev(meta), std::os::unix::fs::MetadataExt::ino(meta)),
        }
    }
}

/// A file that is opened for each chunk, and closed after it. So a client that does not read holds no
/// descriptor of it.
#[derive(Debug, Clone)]
pub(crate) struct FileSource {
    pub(crate) path: PathBuf,
    pub(crate) stamp: FileStamp,
    pub(crate) reads: FileReads,
}

impl FileSource {
    /// Reads a part of the file.
    async fn chunk(self, range: Range<u64>) -> std::io::Result<Bytes> {
        let FileSource { path, stamp, reads } = self;
        let read = move || {
            let file = open_at_once(&path)?;
            if FileStamp::new(&file.metadata()?) != stamp {
                return Err(std::io::Error::other("the file has changed"));
            }
            let mut bytes = vec![0; (range.end - range.start) as usize];
            read_exact_at(&file, &mut bytes, range.start)?;
            Ok(bytes.into())
        };
        reads.run(read).await.unwrap_or_else(|_| Err(ErrorKind::Other.into()))
    }
}

/// Limits how many files are read at once.
#[derive(Debug, Clone)]
pub(crate) struct FileReads(Arc<Semaphore>);

impl Default for FileReads {
    fn default() -> FileReads {
        FileReads(Arc::new(Semaphore::new(FILE_READS)))
    }
}

impl FileReads {
    /// Runs `read` on its own thread when fewer than [`FILE_READS`] others run. It ends also if the client
    /// leaves.
    ///
    /// # Errors
    /// 500 if it panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = self.0.clone().acquire_owned().await.map_err(|error| ApiError::internal(&error))?;
        let read = move || {
            let _permit = permit;
            read()
        };
        spawn_blocking(read).await.map_err(|error| ApiError::internal(&error))
    }
}

/// Content type of a file, by its extension. It is never a type that a browser executes.
pub(crate) fn content_type(path: &Path) -> &'static str {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase();
    match extension.as_str() {
        "mp4" | "m4v" | "f4v" => "video/mp4",
        "mov" => "video/quicktime",
        "webm" => "video/webm",
        "mkv" => "video/x-matroska",
        "ogv" | "ogm" => "video/ogg",
        "avi" | "divx" => "video/x-msvideo",
        "ts" | "m2t" | "m2ts" | "mts" => "video/mp2t",
        "mpg" | "mpeg" | "mpv" | "m2v" | "vob" => "video/mpeg",
        "3gp" => "video/3gpp",
        "3g2" => "video/3gpp2",
        "flv" => "video/x-flv",
        "wmv" => "video/x-ms-wmv",
        "asf" => "video/x-ms-asf",
        "gif" => "image/gif",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    #[test]
    fn parses_ranges_as_the_rfc_says() {
        let some = Selection::Range;
        for (range, selection) in [
            ("bytes=0-0", some(0..1)),
            ("bytes=2-5", some(2..6)),
            ("bytes=2-", some(2..10)),
            ("bytes=-3", some(7..10)),
            ("bytes=-30", some(0..10)),
            ("bytes=5-99999999999999999999999", some(5..10)),
            ("bytes=9-9", some(9..10)),
            ("bytes=10-", Selection::Unsatisfiable),
            ("bytes=99999999999999999999999-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=5-2", Selection::All),
            ("bytes=0-1,3-4", Selection::All),
            ("bytes=a-b", Selection::All),
            ("bytes=-", Selection::All),
            ("bytes=+1-2", Selection::All),
            ("lines=1-2", Selection::All),
            ("", Selection::All),
        ] {
            assert_eq!(parse_range(range, 10), selection, "{range}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Selection::Unsatisfiable);
        assert_eq!(parse_range("bytes=-5", 0), Selection::Unsatisfiable);
    }

    fn head() -> FileHeaders {
        FileHeaders { content_type: "video/mp4", tag: "abc".into(), cache_control: "private" }
    }

    fn source(path: &Path) -> FileSource {
        let stamp = FileStamp::new(&std::fs::metadata(path).unwrap());
        FileSource { path: path.to_owned(), stamp, reads: FileReads::default() }
    }

    /// Status, headers and body of a response with ten bytes. Asserts that they are equal from memory and
    /// from a file.
    fn get(method: Method, headers: &[(HeaderName, &str)]) -> (StatusCode, HeaderMap, Bytes) {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect();
        let request = FileRequest { method: &method, headers: &headers };
        let on_disk = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&on_disk, b"0123456789").unwrap();
        let responses = [
            bytes_response(&request, &head(), &Bytes::from_static(b"0123456789")),
            file_response(&request, &head(), source(on_disk.path())),
        ];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let [memory, disk] = responses.map(|response| {
            let (parts, body) = response.into_parts();
            (parts.status, parts.headers, runtime.block_on(body.collect()).unwrap().to_bytes())
        });
        assert_eq!(memory, disk);
        memory
    }

    #[test]
    fn a_file_that_is_replaced_while_it_is_sent_ends_the_response() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mp4");
        std::fs::write(&path, vec![1; 3 * FILE_CHUNK_BYTES]).unwrap();
        let (method, headers) = (Method::GET, HeaderMap::new());
        let response = file_response(&FileRequest { method: &method, headers: &headers }, &head(), source(&path));
        let mut body = response.into_body();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(first, vec![1; FILE_CHUNK_BYTES]);
            // The same size, and perhaps the same time.
            std::fs::write(folder.path().join("b"), vec![2; 3 * FILE_CHUNK_BYTES]).unwrap();
            std::fs::rename(folder.path().join("b"), &path).unwrap();
            assert!(body.frame().await.unwrap().is_err());
        });
    }

    #[test]
    fn sends_all_a_range_or_no_bytes() {
        let (status, headers, body) = get(Method::GET, &[]);
        assert_eq!(
            (status, &body[..], &headers[ETAG], &headers[CONTENT_LENGTH]),
            (StatusCode::OK, &b"0123456789"[..], &HeaderValue::from_static("\"abc\""), &HeaderValue::from(10))
        );
        let (status, headers, body) = get(Method::GET, &[(RANGE, "bytes=-4")]);
        assert_eq!(
            (status, &body[..], &headers[CONTENT_RANGE]),
            (StatusCode::PARTIAL_CONTENT, &b"6789"[..], &HeaderValue::from_static("bytes 6-9/10"))
        );
        let (status, headers, body) = get(Method::GET, &[(RANGE, "bytes=10-")]);
        assert_eq!(
            (status, &headers[CONTENT_RANGE]),
            (StatusCode::RANGE_NOT_SATISFIABLE, &HeaderValue::from_static("bytes */10"))
        );
        assert!(body.starts_with(b"{\"error\""));
    }

    #[test]
    fn head_has_no_body_and_ignores_ranges() {
        let (status, headers, body) = get(Method::HEAD, &[(RANGE, "bytes=0-1")]);
        assert_eq!((status, body.len(), &headers[CONTENT_LENGTH]), (StatusCode::OK, 0, &HeaderValue::from(10)));
    }

    #[test]
    fn a_current_client_gets_304_and_one_with_other_content_gets_all() {
        for tag in ["\"abc\"", "W/\"abc\"", "\"x\", \"abc\"", "*"] {
            assert_eq!(get(Method::GET, &[(IF_NONE_MATCH, tag)]).0, StatusCode::NOT_MODIFIED, "{tag}");
        }
        for tag in ["\"abd\"", "abc", ""] {
            assert_eq!(get(Method::GET, &[(IF_NONE_MATCH, tag)]).0, StatusCode::OK, "{tag}");
        }
        let if_range = |tag| get(Method::GET, &[(RANGE, "bytes=1-2"), (IF_RANGE, tag)]).0;
        assert_eq!(if_range("\"abc\""), StatusCode::PARTIAL_CONTENT);
        assert_eq!(if_range("\"old\""), StatusCode::OK);
        assert_eq!(if_range("Wed, 21 Oct 2015 07:28:00 GMT"), StatusCode::OK);
    }

    proptest! {
        #[test]
        fn a_range_is_within_the_file_and_as_requested(first in 0_u64..2000, last in 0_u64..2000, length in 0_u64..1000) {
            match parse_range(&format!("bytes={first}-{last}"), length) {
                Selection::Range(range) => prop_assert_eq!(range, first..length.min(last + 1)),
                Selection::Unsatisfiable => prop_assert!(first >= length && first <= last),
                Selection::All => prop_assert!(first > last),
            }
        }

        #[test]
        fn any_text_selects_bytes_of_the_file(range in "(bytes=)?[0-9+, -]{0,40}", length in 0_u64..1000) {
            if let Selection::Range(range) = parse_range(&range, length) {
                prop_assert!(range.start < range.end && range.end <= length);
            }
        }
    }
}
