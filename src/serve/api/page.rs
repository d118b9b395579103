//! The page: the files of `assets/page`, which are in the binary.

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const DRAWING: &str = "image/svg+xml";

/// Where a file is asked for, its content type, and what is in it.
type File = (&'static str, &'static str, &'static [u8]);

macro_rules! file {
    ($path:literal, $kind:expr) => {
        ($path, $kind, include_bytes!(concat!("../../../assets/page", $path)).as_slice())
    };
}

static FILES: [File; 18] = [
    ("/", HTML, include_bytes!("../../../assets/page/index.html").as_slice()),
    file!("/style.css", STYLE),
    file!("/icon.svg", DRAWING),
    file!("/app.js", SCRIPT),
    file!("/alerts.js", SCRIPT),
    file!("/api.js", SCRIPT),
    file!("/cards.js", SCRIPT),
    file!("/dom.js", SCRIPT),
    file!("/filter.js", SCRIPT),
    file!("/indexing.js", SCRIPT),
    file!("/jobs.js", SCRIPT),
    file!("/library.js", SCRIPT),
    file!("/media.js", SCRIPT),
    file!("/pictures.js", SCRIPT),
    file!("/player.js", SCRIPT),
    file!("/router.js", SCRIPT),
    file!("/search.js", SCRIPT),
    file!("/video.js", SCRIPT),
];

/// Routes of the page's files. A browser keeps them, and asks each time whether they are still the same.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, &(path, kind, body)| {
        let tag = tag(body);
        router.route(path, get(move |headers: HeaderMap| async move { answer(kind, body, &tag, &headers) }))
    })
}

/// The entity tag of a file: its hash, in quotes.
fn tag(body: &[u8]) -> String {
    format!("\"{}\"", &blake3::hash(body).to_hex()[..16])
}

fn answer(kind: &'static str, body: &'static [u8], tag: &str, headers: &HeaderMap) -> Response {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let same = known.flat_map(|value| value.split(',')).any(|one| one.trim().trim_start_matches("W/") == tag);
    let mut response = if same {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, kind)], body).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // A tag is hexadecimal digits in quotes, so it always is a header's value.
    headers.extend(HeaderValue::from_str(tag).map(|tag| (header::ETAG, tag)));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn ask(path: &str, known: Option<&str>) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::get(path);
        if let Some(tag) = known {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let response = routes::<()>().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_file_comes_with_its_type_and_once_only() {
        for (path, kind, body) in &FILES {
            let (status, headers, text) = ask(path, None).await;
            assert_eq!((status, text.as_bytes()), (StatusCode::OK, *body), "{path}");
            assert_eq!(headers["content-type"], *kind, "{path}");
            assert_eq!(headers["cache-control"], "no-cache", "{path}");
            let tag = headers["etag"].to_str().unwrap();
            for known in [tag.to_owned(), format!("W/{tag}"), format!("\"other\", {tag}")] {
                let (status, headers, text) = ask(path, Some(&known)).await;
                assert_eq!((status, text.as_str()), (StatusCode::NOT_MODIFIED, ""), "{path}");
                assert_eq!(headers["etag"], tag, "{path}");
            }
            assert_eq!(ask(path, Some("\"other\"")).await.0, StatusCode::OK);
        }
    }

    #[test]
    fn every_file_of_the_folder_is_in_the_binary() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/page");
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let there: BTreeSet<String> = names.collect();
        let served = FILES.iter().map(|(path, ..)| if *path == "/" { "index.html" } else { &path[1..] });
        assert_eq!(served.map(str::to_owned).collect::<BTreeSet<_>>(), there);
    }

    /// The content security policy would refuse what is inline, and whatever comes from elsewhere; so nothing of it may be there.
    #[test]
    fn nothing_is_inline_and_nothing_comes_from_elsewhere() {
        for (path, kind, body) in &FILES {
            let text = std::str::from_utf8(body).unwrap().replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("//cdn") && !text.contains("@import"), "{path}");
            assert!(!text.contains("style=") && !text.contains("<style") && !text.contains("eval("), "{path}");
            if *kind == HTML {
                let scripts: Vec<&str> = text.split("<script").skip(1).collect();
                assert!(scripts.iter().all(|s| s.contains("src=\"/") && s.contains("></script>")), "{path}");
                assert!(!text.contains(" onclick") && !text.contains("javascript:"), "{path}");
            }
        }
    }
}
