//! The report: one self-contained HTML page.

mod examples;

use std::collections::BTreeMap;
use std::path::Path;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Error;
use super::metrics::{self, Normaliser};
use super::ranking::Pooling;
use super::retrieval::RankedAnswer;
use super::summary::MetricSummary;
use super::table::MethodTable;
use super::task::RetrievalTask;
use crate::base::{Cancel, files};
use crate::features::Split;

pub use examples::ReportMedia;

/// Name of the page's file.
pub const PAGE: &str = "index.html";

/// Number of classes in the charts of the best and of the worst classes.
const CLASSES: usize = 15;
/// Number of rows in the table of confusions.
const CONFUSIONS: usize = 20;
/// Ranks of the curve.
const CURVE_AT: [usize; 15] = [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1000];
/// Ranks with a label on the axis of the curve.
const CURVE_LABELS: [usize; 10] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

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

/// Content of a report.
#[derive(Debug, Clone, Copy)]
pub struct ReportContent<'a> {
    /// The task.
    pub task: &'a RetrievalTask<'a>,
    /// Name of the method in [`super::methods::all`].
    pub method: &'a str,
    /// Answers of the method.
    pub answers: &'a [RankedAnswer],
    /// Metrics of the answers.
    pub summary: &'a MetricSummary,
    /// Divisor of average precision.
    pub normaliser: Normaliser,
    /// How a video's score is computed from its clips.
    pub pooling: Pooling,
    /// The table of methods, of which this method is the best, if there is one.
    pub table: Option<&'a MethodTable>,
    /// The videos, for pictures.
    pub media: Option<&'a ReportMedia>,
}

/// Writes the page of a method: its table if there is one, metrics, curve, classes, confusions, and examples,
/// with pictures if the videos are available.
///
/// # Errors
/// [`Error::Io`].
pub fn write(folder: &Path, content: &ReportContent<'_>, cancel: &Cancel) -> Result<(), Error> {
    let io = |source| Error::Io { path: folder.join(PAGE), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    let page = content.page(cancel).into_string();
    files::replace(&folder.join(PAGE), |part| std::fs::write(part, &page)).map_err(io)
}

impl ReportContent<'_> {
    fn page(&self, cancel: &Cancel) -> Markup {
        let title = format!("Image-to-video retrieval: {}", self.method);
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width";
                    title { (title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { (title) }
                    (self.introduction())
                    @if let Some(table) = self.table {
                        (methods(table))
                        h2 { "The best method: " (self.method) }
                    }
                    (self.metrics())
                    (self.curve())
                    (self.classes())
                    (self.confusions())
                    (self.examples(cancel))
                }
            }
        }
    }

    fn introduction(&self) -> Markup {
        let (task, shared) = (self.task, self.task.shared_sources().len());
        html! {
            p {
                (self.answers.len()) " queries of the split " (task.split) " against " (task.videos.len()) " videos; "
                (task.skipped()) " queries without a relevant video are left out. Relevant is " (task.relevance)
                ". Clips are pooled by " (self.pooling) ". Average precision with normaliser " (self.normaliser) "."
            }
            @if task.split != Split::Test {
                p { "Methods are trained or chosen on the split " (task.split) ", which inflates their results." }
            }
            @if shared > 0 {
                p { (shared) " videos of the split also occur in the training rows." }
            }
        }
    }

    fn metrics(&self) -> Markup {
        let summary = self.summary;
        let rows = [
            ("mAP", &summary.map),
            ("recall", &summary.recall),
            ("precision", &summary.precision),
            ("nDCG", &summary.ndcg),
        ];
        let median = summary.median_rank.map_or("-".to_owned(), |rank| rank.to_string());
        html! {
            div.wide {
                table {
                    tr { th {} @for (k, _) in &summary.map { th { "@" (k) } } }
                    @for (name, values) in rows {
                        tr { td { (name) } @for (_, value) in values { td { (format!("{value:.4}")) } } }
                    }
                }
            }
            p { "MRR " (format!("{:.4}", summary.mrr)) ", median rank of the first relevant video " (median) "." }
        }
    }

    /// Average precision of an answer at the first rank of the summary.
    fn precision(&self, answer: &RankedAnswer) -> f64 {
        metrics::average_precision(&answer.judged, self.first_rank(), self.normaliser)
    }

    fn first_rank(&self) -> usize {
        self.summary.map.first().map_or(10, |(k, _)| *k)
    }

    /// mAP@k for every judged k, with a logarithmic axis.
    fn curve(&self) -> Markup {
        let deepest = self.answers.iter().map(|answer| answer.top.len()).max().unwrap_or(0);
        let precisions =
            |k: usize| self.answers.iter().map(move |a| metrics::average_precision(&a.judged, k, self.normaliser));
        let ranks = CURVE_AT.into_iter().filter(|k| *k <= deepest);
        let points: Vec<(usize, f64)> = ranks.filter_map(|k| Some((k, metrics::mean(precisions(k))?))).collect();
        if points.len() < 2 {
            return html! {};
        }
        let (width, height, left, bottom) = (640.0, 300.0, 50.0, 30.0);
        let log = (points[points.len() - 1].0 as f64).ln();
        let x = |k: usize| left + (k as f64).ln() / log * (width - left - 20.0);
        let y = |map: f64| height - bottom - map * (height - bottom - 20.0);
        let pixels = |value: f64| format!("{value:.1}");
        let line: Vec<String> = points.iter().map(|(k, map)| format!("{:.1},{:.1}", x(*k), y(*map))).collect();
        html! {
            h2 { "mAP@k" }
            svg viewBox=(format!("0 0 {width} {height}")) role="img" aria-label="mAP at k" style="max-width:40rem;width:100%" {
                @for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
                    line.axis x1=(left) x2=(width) y1=(pixels(y(tick))) y2=(pixels(y(tick))) {}
                    text x="8" y=(pixels(y(tick) + 4.0)) { (tick) }
                }
                polyline.curve points=(line.join(" ")) {}
                @for (k, map) in &points {
                    circle cx=(pixels(x(*k))) cy=(pixels(y(*map))) r="3.5" { title { "mAP@" (k) " " (format!("{map:.4}")) } }
                    @if CURVE_LABELS.contains(k) {
                        text x=(pixels(x(*k))) y=(height - 8.0) text-anchor="middle" { (k) }
                    }
                }
            }
        }
    }

    /// mAP of each label's queries, best and worst.
    fn classes(&self) -> Markup {
        let mut by_label: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        for answer in self.answers {
            let precision = self.precision(answer);
            for label in &self.task.query(answer.query).labels {
                by_label.entry(*label).or_default().push(precision);
            }
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let mut ranked: Vec<ClassMap> = by_label
            .into_iter()
            .map(|(label, values)| ClassMap { label, map: mean(&values), queries: values.len() })
            .collect();
        ranked.sort_by(|a, b| b.map.total_cmp(&a.map).then(a.label.cmp(&b.label)));
        let k = self.first_rank();
        html! {
            @if ranked.is_empty() {
            } @else if ranked.len() <= 2 * CLASSES {
                (self.class_bars(&format!("mAP@{k} by class"), &ranked))
            } @else {
                (self.class_bars(&format!("Best classes, mAP@{k}"), &ranked[..CLASSES]))
                (self.class_bars(&format!("Worst classes, mAP@{k}"), &ranked[ranked.len() - CLASSES..]))
            }
        }
    }

    fn class_bars(&self, title: &str, classes: &[ClassMap]) -> Markup {
        html! {
            h2 { (title) }
            div.wide {
                table.bars {
                    @for ClassMap { label, map, queries } in classes {
                        tr {
                            td { (self.task.set.labels[*label as usize]) }
                            td { div.bar style=(format!("width:{:.1}%", map * 100.0)) {} }
                            td { (format!("{map:.3}")) }
                            td { (queries) @if *queries == 1 { " query" } @else { " queries" } }
                        }
                    }
                }
            }
        }
    }

    /// The classes of irrelevant first answers.
    fn confusions(&self) -> Markup {
        let mut counts: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        let mut queries: BTreeMap<u32, usize> = BTreeMap::new();
        for answer in self.answers {
            let Some(label) = self.task.query(answer.query).labels.first() else { continue };
            *queries.entry(*label).or_default() += 1;
            let wrong = answer.top.first().filter(|first| !self.task.is_relevant(answer.query, **first));
            if let Some(other) = wrong.and_then(|video| self.task.labels(*video).first()) {
                *counts.entry((*label, *other)).or_default() += 1;
            }
        }
        let mut ranked: Vec<_> = counts.into_iter().collect();
        ranked.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        let name = |label: u32| &self.task.set.labels[label as usize];
        html! {
            @if !ranked.is_empty() {
                h2 { "Confusions" }
                p { "The class of the first answer if it is not relevant." }
                div.wide {
                    table {
                        tr { th { "class of the query" } th { "class of the answer" } th { "queries" } th { "of" } }
                        @for ((label, other), n) in ranked.into_iter().take(CONFUSIONS) {
                            tr { td { (name(label)) } td { (name(other)) } td { (n) } td { (queries[&label]) } }
                        }
                    }
                }
            }
        }
    }
}

/// mAP of the queries of one label.
struct ClassMap {
    label: u32,
    map: f64,
    queries: usize,
}

fn methods(table: &MethodTable) -> Markup {
    html! {
        h2 { "Methods" }
        div.wide {
            table {
                tr { @for header in table.headers() { th { (header) } } }
                @for row in &table.rows {
                    tr { @for cell in row.plain_cells() { td { (cell) } } }
                }
            }
        }
        p { (table.caption()) }
    }
}
