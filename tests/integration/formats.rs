//! Pictures, animations and videos as telephones, browsers and messengers store them.

use std::path::PathBuf;
use std::process::Command;

use reelseek::Cancel;
use reelseek::media::{Error, Picture, PictureLimits, QueryFrames, open_frames, read_frames};

use crate::support::allocations::peak;
use crate::support::heif::HeicGrid;
use crate::support::{TestFolder, ffmpeg, skip, test_data};

/// The limits of the server.
const SERVER: PictureLimits = PictureLimits { pixels: 50_000_000, bytes: 300_000_000 };
/// A picture in which every part differs.
const SCENE: &str = "testsrc2=size=320x180:rate=10";

fn read(bytes: &[u8]) -> Result<QueryFrames, Error> {
    read_frames(bytes, "a", &SERVER, &Cancel::default())
}

/// Makes a file with an encoder that ffmpeg may lack: then the test is skipped.
fn made(folder: &TestFolder, arguments: &[&str], name: &str) -> Option<PathBuf> {
    let (path, program) = (folder.path(name), std::env::var_os("REELSEEK_FFMPEG").unwrap_or_else(|| "ffmpeg".into()));
    let mut command = Command::new(program);
    let status = command.args(["-nostdin", "-v", "quiet", "-y"]).args(arguments).arg(&path).status().unwrap();
    if !status.success() {
        skip(format!("ffmpeg cannot make {name}"));
        return None;
    }
    Some(path)
}

/// Mean difference of two pictures of one size, in grey levels.
fn difference(a: &Picture, b: &Picture) -> f64 {
    assert_eq!((a.width, a.height), (b.width, b.height));
    let sum: u64 = a.rgb.iter().zip(&b.rgb).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.rgb.len() as f64
}

fn still(frames: QueryFrames) -> Picture {
    assert_eq!(frames.frames.len(), 1);
    frames.frames.into_iter().next().unwrap().picture
}

/// A HEIC picture of 2 x 2 tiles, of which those at the right and at the bottom reach beyond it.
fn tiled(folder: &TestFolder, turns: u8, mirrored: bool) -> Option<Vec<u8>> {
    let mut tiles = Vec::new();
    for (x, y) in [(0, 0), (192, 0), (0, 128), (192, 128)] {
        let filter = format!("pad=384:256,crop=192:128:{x}:{y}");
        let source = ["-f", "lavfi", "-i", SCENE, "-frames:v", "1", "-vf", &filter, "-pix_fmt", "yuv420p"];
        let coder = ["-c:v", "libx265", "-x265-params", "log-level=none:keyint=1:info=0", "-f", "hevc"];
        tiles.push(std::fs::read(made(folder, &[&source[..], &coder].concat(), "tile.hevc")?).unwrap());
    }
    let (tile_size, size) = ([192, 128], [320, 180]);
    Some(HeicGrid { tiles: &tiles, columns: 2, rows: 2, tile_size, size, turns, mirrored }.file())
}

/// The first frame of [`SCENE`] through a filter.
fn scene(folder: &TestFolder, filter: &str) -> Picture {
    let path = folder.path("scene.png");
    ffmpeg(&["-f", "lavfi", "-i", SCENE, "-frames:v", "1", "-vf", filter], &path);
    still(open_frames(&path).unwrap())
}

#[test]
fn the_tiles_of_a_heic_picture_are_put_together_and_turned() {
    let folder = TestFolder::new();
    for (turns, mirrored, filter) in
        [(0, false, "null"), (1, false, "transpose=2"), (2, true, "vflip"), (3, false, "transpose=1")]
    {
        let Some(bytes) = tiled(&folder, turns, mirrored) else { return };
        let picture = still(read(&bytes).unwrap());
        let difference = difference(&picture, &scene(&folder, filter));
        assert!(difference < 6.0, "{turns} turns: {difference}");
    }
}

#[test]
fn a_heic_picture_that_is_cut_short_is_shown_as_far_as_it_goes() {
    let folder = TestFolder::new();
    let Some(bytes) = tiled(&folder, 0, false) else { return };
    let read = read(&bytes[..bytes.len() - 1]).unwrap();
    assert!(read.warning.is_some_and(|warning| warning.contains("ends early")));
    let (picture, expected) = (still(read), scene(&folder, "null"));
    assert!(difference(&picture.cropped(0, 0, 320, 128), &expected.cropped(0, 0, 320, 128)) < 6.0);
    for length in [0, 20, 100, 300, 500] {
        let error = self::read(&bytes[..length]).unwrap_err();
        assert!(matches!(error, Error::Picture { .. } | Error::UnknownFormat { .. }), "{length}: {error}");
    }
}

#[test]
fn a_heif_picture_is_refused_by_its_declared_size() {
    let folder = TestFolder::new();
    let Some(mut bytes) = tiled(&folder, 0, false) else { return };
    let at = bytes.windows(4).position(|window| window == b"ispe").unwrap() + 8;
    bytes[at..at + 8].copy_from_slice(&[[0, 0, 0x4e, 0x20]; 2].concat());
    let (outcome, peak) = peak(|| read(&bytes));
    let error = outcome.unwrap_err();
    assert!(matches!(&error, Error::PictureTooLarge { found, .. } if found.contains("20000 x 20000")), "{error}");
    assert!(peak < 1_000_000, "{peak}");
}

#[test]
fn stills_of_other_formats_show_their_scene() {
    let folder = TestFolder::new();
    let source = ["-f", "lavfi", "-i", SCENE, "-frames:v", "1"];
    let expected = scene(&folder, "null");
    let coders: [(&str, &[&str]); 3] = [
        ("a.avif", &["-c:v", "libaom-av1", "-still-picture", "1", "-cpu-used", "8", "-crf", "20"]),
        ("a.jxl", &["-c:v", "libjxl", "-distance", "1"]),
        ("lossless.jxl", &["-c:v", "libjxl", "-distance", "0"]),
    ];
    for (name, coder) in coders {
        let Some(path) = made(&folder, &[&source[..], coder].concat(), name) else { continue };
        let difference = difference(&still(open_frames(&path).unwrap()), &expected);
        assert!(difference < 6.0, "{name}: {difference}");
        let bytes = std::fs::read(&path).unwrap();
        for length in [1, 12, 40, bytes.len() / 2] {
            let error = read(&bytes[..length]).err();
            let is_expected = |error: &Error| matches!(error, Error::Picture { .. } | Error::UnknownFormat { .. });
            assert!(error.as_ref().is_none_or(is_expected), "{name}: {error:?}");
        }
        let cancel = Cancel::default();
        cancel.set();
        let stopped = read_frames(&bytes, "a", &SERVER, &cancel).unwrap_err();
        assert!(matches!(stopped, Error::Cancelled { .. }), "{name}: {stopped}");
        let short = PictureLimits { bytes: 1_000_000, ..SERVER };
        let refused = read_frames(&bytes, "a", &short, &Cancel::default()).unwrap_err();
        assert!(matches!(refused, Error::PictureTooLarge { .. }), "{name}: {refused}");
    }
}

/// Options of the encoders of animations and clips.
const CLIPS: [(&str, &[&str]); 6] = [
    ("a.gif", &[]),
    ("a.png", &["-f", "apng"]),
    ("a.webp", &["-c:v", "libwebp_anim"]),
    ("a.mp4", &["-c:v", "libx264", "-pix_fmt", "yuv420p"]),
    ("a.webm", &["-c:v", "libvpx"]),
    ("a.mkv", &["-c:v", "mpeg4"]),
];

#[test]
fn black_frames_at_the_start_of_a_clip_are_passed_over() {
    let folder = TestFolder::new();
    let filter = "tpad=start=20:color=black";
    let source = ["-f", "lavfi", "-i", SCENE, "-t", "3", "-vf", filter];
    let expected = scene(&folder, "null");
    for (name, coder) in CLIPS {
        let Some(path) = made(&folder, &[&source[..], coder].concat(), name) else { continue };
        let frames = open_frames(&path).unwrap().frames;
        assert!((2..=8).contains(&frames.len()), "{name}: {} frames", frames.len());
        assert!((1900..=2300).contains(&frames[0].at_ms), "{name}: {} ms", frames[0].at_ms);
        assert!(frames.is_sorted_by_key(|frame| frame.at_ms), "{name}");
        assert!(difference(&frames[0].picture, &expected) < 16.0, "{name}");
        let cancel = Cancel::default();
        cancel.set();
        let stopped = read_frames(&std::fs::read(&path).unwrap(), "a", &SERVER, &cancel).unwrap_err();
        assert!(matches!(stopped, Error::Cancelled { .. }), "{name}: {stopped}");
    }
}

#[test]
fn a_long_video_is_sampled_from_its_start_to_its_end() {
    let folder = TestFolder::new();
    let source = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=4", "-t", "400", "-g", "40"];
    let Some(path) = made(&folder, &[&source[..], &["-c:v", "mpeg4"]].concat(), "long.mp4") else { return };
    let times: Vec<u32> = open_frames(&path).unwrap().frames.iter().map(|frame| frame.at_ms).collect();
    // Keyframes are 10 seconds apart; one that looks like the one before is passed over.
    assert!(times.len() > 4 && times.iter().all(|time| time % 50_000 <= 10_000), "{times:?}");
    assert!(times[0] == 0 && times.last().is_some_and(|last| *last >= 250_000), "{times:?}");
}

#[test]
fn a_rotated_video_is_upright() {
    let folder = TestFolder::new();
    let source = ["-f", "lavfi", "-i", SCENE, "-t", "1", "-vf", "transpose=1", "-c:v", "mpeg4"];
    let Some(path) = made(&folder, &source, "turned.mp4") else { return };
    let from = path.to_str().unwrap();
    // Later versions of ffmpeg have another option, and ignore this one.
    let arguments = ["-i", from, "-c", "copy", "-metadata:s:v:0", "rotate=90"];
    let Some(path) = made(&folder, &arguments, "upright.mp4") else { return };
    let frame = &open_frames(&path).unwrap().frames[0];
    match frame.picture.width > frame.picture.height {
        true => assert!(difference(&frame.picture, &scene(&folder, "null")) < 16.0),
        false => skip("this ffmpeg writes no rotation"),
    }
}

#[test]
fn no_animation_takes_more_memory_than_its_limit() {
    let folder = TestFolder::new();
    let source = ["-f", "lavfi", "-i", "testsrc2=size=2200x1700:rate=4", "-t", "0.5"];
    for (name, coder) in CLIPS.iter().take(3) {
        let Some(path) = made(&folder, &[&source[..], coder].concat(), name) else { continue };
        let bytes = std::fs::read(path).unwrap();
        let (outcome, peak) = peak(|| read(&bytes));
        assert!(!outcome.unwrap().frames.is_empty());
        assert!(peak < SERVER.bytes, "{name}: {peak}");
    }
}

#[test]
fn the_search_finds_the_moments_of_a_clip_and_spans_them() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    let clip = folder.videos().join("zoom.mp4");
    let cut = ["-ss", "3", "-t", "4", "-i", clip.to_str().unwrap()];
    for (name, coder) in CLIPS {
        let Some(_) = made(&folder, &[&cut[..], coder].concat(), name) else { continue };
        let answer = folder.json(&["search", &format!("@{name}"), "--json"]);
        let best = &answer["results"][0];
        assert!(best["path"].as_str().unwrap().ends_with("zoom.mp4"), "{name}: {answer}");
        let [from, to] = ["from", "to"].map(|field| best[field].as_f64().unwrap());
        assert!(from <= 4.0 && to >= 6.0, "{name}: {from} to {to}");
    }
}

#[test]
fn names_what_would_help_if_ffmpeg_is_missing() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    folder.write("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic");
    let clip = folder.videos().join("zoom.mp4");
    let Some(bytes) = tiled(&folder, 0, false) else { return };
    folder.write("b.heic", bytes);
    for (query, expected) in [
        ("@a.heic", "a.heic: not a picture that can be read (it has no picture"),
        ("@b.heic", "b.heic: HEIC needs ffmpeg: cannot start /no/ffmpeg"),
        (clip.to_str().unwrap(), "zoom.mp4: a video needs ffmpeg: cannot start /no/ffmpeg"),
    ] {
        let output = folder.command(&["search", query]).env("REELSEEK_FFMPEG", "/no/ffmpeg").output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && message.contains(expected), "{message}");
        assert!(expected.starts_with("a.heic") || message.contains("convert the file to JPEG"), "{message}");
    }
}

#[test]
fn pictures_of_other_programs_show_one_scene() {
    let folder = test_data("cases/07-query-formats");
    let files = ["iphone.heic", "web.avif", "web.jxl", "telegram_gif.mp4"].map(|name| folder.join(name));
    if !files.iter().all(|path| path.exists()) {
        return skip(format!("{} is not there", folder.display()));
    }
    let first = files.map(|path| open_frames(&path).unwrap().frames.swap_remove(0).picture);
    for picture in &first[1..] {
        assert!(difference(picture, &first[0]) < 6.0);
    }
}
