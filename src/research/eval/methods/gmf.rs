//! GMF, trained as [`crate::gmf::train()`] does, the best epoch chosen on the validation rows, and folded. So that one learning rate suits features of any
//! size, they are centred and scaled to a mean squared norm of 1 first; that is folded in too.
//!
//! Training starts around a closed form of the invariant maps ([`Weights::around`]), which counts as epoch 0 when the best is chosen: canonical correlations
//! of the features as they enter, or, where videos are the longer, of their first principal directions, whichever validation prefers; where
//! images were regressed on videos, the regression itself. The paper starts at random weights, as `reelseek train` does; of 119 million parameters and ten thousand
//! pairs that made a mAP@10 of 0.45 on made features where canonical correlations have 0.48.

use super::{Fitted, Lengths, Method, Training, cca, chain_both};
use crate::gmf::{self, Affine, Config, Folded, Options, Outcome, Progress, Weights};
use crate::research::eval::embedding::{Map, Maps};
use crate::research::eval::retrieval::{self, Error};

/// Learning rate for GMF among these methods: small, for it starts near its end.
pub const RATE: f64 = 3e-4;

pub(super) struct Gmf {
    pub(super) lengths: Lengths,
}

impl Method for Gmf {
    fn name(&self) -> &'static str {
        "GMF"
    }

    fn applies(&self, image: usize, video: usize) -> bool {
        self.lengths.apply(image, video)
    }

    fn is_seeded(&self) -> bool {
        true
    }

    fn fit(&self, training: &Training<'_>, seed: u64) -> Result<Fitted, Error> {
        let before = training.mapped(self.lengths)?;
        let (set, [images, videos]) = training.mapped_set(&before)?;
        let wrong = |error: gmf::ConfigError| Error::Data(error.to_string());
        let config = Config::image_video(before.image.outputs(), before.video.outputs()).map_err(wrong)?;
        let options = Options { seed, ..training.options.clone() };
        let data = training.data.on(&set);
        let scaled = Training { set: &set, data, options, stop: training.stop, tell: training.tell };
        let regressed = self.lengths == Lengths::Video && before.image.flops() > 0;
        let start = if regressed { unchanged(config.invariant()) } else { closed_form(&scaled)? };
        let (folded, epoch) = train(&scaled, &config, &start)?;
        let folded =
            Maps { image: Map::Affine(images.under(folded.image)), video: Map::Affine(videos.under(folded.video)) };
        let lengths = (before.image.outputs(), before.video.outputs());
        let own = Fitted::of(before.clone(), lengths);
        Ok(Fitted {
            maps: chain_both(&before, &folded),
            lengths,
            parameters: own.parameters + config.parameters(),
            flops: own.flops + config.flops(),
            epoch: Some(epoch),
        })
    }
}

/// Features as they are.
fn unchanged(length: usize) -> [Affine; 2] {
    let mut weight = vec![0.0; length * length];
    (0..length).for_each(|i| weight[i * length + i] = 1.0);
    let map = Affine { weight, bias: vec![0.0; length] };
    [map.clone(), map]
}

/// Canonical correlations of the features, or of the videos' first principal directions if that validates better.
fn closed_form(training: &Training<'_>) -> Result<[Affine; 2], Error> {
    let mut maps = cca::maps(training, &training.plain())?;
    let (image, video) = training.lengths();
    if video > image {
        let reduced = cca::maps(training, &training.mapped(Lengths::Image)?)?;
        if training.validate(&reduced)? > training.validate(&maps)? {
            maps = reduced;
        }
    }
    match (maps.image, maps.video) {
        (Map::Affine(image), Map::Affine(video)) => Ok([image, video]),
        _ => Err(Error::Data("canonical correlations are affine maps".to_owned())),
    }
}

/// The folded model of the best epoch, and which that was.
fn train(training: &Training<'_>, config: &Config, start: &[Affine; 2]) -> Result<(Folded, usize), Error> {
    let place = tempfile::tempdir().map_err(|source| Error::Io { path: std::env::temp_dir(), source })?;
    let out = place.path().join("checkpoint.safetensors");
    let Training { data, options, .. } = training;
    let mut validate = |folded: &Folded| {
        retrieval::validate(&Maps::from(folded), data)
            .map_err(|error| error.to_string())?
            .ok_or_else(|| "no image belongs to a video".to_owned())
    };
    let mut tell = |progress: Progress| {
        if let Progress::Epoch { epoch, map10, .. } = progress {
            let map = map10.map_or(String::new(), |map| format!(", validation mAP@10 {map:.4}"));
            (training.tell)(&format!("epoch {epoch} of {}{map}", options.epochs));
        }
    };
    let [image, video] = start.clone();
    let record = Weights::record(config, "unknown", serde_json::json!({}));
    let run = gmf::Run {
        data,
        config,
        start: Some(Weights::around(config, &Folded::new(image, video, record), options.seed)?),
        options,
        resume: false,
        encoder: "unknown",
        projection: None,
        about: serde_json::json!({ "start": "closed form" }),
        out: &out,
    };
    let epoch = match gmf::train(run, &mut validate, training.stop, &mut tell)? {
        Outcome::Finished { epoch, .. } => epoch,
        Outcome::Interrupted => return Err(Error::Interrupted),
    };
    let (weights, record) = Weights::open(&out)?;
    Ok((weights.fold(&record)?, epoch))
}
