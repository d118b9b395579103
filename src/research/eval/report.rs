//! A page to look at: one HTML file that needs nothing else.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use globset::GlobSet;
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::metrics::{self, Normaliser};
use super::ranking::Pooling;
use super::retrieval::{Answer, Error, Task};
use super::summary::Summary;
use super::table::Table;
use crate::base::Cancel;
use crate::features::Split;
use crate::features::activitynet::video_name;
use crate::media::{self, Picture, Tools};

/// The page's file.
pub const PAGE: &str = "index.html";

/// Classes shown at each end.
const CLASSES: usize = 15;
/// Confusions shown.
const CONFUSIONS: usize = 20;
/// Queries shown with their answers, and how many of those.
const EXAMPLES: usize = 12;
const SHOWN: usize = 5;
/// Longer side of a thumbnail.
const THUMBNAIL: u32 = 200;

const STYLE: &str = "
:root{--paper:#fff;--ink:#1c1c1e;--soft:#6b6b70;--line:#d8d8dc;--bar:#3b6fb6;--right:#1a8f4a;--wrong:#c0392b}
@media(prefers-color-scheme:dark){:root{--paper:#17171a;--ink:#ececef;--soft:#9a9aa2;--line:#3a3a40;--bar:#6f9fe0;--right:#3ecf78;--wrong:#ff6f61}}
*{box-sizing:border-box}body{margin:2rem auto;max-width:62rem;padding:0 1rem;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid var(--line)}p,figcaption{color:var(--soft);max-width:46rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}.bar{height:.9rem;background:var(--bar);min-width:1px}.bars td:nth-child(2){width:22rem;text-align:left}
svg text{fill:var(--ink);font-size:13px}svg .axis{stroke:var(--line)}svg .curve{fill:none;stroke:var(--bar);stroke-width:2.5}svg circle{fill:var(--bar)}
.example{display:flex;gap:.6rem;overflow-x:auto;padding:.6rem 0;border-bottom:1px solid var(--line)}figure{margin:0;flex:0 0 9.5rem}figure img,.none{width:100%;height:6rem;object-fit:cover;display:block;border:3px solid var(--line);background:var(--line)}
.none{display:flex;align-items:center;justify-content:center;color:var(--soft);font-size:.8rem}.right img,.right .none{border-color:var(--right)}.wrong img,.wrong .none{border-color:var(--wrong)}figcaption{font-size:.78rem;overflow-wrap:anywhere}
.right figcaption b{color:var(--right)}.wrong figcaption b{color:var(--wrong)}
";

/// Text as HTML.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The videos, for pictures.
#[derive(Debug)]
pub struct Media {
    tools: Tools,
    files: HashMap<String, PathBuf>,
}

impl Media {
    /// Finds the videos below a folder by their names, see [`video_name`].
    ///
    /// # Errors
    /// If ffmpeg is missing.
    pub fn find(folder: &Path) -> Result<Media, media::Error> {
        let files = media::walk::videos(&[folder.to_owned()], &GlobSet::empty()).into_iter().flatten();
        Ok(Media { tools: Tools::find()?, files: files.map(|path| (video_name(&path), path)).collect() })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// A frame as a data URI; `None` if there is none to be had.
    fn thumbnail(&self, video: &str, at_s: f64, cancel: &Cancel) -> Option<String> {
        // Feature sets made of whole videos name them by their path.
        let path = self.files.get(video).or_else(|| self.files.get(&video_name(Path::new(video))))?;
        let picture = media::frame_at(&self.tools, path, (at_s * 1e3).max(0.0) as u32, THUMBNAIL, cancel).ok()?;
        data_uri(&picture)
    }
}

fn data_uri(picture: &Picture) -> Option<String> {
    let mut jpeg = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut jpeg, 70);
    encoder.write_image(&picture.rgb, picture.width, picture.height, ExtendedColorType::Rgb8).ok()?;
    Some(format!("data:image/jpeg;base64,{}", base64(&jpeg)))
}

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

fn page(folder: &Path, title: &str, body: &str) -> Result<(), Error> {
    let io = |source| Error::Io { path: folder.join(PAGE), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    let html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n{body}</body></html>\n",
        title = escape(title)
    );
    crate::base::files::replace(&folder.join(PAGE), |part| std::fs::write(part, &html)).map_err(io)
}

fn rows_of(body: &mut String, table: &Table) {
    let markdown = table.markdown();
    let (rows, caption) = markdown.split_once("\n\n").unwrap_or((&markdown, ""));
    body.push_str("<h2>Methods</h2>\n<div class=\"wide\"><table>\n");
    for (i, row) in rows.lines().enumerate().filter(|(i, _)| *i != 1) {
        let tag = if i == 0 { "th" } else { "td" };
        let cells = row.trim_matches('|').split('|').map(|c| format!("<{tag}>{}</{tag}>", escape(c.trim())));
        let _ = writeln!(body, "<tr>{}</tr>", cells.collect::<String>());
    }
    let _ = writeln!(body, "</table></div>\n<p>{}</p>", escape(caption));
}

/// What a page tells.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// What was asked.
    pub task: &'a Task<'a>,
    /// As `--method` takes it.
    pub method: &'a str,
    /// Its answers.
    pub answers: &'a [Answer],
    /// What they are worth.
    pub summary: &'a Summary,
    /// The normaliser of average precision.
    pub normaliser: Normaliser,
    /// How clips' scores became their video's.
    pub pooling: Pooling,
    /// The table that the method is the best of, if there is one.
    pub table: Option<&'a Table>,
    /// The videos, for pictures.
    pub media: Option<&'a Media>,
}

/// Writes the page of one method, below its table: numbers, curve, classes, confusions, and examples with pictures where the videos are at hand.
///
/// # Errors
/// [`Error::Io`].
pub fn write(folder: &Path, content: &Content<'_>, cancel: &Cancel) -> Result<(), Error> {
    let Content { task, method, answers, summary, normaliser, pooling, table, media } = *content;
    let k = summary.map.first().map_or(10, |(k, _)| *k);
    let mut body = format!(
        "<p>{} queries of the split {} against {} videos, {} left out since nothing is relevant to them. Relevant is {}. Clips are pooled by {pooling}. \
         Average precision with normaliser {normaliser}.</p>\n",
        answers.len(),
        task.split,
        task.videos.len(),
        task.skipped(),
        task.relevance,
    );
    if task.split != Split::Test {
        let _ = writeln!(
            body,
            "<p>Methods learn from the split {} or are chosen by it, which flatters them.</p>",
            task.split
        );
    }
    let shared = task.shared_sources().len();
    if shared > 0 {
        let _ = writeln!(body, "<p>{shared} videos of the split are among those that are learned from.</p>");
    }
    if let Some(table) = table {
        rows_of(&mut body, table);
        let _ = writeln!(body, "<h2>The best of them: {}</h2>", escape(method));
    }
    numbers(&mut body, summary);
    curve(&mut body, answers, normaliser);
    classes(&mut body, task, answers, (k, normaliser));
    confusions(&mut body, task, answers);
    examples(&mut body, task, answers, (k, normaliser), media, cancel);
    page(folder, &format!("Image-to-video retrieval: {method}"), &body)
}

fn numbers(body: &mut String, summary: &Summary) {
    body.push_str("<div class=\"wide\"><table><tr><th></th>");
    summary.map.iter().for_each(|(k, _)| {
        let _ = write!(body, "<th>@{k}</th>");
    });
    body.push_str("</tr>\n");
    for (name, values) in
        [("mAP", &summary.map), ("recall", &summary.recall), ("precision", &summary.precision), ("nDCG", &summary.ndcg)]
    {
        let cells: String = values.iter().map(|(_, value)| format!("<td>{value:.4}</td>")).collect();
        let _ = writeln!(body, "<tr><td>{name}</td>{cells}</tr>");
    }
    let median = summary.median_rank.map_or("-".to_owned(), |rank| rank.to_string());
    let _ = writeln!(
        body,
        "</table></div>\n<p>MRR {:.4}, median rank of the first relevant video {median}.</p>",
        summary.mrr
    );
}

/// mAP@k for every k that was judged, k on a logarithmic axis.
fn curve(body: &mut String, answers: &[Answer], normaliser: Normaliser) {
    let deepest = answers.iter().map(|answer| answer.top.len()).max().unwrap_or(0);
    let ks: Vec<usize> =
        [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1000].into_iter().filter(|k| *k <= deepest).collect();
    let at = |k: usize| metrics::mean(answers.iter().map(|a| metrics::average_precision(&a.judged, k, normaliser)));
    let points: Vec<(usize, f64)> = ks.into_iter().filter_map(|k| Some((k, at(k)?))).collect();
    if points.len() < 2 {
        return;
    }
    let (width, height, left, bottom) = (640.0, 300.0, 50.0, 30.0);
    let log = (points[points.len() - 1].0 as f64).ln();
    let place = |(k, map): (usize, f64)| {
        let x = left + (k as f64).ln() / log * (width - left - 20.0);
        (x, height - bottom - map * (height - bottom - 20.0))
    };
    let _ = write!(
        body,
        "<h2>mAP@k</h2>\n<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"mAP at k\" style=\"max-width:40rem;width:100%\">"
    );
    for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (_, y) = place((1, tick));
        let _ = write!(
            body,
            "<line class=\"axis\" x1=\"{left}\" x2=\"{width}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"8\" y=\"{:.1}\">{tick}</text>",
            y + 4.0
        );
    }
    let line: Vec<String> = points.iter().map(|p| place(*p)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = write!(body, "<polyline class=\"curve\" points=\"{}\"/>", line.join(" "));
    for point in &points {
        let (x, y) = place(*point);
        let _ = write!(
            body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>mAP@{} {:.4}</title></circle>",
            point.0, point.1
        );
        if [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].contains(&point.0) {
            let _ = write!(
                body,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                x,
                height - 8.0,
                point.0
            );
        }
    }
    body.push_str("</svg>\n");
}

/// Mean average precision of each label's queries, best and worst.
fn classes(body: &mut String, task: &Task<'_>, answers: &[Answer], (k, normaliser): (usize, Normaliser)) {
    let mut by_label: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for answer in answers {
        let about = &task.set.images.rows[task.queries[answer.query] as usize];
        let ap = metrics::average_precision(&answer.judged, k, normaliser);
        about.labels.iter().for_each(|label| by_label.entry(*label).or_default().push(ap));
    }
    let mean = |values: Vec<f64>| (values.iter().sum::<f64>() / values.len() as f64, values.len());
    let mut ranked: Vec<(u32, (f64, usize))> =
        by_label.into_iter().map(|(label, values)| (label, mean(values))).collect();
    if ranked.is_empty() {
        return;
    }
    ranked.sort_by(|a, b| b.1.0.total_cmp(&a.1.0).then(a.0.cmp(&b.0)));
    let mut bars = |title: &str, some: &[(u32, (f64, usize))]| {
        let _ = writeln!(body, "<h2>{title}</h2>\n<div class=\"wide\"><table class=\"bars\">");
        for (label, (map, n)) in some {
            let name = escape(&task.set.labels[*label as usize]);
            let _ = writeln!(
                body,
                "<tr><td>{name}</td><td><div class=\"bar\" style=\"width:{:.1}%\"></div></td><td>{map:.3}</td><td>{n} {}</td></tr>",
                map * 100.0,
                if *n == 1 { "query" } else { "queries" }
            );
        }
        body.push_str("</table></div>\n");
    };
    if ranked.len() <= 2 * CLASSES {
        bars(&format!("mAP@{k} by class"), &ranked);
    } else {
        bars(&format!("Best classes, mAP@{k}"), &ranked[..CLASSES]);
        bars(&format!("Worst classes, mAP@{k}"), &ranked[ranked.len() - CLASSES..]);
    }
}

/// Which class comes first where it should not.
fn confusions(body: &mut String, task: &Task<'_>, answers: &[Answer]) {
    let mut counts: BTreeMap<(u32, u32), usize> = BTreeMap::new();
    let mut asked: BTreeMap<u32, usize> = BTreeMap::new();
    for answer in answers {
        let about = &task.set.images.rows[task.queries[answer.query] as usize];
        let Some(label) = about.labels.first() else { continue };
        *asked.entry(*label).or_default() += 1;
        let first = answer.top.first().filter(|first| task.relevant(answer.query).binary_search(first).is_err());
        if let Some(other) = first.and_then(|first| task.labels(*first).first()) {
            *counts.entry((*label, *other)).or_default() += 1;
        }
    }
    let mut ranked: Vec<_> = counts.into_iter().collect();
    if ranked.is_empty() {
        return;
    }
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    body.push_str("<h2>Confusions</h2>\n<p>The class of the first answer where it is wrong.</p>\n<div class=\"wide\"><table><tr><th>asked for</th><th>came first</th><th>queries</th><th>of</th></tr>\n");
    for ((label, other), n) in ranked.into_iter().take(CONFUSIONS) {
        let name = |label: u32| escape(&task.set.labels[label as usize]);
        let _ = writeln!(
            body,
            "<tr><td>{}</td><td>{}</td><td>{n}</td><td>{}</td></tr>",
            name(label),
            name(other),
            asked[&label]
        );
    }
    body.push_str("</table></div>\n");
}

/// Queries from the best to the worst, evenly, with their first answers.
fn examples(
    body: &mut String,
    task: &Task<'_>,
    answers: &[Answer],
    (k, normaliser): (usize, Normaliser),
    media: Option<&Media>,
    cancel: &Cancel,
) {
    let mut ranked: Vec<(f64, &Answer)> =
        answers.iter().map(|a| (metrics::average_precision(&a.judged, k, normaliser), a)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.query.cmp(&b.1.query)));
    let step = ranked.len().div_ceil(EXAMPLES).max(1);
    body.push_str("<h2>Examples</h2>\n<p>A query, then its first answers: green where the video is relevant, red where it is not.</p>\n");
    let figure = |body: &mut String, class: &str, video: &str, at: Option<f64>, caption: &str| {
        let picture = at.and_then(|at| media?.thumbnail(video, at, cancel));
        let picture = picture.map_or("<div class=\"none\">no picture</div>".to_owned(), |uri| {
            format!("<img src=\"{uri}\" alt=\"{}\">", escape(video))
        });
        let _ = write!(body, "<figure class=\"{class}\">{picture}<figcaption>{caption}</figcaption></figure>");
    };
    for (ap, answer) in ranked.into_iter().step_by(step) {
        let about = &task.set.images.rows[task.queries[answer.query] as usize];
        let labels = |labels: &[u32]| {
            let names: Vec<String> = labels.iter().map(|label| escape(&task.set.labels[*label as usize])).collect();
            names.join(", ")
        };
        body.push_str("<div class=\"example\">");
        let caption = format!("{}<br>{}<br>AP@{k} {ap:.3}", escape(&about.id), labels(&about.labels));
        figure(body, "query", about.source(), about.span_s.map(|(from, to)| (from + to) / 2.0), &caption);
        for (rank, (video, score)) in answer.top.iter().zip(&answer.scores).take(SHOWN).enumerate() {
            let right = task.relevant(answer.query).binary_search(video).is_ok();
            let (class, word) = if right { ("right", "right") } else { ("wrong", "wrong") };
            let name = &task.videos[*video as usize];
            let caption = format!(
                "<b>{}. {word}</b> {score:.3}<br>{}<br>{}",
                rank + 1,
                escape(name),
                labels(task.labels(*video))
            );
            figure(body, class, name, task.moment(*video), &caption);
        }
        body.push_str("</div>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_every_remainder() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes), text);
        }
    }

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<b a='1' c=\"2\">&"), "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;");
    }
}
