//! Image encoders in ONNX files, run by tract, with a JSON file beside each that describes its input.
//!
//! The network has one input, f32 of 1 x 3 x height x width (red, green and blue; the batch size may be
//! symbolic), and an output, f32 of 1 x length. Beside `model.onnx` is `model.json`, an object with the
//! fields of [`OnnxDescription`]. Each field has a default: `{}` fits a network of fixed size that takes
//! pixels as numbers of 0 to 1.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Once};

use serde::Deserialize;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{
    Datum, DatumExt, Framework, InferenceModel, InferenceModelExt, IntoRunnable, TValue, TractError, TractResult,
    TypedRunnableModel,
};
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::DimLike;

use super::models::pooled::{Backbone, Normalisation, PixelBatch, Pooled};
use super::registry::ONNX_PREFIX;
use super::{Encoder, Error, Sampling};
use crate::media::{Filter, Fit};

/// Version in the id, raised when the same files give other features.
const VERSION: u32 = 1;
/// Longest side of a picture in pixels, and most frames of a clip; a larger value is taken for a typing
/// error.
const LIMIT: u32 = 4096;

/// The input that a network expects.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct OnnxDescription {
    /// Width of the input in pixels. Default: the declared width; required if the network leaves it open.
    width: Option<u32>,
    /// Height of the input, likewise.
    height: Option<u32>,
    /// The shorter side of a picture before its middle of `width` x `height` is cut out. Default: the longer
    /// of the two.
    shorter: Option<u32>,
    /// Filter of that resize, widened by the ratio as in Pillow: `bilinear` or `bicubic`.
    filter: OnnxFilter,
    /// `(pixel / 255 - mean) / deviation`, for red, green and blue.
    mean: [f32; 3],
    /// See `mean`.
    deviation: [f32; 3],
    /// Frames a second of a video.
    rate_hz: f64,
    /// Frames in one clip.
    frames_per_clip: usize,
    /// Frames from the start of one clip to the start of the next.
    stride_frames: usize,
    /// The output that holds the features, if the network has several.
    output: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnnxFilter {
    Bilinear,
    Bicubic,
}

impl Default for OnnxDescription {
    fn default() -> OnnxDescription {
        OnnxDescription {
            width: None,
            height: None,
            shorter: None,
            filter: OnnxFilter::Bilinear,
            mean: [0.0; 3],
            deviation: [1.0; 3],
            rate_hz: 2.0,
            frames_per_clip: 4,
            stride_frames: 2,
            output: None,
        }
    }
}

impl OnnxDescription {
    /// Parses a description and checks its ranges.
    fn parse(text: &[u8]) -> Result<OnnxDescription, String> {
        let description: OnnxDescription = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        let OnnxDescription { mean, deviation, rate_hz, frames_per_clip, stride_frames, .. } = &description;
        if !mean.iter().all(|x| x.is_finite()) || !deviation.iter().all(|x| x.is_finite() && *x > 0.0) {
            return Err(format!("mean {mean:?}, deviation {deviation:?}; expected deviations above 0"));
        }
        if !(0.01..=120.0).contains(rate_hz) {
            return Err(format!("rate_hz {rate_hz}; expected 0.01 to 120"));
        }
        if !(1..=LIMIT as usize).contains(frames_per_clip) || !(1..=*frames_per_clip).contains(stride_frames) {
            return Err(format!(
                "frames_per_clip {frames_per_clip}, stride_frames {stride_frames}; expected 1 to {LIMIT}, and a stride no \
                 longer than a clip"
            ));
        }
        Ok(description)
    }

    fn sampling(&self, width: u32, height: u32) -> Result<Sampling, String> {
        let longer = width.max(height);
        let shorter = self.shorter.unwrap_or(longer);
        if !(longer..=LIMIT).contains(&shorter) {
            return Err(format!("shorter {shorter}; expected {longer} to {LIMIT} for {width} x {height}"));
        }
        let filter = match self.filter {
            OnnxFilter::Bilinear => Filter::Bilinear,
            OnnxFilter::Bicubic => Filter::Bicubic,
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
    /// Whether this thread runs code whose panics are caught.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Installs a panic hook that prints no message for panics that the ONNX encoder catches, and calls the
/// previous hook for all others. tract panics on some damaged networks; the encoder returns an error for them
/// with or without this hook.
pub fn hide_caught_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !CATCHING.get() {
                previous(panic);
            }
        }));
    });
}

/// Runs `work`, which may panic on a damaged network: then it is an error.
fn catch_panic<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let before = CATCHING.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(before);
    outcome.unwrap_or_else(|_| Err("the network contradicts itself".to_owned()))
}

/// A network for pictures of one size, ready to run.
struct OnnxNetwork {
    runnable: Arc<TypedRunnableModel>,
    width: u32,
    height: u32,
    length: usize,
}

impl OnnxNetwork {
    /// The features of one picture, (3, height, width).
    fn one(&self, picture: &[f32]) -> Result<Vec<f32>, String> {
        let run = || -> TractResult<Vec<f32>> {
            let shape = [1, 3, self.height as usize, self.width as usize];
            let input = tract_onnx::prelude::Tensor::from_shape(&shape, picture)?;
            let output = self.runnable.run([TValue::from(input)].into_iter().collect())?;
            Ok(output[0].to_plain_array_view::<f32>()?.iter().copied().collect())
        };
        let features = catch_panic(|| run().map_err(|e| format!("{e:#}")))?;
        match features.len() == self.length {
            true => Ok(features),
            false => Err(format!("the network returned {} numbers, expected {}", features.len(), self.length)),
        }
    }

    /// Prepares the network of a file.
    fn build(model: &ModelProto, description: &OnnxDescription) -> Result<OnnxNetwork, String> {
        let fault = |e: TractError| format!("tract cannot run this network ({e:#})");
        // Exporters note shapes between layers with a symbolic batch size, which would contradict a batch of
        // 1.
        let onnx = tract_onnx::onnx().with_ignore_value_info(true);
        let mut network: InferenceModel = onnx.model_for_proto_model(model).map_err(fault)?;
        let inputs = network.input_outlets().map_err(fault)?.len();
        if inputs != 1 {
            return Err(format!("the network has {inputs} inputs, expected one of 1 x 3 x height x width"));
        }
        let (width, height) = input_size(&network, description)?;
        match &description.output {
            Some(name) => network
                .select_outputs_by_name([name])
                .map_err(|_| format!("the network has no output `{name}`, which the JSON file names"))?,
            None => {
                let outputs = network.output_outlets().map_err(fault)?.len();
                if outputs != 1 {
                    return Err(format!(
                        "the network has {outputs} outputs; expected the name of one as `output` in the JSON file"
                    ));
                }
            }
        }
        network.set_input_fact(0, f32::fact([1, 3, height as usize, width as usize]).into()).map_err(fault)?;
        let network = network.into_optimized().map_err(fault)?;
        let output = network.output_fact(0).map_err(fault)?;
        let length = match output.shape.as_concrete() {
            Some([1, length]) if *length > 0 && output.datum_type == f32::datum_type() => *length,
            _ => return Err(format!("the output is {output:?}, expected f32 of 1 x length")),
        };
        Ok(OnnxNetwork { runnable: network.into_runnable().map_err(fault)?, width, height, length })
    }
}

impl Backbone for OnnxNetwork {
    fn forward(&self, pictures: &PixelBatch) -> Result<Vec<Vec<f32>>, Error> {
        // One picture a thread, because tract runs a network on one thread.
        pictures.map_chunks(1, |picture, _| Ok(vec![self.one(picture).map_err(Error::Compute)?]))
    }
}

/// Width and height of the input: the declared size, completed by the description.
fn input_size(network: &InferenceModel, description: &OnnxDescription) -> Result<(u32, u32), String> {
    let fact = network.input_fact(0).map_err(|e| e.to_string())?;
    let fault = || format!("the input is {}, expected f32 of 1 x 3 x height x width", fact.format_dt_shape());
    let dims: Vec<Option<usize>> =
        fact.shape.dims().map(|dim| dim.concretize().and_then(|dim| dim.to_usize().ok())).collect();
    let other_type = fact.datum_type.concretize().is_some_and(|datum_type| datum_type != f32::datum_type());
    let [batch, channels, height, width] = dims[..] else { return Err(fault()) };
    if other_type || batch.is_some_and(|n| n != 1) || channels.is_some_and(|n| n != 3) {
        return Err(fault());
    }
    let side = |name: &str, declared: Option<usize>, described: Option<u32>| match (declared, described) {
        (Some(declared), Some(described)) if declared != described as usize => {
            Err(format!("{name} {described} in the JSON file, but {declared} in the network"))
        }
        (None, None) => Err(format!("the network leaves its {name} open; expected it in the JSON file")),
        (declared, described) => match declared.and_then(|n| u32::try_from(n).ok()).or(described) {
            Some(side @ 1..=LIMIT) => Ok(side),
            other => Err(format!("{name} {}; expected 1 to {LIMIT}", other.unwrap_or(u32::MAX))),
        },
    };
    Ok((side("width", width, description.width)?, side("height", height, description.height)?))
}

/// Opens the encoder of an ONNX file and the JSON file beside it. Its id is `known` if that id has the same
/// bytes.
///
/// # Errors [`Error::OnnxFile`] and [`Error::OnnxDescriptionFile`] if a file cannot be read, [`Error::Onnx`]
/// for its content.
pub(super) fn open(path: &Path, known: Option<&str>) -> Result<Arc<dyn Encoder>, Error> {
    let beside = path.with_extension("json");
    let bytes = std::fs::read(path).map_err(|source| Error::OnnxFile { path: path.to_owned(), source })?;
    let text = std::fs::read(&beside).map_err(|source| Error::OnnxDescriptionFile { path: beside.clone(), source })?;
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |found: String| Error::Onnx { path, found }
    };
    let description = OnnxDescription::parse(&text).map_err(fault(&beside))?;
    let model = tract_onnx::onnx()
        .proto_model_for_read(&mut bytes.as_slice())
        .ok()
        .filter(|model| model.graph.is_some())
        .ok_or_else(|| fault(path)("not an ONNX file".to_owned()))?;
    // tract panics on a graph with an output that belongs to no node.
    let network = catch_panic(|| OnnxNetwork::build(&model, &description)).map_err(fault(path))?;
    let sampling = description.sampling(network.width, network.height).map_err(fault(&beside))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    // Both files determine the features.
    let hash = blake3::Hasher::new().update(&bytes).update(&text).finalize().to_hex();
    let version = format!("/{VERSION}+{}", &hash[..8]);
    let known = known.filter(|id| id.starts_with(ONNX_PREFIX) && id.ends_with(&version));
    let id = known.map_or_else(|| format!("{ONNX_PREFIX}{stem}{version}"), str::to_owned);
    let normalisation = Normalisation { mean: description.mean, deviation: description.deviation };
    let name = format!("{ONNX_PREFIX}{}", path.display());
    Ok(Arc::new(Pooled::new(&name, id, network.length, sampling, normalisation, Box::new(network))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Picture;
    use tract_onnx::pb::{tensor_shape_proto::dimension::Value, type_proto};

    /// Made by `tests/reference/tiny_onnx.py`.
    const TINY: &[u8] = include_bytes!("../../tests/reference/tiny.onnx");
    const IMAGENET: &str = r#"{"mean": [0.485, 0.456, 0.406], "deviation": [0.229, 0.224, 0.225]}"#;

    /// Opens both files from a temporary folder.
    fn open_bytes(model: &[u8], description: &str) -> Result<Arc<dyn Encoder>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.onnx");
        std::fs::write(&path, model).unwrap();
        std::fs::write(dir.path().join("tiny.json"), description).unwrap();
        open(&path, None).map_err(|e| e.to_string().replace(&*dir.path().to_string_lossy(), ""))
    }

    fn model() -> ModelProto {
        tract_onnx::onnx().proto_model_for_read(&mut &TINY[..]).unwrap()
    }

    /// The declared dimensions of the input.
    fn dims(model: &mut ModelProto) -> Vec<&mut Option<Value>> {
        let graph = model.graph.as_mut().unwrap();
        let type_proto::Value::TensorType(tensor) = graph.input[0].r#type.as_mut().unwrap().value.as_mut().unwrap();
        tensor.shape.as_mut().unwrap().dim.iter_mut().map(|dim| &mut dim.value).collect()
    }

    #[test]
    fn features_equal_those_of_onnxruntime() {
        let encoder = open_bytes(TINY, IMAGENET).unwrap();
        let info = encoder.info();
        assert_eq!((info.image_len, info.clip_len, info.sampling.width, info.sampling.height), (5, 15, 12, 8));
        assert_eq!(info.sampling.fit, Fit::Cover { shorter: 12, filter: Filter::Bilinear });
        let pixels = (0..8u32).flat_map(|y| (0..12).flat_map(move |x| (0..3).map(move |c| y * 31 + x * 17 + c * 57)));
        let rgb = pixels.map(|value| (value % 256) as u8).collect();
        let picture = Picture { width: 12, height: 8, rgb };
        // Two pictures test the order of a batch.
        let both = encoder.describe(&[picture.clone(), picture]).unwrap();
        for described in both {
            let expected = [-0.069_854_18, 0.031_698_39, -0.605_278_3, 0.733_369_6, 0.299_871_36];
            for (value, expected) in described.values().iter().zip(expected) {
                assert!((value - expected).abs() < 1e-4, "{:?}", described.values());
            }
        }
    }

    #[test]
    fn the_id_depends_on_both_files() {
        let id = |description: &str| open_bytes(TINY, description).unwrap().info().id.clone();
        assert!(id("{}").starts_with("onnx:tiny/1+"), "{}", id("{}"));
        assert_eq!(id("{}"), id("{}"));
        assert_ne!(id("{}"), id(IMAGENET));
    }

    #[test]
    fn rejects_a_faulty_description() {
        for (description, expected) in [
            ("{", "/tiny.json: EOF"),
            (r#"{"std": [1, 1, 1]}"#, "/tiny.json: unknown field `std`, expected one of `width`"),
            (r#"{"filter": "lanczos"}"#, "/tiny.json: unknown variant `lanczos`, expected `bilinear` or `bicubic`"),
            (r#"{"deviation": [1, 0, 1]}"#, "expected deviations above 0"),
            (r#"{"rate_hz": 0}"#, "rate_hz 0; expected 0.01 to 120"),
            (r#"{"stride_frames": 5}"#, "stride_frames 5; expected 1"),
            (r#"{"width": 13}"#, "/tiny.onnx: width 13 in the JSON file, but 12 in the network"),
            (r#"{"shorter": 11}"#, "/tiny.json: shorter 11; expected 12"),
            (r#"{"output": "nothing"}"#, "/tiny.onnx: the network has no output `nothing`"),
        ] {
            let error = open_bytes(TINY, description).unwrap_err();
            assert!(error.contains(expected), "{description}: {error}");
        }
        assert!(open_bytes(TINY, r#"{"output": "features", "width": 12, "filter": "bicubic"}"#).is_ok());
        assert_eq!(open_bytes(TINY, r#"{"output": "flat"}"#).unwrap().info().image_len, 6);
    }

    #[test]
    fn rejects_a_network_that_is_no_image_encoder() {
        let fault = |change: fn(&mut ModelProto), description: &str| {
            let mut model = model();
            change(&mut model);
            OnnxNetwork::build(&model, &serde_json::from_str(description).unwrap()).err().unwrap()
        };
        let error = fault(|m| *dims(m)[1] = Some(Value::DimValue(1)), "{}");
        assert!(error.contains("1,8,12,F32, expected f32 of 1 x 3 x height x width"), "{error}");
        let error = fault(|m| *dims(m)[0] = Some(Value::DimValue(4)), "{}");
        assert!(error.contains("the input is 4,3,8,12,F32"), "{error}");
        let error = fault(|m| *dims(m)[3] = Some(Value::DimParam("w".into())), "{}");
        assert_eq!(error, "the network leaves its width open; expected it in the JSON file");
        let error = fault(|m| m.graph.as_mut().unwrap().output[0].name = "conv".into(), "{}");
        assert!(error.contains("expected f32 of 1 x length"), "{error}");
        let second = |m: &mut ModelProto| {
            let graph = m.graph.as_mut().unwrap();
            let mut flat = graph.output[0].clone();
            flat.name = "flat".into();
            graph.output.push(flat);
        };
        assert!(fault(second, "{}").contains("has 2 outputs; expected the name of one"), "{}", fault(second, "{}"));
        let error = fault(|m| m.graph.as_mut().unwrap().node[1].op_type = "Unheard".into(), "{}");
        assert!(error.contains("tract cannot run this network") && error.contains("Unheard"), "{error}");
    }

    #[test]
    fn the_description_completes_an_open_size() {
        let mut model = model();
        *dims(&mut model)[2] = Some(Value::DimParam("h".into()));
        *dims(&mut model)[3] = None;
        let description = serde_json::from_str(r#"{"width": 40, "height": 20}"#).unwrap();
        let network = OnnxNetwork::build(&model, &description).unwrap();
        assert_eq!((network.length, network.width, network.height), (5, 40, 20));
    }

    #[test]
    fn a_damaged_file_does_not_panic() {
        for length in (0..TINY.len()).step_by(13) {
            assert!(open_bytes(&TINY[..length], "{}").is_err(), "{length} bytes of {}", TINY.len());
        }
        assert!(open_bytes(b"\x89PNG\r\n", "{}").unwrap_err().contains("/tiny.onnx: not an ONNX file"));
    }

    #[test]
    fn caught_panics_nest() {
        hide_caught_panics();
        let inner = || catch_panic(|| -> Result<(), String> { panic!("inner") });
        assert!(catch_panic(|| Ok(inner().is_err() && CATCHING.get())).unwrap());
        assert!(catch_panic(|| -> Result<u8, String> { panic!("outer") }).is_err());
        assert!(!CATCHING.get());
    }

    #[test]
    fn a_renamed_file_keeps_its_known_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("renamed.onnx");
        std::fs::write(&path, TINY).unwrap();
        std::fs::write(path.with_extension("json"), "{}").unwrap();
        let known = open_bytes(TINY, "{}").unwrap().info().id.clone();
        let id = |known: &str| open(&path, Some(known)).unwrap().info().id.clone();
        assert_eq!(id(&known), known);
        // An id with other bytes is another encoder's.
        let (name, own) = (id("onnx:tiny/1+00000000"), id("layout/1"));
        assert!(name == own && own.starts_with("onnx:renamed/1+"), "{name} {own}");
    }

    #[test]
    fn names_the_missing_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.onnx");
        assert!(matches!(open(&path, None).unwrap_err(), Error::OnnxFile { path: missing, .. } if missing == path));
        std::fs::write(&path, TINY).unwrap();
        let error = open(&path, None).unwrap_err().to_string();
        assert!(error.contains("tiny.json: ") && error.contains("an ONNX encoder needs this file"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn a_parsed_description_has_a_valid_sampling_or_an_error(
            rate in proptest::num::f64::ANY,
            frames in 0u64..5000,
            stride in 0u64..5000,
            shorter in 0u32..5000,
            deviation in proptest::num::f32::ANY,
        ) {
            let rate = serde_json::json!(rate);
            let json = serde_json::json!({
                "rate_hz": rate, "frames_per_clip": frames, "stride_frames": stride, "shorter": shorter,
                "deviation": [1, 1, deviation],
            });
            let Ok(description) = OnnxDescription::parse(json.to_string().as_bytes()) else { return Ok(()) };
            if let Ok(sampling) = description.sampling(224, 160) {
                proptest::prop_assert!(sampling.rate_hz >= 0.01 && sampling.rate_hz <= 120.0);
                proptest::prop_assert!((1..=sampling.frames_per_clip).contains(&sampling.stride_frames));
                proptest::prop_assert!((224..=LIMIT).contains(&shorter));
                proptest::prop_assert!(description.deviation[2] > 0.0);
            }
        }

        #[test]
        fn a_description_of_any_bytes_does_not_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = OnnxDescription::parse(&bytes);
        }
    }
}
