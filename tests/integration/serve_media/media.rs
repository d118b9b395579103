//! Thumbnails and video files.

use super::*;

#[test]
fn thumbnails_show_the_requested_moment() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(COUNTER, 12, "counter.mp4");
    folder.index(&[]);
    let server = folder.serve(&[]);
    let id = server.video_id("counter.mp4");
    for at in [0.0, 0.51, 2.26, 4.01, 7.96, 9.51, 11.9] {
        let answer = server.get(&format!("/v1/thumbnail?video={id}&at={at}"));
        assert_eq!((answer.status, answer.header("content-type")), (200, "image/jpeg"));
        let (found, expected) = (grey(&answer.body), (at * 20.0_f64).floor());
        assert!((found - expected).abs() <= 4.0, "at {at} s: {found}, expected {expected}");
    }
    // A time beyond the end gives the last frame, no time gives the first.
    assert!(grey(&server.get(&format!("/v1/thumbnail?video={id}&at=99999")).body) > 230.0);
    assert!(grey(&server.get(&format!("/v1/thumbnail?video={id}")).body) < 5.0);
}

#[test]
fn thumbnails_have_the_requested_width_and_an_entity_tag() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(ZOOM, 3, "zoom.mp4");
    folder.index(&[]);
    let server = folder.serve(&[]);
    let id = server.video_id("zoom.mp4");
    for (width, size) in [(32, (32, 18)), (160, (160, 90)), (320, (320, 180)), (1280, (320, 180))] {
        let answer = server.get(&format!("/v1/thumbnail?video={id}&at=1&width={width}"));
        let picture = reelseek::media::image::read(&answer.body, "x").unwrap().picture;
        assert_eq!((picture.width, picture.height), size, "larger than the video it is not made");
    }
    let path = format!("/v1/thumbnail?video={id}&at=1");
    let first = server.get(&path);
    let tag = first.header("etag").to_owned();
    assert!(tag.len() > 10 && first.header("cache-control").contains("private"));
    let again = server.send("GET", &path, &[("if-none-match", &tag)], b"");
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, tag.as_str()));
    let head = server.send("HEAD", &path, &[], b"");
    assert_eq!(
        (head.status, head.body.len(), head.header("content-length")),
        (200, 0, first.body.len().to_string().as_str())
    );
    assert_ne!(server.get(&format!("/v1/thumbnail?video={id}&at=2")).header("etag"), tag);
}

#[test]
fn rejects_malformed_requests() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(ZOOM, 3, "zoom.mp4");
    let server = folder.serve(&["--await-index"]);
    for path in
        ["/v1/thumbnail?video=x", "/v1/preview?video=x", "/v1/media/x", "/v1/videos", "/v1/videos/x", "/v1/facets"]
    {
        assert!(server.get(path).error(503).contains("no index"), "{path}");
    }
    folder.index(&[]);
    // The first commit of an index is empty.
    server.wait("/v1/videos", |page| page["total"] == 1);
    let id = server.video_id("zoom.mp4");
    for path in [
        "thumbnail?",
        "thumbnail?video={id}&at=-1",
        "thumbnail?video={id}&at=NaN",
        "thumbnail?video={id}&at=inf",
        "thumbnail?video={id}&at=x",
        "thumbnail?video={id}&width=31",
        "thumbnail?video={id}&width=1281",
        "preview?video={id}&from=-1",
        "preview?video={id}&to=nan",
        "preview?video={id}&from=9&to=1",
        "preview?from=1",
    ] {
        assert!(!server.get(&format!("/v1/{}", path.replace("{id}", &id))).error(400).is_empty(), "{path}");
    }
    for path in [
        "thumbnail?video=x",
        "preview?video=x",
        "media/x",
        "media/..%2f..%2fetc%2fpasswd",
        "thumbnail?video=%2fetc%2fpasswd",
        "videos/x",
    ] {
        assert!(server.get(&format!("/v1/{path}")).error(404).contains("no video with this id"), "{path}");
    }
}

#[test]
fn serves_files_and_ranges_of_them() {
    let folder = TestFolder::new();
    let file = std::fs::read(folder.clip_with_keyframes(ZOOM, 12, "zoom.mp4")).unwrap();
    folder.index(&[]);
    let server = folder.serve(&[]);
    let path = format!("/v1/media/{}", server.video_id("zoom.mp4"));
    let whole = server.get(&path);
    assert_eq!(
        (whole.status, whole.header("content-type"), whole.header("accept-ranges")),
        (200, "video/mp4", "bytes")
    );
    assert!(whole.body == file);
    let length = file.len();
    let part = |range: &str| server.send("GET", &path, &[("range", range)], b"");
    for (range, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=100-999", 100..1000),
        ("bytes=5000-", 5000..length),
        ("bytes=-500", length - 500..length),
        ("bytes=-99999999999", 0..length),
        ("bytes=10-99999999999", 10..length),
    ] {
        let answer = part(range);
        let expected_range = format!("bytes {}-{}/{length}", expected.start, expected.end - 1);
        assert_eq!((answer.status, answer.header("content-range")), (206, expected_range.as_str()), "{range}");
        assert!(answer.body == file[expected], "{range}");
    }
    for range in [format!("bytes={length}-"), "bytes=-0".to_owned()] {
        let answer = part(&range);
        assert_eq!(answer.header("content-range"), format!("bytes */{length}"));
        assert!(answer.error(416).contains("range"));
    }
    for range in ["bytes=9-3", "bytes=0-1,5-6", "lines=0-1"] {
        assert!(part(range).status == 200, "{range}");
    }
    let tag = whole.header("etag");
    assert_eq!(server.send("GET", &path, &[("if-none-match", tag)], b"").status, 304);
    assert_eq!(server.send("GET", &path, &[("range", "bytes=0-1"), ("if-range", tag)], b"").status, 206);
    assert_eq!(server.send("GET", &path, &[("range", "bytes=0-1"), ("if-range", "\"other\"")], b"").status, 200);
    let head = server.send("HEAD", &path, &[], b"");
    assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, length.to_string().as_str()));
    assert_eq!(server.send("POST", &path, &[], b"x").status, 405);
}

#[test]
fn serves_files_with_unusual_names() {
    let folder = TestFolder::new();
    let names = [
        "with space.mp4",
        "it's \"quoted\".mp4",
        "été ☃ 海.mp4",
        "100% #1 ?&=+.mp4",
        "-y.mp4",
        "a;b|c$(d)`e`.mp4",
        "file:x.mp4",
    ];
    for name in names {
        folder.clip_with_keyframes(BARS, 4, name);
    }
    folder.index(&[]);
    let server = folder.serve(&[]);
    for name in names {
        let id = server.video_id(name);
        let media = server.get(&format!("/v1/media/{id}"));
        assert!(media.status == 200 && media.body == std::fs::read(folder.videos().join(name)).unwrap(), "{name}");
        assert!(media.header("content-disposition").starts_with("inline; filename*=UTF-8''"), "{name}");
        assert_eq!(server.get(&format!("/v1/thumbnail?video={id}&at=3.5")).status, 200, "{name}");
        let preview = server.get(&format!("/v1/preview?video={id}&from=1&to=3"));
        assert_eq!((preview.status, preview.header("content-type")), (200, "video/mp4"), "{name}");
        assert_eq!(server.json(&format!("/v1/videos/{id}"))["name"], name);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn serves_a_file_whose_name_is_not_unicode() {
    use std::os::unix::ffi::OsStrExt;
    let folder = TestFolder::new();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.mp4");
    std::fs::rename(folder.clip_with_keyframes(ZOOM, 3, "zoom.mp4"), folder.videos().join(name)).unwrap();
    folder.index(&[]);
    let server = folder.serve(&[]);
    let page = server.json("/v1/videos");
    let id = page["videos"][0]["video"].as_str().unwrap();
    assert_eq!(server.get(&format!("/v1/media/{id}")).status, 200);
    assert_eq!(server.get(&format!("/v1/thumbnail?video={id}&at=1")).status, 200);
}

#[test]
fn a_missing_file_is_gone_and_nothing_replaces_it() {
    let folder = TestFolder::new();
    let (gone, directory, broken) = (
        folder.clip_with_keyframes(ZOOM, 3, "gone.mp4"),
        folder.clip_with_keyframes(BARS, 3, "folder.mp4"),
        folder.clip_with_keyframes(COUNTER, 5, "broken.mp4"),
    );
    folder.index(&[]);
    let server = folder.serve(&[]);
    let ids = ["gone.mp4", "folder.mp4", "broken.mp4"].map(|name| server.video_id(name));
    for path in [&gone, &directory] {
        std::fs::remove_file(path).unwrap();
    }
    std::fs::create_dir(&directory).unwrap();
    for id in &ids[..2] {
        for path in [format!("thumbnail?video={id}"), format!("preview?video={id}"), format!("media/{id}")] {
            assert!(server.get(&format!("/v1/{path}")).error(410).contains("is gone"), "{path}");
        }
    }
    std::fs::write(&broken, "no video any more").unwrap();
    assert_replaced(&server, &ids[2], "other content");
}

/// Asserts that nothing of the file of a video is served, because it is not the file that was indexed.
fn assert_replaced(server: &ServerProcess, id: &str, case: &str) {
    for path in [format!("media/{id}"), format!("thumbnail?video={id}"), format!("preview?video={id}")] {
        let error = server.get(&format!("/v1/{path}")).error(410);
        assert!(error.contains("has changed since it was indexed"), "{case}: {path}: {error}");
    }
    let media = format!("/v1/media/{id}");
    assert_eq!(server.send("GET", &media, &[("range", "bytes=0-9")], b"").status, 410, "{case}");
    assert_eq!(server.send("HEAD", &media, &[], b"").status, 410, "{case}");
}

fn assert_served(server: &ServerProcess, id: &str) {
    for path in [format!("media/{id}"), format!("thumbnail?video={id}"), format!("preview?video={id}")] {
        assert_eq!(server.get(&format!("/v1/{path}")).status, 200, "{path}");
    }
}

fn set_modified(path: &std::path::Path, time: std::time::SystemTime) {
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[cfg(unix)]
#[test]
fn a_file_that_is_not_the_indexed_one_is_not_served() {
    use std::os::unix::fs::symlink;
    let folder = TestFolder::new();
    let path = folder.clip_with_keyframes(ZOOM, 3, "sub/zoom.mp4");
    folder.index(&[]);
    let server = folder.serve(&[]);
    let id = server.video_id("zoom.mp4");
    assert_served(&server, &id);
    let (aside, sub) = (folder.path("aside.mp4"), folder.videos().join("sub"));
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::rename(&path, &aside).unwrap();

    // A link to another file, and to a file of the same size and time.
    symlink("/etc/passwd", &path).unwrap();
    assert_replaced(&server, &id, "a link to another file");
    std::fs::remove_file(&path).unwrap();
    let secret = folder.path("secret");
    std::fs::write(&secret, vec![b'x'; std::fs::metadata(&aside).unwrap().len() as usize]).unwrap();
    set_modified(&secret, modified);
    symlink(&secret, &path).unwrap();
    assert_replaced(&server, &id, "a link to a file of the same size and time");
    std::fs::remove_file(&path).unwrap();
    symlink(&aside, &path).unwrap();
    assert_replaced(&server, &id, "a link to the indexed file");
    std::fs::remove_file(&path).unwrap();

    // Another video, and other content of the same size.
    std::fs::copy(folder.clip_with_keyframes(BARS, 3, "bars.mp4"), &path).unwrap();
    assert_replaced(&server, &id, "another video");
    std::fs::copy(&secret, &path).unwrap();
    assert_replaced(&server, &id, "other content of the same size");

    // The folder above is a link.
    std::fs::rename(&aside, &path).unwrap();
    assert_served(&server, &id);
    let moved = folder.path("moved");
    std::fs::rename(&sub, &moved).unwrap();
    symlink(&moved, &sub).unwrap();
    assert_replaced(&server, &id, "a folder that is a link");
    std::fs::remove_file(&sub).unwrap();
    std::fs::rename(&moved, &sub).unwrap();
    assert_served(&server, &id);

    // A changed time may mean changed content of the same size.
    set_modified(&path, modified + Duration::from_secs(1));
    assert_replaced(&server, &id, "another time");
    folder.index(&[]);
    server.wait("/v1/videos", |_| server.get(&format!("/v1/media/{id}")).status == 200);
    assert_served(&server, &id);
}

#[cfg(unix)]
#[test]
fn links_that_were_indexed_are_served() {
    use std::os::unix::fs::symlink;
    let folder = TestFolder::new();
    let (real, other) = (folder.path("real.mp4"), folder.path("elsewhere/bars.mp4"));
    std::fs::create_dir(folder.path("elsewhere")).unwrap();
    std::fs::rename(folder.clip_with_keyframes(ZOOM, 3, "zoom.mp4"), &real).unwrap();
    std::fs::rename(folder.clip_with_keyframes(BARS, 3, "bars.mp4"), &other).unwrap();
    // A link to a file, a link to a folder, and a library that is itself a link.
    let link = folder.videos().join("link.mp4");
    symlink(&real, &link).unwrap();
    symlink(folder.path("elsewhere"), folder.videos().join("folder")).unwrap();
    symlink(folder.videos(), folder.path("library")).unwrap();
    folder.success(&["index", "@library"]);
    let server = folder.serve(&[]);
    let names = ["bars.mp4", "link.mp4"];
    names.iter().for_each(|name| assert_served(&server, &server.video_id(name)));
    // The link leads to another file of the same size and time.
    let copy = folder.path("copy.mp4");
    std::fs::copy(&real, &copy).unwrap();
    set_modified(&copy, std::fs::metadata(&real).unwrap().modified().unwrap());
    let id = server.video_id("link.mp4");
    for target in [&copy, &other] {
        std::fs::remove_file(&link).unwrap();
        symlink(target, &link).unwrap();
        assert_replaced(&server, &id, "a link that leads elsewhere");
    }
    std::fs::remove_file(&link).unwrap();
    symlink(&copy, &link).unwrap();
    folder.success(&["index", "@library"]);
    server.wait("/v1/videos", |_| server.get(&format!("/v1/media/{id}")).status == 200);
    assert_served(&server, &id);
}

#[cfg(target_os = "linux")]
#[test]
fn a_pipe_instead_of_a_file_does_not_block() {
    let folder = TestFolder::new();
    let path = folder.clip_with_keyframes(ZOOM, 3, "zoom.mp4");
    folder.index(&[]);
    let server = folder.serve(&[]);
    let id = server.video_id("zoom.mp4");
    std::fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    for path in [format!("thumbnail?video={id}"), format!("preview?video={id}"), format!("media/{id}")] {
        server.get(&format!("/v1/{path}")).error(410);
    }
}

#[test]
fn a_changed_file_has_new_thumbnails() {
    let folder = TestFolder::new();
    let path = folder.clip_with_keyframes(COUNTER, 12, "counter.mp4");
    folder.index(&[]);
    let server = folder.serve(&[]);
    let thumbnail = format!("/v1/thumbnail?video={}&at=11", server.video_id("counter.mp4"));
    let first = server.get(&thumbnail);
    assert!(grey(&first.body) > 210.0);
    folder.clip_with_keyframes("color=black:size=64x48:rate=20", 12, "other.mp4");
    std::fs::rename(folder.videos().join("other.mp4"), path).unwrap();
    let again = || server.send("GET", &thumbnail, &[("if-none-match", first.header("etag"))], b"");
    assert!(again().error(410).contains("index again"));
    folder.index(&[]);
    wait_until("the new commit is open", || again().status == 200);
    assert!(grey(&again().body) < 20.0);
}
