//! The web page: the files of `assets/page`, which are part of the binary.

use axum::Router;
use axum::http::{HeaderMap, Method};
use axum::routing::get;
use bytes::Bytes;

use crate::serve::api::files::{FileHeaders, FileRequest, bytes_response};

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const DRAWING: &str = "image/svg+xml";

/// URL path, content type and content of a file.
type PageFile = (&'static str, &'static str, &'static [u8]);

macro_rules! file {
    ($path:literal, $kind:expr) => {
        ($path, $kind, include_bytes!(concat!("../../../assets/page", $path)).as_slice())
    };
}

static FILES: [PageFile; 20] = [
    ("/", HTML, include_bytes!("../../../assets/page/index.html").as_slice()),
    file!("/style.css", STYLE),
    file!("/icon.svg", DRAWING),
    file!("/app.js", SCRIPT),
    file!("/alerts.js", SCRIPT),
    file!("/api.js", SCRIPT),
    file!("/cards.js", SCRIPT),
    file!("/crop.js", SCRIPT),
    file!("/dom.js", SCRIPT),
    file!("/filter.js", SCRIPT),
    file!("/geometry.js", SCRIPT),
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

/// Routes of the page's files. A browser caches a file and revalidates it at each use.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, &(path, content_type, body)| {
        let tag = blake3::hash(body).to_hex()[..16].to_owned();
        let head = FileHeaders { content_type, tag, cache_control: "no-cache" };
        let respond = move |method: Method, headers: HeaderMap| async move {
            bytes_response(&FileRequest { method: &method, headers: &headers }, &head, &Bytes::from_static(body))
        };
        router.route(path, get(respond))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use axum::body::Body;
    use axum::http::{Request, StatusCode, header};
    use tower::ServiceExt;

    use super::*;

    async fn load(path: &str, known: Option<&str>) -> (StatusCode, HeaderMap, String) {
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
    async fn a_file_has_its_type_and_is_sent_once() {
        for (path, kind, body) in &FILES {
            let (status, headers, text) = load(path, None).await;
            assert_eq!((status, text.as_bytes()), (StatusCode::OK, *body), "{path}");
            assert_eq!(headers["content-type"], *kind, "{path}");
            assert_eq!(headers["cache-control"], "no-cache", "{path}");
            let tag = headers["etag"].to_str().unwrap();
            for known in [tag.to_owned(), format!("W/{tag}"), format!("\"other\", {tag}")] {
                let (status, headers, text) = load(path, Some(&known)).await;
                assert_eq!((status, text.as_str()), (StatusCode::NOT_MODIFIED, ""), "{path}");
                assert_eq!(headers["etag"], tag, "{path}");
            }
            assert_eq!(load(path, Some("\"other\"")).await.0, StatusCode::OK);
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

    /// The content security policy forbids inline scripts and styles, and content of other hosts.
    #[test]
    fn the_files_obey_the_content_security_policy() {
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
