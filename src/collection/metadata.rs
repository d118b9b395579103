//! Limits of titles and labels. Answers contain them many times, so that long ones would fill the memory.

use reelseek_index::{Searcher, Video, VideoNumber};

/// Largest size of a title in bytes.
pub(crate) const MAX_TITLE_BYTES: usize = 1000;
/// Most labels of a video.
pub(crate) const MAX_LABELS: usize = 100;
/// Largest size of a label in bytes.
pub(crate) const MAX_LABEL_BYTES: usize = 200;

/// Cuts a text to at most `limit` bytes, between two characters. Returns whether it was longer.
pub(crate) fn cut(text: &mut String, limit: usize) -> bool {
    let is_longer = text.len() > limit;
    text.truncate(text.floor_char_boundary(limit));
    is_longer
}

/// Cuts title and labels to their limits.
pub(crate) fn limited(mut video: Video) -> Video {
    cut(&mut video.title, MAX_TITLE_BYTES);
    video.labels.truncate(MAX_LABELS);
    video.labels.iter_mut().for_each(|label| {
        cut(label, MAX_LABEL_BYTES);
    });
    video
}

/// A video of an index. Earlier versions stored titles and labels of any length; these are cut.
///
/// # Errors
/// As [`Searcher::video`].
pub(crate) fn limited_video(searcher: &Searcher, number: VideoNumber) -> Result<Video, reelseek_index::Error> {
    searcher.video(number).map(limited)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_titles_and_labels_are_cut_between_characters() {
        let labels = vec!["ä".repeat(200); 150];
        let video = limited(Video { title: "€".repeat(500), labels, ..Video::default() });
        assert_eq!(video.title, "€".repeat(333));
        assert_eq!(video.labels, vec!["ä".repeat(100); 100]);
        let short = Video { title: "t".repeat(1000), labels: vec!["l".repeat(200); 100], ..Video::default() };
        assert_eq!(limited(short.clone()), short);
    }
}
