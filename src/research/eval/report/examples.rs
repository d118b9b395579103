//! Example queries of the report, with pictures.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use globset::GlobSet;
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use maud::{Markup, html};

use super::ReportContent;
use crate::base::Cancel;
use crate::features::activitynet::video_name;
use crate::media::{self, Picture, Tools};
use crate::research::eval::retrieval::RankedAnswer;

/// Number of example queries.
const EXAMPLES: usize = 12;
/// Number of answers of an example.
const ANSWERS: usize = 5;
/// Longer side of a thumbnail in pixels.
const THUMBNAIL: u32 = 200;

/// The videos from which pictures are taken.
#[derive(Debug)]
pub struct ReportMedia {
    tools: Tools,
    files: HashMap<String, PathBuf>,
}

impl ReportMedia {
    /// Finds the videos in a folder by name, see [`video_name`].
    ///
    /// # Errors
    /// If ffmpeg is missing.
    pub fn find(folder: &Path) -> Result<ReportMedia, media::Error> {
        let files = media::walk::videos(&[folder.to_owned()], &GlobSet::empty()).into_iter().flatten();
        Ok(ReportMedia { tools: Tools::find()?, files: files.map(|path| (video_name(&path), path)).collect() })
    }

    /// Whether the folder has no videos.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// A frame as a data URI; `None` if it cannot be decoded.
    fn thumbnail(&self, video: &str, at_s: f64, cancel: &Cancel) -> Option<String> {
        // Feature sets of whole videos contain paths as names.
        let path = self.files.get(video).or_else(|| self.files.get(&video_name(Path::new(video))))?;
        let picture = media::frame_at(&self.tools, path, (at_s * 1e3).max(0.0) as u32, THUMBNAIL, cancel).ok()?;
        data_uri(&picture)
    }
}

fn data_uri(picture: &Picture) -> Option<String> {
    let mut jpeg = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut jpeg, 70);
    encoder.write_image(&picture.rgb, picture.width, picture.height, ExtendedColorType::Rgb8).ok()?;
    Some(format!("data:image/jpeg;base64,{}", STANDARD.encode(&jpeg)))
}

impl ReportContent<'_> {
    /// Queries from the best to the worst, evenly chosen, with their first answers.
    pub(super) fn examples(&self, cancel: &Cancel) -> Markup {
        let mut ranked: Vec<(f64, &RankedAnswer)> = self.answers.iter().map(|a| (self.precision(a), a)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.query.cmp(&b.1.query)));
        let step = ranked.len().div_ceil(EXAMPLES).max(1);
        html! {
            h2 { "Examples" }
            p { "A query, then its first answers: green if the video is relevant, red if it is not." }
            @for (precision, answer) in ranked.into_iter().step_by(step) {
                div.example { (self.example(precision, answer, cancel)) }
            }
        }
    }

    fn example(&self, precision: f64, answer: &RankedAnswer, cancel: &Cancel) -> Markup {
        let task = self.task;
        let query = task.query(answer.query);
        let labels = |labels: &[u32]| {
            let names: Vec<&str> = labels.iter().map(|label| task.set.labels[*label as usize].as_str()).collect();
            names.join(", ")
        };
        let query_caption = html! {
            (query.id) br; (labels(&query.labels)) br; "AP@" (self.first_rank()) " " (format!("{precision:.3}"))
        };
        let query_at = query.span_s.map(|(from, to)| (from + to) / 2.0);
        html! {
            (self.figure("query", query.source(), query_at, &query_caption, cancel))
            @for (rank, (video, score)) in answer.top.iter().zip(&answer.scores).take(ANSWERS).enumerate() {
                @let class = if task.is_relevant(answer.query, *video) { "right" } else { "wrong" };
                @let name = &task.videos[*video as usize];
                @let caption = html! {
                    b { (rank + 1) ". " (class) } " " (format!("{score:.3}")) br; (name) br; (labels(task.labels(*video)))
                };
                (self.figure(class, name, task.first_clip_middle_s(*video), &caption, cancel))
            }
        }
    }

    fn figure(&self, class: &str, video: &str, at_s: Option<f64>, caption: &Markup, cancel: &Cancel) -> Markup {
        let picture = at_s.and_then(|at_s| self.media?.thumbnail(video, at_s, cancel));
        html! {
            figure class=(class) {
                @if let Some(uri) = picture {
                    img src=(uri) alt=(video);
                } @else {
                    div.none { "no picture" }
                }
                figcaption { (caption) }
            }
        }
    }
}
