//! The paper's Table 3 with our rows: every method on one feature set and split, by the same evaluation.

use serde::{Serialize, Serializer};

use super::methods::{self, Lengths, Training};
use super::metrics::{self, Normaliser};
use super::ranking::Pooling;
use super::retrieval::{Answer, Error, Summary, Task, bootstrap};

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
    /// Lengths of image and video features that enter it.
    pub lengths: (usize, usize),
    /// mAP@k, the mean over the seeds.
    #[serde(serialize_with = "by_rank")]
    pub map: Vec<(usize, f64)>,
    /// Its 95 % interval: bootstrap over the queries, of each query's mean over the seeds.
    #[serde(serialize_with = "by_rank")]
    pub interval: Vec<(usize, [f64; 2])>,
    /// mAP at the first rank for each seed.
    pub seeds: Vec<(u64, f64)>,
    /// Parameters.
    pub params: usize,
    /// Operations for one image and one video.
    pub flops: usize,
    /// Seconds to fit it, the mean over the seeds.
    pub train_seconds: f64,
    /// Seconds to embed queries and gallery.
    pub embed_seconds: f64,
    /// mAP@10, 20, 50 and 100 of that row in the paper, if it has one.
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

/// What the paper's Table 3 says of a method of ours.
fn paper(method: &str) -> Option<[f64; 4]> {
    Some(match method {
        "cosine" => [0.235, 0.221, 0.213, 0.205],
        "gmf-image" => [0.349, 0.335, 0.323, 0.308],
        "gmf" => [0.355, 0.341, 0.327, 0.315],
        _ => return None,
    })
}

/// The answers of the method with the highest mAP at the first rank, of its first seed.
#[derive(Debug, Clone)]
pub struct Best {
    /// As `--method` takes it.
    pub method: &'static str,
    /// What its answers are worth.
    pub summary: Summary,
    /// Its answers.
    pub answers: Vec<Answer>,
}

/// Fits and measures every method. Gives the answers of the best one too, to look at.
///
/// # Errors
/// [`Error::Data`] for a method that there is not; as [`methods::Method::fit`].
pub fn make(task: &Task<'_>, training: &Training<'_>, plan: &Plan) -> Result<(Table, Best), Error> {
    let mut chosen = methods::all();
    if let Some(unknown) = plan.methods.iter().find(|name| !chosen.iter().any(|(known, _)| known == name)) {
        let known: Vec<&str> = chosen.iter().map(|(name, _)| *name).collect();
        return Err(Error::Data(format!("there is no method {unknown}; there are {}", known.join(", "))));
    }
    let one_length = task.set.images.matrix.columns() == task.set.videos.matrix.columns();
    chosen.retain(|(name, method)| match plan.methods.is_empty() {
        // Where both have one length, mapping to it changes nothing: the same method would stand there twice.
        true => !one_length || method.lengths() == Lengths::Both || matches!(*name, "cosine" | "ridge" | "ridge-image"),
        false => plan.methods.iter().any(|wanted| wanted == name),
    });
    let depth = plan.at.iter().copied().max().unwrap_or(0);
    let mut rows = Vec::new();
    let mut best: Option<(f64, Best)> = None;
    for (key, method) in chosen {
        let seeds = if method.is_seeded() { plan.seeds.as_slice() } else { &plan.seeds[..1] };
        let (mut by_query, mut train_seconds, mut embed_seconds) = (Vec::new(), 0.0, 0.0);
        let (mut maps, mut params, mut flops) = (Vec::new(), 0, 0);
        for seed in seeds {
            (training.tell)(&format!(
                "{key}{}",
                if method.is_seeded() { format!(", seed {seed}") } else { String::new() }
            ));
            let run = methods::run(method.as_ref(), training, *seed)?;
            train_seconds += run.seconds / seeds.len() as f64;
            (params, flops) = (run.fitted.parameters, run.fitted.flops);
            let start = std::time::Instant::now();
            task.embedded_queries(&run.fitted.maps)?;
            task.gallery(&run.fitted.maps, plan.pooling)?;
            embed_seconds += start.elapsed().as_secs_f64() / seeds.len() as f64;
            let answers = task.answers(&run.fitted.maps, plan.pooling, depth)?;
            let summary = Summary::new(&answers, &plan.at, plan.normaliser);
            let summary = summary.ok_or_else(|| Error::Data("no query has a relevant video".to_owned()))?;
            let first = summary.map.first().map_or(0.0, |(_, map)| *map);
            maps.push((*seed, summary.map.clone()));
            // By k, each query's average precision.
            let each = |k: usize| -> Vec<f64> {
                answers.iter().map(|a| metrics::average_precision(&a.judged, k, plan.normaliser)).collect()
            };
            by_query.push(plan.at.iter().map(|k| each(*k)).collect::<Vec<_>>());
            if *seed == seeds[0] && best.as_ref().is_none_or(|(highest, _)| first > *highest) {
                best = Some((first, Best { method: key, summary, answers }));
            }
        }
        let n = seeds.len() as f64;
        let map = plan.at.iter().enumerate().map(|(i, k)| (*k, maps.iter().map(|(_, map)| map[i].1).sum::<f64>() / n));
        let interval = plan.at.iter().enumerate().filter_map(|(i, k)| {
            let queries = by_query[0][i].len();
            let means: Vec<f64> =
                (0..queries).map(|q| by_query.iter().map(|seed| seed[i][q]).sum::<f64>() / n).collect();
            let (low, high) = bootstrap(&means, plan.seeds[0])?;
            Some((*k, [low, high]))
        });
        let (image, video) = (task.set.images.matrix.columns(), task.set.videos.matrix.columns());
        let lengths = match method.lengths() {
            Lengths::Both => (image, video),
            Lengths::Image => (image, image),
            Lengths::Video => (video, video),
        };
        rows.push(Row {
            method: key,
            name: method.name(),
            lengths,
            map: map.collect(),
            interval: interval.collect(),
            seeds: maps.iter().map(|(seed, map)| (*seed, map.first().map_or(0.0, |(_, map)| *map))).collect(),
            params,
            flops,
            train_seconds,
            embed_seconds,
            paper: paper(key),
        });
    }
    let (_, best) = best.ok_or_else(|| Error::Data("no method was measured".to_owned()))?;
    let table = Table {
        normaliser: plan.normaliser,
        pooling: plan.pooling.to_string(),
        queries: task.queries.len() - task.skipped(),
        skipped_queries: task.skipped(),
        gallery: task.videos.len(),
        rows,
    };
    Ok((table, best))
}

fn million(n: usize) -> String {
    if n == 0 { "-".to_owned() } else { format!("{:.2} M", n as f64 / 1e6) }
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

    fn normaliser(&self) -> &'static str {
        match self.normaliser {
            Normaliser::Hits => "hits",
            Normaliser::Min => "min",
            Normaliser::All => "all",
        }
    }

    /// What the numbers are, in one sentence.
    fn caption(&self) -> String {
        format!(
            "mAP@k with normaliser {}, clips pooled by {}; {} queries ({} without a relevant video left out) against {} videos; intervals of 95 % by bootstrap over queries; \
             FLOPs of one image and one video; cosine is that after least squares of videos on images; the paper's numbers are on its own features and split.",
            self.normaliser(),
            self.pooling,
            self.queries,
            self.skipped_queries,
            self.gallery
        )
    }

    /// Cells of a row, without the bounds of intervals.
    fn cells(&self, row: &Row, interval: impl Fn(f64, f64, f64) -> String) -> Vec<String> {
        let mut cells = vec![row.name.to_owned(), lengths(row)];
        for (i, (_, map)) in row.map.iter().enumerate() {
            let (low, high) = row.interval.get(i).map_or((*map, *map), |(_, [low, high])| (*low, *high));
            cells.push(interval(*map, low, high));
        }
        cells.push(row.paper.map_or("-".to_owned(), |paper| paper.map(|x| format!("{x:.3}")).join(" / ")));
        cells.extend([million(row.params), format!("{:.3} G", row.flops as f64 / 1e9)]);
        cells.extend([format!("{:.1} s", row.train_seconds), format!("{:.2} s", row.embed_seconds)]);
        cells.push(row.seeds.len().to_string());
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
