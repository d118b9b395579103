//! A table like the paper's Table 3: every method on one feature set and split, with the same evaluation.

mod render;

use std::time::Instant;

pub use render::amount;
use serde::{Serialize, Serializer};

use super::Error;
use super::methods::{self, FittedMethod, Method, TrainingContext};
use super::metrics::{self, Normaliser};
use super::ranking::Pooling;
use super::retrieval::RankedAnswer;
use super::summary::{MetricSummary, bootstrap};
use super::task::{Relevance, RetrievalTask};
use crate::features::Split;

/// Options of a table.
#[derive(Debug, Clone)]
pub struct TablePlan {
    /// Names of the methods in [`methods::all`]; empty for all methods that apply.
    pub methods: Vec<String>,
    /// Seeds of the methods that depend on a seed.
    pub seeds: Vec<u64>,
    /// Ranks of mAP@k.
    pub at: Vec<usize>,
    /// Divisor of average precision.
    pub normaliser: Normaliser,
    /// How a video's score is computed from its clips.
    pub pooling: Pooling,
}

impl Default for TablePlan {
    fn default() -> TablePlan {
        TablePlan {
            methods: Vec::new(),
            seeds: vec![1],
            at: vec![10, 20, 50, 100],
            normaliser: Normaliser::default(),
            pooling: Pooling::default(),
        }
    }
}

/// A row of the table: one method.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableRow {
    /// Name of the method in [`methods::all`].
    pub method: &'static str,
    /// [`Method::name`].
    pub name: &'static str,
    /// Lengths of the image and video features that enter the method ([`FittedMethod::lengths`]).
    pub lengths: (usize, usize),
    /// mAP@k, the mean over the seeds.
    #[serde(serialize_with = "by_rank")]
    pub map: Vec<(usize, f64)>,
    /// 95 % interval of mAP@k: bootstrap over the queries, with each query's average precision averaged over
    /// the seeds.
    #[serde(serialize_with = "by_rank")]
    pub interval: Vec<(usize, [f64; 2])>,
    /// mAP at the first rank for each seed; empty for a method without a seed.
    pub seeds: Vec<(u64, f64)>,
    /// Kept epoch for each seed, 0 for the closed-form start; empty for a method without epochs.
    pub epochs: Vec<usize>,
    /// Number of parameters of all maps.
    pub params: usize,
    /// Operations for one image and one video through all maps; a multiply-add counts as two.
    pub flops: usize,
    /// Seconds to fit the method, the mean over the seeds.
    pub train_seconds: f64,
    /// Seconds to embed queries and gallery, the mean over the seeds.
    pub embed_seconds: f64,
    /// The paper's mAP@10, 20, 50 and 100 of this method, if images are shorter than videos as in the paper.
    pub paper: Option<[f64; 4]>,
}

/// Serialises as `{"10": ..., "20": ...}`.
fn by_rank<S: Serializer, T: Serialize>(values: &[(usize, T)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().map(|(k, value)| (k.to_string(), value)))
}

/// The table of methods.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MethodTable {
    /// Divisor of average precision.
    pub normaliser: Normaliser,
    /// How a video's score is computed from its clips.
    pub pooling: String,
    /// Split of the queries and the gallery.
    pub split: Split,
    /// Criterion of relevance.
    pub relevant: Relevance,
    /// Number of sources that the split shares with the splits train and val.
    pub shared_sources: usize,
    /// Number of measured queries.
    pub queries: usize,
    /// Number of queries without a relevant video, which are left out.
    pub skipped_queries: usize,
    /// Number of videos in the gallery.
    pub gallery: usize,
    /// The rows.
    pub rows: Vec<TableRow>,
}

/// The paper's mAP@10, 20, 50 and 100 of a method, for images that are shorter than videos.
fn paper(method: &str, (image, video): (usize, usize)) -> Option<[f64; 4]> {
    Some(match method {
        _ if image >= video => return None,
        "cosine" => [0.235, 0.221, 0.213, 0.205],
        "gmf-image" => [0.349, 0.335, 0.323, 0.308],
        "gmf" => [0.355, 0.341, 0.327, 0.315],
        _ => return None,
    })
}

/// The method with the highest mAP at the first rank, and its answers with the first seed.
#[derive(Debug, Clone)]
pub struct BestMethod {
    /// Name of the method in [`methods::all`].
    pub method: &'static str,
    /// mAP at the first rank, the mean over the seeds.
    pub map: f64,
    /// Metrics of the answers.
    pub summary: MetricSummary,
    /// The answers.
    pub answers: Vec<RankedAnswer>,
}

/// Fits and measures every method of the plan. Returns the table and the best method.
///
/// # Errors
/// [`Error::UnknownMethod`]; [`Error::EmptyTable`] without methods or seeds; [`Error::Interrupted`] if
/// [`TrainingContext::stop`] returns true, which is checked between all steps; as [`Method::fit`].
pub fn make(
    task: &RetrievalTask<'_>,
    training: &TrainingContext<'_>,
    plan: &TablePlan,
) -> Result<(MethodTable, BestMethod), Error> {
    let mut chosen = methods::all();
    for name in &plan.methods {
        methods::by_name(name)?;
    }
    if plan.seeds.is_empty() {
        return Err(Error::EmptyTable { missing: "seeds" });
    }
    let (image, video) = (task.set.images.matrix.columns(), task.set.videos.matrix.columns());
    chosen.retain(|(name, method)| match plan.methods.is_empty() {
        true => method.applies(image, video),
        false => plan.methods.iter().any(|wanted| wanted == name),
    });
    let mut rows = Vec::new();
    let mut best: Option<BestMethod> = None;
    for (name, method) in chosen {
        let seeds = if method.is_seeded() { plan.seeds.as_slice() } else { &plan.seeds[..1] };
        let mut runs = Vec::new();
        for seed in seeds {
            training.check_stop()?;
            let seed_note = if method.is_seeded() { format!(", seed {seed}") } else { String::new() };
            (training.on_progress)(&format!("{name}{seed_note}"));
            runs.push(SeedRun::measure(task, training, plan, method.as_ref(), *seed)?);
        }
        let row = row(task, plan, (name, method.as_ref()), &runs);
        let map = row.map.first().map_or(0.0, |(_, map)| *map);
        rows.push(row);
        if best.as_ref().is_none_or(|best| map > best.map) {
            let SeedRun { summary, answers, .. } = runs.swap_remove(0);
            best = Some(BestMethod { method: name, map, summary, answers });
        }
    }
    let best = best.ok_or(Error::EmptyTable { missing: "methods" })?;
    let table = MethodTable {
        normaliser: plan.normaliser,
        pooling: plan.pooling.to_string(),
        split: task.split,
        relevant: task.relevance,
        shared_sources: task.shared_sources().len(),
        queries: best.answers.len(),
        skipped_queries: task.skipped(),
        gallery: task.videos.len(),
        rows,
    };
    Ok((table, best))
}

/// A method fitted and measured with one seed.
struct SeedRun {
    fitted: FittedMethod,
    summary: MetricSummary,
    answers: Vec<RankedAnswer>,
    train_seconds: f64,
    embed_seconds: f64,
}

impl SeedRun {
    fn measure(
        task: &RetrievalTask<'_>,
        training: &TrainingContext<'_>,
        plan: &TablePlan,
        method: &dyn Method,
        seed: u64,
    ) -> Result<SeedRun, Error> {
        let start = Instant::now();
        let fitted = method.fit(training, seed)?;
        let train_seconds = start.elapsed().as_secs_f64();
        training.check_stop()?;
        let start = Instant::now();
        task.embedded_queries(&fitted.maps)?;
        task.gallery(&fitted.maps, plan.pooling)?;
        let embed_seconds = start.elapsed().as_secs_f64();
        training.check_stop()?;
        let depth = plan.at.iter().copied().max().unwrap_or(0);
        let answers = task.answers(&fitted.maps, plan.pooling, depth)?;
        let Some(summary) = MetricSummary::new(&answers, &plan.at, plan.normaliser) else {
            task.check_relevant()?;
            unreachable!("a query with a relevant video has an answer")
        };
        Ok(SeedRun { fitted, summary, answers, train_seconds, embed_seconds })
    }
}

/// The row of a method from its runs, of which there is at least one.
fn row(
    task: &RetrievalTask<'_>,
    plan: &TablePlan,
    (name, method): (&'static str, &dyn Method),
    runs: &[SeedRun],
) -> TableRow {
    let mean = |of: &dyn Fn(&SeedRun) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    let interval = |k: &usize| {
        let precision =
            |query: usize| mean(&|run| metrics::average_precision(&run.answers[query].judged, *k, plan.normaliser));
        let precisions: Vec<f64> = (0..runs[0].answers.len()).map(precision).collect();
        bootstrap(&precisions, plan.seeds[0]).map(|(low, high)| (*k, [low, high]))
    };
    let first_map = |run: &SeedRun| run.summary.map.first().map_or(0.0, |(_, map)| *map);
    let seeds = plan.seeds.iter().filter(|_| method.is_seeded());
    let FittedMethod { lengths, parameters, flops, .. } = runs[0].fitted;
    TableRow {
        method: name,
        name: method.name(),
        lengths,
        map: plan.at.iter().enumerate().map(|(i, k)| (*k, mean(&|run| run.summary.map[i].1))).collect(),
        interval: plan.at.iter().filter_map(interval).collect(),
        seeds: seeds.zip(runs).map(|(seed, run)| (*seed, first_map(run))).collect(),
        epochs: runs.iter().filter_map(|run| run.fitted.epoch).collect(),
        params: parameters,
        flops,
        train_seconds: mean(&|run| run.train_seconds),
        embed_seconds: mean(&|run| run.embed_seconds),
        paper: paper(name, (task.set.images.matrix.columns(), task.set.videos.matrix.columns())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::base::seeded::Random;
    use crate::features::{FeatureMatrix, FeatureRow, FeatureSet, FeatureTable};
    use crate::gmf::{TrainOptions, TrainingData};

    /// Images of length 3 and videos of length 5 around the means of 4 classes: 40 rows of train, 20 of val,
    /// 20 of test.
    fn set() -> FeatureSet {
        let mut random = Random::new(3, "table");
        let mut table = |length: usize, name: &str| {
            let means: Vec<f32> = (0..4 * length).map(|_| random.between(-1.0, 1.0)).collect();
            let row = |i: usize| {
                let split = [Split::Train, Split::Train, Split::Val, Split::Test][i / 20];
                FeatureRow { labels: vec![i as u32 % 4], ..FeatureRow::new(format!("{name}{i}"), split) }
            };
            let values =
                (0..80 * length).map(|at| means[at / length % 4 * length + at % length] + random.between(-0.7, 0.7));
            FeatureTable { matrix: FeatureMatrix::new(values.collect(), length), rows: (0..80).map(row).collect() }
        };
        FeatureSet {
            images: table(3, "i"),
            videos: table(5, "v"),
            labels: (0..4).map(|i| format!("class {i}")).collect(),
        }
    }

    fn plan(methods: &[&str], seeds: &[u64]) -> TablePlan {
        TablePlan {
            methods: methods.iter().map(|name| (*name).to_owned()).collect(),
            seeds: seeds.to_vec(),
            at: vec![10, 20],
            normaliser: Normaliser::All,
            pooling: Pooling::Best,
        }
    }

    #[test]
    fn stops_at_every_check() {
        let set = set();
        let task = RetrievalTask::new(&set, Split::Test).unwrap();
        let run = |after: usize| {
            let checks = AtomicUsize::new(0);
            let stop = || checks.fetch_add(1, Ordering::Relaxed) >= after;
            let data = TrainingData::new(&set, 0.1, 1).unwrap();
            let training = TrainingContext {
                set: &set,
                data,
                options: TrainOptions::default(),
                stop: &stop,
                on_progress: &|_| {},
            };
            let result = make(&task, &training, &plan(&["cosine", "ridge", "cca"], &[1]));
            (result, checks.load(Ordering::Relaxed))
        };
        let (result, times) = run(usize::MAX);
        result.unwrap();
        // Three checks per method, and one before each of five ridges of two methods.
        assert_eq!(times, 3 * 3 + 2 * 5);
        for after in 0..times {
            assert!(matches!(run(after).0, Err(Error::Interrupted)), "{after}");
        }
    }

    #[test]
    fn the_best_method_has_the_highest_mean_and_only_seeded_methods_have_seeds() {
        let set = set();
        let task = RetrievalTask::new(&set, Split::Test).unwrap();
        let data = TrainingData::new(&set, 0.1, 1).unwrap();
        let options = TrainOptions { epochs: 2, rate: 0.05, batch: 8, ..TrainOptions::default() };
        let training = TrainingContext::new(data, options);
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
}
