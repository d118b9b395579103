//! Pictures and clips found by seeking, judged by clips whose grey level counts the frames: 20 a second, from 0 to 239.

use std::path::{Path, PathBuf};
use std::process::Command;

use reelseek::Cancel;
use reelseek::media::{Codec, PreviewSpec, Error, Fit, Limits, DecodePlan, VideoSource, Tools, frames};

fn make(arguments: &[&str], out: &Path) {
    let mut command = Command::new(std::env::var_os("REELSEEK_FFMPEG").unwrap_or_else(|| "ffmpeg".into()));
    assert!(command.args(["-nostdin", "-v", "error", "-y"]).args(arguments).arg(out).status().unwrap().success());
}

/// 12 seconds; each frame is one plain grey: its own number.
const COUNTER: &str = "color=black:size=64x48:rate=20:duration=12,format=gray,geq=lum=N";
/// One keyframe every four seconds and frames that depend on later ones: seeking has something to get wrong.
const X264: [&str; 8] = ["-c:v", "libx264", "-crf", "4", "-g", "80", "-bf", "3"];

fn counter(dir: &Path, name: &str, more: &[&str]) -> PathBuf {
    let out = dir.join(name);
    make(&[&["-f", "lavfi", "-i", COUNTER, "-pix_fmt", "yuv420p"], more].concat(), &out);
    out
}

/// The same clip in the ways in which files number their frames and can be sought.
fn all(dir: &Path) -> Vec<PathBuf> {
    let mpeg2 = ["-c:v", "mpeg2video", "-q:v", "1", "-g", "40", "-bf", "2"];
    let mut files = vec![
        counter(dir, "a.mp4", &X264),
        counter(dir, "hour.mkv", &[&X264[..], &["-output_ts_offset", "3600"]].concat()),
        counter(dir, "a.ts", &X264),
        counter(dir, "far.ts", &[&X264[..], &["-output_ts_offset", "5000"]].concat()),
        counter(dir, "a.mpg", &[&mpeg2[..], &["-r", "25"]].concat()),
        counter(dir, "a.avi", &["-c:v", "mpeg4", "-q:v", "1", "-g", "80"]),
        counter(dir, "a.webm", &["-c:v", "libvpx", "-qmin", "0", "-qmax", "4", "-b:v", "4M", "-g", "80"]),
        counter(dir, "a.h264", &X264),
    ];
    // Sound begins five seconds before the pictures do: a file whose time is not that of its video.
    for name in ["late.mp4", "late.mkv"] {
        let late = dir.join(name);
        let video = dir.join("a.mp4").display().to_string();
        make(
            &[
                "-f",
                "lavfi",
                "-i",
                "sine=duration=17",
                "-itsoffset",
                "5",
                "-i",
                &video,
                "-map",
                "0",
                "-map",
                "1",
                "-c:v",
                "copy",
            ],
            &late,
        );
        files.push(late);
    }
    files
}

struct Setup {
    tools: Tools,
    limits: Limits,
    cancel: Cancel,
}

impl Setup {
    fn new() -> Setup {
        Setup {
            tools: Tools::find().unwrap(),
            limits: Limits { background: true, ..Limits::default() },
            cancel: Cancel::default(),
        }
    }

    fn source<'a>(&'a self, path: &'a Path) -> VideoSource<'a> {
        VideoSource { tools: &self.tools, path, limits: &self.limits, cancel: &self.cancel }
    }

    /// Times and grey levels of all frames of a clip.
    fn greys(&self, path: &Path) -> Vec<(u32, f64)> {
        let plan = DecodePlan { rate_hz: 20.0, width: 8, height: 8, fit: Fit::Stretch, keyframes_only: false };
        let mut frames = frames(&self.tools, path, &plan, &self.limits, &self.cancel).unwrap();
        let mut greys = Vec::new();
        while let Some(frame) = frames.next_frame().unwrap() {
            greys.push((frame.at_ms, f64::from(frame.picture.pixel(4, 4)[0])));
        }
        greys
    }
}

#[test]
fn a_still_is_that_of_its_moment_in_every_container() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new();
    for path in all(dir.path()) {
        let source = setup.source(&path);
        let start = source.start().unwrap();
        for at_ms in [0, 2510, 3010, 4010, 7960, 8010, 11_260, 11_990] {
            let expected = f64::from(at_ms) / 50.0;
            for start in [Some(&start), None] {
                let grey = f64::from(source.frame_at(start, at_ms, 64).unwrap().pixel(9, 9)[0]);
                // A grey can be 1 away from its number, and a frame at another rate up to half of one earlier.
                assert!(
                    (grey - expected.floor()).abs() <= 2.5,
                    "{} at {at_ms} ms ({start:?}): {grey}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn seeking_gives_the_picture_that_decoding_from_the_start_gives() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new();
    for path in all(dir.path()) {
        let source = setup.source(&path);
        let start = source.start().unwrap();
        for at_ms in [3500, 6789, 9999, 11_990] {
            let (sought, exact) =
                (source.frame_at(Some(&start), at_ms, 64).unwrap(), source.frame_at(None, at_ms, 64).unwrap());
            let difference = i32::from(sought.pixel(9, 9)[0]) - i32::from(exact.pixel(9, 9)[0]);
            assert!(difference.abs() <= 1, "{} at {at_ms} ms: {difference}", path.display());
        }
    }
}

#[test]
fn a_cut_shows_its_moments_from_beginning_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new();
    let best = Codec::detect(&setup.tools, &Limits::default(), &Cancel::default()).unwrap();
    let mut each: Vec<(PathBuf, Codec)> = all(dir.path()).into_iter().map(|path| (path, best)).collect();
    each.push((dir.path().join("a.mp4"), Codec::Vp8));
    for (path, codec) in each {
        let source = setup.source(&path);
        let start = source.start().unwrap();
        for (from_ms, to_ms) in [(0, 2000), (3300, 5300), (6510, 8510), (10_500, 14_000)] {
            let to = dir.path().join(format!("cut.{}", codec.extension()));
            std::fs::write(&to, "").unwrap();
            source.write_preview(Some(&start), &PreviewSpec { from_ms, to_ms, max_side: 640 }, codec, &to).unwrap();
            let greys = setup.greys(&to);
            let length_ms = to_ms.min(12_000) - from_ms;
            let expected = i64::from(length_ms / 50);
            let name = path.display();
            assert!(
                (greys.len() as i64 - expected).abs() <= 2,
                "{name} {from_ms}: {} frames of {expected}",
                greys.len()
            );
            for (at_ms, grey) in greys {
                let expected = f64::from(from_ms + at_ms) / 50.0;
                assert!((grey - expected).abs() <= 4.0, "{name} {from_ms} + {at_ms} ms: {grey}");
            }
        }
    }
}

#[test]
fn a_cut_is_small_silent_and_ready_to_play() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new();
    let wide = dir.path().join("wide.mkv");
    let sound = ["-f", "lavfi", "-i", "sine=duration=6", "-shortest"];
    make(
        &[&["-f", "lavfi", "-i", "testsrc2=size=1281x721:rate=60:duration=6"], &sound[..], &["-pix_fmt", "yuv444p"]]
            .concat(),
        &wide,
    );
    let to = dir.path().join("cut.mp4");
    std::fs::write(&to, "").unwrap();
    let source = setup.source(&wide);
    source.write_preview(None, &PreviewSpec { from_ms: 1000, to_ms: 3000, max_side: 640 }, Codec::X264, &to).unwrap();
    let bytes = std::fs::read(&to).unwrap();
    let place = |name: &[u8]| bytes.windows(4).position(|window| window == name);
    assert!(place(b"moov").unwrap() < place(b"mdat").unwrap(), "what a player needs comes first");
    assert_eq!((place(b"vide").is_some(), place(b"soun")), (true, None));
    // `avcC`: version 1, then the profile; 66 is baseline.
    let profile = bytes[place(b"avcC").unwrap() + 5];
    assert_eq!(profile, 66);
    let picture = setup.source(&to).frame_at(None, 500, 2000).unwrap();
    assert_eq!((picture.width, picture.height), (640, 360));
}

#[test]
fn what_cannot_be_cut_is_an_error_and_wishes_to_stop_are_heard() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new();
    let (broken, gone) = (dir.path().join("broken.mp4"), dir.path().join("gone.mp4"));
    std::fs::write(&broken, "no video").unwrap();
    let cut = PreviewSpec { from_ms: 4000, to_ms: 5000, max_side: 640 };
    let to = dir.path().join("cut.mp4");
    std::fs::write(&to, "").unwrap();
    assert!(matches!(setup.source(&broken).start(), Err(Error::Undecodable { .. })));
    assert!(matches!(setup.source(&broken).frame_at(None, 0, 64), Err(Error::Undecodable { .. })));
    assert!(matches!(setup.source(&broken).write_preview(None, &cut, Codec::X264, &to), Err(Error::Undecodable { .. })));
    assert!(matches!(setup.source(&gone).start(), Err(Error::Io { .. })));
    let path = counter(dir.path(), "a.mp4", &X264);
    setup.cancel.set();
    assert!(matches!(setup.source(&path).frame_at(None, 0, 64), Err(Error::Cancelled { .. })));
}

#[cfg(unix)]
#[test]
fn an_ffmpeg_without_h264_falls_back_and_one_without_any_encoder_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ffmpeg");
    let has = |listed: &str| {
        std::fs::write(&path, format!("#!/bin/sh\n[ \"$2\" = -version ] && exit 0\nprintf '{listed}'\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        Codec::detect(&Tools::at(&path).unwrap(), &Limits::default(), &Cancel::default())
    };
    assert_eq!(has(" V....D libx264  H.264\\n V....D libvpx  VP8\\n").unwrap(), Codec::X264);
    assert_eq!(has(" V....D libx264rgb  H.264\\n V....D libvpx  VP8\\n").unwrap(), Codec::Vp8);
    assert!(matches!(has(" V....D flv  FLV\\n"), Err(Error::NoCodec { .. })));
}
