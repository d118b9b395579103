//! From the views of a picture to videos in order: the nearest rows, and for the very scene a second look at the best of them.

use std::collections::{HashMap, HashSet};

use reelseek_index::{Effort, Hit, Searcher, VideoNumber, VideoSet};

use super::align;

/// Rows fetched for each video wanted: a video answers with several neighbouring rows.
const OVERFETCH: usize = 16;
/// Videos that get a second look, and rows of each: a few of all, more of the best.
const CANDIDATES: usize = 32;
const FIRST_ROWS: usize = 3;
const BEST: usize = 6;
const ROWS: usize = 12;
/// What a full correlation with a frame adds to the cosine. From `reelseek quality`: 0.3 to 0.6 are alike.
const WEIGHT: f32 = 0.4;
/// Mean difference in grey levels up to which two sketches are of one picture.
const SAME_PICTURE: u32 = 4;
/// Other videos that may show the same picture before it is held to tell little, and what each doubling beyond costs.
const SHARED_FREE: usize = 3;
const SHARED_COST: f32 = 0.05;

/// What a picture is searched by.
pub struct Asked {
    /// Its embeddings, see [`super::views`].
    pub views: Vec<View>,
    /// As it is laid over sketches, if the encoder is asked for the very scene.
    pub laid: Option<align::Query>,
}

/// One embedding under which a picture is searched for.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The embedding.
    pub embedding: Vec<f32>,
    /// Whether it is of the mirrored picture.
    pub mirrored: bool,
}

/// A row that answers.
#[derive(Debug, Clone)]
pub(crate) struct Ranked {
    pub(crate) hit: Hit,
    /// The view that found the row.
    pub(crate) view: usize,
    /// What the order and the confidence go by: the row's cosine, and in an index with sketches, `WEIGHT` times the correlation with its frame more.
    pub(crate) evidence: f32,
}

/// The best `top` videos, best first, ties by number; of each the rows that were looked at, best first.
pub(crate) fn rank(
    searcher: &Searcher,
    asked: &Asked,
    top: usize,
    filter: Option<&VideoSet>,
    effort: Effort,
) -> reelseek_index::Result<Vec<Vec<Ranked>>> {
    let laid = asked.laid.as_ref().filter(|_| searcher.settings().sketch as usize == align::BYTES);
    let wanted = if laid.is_some() { top.max(CANDIDATES) } else { top };
    let mut videos = nearest(searcher, &asked.views, wanted, filter, effort)?;
    if let Some(laid) = laid {
        second_look(searcher, asked, laid, &mut videos)?;
    }
    videos.truncate(top);
    Ok(videos)
}

/// Adds to the evidence what the picture laid over the rows' frames tells, and brings videos and rows in order again.
fn second_look(
    searcher: &Searcher,
    asked: &Asked,
    laid: &align::Query,
    videos: &mut [Vec<Ranked>],
) -> reelseek_index::Result<()> {
    let look = |row: &mut Ranked| -> reelseek_index::Result<Vec<u8>> {
        let sketch = searcher.sketch_of(&row.hit)?.unwrap_or_default();
        if !sketch.is_empty() {
            row.evidence += WEIGHT * laid.score(&sketch, asked.views[row.view].mirrored).max(0.0);
        }
        Ok(sketch)
    };
    // The place of the row among the candidates' best, and its sketch.
    let mut sketches: Vec<(f32, Vec<u8>)> = vec![(f32::MIN, Vec::new()); videos.len()];
    let mut look_at = |i: usize, rows: &mut [Ranked]| -> reelseek_index::Result<()> {
        for row in rows {
            let sketch = look(row)?;
            if row.evidence > sketches[i].0 {
                sketches[i] = (row.evidence, sketch);
            }
        }
        Ok(())
    };
    for (i, rows) in videos.iter_mut().enumerate().take(CANDIDATES) {
        let few = rows.len().min(FIRST_ROWS);
        look_at(i, &mut rows[..few])?;
    }
    let best_of = |rows: &[Ranked]| rows.iter().map(|row| row.evidence).fold(f32::MIN, f32::max);
    let mut order: Vec<usize> = (0..videos.len().min(CANDIDATES)).collect();
    order.sort_by(|a, b| best_of(&videos[*b]).total_cmp(&best_of(&videos[*a])));
    for i in order.into_iter().take(BEST) {
        let rows = &mut videos[i];
        let few = rows.len().min(FIRST_ROWS);
        look_at(i, &mut rows[few..])?;
    }
    let sketches: Vec<Vec<u8>> = sketches.into_iter().map(|(_, sketch)| sketch).collect();
    for (rows, cost) in videos.iter_mut().zip(shared_costs(&sketches)) {
        rows.iter_mut().for_each(|row| row.evidence -= cost);
        rows.sort_by(|a, b| b.evidence.total_cmp(&a.evidence).then(a.hit.nth.cmp(&b.hit.nth)));
    }
    sort(videos);
    Ok(())
}

/// Videos by their best row, ties by number.
fn sort(videos: &mut [Vec<Ranked>]) {
    videos.sort_by(|a, b| b[0].evidence.total_cmp(&a[0].evidence).then(a[0].hit.video.cmp(&b[0].hit.video)));
}

/// What each frame loses for being that of many videos: an intro, a black frame, a test card, which whoever shows it is found by and which tells nothing.
fn shared_costs(sketches: &[Vec<u8>]) -> Vec<f32> {
    let same = |a: &[u8], b: &[u8]| {
        let difference: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
        !a.is_empty() && !b.is_empty() && difference <= SAME_PICTURE * align::BYTES as u32
    };
    let cost = |i: usize| {
        let others = sketches.iter().enumerate().filter(|(j, other)| *j != i && same(&sketches[i], other)).count();
        if others < SHARED_FREE {
            0.0
        } else {
            SHARED_COST * ((others + 1) as f32 / SHARED_FREE as f32).log2().max(0.0)
        }
    };
    (0..sketches.len()).map(cost).collect()
}

/// The best rows of each of the best `top` videos over all views, by cosine; videos and rows best first.
fn nearest(
    searcher: &Searcher,
    views: &[View],
    top: usize,
    filter: Option<&VideoSet>,
    effort: Effort,
) -> reelseek_index::Result<Vec<Vec<Ranked>>> {
    let rows = searcher.rows();
    let mut fetch = top.saturating_mul(OVERFETCH).max(64).min(rows);
    loop {
        let mut found: Vec<Vec<Ranked>> = Vec::new();
        let mut places = HashMap::<VideoNumber, usize>::new();
        let mut enough = true;
        for (view, asked) in views.iter().enumerate() {
            let hits = searcher.search(&asked.embedding, fetch, filter, effort)?;
            // Each view by itself: one filled by a single long video hides others, however many another view brings.
            let distinct: HashSet<VideoNumber> = hits.iter().map(|hit| hit.video).collect();
            enough &= distinct.len() >= top || hits.len() < fetch || fetch >= rows;
            for hit in hits {
                let place = *places.entry(hit.video).or_insert_with(|| {
                    found.push(Vec::new());
                    found.len() - 1
                });
                found[place].push(Ranked { hit, view, evidence: hit.score });
            }
        }
        if !enough {
            fetch = fetch.saturating_mul(4).min(rows);
            continue;
        }
        for rows in &mut found {
            rows.sort_by(|a, b| b.evidence.total_cmp(&a.evidence).then(a.hit.nth.cmp(&b.hit.nth)));
            let mut seen = HashSet::new();
            rows.retain(|row| seen.insert(row.hit.nth));
            rows.truncate(ROWS);
        }
        sort(&mut found);
        found.truncate(top);
        return Ok(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reelseek_index::{Index, Settings, Span, Video};

    fn spans(rows: usize) -> Vec<Span> {
        (0..rows as u32).map(|i| Span { start_ms: i, end_ms: i + 1, at_ms: i }).collect()
    }

    #[test]
    fn a_long_video_does_not_hide_others_behind_what_another_view_brings() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::create(dir.path().join("index"), &Settings::new(3)).unwrap();
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
        let asked = Asked { views: vec![view([1.0, 0.0, 0.0]), view([0.0, 1.0, 0.0])], laid: None };
        let best = rank(&searcher, &asked, 3, None, Effort::Default).unwrap();
        let named: Vec<_> = best.iter().map(|b| searcher.video(b[0].hit.video).unwrap().id).collect();
        assert_eq!(named, ["long", "right", "junk0"]);
    }

    fn view(embedding: [f32; 3]) -> View {
        View { embedding: embedding.to_vec(), mirrored: false }
    }

    /// A picture of blocks, drawn from a seed.
    fn picture(seed: u32) -> crate::media::Picture {
        let mut random = crate::seeded::Random::new(u64::from(seed), "picture");
        let blocks: Vec<u8> = (0..64).map(|_| random.up_to(255) as u8).collect();
        let rgb = (0..64 * 64).flat_map(|i| [blocks[i / 64 / 8 * 8 + i % 64 / 8]; 3]).collect();
        crate::media::Picture { width: 64, height: 64, rgb }
    }

    /// An index of videos of one row each: its name, its vector, the picture of its sketch.
    fn index_of(folder: &std::path::Path, videos: &[(String, [f32; 3], u32)]) -> Searcher {
        let settings = Settings { sketch: align::BYTES as u32, ..Settings::new(3) };
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
    fn the_frame_that_the_picture_lies_on_comes_before_one_of_a_higher_cosine() {
        let dir = tempfile::tempdir().unwrap();
        let videos = [("near".to_owned(), [0.9, 0.0, 0.0], 1), ("right".to_owned(), [0.8, 0.0, 0.0], 2)];
        let searcher = index_of(&dir.path().join("index"), &videos);
        let crop = picture(2).cropped(8, 4, 50, 50);
        let mut asked = Asked { views: vec![view([1.0, 0.0, 0.0])], laid: Some(align::Query::new(&crop)) };
        let best = rank(&searcher, &asked, 1, None, Effort::Default).unwrap();
        assert_eq!(searcher.video(best[0][0].hit.video).unwrap().id, "right");
        asked.laid = None;
        let best = rank(&searcher, &asked, 1, None, Effort::Default).unwrap();
        assert_eq!(searcher.video(best[0][0].hit.video).unwrap().id, "near");
    }

    #[test]
    fn a_picture_that_many_videos_show_tells_less_than_one_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut videos: Vec<_> = (0..12).map(|i| (format!("intro{i}"), [0.90, 0.0, 0.0], 1)).collect();
        videos.push(("own".to_owned(), [0.88, 0.0, 0.0], 2));
        let searcher = index_of(&dir.path().join("index"), &videos);
        let laid = align::Query::new(&picture(9));
        let asked = Asked { views: vec![view([1.0, 0.0, 0.0])], laid: Some(laid) };
        let best = rank(&searcher, &asked, 13, None, Effort::Default).unwrap();
        assert_eq!(searcher.video(best[0][0].hit.video).unwrap().id, "own");
        // Three copies are no intro.
        let costs = shared_costs(&vec![align::sketch(&picture(1)); 3]);
        assert_eq!(costs, [0.0; 3]);
    }
}
