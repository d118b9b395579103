//! Stills and previews found by seeking. The test videos count their frames by their grey level: 20 per
//! second, from 0 to 239.

use std::path::{Path, PathBuf};

use reelseek::Cancel;
use reelseek::media::{Codec, Error, Limits, PreviewSpec, Tools, VideoSource};

use super::support::*;

/// One keyframe every four seconds, and frames that depend on later frames, so that seeking is difficult.
const X264: [&str; 8] = ["-c:v", "libx264", "-crf", "4", "-g", "80", "-bf", "3"];

fn counter(dir: &Path, name: &str, more: &[&str]) -> PathBuf {
    let out = dir.join(name);
    ffmpeg(&[&["-f", "lavfi", "-i", COUNTER, "-pix_fmt", "yuv420p"], more].concat(), &out);
    out
}

/// The same clip in containers that differ in timestamps and seeking.
fn all_containers(dir: &Path) -> Vec<PathBuf> {
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
    // The sound starts five seconds before the video, so that time 0 of the file is not time 0 of the video.
    for name in ["late.mp4", "late.mkv"] {
        let late = dir.join(name);
        let video = dir.join("a.mp4").display().to_string();
        let sound = ["-f", "lavfi", "-i", "sine=duration=17", "-itsoffset", "5", "-i", &video];
        ffmpeg(&[&sound[..], &["-map", "0", "-map", "1", "-c:v", "copy"]].concat(), &late);
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
}

#[test]
fn a_still_is_the_frame_of_its_time_in_every_container() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new();
    for path in all_containers(dir.path()) {
        let source = setup.source(&path);
        let start = source.start().unwrap();
        for at_ms in [0, 2510, 3010, 4010, 7960, 8010, 11_260, 11_990] {
            let expected = f64::from(at_ms) / 50.0;
            for start in [Some(&start), None] {
                let grey = f64::from(source.frame_at(start, at_ms, 64).unwrap().pixel(9, 9)[0]);
                // Encoding changes a grey level by up to 1, and another frame rate a time by up to half a
                // frame.
                assert!((grey - expected.floor()).abs() <= 2.5, "{} at {at_ms} ms ({start:?}): {grey}", path.display());
            }
        }
    }
}

#[test]
fn seeking_and_decoding_from_the_start_give_the_same_frame() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new();
    for path in all_containers(dir.path()) {
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
fn a_preview_has_the_frames_of_its_span() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new();
    let best = Codec::detect(&setup.tools, &Limits::default(), &Cancel::default()).unwrap();
    let mut each: Vec<(PathBuf, Codec)> = all_containers(dir.path()).into_iter().map(|path| (path, best)).collect();
    each.push((dir.path().join("a.mp4"), Codec::Vp8));
    for (path, codec) in each {
        let source = setup.source(&path);
        let start = source.start().unwrap();
        for (from_ms, to_ms) in [(0, 2000), (3300, 5300), (6510, 8510), (10_500, 14_000)] {
            let to = dir.path().join(format!("preview.{}", codec.extension()));
            std::fs::write(&to, "").unwrap();
            source.write_preview(Some(&start), &PreviewSpec { from_ms, to_ms, max_side: 640 }, codec, &to).unwrap();
            let greys = frame_greys(&to);
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
fn a_preview_is_small_silent_and_playable_while_it_downloads() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new();
    let wide = dir.path().join("wide.mkv");
    let sound = ["-f", "lavfi", "-i", "sine=duration=6", "-shortest"];
    ffmpeg(
        &[&["-f", "lavfi", "-i", "testsrc2=size=1281x721:rate=60:duration=6"], &sound[..], &["-pix_fmt", "yuv444p"]]
            .concat(),
        &wide,
    );
    let to = dir.path().join("preview.mp4");
    std::fs::write(&to, "").unwrap();
    let source = setup.source(&wide);
    source.write_preview(None, &PreviewSpec { from_ms: 1000, to_ms: 3000, max_side: 640 }, Codec::X264, &to).unwrap();
    let bytes = std::fs::read(&to).unwrap();
    let position = |name: &[u8]| bytes.windows(4).position(|window| window == name);
    assert!(position(b"moov").unwrap() < position(b"mdat").unwrap(), "the header precedes the data");
    assert_eq!((position(b"vide").is_some(), position(b"soun")), (true, None));
    // `avcC` starts with version 1 and the profile. 66 is the baseline profile.
    let profile = bytes[position(b"avcC").unwrap() + 5];
    assert_eq!(profile, 66);
    let picture = setup.source(&to).frame_at(None, 500, 2000).unwrap();
    assert_eq!((picture.width, picture.height), (640, 360));
}

#[test]
fn reports_files_that_are_not_videos_missing_files_and_cancellation() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new();
    let (broken, gone) = (dir.path().join("broken.mp4"), dir.path().join("gone.mp4"));
    std::fs::write(&broken, "no video").unwrap();
    let not_a_video = |error: Error| matches!(error, Error::NotAVideo { found: "a text file", .. });
    let preview = PreviewSpec { from_ms: 4000, to_ms: 5000, max_side: 640 };
    let to = dir.path().join("preview.mp4");
    std::fs::write(&to, "").unwrap();
    assert!(not_a_video(setup.source(&broken).start().unwrap_err()));
    assert!(not_a_video(setup.source(&broken).frame_at(None, 0, 64).unwrap_err()));
    assert!(not_a_video(setup.source(&broken).write_preview(None, &preview, Codec::X264, &to).unwrap_err()));
    std::fs::write(&broken, "").unwrap();
    assert!(matches!(setup.source(&broken).start(), Err(Error::Empty { .. })));
    assert!(matches!(setup.source(&gone).start(), Err(Error::Io { .. })));
    let path = counter(dir.path(), "a.mp4", &X264);
    setup.cancel.set();
    assert!(matches!(setup.source(&path).frame_at(None, 0, 64), Err(Error::Cancelled { .. })));
}

#[cfg(unix)]
#[test]
fn detects_the_best_codec_and_reports_an_ffmpeg_without_any() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ffmpeg");
    let has = |listed: &str| {
        write_script(&path, &format!("[ \"$2\" = -version ] && exit 0\nprintf '{listed}'"));
        Codec::detect(&Tools::at(&path).unwrap(), &Limits::default(), &Cancel::default())
    };
    assert_eq!(has(" V....D libx264  H.264\\n V....D libvpx  VP8\\n").unwrap(), Codec::X264);
    assert_eq!(has(" V....D libx264rgb  H.264\\n V....D libvpx  VP8\\n").unwrap(), Codec::Vp8);
    assert!(matches!(has(" V....D flv  FLV\\n"), Err(Error::NoCodec { .. })));
}
