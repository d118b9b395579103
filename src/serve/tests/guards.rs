use super::*;
use crate::serve::{body, layered};
use axum::routing::{get, post};
use std::time::Duration;

const TOKEN: &str = "correct-horse-battery-staple";

#[test]
fn hosts_are_those_that_the_server_goes_by() {
    run(async {
        let loopback = Server::with(|options| options.hosts = vec!["videos.example.org".to_owned()]);
        let everywhere = Server::with(|options| options.listen = "0.0.0.0:8787".parse().unwrap());
        let cases = [
            ("localhost", 200, 200),
            ("LOCALHOST:8787", 200, 200),
            ("localhost.", 200, 200),
            ("127.0.0.1", 200, 200),
            ("127.1.2.3:1", 200, 200),
            ("[::1]:8787", 200, 200),
            ("videos.example.org:443", 200, 403),
            ("evil.example.org", 403, 403),
            ("localhost.evil.org", 403, 403),
            ("127.0.0.1.evil.org", 403, 403),
            ("192.168.1.5:8787", 403, 200),
            ("[fe80::1]", 403, 200),
            ("", 403, 403),
            ("localhost:x", 403, 403),
            ("a@localhost", 403, 403),
        ];
        for (host, on_loopback, on_all) in cases {
            for (server, status) in [(&loopback, on_loopback), (&everywhere, on_all)] {
                let request = Request::get("/healthz").header("host", host).body(Body::empty()).unwrap();
                assert_eq!(server.ask(request).await.status.as_u16(), status, "{host}");
            }
        }
        let none = Request::get("/healthz").body(Body::empty()).unwrap();
        assert_eq!(loopback.ask(none).await.status, StatusCode::BAD_REQUEST);
        let two = Request::get("/healthz")
            .header("host", "localhost")
            .header("host", "localhost")
            .body(Body::empty())
            .unwrap();
        assert_eq!(loopback.ask(two).await.status, StatusCode::BAD_REQUEST);
        // The address in the request's line counts as well.
        let whole = Request::get("http://evil.org/healthz").header("host", "localhost").body(Body::empty()).unwrap();
        assert_eq!(loopback.ask(whole).await.status, StatusCode::FORBIDDEN);
    });
}

#[test]
fn pages_of_other_origins_cannot_ask_in_their_visitors_name() {
    run(async {
        let plain = Server::new();
        let named = Server::with(|options| options.origins = vec!["https://app.example.org".to_owned()]);
        let own = ("origin", "http://localhost:8787");
        let app = ("origin", "https://app.example.org");
        let cross = ("sec-fetch-site", "cross-site");
        type Case = (Method, &'static str, Vec<(&'static str, &'static str)>, bool, bool);
        let cases: Vec<Case> = vec![
            (Method::POST, "/v1/search", vec![], true, true),
            (Method::POST, "/v1/search", vec![own], true, true),
            (Method::POST, "/v1/search", vec![own, ("sec-fetch-site", "same-origin")], true, true),
            (Method::POST, "/v1/search", vec![("origin", "http://localhost:3000")], false, false),
            (Method::POST, "/v1/search", vec![("origin", "http://evil.org")], false, false),
            (Method::POST, "/v1/search", vec![("origin", "null")], false, false),
            (Method::POST, "/v1/search", vec![cross], false, false),
            (Method::POST, "/v1/search", vec![("sec-fetch-site", "same-site")], false, false),
            (Method::POST, "/v1/search", vec![app, cross], false, true),
            (Method::DELETE, "/v1/session", vec![("origin", "http://evil.org")], false, false),
            (Method::GET, "/v1/info", vec![], true, true),
            (Method::GET, "/v1/info", vec![cross], false, false),
            (Method::GET, "/v1/info", vec![cross, app], false, true),
            (Method::GET, "/v1/info", vec![cross, ("sec-fetch-mode", "navigate")], true, true),
            (Method::GET, "/search?url=x", vec![cross, ("sec-fetch-mode", "navigate")], false, false),
            (
                Method::GET,
                "/search?url=x",
                vec![("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")],
                true,
                true,
            ),
            // A picture in a page: no origin is told.
            (Method::GET, "/v1/thumbnail?video=a&at=1", vec![cross, ("sec-fetch-mode", "no-cors")], false, true),
        ];
        for (method, path, headers, in_plain, in_named) in cases {
            for (server, allowed) in [(&plain, in_plain), (&named, in_named)] {
                let mut request = request(method.clone(), path);
                for (name, value) in &headers {
                    request = request.header(*name, *value);
                }
                let reply = server.ask(request.body(Body::empty()).unwrap()).await;
                let refused = reply.status == StatusCode::FORBIDDEN && reply.error().contains("another origin");
                assert_eq!(!refused, allowed, "{method} {path} {headers:?}: {}", reply.text());
            }
        }
    });
}

#[test]
fn browsers_of_a_named_origin_are_told_that_it_may_ask() {
    run(async {
        let named = Server::with(|options| options.origins = vec!["https://app.example.org".to_owned()]);
        let preflight = |origin: &str| {
            request(Method::OPTIONS, "/v1/search")
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .body(Body::empty())
                .unwrap()
        };
        let reply = named.ask(preflight("https://app.example.org")).await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT);
        assert_eq!(reply.header("access-control-allow-origin"), "https://app.example.org");
        assert_eq!(reply.header("access-control-allow-methods"), "GET, HEAD, POST, DELETE");
        assert_eq!(reply.header("vary"), "origin");
        for (server, origin) in [(&named, "https://evil.org"), (&Server::new(), "https://app.example.org")] {
            let reply = server.ask(preflight(origin)).await;
            assert_eq!((reply.status, reply.header("access-control-allow-origin")), (StatusCode::FORBIDDEN, ""));
        }
    });
}

#[test]
fn names_that_no_browser_could_send_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let with = |change: &dyn Fn(&mut Options)| {
        let mut options = options(folder.path());
        change(&mut options);
        App::open(options).err().map(|error| error.to_string())
    };
    for origin in ["*", "example.org", "https://example.org/", "https://example.org/a", "ftp://example.org", "null", ""]
    {
        let told = with(&|options| options.origins = vec![origin.to_owned()]).unwrap_or_else(|| panic!("{origin}"));
        assert!(told.contains("--cors"), "{told}");
    }
    for host in ["", "a:80", "a/b", "http://a", "a b"] {
        let told = with(&|options| options.hosts = vec![host.to_owned()]).unwrap_or_else(|| panic!("{host}"));
        assert!(told.contains("--allow-host"), "{told}");
    }
    assert_eq!(with(&|options| options.origins = vec!["http://localhost:3000".to_owned()]), None);
    for token in ["", " \n", "two words", "schlüssel"] {
        assert!(Token::new(token).is_err(), "{token:?}");
    }
    assert_eq!(format!("{:?}", Token::new(" abc\n").unwrap()), "Token(..)");
}

#[test]
fn nothing_but_health_and_the_session_is_open_without_the_token() {
    run(async {
        let server = Server::with_token();
        let document = Server::new().get("/openapi.json").await.json();
        for path in document["paths"].as_object().unwrap().keys() {
            for method in [Method::GET, Method::POST] {
                let reply = server
                    .ask(request(method.clone(), &path.replace(['{', '}'], "")).body(Body::empty()).unwrap())
                    .await;
                let open = ["/healthz", "/readyz", "/v1/session"].contains(&path.as_str());
                assert_eq!(reply.status == StatusCode::UNAUTHORIZED, !open, "{method} {path}: {}", reply.status);
            }
        }
        assert_eq!(server.get("/openapi.json").await.status, StatusCode::UNAUTHORIZED);
        let reply = server.get("/v1/info").await;
        assert_eq!(reply.header("www-authenticate"), "Bearer");
        assert!(reply.error().contains("Authorization: Bearer"));
        for (value, status) in [
            (format!("Bearer {TOKEN}"), 200),
            (format!("bearer {TOKEN}"), 200),
            (format!("Bearer {TOKEN}x"), 401),
            (format!("Bearer {}", &TOKEN[1..]), 401),
            (format!("Basic {TOKEN}"), 401),
            ("Bearer ".to_owned(), 401),
            (TOKEN.to_owned(), 401),
        ] {
            let request = request(Method::GET, "/v1/info").header("authorization", &value).body(Body::empty()).unwrap();
            assert_eq!(server.ask(request).await.status.as_u16(), status, "{value}");
        }
    });
}

#[test]
fn a_session_opens_what_the_token_opens() {
    run(async {
        let server = Server::with_token();
        let wrong = server.post("/v1/session", "application/json", "{\"token\":\"wrong\"}").await;
        assert_eq!((wrong.status, wrong.header("set-cookie")), (StatusCode::UNAUTHORIZED, ""));
        wrong.error();
        let right = server.post("/v1/session", "application/json", format!("{{\"token\":\"{TOKEN}\"}}")).await;
        assert_eq!(right.status, StatusCode::NO_CONTENT);
        let cookie = right.header("set-cookie").to_owned();
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000"), "{cookie}");
        assert!(!cookie.contains(TOKEN));
        let pair = cookie.split(';').next().unwrap();
        for (cookie, status) in [
            (format!("a=b; {pair}"), 200),
            (format!("{pair}0"), 401),
            (format!("reelseek={TOKEN}"), 401),
            ("reelseek=".to_owned(), 401),
        ] {
            let request = request(Method::GET, "/v1/info").header("cookie", &cookie).body(Body::empty()).unwrap();
            assert_eq!(server.ask(request).await.status.as_u16(), status, "{cookie}");
        }
        let end = server.ask(request(Method::DELETE, "/v1/session").body(Body::empty()).unwrap()).await;
        assert!(end.header("set-cookie").starts_with("reelseek=; ") && end.header("set-cookie").contains("Max-Age=0"));
        for (kind, body, status) in
            [("text/plain", "{}", 415), ("application/json", "{", 400), ("application/json", "{}", 422)]
        {
            let reply = server.post("/v1/session", kind, body).await;
            assert_eq!(reply.status.as_u16(), status);
            reply.error();
        }
        // Where no token is set, none is needed.
        let open = Server::new().post("/v1/session", "application/json", "{\"token\":\"any\"}").await;
        assert_eq!((open.status, open.header("set-cookie")), (StatusCode::NO_CONTENT, ""));
    });
}

#[test]
fn signed_links_open_by_themselves_and_nothing_else() {
    run(async {
        let server = Server::with_token();
        let app = server.app.clone();
        let closed = Router::new()
            .route("/v1/media/{id}", get(|| async { "media" }))
            .route("/v1/thumbnail", get(|| async { "thumbnail" }));
        let closed = closed.route("/v1/videos", get(|| async { "videos" }));
        let closed = closed.route_layer(axum::middleware::from_fn_with_state(app.clone(), crate::serve::auth::check));
        let router = layered(closed, app.clone());
        let status = |path: String| {
            let request =
                request(Method::GET, &path).header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "no-cors");
            let asked = Reply::of(router.clone(), request.body(Body::empty()).unwrap());
            async move { asked.await.status.as_u16() }
        };
        let media = app.link("/v1/media/abc".to_owned());
        let thumbnail = app.link("/v1/thumbnail?video=abc&at=1.5".to_owned());
        assert!(media.starts_with("/v1/media/abc?key=") && media.len() == "/v1/media/abc?key=".len() + 32, "{media}");
        assert!(thumbnail.starts_with("/v1/thumbnail?video=abc&at=1.5&key="), "{thumbnail}");
        assert_eq!((status(media.clone()).await, status(thumbnail.clone()).await), (200, 200));
        for wrong in [
            "/v1/media/abc".to_owned(),
            media.replace("abc", "abd"),
            media[..media.len() - 1].to_owned(),
            format!("{media}&width=3"),
            format!("{media}&key=0"),
            media.replace("key=", "key=0"),
            thumbnail.replace("at=1.5", "at=1.6"),
            thumbnail.replace("/v1/thumbnail", "/v1/preview"),
        ] {
            assert_ne!(status(wrong.clone()).await, 200, "{wrong}");
        }
        let other = app.link("/v1/videos".to_owned());
        assert_eq!(status(other).await, 403, "a link opens media only");
        // Without a token links need no signature.
        assert_eq!(Server::new().app.link("/v1/media/abc".to_owned()), "/v1/media/abc");
    });
}

#[test]
fn every_answer_keeps_the_page_to_itself() {
    run(async {
        let server = Server::new();
        for path in ["/v1/info", "/no/such/route", "/metrics"] {
            let reply = server.get(path).await;
            assert!(
                reply.header("content-security-policy").starts_with("default-src 'none'; script-src 'self';"),
                "{path}"
            );
            assert!(reply.header("content-security-policy").ends_with("frame-ancestors 'none'"));
            assert_eq!(reply.header("x-content-type-options"), "nosniff");
            assert_eq!(reply.header("referrer-policy"), "no-referrer");
            assert_eq!(reply.header("cross-origin-resource-policy"), "same-origin");
            assert_eq!(reply.header("access-control-allow-origin"), "");
            assert!(!reply.header("x-request-id").is_empty());
        }
    });
}

#[test]
fn unknown_addresses_and_methods_are_told_as_json() {
    run(async {
        let server = Server::new();
        let reply = server.get("/no/such/route").await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND);
        reply.error();
        for (method, path, allowed) in [
            (Method::PUT, "/v1/search", "POST"),
            (Method::DELETE, "/v1/info", "GET,HEAD"),
            (Method::PATCH, "/search", "GET,HEAD,POST"),
        ] {
            let reply = server.ask(request(method, path).body(Body::empty()).unwrap()).await;
            assert_eq!((reply.status, reply.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, allowed), "{path}");
            assert!(reply.error().contains("Allow"));
        }
        let given =
            request(Method::GET, "/healthz").header("x-request-id", "from-a-proxy_1").body(Body::empty()).unwrap();
        assert_eq!(server.ask(given).await.header("x-request-id"), "from-a-proxy_1");
        let odd = request(Method::GET, "/healthz").header("x-request-id", "a b").body(Body::empty()).unwrap();
        assert_ne!(server.ask(odd).await.header("x-request-id"), "a b");
    });
}

#[test]
fn a_panic_answers_500_and_nothing_else() {
    run(async {
        let server = Server::new();
        async fn fail() -> String {
            panic!("a secret of the handler");
        }
        let router = layered(
            Router::new().route("/panic", post(fail)).route("/fine", get(|| async { "fine" })),
            server.app.clone(),
        );
        let panics = || request(Method::POST, "/panic").body(Body::empty()).unwrap();
        for _ in 0..3 {
            let reply = Reply::of(router.clone(), panics()).await;
            assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
            assert!(!reply.error().contains("secret"), "{}", reply.text());
            assert_eq!(reply.header("x-content-type-options"), "nosniff");
        }
        let fine = Reply::of(router.clone(), request(Method::GET, "/fine").body(Body::empty()).unwrap()).await;
        assert_eq!((fine.status, fine.text()), (StatusCode::OK, "fine".to_owned()));
        let text = server.get("/metrics").await.text();
        assert!(text.contains("reelseek_requests_total{route=\"/panic\",method=\"POST\",status=\"500\"} 3"), "{text}");
        assert!(text.contains("reelseek_requests_in_flight 1"), "{text}");
    });
}

#[test]
fn who_comes_when_all_is_taken_is_told_when_to_come_again() {
    run(async {
        let server = Server::with(|options| (options.workers, options.queue) = (1, 0));
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let app = server.app.clone();
        let held = tokio::spawn(async move {
            let work = move || {
                started.send(()).unwrap();
                wait.recv().unwrap();
                Ok(())
            };
            app.gate.run(&app.metrics, work).await
        });
        has_started.await.unwrap();
        let reply = server.post("/v1/search", "image/png", png()).await;
        assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, "1"));
        reply.error();
        // What needs no worker is answered meanwhile.
        assert_eq!(server.get("/healthz").await.status, StatusCode::OK);
        go.send(()).unwrap();
        held.await.unwrap().unwrap();
        assert_eq!(server.post("/v1/search", "image/png", png()).await.status, StatusCode::OK);
    });
}

#[test]
fn bodies_are_bounded() {
    run(async {
        let server = Server::new();
        let announced = request(Method::POST, "/v1/search")
            .header("content-type", "image/png")
            .header("content-length", body::MAX_BYTES + 1);
        let reply = server.ask(announced.body(Body::from(vec![0; body::MAX_BYTES + 1])).unwrap()).await;
        assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(reply.error().contains("25 MB"));
        // Of unknown length, as a chunked body is.
        let pieces = futures_of(body::MAX_BYTES / 100_000 + 1, 100_000);
        let reply = server.post("/v1/search", "image/png", pieces).await;
        assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
        let just = server.post("/v1/search", "image/png", vec![0; body::MAX_BYTES]).await;
        assert_eq!(just.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "it was read whole, and is no picture");
        assert_eq!(server.app.bodies.held(), 0, "all that was held is given back");
    });
}

/// A body that comes in pieces and says nothing of its length.
fn futures_of(pieces: usize, bytes: usize) -> Body {
    struct Pieces(usize, usize);
    impl axum::body::HttpBody for Pieces {
        type Data = bytes::Bytes;
        type Error = std::convert::Infallible;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
            if self.0 == 0 {
                return std::task::Poll::Ready(None);
            }
            self.0 -= 1;
            std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(vec![0; self.1].into()))))
        }
    }
    Body::new(Pieces(pieces, bytes))
}

#[test]
fn new_commits_are_seen_by_looking() {
    run(async {
        let server = Server::new();
        let watching = tokio::spawn(server.app.clone().watch());
        put(&server.folder.path().join("index"), 9);
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while server.app.snapshot().unwrap().videos != 6 {
            assert!(std::time::Instant::now() < until, "the commit was never taken up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        watching.abort();
    });
}
