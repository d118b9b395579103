//! Ranks videos for a query: finds the nearest rows, then compares the query picture with the frames of the
//! best rows.

use std::collections::{HashMap, HashSet};

use reelseek_index::{Effort, Hit, Searcher, VideoNumber, VideoSet};

use super::{QueryRegion, align};

/// Rows fetched per requested video, because several neighbouring rows of a video match.
const OVERFETCH: usize = 16;
/// Number of videos whose frames are compared with the query.
const CANDIDATES: usize = 32;
/// Number of rows that are compared for each candidate.
const FIRST_ROWS: usize = 3;
/// Number of best candidates for which all kept rows are compared.
const BEST: usize = 6;
/// Number of rows that are kept for each video.
const ROWS: usize = 12;
/// Weight of the correlation in the evidence. Values from 0.3 to 0.6 give the same quality.
const WEIGHT: f32 = 0.4;
/// Mean difference in grey levels up to which two sketches count as the same picture.
const SAME_PICTURE: u32 = 4;
/// Number of videos that may contain the same frame without a cost.
const SHARED_FREE: usize = 3;
/// Cost for each doubling of that number.
const SHARED_COST: f32 = 0.05;

/// A query that is ready for the index.
pub struct PreparedQuery {
    /// Embeddings of the picture: as it is, mirrored, and without its borders.
    pub views: Vec<QueryView>,
    /// Templates that are compared with sketches. `None` if the encoder does not search for the same scene.
    pub templates: Option<align::QueryTemplates>,
}

/// One embedding of a query picture.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryView {
    /// The embedding.
    pub embedding: Vec<f32>,
    /// Whether it is the embedding of the mirrored picture.
    pub mirrored: bool,
    /// The part of the picture that was embedded.
    pub region: Option<QueryRegion>,
}

/// A row that matches a query.
#[derive(Debug, Clone)]
pub(crate) struct RankedRow {
    pub(crate) hit: Hit,
    /// Index of the view that found the row.
    pub(crate) view: usize,
    /// Determines order and confidence: the row's cosine, plus `WEIGHT` times the correlation if its frame
    /// was compared.
    pub(crate) evidence: f32,
    /// Whether the row's frame was compared with the picture. Compared rows rank before all others.
    pub(crate) compared: bool,
}

impl RankedRow {
    /// Best first: compared rows, then by evidence, by the number of the video and by the position in it.
    pub(crate) fn order(&self, other: &RankedRow) -> std::cmp::Ordering {
        let by_evidence = other.evidence.total_cmp(&self.evidence);
        other.compared.cmp(&self.compared).then(by_evidence).then_with(|| self.position().cmp(&other.position()))
    }

    fn position(&self) -> (VideoNumber, u32) {
        (self.hit.video, self.hit.nth)
    }
}

/// The best `top` videos, best first, ties in order of their number. Each video has its matching rows, best
/// first.
///
/// The number of compared videos does not depend on `top`, so that a longer list begins with the shorter one.
pub(crate) fn rank(
    searcher: &Searcher,
    query: &PreparedQuery,
    top: usize,
    filter: Option<&VideoSet>,
    effort: Effort,
) -> reelseek_index::Result<Vec<Vec<RankedRow>>> {
    let templates = query.templates.as_ref().filter(|_| searcher.settings().sketch as usize == align::BYTES);
    let Some(templates) = templates else { return nearest(searcher, &query.views, top, filter, effort) };
    let mut videos = nearest(searcher, &query.views, CANDIDATES, filter, effort)?;
    compare_frames(searcher, query, templates, &mut videos)?;
    if top > CANDIDATES && videos.len() == CANDIDATES {
        let known: HashSet<VideoNumber> = videos.iter().map(|rows| rows[0].hit.video).collect();
        let more = nearest(searcher, &query.views, top, filter, effort)?;
        videos.extend(more.into_iter().filter(|rows| !known.contains(&rows[0].hit.video)));
    }
    videos.truncate(top);
    Ok(videos)
}

/// Adds the correlations with the rows' frames to the evidence, then sorts videos and rows again.
fn compare_frames(
    searcher: &Searcher,
    query: &PreparedQuery,
    templates: &align::QueryTemplates,
    videos: &mut [Vec<RankedRow>],
) -> reelseek_index::Result<()> {
    // The sketches of the compared rows of each video, which are its first rows.
    let mut sketches: Vec<Vec<Vec<u8>>> = vec![Vec::new(); videos.len()];
    let mut compare = |i: usize, rows: &mut [RankedRow]| -> reelseek_index::Result<()> {
        for row in rows {
            let sketch = searcher.sketch_of(&row.hit)?.unwrap_or_default();
            if !sketch.is_empty() {
                row.evidence += WEIGHT * templates.score(&sketch, query.views[row.view].mirrored).max(0.0);
                row.compared = true;
            }
            sketches[i].push(sketch);
        }
        Ok(())
    };
    for (i, rows) in videos.iter_mut().enumerate() {
        let few = rows.len().min(FIRST_ROWS);
        compare(i, &mut rows[..few])?;
    }
    let best_of = |rows: &[RankedRow]| rows.iter().map(|row| row.evidence).fold(f32::MIN, f32::max);
    let mut order: Vec<usize> = (0..videos.len()).collect();
    order.sort_by(|a, b| best_of(&videos[*b]).total_cmp(&best_of(&videos[*a])));
    for i in order.into_iter().take(BEST) {
        let few = videos[i].len().min(FIRST_ROWS);
        compare(i, &mut videos[i][few..])?;
    }
    for (rows, costs) in videos.iter_mut().zip(shared_costs(&sketches)) {
        rows.iter_mut().zip(costs).for_each(|(row, cost)| row.evidence -= cost);
        rows.sort_by(RankedRow::order);
    }
    videos.sort_by(|a, b| a[0].order(&b[0]));
    Ok(())
}

/// The evidence that each frame loses if many videos contain it, such as an intro, a black frame or a test
/// card: such a frame does not identify a video. Returns one cost per video and sketch.
pub(super) fn shared_costs(videos: &[Vec<Vec<u8>>]) -> Vec<Vec<f32>> {
    let sum = |sketch: &Vec<u8>| sketch.iter().map(|v| u32::from(*v)).sum::<u32>();
    let sums: Vec<Vec<u32>> = videos.iter().map(|sketches| sketches.iter().map(sum).collect()).collect();
    let cost = |i: usize, j: usize| {
        let (own, limit) = (&videos[i][j], same_picture(&videos[i][j], sums[i][j]));
        // Sketches differ by at least the difference of their sums, so most need no comparison.
        let same = |(other, sum): (&Vec<u8>, &u32)| {
            !other.is_empty() && sums[i][j].abs_diff(*sum) <= limit && difference(own, other) <= limit
        };
        let contains = |(k, sketches): &(usize, &Vec<Vec<u8>>)| *k != i && sketches.iter().zip(&sums[*k]).any(same);
        let others = videos.iter().enumerate().filter(contains).count();
        if own.is_empty() || others < SHARED_FREE {
            0.0
        } else {
            SHARED_COST * ((others + 1) as f32 / SHARED_FREE as f32).log2().max(0.0)
        }
    };
    (0..videos.len()).map(|i| (0..videos[i].len()).map(|j| cost(i, j)).collect()).collect()
}

/// Sum of absolute differences up to which another sketch counts as the same picture: [`SAME_PICTURE`] per
/// cell, and less for a sketch of low contrast.
fn same_picture(sketch: &[u8], sum: u32) -> u32 {
    let cells = sketch.len().max(1) as u32;
    let mean = sum / cells;
    let deviation: u32 = sketch.iter().map(|v| u32::from(*v).abs_diff(mean)).sum();
    (deviation / 4).clamp(cells, SAME_PICTURE * cells)
}

fn difference(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
}

/// The best rows of the best `top` videos over all views, by cosine. Videos and rows are sorted, best first.
fn nearest(
    searcher: &Searcher,
    views: &[QueryView],
    top: usize,
    filter: Option<&VideoSet>,
    effort: Effort,
) -> reelseek_index::Result<Vec<Vec<RankedRow>>> {
    let rows = searcher.rows();
    let mut fetch = top.saturating_mul(OVERFETCH).max(64).min(rows);
    loop {
        let mut found: Vec<Vec<RankedRow>> = Vec::new();
        let mut positions = HashMap::<VideoNumber, usize>::new();
        let mut enough = true;
        for (view, query) in views.iter().enumerate() {
            let hits = searcher.search(&query.embedding, fetch, filter, effort)?;
            // Each view must find enough videos, because one long video may fill the hits of a view and hide
            // other videos that only this view finds.
            let distinct: HashSet<VideoNumber> = hits.iter().map(|hit| hit.video).collect();
            enough &= distinct.len() >= top || hits.len() < fetch || fetch >= rows;
            for hit in hits {
                let position = *positions.entry(hit.video).or_insert_with(|| {
                    found.push(Vec::new());
                    found.len() - 1
                });
                found[position].push(RankedRow { hit, view, evidence: hit.score, compared: false });
            }
        }
        if !enough {
            fetch = fetch.saturating_mul(4).min(rows);
            continue;
        }
        for rows in &mut found {
            rows.sort_by(RankedRow::order);
            let mut seen = HashSet::new();
            rows.retain(|row| seen.insert(row.hit.nth));
            rows.truncate(ROWS);
        }
        found.sort_by(|a, b| a[0].order(&b[0]));
        found.truncate(top);
        return Ok(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reelseek_index::{Index, IndexSettings, Span, Video};

    fn spans(rows: usize) -> Vec<Span> {
        (0..rows as u32).map(|i| Span { start_ms: i, end_ms: i + 1, at_ms: i }).collect()
    }

    #[test]
    fn a_long_video_does_not_hide_the_other_videos_of_its_view() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::create(dir.path().join("index"), &IndexSettings::new(3)).unwrap();
        let mut writer = index.writer().unwrap();
        let mut put = |id: String, row: [f32; 3], rows: usize| {
            writer.put(Video { id, ..Video::default() }, &spans(rows), &row.repeat(rows), &[]).unwrap();
        };
        put("long".into(), [0.9, 0.0, 0.0], 500);
        put("right".into(), [0.8, 0.0, 0.0], 1);
        for i in 0..10 {
            put(format!("junk{i}"), [0.0, 0.3, 0.0], 1);
        }
        writer.commit().unwrap();
        let searcher = index.searcher().unwrap();
        let query = PreparedQuery { views: vec![view([1.0, 0.0, 0.0]), view([0.0, 1.0, 0.0])], templates: None };
        let best = rank(&searcher, &query, 3, None, Effort::Default).unwrap();
        let named: Vec<_> = best.iter().map(|b| searcher.video(b[0].hit.video).unwrap().id).collect();
        assert_eq!(named, ["long", "right", "junk0"]);
    }

    fn view(embedding: [f32; 3]) -> QueryView {
        QueryView { embedding: embedding.to_vec(), mirrored: false, region: None }
    }

    /// A picture of blocks, drawn from a seed.
    fn picture(seed: u32) -> crate::media::Picture {
        let mut random = crate::base::seeded::Random::new(u64::from(seed), "picture");
        let blocks: Vec<u8> = (0..64).map(|_| random.up_to(255) as u8).collect();
        let rgb = (0..64 * 64).flat_map(|i| [blocks[i / 64 / 8 * 8 + i % 64 / 8]; 3]).collect();
        crate::media::Picture { width: 64, height: 64, rgb }
    }

    /// An index of videos with one row each: id, vector, and seed of the picture for the sketch.
    fn index_of(folder: &std::path::Path, videos: &[(String, [f32; 3], u32)]) -> Searcher {
        let settings = IndexSettings { sketch: align::BYTES as u32, ..IndexSettings::new(3) };
        let index = Index::create(folder, &settings).unwrap();
        let mut writer = index.writer().unwrap();
        for (id, row, seed) in videos {
            let video = Video { id: id.clone(), ..Video::default() };
            writer.put(video, &spans(1), row, &align::sketch(&picture(*seed))).unwrap();
        }
        writer.commit().unwrap();
        index.searcher().unwrap()
    }

    #[test]
    fn the_frame_of_the_picture_ranks_before_a_frame_of_higher_cosine() {
        let dir = tempfile::tempdir().unwrap();
        let videos = [("near".to_owned(), [0.9, 0.0, 0.0], 1), ("right".to_owned(), [0.8, 0.0, 0.0], 2)];
        let searcher = index_of(&dir.path().join("index"), &videos);
        let crop = picture(2).cropped(8, 4, 50, 50);
        let templates = Some(align::QueryTemplates::new(&crop));
        let mut query = PreparedQuery { views: vec![view([1.0, 0.0, 0.0])], templates };
        let best = rank(&searcher, &query, 1, None, Effort::Default).unwrap();
        assert_eq!(searcher.video(best[0][0].hit.video).unwrap().id, "right");
        query.templates = None;
        let best = rank(&searcher, &query, 1, None, Effort::Default).unwrap();
        assert_eq!(searcher.video(best[0][0].hit.video).unwrap().id, "near");
    }

    #[test]
    fn a_frame_in_many_videos_ranks_below_a_frame_in_one_video() {
        let dir = tempfile::tempdir().unwrap();
        let mut videos: Vec<_> = (0..12).map(|i| (format!("intro{i}"), [0.90, 0.0, 0.0], 1)).collect();
        videos.push(("own".to_owned(), [0.88, 0.0, 0.0], 2));
        let searcher = index_of(&dir.path().join("index"), &videos);
        let first = |query: &PreparedQuery, searcher: &Searcher| {
            let best = rank(searcher, query, 13, None, Effort::Default).unwrap();
            searcher.video(best[0][0].hit.video).unwrap().id
        };
        let templates = Some(align::QueryTemplates::new(&picture(9)));
        let mut query = PreparedQuery { views: vec![view([1.0, 0.0, 0.0])], templates };
        assert_eq!(first(&query, &searcher), "own");
        // An intro in only two videos costs nothing: the higher cosine wins, as it does without templates.
        let few = index_of(&dir.path().join("few"), &videos[10..]);
        assert!(first(&query, &few).starts_with("intro"));
        query.templates = None;
        assert!(first(&query, &searcher).starts_with("intro"));
    }

    #[test]
    fn a_shared_frame_loses_evidence_but_not_the_other_frames_of_its_video() {
        let sketch = |seed| align::sketch(&picture(seed));
        let mut videos = vec![vec![sketch(1)]; 5];
        videos[0].push(sketch(2));
        let costs = shared_costs(&videos);
        assert!(costs[0][0] > 0.0 && costs[0][1] == 0.0, "{costs:?}");
        // Three copies are below the limit.
        assert_eq!(shared_costs(&videos[1..4]), vec![vec![0.0]; 3]);
        // Dark frames of different scenes are not the same picture, although they differ little. Black frames
        // are.
        let dark = |seed| sketch(seed).iter().map(|v| v / 32).collect::<Vec<u8>>();
        let scenes: Vec<_> = (0..5).map(|i| vec![dark(20 + i)]).collect();
        assert_eq!(shared_costs(&scenes), vec![vec![0.0]; 5]);
        let black = shared_costs(&vec![vec![vec![3u8; align::BYTES]]; 5]);
        assert!(black.iter().all(|costs| costs[0] > 0.0));
    }

    #[test]
    fn a_longer_list_begins_with_the_shorter_one() {
        let dir = tempfile::tempdir().unwrap();
        let videos: Vec<_> =
            (0..60u16).map(|i| (format!("v{i}"), [0.99 - 0.01 * f32::from(i), 0.1, 0.0], u32::from(i))).collect();
        let searcher = index_of(&dir.path().join("index"), &videos);
        let templates = Some(align::QueryTemplates::new(&picture(25)));
        let query = PreparedQuery { views: vec![view([1.0, 0.0, 0.0])], templates };
        let list = |top| {
            let best = rank(&searcher, &query, top, None, Effort::Default).unwrap();
            best.iter().map(|rows| rows[0].hit.video).collect::<Vec<_>>()
        };
        let all = list(60);
        assert_eq!(all.len(), 60);
        assert_eq!(searcher.video(all[0]).unwrap().id, "v25");
        for top in [1, 5, 31, 32, 33, 45] {
            assert_eq!(list(top), all[..top]);
        }
    }
}
