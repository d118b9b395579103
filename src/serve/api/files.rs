//! Answers that are files, or bytes like those of one: whole or in part, or that nothing has changed (RFC 9110, sections 8.8, 13 and 14).

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG};
use axum::http::header::{HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, IF_RANGE, RANGE};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, ReadBuf};

use crate::serve::error::ApiError;

/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// What is known of a file before a byte of it is read.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) content_type: &'static str,
    /// Names the content, without the quotes: another content has another.
    pub(crate) tag: String,
    pub(crate) cache_control: &'static str,
}

/// What a request asks of a file.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
}

impl Asked<'_> {
    /// Whether the asker has this content already.
    pub(crate) fn has(&self, head: &Head) -> bool {
        let lists = self.headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        lists.flat_map(|list| list.split(',')).map(str::trim).any(|tag| {
            tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"') == head.tag && tag.ends_with('"')
        })
    }

    /// The part that is wanted of so many bytes.
    fn part(&self, head: &Head, length: u64) -> Part {
        let text = |name: HeaderName| self.headers.get(name).and_then(|value| value.to_str().ok());
        // The rest of another content would be spliced to what the asker has: it gets the whole. We tell no time that could be named here.
        let other = text(IF_RANGE).is_some_and(|tag| tag != format!("\"{}\"", head.tag));
        match text(RANGE) {
            Some(range) if *self.method == Method::GET && !other => parse(range, length),
            _ => Part::Whole,
        }
    }
}

/// What is wanted of a file.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Some(Range<u64>),
    /// It has no such bytes.
    None,
}

/// The value of `Range`. What is not understood, and several ranges at once, may be answered with the whole.
fn parse(range: &str, length: u64) -> Part {
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().unwrap_or(u64::MAX));
    let Some((first, last)) = range.trim().strip_prefix("bytes=").and_then(|spec| spec.trim().split_once('-')) else {
        return Part::Whole;
    };
    let range = match (first.is_empty(), last.is_empty(), number(first), number(last)) {
        (true, false, _, Some(count)) => length.saturating_sub(count)..length,
        (false, true, Some(first), _) => first..length,
        (false, false, Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(length),
        _ => return Part::Whole,
    };
    if range.start < range.end { Part::Some(range) } else { Part::None }
}

/// The answer to one who has it already.
pub(crate) fn unchanged(head: &Head) -> Response {
    (StatusCode::NOT_MODIFIED, common(head)).into_response()
}

fn common(head: &Head) -> [(HeaderName, HeaderValue); 3] {
    let tag = HeaderValue::from_str(&format!("\"{}\"", head.tag)).unwrap_or(HeaderValue::from_static("\"\""));
    [
        (ETAG, tag),
        (CACHE_CONTROL, HeaderValue::from_static(head.cache_control)),
        (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
    ]
}

/// An answer of so many bytes, the wanted ones of which `body` gives.
fn answer(asked: &Asked<'_>, head: &Head, length: u64, body: impl FnOnce(Range<u64>) -> Body) -> Response {
    let (status, range) = match asked.part(head, length) {
        Part::Whole => (StatusCode::OK, 0..length),
        Part::Some(range) => (StatusCode::PARTIAL_CONTENT, range),
        Part::None => {
            let message = format!("there are {length} bytes, none of which is in the range asked for");
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
    if *asked.method != Method::HEAD {
        *response.body_mut() = body(range);
    }
    response
}

/// Bytes as a file.
pub(crate) fn bytes(asked: &Asked<'_>, head: &Head, bytes: &Bytes) -> Response {
    if asked.has(head) {
        return unchanged(head);
    }
    answer(asked, head, bytes.len() as u64, |range| Body::from(bytes.slice(range.start as usize..range.end as usize)))
}

/// An open file, read as it is sent.
pub(crate) fn file(asked: &Asked<'_>, head: &Head, file: File, length: u64) -> Response {
    if asked.has(head) {
        return unchanged(head);
    }
    answer(asked, head, length, |range| {
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(CHUNK);
        Body::new(FileBody { file, seek: Some(range.start), left: range.end - range.start, chunk: BytesMut::new() })
    })
}

/// The bytes of a file from a place on.
struct FileBody {
    file: tokio::fs::File,
    /// Where reading begins, as long as it has not.
    seek: Option<u64>,
    left: u64,
    /// Where the next bytes go, from one poll to the next.
    chunk: BytesMut,
}

impl HttpBody for FileBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if let Some(place) = self.seek.take() {
            let seek = Pin::new(&mut self.file);
            tokio::io::AsyncSeek::start_seek(seek, std::io::SeekFrom::Start(place))?;
        }
        ready!(tokio::io::AsyncSeek::poll_complete(Pin::new(&mut self.file), context))?;
        let FileBody { file, left, chunk, .. } = &mut *self;
        chunk.resize(CHUNK.min(*left as usize), 0);
        let mut buffer = ReadBuf::new(chunk);
        ready!(Pin::new(file).poll_read(context, &mut buffer))?;
        let filled = buffer.filled().len();
        if filled == 0 {
            // Fewer bytes than were promised: the connection is closed, so that the asker knows.
            return Poll::Ready(Some(Err(std::io::ErrorKind::UnexpectedEof.into())));
        }
        *left -= filled as u64;
        Poll::Ready(Some(Ok(Frame::data(chunk.split_to(filled).freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A name as RFC 8187 writes it in a header.
pub(crate) fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// What a file is, by its ending: never anything that a browser would run.
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

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let some = Part::Some;
        for (range, part) in [
            ("bytes=0-0", some(0..1)),
            ("bytes=2-5", some(2..6)),
            ("bytes=2-", some(2..10)),
            ("bytes=-3", some(7..10)),
            ("bytes=-30", some(0..10)),
            ("bytes=5-99999999999999999999999", some(5..10)),
            ("bytes=9-9", some(9..10)),
            ("bytes=10-", Part::None),
            ("bytes=99999999999999999999999-", Part::None),
            ("bytes=-0", Part::None),
            ("bytes=5-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(parse(range, 10), part, "{range}");
        }
        assert_eq!(parse("bytes=0-", 0), Part::None);
        assert_eq!(parse("bytes=-5", 0), Part::None);
    }

    fn head() -> Head {
        Head { content_type: "video/mp4", tag: "abc".into(), cache_control: "private" }
    }

    /// Status, headers and body of an answer over ten bytes, from memory and from a file, which must not differ.
    fn ask(method: Method, headers: &[(HeaderName, &str)]) -> (StatusCode, HeaderMap, Bytes) {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect();
        let asked = Asked { method: &method, headers: &headers };
        let mut on_disk = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut on_disk, b"0123456789").unwrap();
        let answers = [bytes(&asked, &head(), &Bytes::from_static(b"0123456789")), file(&asked, &head(), on_disk, 10)];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let [memory, disk] = answers.map(|answer| {
            let (parts, body) = answer.into_parts();
            (parts.status, parts.headers, runtime.block_on(body.collect()).unwrap().to_bytes())
        });
        assert_eq!(memory, disk);
        memory
    }

    #[test]
    fn the_whole_a_part_and_no_part() {
        let (status, headers, body) = ask(Method::GET, &[]);
        assert_eq!(
            (status, &body[..], &headers[ETAG], &headers[CONTENT_LENGTH]),
            (StatusCode::OK, &b"0123456789"[..], &HeaderValue::from_static("\"abc\""), &HeaderValue::from(10))
        );
        let (status, headers, body) = ask(Method::GET, &[(RANGE, "bytes=-4")]);
        assert_eq!(
            (status, &body[..], &headers[CONTENT_RANGE]),
            (StatusCode::PARTIAL_CONTENT, &b"6789"[..], &HeaderValue::from_static("bytes 6-9/10"))
        );
        let (status, headers, body) = ask(Method::GET, &[(RANGE, "bytes=10-")]);
        assert_eq!(
            (status, &headers[CONTENT_RANGE]),
            (StatusCode::RANGE_NOT_SATISFIABLE, &HeaderValue::from_static("bytes */10"))
        );
        assert!(body.starts_with(b"{\"error\""));
    }

    #[test]
    fn only_the_head_has_no_body_and_knows_no_ranges() {
        let (status, headers, body) = ask(Method::HEAD, &[(RANGE, "bytes=0-1")]);
        assert_eq!((status, body.len(), &headers[CONTENT_LENGTH]), (StatusCode::OK, 0, &HeaderValue::from(10)));
    }

    #[test]
    fn who_has_it_gets_nothing_and_who_has_another_gets_the_whole() {
        for tag in ["\"abc\"", "W/\"abc\"", "\"x\", \"abc\"", "*"] {
            assert_eq!(ask(Method::GET, &[(IF_NONE_MATCH, tag)]).0, StatusCode::NOT_MODIFIED, "{tag}");
        }
        for tag in ["\"abd\"", "abc", ""] {
            assert_eq!(ask(Method::GET, &[(IF_NONE_MATCH, tag)]).0, StatusCode::OK, "{tag}");
        }
        let if_range = |tag| ask(Method::GET, &[(RANGE, "bytes=1-2"), (IF_RANGE, tag)]).0;
        assert_eq!(if_range("\"abc\""), StatusCode::PARTIAL_CONTENT);
        assert_eq!(if_range("\"old\""), StatusCode::OK);
        assert_eq!(if_range("Wed, 21 Oct 2015 07:28:00 GMT"), StatusCode::OK);
    }
}
