//! The list of videos, single videos, and the counts of labels and folders.

use super::*;

/// Names on a page.
fn names(page: &Value) -> Vec<&str> {
    page["videos"].as_array().unwrap().iter().map(|video| video["name"].as_str().unwrap()).collect()
}

/// Four videos in two folders, with titles and labels.
fn labelled_clips() -> TestFolder {
    let folder = TestFolder::new();
    for (source, seconds, name) in [
        (ZOOM, 6, "deep/Zoom.mp4"),
        (BARS, 4, "bars.mp4"),
        (COUNTER, 12, "deep/counter.mp4"),
        (BARS, 3, "bars two.mp4"),
    ] {
        folder.clip_with_keyframes(source, seconds, name);
        std::thread::sleep(Duration::from_millis(20));
    }
    folder.sidecar(
        "bars.mp4",
        r#"{"title":"Colours of a test","labels":["pattern","colour \"bars\""],"camera":{"name":"gopro"}}"#,
    );
    folder.sidecar("deep/Zoom.mp4", r#"{"labels":["fractal","pattern"]}"#);
    folder.index(&[]);
    folder
}

#[test]
fn lists_videos_in_each_order_and_in_pages() {
    let folder = labelled_clips();
    let server = folder.serve(&[]);
    let all = server.json("/v1/videos");
    assert_eq!(names(&all), ["bars two.mp4", "bars.mp4", "counter.mp4", "Zoom.mp4"]);
    assert_eq!((&all["total"], &all["more"]), (&4.into(), &false.into()));
    assert_eq!(
        names(&server.json("/v1/videos?sort=duration")),
        ["counter.mp4", "Zoom.mp4", "bars.mp4", "bars two.mp4"]
    );
    assert_eq!(names(&server.json("/v1/videos?sort=newest")), ["bars two.mp4", "counter.mp4", "bars.mp4", "Zoom.mp4"]);
    let page = server.json("/v1/videos?skip=1&top=2");
    assert_eq!(
        (names(&page), &page["total"], &page["more"]),
        (vec!["bars.mp4", "counter.mp4"], &4.into(), &true.into())
    );
    let last = server.json("/v1/videos?skip=3&top=2");
    assert_eq!((names(&last), &last["more"]), (vec!["Zoom.mp4"], &false.into()));
    assert_eq!(names(&server.json("/v1/videos?skip=999999999")).len(), 0);
    for wrong in ["top=0", "top=201", "top=x", "skip=-1", "skip=99999999999", "sort=size", "nonsense=1"] {
        server.get(&format!("/v1/videos?{wrong}")).error(400);
    }
}

#[test]
fn a_query_matches_words_parts_of_words_and_filters() {
    let folder = labelled_clips();
    let server = folder.serve(&[]);
    for (query, expected) in [
        ("bars", vec!["bars two.mp4", "bars.mp4"]),
        ("ount", vec!["counter.mp4"]),
        ("ZOO", vec!["Zoom.mp4"]),
        ("colours%20test", vec!["bars.mp4"]),
        ("bars%20two", vec!["bars two.mp4"]),
        ("gopro", vec!["bars.mp4"]),
        ("label:pattern", vec!["bars.mp4", "Zoom.mp4"]),
        ("label:pattern%20-label:fractal", vec!["bars.mp4"]),
        ("label_exact:%22colour%20%5C%22bars%5C%22%22", vec!["bars.mp4"]),
        ("path:%22deep%22", vec!["counter.mp4", "Zoom.mp4"]),
        ("duration:[5%20TO%20100]", vec!["counter.mp4", "Zoom.mp4"]),
        ("bars%20-two", vec!["bars.mp4"]),
        ("(two", vec!["bars two.mp4"]),
        ("%20", vec!["bars two.mp4", "bars.mp4", "counter.mp4", "Zoom.mp4"]),
        ("nowhere", vec![]),
    ] {
        let page = server.json(&format!("/v1/videos?query={query}"));
        assert_eq!((names(&page), page["total"].as_u64()), (expected.clone(), Some(expected.len() as u64)), "{query}");
    }
    assert!(server.get("/v1/videos?query=nofield:x").error(400).contains("nofield"));
}

#[test]
fn a_video_has_all_of_its_fields() {
    let folder = labelled_clips();
    let server = folder.serve(&[]);
    let video = server.json(&format!("/v1/videos/{}", server.video_id("bars.mp4")));
    assert_eq!((&video["title"], &video["name"]), (&"Colours of a test".into(), &"bars.mp4".into()));
    assert_eq!(video["labels"], serde_json::json!(["pattern", "colour \"bars\""]));
    assert_eq!((&video["extra"], &video["warning"]), (&serde_json::json!({"camera": {"name": "gopro"}}), &Value::Null));
    assert!((video["duration"].as_f64().unwrap() - 4.0).abs() < 0.2 && video["rows"].as_u64() > Some(0));
    let file = std::fs::metadata(folder.videos().join("bars.mp4")).unwrap();
    assert_eq!(video["size"], file.len());
    assert!(video["modified"].as_str().is_some_and(|text| text.len() == 20 && text.ends_with('Z')));
    assert!(video["path"].is_null());
    let strip = video["strip"].as_array().unwrap();
    let times: Vec<f64> = strip.iter().map(|still| still["at"].as_f64().unwrap()).collect();
    assert!(times.len() == 12 && times.is_sorted_by(|a, b| a < b) && times[0] < 0.3 && times[11] > 3.7, "{times:?}");
    for link in [&strip[0]["thumbnail"], &strip[11]["thumbnail"], &video["thumbnail"], &video["media"]] {
        assert_eq!(server.get(link.as_str().unwrap()).status, 200, "{link}");
    }
}

#[test]
fn labels_and_folders_are_counted() {
    let folder = labelled_clips();
    let server = folder.serve(&[]);
    let facets = server.json("/v1/facets");
    let labels = serde_json::json!([
        {"label": "pattern", "videos": 2}, {"label": "colour \"bars\"", "videos": 1}, {"label": "fractal", "videos": 1}
    ]);
    assert_eq!(facets["labels"], labels);
    assert_eq!(
        facets["folders"],
        serde_json::json!([{"folder": "deep", "videos": 2}, {"folder": "videos", "videos": 2}])
    );
}

#[test]
fn lists_follow_the_index_and_have_paths_only_with_show_paths() {
    let folder = labelled_clips();
    let mut server = folder.serve(&["--show-paths"]);
    server.secret = None;
    let page = server.json("/v1/videos?query=counter");
    let path = folder.videos().canonicalize().unwrap().join("deep/counter.mp4");
    assert_eq!(page["videos"][0]["path"], path.to_str().unwrap());
    std::fs::remove_file(path).unwrap();
    folder.clip_with_keyframes(ZOOM, 3, "new.mp4");
    folder.index(&["--prune"]);
    let page = server.wait("/v1/videos", |page| page["total"] == 4 && names(page).contains(&"new.mp4"));
    assert_eq!(names(&page), ["bars two.mp4", "bars.mp4", "new.mp4", "Zoom.mp4"]);
}

#[test]
fn links_are_signed_if_there_is_a_token() {
    let folder = labelled_clips();
    let server = folder.serve_with_token(&[]);
    server.get("/v1/videos").error(401);
    let page = server.get_with_token("/v1/videos").json();
    let video = &page["videos"][0];
    for link in ["thumbnail", "media"].map(|name| video[name].as_str().unwrap()) {
        assert_eq!(server.get(link).status, 200, "{link}");
        server.get(link.split("key=").next().unwrap()).error(401);
    }
}
