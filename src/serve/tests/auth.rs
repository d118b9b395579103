//! The token as a header, cookie, signature and trace.moe key.

use super::*;
use crate::serve::guard::auth;
use crate::serve::router::with_outer_layers;
use axum::middleware::from_fn_with_state;
use axum::routing::get;

const TOKEN: &str = "correct-horse-battery-staple";

#[test]
fn only_health_and_session_need_no_token() {
    run(async {
        let server = Server::with_token();
        let document = Server::new().get("/openapi.json").await.json();
        for path in document["paths"].as_object().unwrap().keys() {
            for method in [Method::GET, Method::POST] {
                let reply = server
                    .send(request(method.clone(), &path.replace(['{', '}'], "")).body(Body::empty()).unwrap())
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
            assert_eq!(server.send(request).await.status.as_u16(), status, "{value}");
        }
        let bearer = request(Method::GET, "/metrics").header("authorization", format!("Bearer {TOKEN}"));
        let text = server.send(bearer.body(Body::empty()).unwrap()).await.text();
        assert!(text.contains("reelseek_requests_total{route=\"/v1/info\",method=\"GET\",status=\"401\"} 7"), "{text}");
    });
}

#[test]
fn a_session_cookie_admits_as_the_token_does() {
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
            assert_eq!(server.send(request).await.status.as_u16(), status, "{cookie}");
        }
        // Other schemes are for a reverse proxy and have no effect. A wrong bearer token is refused.
        for (authorization, status) in [("Basic YTpi", 200), ("Negotiate", 200), ("Bearer wrong", 401)] {
            let request =
                request(Method::GET, "/v1/info").header("cookie", pair).header("authorization", authorization);
            let reply = server.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(reply.status.as_u16(), status, "{authorization}");
        }
        let end = server.send(request(Method::DELETE, "/v1/session").body(Body::empty()).unwrap()).await;
        assert!(end.header("set-cookie").starts_with("reelseek=; ") && end.header("set-cookie").contains("Max-Age=0"));
        for (kind, body, status) in
            [("text/plain", "{}", 415), ("application/json", "{", 400), ("application/json", "{}", 422)]
        {
            let reply = server.post("/v1/session", kind, body).await;
            assert_eq!(reply.status.as_u16(), status);
            reply.error();
        }
        // A server without a token accepts any and sets no cookie.
        let open = Server::new().post("/v1/session", "application/json", "{\"token\":\"any\"}").await;
        assert_eq!((open.status, open.header("set-cookie")), (StatusCode::NO_CONTENT, ""));
    });
}

#[test]
fn signed_links_admit_to_their_media_only() {
    run(async {
        let server = Server::with_token();
        let app = server.app.clone();
        let closed = Router::new()
            .route("/v1/media/{id}", get(|| async { "media" }))
            .route("/v1/thumbnail", get(|| async { "thumbnail" }));
        let closed = closed.route("/v1/videos", get(|| async { "videos" }));
        let closed = closed.route_layer(from_fn_with_state(app.auth.clone(), auth::check));
        let router = with_outer_layers(closed, &app);
        let status = |path: String| {
            let request =
                request(Method::GET, &path).header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "no-cors");
            let reply = Reply::of(router.clone(), request.body(Body::empty()).unwrap());
            async move { reply.await.status.as_u16() }
        };
        let media = app.auth.sign("/v1/media/abc".to_owned());
        let thumbnail = app.auth.sign("/v1/thumbnail?video=abc&at=1.5".to_owned());
        assert!(media.starts_with("/v1/media/abc?key=") && media.len() == "/v1/media/abc?key=".len() + 32, "{media}");
        assert!(thumbnail.starts_with("/v1/thumbnail?video=abc&at=1.5&key="), "{thumbnail}");
        assert_eq!((status(media.clone()).await, status(thumbnail.clone()).await), (200, 200));
        // Parameters that clients of trace.moe append have no effect.
        for (link, more) in [(&thumbnail, "size=l"), (&media, "size=s&mute"), (&media, "width=3"), (&thumbnail, "&")] {
            assert_eq!(status(format!("{link}&{more}")).await, 200, "{link}&{more}");
        }
        for wrong in [
            "/v1/media/abc".to_owned(),
            media.replace("abc", "abd"),
            media[..media.len() - 1].to_owned(),
            format!("{thumbnail}&width=640"),
            format!("{thumbnail}&%77idth=640"),
            format!("{thumbnail}&video=abd"),
            format!("{thumbnail}&%76ideo=abd"),
            thumbnail.replace("video=abc&", ""),
            format!("{media}&key=0"),
            media.replace("key=", "key=0"),
            thumbnail.replace("at=1.5", "at=1.6"),
            thumbnail.replace("/v1/thumbnail", "/v1/preview"),
        ] {
            assert_ne!(status(wrong.clone()).await, 200, "{wrong}");
        }
        let other = app.auth.sign("/v1/videos".to_owned());
        assert_eq!(status(other).await, 403, "a link admits to media only");
        // Without a token, links are not signed.
        assert_eq!(Server::new().app.auth.sign("/v1/media/abc".to_owned()), "/v1/media/abc");
    });
}

#[test]
fn accepts_the_token_as_the_key_of_trace_moe_clients() {
    run(async {
        let server = Server::with_token();
        let status = |path: String, key: Option<&str>| {
            let mut request = request(Method::GET, &path);
            if let Some(key) = key {
                request = request.header("x-trace-key", key);
            }
            let reply = Reply::of(server.router.clone(), request.body(Body::empty()).unwrap());
            async move { reply.await.status.as_u16() }
        };
        let wrong = TOKEN.replace('c', "k");
        for (path, key, expected) in [
            ("/me".to_owned(), Some(TOKEN), 200),
            (format!("/me?key={TOKEN}"), None, 200),
            (format!("/me?a=b&key={TOKEN}"), Some(wrong.as_str()), 200),
            ("/me".to_owned(), Some(&wrong), 401),
            (format!("/me?key={wrong}"), None, 401),
            ("/me?key=".to_owned(), None, 401),
            ("/me".to_owned(), None, 401),
            // The key is accepted; the search fails because it has no URL.
            ("/search".to_owned(), Some(TOKEN), 400),
            // The key is not accepted on other paths.
            ("/v1/info".to_owned(), Some(TOKEN), 401),
            (format!("/v1/info?key={TOKEN}"), None, 401),
            (format!("/v1/media/abc?key={TOKEN}"), None, 401),
        ] {
            assert_eq!(status(path.clone(), key).await, expected, "{path} {key:?}");
        }
        let searched =
            request(Method::POST, "/search").header("x-trace-key", TOKEN).header("content-type", "image/png");
        assert_eq!(server.send(searched.body(Body::from(png())).unwrap()).await.status, StatusCode::OK);
    });
}
