//! Previews and their cache.

use super::*;

fn preview(server: &ServerProcess, folder: &TestFolder, query: &str) -> Vec<(u32, f64)> {
    let answer = server.get(&format!("/v1/preview?{query}"));
    assert_eq!((answer.status, answer.header("content-type")), (200, "video/mp4"), "{query}");
    let path = folder.path("answer.mp4");
    std::fs::write(&path, answer.body).unwrap();
    frame_greys(&path)
}

#[test]
fn previews_have_the_requested_span() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(COUNTER, 12, "counter.mp4");
    folder.index(&[]);
    let server = folder.serve(&[]);
    let id = server.video_id("counter.mp4");
    for (query, from_ms, to_ms) in [
        ("from=0&to=2.5", 0, 2500),
        ("from=5.3&to=9.3", 5300, 9300),
        // A preview has at least two seconds, and never exceeds the video.
        ("from=7&to=7", 7000, 9000),
        ("from=11.9&to=12", 10_000, 12_000),
        ("from=4", 4000, 10_000),
        ("", 0, 6000),
        ("from=0&to=900", 0, 12_000),
    ] {
        let greys = preview(&server, &folder, &format!("video={id}&{query}"));
        let expected = (to_ms - from_ms) / 50;
        assert!((greys.len() as i64 - i64::from(expected)).abs() <= 2, "{query}: {} frames", greys.len());
        for (at_ms, grey) in greys {
            let expected = f64::from(from_ms + at_ms) / 50.0;
            assert!((grey - expected).abs() <= 5.0, "{query} + {at_ms} ms: {grey}, expected {expected}");
        }
    }
}

#[test]
fn a_preview_is_made_once_even_across_a_restart() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(ZOOM, 12, "zoom.mp4");
    folder.index(&[]);
    let server = folder.serve_noting("", &[]);
    let path = format!("/v1/preview?video={}&from=4&to=8", server.video_id("zoom.mp4"));
    let first = server.get(&path);
    assert_eq!((first.status, folder.calls("-progress")), (200, 1));
    let calls = folder.calls("");
    // Players request ranges, and request a file again.
    let part = server.send("GET", &path, &[("range", "bytes=100-199")], b"");
    assert!(part.status == 206 && part.body == first.body[100..200]);
    let end = server.send("GET", &path, &[("range", "bytes=-7")], b"");
    assert!(end.status == 206 && end.body == first.body[first.body.len() - 7..]);
    assert_eq!(server.send("GET", &path, &[("range", "bytes=99999999-")], b"").status, 416);
    assert_eq!(server.send("GET", &path, &[("if-none-match", first.header("etag"))], b"").status, 304);
    assert!(server.get(&path).body == first.body);
    assert_eq!(folder.calls(""), calls, "no ffmpeg ran");
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("reelseek_cache_misses_total 1\n"), "{metrics}");
    drop(server);
    let server = folder.serve_noting("", &[]);
    assert!(server.get(&path).body == first.body);
    assert_eq!(folder.calls("-progress"), 1);
}

#[test]
fn concurrent_requests_share_one_ffmpeg() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(ZOOM, 12, "zoom.mp4");
    folder.index(&[]);
    let server = folder.serve_noting("case \"$*\" in *-progress*) sleep 1;; esac", &[]);
    let path = format!("/v1/preview?video={}&from=4&to=8", server.video_id("zoom.mp4"));
    let bodies: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..12).map(|_| scope.spawn(|| server.get(&path))).collect();
        let answers = asking.into_iter().map(|thread| thread.join().unwrap());
        answers.inspect(|answer| assert_eq!(answer.status, 200)).map(|answer| answer.body).collect()
    });
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    assert_eq!(folder.calls("-progress"), 1);
}

#[test]
fn at_most_two_thumbnails_are_made_at_once() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(ZOOM, 12, "zoom.mp4");
    folder.index(&[]);
    let running = folder.path("running");
    std::fs::create_dir(&running).unwrap();
    // Each ffmpeg records how many run at the same time, and waits a moment.
    let script = format!(
        "case \"$*\" in *-version*|*-encoders*) ;; *) touch {0}/$$; ls {0} | wc -l >> {1}; sleep 0.2; rm {0}/$$;; esac",
        running.display(),
        folder.path("beside").display()
    );
    let server = folder.serve_noting(&script, &[]);
    let id = server.video_id("zoom.mp4");
    std::thread::scope(|scope| {
        for at in 0..12 {
            let (server, id) = (&server, &id);
            scope.spawn(move || assert_eq!(server.get(&format!("/v1/thumbnail?video={id}&at={at}")).status, 200));
        }
    });
    let beside = folder.read_text("beside");
    assert_eq!(beside.lines().map(|line| line.trim().parse::<u32>().unwrap()).max(), Some(2), "{beside}");
}

#[test]
fn the_cache_stays_within_its_limit() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes("nullsrc=size=320x240:rate=20:duration=40,geq=random(1)*255:128:128", 40, "noise.mp4");
    folder.index(&[]);
    std::fs::create_dir_all(folder.path("cache/previews")).unwrap();
    let foreign = folder.path("cache/previews/holiday.mp4");
    std::fs::write(&foreign, vec![1; 3_000_000]).unwrap();
    let server = folder.serve(&["--cache-mb", "1"]);
    let id = server.video_id("noise.mp4");
    let mut most = 0;
    for from in 0..8 {
        let answer = server.get(&format!("/v1/preview?video={id}&from={}&to={}", from * 4, from * 4 + 2));
        assert!(answer.status == 200 && answer.body.len() > 150_000, "{}", answer.body.len());
        let kept = folder.kept() - 3_000_000;
        assert!(kept <= 1_000_000, "{kept}");
        most = most.max(kept);
    }
    assert!(most > 500_000, "{most}");
    // A preview larger than the whole cache is still served.
    let long = server.get(&format!("/v1/preview?video={id}&from=0&to=15"));
    assert!(long.status == 200 && long.body.len() > 1_000_000, "{}", long.body.len());
    assert!(folder.kept() - 3_000_000 <= 1_000_000 && foreign.exists());
}

#[test]
fn a_client_that_leaves_cancels_its_work() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(ZOOM, 12, "zoom.mp4");
    folder.index(&[]);
    let pid = folder.path("pid");
    let script = format!("case \"$*\" in *-progress*) echo $$ > {}; exec sleep 600;; esac", pid.display());
    let server = folder.serve_noting(&script, &[]);
    let id = server.video_id("zoom.mp4");
    let mut socket = server.connect();
    let request = format!("GET /v1/preview?video={id}&from=4&to=8 HTTP/1.1\r\nHost: {}\r\n\r\n", server.address());
    std::io::Write::write_all(&mut socket, request.as_bytes()).unwrap();
    let number = || std::fs::read_to_string(&pid).unwrap_or_default().trim().parse::<u32>().ok();
    wait_until("ffmpeg runs", || number().is_some());
    let number = number().unwrap().to_string();
    drop(socket);
    wait_until("ffmpeg is stopped", || {
        !Command::new("kill").args(["-0", &number]).stderr(Stdio::null()).status().unwrap().success()
    });
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn a_full_preview_queue_refuses_requests_but_not_thumbnails() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(ZOOM, 12, "zoom.mp4");
    folder.index(&[]);
    let server = folder.serve_noting("case \"$*\" in *-progress*) exec sleep 600;; esac", &[]);
    let id = server.video_id("zoom.mp4");
    let address = server.address();
    // One preview is being made, and 32 wait.
    let waiting: Vec<_> = (0..33)
        .map(|n| {
            let mut socket = server.connect();
            let path = format!("/v1/preview?video={id}&from={}&to=11", f64::from(n) / 10.0);
            let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
            std::io::Write::write_all(&mut socket, request.as_bytes()).unwrap();
            socket
        })
        .collect();
    let until = |depth: &str| wait_until(depth, || server.get("/metrics").text().contains(depth));
    until("\nreelseek_media_queue_depth 32\n");
    let refused = server.get(&format!("/v1/preview?video={id}&from=9&to=12"));
    assert_eq!((refused.status, refused.header("retry-after").is_empty()), (429, false));
    assert_eq!(server.get(&format!("/v1/thumbnail?video={id}&at=3")).status, 200);
    assert_eq!(folder.calls("-encoders"), 1, "asked by one for all");
    wait_until("the first is begun", || folder.calls("-progress") == 1);
    drop(waiting);
    until("\nreelseek_media_queue_depth 0\n");
    assert_eq!(folder.calls("-progress"), 1, "nothing is begun for those who have gone");
}

#[test]
fn works_without_a_writable_cache() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(ZOOM, 12, "zoom.mp4");
    folder.index(&[]);
    let file = folder.path("file");
    std::fs::write(&file, "no folder").unwrap();
    let mut command = folder.serve_command(&[]);
    command.env("REELSEEK_CACHE", &file);
    let server = ServerProcess::start(command, &folder);
    let id = server.video_id("zoom.mp4");
    for path in ["thumbnail", "preview"] {
        assert_eq!(server.get(&format!("/v1/{path}?video={id}")).status, 200, "{path}");
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), "no folder");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_the_cache_is_reported_as_such() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes("nullsrc=size=320x240:rate=20:duration=12,geq=random(1)*255:128:128", 12, "noise.mp4");
    folder.index(&[]);
    let cache = folder.path("cache");
    std::fs::create_dir_all(&cache).unwrap();
    let as_root = |command: &[&str]| {
        let attempts = [Command::new(command[0]), Command::new("sudo")];
        let arguments = [command[1..].to_vec(), [&["-n"], command].concat()];
        attempts.into_iter().zip(arguments).any(|(mut attempt, arguments)| {
            attempt.args(arguments).arg(&cache).output().is_ok_and(|output| output.status.success())
        })
    };
    if !as_root(&["mount", "-t", "tmpfs", "-o", "size=64k,mode=777", "none"]) {
        return skip("this user cannot mount a small disk");
    }
    let server = folder.serve(&[]);
    let id = server.video_id("noise.mp4");
    let previews: Vec<String> = (0..4).map(|n| format!("/v1/preview?video={id}&from={n}&to={}", n + 4)).collect();
    let answers: Vec<HttpReply> = previews.iter().map(|path| server.get(path)).collect();
    let stills: Vec<u16> = (0..8).map(|at| server.get(&format!("/v1/thumbnail?video={id}&at={at}")).status).collect();
    let files = std::fs::read_dir(cache.join("previews/parts")).unwrap().count();
    assert!(as_root(&["umount", "--lazy"]));
    for answer in answers {
        assert!(answer.error(503).contains("cannot write previews"));
    }
    assert_eq!((stills, files), (vec![200; 8], 0));
    assert!(server.log().contains("No space left on device"), "{}", server.log());
    assert_eq!(server.get(&previews[0]).status, 200, "there is room again");
}

#[test]
fn reports_an_ffmpeg_that_is_missing_or_cannot_encode() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(ZOOM, 12, "zoom.mp4");
    folder.index(&[]);
    let without = folder.serve_noting("[ \"$5\" = -encoders ] && exit 0", &[]);
    let id = without.video_id("zoom.mp4");
    assert!(without.get(&format!("/v1/preview?video={id}")).error(501).contains("libx264"));
    assert_eq!(without.get(&format!("/v1/thumbnail?video={id}")).status, 200, "pictures need no encoder of videos");
    let mut command = folder.serve_command(&[]);
    command.env("REELSEEK_FFMPEG", folder.path("none"));
    let missing = ServerProcess::start(command, &folder);
    assert!(missing.get(&format!("/v1/preview?video={id}&from=5")).error(501).contains("ffmpeg cannot be started"));
}

#[test]
fn previews_are_webm_without_h264() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(COUNTER, 12, "counter.mp4");
    folder.index(&[]);
    let server = folder.serve_noting("[ \"$5\" = -encoders ] && echo ' V....D libvpx  VP8' && exit 0", &[]);
    let answer = server.get(&format!("/v1/preview?video={}&from=6&to=9", server.video_id("counter.mp4")));
    assert_eq!((answer.status, answer.header("content-type")), (200, "video/webm"));
    let path = folder.path("answer.webm");
    std::fs::write(&path, answer.body).unwrap();
    let greys = frame_greys(&path);
    assert!((58..=62).contains(&greys.len()), "{}", greys.len());
    assert!(greys.iter().all(|(at_ms, grey)| (grey - f64::from(6000 + at_ms) / 50.0).abs() <= 8.0), "{greys:?}");
}
