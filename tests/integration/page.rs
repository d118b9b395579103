//! The web page in a real browser on the real binary: `tests/page/*.mjs`, run by Node with playwright-core.
//!
//! `scripts/test` installs the Node packages into `target/node`. Without Node, its packages or Chromium,
//! these tests are skipped. `REELSEEK_KEEP_SCREENSHOTS=FOLDER` keeps a screenshot of every view.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Time limit of one test file.
const PATIENCE: Duration = Duration::from_secs(400);
const TOKEN: &str = "the-token-of-the-tests-of-the-page";

const ZOOM: &str = "mandelbrot=size=640x360:rate=12";
const CELLS: &str =
    "life=size=160x90:rate=8:mold=10:death_color=#803020:life_color=#40a0ff:seed=7,scale=640:360:flags=neighbor";
const BARS: &str = "testsrc2=size=640x360:rate=10";
const COLOURS: &str = "gradients=size=640x360:rate=10:seed=11:n=6:type=circular:speed=0.02:c0=#204060:c1=#e0a030:c2=#803060:c3=#40b0a0:c4=#f0e8d0:c5=#301040";
const WEAVE: &str = "sierpinski=size=640x360:rate=10:seed=5:type=carpet";
const RULE: &str = "cellauto=size=320x180:rate=10:rule=110:seed=9:ratio=0.4,scale=640:360:flags=neighbor";

/// A temporary folder with clips, an index of them, and pictures.
struct Place(tempfile::TempDir);

impl Place {
    /// With the clips of most tests.
    fn with_clips() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        place.clip(&["-f", "lavfi", "-i", ZOOM, "-t", "12"], "videos/zoom.mp4");
        place.about(
            "videos/zoom.mp4",
            &json!({"title": "Into the set", "labels": ["fractal"], "subject": "set of Mandelbrot"}),
        );
        place.clip(&["-f", "lavfi", "-i", CELLS, "-t", "10"], "videos/cells.mkv");
        place.about("videos/cells.mkv", &json!({"title": "Life of cells", "labels": ["biology of grids"]}));
        // Longer than one preview.
        place.clip(&["-f", "lavfi", "-i", BARS, "-t", "20", "-c:v", "mpeg4", "-q:v", "4"], "videos/bars.avi");
        place
    }

    /// With more clips, for the library and the screenshots.
    fn with_many_clips() -> Place {
        let place = Place::with_clips();
        place.clip(&["-f", "lavfi", "-i", COLOURS, "-t", "8"], "videos/holiday/sunset over the bay.mp4");
        place.about("videos/holiday/sunset over the bay.mp4", &json!({"labels": ["holiday", "evening"]}));
        place.clip(&["-f", "lavfi", "-i", WEAVE, "-t", "9"], "videos/holiday/carpet.mp4");
        place.about(
            "videos/holiday/carpet.mp4",
            &json!({"title": "Carpet of triangles", "labels": ["fractal", "holiday"]}),
        );
        // The same scene at the beginning and at the end.
        let again = format!(
            "{RULE},trim=duration=6[a];{RULE},trim=duration=6[c];gradients=size=640x360:rate=10:seed=4:speed=0.03,trim=duration=10[b];[a][b][c]concat=n=3"
        );
        place.clip(&["-f", "lavfi", "-i", &again], "videos/twice.mp4");
        place.about("videos/twice.mp4", &json!({"title": "Twice", "labels": ["rule 110"]}));
        // An altered copy of a part.
        let zoom = place.path("videos/zoom.mp4");
        place.clip(
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
        place.clip(&["-f", "lavfi", "-i", "testsrc=size=320x240:rate=10", "-t", "8"], "videos/torn.avi");
        let whole = std::fs::read(place.path("videos/torn.avi")).unwrap();
        std::fs::write(place.path("videos/torn.avi"), &whole[..whole.len() * 2 / 3]).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a file with ffmpeg.
    fn clip(&self, arguments: &[&str], name: &str) {
        let out = self.path(name);
        std::fs::create_dir_all(out.parent().unwrap()).unwrap();
        let mut command = Command::new(std::env::var_os("REELSEEK_FFMPEG").unwrap_or_else(|| "ffmpeg".into()));
        command.args(["-nostdin", "-v", "error", "-y"]).args(arguments);
        if !name.ends_with(".jpg") && !name.ends_with(".png") {
            command.args(["-pix_fmt", "yuv420p"]);
        }
        assert!(command.arg(out).status().unwrap().success(), "{name}");
    }

    fn about(&self, clip: &str, sidecar: &Value) {
        std::fs::write(self.path(&format!("{clip}.json")), sidecar.to_string()).unwrap();
    }

    fn frame(&self, clip: &str, at: &str, change: &str, name: &str) {
        let clip = self.path(clip);
        self.clip(&["-ss", at, "-i", clip.to_str().unwrap(), "-frames:v", "1", "-vf", change], name);
    }

    /// Query pictures by name.
    fn pictures(&self) -> Value {
        self.frame("videos/zoom.mp4", "7", "null", "zoom.jpg");
        self.frame("videos/zoom.mp4", "7", "null", "zoom.png");
        // Like a photo of a screen: cropped, paler, smaller.
        self.frame(
            "videos/zoom.mp4",
            "6",
            "crop=iw*0.9:ih*0.9,eq=contrast=0.85:brightness=0.04,scale=480:-2",
            "filmed.jpg",
        );
        self.frame("videos/bars.avi", "3", "null", "bars.jpg");
        self.clip(
            &["-f", "lavfi", "-i", "nullsrc=size=320x240,geq=random(1)*255:128:128", "-frames:v", "1"],
            "noise.jpg",
        );
        if self.path("videos/twice.mp4").exists() {
            self.frame("videos/twice.mp4", "3", "null", "twice.jpg");
        }
        std::fs::write(self.path("notes.txt"), "Milk, eggs, a ladder.\n").unwrap();
        std::fs::write(self.path("heavy.jpg"), vec![7_u8; 26 << 20]).unwrap();
        let drawing = r##"<svg xmlns="http://www.w3.org/2000/svg" width="320" height="180"><rect width="320" height="180" fill="#246"/><circle cx="90" cy="90" r="60" fill="#fc3"/></svg>"##;
        std::fs::write(self.path("drawing.svg"), drawing).unwrap();
        json!({
            "zoom": self.path("zoom.jpg"), "zoomPng": self.path("zoom.png"), "filmed": self.path("filmed.jpg"), "bars": self.path("bars.jpg"),
            "noise": self.path("noise.jpg"), "twice": self.path("twice.jpg"), "text": self.path("notes.txt"), "heavy": self.path("heavy.jpg"),
            "drawing": self.path("drawing.svg"), "weave": self.path("weave.jpg"),
        })
    }

    fn reelseek(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reelseek"));
        command.env("REELSEEK_INDEX", self.path("index")).env_remove("REELSEEK_TOKEN").stdin(Stdio::null());
        command
    }

    fn index(&self) {
        let output = self.reelseek().arg("index").arg(self.path("videos")).arg("--json").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn serve(&self, more: &[&str], token: Option<&str>) -> Server {
        let mut command = self.reelseek();
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(more);
        // The cache is in the folder of the test.
        command.env("REELSEEK_CACHE", self.path("cache")).env("TMPDIR", self.0.path());
        if let Some(token) = token {
            command.env("REELSEEK_TOKEN", token);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let base = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("said {line:?}")).to_owned();
        Server { child, base }
    }
}

/// A running server. It ends with the test.
struct Server {
    child: Child,
    base: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder of the Node packages and the browser, or what is missing.
fn tools() -> Result<(PathBuf, &'static str), String> {
    let runs =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !runs("node") {
        return Err("Node is missing".into());
    }
    // playwright-core needs Node 20.
    let version = Command::new("node")
        .arg("--version")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version = version.unwrap_or_default();
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < 20) {
        return Err(format!("Node is {}, expected at least 20", version.trim()));
    }
    let browser = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| runs(name))
        .ok_or("Chromium is missing")?;
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
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .unwrap()
}

/// Runs a test file on the server that `prepare` starts.
fn run_page_tests(file: &str, prepare: impl FnOnce() -> (Place, Server)) {
    let (modules, browser) = match tools() {
        Ok(found) => found,
        Err(missing) => return crate::skip::skip(missing),
    };
    let (place, server) = prepare();
    let keep = std::env::var_os("REELSEEK_KEEP_SCREENSHOTS").map(PathBuf::from);
    if let Some(folder) = &keep {
        std::fs::create_dir_all(folder).unwrap();
    }
    let settings = json!({
        "base": server.base, "pid": server.child.id(), "pictures": place.pictures(), "token": TOKEN,
        "modules": modules, "browser": path_of(browser), "keep": keep,
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page").join(file);
    let log = place.path("node.log");
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
    let mut said = String::new();
    std::fs::File::open(log).unwrap().read_to_string(&mut said).unwrap();
    assert!(status.is_some_and(|status| status.success()), "{file}: {status:?}\n{said}");
    // A file whose tests were all skipped has tested nothing.
    assert!(passed(&said) > 0, "{file} tested nothing:\n{said}");
}

/// The number of passed tests that Node reports: `# pass 3`, or `ℹ pass 3`.
fn passed(said: &str) -> usize {
    let counts = said
        .lines()
        .filter_map(|line| line.split_once(" pass "))
        .filter_map(|(_, count)| count.trim().parse::<usize>().ok());
    counts.sum()
}

#[test]
fn a_search_from_picture_to_video() {
    run_page_tests("search.mjs", || {
        let place = Place::with_many_clips();
        place.index();
        let server = place.serve(&[], None);
        (place, server)
    });
}

#[test]
fn the_library_and_one_video() {
    run_page_tests("library.mjs", || {
        let place = Place::with_many_clips();
        place.index();
        let server = place.serve(&[], None);
        (place, server)
    });
}

#[test]
fn indexing_from_nothing() {
    run_page_tests("indexing.mjs", || {
        let place = Place::with_clips();
        std::fs::write(place.path("videos/broken.mp4"), "this is no video").unwrap();
        // Long enough to be stopped while it is indexed: the same seconds repeated.
        place.clip(&["-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=30", "-t", "4"], "seconds.mp4");
        let seconds = place.path("seconds.mp4");
        place.clip(&["-stream_loop", "39", "-i", seconds.to_str().unwrap(), "-c", "copy"], "slow/long.mp4");
        let [videos, slow] = ["videos", "slow"].map(|name| place.path(name));
        let server = place.serve(&[videos.to_str().unwrap(), slow.to_str().unwrap()], None);
        (place, server)
    });
}

#[test]
fn an_index_that_appears_later() {
    run_page_tests("later.mjs", || {
        let place = Place::with_clips();
        // Clips that are added while the server runs.
        place.clip(&["-f", "lavfi", "-i", WEAVE, "-t", "8"], "weave.mp4");
        place.clip(&["-f", "lavfi", "-i", RULE, "-t", "8"], "twice.mp4");
        place.frame("weave.mp4", "4", "null", "weave.jpg");
        place.frame("twice.mp4", "3", "null", "twice.jpg");
        let server = place.serve(&[place.path("videos").to_str().unwrap()], None);
        (place, server)
    });
}

#[test]
fn a_server_with_a_token() {
    run_page_tests("token.mjs", || {
        let place = Place::with_clips();
        place.index();
        let server = place.serve(&["--fetch"], Some(TOKEN));
        (place, server)
    });
}

#[test]
fn every_view_fits_and_passes_axe() {
    run_page_tests("looks.mjs", || {
        let place = Place::with_many_clips();
        place.index();
        let videos = place.path("videos");
        let server = place.serve(&[videos.to_str().unwrap()], None);
        (place, server)
    });
}
