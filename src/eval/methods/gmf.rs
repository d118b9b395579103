//! GMF, trained as [`crate::gmf::train()`] does, the best epoch chosen on the validation rows, and folded. So that one learning rate suits features of any
//! size, they are centred and scaled to a mean squared norm of 1 first; that is folded in too.

use super::{Fitted, Lengths, Method, Training, chain_both};
use crate::eval::embedding::{Map, Maps};
use crate::eval::retrieval::{self, Error};
use crate::gmf::{self, Config, Data, Folded, Options, Outcome, Progress};

pub(super) struct Gmf {
    pub(super) lengths: Lengths,
}

impl Method for Gmf {
    fn name(&self) -> &'static str {
        "GMF"
    }

    fn lengths(&self) -> Lengths {
        self.lengths
    }

    fn is_seeded(&self) -> bool {
        true
    }

    fn fit(&self, training: &Training<'_>, seed: u64) -> Result<Fitted, Error> {
        let before = training.mapped(self.lengths)?;
        let (set, [images, videos]) = training.mapped_set(&before)?;
        let data = training.data.on(&set);
        let wrong = |error: gmf::ConfigError| Error::Data(error.to_string());
        let config = Config::image_video(before.image.outputs(), before.video.outputs()).map_err(wrong)?;
        let folded = train(training, &data, &config, seed)?;
        let folded =
            Maps { image: Map::Affine(images.under(folded.image)), video: Map::Affine(videos.under(folded.video)) };
        let maps = chain_both(&before, &folded);
        Ok(Fitted { maps, parameters: config.parameters(), flops: config.flops() })
    }
}

fn train(training: &Training<'_>, data: &Data<'_>, config: &Config, seed: u64) -> Result<Folded, Error> {
    let place = tempfile::tempdir().map_err(|source| Error::Io { path: std::env::temp_dir(), source })?;
    let out = place.path().join("checkpoint.safetensors");
    let options = Options { seed, ..training.options.clone() };
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
    let run = gmf::Run {
        data,
        config,
        start: None,
        options: &options,
        resume: false,
        encoder: "unknown",
        projection: None,
        about: serde_json::json!({}),
        out: &out,
    };
    match gmf::train(run, &mut validate, training.stop, &mut tell)? {
        Outcome::Finished { .. } => {}
        Outcome::Interrupted => return Err(Error::Interrupted),
    }
    let (weights, record) = gmf::Weights::open(&out)?;
    Ok(weights.fold(&record)?)
}
