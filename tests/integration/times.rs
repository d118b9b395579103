//! Frames and their times. Each frame of the test videos is a plain grey of level `20 · second + 10`, so that
//! a frame shows its time.

use std::path::{Path, PathBuf};

use reelseek::Cancel;
use reelseek::media::{self, DecodePlan, Error, Fit, Limits, Tools};

use super::support::ffmpeg;

const PLAN: DecodePlan =
    DecodePlan { rate_hz: 4.0, width: 32, height: 32, fit: Fit::Stretch, keyframes_only: false, second: None };

/// A lossless clip of 20 frames per second whose grey level rises by 20 per second.
fn clock(dir: &Path, name: &str, more: &[&str]) -> PathBuf {
    let out = dir.join(name);
    let source = "color=black:size=64x48:rate=20:duration=6,format=gray,geq=lum=20*floor(T)+10";
    ffmpeg(
        &[&["-f", "lavfi", "-i", source, "-c:v", "libx264", "-qp", "0", "-g", "20", "-pix_fmt", "yuv420p"], more]
            .concat(),
        &out,
    );
    out
}

/// Time in milliseconds and displayed second of each frame.
fn decode(path: &Path, plan: &DecodePlan) -> Vec<(u32, u32)> {
    let tools = Tools::find().unwrap();
    let mut frames = media::frames(&tools, path, plan, &Limits::default(), &Cancel::default()).unwrap();
    let mut decoded = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        let [grey, ..] = frame.picture.pixel(16, 16);
        decoded.push((frame.at_ms, u32::from(grey) / 20));
    }
    let summary = frames.finish().unwrap();
    assert_eq!(summary.frames, decoded.len() as u64);
    decoded
}

fn assert_true_times(frames: &[(u32, u32)]) {
    for (at_ms, second) in frames {
        assert_eq!(at_ms / 1000, *second, "at {at_ms} ms in {frames:?}");
    }
}

#[test]
fn a_constant_rate() {
    let dir = tempfile::tempdir().unwrap();
    let frames = decode(&clock(dir.path(), "a.mp4", &[]), &PLAN);
    assert_eq!(frames.len(), 24);
    assert_true_times(&frames);
}

#[test]
fn a_variable_rate_and_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    // 20 frames per second up to 2 s, then every ninth (2.2 per second), and none between 4 s and 5 s.
    let choice = "select='lt(t,2)+not(mod(n,9))*not(between(t,4,4.99))'";
    let path = clock(dir.path(), "a.mkv", &["-vf", choice, "-vsync", "vfr"]);
    let kept = |n: &u32| *n < 40 || n.is_multiple_of(9) && !(80..=99).contains(n);
    for (at_ms, second) in decode(&path, &PLAN) {
        let displayed = (0..=at_ms / 50).rev().find(kept).unwrap();
        assert_eq!(second, displayed / 20, "at {at_ms} ms");
    }
}

#[test]
fn times_count_from_the_first_frame() {
    let dir = tempfile::tempdir().unwrap();
    let late = clock(dir.path(), "late.mkv", &["-output_ts_offset", "3600"]);
    let frames = decode(&late, &PLAN);
    assert_eq!(frames.first(), Some(&(0, 0)));
    assert_true_times(&frames);
    let tools = Tools::find().unwrap();
    let picture = media::frame_at(&tools, &late, 3600, 640, &Cancel::default()).unwrap();
    assert_eq!(u32::from(picture.pixel(9, 9)[0]) / 20, 3);
}

#[test]
fn a_keyframe_is_repeated_until_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = clock(dir.path(), "a.mp4", &["-sc_threshold", "0"]);
    let frames = decode(&path, &DecodePlan { keyframes_only: true, ..PLAN });
    assert_true_times(&frames);
    assert!(frames.len() >= 20);
}

#[test]
fn a_video_of_one_frame_has_one_frame() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("one.mp4");
    ffmpeg(&["-f", "lavfi", "-i", "testsrc=size=64x48:rate=25", "-frames:v", "1", "-pix_fmt", "yuv420p"], &path);
    assert_eq!(decode(&path, &PLAN).len(), 1);
}

#[test]
fn applies_the_pixel_aspect_ratio_and_the_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let (tools, cancel) = (Tools::find().unwrap(), Cancel::default());
    let wide = dir.path().join("wide.mp4");
    let source = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=10:duration=1", "-pix_fmt", "yuv420p"];
    ffmpeg(&[&source[..], &["-vf", "setsar=2"]].concat(), &wide);
    let picture = media::frame_at(&tools, &wide, 0, 640, &cancel).unwrap();
    assert_eq!((picture.width, picture.height), (128, 64));
    let small = media::frame_at(&tools, &wide, 0, 32, &cancel).unwrap();
    assert_eq!((small.width, small.height), (32, 16));

    // The upper half is bright, the lower half dark. The container requests a quarter turn.
    let upright = dir.path().join("upright.mp4");
    let halves = "color=black:size=64x48:rate=10:duration=1,drawbox=w=64:h=24:c=white:t=fill";
    ffmpeg(&["-f", "lavfi", "-i", halves, "-pix_fmt", "yuv420p"], &upright);
    let rotated = dir.path().join("rotated.mov");
    let name = upright.to_str().unwrap().to_owned();
    ffmpeg(&["-i", &name, "-c", "copy", "-metadata:s:v:0", "rotate=90"], &rotated);
    let picture = media::frame_at(&tools, &rotated, 0, 640, &cancel).unwrap();
    if (picture.width, picture.height) == (64, 48) {
        return crate::support::skip("this ffmpeg does not write the rotation");
    }
    assert_eq!((picture.width, picture.height), (48, 64));
    let sides = [picture.pixel(4, 32)[0] > 128, picture.pixel(44, 32)[0] > 128];
    assert_ne!(sides[0], sides[1], "one of the sides is bright");
}

#[test]
fn limits_and_cancellation_end_the_decoding() {
    let dir = tempfile::tempdir().unwrap();
    let path = clock(dir.path(), "a.mp4", &[]);
    let tools = Tools::find().unwrap();
    let limits = Limits { max_frames: 3, ..Limits::default() };
    let mut frames = media::frames(&tools, &path, &PLAN, &limits, &Cancel::default()).unwrap();
    for _ in 0..3 {
        assert!(frames.next_frame().unwrap().is_some());
    }
    assert!(matches!(frames.next_frame(), Err(Error::Limit { .. })));

    let cancel = Cancel::default();
    cancel.set();
    let mut frames = media::frames(&tools, &path, &PLAN, &Limits::default(), &cancel).unwrap();
    let end = loop {
        match frames.next_frame() {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Err(Error::Cancelled { .. })));

    let tiny = Limits { max_pixels: 1000, ..Limits::default() };
    let mut frames = media::frames(&tools, &path, &PLAN, &tiny, &Cancel::default()).unwrap();
    assert!(frames.next_frame().unwrap().is_none());
    assert!(matches!(frames.finish(), Err(Error::Undecodable { .. })));
}

#[test]
fn a_size_that_changes_midway_loses_no_frames_and_keeps_the_clock() {
    let dir = tempfile::tempdir().unwrap();
    let mut joined = Vec::new();
    for (size, format, grey, offset) in [("64x48", "yuv420p", "10", "0"), ("96x96", "yuv444p", "190", "3")] {
        let part = dir.path().join(format!("{grey}.ts"));
        let source = format!("color=black:size={size}:rate=20:duration=3,format=gray,geq=lum={grey}");
        let options = ["-c:v", "libx264", "-qp", "0", "-pix_fmt", format, "-output_ts_offset", offset];
        ffmpeg(&[&["-f", "lavfi", "-i", &source][..], &options].concat(), &part);
        joined.extend(std::fs::read(part).unwrap());
    }
    let path = dir.path().join("joined.ts");
    std::fs::write(&path, joined).unwrap();
    let frames = decode(&path, &PLAN);
    assert_eq!(frames.len(), 24, "{frames:?}");
    for (at_ms, grey) in frames {
        assert_eq!(grey > 4, at_ms >= 3000, "at {at_ms} ms");
    }
    let picture = media::frame_at(&Tools::find().unwrap(), &path, 4500, 640, &Cancel::default()).unwrap();
    assert!(picture.pixel(9, 9)[0] > 128);
    // The picture is stretched to the first size, not cropped.
    assert_eq!((picture.width, picture.height), (64, 48));
    assert!(picture.pixel(60, 45)[0] > 128);
}

#[test]
fn the_last_keyframe_lasts_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = clock(dir.path(), "a.mp4", &["-g", "1000", "-keyint_min", "1000", "-sc_threshold", "0"]);
    let tools = Tools::find().unwrap();
    let plan = DecodePlan { keyframes_only: true, ..PLAN };
    let mut frames = media::frames(&tools, &path, &plan, &Limits::default(), &Cancel::default()).unwrap();
    while frames.next_frame().unwrap().is_some() {}
    assert_eq!(frames.finish().unwrap().duration_ms, 6000);
}

/// A video of 9 seconds, ten frames a second, whose frames from second 3 and from second 6 on are later by
/// minutes.
fn with_gaps(dir: &Path, name: &str) -> PathBuf {
    let out = dir.join(name);
    let source = "color=black:size=64x48:rate=10:duration=9,format=gray,geq=lum=20*floor(T)+10";
    let late = "setpts='PTS+(600*gte(T,3)+1200.4*gte(T,6))/TB'";
    let codec = ["-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p", "-g", "10", "-vsync", "passthrough"];
    ffmpeg(&[&["-f", "lavfi", "-i", source, "-vf", late][..], &codec].concat(), &out);
    out
}

#[test]
fn a_long_gap_costs_no_time_and_later_times_stay_true() {
    let dir = tempfile::tempdir().unwrap();
    let tools = Tools::find().unwrap();
    for keyframes_only in [false, true] {
        let (path, plan) = (with_gaps(dir.path(), "a.mp4"), DecodePlan { keyframes_only, ..PLAN });
        let (limits, cancel) = (Limits::default(), Cancel::default());
        let mut frames = media::frames_without_gaps(&tools, &path, &plan, &limits, &cancel).unwrap();
        let mut decoded = Vec::new();
        while let Some(frame) = frames.next_frame().unwrap() {
            decoded.push((frame.at_ms, u32::from(frame.picture.pixel(16, 16)[0]) / 20));
        }
        let summary = frames.finish().unwrap();
        if summary.gaps.is_empty() {
            return crate::support::skip("this ffmpeg cannot shorten gaps");
        }
        assert!(decoded.len() < 400, "{}", decoded.len());
        assert!(summary.duration_ms.abs_diff(600_000 + 1_200_400 + 9000) <= 500, "{summary:?}");
        let all = decode(&path, &plan);
        assert!(all.len() > 7200, "{}", all.len());
        for (at_ms, grey) in decoded {
            let restored_ms = summary.gaps.restored_ms(at_ms);
            assert_eq!(all[restored_ms as usize / 250], (restored_ms, grey), "{at_ms} ms");
        }
    }
}
