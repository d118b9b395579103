//! Whole runs on a small synthetic set.

use std::cell::Cell;

use super::super::options::PlateauSchedule;
use super::*;
use crate::base::seeded::Random;
use crate::features::{FeatureMatrix, FeatureRow, FeatureSet, FeatureTable, Split};
use crate::gmf::config::Modality;

/// 6 classes of images (5 numbers) and videos (9 numbers) around class means, with splits.
fn set() -> FeatureSet {
    set_of(5, 9)
}

fn set_of(image: usize, video: usize) -> FeatureSet {
    let mut random = Random::new(4, "set");
    let mut table = |length: usize, name: &str| {
        let means: Vec<Vec<f32>> = (0..6).map(|_| (0..length).map(|_| random.between(-1.0, 1.0)).collect()).collect();
        let (mut values, mut rows) = (Vec::new(), Vec::new());
        for i in 0..90usize {
            let class = i % 6;
            values.extend(means[class].iter().map(|m| m + random.between(-0.2, 0.2)));
            let split = if i < 66 { Split::Train } else { Split::Val };
            rows.push(FeatureRow { labels: vec![class as u32], ..FeatureRow::new(format!("{name}{i}"), split) });
        }
        FeatureTable { matrix: FeatureMatrix::new(values, length), rows }
    };
    FeatureSet {
        images: table(image, "i"),
        videos: table(video, "v"),
        labels: (0..6).map(|i| format!("class {i}")).collect(),
    }
}

struct RunFixture {
    dir: tempfile::TempDir,
    set: FeatureSet,
    options: TrainOptions,
    encoder: &'static str,
    held_out: f32,
}

impl RunFixture {
    fn new() -> RunFixture {
        RunFixture::of(5, 9)
    }

    fn of(image: usize, video: usize) -> RunFixture {
        let options = TrainOptions { epochs: 4, batch: 16, rate: 0.01, ..TrainOptions::default() };
        RunFixture {
            dir: tempfile::tempdir().unwrap(),
            set: set_of(image, video),
            options,
            encoder: "test/1",
            held_out: 0.1,
        }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.safetensors"))
    }

    /// Trains; `stop` returns true after `stop_after` steps.
    fn run(&self, name: &str, resume: bool, stop_after: usize) -> Result<TrainOutcome, TrainError> {
        self.run_from(name, resume, stop_after, None)
    }

    fn run_from(
        &self,
        name: &str,
        resume: bool,
        stop_after: usize,
        start: Option<GmfWeights>,
    ) -> Result<TrainOutcome, TrainError> {
        let data = TrainingData::new(&self.set, self.held_out, 1).unwrap();
        let modality = |name: &str, length| Modality { name: name.to_owned(), length };
        let lengths = (self.set.images.matrix.columns(), self.set.videos.matrix.columns());
        let config = GmfConfig::new(vec![modality("image", lengths.0), modality("video", lengths.1)], 4, 0.5).unwrap();
        let steps = Cell::new(0);
        let run = TrainingRun {
            data: &data,
            config: &config,
            start,
            options: &self.options,
            resume,
            encoder: self.encoder,
            projection: None,
            record: serde_json::json!({}),
            out: &self.out(name),
        };
        // The share of validation images whose best video is of their class.
        let mut validate = |maps: &Folded| {
            let read = |table: &FeatureTable, i: u32| {
                let mut row = vec![0f32; table.matrix.columns()];
                table.matrix.read(i as usize, &mut row).map(|()| row)
            };
            let mut correct = 0;
            for q in &data.queries {
                let query = maps.embed_image(&read(&self.set.images, *q).unwrap()).unwrap();
                let score = |v: &u32| {
                    let row = maps.embed_video(&read(&self.set.videos, *v).unwrap()).unwrap();
                    row.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>()
                };
                let best = data.gallery.iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
                correct += usize::from(data.is_match(*q, *best));
            }
            Ok(correct as f64 / data.queries.len() as f64)
        };
        train(run, &mut validate, &|| steps.get() >= stop_after, &mut |p| {
            if matches!(p, TrainProgress::Step { .. }) {
                steps.set(steps.get() + 1);
            }
        })
    }

    fn bytes(&self, name: &str) -> [Vec<u8>; 3] {
        let out = self.out(name);
        [out.clone(), out.with_extension("csv"), out.with_extension("svg")].map(|p| std::fs::read(p).unwrap())
    }
}

#[test]
fn learns_and_keeps_the_best_epoch() {
    let mut fixture = RunFixture::new();
    fixture.options.epochs = 12;
    let TrainOutcome::Finished { epoch, map10 } = fixture.run("a", false, usize::MAX).unwrap() else {
        panic!("stopped")
    };
    assert!(map10.unwrap() > 0.9, "{map10:?}");
    let (weights, record) = GmfWeights::open(&fixture.out("a")).unwrap();
    assert_eq!(record.training["epoch"], epoch);
    assert_eq!(record.training["options"]["objective"]["task"]["contrastive"]["temperature"], 0.07);
    assert_eq!(weights.config().parameters(), record_parameters(&record));
    assert!(!fixture.dir.path().join("a.safetensors.resume").exists());
    let csv = String::from_utf8(fixture.bytes("a")[1].clone()).unwrap();
    assert_eq!(csv.lines().filter(|l| !l.ends_with(',')).count(), 1 + 12, "{csv}");
}

fn record_parameters(record: &CheckpointRecord) -> usize {
    GmfConfig::new(record.modalities.clone(), record.multiple, record.boundary).unwrap().parameters()
}

#[test]
fn a_resumed_run_gives_the_same_bytes_wherever_it_was_stopped() {
    let fixture = RunFixture::new();
    fixture.run("whole", false, usize::MAX).unwrap();
    // An epoch has 5 steps. Stops before the first step, within an epoch, at its end, in the last epoch, and
    // twice.
    for stops in [vec![0], vec![3], vec![5], vec![17], vec![2, 9]] {
        let name = format!("{stops:?}");
        for (i, stop) in stops.iter().enumerate() {
            assert_eq!(fixture.run(&name, i > 0, *stop).unwrap(), TrainOutcome::Interrupted, "{name}");
        }
        fixture.run(&name, true, usize::MAX).unwrap();
        assert_eq!(fixture.bytes(&name), fixture.bytes("whole"), "{name}");
    }
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    // Large enough that products are split into panels.
    let mut fixture = RunFixture::of(40, 150);
    fixture.options.batch = 33;
    fixture.options.rate = 0.001;
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fixture.run(&threads.to_string(), false, usize::MAX)).unwrap();
        assert_eq!(fixture.bytes(&threads.to_string()), fixture.bytes("1"));
    }
}

#[test]
fn another_seed_gives_another_model() {
    let mut fixture = RunFixture::new();
    fixture.run("1", false, usize::MAX).unwrap();
    fixture.options.seed = 2;
    fixture.run("2", false, usize::MAX).unwrap();
    assert_ne!(fixture.bytes("1")[0], fixture.bytes("2")[0]);
}

#[test]
fn does_not_resume_with_other_options_or_data() {
    let mut fixture = RunFixture::new();
    fixture.run("a", false, 7).unwrap();
    fixture.options.rate = 0.5;
    let error = fixture.run("a", true, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("rate") && error.contains("0.01") && error.contains("0.5"), "{error}");
    fixture.options.rate = 0.01;
    fixture.set.images.rows[0].labels = vec![5];
    let error = fixture.run("a", true, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("data"), "{error}");
    fixture.set.images.rows[0].labels = vec![0];
    std::fs::remove_file(fixture.out("a")).unwrap();
    let error = fixture.run("a", true, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("is gone"), "{error}");
}

#[test]
fn divergence_keeps_the_last_good_checkpoint() {
    let mut fixture = RunFixture::new();
    fixture.options.rate = 1e4;
    let config = GmfConfig::image_video(5, 9).unwrap();
    let start = GmfWeights::random(&config, 7);
    let error = fixture.run_from("a", false, usize::MAX, Some(start.clone())).unwrap_err().to_string();
    assert!(error.contains("diverged") && error.contains("checkpoint of epoch 0 is kept"), "{error}");
    assert_eq!(GmfWeights::open(&fixture.out("a")).unwrap().0, start);
    let error = fixture.run("b", false, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("no checkpoint is written"), "{error}");
    assert!(!fixture.out("b").exists());
}

#[test]
fn names_options_out_of_range() {
    let mut fixture = RunFixture::new();
    fixture.options.momentum = 1.0;
    let error = fixture.run("a", false, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("momentum is 1"), "{error}");
    fixture.options = TrainOptions { batch: 1, ..TrainOptions::default() };
    assert!(fixture.run("a", false, usize::MAX).unwrap_err().to_string().contains("batch is 1"));
}

#[test]
fn holds_out_whole_videos_without_a_validation_split() {
    let mut set = set();
    for table in [&mut set.images, &mut set.videos] {
        for (i, row) in table.rows.iter_mut().enumerate() {
            row.split = Split::Train;
            row.labels.clear();
            row.video = Some(format!("video {}", i / 3));
        }
    }
    let data = TrainingData::new(&set, 0.3, 1).unwrap();
    assert!(!data.queries.is_empty() && data.unmatched_images == 0);
    let sources = |rows: &[FeatureRow], of: &[u32]| -> Vec<String> {
        of.iter().map(|i| rows[*i as usize].video.clone().unwrap()).collect()
    };
    let held_out = sources(&set.images.rows, &data.queries);
    assert_eq!(held_out, sources(&set.videos.rows, &data.gallery));
    assert!(sources(&set.images.rows, &data.images).iter().all(|v| !held_out.contains(v)));
    for (image, video) in data.epoch(1, 0) {
        assert!(data.is_match(image, video));
    }
    assert_ne!(data.epoch(1, 0), data.epoch(1, 1));
}

#[test]
fn rejects_data_without_pairs() {
    let mut set = set();
    set.videos.rows.iter_mut().for_each(|r| r.labels = vec![99]);
    let error = TrainingData::new(&set, 0.1, 1).unwrap_err().to_string();
    assert!(error.contains("0 of 66 training images"), "{error}");
}

#[test]
fn the_rate_falls_after_the_patience_and_not_before() {
    let mut plateau = PlateauSchedule::new(1.0);
    plateau.step(1.0, 0.1, 2);
    for _ in 0..2 {
        plateau.step(0.99999, 0.1, 2);
        assert_eq!(plateau.rate, 1.0);
    }
    plateau.step(1.0, 0.1, 2);
    assert!((plateau.rate - 0.1).abs() < 1e-9);
    plateau.step(0.5, 0.1, 2);
    plateau.step(0.4, 0.1, 2);
    plateau.step(0.45, 0.1, 2);
    assert!((plateau.rate - 0.1).abs() < 1e-9);
}

#[test]
fn does_not_keep_an_epoch_whose_last_update_diverges() {
    // One step per epoch: no later batch of the epoch can show the effect of the update.
    let mut fixture = RunFixture::new();
    fixture.options.batch = 66;
    fixture.options.rate = 1e30;
    let error = fixture.run("a", false, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("diverged") && error.contains("no checkpoint is written"), "{error}");
    assert!(error.contains("step 1"), "the step of the update: {error}");
    assert!(!fixture.out("a").exists() && !fixture.dir.path().join("a.safetensors.resume").exists());
}

#[test]
fn does_not_resume_with_other_rows_or_encoder() {
    let mut fixture = RunFixture::new();
    for table in [&mut fixture.set.images, &mut fixture.set.videos] {
        table.rows.iter_mut().for_each(|row| row.split = Split::Train);
    }
    fixture.held_out = 0.3;
    fixture.run("a", false, 3).unwrap();
    fixture.held_out = 0.2;
    let error = fixture.run("a", true, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("started with rows"), "{error}");
    fixture.held_out = 0.3;
    fixture.encoder = "test/2";
    let error = fixture.run("a", true, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("encoder"), "{error}");
}

#[test]
fn does_not_resume_over_the_checkpoint_of_another_run() {
    let mut fixture = RunFixture::new();
    fixture.run("a", false, 7).unwrap();
    fixture.options.seed = 2;
    fixture.run("b", false, usize::MAX).unwrap();
    std::fs::copy(fixture.out("b"), fixture.out("a")).unwrap();
    fixture.options.seed = 1;
    let error = fixture.run("a", true, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("holds another checkpoint"), "{error}");
}

#[test]
fn a_new_run_removes_the_state_of_the_previous_run() {
    let fixture = RunFixture::new();
    fixture.run("a", false, 7).unwrap();
    let state = fixture.dir.path().join("a.safetensors.resume");
    assert!(state.exists());
    // The new run fails before it saves a state.
    let mut broken = RunFixture::new();
    broken.dir = fixture.dir;
    broken.options.rate = 1e30;
    broken.options.batch = 66;
    broken.run("a", false, usize::MAX).unwrap_err();
    assert!(!state.exists());
}

#[test]
fn a_short_last_batch_does_not_change_the_schedule() {
    // 66 pairs in batches of 13: the last batch is one pair, whose task loss is 0. No later loss could be
    // lower.
    let mut fixture = RunFixture::new();
    fixture.options = TrainOptions { batch: 13, epochs: 3, plateau_patience: 5, ..fixture.options.clone() };
    fixture.options.objective.lambda_dissociation = 0.0;
    fixture.run("a", false, usize::MAX).unwrap();
    let csv = String::from_utf8(fixture.bytes("a")[1].clone()).unwrap();
    assert!(csv.lines().skip(1).all(|line| line.split(',').nth(2) == Some("0.01")), "{csv}");
}

#[test]
fn rejects_a_validation_split_without_matches() {
    let mut unlabelled = set();
    for row in &mut unlabelled.images.rows {
        if row.split == Split::Val {
            row.labels.clear();
        }
    }
    let error = TrainingData::new(&unlabelled, 0.1, 1).unwrap_err().to_string();
    assert!(error.contains("none of 24 images of the split `val`"), "{error}");
    // A split with images only is an error as well; held-out rows do not replace it.
    let mut half = set();
    half.videos.rows.iter_mut().for_each(|row| row.split = Split::Train);
    assert!(TrainingData::new(&half, 0.1, 1).is_err());
}
