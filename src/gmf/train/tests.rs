//! Whole runs on a small made set.

use std::cell::Cell;

use super::super::config::Modality;
use super::super::options::Plateau;
use super::*;
use crate::base::seeded::Random;
use crate::features::{Matrix, Row, Set, Split, Table};

/// 6 classes of images (5 numbers) and videos (9 numbers) around class means, with splits.
fn set() -> Set {
    set_of(5, 9)
}

fn set_of(image: usize, video: usize) -> Set {
    let mut random = Random::new(4, "set");
    let mut table = |length: usize, name: &str| {
        let means: Vec<Vec<f32>> = (0..6).map(|_| (0..length).map(|_| random.between(-1.0, 1.0)).collect()).collect();
        let (mut values, mut rows) = (Vec::new(), Vec::new());
        for i in 0..90usize {
            let class = i % 6;
            values.extend(means[class].iter().map(|m| m + random.between(-0.2, 0.2)));
            let split = if i < 66 { Split::Train } else { Split::Val };
            rows.push(Row {
                id: format!("{name}{i}"),
                labels: vec![class as u32],
                split,
                video: None,
                moment: None,
                span_s: None,
            });
        }
        Table { matrix: Matrix::new(values, length), rows }
    };
    Set { images: table(image, "i"), videos: table(video, "v"), labels: (0..6).map(|i| format!("class {i}")).collect() }
}

struct Place {
    dir: tempfile::TempDir,
    set: Set,
    options: Options,
    encoder: &'static str,
    held_out: f32,
}

impl Place {
    fn new() -> Place {
        Place::of(5, 9)
    }

    fn of(image: usize, video: usize) -> Place {
        let options = Options { epochs: 4, batch: 16, rate: 0.01, ..Options::default() };
        Place {
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

    /// Trains; `stop_after` steps a wish to stop is there.
    fn run(&self, name: &str, resume: bool, stop_after: usize) -> Result<Outcome, TrainError> {
        self.run_from(name, resume, stop_after, None)
    }

    fn run_from(
        &self,
        name: &str,
        resume: bool,
        stop_after: usize,
        start: Option<Weights>,
    ) -> Result<Outcome, TrainError> {
        let data = Data::new(&self.set, self.held_out, 1).unwrap();
        let modality = |name: &str, length| Modality { name: name.to_owned(), length };
        let lengths = (self.set.images.matrix.columns(), self.set.videos.matrix.columns());
        let config = Config::new(vec![modality("image", lengths.0), modality("video", lengths.1)], 4, 0.5).unwrap();
        let steps = Cell::new(0);
        let run = Run {
            data: &data,
            config: &config,
            start,
            options: &self.options,
            resume,
            encoder: self.encoder,
            projection: None,
            about: serde_json::json!({}),
            out: &self.out(name),
        };
        // The share of validation images whose best video is of their class.
        let mut validate = |maps: &Folded| {
            let read = |table: &Table, i: u32| {
                let mut row = vec![0f32; table.matrix.columns()];
                table.matrix.read(i as usize, &mut row).map(|()| row)
            };
            let mut right = 0;
            for q in &data.queries {
                let query = maps.embed_image(&read(&self.set.images, *q).unwrap()).unwrap();
                let score = |v: &u32| {
                    let row = maps.embed_video(&read(&self.set.videos, *v).unwrap()).unwrap();
                    row.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>()
                };
                let best = data.gallery.iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
                right += usize::from(data.together(*q, *best));
            }
            Ok(right as f64 / data.queries.len() as f64)
        };
        train(run, &mut validate, &|| steps.get() >= stop_after, &mut |p| {
            if matches!(p, Progress::Step { .. }) {
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
fn it_learns_and_keeps_the_best_epoch() {
    let mut place = Place::new();
    place.options.epochs = 12;
    let Outcome::Finished { epoch, map10 } = place.run("a", false, usize::MAX).unwrap() else { panic!("stopped") };
    assert!(map10.unwrap() > 0.9, "{map10:?}");
    let (weights, record) = Weights::open(&place.out("a")).unwrap();
    assert_eq!(record.training["epoch"], epoch);
    assert_eq!(record.training["options"]["objective"]["task"]["contrastive"]["temperature"], 0.07);
    assert_eq!(weights.config().parameters(), record_parameters(&record));
    assert!(!place.dir.path().join("a.safetensors.resume").exists());
    let csv = String::from_utf8(place.bytes("a")[1].clone()).unwrap();
    assert_eq!(csv.lines().filter(|l| !l.ends_with(',')).count(), 1 + 12, "{csv}");
}

fn record_parameters(record: &super::super::Record) -> usize {
    Config::new(record.modalities.clone(), record.multiple, record.boundary).unwrap().parameters()
}

#[test]
fn a_resumed_run_ends_bit_equal_wherever_it_was_stopped() {
    let place = Place::new();
    place.run("whole", false, usize::MAX).unwrap();
    // 5 steps an epoch: before the first step, within an epoch, at its end, in the last one; and twice.
    for stops in [vec![0], vec![3], vec![5], vec![17], vec![2, 9]] {
        let name = format!("{stops:?}");
        for (i, stop) in stops.iter().enumerate() {
            assert_eq!(place.run(&name, i > 0, *stop).unwrap(), Outcome::Interrupted, "{name}");
        }
        place.run(&name, true, usize::MAX).unwrap();
        assert_eq!(place.bytes(&name), place.bytes("whole"), "{name}");
    }
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    // Large enough that products are split into panels.
    let mut place = Place::of(40, 150);
    place.options.batch = 33;
    place.options.rate = 0.001;
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| place.run(&threads.to_string(), false, usize::MAX)).unwrap();
        assert_eq!(place.bytes(&threads.to_string()), place.bytes("1"));
    }
}

#[test]
fn another_seed_is_another_model() {
    let mut place = Place::new();
    place.run("1", false, usize::MAX).unwrap();
    place.options.seed = 2;
    place.run("2", false, usize::MAX).unwrap();
    assert_ne!(place.bytes("1")[0], place.bytes("2")[0]);
}

#[test]
fn other_options_or_data_are_not_resumed() {
    let mut place = Place::new();
    place.run("a", false, 7).unwrap();
    place.options.rate = 0.5;
    let error = place.run("a", true, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("rate") && error.contains("0.01") && error.contains("0.5"), "{error}");
    place.options.rate = 0.01;
    place.set.images.rows[0].labels = vec![5];
    let error = place.run("a", true, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("data"), "{error}");
    place.set.images.rows[0].labels = vec![0];
    std::fs::remove_file(place.out("a")).unwrap();
    let error = place.run("a", true, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("is gone"), "{error}");
}

#[test]
fn divergence_keeps_the_last_good_checkpoint() {
    let mut place = Place::new();
    place.options.rate = 1e4;
    let config = Config::image_video(5, 9).unwrap();
    let start = Weights::random(&config, 7);
    let error = place.run_from("a", false, usize::MAX, Some(start.clone())).unwrap_err().to_string();
    assert!(error.contains("diverged") && error.contains("checkpoint of epoch 0 is kept"), "{error}");
    assert_eq!(Weights::open(&place.out("a")).unwrap().0, start);
    let error = place.run("b", false, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("no checkpoint is written"), "{error}");
    assert!(!place.out("b").exists());
}

#[test]
fn options_out_of_range_are_named() {
    let mut place = Place::new();
    place.options.momentum = 1.0;
    let error = place.run("a", false, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("momentum is 1"), "{error}");
    place.options = Options { batch: 1, ..Options::default() };
    assert!(place.run("a", false, usize::MAX).unwrap_err().to_string().contains("batch is 1"));
}

#[test]
fn without_a_validation_split_whole_videos_are_held_out() {
    let mut set = set();
    for table in [&mut set.images, &mut set.videos] {
        for (i, row) in table.rows.iter_mut().enumerate() {
            row.split = Split::Train;
            row.labels.clear();
            row.video = Some(format!("video {}", i / 3));
        }
    }
    let data = Data::new(&set, 0.3, 1).unwrap();
    assert!(!data.queries.is_empty() && data.alone == 0);
    let sources = |rows: &[Row], of: &[u32]| -> Vec<String> {
        of.iter().map(|i| rows[*i as usize].video.clone().unwrap()).collect()
    };
    let held = sources(&set.images.rows, &data.queries);
    assert_eq!(held, sources(&set.videos.rows, &data.gallery));
    assert!(sources(&set.images.rows, &data.images).iter().all(|v| !held.contains(v)));
    for (image, video) in data.epoch(1, 0) {
        assert!(data.together(image, video));
    }
    assert_ne!(data.epoch(1, 0), data.epoch(1, 1));
}

#[test]
fn nothing_to_learn_from_is_an_error() {
    let mut set = set();
    set.videos.rows.iter_mut().for_each(|r| r.labels = vec![99]);
    let error = Data::new(&set, 0.1, 1).unwrap_err().to_string();
    assert!(error.contains("0 of 66 training images"), "{error}");
}

#[test]
fn the_rate_falls_after_patience_and_not_before() {
    let mut plateau = Plateau::new(1.0);
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
fn an_update_that_explodes_at_the_end_of_an_epoch_is_not_kept() {
    // One step an epoch: no later batch of the epoch can show what the update did.
    let mut place = Place::new();
    place.options.batch = 66;
    place.options.rate = 1e30;
    let error = place.run("a", false, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("diverged") && error.contains("no checkpoint is written"), "{error}");
    assert!(error.contains("step 1"), "the step whose update it was: {error}");
    assert!(!place.out("a").exists() && !place.dir.path().join("a.safetensors.resume").exists());
}

#[test]
fn a_run_with_other_rows_or_encoder_is_not_resumed() {
    let mut place = Place::new();
    for table in [&mut place.set.images, &mut place.set.videos] {
        table.rows.iter_mut().for_each(|row| row.split = Split::Train);
    }
    place.held_out = 0.3;
    place.run("a", false, 3).unwrap();
    place.held_out = 0.2;
    let error = place.run("a", true, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("started with rows"), "{error}");
    place.held_out = 0.3;
    place.encoder = "test/2";
    let error = place.run("a", true, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("encoder"), "{error}");
}

#[test]
fn a_checkpoint_of_another_run_is_not_resumed_over() {
    let mut place = Place::new();
    place.run("a", false, 7).unwrap();
    place.options.seed = 2;
    place.run("b", false, usize::MAX).unwrap();
    std::fs::copy(place.out("b"), place.out("a")).unwrap();
    place.options.seed = 1;
    let error = place.run("a", true, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("holds another checkpoint"), "{error}");
}

#[test]
fn a_new_run_forgets_the_state_of_the_one_before() {
    let place = Place::new();
    place.run("a", false, 7).unwrap();
    let state = place.dir.path().join("a.safetensors.resume");
    assert!(state.exists());
    // It fails before it has a state of its own.
    let mut broken = Place::new();
    broken.dir = place.dir;
    broken.options.rate = 1e30;
    broken.options.batch = 66;
    broken.run("a", false, usize::MAX).unwrap_err();
    assert!(!state.exists());
}

#[test]
fn a_short_last_batch_does_not_set_the_plateau() {
    // 66 pairs in batches of 13: the last batch is one pair, whose task loss is 0 and could never be bettered.
    let mut place = Place::new();
    place.options = Options { batch: 13, epochs: 3, plateau_patience: 5, ..place.options.clone() };
    place.options.objective.lambda_dissociation = 0.0;
    place.run("a", false, usize::MAX).unwrap();
    let csv = String::from_utf8(place.bytes("a")[1].clone()).unwrap();
    assert!(csv.lines().skip(1).all(|line| line.split(',').nth(2) == Some("0.01")), "{csv}");
}

#[test]
fn a_validation_in_which_nothing_belongs_is_none() {
    let mut unlabelled = set();
    for row in &mut unlabelled.images.rows {
        if row.split == Split::Val {
            row.labels.clear();
        }
    }
    let error = Data::new(&unlabelled, 0.1, 1).unwrap_err().to_string();
    assert!(error.contains("none of 24 images of the split `val`"), "{error}");
    // Only half of a split is a mistake too, and not a reason to hold out others.
    let mut half = set();
    half.videos.rows.iter_mut().for_each(|row| row.split = Split::Train);
    assert!(Data::new(&half, 0.1, 1).is_err());
}
