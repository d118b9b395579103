//! The JSON of results and of searches without results. The command line and the HTTP API print the same.
//! These types are separate from the other types of the library, so that changes there do not break scripts.

use serde::Serialize;

use super::{SearchOptions, SearchResult};
use crate::collection::Space;

/// A video and the moment in it. Times are in seconds from the first frame.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "serve", derive(utoipa::ToSchema), schema(as = SearchResult))]
pub struct ResultRecord {
    /// Position in the list of all results, from 1.
    pub rank: usize,
    /// What the video shows: the same scene, or the same kind of scene.
    #[serde(rename = "match")]
    pub space: Space,
    /// Id of the video.
    pub video: String,
    /// Path of the file. A server may leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The bytes of a path that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<Vec<u8>>,
    /// Title of the video.
    pub title: String,
    /// Cosine between the query and the best row of the moment.
    pub score: f32,
    /// The score, corrected by a comparison of the picture with the row's frame if the index has sketches. It
    /// determines the order of the results and their confidence.
    pub evidence: f32,
    /// Share of unrelated pictures that get less evidence: 0.95 means that one in 20 gets as much by chance.
    pub confidence: f32,
    /// Start of the moment.
    pub from: f64,
    /// The second that fits best.
    pub at: f64,
    /// End of the moment.
    pub to: f64,
    /// Length of the video.
    pub duration: f64,
    /// Labels of the video.
    pub labels: Vec<String>,
    /// The part of the picture that shows the video: its four corners [x, y] in pixels of the whole picture,
    /// clockwise from the upper left one. Absent if the query is a vector or has several frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<[[f32; 2]; 4]>,
    /// Clockwise rotation of this part in degrees: 0, 90, 180 or 270. Absent if the query is a vector or has
    /// several frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<u16>,
    /// Whether this part is mirrored. Absent if the query is a vector or has several frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirrored: Option<bool>,
}

impl ResultRecord {
    /// The record of a result at this position, with the path of its file.
    pub fn new(rank: usize, found: SearchResult) -> ResultRecord {
        let seconds = |ms: u32| f64::from(ms) / 1000.0;
        let SearchResult { video, space, score, evidence, confidence, moment, region } = found;
        ResultRecord {
            rank,
            space,
            video: video.id,
            path: Some(video.path),
            path_bytes: video.path_bytes,
            title: video.title,
            score,
            evidence,
            confidence,
            from: seconds(moment.from_ms),
            at: seconds(moment.at_ms),
            to: seconds(moment.to_ms),
            duration: video.duration_ms as f64 / 1000.0,
            labels: video.labels,
            region: region.map(|region| region.rounded_corners()),
            turn: region.map(|region| region.turn),
            mirrored: region.map(|region| region.mirrored),
        }
    }

    /// The record without the path of the file.
    #[must_use]
    pub fn without_path(self) -> ResultRecord {
        ResultRecord { path: None, path_bytes: None, ..self }
    }
}

/// Why a search has no results. The first reason that applies is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "serve", derive(utoipa::ToSchema), schema(as = EmptyReasonCode))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EmptyReason {
    /// The index holds no videos.
    NoVideos,
    /// No video matches the filter.
    NoMatchForFilter,
    /// The picture is one flat colour, or each of its frames is.
    FlatPicture,
    /// The vector is zero.
    ZeroVector,
    /// There are results, but all of them are left out at the start.
    PastLastResult,
    /// No result has the requested confidence.
    BelowMinConfidence,
    /// No video shows anything like the query.
    NothingSimilar,
}

impl EmptyReason {
    /// The reason of a search that compared the query with rows. `found`: number of results on all pages.
    pub(super) fn of_page(found: usize, options: &SearchOptions) -> EmptyReason {
        match found {
            1.. => EmptyReason::PastLastResult,
            0 if options.min_confidence > 0.0 => EmptyReason::BelowMinConfidence,
            0 => EmptyReason::NothingSimilar,
        }
    }

    /// The reason of an answer that joins others. `of_parts`: why these are empty, if they are. `found`:
    /// number of joined results on all pages.
    pub(super) fn of_joined(of_parts: &[Option<EmptyReason>], found: usize, options: &SearchOptions) -> EmptyReason {
        use EmptyReason::{FlatPicture, NoMatchForFilter, NoVideos};
        match of_parts.first() {
            Some(Some(first @ (NoVideos | NoMatchForFilter | FlatPicture)))
                if of_parts.iter().all(|reason| *reason == Some(*first)) =>
            {
                *first
            }
            _ => EmptyReason::of_page(found, options),
        }
    }
}

/// The JSON of an [`EmptyReason`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "serve", derive(utoipa::ToSchema), schema(as = EmptyReason))]
pub struct ReasonRecord {
    /// A fixed word for programs.
    pub code: EmptyReason,
    /// The reason for people.
    pub message: String,
}

impl ReasonRecord {
    /// The record of a reason of a search with these options.
    pub fn new(reason: EmptyReason, options: &SearchOptions) -> ReasonRecord {
        let message = match reason {
            EmptyReason::NoVideos => "the index holds no videos",
            EmptyReason::NoMatchForFilter => "no video matches the filter",
            EmptyReason::FlatPicture => "the picture is one flat colour, which matches no video",
            EmptyReason::ZeroVector => "the vector is zero, which matches no video",
            EmptyReason::PastLastResult => "there are fewer results than are left out at the start",
            EmptyReason::BelowMinConfidence => {
                let message = format!("no video shows this with a confidence of at least {}", options.min_confidence);
                return ReasonRecord { code: reason, message };
            }
            EmptyReason::NothingSimilar => "no video shows anything like this",
        };
        ReasonRecord { code: reason, message: message.to_owned() }
    }
}
