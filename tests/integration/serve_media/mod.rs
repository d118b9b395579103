//! The library, media files and indexing jobs of a server over HTTP.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::support::*;

mod jobs;
mod library;
mod media;
#[cfg(unix)]
mod previews;

impl TestFolder {
    /// Makes a clip in `videos/` with one keyframe every 80 frames.
    fn clip_with_keyframes(&self, source: &str, seconds: u32, name: &str) -> PathBuf {
        let out = self.videos().join(name);
        std::fs::create_dir_all(out.parent().unwrap()).unwrap();
        // ffmpeg treats a name with `%` as a pattern.
        let temporary = self.path("temporary.mp4");
        let codec = ["-c:v", "libx264", "-crf", "10", "-preset", "veryfast", "-g", "80", "-pix_fmt", "yuv420p"];
        ffmpeg(&[&["-f", "lavfi", "-i", source, "-t", &seconds.to_string()][..], &codec].concat(), &temporary);
        std::fs::rename(temporary, &out).unwrap();
        out
    }

    /// Starts a server with a script instead of ffmpeg. The script appends its arguments to the file
    /// `calls`, runs the lines of `script`, then runs ffmpeg.
    #[cfg(unix)]
    fn serve_noting(&self, script: &str, more: &[&str]) -> ServerProcess {
        let (path, calls) = (self.path("ffmpeg-noting"), self.path("calls"));
        write_script(&path, &format!("echo \"$*\" >> {}\n{script}\nexec ffmpeg \"$@\"", calls.display()));
        let mut command = self.serve_command(more);
        command.env("REELSEEK_FFMPEG", path);
        ServerProcess::start(command, self)
    }

    /// Number of calls of ffmpeg whose arguments contain this text.
    #[cfg(unix)]
    fn calls(&self, with: &str) -> usize {
        let calls = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        calls.lines().filter(|line| line.contains(with)).count()
    }

    /// Size of the cache of previews in bytes.
    fn kept(&self) -> u64 {
        let files = std::fs::read_dir(self.path("cache/previews")).into_iter().flatten();
        let files = files.map(|file| file.unwrap()).filter(|file| file.file_type().unwrap().is_file());
        files.map(|file| file.metadata().unwrap().len()).sum()
    }
}

impl ServerProcess {
    fn post_json(&self, path: &str, json: &str) -> HttpReply {
        self.post(path, "application/json", json.as_bytes())
    }

    /// The id of the video whose file has this name.
    fn video_id(&self, name: &str) -> String {
        let page = self.json("/v1/videos?top=200");
        let videos = page["videos"].as_array().unwrap();
        let video = videos.iter().find(|video| video["name"] == name).unwrap_or_else(|| panic!("{name} in {page}"));
        video["video"].as_str().unwrap().to_owned()
    }
}

/// Grey level in the middle of a picture's bytes.
fn grey(jpeg: &[u8]) -> f64 {
    let picture = reelseek::media::image::read(jpeg, "the answer").unwrap().picture;
    f64::from(picture.pixel(picture.width / 2, picture.height / 2)[1])
}
