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
    /// What the order and the confidence go by: the row's cosine, and if its frame was looked at, `WEIGHT` times the correlation with it more.
    pub(crate) evidence: f32,
    /// Whether its frame was looked at. Those come before others, whatever the others' cosine.
    pub(crate) looked: bool,
}

impl Ranked {
    /// Best first: looked at, evidence, number of the video, place in it.
    pub(crate) fn order(&self, other: &Ranked) -> std::cmp::Ordering {
        let by_evidence = other.evidence.total_cmp(&self.evidence);
        other.looked.cmp(&self.looked).then(by_evidence).then_with(|| self.place().cmp(&other.place()))
    }

    fn place(&self) -> (VideoNumber, u32) {
        (self.hit.video, self.hit.nth)
    }
}

/// The best `top` videos, best first, ties by number; of each the rows that were found, best first.
///
/// The same videos are looked at twice whatever `top` is, so that a longer list begins with the shorter one.
pub(crate) fn rank(
    searcher: &Searcher,
    asked: &Asked,
    top: usize,
    filter: Option<&VideoSet>,
    effort: Effort,
) -> reelseek_index::Result<Vec<Vec<Ranked>>> {
    let laid = asked.laid.as_ref().filter(|_| searcher.settings().sketch as usize == align::BYTES);
    let Some(laid) = laid else { return nearest(searcher, &asked.views, top, filter, effort) };
    let mut videos = nearest(searcher, &asked.views, CANDIDATES, filter, effort)?;
    second_look(searcher, asked, laid, &mut videos)?;
    if top > CANDIDATES && videos.len() == CANDIDATES {
        let known: HashSet<VideoNumber> = videos.iter().map(|rows| rows[0].hit.video).collect();
        let more = nearest(searcher, &asked.views, top, filter, effort)?;
        videos.extend(more.into_iter().filter(|rows| !known.contains(&rows[0].hit.video)));
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
    // Of each video, the sketches of the rows looked at: as many as stand first in it.
    let mut sketches: Vec<Vec<Vec<u8>>> = vec![Vec::new(); videos.len()];
    let mut look = |i: usize, rows: &mut [Ranked]| -> reelseek_index::Result<()> {
        for row in rows {
            let sketch = searcher.sketch_of(&row.hit)?.unwrap_or_default();
            if !sketch.is_empty() {
                row.evidence += WEIGHT * laid.score(&sketch, asked.views[row.view].mirrored).max(0.0);
                row.looked = true;
            }
            sketches[i].push(sketch);
        }
        Ok(())
    };
    for (i, rows) in videos.iter_mut().enumerate() {
        let few = rows.len().min(FIRST_ROWS);
        look(i, &mut rows[..few])?;
    }
    let best_of = |rows: &[Ranked]| rows.iter().map(|row| row.evidence).fold(f32::MIN, f32::max);
    let mut order: Vec<usize> = (0..videos.len()).collect();
    order.sort_by(|a, b| best_of(&videos[*b]).total_cmp(&best_of(&videos[*a])));
    for i in order.into_iter().take(BEST) {
        let few = videos[i].len().min(FIRST_ROWS);
        look(i, &mut videos[i][few..])?;
    }
    for (rows, costs) in videos.iter_mut().zip(shared_costs(&sketches)) {
        rows.iter_mut().zip(costs).for_each(|(row, cost)| row.evidence -= cost);
        rows.sort_by(Ranked::order);
    }
    videos.sort_by(|a, b| a[0].order(&b[0]));
    Ok(())
}

/// What each frame loses for being that of many videos: an intro, a black frame, a test card, which whoever shows it is found by and which tells nothing. For each video and
/// each of its sketches.
fn shared_costs(videos: &[Vec<Vec<u8>>]) -> Vec<Vec<f32>> {
    let sum = |sketch: &Vec<u8>| sketch.iter().map(|v| u32::from(*v)).sum::<u32>();
    let sums: Vec<Vec<u32>> = videos.iter().map(|sketches| sketches.iter().map(sum).collect()).collect();
    let cost = |i: usize, j: usize| {
        let (own, limit) = (&videos[i][j], same_picture(&videos[i][j], sums[i][j]));
        // Pictures differ by at least as much as their sums do, which spares looking at most of them.
        let same = |(other, sum): (&Vec<u8>, &u32)| {
            !other.is_empty() && sums[i][j].abs_diff(*sum) <= limit && difference(own, other) <= limit
        };
        let shows = |(k, sketches): &(usize, &Vec<Vec<u8>>)| *k != i && sketches.iter().zip(&sums[*k]).any(same);
        let others = videos.iter().enumerate().filter(shows).count();
        if own.is_empty() || others < SHARED_FREE {
            0.0
        } else {
            SHARED_COST * ((others + 1) as f32 / SHARED_FREE as f32).log2().max(0.0)
        }
    };
    (0..videos.len()).map(|i| (0..videos[i].len()).map(|j| cost(i, j)).collect()).collect()
}

/// Sum of absolute differences up to which another sketch is of the same picture: [`SAME_PICTURE`] a cell, less where there is little to tell pictures apart by, as in the dark.
fn same_picture(sketch: &[u8], sum: u32) -> u32 {
    let cells = sketch.len().max(1) as u32;
    let mean = sum / cells;
    let deviation: u32 = sketch.iter().map(|v| u32::from(*v).abs_diff(mean)).sum();
    (deviation / 4).clamp(cells, SAME_PICTURE * cells)
}

fn difference(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
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
                found[place].push(Ranked { hit, view, evidence: hit.score, looked: false });
            }
        }
        if !enough {
            fetch = fetch.saturating_mul(4).min(rows);
            continue;
        }
        for rows in &mut found {
            rows.sort_by(Ranked::order);
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
    fn a_long_video_does_not_hide_others_behind_what_another_view_brings() {
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
        let mut random = crate::base::seeded::Random::new(u64::from(seed), "picture");
        let blocks: Vec<u8> = (0..64).map(|_| random.up_to(255) as u8).collect();
        let rgb = (0..64 * 64).flat_map(|i| [blocks[i / 64 / 8 * 8 + i % 64 / 8]; 3]).collect();
        crate::media::Picture { width: 64, height: 64, rgb }
    }

    /// An index of videos of one row each: its name, its vector, the picture of its sketch.
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
        let first = |asked: &Asked, searcher: &Searcher| {
            let best = rank(searcher, asked, 13, None, Effort::Default).unwrap();
            searcher.video(best[0][0].hit.video).unwrap().id
        };
        let laid = align::Query::new(&picture(9));
        let mut asked = Asked { views: vec![view([1.0, 0.0, 0.0])], laid: Some(laid) };
        assert_eq!(first(&asked, &searcher), "own");
        // It is the sharing that does it: of an intro that two videos have, the higher cosine wins, and without a second look too.
        let few = index_of(&dir.path().join("few"), &videos[10..]);
        assert!(first(&asked, &few).starts_with("intro"));
        asked.laid = None;
        assert!(first(&asked, &searcher).starts_with("intro"));
    }

    #[test]
    fn a_shared_frame_costs_itself_and_not_its_video() {
        let sketch = |seed| align::sketch(&picture(seed));
        let mut videos = vec![vec![sketch(1)]; 5];
        videos[0].push(sketch(2));
        let costs = shared_costs(&videos);
        assert!(costs[0][0] > 0.0 && costs[0][1] == 0.0, "{costs:?}");
        // Three copies are no intro.
        assert_eq!(shared_costs(&videos[1..4]), vec![vec![0.0]; 3]);
        // Dark frames of other scenes are not one picture, however little they differ; black ones are.
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
        let laid = Some(align::Query::new(&picture(25)));
        let asked = Asked { views: vec![view([1.0, 0.0, 0.0])], laid };
        let list = |top| {
            let best = rank(&searcher, &asked, top, None, Effort::Default).unwrap();
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
