//! The web page in a browser, served by the binary. Node runs `tests/page/*.mjs` with playwright-core.
//!
//! `scripts/test` installs the Node packages into `target/node`. Without Node, its packages or Chromium,
//! these tests are skipped. `REELSEEK_KEEP_SCREENSHOTS=FOLDER` keeps a screenshot of every view.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::*;

/// Time limit of one test file.
const PATIENCE: Duration = Duration::from_secs(400);

const LARGE_ZOOM: &str = "mandelbrot=size=640x360:rate=12";
const LARGE_CELLS: &str =
    "life=size=160x90:rate=8:mold=10:death_color=#803020:life_color=#40a0ff:seed=7,scale=640:360:flags=neighbor";
const LARGE_BARS: &str = "testsrc2=size=640x360:rate=10";
const COLOURS: &str = "gradients=size=640x360:rate=10:seed=11:n=6:type=circular:speed=0.02:c0=#204060:c1=#e0a030:c2=#803060:c3=#40b0a0:c4=#f0e8d0:c5=#301040";
const WEAVE: &str = "sierpinski=size=640x360:rate=10:seed=5:type=carpet";
const RULE: &str = "cellauto=size=320x180:rate=10:rule=110:seed=9:ratio=0.4,scale=640:360:flags=neighbor";

impl TestFolder {
    /// A folder with the clips of most tests.
    fn with_page_clips() -> TestFolder {
        let folder = TestFolder::new();
        folder.media(&["-f", "lavfi", "-i", LARGE_ZOOM, "-t", "12"], "videos/zoom.mp4");
        folder.sidecar(
            "zoom.mp4",
            json!({"title": "Into the set", "labels": ["fractal"], "subject": "set of Mandelbrot"}),
        );
        folder.media(&["-f", "lavfi", "-i", LARGE_CELLS, "-t", "10"], "videos/cells.mkv");
        folder.sidecar("cells.mkv", json!({"title": "Life of cells", "labels": ["biology of grids"]}));
        // Longer than one preview.
        folder.media(&["-f", "lavfi", "-i", LARGE_BARS, "-t", "20", "-c:v", "mpeg4", "-q:v", "4"], "videos/bars.avi");
        folder
    }

    /// A folder with more clips, for the library and the screenshots.
    fn with_many_clips() -> TestFolder {
        let folder = TestFolder::with_page_clips();
        folder.media(&["-f", "lavfi", "-i", COLOURS, "-t", "8"], "videos/holiday/sunset over the bay.mp4");
        folder.sidecar("holiday/sunset over the bay.mp4", json!({"labels": ["holiday", "evening"]}));
        folder.media(&["-f", "lavfi", "-i", WEAVE, "-t", "9"], "videos/holiday/carpet.mp4");
        folder.sidecar("holiday/carpet.mp4", json!({"title": "Carpet of triangles", "labels": ["fractal", "holiday"]}));
        // The same scene at the beginning and at the end.
        let again = format!(
            "{RULE},trim=duration=6[a];{RULE},trim=duration=6[c];gradients=size=640x360:rate=10:seed=4:speed=0.03,trim=duration=10[b];[a][b][c]concat=n=3"
        );
        folder.media(&["-f", "lavfi", "-i", &again], "videos/twice.mp4");
        folder.sidecar("twice.mp4", json!({"title": "Twice", "labels": ["rule 110"]}));
        // An altered copy of a part.
        let zoom = folder.path("videos/zoom.mp4");
        folder.media(
            &[
                "-ss",
                "3",
                "-t",
                "6",
                "-i",
                zoom.to_str().unwrap(),
                "-vf",
                "hflip,eq=gamma=1.15:saturation=0.8,scale=426:240",
                "-crf",
                "30",
            ],
            "videos/found on the web.mp4",
        );
        folder.media(&["-f", "lavfi", "-i", "testsrc=size=320x240:rate=10", "-t", "8"], "videos/torn.avi");
        let whole = folder.read("videos/torn.avi");
        folder.write("videos/torn.avi", &whole[..whole.len() * 2 / 3]);
        folder
    }

    /// Makes a video or a picture with these arguments of ffmpeg.
    fn media(&self, arguments: &[&str], name: &str) {
        let is_picture = name.ends_with(".jpg") || name.ends_with(".png");
        let format: &[&str] = if is_picture { &[] } else { &["-pix_fmt", "yuv420p"] };
        ffmpeg(&[arguments, format].concat(), &self.path(name));
    }

    /// Query pictures by name.
    fn pictures(&self) -> Value {
        self.filtered_frame("zoom.mp4", "7", "null", "zoom.jpg");
        self.filtered_frame("zoom.mp4", "7", "null", "zoom.png");
        // Like a photo of a screen: cropped, paler, smaller.
        self.filtered_frame(
            "zoom.mp4",
            "6",
            "crop=iw*0.9:ih*0.9,eq=contrast=0.85:brightness=0.04,scale=480:-2",
            "filmed.jpg",
        );
        self.filtered_frame("zoom.mp4", "7", "scale=320:180,pad=360:800:20:300:white", "screenshot.png");
        self.filtered_frame("bars.avi", "3", "null", "bars.jpg");
        self.media(
            &["-f", "lavfi", "-i", "nullsrc=size=320x240,geq=random(1)*255:128:128", "-frames:v", "1"],
            "noise.jpg",
        );
        if self.path("videos/twice.mp4").exists() {
            self.filtered_frame("twice.mp4", "3", "null", "twice.jpg");
        }
        self.write("notes.txt", "Milk, eggs, a ladder.\n");
        self.write("heavy.jpg", vec![7_u8; 26 << 20]);
        let drawing = r##"<svg xmlns="http://www.w3.org/2000/svg" width="320" height="180"><rect width="320" height="180" fill="#246"/><circle cx="90" cy="90" r="60" fill="#fc3"/></svg>"##;
        self.write("drawing.svg", drawing);
        json!({
            "zoom": self.path("zoom.jpg"), "zoomPng": self.path("zoom.png"), "filmed": self.path("filmed.jpg"),
            "screenshot": self.path("screenshot.png"), "bars": self.path("bars.jpg"),
            "noise": self.path("noise.jpg"), "twice": self.path("twice.jpg"), "text": self.path("notes.txt"), "heavy": self.path("heavy.jpg"),
            "drawing": self.path("drawing.svg"), "weave": self.path("weave.jpg"),
        })
    }
}

/// Whether Node is new enough; as error the missing part.
fn node() -> Result<(), String> {
    if !is_installed("node") {
        return Err("Node is missing".into());
    }
    // playwright-core needs Node 20.
    let version = Command::new("node").arg("--version").output().map(|output| text(&output.stdout));
    let version = version.unwrap_or_default();
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < 20) {
        return Err(format!("Node is {}, expected at least 20", version.trim()));
    }
    Ok(())
}

/// The folder of the Node packages and the name of the browser; as error the missing part.
fn tools() -> Result<(PathBuf, &'static str), String> {
    node()?;
    let browser = browser().ok_or("Chromium is missing")?;
    // The binary is in `target/release`.
    let target = Path::new(env!("CARGO_BIN_EXE_reelseek")).ancestors().nth(2).unwrap();
    let modules = std::env::var_os("REELSEEK_NODE").map_or_else(|| target.join("node"), PathBuf::from);
    for package in ["playwright-core", "axe-core"] {
        if !modules.join("node_modules").join(package).is_dir() {
            return Err(format!("{package} is not in {} (scripts/test puts it there)", modules.display()));
        }
    }
    Ok((modules, browser))
}

/// Path of a program on the search path.
fn path_of(program: &str) -> PathBuf {
    std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
        .unwrap()
}

/// Runs a test file on the server that `prepare` starts.
fn run_page_tests(file: &str, prepare: impl FnOnce() -> (TestFolder, ServerProcess)) {
    let (modules, browser) = match tools() {
        Ok(found) => found,
        Err(missing) => return skip(missing),
    };
    let (folder, server) = prepare();
    let keep = std::env::var_os("REELSEEK_KEEP_SCREENSHOTS").map(PathBuf::from);
    if let Some(folder) = &keep {
        std::fs::create_dir_all(folder).unwrap();
    }
    let settings = json!({
        "base": server.base, "pid": server.child.id(), "pictures": folder.pictures(), "token": TOKEN,
        "modules": modules, "browser": path_of(browser), "keep": keep,
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page").join(file);
    let log = folder.path("node.log");
    let out = std::fs::File::create(&log).unwrap();
    let mut node = Command::new("node")
        .arg(script)
        .env("REELSEEK_PAGE_TEST", settings.to_string())
        .stdin(Stdio::null())
        .stderr(out.try_clone().unwrap())
        .stdout(out)
        .spawn()
        .unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = node.try_wait().unwrap() {
            break Some(status);
        }
        if start.elapsed() > PATIENCE {
            node.kill().unwrap();
            node.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let printed = std::fs::read_to_string(log).unwrap();
    assert!(status.is_some_and(|status| status.success()), "{file}: {status:?}\n{printed}");
    // A file whose tests were all skipped has tested nothing.
    assert!(passed(&printed) > 0, "{file} tested nothing:\n{printed}");
}

/// The number of passed tests that Node reports: `# pass 3`, or `ℹ pass 3`.
fn passed(printed: &str) -> usize {
    let counts = printed
        .lines()
        .filter_map(|line| line.split_once(" pass "))
        .filter_map(|(_, count)| count.trim().parse::<usize>().ok());
    counts.sum()
}

#[test]
fn a_search_from_picture_to_video() {
    run_page_tests("search.mjs", || {
        let folder = TestFolder::with_many_clips();
        folder.index(&["--match", "scene"]);
        let server = folder.serve(&[]);
        (folder, server)
    });
}

#[test]
fn the_crop_box_and_the_mark_of_a_region() {
    run_page_tests("crop.mjs", || {
        let folder = TestFolder::with_page_clips();
        folder.index(&["--match", "scene"]);
        let server = folder.serve(&[]);
        (folder, server)
    });
}

#[test]
fn the_arithmetic_of_the_crop_box() {
    if let Err(missing) = node() {
        return skip(missing);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/geometry.mjs");
    let output = Command::new("node").arg("--test").arg(script).output().unwrap();
    assert!(output.status.success() && passed(&text(&output.stdout)) > 0, "{}", output_text(&output));
}

#[test]
fn the_library_and_one_video() {
    run_page_tests("library.mjs", || {
        let folder = TestFolder::with_many_clips();
        folder.index(&["--match", "scene"]);
        let server = folder.serve(&[]);
        (folder, server)
    });
}

#[test]
fn indexing_from_nothing() {
    run_page_tests("indexing.mjs", || {
        let folder = TestFolder::with_page_clips();
        folder.write("videos/broken.mp4", "this is no video");
        // Long enough to be stopped while it is indexed: the same seconds repeated.
        folder.media(&["-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=30", "-t", "4"], "seconds.mp4");
        let seconds = folder.path("seconds.mp4");
        folder.media(&["-stream_loop", "39", "-i", seconds.to_str().unwrap(), "-c", "copy"], "slow/long.mp4");
        let server = folder.serve(&["@videos", "@slow"]);
        (folder, server)
    });
}

#[test]
fn an_index_that_appears_later() {
    run_page_tests("later.mjs", || {
        let folder = TestFolder::with_page_clips();
        // Clips that are added while the server runs.
        folder.media(&["-f", "lavfi", "-i", WEAVE, "-t", "8"], "weave.mp4");
        folder.media(&["-f", "lavfi", "-i", RULE, "-t", "8"], "twice.mp4");
        folder.filtered_frame("../weave.mp4", "4", "null", "weave.jpg");
        folder.filtered_frame("../twice.mp4", "3", "null", "twice.jpg");
        let server = folder.serve(&["@videos"]);
        (folder, server)
    });
}

#[test]
fn a_server_with_a_token() {
    run_page_tests("token.mjs", || {
        let folder = TestFolder::with_page_clips();
        folder.index(&["--match", "scene"]);
        let server = folder.serve_with_token(&["--fetch"]);
        (folder, server)
    });
}

#[test]
fn every_view_fits_and_passes_axe() {
    run_page_tests("looks.mjs", || {
        let folder = TestFolder::with_many_clips();
        folder.index(&["--match", "scene"]);
        let server = folder.serve(&["@videos"]);
        (folder, server)
    });
}
