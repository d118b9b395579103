use serde_json::json;

use super::*;
use crate::serve::error::ApiError;

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
        assert_eq!(best["evidence"], best["score"], "equal in an index without sketches");
        let batch = json!({ "queries": [{ "vector": vector(8 + 1) }] }).to_string();
        let batch = server.post("/v1/search/batch", "application/json", batch).await.json();
        assert_eq!(batch["answers"][0]["results"][0]["evidence"], best["evidence"]);
        // A vector need not be of length 1.
        let longer: Vec<f32> = vector(9).iter().map(|v| v * 7.0).collect();
        assert_eq!(server.search("", &longer).await["results"], reply["results"]);
    });
}

#[test]
fn options_are_query_parameters_or_fields_of_the_body() {
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
        assert_eq!(ids(&reply.json()), ["id0"], "the body overrides the query parameters");
        assert_eq!(server.search("", &[0.0; DIM]).await["results"], json!([]), "a zero vector is near no row");
    });
}

#[test]
fn a_picture_is_the_body_or_a_field_of_a_form() {
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
        // A picture of one color has no features.
        let flat = image::RgbImage::from_pixel(64, 64, image::Rgb([9, 9, 9]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        flat.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let reply = server.post("/v1/search", "image/png", bytes.into_inner()).await;
        assert_eq!((reply.status, &reply.json()["results"]), (StatusCode::OK, &json!([])));
    });
}

#[test]
fn an_answer_without_results_has_a_reason() {
    run(async {
        let server = Server::new();
        assert_eq!(server.search("", &vector(0)).await.get("reason"), None);
        let flat = image::RgbImage::from_pixel(64, 64, image::Rgb([9, 9, 9]));
        let mut picture = std::io::Cursor::new(Vec::new());
        flat.write_to(&mut picture, image::ImageFormat::Png).unwrap();
        let picture = server.post("/v1/search", "image/png", picture.into_inner()).await.json();
        let empty = tempfile::tempdir().unwrap();
        Index::create(empty.path().join("index"), &IndexSettings::new(DIM)).unwrap();
        let no_videos = Server::on(empty, |_| {}).search("?filter=label:x", &vector(0)).await;
        for (answer, code, words) in [
            (picture, "flat_picture", "the picture is one flat colour"),
            (no_videos, "no_videos", "the index holds no videos"),
            (server.search("?filter=label:x", &vector(0)).await, "no_match_for_filter", "no video matches the filter"),
            (server.search("", &[0.0; DIM]).await, "zero_vector", "the vector is zero"),
            (server.search("?skip=99", &vector(0)).await, "past_last_result", "fewer results"),
            (
                server.search("?min_confidence=1", &[1.0; DIM]).await,
                "below_min_confidence",
                "a confidence of at least 1",
            ),
            (server.search("", &[-1.0; DIM]).await, "nothing_similar", "no video shows anything like this"),
        ] {
            let reason = &answer["reason"];
            assert_eq!((&answer["results"], &reason["code"]), (&json!([]), &code.into()), "{answer}");
            assert!(reason["message"].as_str().unwrap().contains(words), "{reason}");
        }
        let batch = json!({ "queries": [{ "vector": vec![0.0; DIM] }] }).to_string();
        let batch = server.post("/v1/search/batch", "application/json", batch).await.json();
        assert_eq!(batch["answers"][0]["reason"]["code"], "zero_vector");
    });
}

#[test]
fn each_result_has_the_region_in_pixels_of_the_picture_without_crop() {
    run(async {
        let server = Server::new();
        let png = png();
        let whole = server.post("/v1/search?top=3&whole=true", "image/png", png.clone()).await.json();
        let first = &whole["results"][0];
        assert_eq!(whole["query_size"], json!([128, 128]));
        assert_eq!(first["region"], json!([[0.0, 0.0], [128.0, 0.0], [128.0, 128.0], [0.0, 128.0]]), "{whole}");
        assert!(first["turn"] == 0 && first["mirrored"].is_boolean(), "{first}");

        let raw = server.post("/v1/search?top=3&whole=true&crop=16,32,96,64", "image/png", png.clone()).await.json();
        let region = json!([[16.0, 32.0], [112.0, 32.0], [112.0, 96.0], [16.0, 96.0]]);
        assert_eq!((&raw["results"][0]["region"], &raw["query_size"]), (&region, &json!([128, 128])), "{raw}");
        let crop = b"12.5%, 25%, 75%, 50%";
        let (kind, body) =
            form(&[("top", false, b"3"), ("crop", false, crop), ("whole", false, b"true"), ("image", true, &png)]);
        let formed = server.post("/v1/search", &kind, body).await.json();
        assert_eq!(formed["results"], raw["results"]);
        // The part alone gets the same results.
        let part = image::load_from_memory(&png).unwrap().crop_imm(16, 32, 96, 64);
        let mut bytes = std::io::Cursor::new(Vec::new());
        part.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let alone = server.post("/v1/search?top=3&whole=true", "image/png", bytes.into_inner()).await.json();
        let scores = |answer: &Value| -> Vec<Value> {
            answer["results"].as_array().unwrap().iter().map(|result| result["evidence"].clone()).collect()
        };
        assert_eq!(scores(&alone), scores(&raw));
        assert_ne!(scores(&whole), scores(&raw));

        let by_vector = server.search("", &vector(0)).await;
        let fields = by_vector["results"][0].as_object().unwrap();
        assert!(!["region", "turn", "mirrored"].iter().any(|name| fields.contains_key(*name)), "{by_vector}");
        assert_eq!(by_vector.get("query_size"), None);
    });
}

#[test]
fn a_crop_that_does_not_fit_is_refused_with_the_reason() {
    run(async {
        let server = Server::new();
        let vector = vector(0);
        let json = |crop: Value| json!({ "vector": vector, "crop": crop }).to_string().into_bytes();
        let (kind, in_form) = form(&[("image", true, &png()), ("crop", false, b"1,2,3")]);
        let cases: Vec<(&str, &str, Vec<u8>, &str)> = vec![
            ("?crop=1,2,3", "image/png", png(), "expected a crop X,Y,W,H in pixels"),
            ("?crop=", "image/png", png(), "found ``"),
            ("?crop=a,b,c,d", "image/png", png(), "found `a,b,c,d`"),
            ("", &kind, in_form, "found `1,2,3`"),
            ("?crop=0,0,10,0", "image/png", png(), "the crop 0,0,10,0 is empty"),
            ("?crop=0,0,0.1%25,9", "image/png", png(), "the crop 0,0,0.1%,9 is empty"),
            (
                "?crop=100,0,29,9",
                "image/png",
                png(),
                "ends at 129 x 9: expected a part of the picture, which has 128 x",
            ),
            ("", "application/json", json(json!("1,2,3,4,5")), "found `1,2,3,4,5`"),
            ("", "application/json", json(json!([1, 2, 3, 4])), "expected a string"),
            ("", "application/json", json(json!("1,2,3,4")), "`crop` is a part of a picture"),
            ("?whole=yes", "image/png", png(), "whole"),
        ];
        for (query, kind, body, message) in cases {
            let reply = server.post(&format!("/v1/search{query}"), kind, body).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{query}: {}", reply.text());
            assert!(reply.error().contains(message), "{query}: {}", reply.text());
        }
    });
}

#[test]
fn a_picture_that_ends_early_has_a_warning_and_one_beyond_the_limits_is_refused() {
    run(async {
        let server = Server::new();
        let mut jpeg = std::io::Cursor::new(Vec::new());
        image::load_from_memory(&png()).unwrap().write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
        let jpeg = jpeg.into_inner();
        let whole = server.post("/v1/search", "image/jpeg", jpeg.clone()).await.json();
        assert_eq!(whole.get("warning"), None);
        let cut = server.post("/v1/search", "image/jpeg", jpeg[..jpeg.len() / 2].to_vec()).await;
        let warning = cut.json()["warning"].as_str().unwrap_or_default().to_owned();
        assert!(cut.status == StatusCode::OK && warning.contains("ends early"), "{}", cut.text());
        // Headers of QOI.
        for (width, limit) in [(2_000_000_u32, "1000000 pixels a side"), (900_000, "50000000 pixels")] {
            let picture = [&b"qoif"[..], &width.to_be_bytes(), &60_u32.to_be_bytes(), &[3, 0]].concat();
            let reply = server.post("/v1/search", "image/qoi", picture).await;
            let message = reply.text();
            assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{message}");
            assert!(message.contains(&format!("has {width} x 60 pixels, more than the {limit}")), "{message}");
        }
    });
}

#[test]
fn each_malformed_request_gets_its_status_and_message() {
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
            ("?url=http%3A%2F%2Fa.org", "application/json", ok.clone().into(), 400, "`url` is a field of the body"),
            ("?filter=nosuchfield%3Ax", "application/json", ok.clone().into(), 400, "cannot understand the filter"),
            ("", "application/json", b"{".to_vec(), 400, "read as JSON: EOF"),
            ("", "application/json", b"[]".to_vec(), 400, "expected a JSON object"),
            ("", "application/json", b"{}".to_vec(), 400, "either a `vector` or a `url`"),
            ("", "application/json", b"{\"vector\":\"x\"}".to_vec(), 400, "expected a list"),
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
            ("", &form_kind, two_urls, 400, "duplicate field `url`"),
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
            ("", "image/webp", b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec(), 415, "SVG is not supported"),
            ("", "text/plain", ok.clone().into(), 415, "Content-Type"),
            ("", "application/x-www-form-urlencoded", b"vector=1".to_vec(), 415, "Content-Type"),
            ("", "image/x-portable-pixmap", b"P6\n8000 8000\n255\n".to_vec(), 422, "8000 x 8000"),
        ];
        for (query, kind, body, status, words) in cases {
            let case = format!("{query} {kind} {}", String::from_utf8_lossy(&body[..body.len().min(60)]));
            let reply = server.post(&format!("/v1/search{query}"), kind, body).await;
            assert_eq!(reply.status.as_u16(), status, "{case}: {}", reply.text());
            assert!(reply.error().contains(words), "{case}: {}", reply.error());
        }
    });
}

#[test]
fn a_batch_answers_in_order_and_reports_the_error_of_each_query() {
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
        let failed: Vec<bool> = reply["answers"].as_array().unwrap().iter().map(|a| a["error"].is_string()).collect();
        assert_eq!(failed, [false, true, true]);

        for (body, words) in [
            (json!({ "queries": [] }), "0 queries"),
            (json!({ "queries": vec![json!({ "vector": [1.0] }); 33] }), "at most 32 elements"),
            (json!({ "queries": [7] }), "expected a JSON object"),
            (json!({ "queries": [{ "vector": [1.0], "top": 3 }] }), "unknown field `top`"),
            (json!({ "vector": [1.0] }), "expected `queries`"),
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

/// Single searches can therefore run between the queries of a batch.
#[test]
fn each_query_of_a_batch_waits_for_a_worker() {
    run(async {
        let server = Server::new();
        let queries: Vec<Value> = (0..5).map(|n| json!({ "vector": vector(n * 8) })).collect();
        server.post("/v1/search/batch", "application/json", json!({ "queries": queries }).to_string()).await;
        let text = server.get("/metrics").await.text();
        let (waits, searches) =
            ("reelseek_stage_seconds_count{stage=\"queue\"} 6", "reelseek_stage_seconds_count{stage=\"search\"} 5");
        assert!(text.contains(waits) && text.contains(searches), "{text}");
    });
}

#[test]
fn a_fetch_that_panics_fails_its_own_query_only() {
    run(async {
        let server = Server::fetching(|_| panic!("on purpose"));
        let query = json!({ "vector": vector(0) });
        let body = json!({ "queries": [query, { "url": "http://127.0.0.1:1/a.jpg" }, query] }).to_string();
        let reply = server.post("/v1/search/batch", "application/json", body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        let failed: Vec<bool> =
            reply.json()["answers"].as_array().unwrap().iter().map(|answer| answer["error"].is_string()).collect();
        assert_eq!(failed, [false, true, false]);
    });
}

/// Four URLs are fetched at a time, within one deadline for the batch.
#[test]
fn a_batch_of_silent_addresses_ends_at_its_deadline() {
    run(async {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/a.jpg", silent.local_addr().unwrap());
        let server = Server::fetching(|_| true);
        let body = json!({ "queries": vec![json!({ "url": url }); 32] }).to_string();
        let start = std::time::Instant::now();
        let reply = server.post("/v1/search/batch", "application/json", body).await;
        assert!(start.elapsed().as_secs() < 40, "{:?}", start.elapsed());
        let answers = reply.json()["answers"].as_array().unwrap().clone();
        assert!(answers.len() == 32 && answers.iter().all(|answer| answer["error"].is_string()), "{answers:?}");
        silent.set_nonblocking(true).unwrap();
        let connections = std::iter::from_fn(|| silent.accept().ok()).count();
        assert!((4..=12).contains(&connections), "{connections} connections");
    });
}

#[test]
fn an_error_quotes_only_a_part_of_a_long_filter() {
    run(async {
        let server = Server::new();
        let filter = "nosuchfield:".to_owned() + &"x".repeat(30_000);
        let body = json!({ "vector": vector(0) }).to_string();
        let reply = server.post(&format!("/v1/search?filter={filter}"), "application/json", body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        let error = reply.error();
        assert!(error.len() < 3000 && error.contains("cannot understand the filter"), "{} bytes", error.len());
    });
}

#[test]
fn answers_clients_of_trace_moe_in_their_form() {
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
        assert_eq!((text.status, text.json()), (StatusCode::OK, reply), "the format is recognized by the bytes");
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
fn opens_new_commits_while_requests_hold_old_snapshots() {
    run(async {
        let server = Server::new();
        let index = server.folder.path().join("index");
        let held = server.app.snapshots.latest().unwrap();
        assert!(!server.app.snapshots.refresh().unwrap(), "nothing is new");
        put(&index, 7);
        assert!(server.app.snapshots.refresh().unwrap());
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
fn starts_without_an_index_and_opens_it_later() {
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
        server.app.snapshots.refresh().unwrap();
        assert_eq!(server.get("/readyz").await.status, StatusCode::OK);
        assert_eq!(server.search("", &vector(0)).await["results"][0]["video"], "id0");
    });
}

#[test]
fn paths_are_returned_only_with_show_paths() {
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
fn metrics_count_stages_routes_and_the_index() {
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

#[test]
fn long_titles_and_labels_of_an_older_index_are_cut_in_every_answer() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::create(folder.path().join("index"), &IndexSettings::new(DIM)).unwrap();
        let (title, labels) = ("é".repeat(500_000), vec!["l".repeat(5000); 300]);
        let video = Video { id: "long".to_owned(), title, labels, duration_ms: 10_000, ..Video::default() };
        let mut writer = index.writer().unwrap();
        writer.put(video, &[Span { start_ms: 0, end_ms: 10_000, at_ms: 5000 }], &vector(1), &[]).unwrap();
        writer.commit().unwrap();
        writer.close().unwrap();
        let server = Server::on(folder, |_| {});
        for video in [
            &server.search("", &vector(1)).await["results"][0],
            &server.search("?group=moment", &vector(1)).await["results"][0],
            &server.get("/v1/videos").await.json()["videos"][0],
            &server.get("/v1/videos/long").await.json(),
        ] {
            assert_eq!(video["video"], "long");
            assert_eq!(video["title"], "é".repeat(500));
            assert_eq!(video["labels"], serde_json::json!(vec!["l".repeat(200); 100]));
        }
        assert_eq!(server.get("/v1/facets").await.json()["labels"][0]["label"], "l".repeat(200));
    });
}
