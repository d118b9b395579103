//! Encoders of others: an image encoder in an ONNX file, run by tract, and beside it a JSON file that says how pictures come to it.
//!
//! The network has one input, f32 of 1 x 3 x height x width (red, green and blue; the batch may have a name in place of a number), and an output, f32 of
//! 1 x length. Beside `model.onnx` lies `model.json`, an object whose fields are those of [`Description`]; each has a default, so that `{}` will do for a network
//! of fixed size that wants pixels as numbers of 0 to 1.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Once};

use candle_core::Tensor;
use rayon::prelude::*;
use serde::Deserialize;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{
    Datum, DatumExt, Framework, InferenceModel, InferenceModelExt, IntoRunnable, TValue, TractResult,
    TypedRunnableModel,
};
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::DimLike;

use super::models::pooled::{Backbone, Normalise, Pooled};
use super::{Encoder, Error, Sampling};
use crate::media::{Filter, Fit};

/// What the name of such an encoder begins with; the file, or in an id its name, follows.
pub(super) const PREFIX: &str = "onnx:";
/// Raised when the same files give other features.
const VERSION: u32 = 1;
/// Longest side of a picture, and most frames of a clip: more is a slip of the pen.
const LIMIT: u32 = 4096;

/// How pictures and clips come to the network.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Description {
    /// Size of the input in pixels. By default what the network declares; needed if it leaves it open.
    width: Option<u32>,
    /// See `width`.
    height: Option<u32>,
    /// The shorter side of a picture before its middle of `width` x `height` is cut out. By default the longer of the two.
    shorter: Option<u32>,
    /// How that resize weighs pixels, widened by the ratio as Pillow does: `bilinear` or `bicubic`.
    filter: Weighing,
    /// `(pixel / 255 - mean) / deviation`, for red, green and blue.
    mean: [f32; 3],
    /// See `mean`.
    deviation: [f32; 3],
    /// Frames a second that are looked at.
    rate_hz: f64,
    /// Frames that make one clip.
    frames_per_clip: usize,
    /// Frames from the start of one clip to the start of the next.
    stride_frames: usize,
    /// Which output the features are, if there are several.
    output: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Weighing {
    Bilinear,
    Bicubic,
}

impl Default for Description {
    fn default() -> Description {
        Description {
            width: None,
            height: None,
            shorter: None,
            filter: Weighing::Bilinear,
            mean: [0.0; 3],
            deviation: [1.0; 3],
            rate_hz: 2.0,
            frames_per_clip: 4,
            stride_frames: 2,
            output: None,
        }
    }
}

impl Description {
    /// What is wrong with it.
    fn fault(&self) -> Option<String> {
        let finite = |values: &[f32; 3]| values.iter().all(|x| x.is_finite());
        if !finite(&self.mean) || !finite(&self.deviation) || self.deviation.iter().any(|x| *x <= 0.0) {
            return Some(format!("mean {:?} or deviation {:?}: deviations are above 0", self.mean, self.deviation));
        }
        if !(0.01..=120.0).contains(&self.rate_hz) {
            return Some(format!("rate_hz {}: from 0.01 to 120", self.rate_hz));
        }
        let (frames, stride) = (self.frames_per_clip, self.stride_frames);
        if !(1..=LIMIT as usize).contains(&frames) || !(1..=frames).contains(&stride) {
            return Some(format!(
                "frames_per_clip {frames}, stride_frames {stride}: from 1 to {LIMIT}, and a stride no longer than a clip"
            ));
        }
        None
    }

    fn sampling(&self, width: u32, height: u32) -> Result<Sampling, String> {
        let shorter = self.shorter.unwrap_or(width.max(height));
        if shorter < width.max(height) || shorter > LIMIT {
            return Err(format!("shorter {shorter}: from {} to {LIMIT} for {width} x {height}", width.max(height)));
        }
        let filter = match self.filter {
            Weighing::Bilinear => Filter::Bilinear,
            Weighing::Bicubic => Filter::Bicubic,
        };
        Ok(Sampling {
            rate_hz: self.rate_hz,
            frames_per_clip: self.frames_per_clip,
            stride_frames: self.stride_frames,
            width,
            height,
            fit: Fit::Cover { shorter, filter },
        })
    }
}

thread_local! {
    /// Whether a panic on this thread is awaited.
    static AWAITED: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic at a fault of somebody's file: `None` then, and nobody is told of a bug.
fn quietly<T>(work: impl FnOnce() -> T) -> Option<T> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !AWAITED.get() {
                usual(panic);
            }
        }));
    });
    let before = AWAITED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    AWAITED.set(before);
    outcome.ok()
}

/// A network of fixed size, ready to run.
struct Plan {
    plan: Arc<TypedRunnableModel>,
    length: usize,
}

impl Plan {
    /// One picture, (3, height, width), to its features.
    fn one(&self, picture: &[f32], height: usize, width: usize) -> Result<Vec<f32>, String> {
        let run = || -> TractResult<Vec<f32>> {
            let input = tract_onnx::prelude::Tensor::from_shape(&[1, 3, height, width], picture)?;
            let output = self.plan.run([TValue::from(input)].into_iter().collect())?;
            Ok(output[0].to_plain_array_view::<f32>()?.iter().copied().collect())
        };
        let features = quietly(run).ok_or("the network contradicts itself")?.map_err(|e| format!("{e:#}"))?;
        match features.len() == self.length {
            true => Ok(features),
            false => Err(format!("the network gives {} numbers, not {}", features.len(), self.length)),
        }
    }
}

impl Backbone for Plan {
    fn forward(&self, pictures: &Tensor) -> candle_core::Result<Tensor> {
        let (n, _, height, width) = pictures.dims4()?;
        let values = pictures.flatten_all()?.to_vec1::<f32>()?;
        // One picture a thread: tract runs a network on one.
        let rows: Result<Vec<Vec<f32>>, String> =
            values.par_chunks(3 * height * width).map(|picture| self.one(picture, height, width)).collect();
        let rows = rows.map_err(candle_core::Error::Msg)?;
        Tensor::from_vec(rows.concat(), (n, self.length), pictures.device())
    }
}

/// The network of a file, and the size of its input, (width, height).
fn build(model: &ModelProto, description: &Description) -> Result<(Plan, u32, u32), String> {
    let told = |e: tract_onnx::prelude::TractError| format!("tract cannot run this network ({e:#})");
    // Shapes that exporters note between layers name the batch, and would contradict a batch of 1.
    let onnx = tract_onnx::onnx().with_ignore_value_info(true);
    let mut network: InferenceModel = onnx.model_for_proto_model(model).map_err(told)?;
    let inputs = network.input_outlets().map_err(told)?.len();
    if inputs != 1 {
        return Err(format!("the network has {inputs} inputs, expected one of 1 x 3 x height x width"));
    }
    let (width, height) = size(&network, description)?;
    match &description.output {
        Some(name) => network
            .select_outputs_by_name([name])
            .map_err(|_| format!("the network has no output `{name}`, which the JSON file names"))?,
        None => {
            let outputs = network.output_outlets().map_err(told)?.len();
            if outputs != 1 {
                return Err(format!(
                    "the network has {outputs} outputs: name the features in the JSON file, as `output`"
                ));
            }
        }
    }
    network.set_input_fact(0, f32::fact([1, 3, height as usize, width as usize]).into()).map_err(told)?;
    let network = network.into_optimized().map_err(told)?;
    let output = network.output_fact(0).map_err(told)?;
    let length = match output.shape.as_concrete() {
        Some([1, length]) if *length > 0 && output.datum_type == f32::datum_type() => *length,
        _ => return Err(format!("the output is {output:?}, expected f32 of 1 x length")),
    };
    Ok((Plan { plan: network.into_runnable().map_err(told)?, length }, width, height))
}

/// Width and height of the input: what the network declares, and the description where it leaves them open.
fn size(network: &InferenceModel, description: &Description) -> Result<(u32, u32), String> {
    let fact = network.input_fact(0).map_err(|e| e.to_string())?;
    let found = || format!("the input is {}, expected f32 of 1 x 3 x height x width", fact.format_dt_shape());
    let dims: Vec<Option<usize>> =
        fact.shape.dims().map(|dim| dim.concretize().and_then(|dim| dim.to_usize().ok())).collect();
    let other_type = fact.datum_type.concretize().is_some_and(|kind| kind != f32::datum_type());
    let [batch, channels, height, width] = dims[..] else { return Err(found()) };
    if other_type || batch.is_some_and(|n| n != 1) || channels.is_some_and(|n| n != 3) {
        return Err(found());
    }
    let side = |name: &str, declared: Option<usize>, told: Option<u32>| match (declared, told) {
        (Some(declared), Some(told)) if declared != told as usize => {
            Err(format!("{name} {told} in the JSON file, but {declared} in the network"))
        }
        (None, None) => Err(format!("the network leaves its {name} open: the JSON file must name it")),
        (declared, told) => match declared.and_then(|n| u32::try_from(n).ok()).or(told) {
            Some(side @ 1..=LIMIT) => Ok(side),
            other => Err(format!("{name} {}: from 1 to {LIMIT}", other.unwrap_or(u32::MAX))),
        },
    };
    Ok((side("width", width, description.width)?, side("height", height, description.height)?))
}

/// The file that an encoder's name tells, if it is one of these.
pub(super) fn file(name: &str) -> Option<&Path> {
    name.strip_prefix(PREFIX).map(Path::new)
}

/// Opens the encoder of an ONNX file and the JSON file beside it. The id is `known` if that is of the same bytes.
///
/// # Errors
/// [`Error::Onnx`].
pub(super) fn open(path: &Path, known: Option<&str>) -> Result<Arc<dyn Encoder>, Error> {
    let wrong = |path: &Path, found: String| Error::Onnx { path: path.to_owned(), found };
    let beside = path.with_extension("json");
    let bytes = std::fs::read(path).map_err(|e| {
        wrong(
            path,
            format!("{e}; name the network's file with --encoder onnx:FILE, or one that was moved with --weights FILE"),
        )
    })?;
    let text = std::fs::read(&beside).map_err(|e| {
        let needed = "an ONNX encoder needs this file beside it, which says how pictures come to the network";
        wrong(&beside, format!("{e}; {needed} (`{{}}` means: as the network declares, pixels as numbers of 0 to 1)"))
    })?;
    let description: Description = serde_json::from_slice(&text).map_err(|e| wrong(&beside, e.to_string()))?;
    if let Some(fault) = description.fault() {
        return Err(wrong(&beside, fault));
    }
    let model = tract_onnx::onnx()
        .proto_model_for_read(&mut bytes.as_slice())
        .ok()
        .filter(|model| model.graph.is_some())
        .ok_or_else(|| wrong(path, "no ONNX file".to_owned()))?;
    // tract trusts the graph: one whose output belongs to no node makes it panic.
    let built =
        quietly(|| build(&model, &description)).unwrap_or_else(|| Err("the network contradicts itself".to_owned()));
    let (plan, width, height) = built.map_err(|found| wrong(path, found))?;
    let sampling = description.sampling(width, height).map_err(|found| wrong(&beside, found))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    // Both files decide what the features are.
    let hash = blake3::Hasher::new().update(&bytes).update(&text).finalize().to_hex();
    let bytes = format!("/{VERSION}+{}", &hash[..8]);
    let known = known.filter(|id| id.starts_with(PREFIX) && id.ends_with(&bytes));
    let id = known.map_or_else(|| format!("{PREFIX}{stem}{bytes}"), str::to_owned);
    let normalise = Normalise { mean: description.mean, deviation: description.deviation };
    let name = format!("{PREFIX}{}", path.display());
    Ok(Arc::new(Pooled::new(&name, id, plan.length, sampling, normalise, Box::new(plan))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Picture;
    use tract_onnx::pb::{tensor_shape_proto::dimension::Value, type_proto};

    /// See `tests/reference/tiny_onnx.py`.
    const TINY: &[u8] = include_bytes!("../../tests/reference/tiny.onnx");
    const IMAGENET: &str = r#"{"mean": [0.485, 0.456, 0.406], "deviation": [0.229, 0.224, 0.225]}"#;

    /// Both files, written to a folder of their own.
    fn opened(model: &[u8], description: &str) -> Result<Arc<dyn Encoder>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.onnx");
        std::fs::write(&path, model).unwrap();
        std::fs::write(dir.path().join("tiny.json"), description).unwrap();
        open(&path, None).map_err(|e| e.to_string().replace(&*dir.path().to_string_lossy(), ""))
    }

    fn model() -> ModelProto {
        tract_onnx::onnx().proto_model_for_read(&mut &TINY[..]).unwrap()
    }

    /// The sides of the input, as the network declares them.
    fn dims(model: &mut ModelProto) -> Vec<&mut Option<Value>> {
        let graph = model.graph.as_mut().unwrap();
        let type_proto::Value::TensorType(tensor) = graph.input[0].r#type.as_mut().unwrap().value.as_mut().unwrap();
        tensor.shape.as_mut().unwrap().dim.iter_mut().map(|dim| &mut dim.value).collect()
    }

    #[test]
    fn the_numbers_are_those_of_onnxruntime() {
        let encoder = opened(TINY, IMAGENET).unwrap();
        let about = encoder.about();
        assert_eq!((about.image_len, about.clip_len, about.sampling.width, about.sampling.height), (5, 15, 12, 8));
        assert_eq!(about.sampling.fit, Fit::Cover { shorter: 12, filter: Filter::Bilinear });
        let pixels = (0..8u32).flat_map(|y| (0..12).flat_map(move |x| (0..3).map(move |c| y * 31 + x * 17 + c * 57)));
        let rgb = pixels.map(|value| (value % 256) as u8).collect();
        let picture = Picture { width: 12, height: 8, rgb };
        // Twice, so that a batch of several comes out in order.
        let both = encoder.describe(&[picture.clone(), picture]).unwrap();
        for described in both {
            let expected = [-0.069_854_18, 0.031_698_39, -0.605_278_3, 0.733_369_6, 0.299_871_36];
            for (value, expected) in described.values().iter().zip(expected) {
                assert!((value - expected).abs() < 1e-4, "{:?}", described.values());
            }
        }
    }

    #[test]
    fn the_id_follows_from_both_files() {
        let id = |description: &str| opened(TINY, description).unwrap().about().id.clone();
        assert!(id("{}").starts_with("onnx:tiny/1+"), "{}", id("{}"));
        assert_eq!(id("{}"), id("{}"));
        assert_ne!(id("{}"), id(IMAGENET));
    }

    #[test]
    fn a_description_is_checked() {
        for (description, told) in [
            ("{", "/tiny.json: EOF"),
            (r#"{"std": [1, 1, 1]}"#, "/tiny.json: unknown field `std`, expected one of `width`"),
            (r#"{"filter": "lanczos"}"#, "/tiny.json: unknown variant `lanczos`, expected `bilinear` or `bicubic`"),
            (r#"{"deviation": [1, 0, 1]}"#, "deviations are above 0"),
            (r#"{"rate_hz": 0}"#, "rate_hz 0: from 0.01 to 120"),
            (r#"{"stride_frames": 5}"#, "stride_frames 5: from 1"),
            (r#"{"width": 13}"#, "/tiny.onnx: width 13 in the JSON file, but 12 in the network"),
            (r#"{"shorter": 11}"#, "/tiny.json: shorter 11: from 12"),
            (r#"{"output": "nothing"}"#, "/tiny.onnx: the network has no output `nothing`"),
        ] {
            let error = opened(TINY, description).unwrap_err();
            assert!(error.contains(told), "{description}: {error}");
        }
        assert!(opened(TINY, r#"{"output": "features", "width": 12, "filter": "bicubic"}"#).is_ok());
        assert_eq!(opened(TINY, r#"{"output": "flat"}"#).unwrap().about().image_len, 6);
    }

    #[test]
    fn what_is_no_image_encoder_is_refused() {
        let fault = |change: fn(&mut ModelProto), description: &str| {
            let mut model = model();
            change(&mut model);
            build(&model, &serde_json::from_str(description).unwrap()).map(|_| ()).unwrap_err()
        };
        let told = fault(|m| *dims(m)[1] = Some(Value::DimValue(1)), "{}");
        assert!(told.contains("1,8,12,F32, expected f32 of 1 x 3 x height x width"), "{told}");
        let told = fault(|m| *dims(m)[0] = Some(Value::DimValue(4)), "{}");
        assert!(told.contains("the input is 4,3,8,12,F32"), "{told}");
        let told = fault(|m| *dims(m)[3] = Some(Value::DimParam("w".into())), "{}");
        assert_eq!(told, "the network leaves its width open: the JSON file must name it");
        let told = fault(|m| m.graph.as_mut().unwrap().output[0].name = "conv".into(), "{}");
        assert!(told.contains("expected f32 of 1 x length"), "{told}");
        let second = |m: &mut ModelProto| {
            let graph = m.graph.as_mut().unwrap();
            let mut flat = graph.output[0].clone();
            flat.name = "flat".into();
            graph.output.push(flat);
        };
        assert!(fault(second, "{}").contains("has 2 outputs: name the features"), "{}", fault(second, "{}"));
        let told = fault(|m| m.graph.as_mut().unwrap().node[1].op_type = "Unheard".into(), "{}");
        assert!(told.contains("tract cannot run this network") && told.contains("Unheard"), "{told}");
    }

    #[test]
    fn an_open_size_comes_from_the_description() {
        let mut model = model();
        *dims(&mut model)[2] = Some(Value::DimParam("h".into()));
        *dims(&mut model)[3] = None;
        let description = serde_json::from_str(r#"{"width": 40, "height": 20}"#).unwrap();
        let (plan, width, height) = build(&model, &description).unwrap();
        assert_eq!((plan.length, width, height), (5, 40, 20));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_panic() {
        for length in (0..TINY.len()).step_by(13) {
            assert!(opened(&TINY[..length], "{}").is_err(), "{length} bytes of {}", TINY.len());
        }
        assert!(opened(b"\x89PNG\r\n", "{}").unwrap_err().contains("/tiny.onnx: no ONNX file"));
    }

    #[test]
    fn a_panic_is_nothing_and_the_next_one_is_told_again() {
        assert_eq!(quietly(|| quietly(|| panic!("a fault of the file")).is_none()), Some(true));
        assert!(quietly(|| -> u8 { panic!("and again") }).is_none());
        assert!(!AWAITED.get());
    }

    #[test]
    fn a_renamed_file_keeps_the_id_it_is_known_by() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("renamed.onnx");
        std::fs::write(&path, TINY).unwrap();
        std::fs::write(path.with_extension("json"), "{}").unwrap();
        let known = opened(TINY, "{}").unwrap().about().id.clone();
        let id = |known: &str| open(&path, Some(known)).unwrap().about().id.clone();
        assert_eq!(id(&known), known);
        // Other bytes are another encoder.
        let (name, own) = (id("onnx:tiny/1+00000000"), id("layout/1"));
        assert!(name == own && own.starts_with("onnx:renamed/1+"), "{name} {own}");
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.onnx");
        assert!(open(&path, None).unwrap_err().to_string().contains("--encoder onnx:FILE"));
        std::fs::write(&path, TINY).unwrap();
        let error = open(&path, None).unwrap_err().to_string();
        assert!(error.contains("tiny.json: ") && error.contains("needs this file beside it"), "{error}");
    }
}
