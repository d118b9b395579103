use super::*;
use crate::serve::limits::{MAX_BODY_BYTES, MAX_JSON_BYTES};
use crate::serve::router::with_outer_layers;
use axum::routing::{get, post};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn accepts_only_known_host_names() {
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
                assert_eq!(server.send(request).await.status.as_u16(), status, "{host}");
            }
        }
        let none = Request::get("/healthz").body(Body::empty()).unwrap();
        assert_eq!(loopback.send(none).await.status, StatusCode::BAD_REQUEST);
        let two = Request::get("/healthz")
            .header("host", "localhost")
            .header("host", "localhost")
            .body(Body::empty())
            .unwrap();
        assert_eq!(loopback.send(two).await.status, StatusCode::BAD_REQUEST);
        // The address in the request line is checked as well.
        let whole = Request::get("http://evil.org/healthz").header("host", "localhost").body(Body::empty()).unwrap();
        assert_eq!(loopback.send(whole).await.status, StatusCode::FORBIDDEN);
    });
}

#[test]
fn refuses_requests_from_pages_of_other_origins() {
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
            (
                Method::GET,
                "/search?url=x",
                vec![("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")],
                true,
                true,
            ),
            // A picture embedded in a page: the browser sends no origin.
            (Method::GET, "/v1/thumbnail?video=a&at=1", vec![cross, ("sec-fetch-mode", "no-cors")], false, true),
        ];
        for (method, path, headers, in_plain, in_named) in cases {
            for (server, allowed) in [(&plain, in_plain), (&named, in_named)] {
                let mut request = request(method.clone(), path);
                for (name, value) in &headers {
                    request = request.header(*name, *value);
                }
                let reply = server.send(request.body(Body::empty()).unwrap()).await;
                let refused = reply.status == StatusCode::FORBIDDEN && reply.error().contains("another origin");
                assert_eq!(!refused, allowed, "{method} {path} {headers:?}: {}", reply.text());
            }
        }
    });
}

#[test]
fn a_navigation_from_another_site_reaches_only_the_page_and_media() {
    run(async {
        let server = Server::new();
        let named = Server::with(|options| options.origins = vec!["https://app.example.org".to_owned()]);
        let locked = Server::with_token();
        let link = locked.app.links.media("id1");
        let media =
            ["/", "/?q=a", "/v1/thumbnail?video=id1&at=1", "/v1/preview?video=id1&from=1&to=2", "/v1/media/id1"];
        let others = [
            "/v1/videos?query=NOT+a",
            "/v1/videos",
            "/v1/videos/id1",
            "/v1/info",
            "/v1/facets",
            "/v1/folders",
            "/v1/jobs",
            "/v1/search",
            "/search?url=x",
            "/search",
            "/me",
            "/metrics",
            "/openapi.json",
            "/healthz",
            "/app.js",
            "//",
            "/v1/media",
        ];
        for site in ["cross-site", "same-site"] {
            for destination in ["document", "iframe", "frame", "embed", "object"] {
                let send = async |server: &Server, path: &str| {
                    let request = request(Method::GET, path)
                        .header("sec-fetch-site", site)
                        .header("sec-fetch-mode", "navigate")
                        .header("sec-fetch-dest", destination);
                    let reply = server.send(request.body(Body::empty()).unwrap()).await;
                    reply.status == StatusCode::FORBIDDEN && reply.error().contains("another origin")
                };
                for server in [&server, &named] {
                    for path in media {
                        assert!(!send(server, path).await, "{path} {site} {destination}");
                    }
                    for path in others {
                        assert!(send(server, path).await, "{path} {site} {destination}");
                    }
                }
                assert!(!send(&locked, &link).await, "{link}");
                assert!(send(&locked, "/v1/videos").await);
            }
        }
    });
}

#[test]
fn refuses_requests_with_two_values_of_a_header_that_decides_about_access() {
    run(async {
        let server = Server::new();
        for (name, value) in [
            ("host", "localhost:8787"),
            ("origin", "http://localhost:8787"),
            ("authorization", "Bearer a"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-mode", "cors"),
            ("x-trace-key", "a"),
        ] {
            for (method, path) in [(Method::GET, "/v1/info"), (Method::POST, "/v1/search"), (Method::GET, "/healthz")] {
                // `request` adds one header Host.
                let times = if name == "host" { 1 } else { 2 };
                let two = (0..times).fold(request(method, path), |request, _| request.header(name, value));
                let reply = server.send(two.body(Body::empty()).unwrap()).await;
                assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{name} {path}");
                assert!(
                    reply.error().to_lowercase().contains(&format!("one header {name}, found 2")),
                    "{}",
                    reply.error()
                );
            }
        }
        let first_own = request(Method::GET, "/v1/info")
            .header("origin", "http://localhost:8787")
            .header("origin", "http://evil.org");
        assert_eq!(server.send(first_own.body(Body::empty()).unwrap()).await.status, StatusCode::BAD_REQUEST);
    });
}

#[test]
fn sends_cors_headers_to_allowed_origins() {
    run(async {
        let named = Server::with(|options| options.origins = vec!["https://app.example.org".to_owned()]);
        let preflight = |origin: &str| {
            request(Method::OPTIONS, "/v1/search")
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .body(Body::empty())
                .unwrap()
        };
        let reply = named.send(preflight("https://app.example.org")).await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT);
        assert_eq!(reply.header("access-control-allow-origin"), "https://app.example.org");
        assert_eq!(reply.header("access-control-allow-methods"), "GET, HEAD, POST, DELETE");
        assert_eq!(reply.header("vary"), "origin");
        let info = request(Method::GET, "/v1/info").header("origin", "https://app.example.org");
        let info = named.send(info.body(Body::empty()).unwrap()).await;
        assert!(info.header("access-control-expose-headers").starts_with("retry-after, x-request-id"));
        // Other pages may embed media, and nothing else.
        assert_eq!(info.header("cross-origin-resource-policy"), "same-origin");
        let media = named.get("/v1/media/none").await;
        assert_eq!(media.header("cross-origin-resource-policy"), "cross-origin");
        for (server, origin) in [(&named, "https://evil.org"), (&Server::new(), "https://app.example.org")] {
            let reply = server.send(preflight(origin)).await;
            assert_eq!((reply.status, reply.header("access-control-allow-origin")), (StatusCode::FORBIDDEN, ""));
        }
    });
}

#[test]
fn refuses_malformed_hosts_origins_and_tokens_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let with = |change: &dyn Fn(&mut ServeOptions)| {
        let mut options = options(folder.path());
        change(&mut options);
        App::open(options).err().map(|error| error.to_string())
    };
    for origin in ["*", "example.org", "https://example.org/", "https://example.org/a", "ftp://example.org", "null", ""]
    {
        let error = with(&|options| options.origins = vec![origin.to_owned()]).unwrap_or_else(|| panic!("{origin}"));
        assert!(error.contains("--cors"), "{error}");
    }
    for host in ["", "a:80", "a/b", "http://a", "a b"] {
        let error = with(&|options| options.hosts = vec![host.to_owned()]).unwrap_or_else(|| panic!("{host}"));
        assert!(error.contains("--allow-host"), "{error}");
    }
    assert_eq!(with(&|options| options.origins = vec!["http://localhost:3000".to_owned()]), None);
    for token in ["", " \n", "two words", "schlüssel"] {
        assert!(Token::new(token).is_err(), "{token:?}");
    }
    assert_eq!(format!("{:?}", Token::new(" abc\n").unwrap()), "Token(..)");
}

#[test]
fn every_response_has_the_security_headers() {
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
fn deeply_nested_json_is_refused() {
    run(async {
        let server = Server::new();
        let token = Server::with_token();
        for (path, field) in [
            ("/v1/search", "vector"),
            ("/v1/search", "filter"),
            ("/v1/search/batch", "queries"),
            ("/v1/index", "folders"),
            ("/v1/session", "token"),
        ] {
            for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"vector\":", "}]")] {
                for levels in [200, 600] {
                    let nested = format!("{{\"{field}\":{}1{}}}", open.repeat(levels), close.repeat(levels));
                    let unknown = nested.replacen(field, "unknown", 1);
                    for body in [unknown, open.repeat(levels), nested] {
                        let server = if path == "/v1/session" { &token } else { &server };
                        let reply = server.post(path, "application/json", body).await;
                        assert!(reply.status.is_client_error(), "{path}: {}", reply.text());
                        assert!(reply.error().len() < 1000, "{path}");
                    }
                }
            }
        }
    });
}

#[test]
fn a_filter_of_many_negations_is_refused_on_every_route() {
    run(async {
        let server = Server::new();
        let filter = "NOT+".repeat(1900) + "a";
        let vector = serde_json::json!({ "vector": vector(1), "filter": filter.replace('+', " ") });
        let batch = serde_json::json!({ "queries": [{ "vector": vector["vector"] }], "filter": vector["filter"] });
        let (kind, form) = form(&[("image", true, &png()), ("filter", false, filter.replace('+', " ").as_bytes())]);
        for reply in [
            server.get(&format!("/v1/videos?query={filter}")).await,
            server.post(&format!("/v1/search?filter={filter}"), "image/png", png()).await,
            server.post("/v1/search", "application/json", vector.to_string()).await,
            server.post("/v1/search", &kind, form).await,
            server.post("/v1/search/batch", "application/json", batch.to_string()).await,
        ] {
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text());
            let error = reply.error();
            assert!(error.contains("expected at most 64 opening parentheses and NOTs, found 1900"), "{error}");
        }
    });
}

#[test]
fn reports_unknown_addresses_and_methods_as_json() {
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
            let reply = server.send(request(method, path).body(Body::empty()).unwrap()).await;
            assert_eq!((reply.status, reply.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, allowed), "{path}");
            let expected = format!("this address accepts {}, not", allowed.replace(',', ", "));
            assert!(reply.error().starts_with(&expected), "{}", reply.error());
        }
        let given =
            request(Method::GET, "/healthz").header("x-request-id", "from-a-proxy_1").body(Body::empty()).unwrap();
        assert_eq!(server.send(given).await.header("x-request-id"), "from-a-proxy_1");
        let odd = request(Method::GET, "/healthz").header("x-request-id", "a b").body(Body::empty()).unwrap();
        assert_ne!(server.send(odd).await.header("x-request-id"), "a b");
    });
}

#[test]
fn a_panic_returns_500_without_details() {
    run(async {
        let server = Server::new();
        async fn fail() -> String {
            panic!("a secret of the handler");
        }
        let router = with_outer_layers(
            Router::new().route("/panic", post(fail)).route("/fine", get(|| async { "fine" })),
            &server.app,
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
fn returns_429_with_retry_after_when_the_queue_is_full() {
    run(async {
        let server = Server::with(|options| (options.workers, options.queue) = (1, 0));
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let gate = server.app.gate.clone();
        let held = tokio::spawn(async move {
            let work = move || {
                started.send(()).unwrap();
                wait.recv().unwrap();
                Ok(())
            };
            gate.run(work).await
        });
        has_started.await.unwrap();
        let reply = server.post("/v1/search", "image/png", png()).await;
        assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, "1"));
        reply.error();
        // Large JSON needs a worker to be parsed, and a batch is refused as a whole.
        let long = format!("{{\"vector\":[{}0]}}", "0,".repeat(30_000));
        assert_eq!(server.post("/v1/search", "application/json", long).await.status, StatusCode::TOO_MANY_REQUESTS);
        let batch = server.post("/v1/search/batch", "application/json", "{\"queries\":[{\"vector\":[0]}]}").await;
        assert_eq!(batch.status, StatusCode::TOO_MANY_REQUESTS);
        // Health needs no worker.
        assert_eq!(server.get("/healthz").await.status, StatusCode::OK);
        go.send(()).unwrap();
        held.await.unwrap().unwrap();
        assert_eq!(server.post("/v1/search", "image/png", png()).await.status, StatusCode::OK);
    });
}

#[test]
fn refuses_bodies_beyond_the_limit_of_their_route() {
    run(async {
        let server = Server::new();
        let announced = request(Method::POST, "/v1/search")
            .header("content-type", "image/png")
            .header("content-length", MAX_BODY_BYTES + 1);
        let reply = server.send(announced.body(Body::from(vec![0; MAX_BODY_BYTES + 1])).unwrap()).await;
        assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(reply.error().contains("25 MB"));
        // A chunked body does not announce its length.
        let pieces = chunked_body(MAX_BODY_BYTES / 100_000 + 1, 100_000);
        let reply = server.post("/v1/search", "image/png", pieces).await;
        assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
        for (path, kind, most, shown) in [
            ("/v1/search", "application/json", MAX_JSON_BYTES, "4 MB"),
            ("/v1/search/batch", "application/json", MAX_JSON_BYTES, "4 MB"),
            ("/v1/index", "application/json", 64_000, "64 kB"),
            ("/v1/session", "application/json", 4_000, "4 kB"),
        ] {
            let reply = server.post(path, kind, vec![b' '; most + 1]).await;
            assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE, "{path}");
            assert!(reply.error().contains(shown), "{path}: {}", reply.error());
            assert_ne!(server.post(path, kind, vec![b' '; most]).await.status, StatusCode::PAYLOAD_TOO_LARGE, "{path}");
        }
        let just = server.post("/v1/search", "image/png", vec![0; MAX_BODY_BYTES]).await;
        assert_eq!(just.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "it was read, and is not a picture");
        assert_eq!(server.app.bodies.reserved(), 0, "every reservation is returned");
    });
}

/// A body in pieces, of unknown length.
fn chunked_body(pieces: usize, bytes: usize) -> Body {
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
fn opens_new_commits() {
    run(async {
        let server = Server::new();
        let watching = tokio::spawn(server.app.snapshots.clone().watch());
        put(&server.folder.path().join("index"), 9);
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while server.app.snapshots.latest().unwrap().videos != 6 {
            assert!(std::time::Instant::now() < until, "the commit was not opened");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        watching.abort();
    });
}

#[test]
fn counts_requests_whose_client_leaves() {
    run(async {
        let server = Server::new();
        let (started, has_started) = tokio::sync::oneshot::channel::<()>();
        let started = Arc::new(std::sync::Mutex::new(Some(started)));
        let never = move || async move {
            started.lock().unwrap().take().unwrap().send(()).unwrap();
            std::future::pending::<()>().await;
        };
        let router = with_outer_layers(Router::new().route("/never", get(never)), &server.app);
        let asked = request(Method::GET, "/never").body(Body::empty()).unwrap();
        let waiting = tokio::spawn(router.oneshot(asked));
        has_started.await.unwrap();
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        let text = server.get("/metrics").await.text();
        assert!(text.contains("reelseek_requests_total{route=\"/never\",method=\"GET\",status=\"499\"} 1"), "{text}");
        assert!(text.contains("reelseek_request_seconds_count{route=\"/never\"} 1"), "{text}");
        assert!(text.contains("reelseek_requests_in_flight 1"), "{text}");
    });
}

#[test]
fn returns_503_with_retry_after_without_an_index() {
    run(async {
        let server = Server::on(tempfile::tempdir().unwrap(), |_| {});
        for reply in [server.get("/readyz").await, server.post("/v1/search", "image/png", png()).await] {
            assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "5"));
        }
        assert_eq!(server.get("/no/such/route").await.header("retry-after"), "");
    });
}
