//! The paper's Table 3 with our rows: every method on one feature set and split, by the same evaluation.

use serde::{Serialize, Serializer};

use super::methods::{self, Training};
use super::metrics::{self, Normaliser};
use super::ranking::Pooling;
use super::retrieval::{Answer, Error, Relevance, Task};
use super::summary::{Summary, bootstrap};
use crate::features::Split;

/// How the table is made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Methods, by the names of [`methods::all`]; all if empty.
    pub methods: Vec<String>,
    /// Seeds of the methods that have one.
    pub seeds: Vec<u64>,
    /// Ranks.
    pub at: Vec<usize>,
    /// Of average precision.
    pub normaliser: Normaliser,
    /// Of clips.
    pub pooling: Pooling,
}

/// A row: one method.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// As `--method` takes it.
    pub method: &'static str,
    /// For people.
    pub name: &'static str,
    /// Lengths of image and video features as they entered it ([`methods::Fitted::lengths`]).
    pub lengths: (usize, usize),
    /// mAP@k, the mean over the seeds.
    #[serde(serialize_with = "by_rank")]
    pub map: Vec<(usize, f64)>,
    /// Its 95 % interval: bootstrap over the queries, of each query's mean over the seeds.
    #[serde(serialize_with = "by_rank")]
    pub interval: Vec<(usize, [f64; 2])>,
    /// mAP at the first rank for each seed; empty if the method has none.
    pub seeds: Vec<(u64, f64)>,
    /// The epoch that was kept for each seed, 0 the closed-form start; empty if the method has none.
    pub epochs: Vec<usize>,
    /// Parameters of all that maps features.
    pub params: usize,
    /// Operations for one image and one video through all of it, a multiply-add as two.
    pub flops: usize,
    /// Seconds to fit it, the mean over the seeds.
    pub train_seconds: f64,
    /// Seconds to embed queries and gallery.
    pub embed_seconds: f64,
    /// mAP@10, 20, 50 and 100 of that row in the paper, if it has one: where, as there, images are shorter than videos.
    pub paper: Option<[f64; 4]>,
}

/// `{"10": ..., "20": ...}`.
fn by_rank<S: Serializer, T: Serialize>(values: &[(usize, T)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().map(|(k, value)| (k.to_string(), value)))
}

/// The table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// The normaliser of average precision.
    pub normaliser: Normaliser,
    /// How clips' scores became their video's.
    pub pooling: String,
    /// The rows that were asked, and searched among.
    pub split: Split,
    /// What made a video relevant.
    pub relevant: Relevance,
    /// Videos of the split that rows of the splits train or val come from too.
    pub shared_sources: usize,
    /// Queries asked.
    pub queries: usize,
    /// Queries left out, since nothing is relevant to them.
    pub skipped_queries: usize,
    /// Videos searched among.
    pub gallery: usize,
    /// The rows.
    pub rows: Vec<Row>,
}

/// The ranks of the paper's columns.
const PAPER_AT: [usize; 4] = [10, 20, 50, 100];

/// What the paper's Table 3 says of a method of ours, where images are shorter than videos, as there.
fn paper(method: &str, (image, video): (usize, usize)) -> Option<[f64; 4]> {
    Some(match method {
        _ if image >= video => return None,
        "cosine" => [0.235, 0.221, 0.213, 0.205],
        "gmf-image" => [0.349, 0.335, 0.323, 0.308],
        "gmf" => [0.355, 0.341, 0.327, 0.315],
        _ => return None,
    })
}

/// The answers of the method with the highest mAP at the first rank, meaned over the seeds: those of its first seed.
#[derive(Debug, Clone)]
pub struct Best {
    /// As `--method` takes it.
    pub method: &'static str,
    /// Its mAP at the first rank, meaned over the seeds.
    pub map: f64,
    /// What the answers are worth.
    pub summary: Summary,
    /// The answers.
    pub answers: Vec<Answer>,
}

/// Fits and measures every method. Gives the answers of the best one too, to look at.
///
/// # Errors
/// [`Error::Data`] for a method that there is not; [`Error::Interrupted`] if [`Training::stop`] says so, which is asked between all steps; as
/// [`methods::Method::fit`].
pub fn make(task: &Task<'_>, training: &Training<'_>, plan: &Plan) -> Result<(Table, Best), Error> {
    let mut chosen = methods::all();
    for name in &plan.methods {
        methods::named(name)?;
    }
    let (image, video) = (task.set.images.matrix.columns(), task.set.videos.matrix.columns());
    chosen.retain(|(name, method)| match plan.methods.is_empty() {
        true => method.applies(image, video),
        false => plan.methods.iter().any(|wanted| wanted == name),
    });
    let mut rows = Vec::new();
    let mut best: Option<Best> = None;
    for (key, method) in chosen {
        let (row, summary, answers) = measure(task, training, plan, (key, method.as_ref()))?;
        let map = row.map.first().map_or(0.0, |(_, map)| *map);
        rows.push(row);
        if best.as_ref().is_none_or(|best| map > best.map) {
            best = Some(Best { method: key, map, summary, answers });
        }
    }
    let best = best.ok_or_else(|| Error::Data("no method was measured".to_owned()))?;
    let table = Table {
        normaliser: plan.normaliser,
        pooling: plan.pooling.to_string(),
        split: task.split,
        relevant: task.relevance,
        shared_sources: task.shared_sources().len(),
        queries: task.queries.len() - task.skipped(),
        skipped_queries: task.skipped(),
        gallery: task.videos.len(),
        rows,
    };
    Ok((table, best))
}

/// The row of one method, and what it answers with the first seed.
fn measure(
    task: &Task<'_>,
    training: &Training<'_>,
    plan: &Plan,
    (key, method): (&'static str, &dyn methods::Method),
) -> Result<(Row, Summary, Vec<Answer>), Error> {
    let depth = plan.at.iter().copied().max().unwrap_or(0);
    let seeds = if method.is_seeded() { plan.seeds.as_slice() } else { &plan.seeds[..1] };
    let n = seeds.len() as f64;
    let (mut by_query, mut maps, mut epochs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut train_seconds, mut embed_seconds) = (0.0, 0.0);
    let mut first = None;
    for seed in seeds {
        training.go_on()?;
        let of = if method.is_seeded() { format!(", seed {seed}") } else { String::new() };
        (training.tell)(&format!("{key}{of}"));
        let run = methods::run(method, training, *seed)?;
        train_seconds += run.seconds / n;
        epochs.extend(run.fitted.epoch);
        training.go_on()?;
        let start = std::time::Instant::now();
        task.embedded_queries(&run.fitted.maps)?;
        task.gallery(&run.fitted.maps, plan.pooling)?;
        embed_seconds += start.elapsed().as_secs_f64() / n;
        training.go_on()?;
        let answers = task.answers(&run.fitted.maps, plan.pooling, depth)?;
        let summary = Summary::new(&answers, &plan.at, plan.normaliser);
        let summary = summary.ok_or_else(|| Error::Data("no query has a relevant video".to_owned()))?;
        maps.push(summary.map.clone());
        // By k, each query's average precision.
        let each = |k: usize| -> Vec<f64> {
            answers.iter().map(|a| metrics::average_precision(&a.judged, k, plan.normaliser)).collect()
        };
        by_query.push(plan.at.iter().map(|k| each(*k)).collect::<Vec<_>>());
        first.get_or_insert((run.fitted, summary, answers));
    }
    let (fitted, summary, answers) = first.ok_or_else(|| Error::Data("no seed was given".to_owned()))?;
    let map = plan.at.iter().enumerate().map(|(i, k)| (*k, maps.iter().map(|map| map[i].1).sum::<f64>() / n));
    let interval = plan.at.iter().enumerate().filter_map(|(i, k)| {
        let queries = by_query[0][i].len();
        let means: Vec<f64> = (0..queries).map(|q| by_query.iter().map(|seed| seed[i][q]).sum::<f64>() / n).collect();
        let (low, high) = bootstrap(&means, plan.seeds[0])?;
        Some((*k, [low, high]))
    });
    let seeded = seeds.iter().zip(&maps).filter(|_| method.is_seeded());
    let row = Row {
        method: key,
        name: method.name(),
        lengths: fitted.lengths,
        map: map.collect(),
        interval: interval.collect(),
        seeds: seeded.map(|(seed, map)| (*seed, map.first().map_or(0.0, |(_, map)| *map))).collect(),
        epochs,
        params: fitted.parameters,
        flops: fitted.flops,
        train_seconds,
        embed_seconds,
        paper: paper(key, (task.set.images.matrix.columns(), task.set.videos.matrix.columns())),
    };
    Ok((row, summary, answers))
}

/// A number of three digits or so, with the letter of its size.
pub fn amount(n: usize) -> String {
    match n {
        1_000_000_000.. => format!("{:.2} G", n as f64 / 1e9),
        1_000_000.. => format!("{:.2} M", n as f64 / 1e6),
        1000.. => format!("{:.2} k", n as f64 / 1e3),
        _ => n.to_string(),
    }
}

fn lengths(row: &Row) -> String {
    if row.lengths.0 == row.lengths.1 {
        row.lengths.0.to_string()
    } else {
        format!("{}-{}", row.lengths.0, row.lengths.1)
    }
}

impl Table {
    fn heads(&self) -> Vec<String> {
        self.rows.first().map_or(Vec::new(), |row| row.map.iter().map(|(k, _)| format!("mAP@{k}")).collect())
    }

    /// What the numbers are.
    fn caption(&self) -> String {
        let has = |what: &dyn Fn(&Row) -> bool| self.rows.iter().any(what);
        let mut said = vec![
            format!("mAP@k with normaliser {}, clips pooled by {}", self.normaliser, self.pooling),
            format!(
                "split {}, relevant is {}; {} queries ({} without a relevant video left out) against {} videos",
                self.split, self.relevant, self.queries, self.skipped_queries, self.gallery
            ),
        ];
        if self.split != Split::Test {
            said.push(format!(
                "the methods were fitted with the help of the split {}, which flatters them",
                self.split
            ));
        }
        if self.shared_sources > 0 {
            said.push(format!("{} videos of the split are among those that were learned from", self.shared_sources));
        }
        said.push("intervals of 95 % by bootstrap over queries".to_owned());
        said.push("params and FLOPs, of one image and one video, with what maps features to other lengths".to_owned());
        if has(&|row| row.method == "cosine") {
            said.push(match has(&|row| row.method == "cosine" && row.flops > 0) {
                true => "cosine is that after least squares of videos on images, about the training mean".to_owned(),
                false => "cosine is that of the features as they are".to_owned(),
            });
        }
        if has(&|row| !row.epochs.is_empty()) {
            let kept = self.rows.iter().filter(|row| !row.epochs.is_empty()).map(|row| {
                let epochs: Vec<String> = row.epochs.iter().map(usize::to_string).collect();
                format!("{} {}", row.method, epochs.join("/"))
            });
            let kept: Vec<String> = kept.collect();
            said.push(format!(
                "GMF starts from a closed form (epoch 0), and the epoch best in validation is kept: {}",
                kept.join(", ")
            ));
        }
        if has(&|row| row.paper.is_some()) {
            said.push("the paper's numbers are on its own features and split".to_owned());
        }
        said.join("; ") + "."
    }

    /// Cells of a row, without the bounds of intervals.
    fn cells(&self, row: &Row, interval: impl Fn(f64, f64, f64) -> String) -> Vec<String> {
        let mut cells = vec![row.name.to_owned(), lengths(row)];
        for (i, (_, map)) in row.map.iter().enumerate() {
            let (low, high) = row.interval.get(i).map_or((*map, *map), |(_, [low, high])| (*low, *high));
            cells.push(interval(*map, low, high));
        }
        cells.push(row.paper.map_or("-".to_owned(), |paper| paper.map(|x| format!("{x:.3}")).join(" / ")));
        cells.extend([amount(row.params), amount(row.flops)]);
        cells.extend([format!("{:.1} s", row.train_seconds), format!("{:.2} s", row.embed_seconds)]);
        cells.push(if row.seeds.is_empty() { "-".to_owned() } else { row.seeds.len().to_string() });
        cells
    }

    fn all_heads(&self) -> Vec<String> {
        let mut heads = vec!["method".to_owned(), "lengths".to_owned()];
        heads.extend(self.heads());
        heads.push(format!("paper's mAP@{}", PAPER_AT.map(|k| k.to_string()).join("/")));
        heads.extend(["params", "FLOPs", "training", "embedding", "seeds"].map(str::to_owned));
        heads
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let heads = self.all_heads();
        let mut out = line(&heads) + &line(&vec!["---".to_owned(); heads.len()]);
        for row in &self.rows {
            out += &line(&self.cells(row, |map, low, high| format!("{map:.3} [{low:.3}, {high:.3}]")));
        }
        out + "\n" + &self.caption() + "\n"
    }

    /// As LaTeX, for the package booktabs.
    pub fn latex(&self) -> String {
        let line = |cells: &[String]| format!("{} \\\\\n", cells.join(" & ").replace('%', "\\%"));
        let heads = self.all_heads();
        let mut out = format!("\\begin{{tabular}}{{ll{}}}\n\\toprule\n", "r".repeat(heads.len() - 2));
        out += &(line(&heads) + "\\midrule\n");
        for row in &self.rows {
            out += &line(&self.cells(row, |map, low, high| format!("{map:.3} {{\\scriptsize [{low:.3}, {high:.3}]}}")));
        }
        out + "\\bottomrule\n\\end{tabular}\n% " + &self.caption() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::base::seeded::Random;
    use crate::features::{self, Matrix, Set};
    use crate::gmf::{Data, Options};

    /// Images (3 numbers) and videos (5) about the means of 4 classes: 40 to learn from, 20 of val, 20 of test.
    fn set() -> Set {
        let mut random = Random::new(3, "table");
        let mut table = |length: usize, name: &str| {
            let means: Vec<f32> = (0..4 * length).map(|_| random.between(-1.0, 1.0)).collect();
            let row = |i: usize| features::Row {
                id: format!("{name}{i}"),
                labels: vec![i as u32 % 4],
                split: [Split::Train, Split::Train, Split::Val, Split::Test][i / 20],
                video: None,
                moment: None,
                span_s: None,
            };
            let values =
                (0..80 * length).map(|at| means[at / length % 4 * length + at % length] + random.between(-0.7, 0.7));
            features::Table { matrix: Matrix::new(values.collect(), length), rows: (0..80).map(row).collect() }
        };
        Set { images: table(3, "i"), videos: table(5, "v"), labels: (0..4).map(|i| format!("class {i}")).collect() }
    }

    fn plan(methods: &[&str], seeds: &[u64]) -> Plan {
        Plan {
            methods: methods.iter().map(|name| (*name).to_owned()).collect(),
            seeds: seeds.to_vec(),
            at: vec![10, 20],
            normaliser: Normaliser::All,
            pooling: Pooling::Best,
        }
    }

    #[test]
    fn whenever_it_is_asked_to_it_stops() {
        let set = set();
        let task = Task::new(&set, Split::Test).unwrap();
        let run = |after: usize| {
            let asked = AtomicUsize::new(0);
            let stop = || asked.fetch_add(1, Ordering::Relaxed) >= after;
            let data = Data::new(&set, 0.1, 1).unwrap();
            let training = Training { set: &set, data, options: Options::default(), stop: &stop, tell: &|_| {} };
            let made = make(&task, &training, &plan(&["cosine", "ridge", "cca"], &[1]));
            (made, asked.load(Ordering::Relaxed))
        };
        let (made, times) = run(usize::MAX);
        made.unwrap();
        // Three times a method, and before each of five ridges of two of them.
        assert_eq!(times, 3 * 3 + 2 * 5);
        for after in 0..times {
            assert!(matches!(run(after).0, Err(Error::Interrupted)), "{after}");
        }
    }

    #[test]
    fn the_best_is_that_of_the_highest_mean_and_seeds_are_of_seeded_methods() {
        let set = set();
        let task = Task::new(&set, Split::Test).unwrap();
        let data = Data::new(&set, 0.1, 1).unwrap();
        let options = Options { epochs: 2, rate: 0.05, batch: 8, ..Options::default() };
        let training = Training { set: &set, data, options, stop: &|| false, tell: &|_| {} };
        let (table, best) = make(&task, &training, &plan(&["ridge", "gmf-image", "gmf"], &[5, 6])).unwrap();
        let maps: Vec<f64> = table.rows.iter().map(|row| row.map[0].1).collect();
        assert_eq!(best.map, maps.iter().copied().fold(0.0, f64::max), "{maps:?}");
        for row in &table.rows {
            let seeds: Vec<u64> = row.seeds.iter().map(|(seed, _)| *seed).collect();
            if row.method == "ridge" {
                assert!(seeds.is_empty() && row.epochs.is_empty());
            } else {
                let mean = row.seeds.iter().map(|(_, map)| map).sum::<f64>() / 2.0;
                assert!(seeds == [5, 6] && (mean - row.map[0].1).abs() < 1e-12);
            }
        }
        let markdown = table.markdown();
        assert!(markdown.contains("GMF starts from a closed form") && !markdown.contains("0.00 M"), "{markdown}");
    }

    #[test]
    fn amounts_keep_their_size() {
        assert_eq!(
            [0, 999, 1234, 329_472, 119_202_816, 238_000_000_000].map(amount),
            ["0", "999", "1.23 k", "329.47 k", "119.20 M", "238.00 G"]
        );
    }
}
