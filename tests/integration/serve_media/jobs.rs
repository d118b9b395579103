//! Indexing jobs of the server.

use super::*;

fn is_over(job: &Value) -> bool {
    job["state"] != "running"
}

/// A server that may index the videos.
fn serve(folder: &TestFolder) -> ServerProcess {
    folder.serve(&["@videos"])
}

/// Starts a job and returns its id.
fn start_job(server: &ServerProcess, request: &str) -> String {
    let answer = server.post_json("/v1/index", request);
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()["job"].as_str().unwrap().to_owned()
}

#[test]
fn a_job_creates_an_index_and_updates_it() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(ZOOM, 6, "zoom.mp4");
    folder.clip_with_keyframes(BARS, 6, "bars.mp4");
    folder.write("videos/broken one.mp4", "no video");
    let server = serve(&folder);
    assert_eq!(server.json("/v1/folders"), serde_json::json!({"folders": ["videos"]}));
    assert_eq!((server.get("/v1/videos").status, server.json("/v1/jobs")), (503, serde_json::json!({"jobs": []})));
    let answer = server.send("POST", "/v1/index", &[], b"");
    assert_eq!(answer.status, 202, "the body is optional");
    let first = answer.json()["job"].as_str().unwrap().to_owned();
    let job = server.wait(&format!("/v1/jobs/{first}"), is_over);
    assert_eq!((&job["state"], &job["error"]), (&"done".into(), &Value::Null), "{job}");
    assert_eq!((&job["indexed"], &job["failed"], &job["unchanged"]), (&2.into(), &1.into(), &0.into()), "{job}");
    assert_eq!(
        (&job["progress"], &job["eta_seconds"], &job["done_bytes"]),
        (&1.0.into(), &Value::Null, &job["total_bytes"])
    );
    assert!(job["rows"].as_u64() > Some(0) && job["started"].as_str().is_some_and(|text| text.ends_with('Z')));
    let failure = &job["failures"][0];
    assert_eq!((job["failures"].as_array().unwrap().len(), &failure["name"]), (1, &"broken one.mp4".into()));
    assert!(failure["reason"].as_str().unwrap().starts_with("this is a text file, not a video"), "{failure}");
    // When the job is done, its videos are searchable.
    assert_eq!(server.json("/v1/videos")["total"], 2);

    std::fs::remove_file(folder.videos().join("bars.mp4")).unwrap();
    folder.clip_with_keyframes(BARS, 4, "new.mp4");
    let second = start_job(&server, r#"{"folders":["videos"],"prune":true,"retry":true}"#);
    let job = server.wait(&format!("/v1/jobs/{second}"), is_over);
    let counts = ["indexed", "unchanged", "failed", "removed"].map(|name| job[name].as_u64().unwrap());
    assert_eq!(counts, [1, 1, 1, 1], "{job}");
    assert_eq!(server.json("/v1/videos")["total"], 2);
    let jobs = server.json("/v1/jobs");
    let ids: Vec<&str> = jobs["jobs"].as_array().unwrap().iter().map(|job| job["job"].as_str().unwrap()).collect();
    assert_eq!(ids, [second.as_str(), first.as_str()], "the newest first");
}

#[test]
fn rejects_jobs_that_cannot_start() {
    let folder = TestFolder::new();
    let server = serve(&folder);
    for (body, word) in [
        ("{", "body"),
        ("[1]", "body"),
        (r#"{"folder":"videos"}"#, "folder"),
        (r#"{"folders":["x"]}"#, "`x`"),
        (r#"{"folders":[]}"#, "none"),
        (r#"{"prune":1}"#, "body"),
    ] {
        assert!(server.post_json("/v1/index", body).error(400).contains(word), "{body}");
    }
    server.send("POST", "/v1/index", &[("content-type", "text/plain")], b"{}").error(415);
    for method in ["GET", "DELETE"] {
        assert!(server.send(method, "/v1/jobs/x", &[], b"").error(404).contains("no job"), "{method}");
    }
    assert_eq!(server.json("/v1/jobs")["jobs"].as_array().unwrap().len(), 0, "no job was started");
    let without = folder.serve(&["--await-index"]);
    assert!(without.post_json("/v1/index", "{}").error(403).contains("without folders"));
    assert_eq!(without.json("/v1/folders"), serde_json::json!({"folders": []}));
}

#[test]
fn indexes_only_the_named_folders() {
    let folder = TestFolder::new();
    let (other, named) = (folder.path("more/videos"), folder.path("named"));
    for directory in [&other, &named] {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::rename(folder.clip_with_keyframes(BARS, 3, "x.mp4"), directory.join("x.mp4")).unwrap();
    }
    folder.clip_with_keyframes(ZOOM, 3, "zoom.mp4");
    let server = folder.serve(&["@videos", "@more/videos", "@named"]);
    assert_eq!(server.json("/v1/folders")["folders"], serde_json::json!(["videos", "videos (2)", "named"]));
    let job = start_job(&server, r#"{"folders":["videos (2)","named"]}"#);
    assert_eq!(server.wait(&format!("/v1/jobs/{job}"), is_over)["indexed"], 2);
    let page = server.json("/v1/videos");
    assert!(page["videos"].as_array().unwrap().iter().all(|video| video["name"] == "x.mp4"), "{page}");
}

#[cfg(unix)]
#[test]
fn a_running_job_reports_progress_excludes_others_and_can_be_cancelled() {
    let folder = TestFolder::new();
    // The longest file is decoded first; the shortest never ends.
    folder.clip_with_keyframes(ZOOM, 12, "zoom.mp4");
    folder.clip_with_keyframes(COUNTER, 3, "slow.mp4");
    let script = "case \"$*\" in *slow.mp4*) exec sleep 600;; esac";
    let server = folder.serve_noting(script, &["@videos"]);
    let id = start_job(&server, "{}");
    let path = format!("/v1/jobs/{id}");
    let job = server.wait(&path, |job| job["indexed"] == 1);
    let progress = job["progress"].as_f64().unwrap();
    assert!(job["state"] == "running" && progress > 0.5 && progress < 1.0 && job["eta_seconds"].is_number(), "{job}");
    let refused = server.post_json("/v1/index", "{}");
    assert_eq!(refused.json()["job"], id);
    assert!(refused.error(409).contains("another job"));
    assert_eq!(server.get("/healthz").status, 200);
    let cancelled = server.send("DELETE", &path, &[], b"");
    assert_eq!((cancelled.status, &cancelled.json()["job"]), (202, &id.as_str().into()));
    let job = server.wait(&path, is_over);
    assert_eq!(
        (&job["state"], &job["error"], &job["indexed"]),
        (&"cancelled".into(), &Value::Null, &1.into()),
        "{job}"
    );
    assert_eq!(server.json("/v1/videos")["total"], 1, "finished files are kept");
    assert_eq!(server.send("DELETE", &path, &[], b"").json()["state"], "cancelled");
    // The next job can start.
    let next = start_job(&server, "{}");
    server.send("DELETE", &format!("/v1/jobs/{next}"), &[], b"");
    assert_eq!(server.wait(&format!("/v1/jobs/{next}"), is_over)["state"], "cancelled");
}

#[cfg(unix)]
#[test]
fn a_job_reports_progress_within_a_long_file() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(COUNTER, 30, "long.mp4");
    // `-re` limits decoding to the speed of playback.
    let server = folder.serve_noting("exec ffmpeg -re \"$@\"", &["@videos"]);
    let id = start_job(&server, "{}");
    let path = format!("/v1/jobs/{id}");
    let job = server.wait(&path, |job| is_over(job) || job["progress"].as_f64().unwrap() > 0.0);
    assert_eq!((&job["state"], &job["indexed"]), (&"running".into(), &0.into()), "{job}");
    let (done, total) = (job["done_bytes"].as_u64().unwrap(), job["total_bytes"].as_u64().unwrap());
    assert!(done > 0 && done < total && total == folder.videos().join("long.mp4").metadata().unwrap().len(), "{job}");
    let eta = job["eta_seconds"].as_f64().unwrap();
    assert!(eta > 0.0, "{job}");
    server.send("DELETE", &path, &[], b"");
    assert_eq!(server.wait(&path, is_over)["state"], "cancelled");
}

#[test]
fn a_job_fails_while_another_process_writes_the_index() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(ZOOM, 3, "zoom.mp4");
    folder.index(&[]);
    let server = serve(&folder);
    let index = reelseek_index::Index::open(folder.path("index")).unwrap();
    let writer = index.writer().unwrap();
    let job = start_job(&server, "{}");
    let job = server.wait(&format!("/v1/jobs/{job}"), is_over);
    assert_eq!(job["state"], "failed");
    assert!(job["error"].as_str().unwrap().contains("is being written by another process"), "{job}");
    drop(writer);
    let job = start_job(&server, "{}");
    assert_eq!(server.wait(&format!("/v1/jobs/{job}"), is_over)["state"], "done");
}

#[test]
fn a_job_fails_without_ffmpeg() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(ZOOM, 3, "zoom.mp4");
    let mut command = folder.serve_command(&["@videos"]);
    command.env("REELSEEK_FFMPEG", folder.path("none"));
    let server = ServerProcess::start(command, &folder);
    let job = start_job(&server, "{}");
    let job = server.wait(&format!("/v1/jobs/{job}"), is_over);
    assert!(job["state"] == "failed" && job["error"].as_str().unwrap().contains("ffmpeg cannot be started"), "{job}");
}

#[cfg(unix)]
#[test]
fn a_stopping_server_stops_its_job_and_keeps_finished_files() {
    let folder = TestFolder::new();
    folder.clip_with_keyframes(ZOOM, 12, "zoom.mp4");
    folder.clip_with_keyframes(COUNTER, 3, "slow.mp4");
    let script = "case \"$*\" in *slow.mp4*) exec sleep 600;; esac";
    let mut server = folder.serve_noting(script, &["@videos"]);
    let id = start_job(&server, "{}");
    server.wait(&format!("/v1/jobs/{id}"), |job| job["indexed"] == 1);
    send_signal(&server.child, Signal::TERM);
    wait_until("the server stops", || server.child.try_wait().unwrap().is_some());
    let status = server.child.wait().unwrap();
    assert!(status.success(), "{status}");
    let index = reelseek_index::Index::open(folder.path("index")).unwrap();
    assert_eq!(index.searcher().unwrap().video_numbers().len(), 1);
    assert!(reelseek_index::Index::verify(folder.path("index")).unwrap().problems.is_empty());
}
