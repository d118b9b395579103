//! Killed writers, full disks, readers next to writers: no acknowledged commit is lost, no commit is partly
//! visible.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reelseek_index::{Effort, HnswSettings, Index, IndexSettings, Searcher, Span, Video, Writer};

const DIM: usize = 6;
/// Number of different ids. Later videos replace earlier ones.
const IDS: u64 = 40;
/// Videos in each commit.
const EACH: u64 = 3;

fn create(dir: &Path) -> Index {
    let hnsw = HnswSettings { m: 4, ef_construction: 20, min_rows: 20, ..HnswSettings::default() };
    Index::create(dir, &IndexSettings { hnsw, sketch: 3, ..IndexSettings::new(DIM) }).unwrap()
}

/// The rows of video `n`. Its id, rows, sketches and title are functions of `n`.
fn rows(n: u64) -> Vec<f32> {
    (0..(1 + n % 9) * DIM as u64).map(|i| ((n * 31 + i * 7) % 97) as f32 / 97.0 - 0.5).collect()
}

fn sketches(n: u64) -> Vec<u8> {
    (0..(1 + n % 9) * 3).map(|i| (n * 17 + i) as u8).collect()
}

fn put(writer: &mut Writer, n: u64) -> reelseek_index::Result<()> {
    let (id, rows) = (format!("v{}", n % IDS), rows(n));
    let spans = vec![Span { start_ms: n as u32, end_ms: n as u32 + 1, at_ms: n as u32 }; rows.len() / DIM];
    writer.put(Video { id, title: n.to_string(), ..Video::default() }, &spans, &rows, &sketches(n))
}

/// `n` of every live video by id. Checks that text, rows and sketches agree.
fn state(searcher: &Searcher) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for number in searcher.video_numbers() {
        let video = searcher.video(number).unwrap();
        let n: u64 = video.title.parse().unwrap();
        let (spans, vectors) = searcher.rows_of(number).unwrap().unwrap();
        assert_eq!(searcher.sketches_of(number).unwrap().unwrap(), sketches(n), "video {n}");
        assert!(vectors == rows(n) && spans.iter().all(|span| u64::from(span.at_ms) == n), "video {n}");
        assert_eq!(video.id, format!("v{}", n % IDS));
        assert!(found.insert(video.id, n).is_none(), "two videos with one id");
    }
    assert_eq!(searcher.videos().unwrap().len(), found.len());
    found
}

/// The expected state after `n` videos.
fn after(n: u64) -> BTreeMap<String, u64> {
    (0..n).map(|n| (format!("v{}", n % IDS), n)).collect()
}

fn count(state: &BTreeMap<String, u64>) -> u64 {
    state.values().max().map_or(0, |n| n + 1)
}

/// Runs in a child process: writes without end, and prints the number of videos after each commit.
#[test]
fn child() {
    let Some(dir) = std::env::var_os("REELSEEK_TEST_WRITER") else { return };
    let index = Index::open(&dir).unwrap();
    let mut writer = index.writer().unwrap();
    let mut n = count(&state(&index.searcher().unwrap()));
    println!("writing");
    loop {
        let until = n + EACH;
        while n < until {
            put(&mut writer, n).unwrap();
            n += 1;
        }
        match writer.commit() {
            Ok(()) => println!("acknowledged {n}"),
            Err(error) => return println!("refused {error}"),
        }
        if n.is_multiple_of(60) {
            writer.compact().unwrap();
        }
    }
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["crash::child", "--exact", "--nocapture"]).env("REELSEEK_TEST_WRITER", dir).stdout(Stdio::piped());
    command
}

#[test]
fn two_hundred_killed_writers_lose_no_acknowledged_commit() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let index = create(&dir);
    let (mut random, mut commits) = (7u64, 0);
    for kill in 0..200 {
        let before = count(&state(&index.searcher().unwrap()));
        let mut writer = command(&dir).spawn().unwrap();
        let mut output = BufReader::new(writer.stdout.take().unwrap());
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Kill the writer after this many commits, at a random time during the next.
        let (mut text, commits_before) = (String::new(), (random >> 60) as usize % 4);
        while !text.contains("writing") || text.matches("acknowledged").count() < commits_before {
            assert!(output.read_line(&mut text).unwrap() > 0, "the writer ended: {text}");
        }
        std::thread::sleep(Duration::from_micros((random >> 33) % 20_000));
        writer.kill().unwrap(); // SIGKILL
        writer.wait().unwrap();
        output.read_to_string(&mut text).unwrap();
        let acknowledged = text.lines().filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok()).max();
        let acknowledged: u64 = acknowledged.unwrap_or(before);
        let found = state(&index.searcher().unwrap());
        // The last commit can be complete but not yet acknowledged.
        let n = count(&found);
        assert!(n == acknowledged || n == acknowledged + EACH, "kill {kill}: {n} found, {acknowledged} acknowledged");
        assert_eq!(found, after(n), "kill {kill}");
        let report = Index::verify(&dir).unwrap();
        assert!(report.is_sound(), "kill {kill}: {report:?}");
        commits += (n - before) / EACH;
    }
    assert!(commits > 200, "{commits} commits");
}

#[test]
fn a_full_disk_leaves_the_last_commit() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let index = create(&dir);
    let mut writer = index.writer().unwrap();
    (0..60).for_each(|n| put(&mut writer, n).unwrap());
    writer.commit().unwrap();
    writer.close().unwrap();
    for blocks in [0, 1, 2, 4, 8, 12, 16] {
        let before = count(&state(&index.searcher().unwrap()));
        let exe = std::env::current_exe().unwrap();
        // Limits the size of files to this many blocks of 512 bytes: a full disk for one process.
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" crash::child --exact --nocapture");
        let child = Command::new("sh")
            .args(["-c", &script, exe.to_str().unwrap()])
            .env("REELSEEK_TEST_WRITER", &dir)
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(!child.status.success() || output.contains("refused"), "{output}");
        let acknowledged = output.lines().filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok()).max();
        let found = state(&index.searcher().unwrap());
        assert_eq!(found, after(acknowledged.unwrap_or(before)), "{blocks} blocks: {output}");
        assert!(Index::verify(&dir).unwrap().is_sound(), "{blocks} blocks");
    }
    let n = count(&state(&index.searcher().unwrap()));
    let mut writer = index.writer().unwrap();
    put(&mut writer, n).unwrap();
    writer.commit().unwrap();
    assert_eq!(state(&index.searcher().unwrap()), after(n + 1), "the index accepts commits once there is space");
}

/// How long readers and a writer run at the same time. `REELSEEK_SOAK=60` sets a minute.
fn soak() -> Duration {
    Duration::from_secs(std::env::var("REELSEEK_SOAK").ok().and_then(|s| s.parse().ok()).unwrap_or(5))
}

#[test]
fn readers_see_only_complete_commits_during_writes() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("index");
    let index = create(&dir);
    let (end, done) = (Instant::now() + soak(), AtomicBool::new(false));
    let (commits, snapshots) = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut snapshots = 0u64;
                    let mut last = 0;
                    while !done.load(Ordering::Relaxed) {
                        let searcher = index.searcher().unwrap();
                        let found = state(&searcher);
                        let n = count(&found);
                        assert!(n >= last && n.is_multiple_of(EACH), "commits are complete and never reverted");
                        assert_eq!(found, after(n));
                        for hit in searcher.search(&[1.0; DIM], 1, None, Effort::Ef(1)).unwrap() {
                            searcher.video(hit.video).unwrap();
                        }
                        // Commits do not change an open snapshot.
                        assert_eq!(state(&searcher), found);
                        (last, snapshots) = (n, snapshots + 1);
                    }
                    snapshots
                })
            })
            .collect();
        let mut writer = index.writer().unwrap();
        let (mut n, mut commits) = (0, 0u64);
        while Instant::now() < end {
            for _ in 0..EACH {
                put(&mut writer, n).unwrap();
                n += 1;
            }
            writer.commit().unwrap();
            commits += 1;
            if commits.is_multiple_of(25) {
                writer.compact().unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        (commits, readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u64>())
    });
    assert!(commits > 10 && snapshots > 10, "{commits} commits, {snapshots} snapshots");
}
