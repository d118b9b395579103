use super::*;
use crate::serve::error::ApiError;
use crate::serve::guard::remote::Remote;
use serde_json::json;

#[test]
fn a_vector_finds_its_video_and_its_moment() {
    run(async {
        let server = Server::new();
        let reply = server.search("", &vector(8 + 1)).await;
        assert_eq!((&reply["exact"], &reply["generation"]), (&true.into(), &1.into()));
        let best = &reply["results"][0];
        assert_eq!((&best["rank"], &best["video"], &best["title"]), (&1.into(), &"id1".into(), &"clip 1".into()));
        assert_eq!((&best["from"], &best["at"], &best["to"]), (&10.0.into(), &15.0.into(), &20.0.into()), "{best}");
        assert_eq!((&best["duration"], &best["labels"]), (&30.0.into(), &json!(["odd"])));
        assert_eq!((&best["name"], best.get("path")), (&"clip 1.mp4".into(), None));
        assert_eq!(best["thumbnail"], "/v1/thumbnail?video=id1&at=15");
        assert_eq!(best["preview"], "/v1/preview?video=id1&from=10&to=20");
        assert_eq!(best["media"], "/v1/media/id1");
        assert!((best["score"].as_f64().unwrap() - 0.9055).abs() < 1e-3, "{best}");
        // A vector need not be of length 1.
        let longer: Vec<f32> = vector(9).iter().map(|v| v * 7.0).collect();
        assert_eq!(server.search("", &longer).await["results"], reply["results"]);
    });
}

#[test]
fn options_come_as_parameters_and_with_the_body() {
    run(async {
        let server = Server::new();
        let mut all = vec![0.0; DIM];
        for number in 0..5 {
            all[number * 8] = 1.0 - 0.1 * number as f32;
        }
        let ids = |reply: &Value| -> Vec<String> {
            reply["results"].as_array().unwrap().iter().map(|r| r["video"].as_str().unwrap().to_owned()).collect()
        };
        let whole = server.search("", &all).await;
        assert_eq!(
            (ids(&whole), &whole["more"]),
            (vec!["id0".into(), "id1".into(), "id2".into(), "id3".into(), "id4".into()], &false.into())
        );
        let page = server.search("?top=2&skip=2", &all).await;
        assert_eq!(
            (ids(&page), &page["more"], &page["results"][0]["rank"]),
            (vec!["id2".into(), "id3".into()], &true.into(), &3.into())
        );
        assert_eq!(ids(&server.search("?filter=label%3Aodd", &all).await), ["id1", "id3"]);
        assert_eq!(ids(&server.search("?filter=", &all).await).len(), 5);
        let moments = server.search("?group=moment&exact=true", &vector(0)).await;
        assert!(ids(&moments).iter().filter(|id| *id == "id0").count() >= 2, "{moments}");
        assert_eq!(ids(&server.search("?min_confidence=1", &all).await), [""; 0]);
        assert_eq!(ids(&server.search("?ef=16", &all).await), ids(&whole));

        let body = json!({ "vector": all, "top": 1, "filter": "label:even", "min_confidence": 0, "group": "video", "skip": null });
        let reply = server.post("/v1/search?top=4", "application/json", body.to_string()).await;
        assert_eq!(ids(&reply.json()), ["id0"], "the body goes before parameters");
        assert_eq!(server.search("", &[0.0; DIM]).await["results"], json!([]), "nothing lies near nothing");
    });
}

#[test]
fn a_picture_may_come_in_every_form() {
    run(async {
        let server = Server::new();
        let png = png();
        let raw = server.post("/v1/search?top=3", "image/png", png.clone()).await;
        assert_eq!(raw.status, StatusCode::OK, "{}", raw.text());
        let (kind, body) = form(&[("top", false, b"3"), ("image", true, &png), ("exact", false, b"false")]);
        let formed = server.post("/v1/search", &kind, body).await;
        let octets = server.post("/v1/search?top=3", "application/octet-stream", png.clone()).await;
        for reply in [&formed, &octets] {
            assert_eq!(reply.json()["results"], raw.json()["results"], "{}", reply.text());
        }
        // A flat picture shows nothing.
        let flat = image::RgbImage::from_pixel(64, 64, image::Rgb([9, 9, 9]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        flat.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let reply = server.post("/v1/search", "image/png", bytes.into_inner()).await;
        assert_eq!((reply.status, &reply.json()["results"]), (StatusCode::OK, &json!([])));
    });
}

#[test]
fn what_is_wrong_is_told_with_its_status() {
    run(async {
        let server = Server::new();
        let ok = json!({ "vector": vector(0) }).to_string();
        let (form_kind, no_image) = form(&[("top", false, b"3")]);
        let (_, two) = form(&[("image", true, b"a"), ("image", true, b"b")]);
        let (_, two_urls) = form(&[("url", false, b"http://a.org"), ("url", false, b"http://b.org")]);
        let nameless = b"--xx\r\nContent-Disposition: form-data\r\n\r\n3\r\n--xx--\r\n".to_vec();
        let (_, bad_option) = form(&[("image", true, &png()), ("top", false, b"many")]);
        let (_, unknown) = form(&[("image", true, &png()), ("colour", false, b"red")]);
        let cut = png()[..200].to_vec();
        let cases: Vec<(&str, &str, Vec<u8>, u16, &str)> = vec![
            ("?top=0", "application/json", ok.clone().into(), 400, "top is 0: expected 1 to 100"),
            ("?top=101", "application/json", ok.clone().into(), 400, "top is 101"),
            ("?top=x", "application/json", ok.clone().into(), 400, "top: invalid digit"),
            ("?skip=10001", "application/json", ok.clone().into(), 400, "skip is 10001"),
            ("?ef=0", "application/json", ok.clone().into(), 400, "ef is 0"),
            ("?min_confidence=1.5", "application/json", ok.clone().into(), 400, "min_confidence is 1.5"),
            ("?min_confidence=NaN", "application/json", ok.clone().into(), 400, "min_confidence is NaN"),
            ("?group=scene", "application/json", ok.clone().into(), 400, "group"),
            ("?colour=red", "application/json", ok.clone().into(), 400, "colour"),
            ("?filter=nosuchfield%3Ax", "application/json", ok.clone().into(), 400, "cannot understand the filter"),
            ("", "application/json", b"{".to_vec(), 400, "read as JSON: EOF"),
            ("", "application/json", b"[]".to_vec(), 400, "expected a JSON object"),
            ("", "application/json", b"{}".to_vec(), 400, "either a `vector` or a `url`"),
            ("", "application/json", b"{\"vector\":\"x\"}".to_vec(), 400, "list of numbers"),
            ("", "application/json", b"{\"vector\":[1,2]}".to_vec(), 400, "expected 128"),
            ("", "application/json", b"{\"vector\":[]}".to_vec(), 400, "expected 128"),
            (
                "?top=0",
                "application/json",
                json!({ "vector": vector(0), "top": 1 }).to_string().into(),
                400,
                "top is 0",
            ),
            ("?ef=0&exact=true", "application/json", ok.clone().into(), 400, "ef is 0"),
            ("", "application/json", json!({ "vector": vec![1e300; DIM] }).to_string().into(), 400, "out of range"),
            ("", "application/json", b"{\"vector\":[1],\"url\":\"http://a.org\"}".to_vec(), 400, "either"),
            ("", "application/json", json!({ "vector": vector(0), "colour": 1 }).to_string().into(), 400, "colour"),
            ("", "application/json", b"{\"url\":\"http://example.org/a.jpg\"}".to_vec(), 403, "--fetch"),
            ("", "application/json", b"{\"url\":7}".to_vec(), 400, "expected a string"),
            ("", "application/json", b"{\"queries\":[{\"vector\":[1]}]}".to_vec(), 400, "/v1/search/batch"),
            ("", &form_kind, two_urls, 400, "more than 1 field `url`"),
            ("", &form_kind, nameless, 400, "no name"),
            ("", &form_kind, no_image, 400, "either the field `image` or `url`"),
            ("", &form_kind, two, 400, "more than 1"),
            ("", &form_kind, bad_option, 400, "invalid digit"),
            ("", &form_kind, unknown, 400, "colour"),
            ("", &form_kind, b"no form".to_vec(), 400, "form"),
            ("", "multipart/form-data", Vec::new(), 400, "form"),
            ("", "image/jpeg", Vec::new(), 400, "empty"),
            ("", "image/png", cut, 400, "not a picture that can be read"),
            ("", "image/jpeg", b"hello, this is text".to_vec(), 415, "known format"),
            ("", "image/webp", b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec(), 415, "known format"),
            ("", "text/plain", ok.clone().into(), 415, "Content-Type"),
            ("", "application/x-www-form-urlencoded", b"vector=1".to_vec(), 415, "Content-Type"),
            ("", "image/x-portable-pixmap", b"P6\n8000 8000\n255\n".to_vec(), 422, "8000 x 8000"),
        ];
        for (query, kind, body, status, words) in cases {
            let shown = format!("{query} {kind} {}", String::from_utf8_lossy(&body[..body.len().min(60)]));
            let reply = server.post(&format!("/v1/search{query}"), kind, body).await;
            assert_eq!(reply.status.as_u16(), status, "{shown}: {}", reply.text());
            assert!(reply.error().contains(words), "{shown}: {}", reply.error());
        }
    });
}

#[test]
fn a_batch_answers_in_order_and_tells_what_is_wrong_with_one_in_its_place() {
    run(async {
        let server = Server::new();
        let queries: Vec<Value> = (0..5).map(|n| json!({ "vector": vector(n * 8) })).collect();
        let body = json!({ "queries": queries, "top": 1 }).to_string();
        let reply = server.post("/v1/search/batch", "application/json", body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        let answers = reply.json()["answers"].clone();
        for (n, answer) in answers.as_array().unwrap().iter().enumerate() {
            assert_eq!(answer["results"][0]["video"], format!("id{n}"));
        }
        let (kind, body) = form(&[
            ("image", true, &png()),
            ("image", true, b"no picture"),
            ("image", true, &png()),
            ("top", false, b"2"),
        ]);
        let reply = server.post("/v1/search/batch", &kind, body).await.json();
        let answers = reply["answers"].as_array().unwrap();
        assert_eq!(answers.len(), 3);
        assert_eq!(answers[0]["results"], answers[2]["results"]);
        assert!(answers[1]["error"].as_str().unwrap().contains("known format"), "{}", answers[1]);
        let body =
            json!({ "queries": [{ "vector": vector(0) }, { "vector": [1.0] }, { "url": "http://example.org" }] });
        let reply = server.post("/v1/search/batch", "application/json", body.to_string()).await.json();
        let told: Vec<bool> = reply["answers"].as_array().unwrap().iter().map(|a| a["error"].is_string()).collect();
        assert_eq!(told, [false, true, true]);

        for (body, words) in [
            (json!({ "queries": [] }), "0 queries"),
            (json!({ "queries": vec![json!({ "vector": [1.0] }); 33] }), "more than 32 queries"),
            (json!({ "queries": [7] }), "expected a JSON object"),
            (json!({ "queries": [{ "vector": [1.0], "top": 3 }] }), "unknown field `top`"),
            (json!({ "vector": [1.0] }), "there must be `queries`"),
            (
                json!({ "queries": [{ "vector": vector(0) }], "filter": "nosuchfield:x" }),
                "cannot understand the filter",
            ),
        ] {
            let reply = server.post("/v1/search/batch", "application/json", body.to_string()).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}");
            assert!(reply.error().contains(words), "{body}: {}", reply.error());
        }
    });
}

/// Between them single searches come to their turn.
#[test]
fn each_query_of_a_batch_takes_a_turn_of_its_own() {
    run(async {
        let server = Server::new();
        let queries: Vec<Value> = (0..5).map(|n| json!({ "vector": vector(n * 8) })).collect();
        server.post("/v1/search/batch", "application/json", json!({ "queries": queries }).to_string()).await;
        let text = server.get("/metrics").await.text();
        let (turns, searches) =
            ("reelseek_stage_seconds_count{stage=\"queue\"} 6", "reelseek_stage_seconds_count{stage=\"search\"} 5");
        assert!(text.contains(turns) && text.contains(searches), "{text}");
    });
}

/// Four are asked at a time, and all have one time to answer in.
#[test]
fn a_batch_of_addresses_that_do_not_answer_ends() {
    run(async {
        let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/a.jpg", mute.local_addr().unwrap());
        let folder = tempfile::tempdir().unwrap();
        put(&folder.path().join("index"), 0);
        let mut app = App::open(Options { fetch: true, ..options(&folder.path().join("index")) }).unwrap();
        app.remote = Some(Remote::among(|_| true));
        let router = router(Arc::new(app)).unwrap();
        let body = json!({ "queries": vec![json!({ "url": url }); 32] }).to_string();
        let asked = request(Method::POST, "/v1/search/batch").header("content-type", "application/json");
        let start = std::time::Instant::now();
        let reply = Reply::of(router, asked.body(Body::from(body)).unwrap()).await;
        assert!(start.elapsed().as_secs() < 40, "{:?}", start.elapsed());
        let answers = reply.json()["answers"].as_array().unwrap().clone();
        assert!(answers.len() == 32 && answers.iter().all(|answer| answer["error"].is_string()), "{answers:?}");
        mute.set_nonblocking(true).unwrap();
        let asked = std::iter::from_fn(|| mute.accept().ok()).count();
        assert!((4..=12).contains(&asked), "{asked} were asked");
    });
}

#[test]
fn a_long_filter_is_not_repeated_whole() {
    run(async {
        let server = Server::new();
        let filter = "nosuchfield:".to_owned() + &"x".repeat(30_000);
        let body = json!({ "vector": vector(0) }).to_string();
        let reply = server.post(&format!("/v1/search?filter={filter}"), "application/json", body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        let told = reply.error();
        assert!(told.len() < 3000 && told.contains("cannot understand the filter"), "{} bytes", told.len());
    });
}

#[test]
fn trace_moes_clients_find_what_they_look_for() {
    run(async {
        let server = Server::new();
        let keys = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
        let (kind, body) = form(&[("anilistID", false, b"7"), ("image", true, &png())]);
        let formed = server.post("/search?cutBorders&anilistInfo", &kind, body).await;
        let raw = server.post("/search?cutBorders=1", "application/x-www-form-urlencoded", png()).await;
        assert_eq!((formed.status, raw.status), (StatusCode::OK, StatusCode::OK), "{} {}", formed.text(), raw.text());
        let reply = raw.json();
        assert_eq!(reply, formed.json());
        assert_eq!(keys(&reply), ["error", "frameCount", "result"]);
        assert_eq!((&reply["frameCount"], &reply["error"]), (&15.into(), &"".into()));
        let best = &reply["result"][0];
        assert_eq!(keys(best), ["at", "duration", "filename", "from", "image", "similarity", "to", "video"]);
        assert!(best["filename"].as_str().unwrap().starts_with("clip ") && best["similarity"].is_f64());
        assert!(best["image"].as_str().unwrap().starts_with("http://localhost:8787/v1/thumbnail?video=id"), "{best}");
        assert!(best["video"].as_str().unwrap().starts_with("http://localhost:8787/v1/preview?video=id"), "{best}");

        assert_eq!(server.get("/search?url=http%3A%2F%2Fexample.org%2Fa.jpg").await.status, StatusCode::FORBIDDEN);
        let text = server.post("/search", "text/plain;charset=UTF-8", png()).await;
        assert_eq!((text.status, text.json()), (StatusCode::OK, reply), "the bytes tell what they are");
        assert!(server.get("/search").await.error().contains("`url` is missing"));
        assert!(server.post("/search", "image/jpeg", Body::empty()).await.error().contains("no picture"));
        assert_eq!(server.post("/search", "image/jpeg", "hello").await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let me = server.get("/me").await.json();
        assert_eq!(keys(&me), ["concurrency", "id", "priority", "quota", "quotaUsed"]);
    });
}

#[test]
fn a_server_that_fetches_refuses_private_addresses() {
    run(async {
        let server = Server::with(|options| options.fetch = true);
        for (url, status) in [
            ("http%3A%2F%2F127.0.0.1%3A1%2F", 502),
            ("http%3A%2F%2Flocalhost%3A1%2F", 502),
            ("file%3A%2F%2F%2Fetc%2Fpasswd", 400),
        ] {
            let reply = server.get(&format!("/search?url={url}")).await;
            assert_eq!(reply.status.as_u16(), status, "{url}");
            reply.error();
        }
        assert_eq!(server.get("/v1/info").await.json()["fetch"], true);
    });
}

#[test]
fn new_commits_are_taken_up_while_old_snapshots_live() {
    run(async {
        let server = Server::new();
        let index = server.folder.path().join("index");
        let held = server.app.snapshot().unwrap();
        assert!(!server.app.refresh().unwrap(), "nothing is new");
        put(&index, 7);
        assert!(server.app.refresh().unwrap());
        let reply = server.search("", &vector(7 * 8)).await;
        assert_eq!((&reply["results"][0]["video"], &reply["generation"]), (&"id7".into(), &2.into()));
        assert_eq!((held.generation, held.videos, held.engine.searcher().rows()), (1, 5, 15));
        let info = server.get("/v1/info").await.json();
        assert_eq!((&info["videos"], &info["rows"], &info["generation"]), (&6.into(), &18.into(), &2.into()));
        assert_eq!(
            (&info["dim"], &info["encoder"], &info["same_scene"]),
            (&128.into(), &"layout/1".into(), &true.into())
        );
    });
}

#[test]
fn without_an_index_it_waits_for_one() {
    run(async {
        let server = Server::on(tempfile::tempdir().unwrap(), |_| {});
        assert_eq!(server.get("/healthz").await.status, StatusCode::OK);
        assert_eq!(server.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(server.get("/v1/info").await.json()["index"], false);
        let body = json!({ "vector": vector(0) }).to_string();
        let reply = server.post("/v1/search", "application/json", body).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(reply.error().contains("no index yet"));
        put(&server.folder.path().join("index"), 0);
        server.app.refresh().unwrap();
        assert_eq!(server.get("/readyz").await.status, StatusCode::OK);
        assert_eq!(server.search("", &vector(0)).await["results"][0]["video"], "id0");
    });
}

#[test]
fn paths_are_told_only_where_that_is_asked_for() {
    run(async {
        let open = Server::with(|options| options.show_paths = true);
        assert_eq!(open.search("", &vector(0)).await["results"][0]["path"], "/secret/folder/clip 0.mp4");
        let closed = Server::new();
        let reply =
            closed.post("/search", "image/png", png()).await.text() + &closed.search("", &vector(0)).await.to_string();
        assert!(!reply.contains("secret"), "{reply}");
        let damaged = reelseek_index::Error::Missing { path: "/secret".into() };
        assert!(!ApiError::from(damaged).message.contains("secret"));
    });
}

#[test]
fn the_document_names_every_route_and_its_errors() {
    run(async {
        let server = Server::new();
        let document = server.get("/openapi.json").await.json();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
        let text = document.to_string();
        for (at, name) in text.match_indices("\"$ref\":\"#").map(|(at, name)| (at + name.len(), name)) {
            let pointer = text[at..].split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{name}{pointer} leads nowhere");
        }
        let paths = document["paths"].as_object().unwrap();
        for path in [
            "/v1/search",
            "/v1/search/batch",
            "/v1/info",
            "/v1/session",
            "/search",
            "/me",
            "/healthz",
            "/readyz",
            "/metrics",
        ] {
            assert!(paths.contains_key(path), "{path}");
        }
        for (path, schemes) in [
            ("/v1/thumbnail", ["bearer", "cookie", "link"].as_slice()),
            ("/v1/preview", &["bearer", "cookie", "link"]),
            ("/v1/media/{id}", &["bearer", "cookie", "link"]),
            ("/search", &["bearer", "cookie", "trace_header", "trace_query"]),
            ("/me", &["bearer", "cookie", "trace_header", "trace_query"]),
        ] {
            let told = document["paths"][path]["get"]["security"].as_array().unwrap();
            let told: Vec<&String> = told.iter().flat_map(|one| one.as_object().unwrap().keys()).collect();
            assert_eq!(told, schemes, "{path}");
            assert!(schemes.iter().all(|scheme| document["components"]["securitySchemes"][scheme].is_object()));
        }
        for (path, item) in paths {
            for (method, operation) in item.as_object().unwrap() {
                let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
                let answers = operation["responses"].as_object().unwrap();
                assert!(
                    answers.contains_key("403") && answers.keys().any(|status| status.starts_with('2')),
                    "{method} {path}"
                );
                let reply = server.ask(request(method.clone(), path).body(Body::empty()).unwrap()).await;
                assert_ne!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
                // What every body may come to.
                if operation.get("requestBody").is_some() {
                    assert!(
                        ["408", "413", "429"].iter().all(|status| answers.contains_key(*status)),
                        "{method} {path}"
                    );
                }
                let told = answers.contains_key(reply.status.as_str());
                assert!(told, "{method} {path} answers {}, which the document does not tell", reply.status);
            }
        }
    });
}

#[test]
fn metrics_tell_of_stages_routes_and_the_index() {
    run(async {
        let server = Server::new();
        server.search("", &vector(0)).await;
        server.post("/v1/search", "image/png", png()).await;
        server.post("/v1/search", "text/plain", "x").await;
        server.get("/no/such/route").await;
        let text = server.get("/metrics").await.text();
        for line in [
            "reelseek_stage_seconds_count{stage=\"search\"} 2",
            "reelseek_stage_seconds_count{stage=\"decode\"} 1",
            "reelseek_stage_seconds_count{stage=\"encode\"} 1",
            "reelseek_stage_seconds_count{stage=\"queue\"} 2",
            "reelseek_stage_seconds_count{stage=\"read\"} 3",
            "reelseek_requests_total{route=\"/v1/search\",method=\"POST\",status=\"200\"} 2",
            "reelseek_requests_total{route=\"/v1/search\",method=\"POST\",status=\"415\"} 1",
            "reelseek_requests_total{route=\"none\",method=\"GET\",status=\"404\"} 1",
            "reelseek_requests_in_flight 1",
            "reelseek_queue_depth 0",
            "reelseek_index_generation 1",
            "reelseek_index_rows 15",
            "reelseek_index_videos 5",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    });
}
