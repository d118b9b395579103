//! Image encoders in ONNX files, run by rten, with a JSON file beside each that describes its input.
//!
//! The network has one input, f32 of 1 x 3 x height x width (red, green and blue; the batch size may be
//! symbolic), and an output, f32 of 1 x length. Beside `model.onnx` is `model.json`, an object with the
//! fields of [`OnnxDescription`]. Each field has a default: `{}` fits a network of fixed size that takes
//! pixels as numbers of 0 to 1.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use rten::{DataType, Dimension, Model, NodeId, RunOptions, ThreadPool, ValueType};
use rten_onnx::onnx::{AttributeProto, AttributeType, GraphProto, ModelProto};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensorView, Tensor};
use serde::Deserialize;

use super::models::pooled::{Backbone, Normalisation, PixelBatch, PooledEncoder};
use super::protobuf::is_well_formed;
use super::registry::ONNX_PREFIX;
use super::{Encoder, Error, Sampling};
use crate::base::files;
use crate::media::{Filter, Fit};

/// Size of the largest network that is read, in bytes: the limit of the format.
const MAX_FILE_BYTES: u64 = 2 << 30;
/// Size of the largest description that is read, in bytes.
const MAX_DESCRIPTION_BYTES: u64 = 1 << 20;
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
    filter: Filter,
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

impl Default for OnnxDescription {
    fn default() -> OnnxDescription {
        OnnxDescription {
            width: None,
            height: None,
            shorter: None,
            filter: Filter::Bilinear,
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
        Ok(Sampling {
            rate_hz: self.rate_hz,
            frames_per_clip: self.frames_per_clip,
            stride_frames: self.stride_frames,
            width,
            height,
            fit: Fit::Cover { shorter, filter: self.filter },
        })
    }
}

/// Runs `work`, which may panic on a damaged network: then it is an error.
fn catch_panic<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the network contradicts itself".to_owned()))
}

/// A network for pictures of one size, ready to run.
struct OnnxNetwork {
    model: Model,
    input: NodeId,
    output: NodeId,
    options: RunOptions,
    width: u32,
    height: u32,
    length: usize,
}

impl OnnxNetwork {
    /// The features of one picture, (3, height, width).
    fn one(&self, picture: &[f32]) -> Result<Vec<f32>, String> {
        let shape = [1, 3, self.height as usize, self.width as usize];
        let input = NdTensorView::from_data(shape, picture);
        let run = || self.model.run(vec![(self.input, input.into())], &[self.output], Some(self.options.clone()));
        let value = catch_panic(|| run().map_err(|e| e.to_string()))?.pop().ok_or("the network returned nothing")?;
        let fault = format!("the output is {} of shape {:?}, expected f32 of 1 x length", value.dtype(), value.shape());
        let features: Tensor<f32> = value.try_into().map_err(|_| fault.clone())?;
        match features.shape() {
            &[1, length] if length > 0 => Ok(features.to_vec()),
            _ => Err(fault),
        }
    }

    /// Prepares the network of a file and runs it once, so that a network that rten cannot run is an error
    /// here.
    fn build(mut model: ModelProto, description: &OnnxDescription) -> Result<OnnxNetwork, String> {
        if let Some(graph) = &mut model.graph {
            add_kernel_shapes(graph);
        }
        let fault = |e: String| format!("rten cannot run this network ({e})");
        let bytes = model.write_buf().map_err(|e| fault(e.to_string()))?;
        let model = catch_panic(|| Model::load(bytes).map_err(|e| fault(e.to_string())))?;
        let &[input] = model.input_ids() else {
            let inputs = model.input_ids().len();
            return Err(format!("the network has {inputs} inputs, expected one of 1 x 3 x height x width"));
        };
        let (width, height) = input_size(&model, input, description)?;
        let output = match (&description.output, model.output_ids()) {
            (Some(name), _) => model
                .find_node(name)
                .ok_or_else(|| format!("the network has no output `{name}`, which the JSON file names"))?,
            (None, &[output]) => output,
            (None, outputs) => {
                return Err(format!(
                    "the network has {} outputs; expected the name of one as `output` in the JSON file",
                    outputs.len()
                ));
            }
        };
        // The default is one thread for each physical core, which wastes half of a virtual machine.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let options = RunOptions::default().with_thread_pool(Some(Arc::new(ThreadPool::with_num_threads(threads))));
        let mut network = OnnxNetwork { model, input, output, options, width, height, length: 0 };
        let pixels = vec![0.0; 3 * width as usize * height as usize];
        network.length = network.one(&pixels).map_err(fault)?.len();
        Ok(network)
    }
}

impl Backbone for OnnxNetwork {
    fn forward(&self, pictures: &PixelBatch) -> Result<Vec<Vec<f32>>, Error> {
        // One picture after another: rten runs each on all cores.
        let one = |picture| self.one(picture).map_err(Error::Compute);
        pictures.values.chunks_exact(3 * pictures.height * pictures.width).map(one).collect()
    }
}

/// Adds the attribute `kernel_shape` to convolutions without it, from the shape of their weights. The
/// attribute is optional in ONNX, but rten takes the number of dimensions from it.
fn add_kernel_shapes(graph: &mut GraphProto) {
    let named = graph.initializer.iter().rev().filter_map(|tensor| Some((tensor.name.clone()?, &tensor.dims)));
    let shapes: HashMap<_, _> = named.collect();
    for node in &mut graph.node {
        let is_convolution = matches!(node.op_type.as_deref(), Some("Conv" | "ConvInteger" | "ConvTranspose"));
        let is_known = node.attribute.iter().any(|attribute| attribute.name.as_deref() == Some("kernel_shape"));
        let shape = node.input.get(1).and_then(|weights| shapes.get(weights));
        if let (true, false, Some(shape)) = (is_convolution, is_known, shape) {
            node.attribute.push(AttributeProto {
                name: Some("kernel_shape".to_owned()),
                ints: shape.iter().skip(2).copied().collect(),
                r#type: Some(AttributeType::INTS),
                ..AttributeProto::default()
            });
        }
    }
}

/// Width and height of the input: the declared size, completed by the description.
fn input_size(model: &Model, input: NodeId, description: &OnnxDescription) -> Result<(u32, u32), String> {
    let info = model.node_info(input);
    let dtype = info.as_ref().and_then(|info| info.dtype());
    let dims = info.and_then(|info| info.shape()).unwrap_or_default();
    let text: Vec<String> = dims
        .iter()
        .map(|dim| match dim {
            Dimension::Fixed(n) => n.to_string(),
            Dimension::Symbolic(name) => name.clone(),
        })
        .collect();
    let fault = || {
        let dtype = dtype.map_or("of unknown type".to_owned(), |dtype| dtype.to_string());
        format!("the input is {dtype} of {}, expected f32 of 1 x 3 x height x width", text.join(" x "))
    };
    let fixed = |dim: &Dimension| match dim {
        Dimension::Fixed(n) => Some(*n),
        Dimension::Symbolic(_) => None,
    };
    let [batch, channels, height, width] = dims.iter().map(fixed).collect::<Vec<_>>()[..] else { return Err(fault()) };
    let other_type = dtype.is_some_and(|dtype| dtype != ValueType::Tensor(DataType::Float));
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
    let bytes =
        files::read(path, MAX_FILE_BYTES).map_err(|source| Error::OnnxFile { path: path.to_owned(), source })?;
    let text = files::read(&beside, MAX_DESCRIPTION_BYTES)
        .map_err(|source| Error::OnnxDescriptionFile { path: beside.clone(), source })?;
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |found: String| Error::Onnx { path, found }
    };
    let description = OnnxDescription::parse(&text).map_err(fault(&beside))?;
    let model = Some(&bytes)
        .filter(|bytes| is_well_formed(bytes))
        .and_then(|bytes| ModelProto::parse_buf(bytes).ok())
        .filter(|model| model.graph.is_some())
        .ok_or_else(|| fault(path)("not an ONNX file".to_owned()))?;
    let network = OnnxNetwork::build(model, &description).map_err(fault(path))?;
    let sampling = description.sampling(network.width, network.height).map_err(fault(&beside))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    // Both files determine the features.
    let hash = blake3::Hasher::new().update(&bytes).update(&text).finalize().to_hex();
    let version = format!("/{VERSION}+{}", &hash[..8]);
    let known = known.filter(|id| id.starts_with(ONNX_PREFIX) && id.ends_with(&version));
    let id = known.map_or_else(|| format!("{ONNX_PREFIX}{stem}{version}"), str::to_owned);
    let normalisation = Normalisation { mean: description.mean, deviation: description.deviation };
    let name = format!("{ONNX_PREFIX}{}", path.display());
    Ok(Arc::new(PooledEncoder::new(&name, id, network.length, sampling, normalisation, Box::new(network))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Picture;

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
        ModelProto::parse_buf(TINY).unwrap()
    }

    /// Declares the size of one dimension of the input.
    fn declare(model: &mut ModelProto, dim: usize, value: Option<i64>) {
        let input = &mut model.graph.as_mut().unwrap().input[0];
        let shape = input.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().shape.as_mut().unwrap();
        shape.dim[dim].dim_value = value;
        shape.dim[dim].dim_param = value.is_none().then(|| "open".to_owned());
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
            OnnxNetwork::build(model, &serde_json::from_str(description).unwrap()).err().unwrap()
        };
        let error = fault(|m| declare(m, 1, Some(1)), "{}");
        assert!(error.contains("x 1 x 8 x 12, expected f32 of 1 x 3 x height x width"), "{error}");
        let error = fault(|m| declare(m, 0, Some(4)), "{}");
        assert!(error.contains("of 4 x 3 x 8 x 12"), "{error}");
        let error = fault(|m| declare(m, 3, None), "{}");
        assert_eq!(error, "the network leaves its width open; expected it in the JSON file");
        let error = fault(|m| m.graph.as_mut().unwrap().output[0].name = Some("conv".into()), "{}");
        assert!(error.contains("expected f32 of 1 x length"), "{error}");
        let second = |m: &mut ModelProto| {
            let outputs = &mut m.graph.as_mut().unwrap().output;
            outputs.push(Default::default());
            outputs[1].name = Some("flat".into());
        };
        assert!(fault(second, "{}").contains("has 2 outputs; expected the name of one"), "{}", fault(second, "{}"));
        let error = fault(|m| m.graph.as_mut().unwrap().node[1].op_type = Some("Unheard".into()), "{}");
        assert!(error.contains("rten cannot run this network") && error.contains("Unheard"), "{error}");
    }

    #[test]
    fn the_description_completes_an_open_size() {
        let mut model = model();
        declare(&mut model, 2, None);
        declare(&mut model, 3, None);
        let description = serde_json::from_str(r#"{"width": 40, "height": 20}"#).unwrap();
        let network = OnnxNetwork::build(model, &description).unwrap();
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
