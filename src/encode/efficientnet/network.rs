//! The forward pass of networks of inverted residuals (MobileNetV2, EfficientNet-Lite).
//!
//! Activations are planes of blocks: the eight values of a block of channels at one position stand together,
//! and a plane holds one block of channels at all positions. A convolution of 1x1 is a matrix product of
//! positions and channels. A depthwise convolution reads one plane and writes one.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use crate::base::tensors::{self, TensorFile};

use super::lanes::{self, LANES, LaneBlock, LaneKernel, Lanes};

/// Blocks of output channels that one pass over the input computes. AVX2 has sixteen registers: twelve hold
/// the sums of six positions, three hold two weights and a value.
const PANEL: usize = 2;
/// Bytes of input that one pass over all panels reads: it must stay in the second level of cache.
const CHUNK_BYTES: usize = 128 << 10;
/// Values of a 3x3 window of three colours, and the blocks that hold them.
const WINDOW: usize = 27;
const WINDOW_BLOCKS: usize = WINDOW.div_ceil(LANES);
/// Output rows of the first convolution that are computed at a time.
const STEM_ROWS: usize = 4;

/// A 1x1 convolution, with its weights in the order in which the kernel reads them.
struct PointwiseLayer {
    inputs: usize,
    outputs: usize,
    panels: Vec<Panel>,
}

/// The weights of at most [`PANEL`] blocks of output channels.
struct Panel {
    first: usize,
    bias: Vec<LaneBlock>,
    /// For each input channel the weights of all output blocks.
    weights: Vec<LaneBlock>,
}

/// A depthwise convolution of `side` x `side`.
struct DepthwiseLayer {
    side: usize,
    stride: usize,
    bias: Vec<LaneBlock>,
    /// For each block of channels, the weights of all places of the window.
    weights: Vec<LaneBlock>,
}

struct MbConv {
    expand: Option<PointwiseLayer>,
    depthwise: DepthwiseLayer,
    project: PointwiseLayer,
    is_residual: bool,
}

/// A network up to the mean of its last activations.
pub(super) struct MbConvNetwork {
    side: usize,
    stem: PointwiseLayer,
    blocks: Vec<MbConv>,
    head: PointwiseLayer,
}

/// The places of a depthwise convolution: TensorFlow's SAME padding.
#[derive(Debug, Clone, Copy)]
struct Placement {
    input: usize,
    output: usize,
    /// Zeros before the first position.
    before: usize,
    /// Positions in a padded row.
    padded: usize,
}

impl Placement {
    fn new(input: usize, side: usize, stride: usize) -> Placement {
        let output = input.div_ceil(stride);
        let needed = (output - 1) * stride + side;
        let before = needed.saturating_sub(input) / 2;
        Placement { input, output, before, padded: needed.max(before + input) }
    }

    /// Index of an input position in the padded plane.
    fn index(&self, y: usize, x: usize) -> usize {
        (y + self.before) * self.padded + self.before + x
    }
}

fn blocks(channels: usize) -> usize {
    channels.div_ceil(LANES)
}

impl PointwiseLayer {
    /// `weights` are (outputs, inputs) row after row.
    fn new(weights: &[f32], bias: &[f32]) -> PointwiseLayer {
        let outputs = bias.len();
        let inputs = weights.len() / outputs;
        let value = |output: usize, input: usize| match output < outputs && input < inputs {
            true => weights[output * inputs + input],
            false => 0.0,
        };
        let block_of =
            |f: &dyn Fn(usize) -> f32, block: usize| LaneBlock(std::array::from_fn(|i| f(block * LANES + i)));
        let count = blocks(outputs);
        let panels = (0..count).step_by(PANEL).map(|first| {
            let members = first..(first + PANEL).min(count);
            let bias_of = |output: usize| bias.get(output).copied().unwrap_or(0.0);
            let weights = (0..blocks(inputs) * LANES)
                .flat_map(|input| members.clone().map(move |block| (input, block)))
                .map(|(input, block)| block_of(&|output| value(output, input), block));
            Panel {
                first,
                weights: weights.collect(),
                bias: members.clone().map(|block| block_of(&bias_of, block)).collect(),
            }
        });
        PointwiseLayer { inputs, outputs, panels: panels.collect() }
    }

    /// Computes `input`, planes of `plane` positions, and gives each result to `sink`.
    #[inline(always)]
    fn apply<L: Lanes>(&self, lanes: L, input: &[LaneBlock], plane: usize, sink: &mut impl Sink) {
        let chunk = (CHUNK_BYTES / (self.inputs * size_of::<f32>())).max(12) / 12 * 12;
        for start in (0..plane).step_by(chunk) {
            let end = (start + chunk).min(plane);
            for panel in &self.panels {
                lanes.call(PanelPass { panel, input, plane, positions: start..end, sink });
            }
        }
    }
}

/// The pass of a panel over some positions.
struct PanelPass<'a, S> {
    panel: &'a Panel,
    input: &'a [LaneBlock],
    plane: usize,
    positions: Range<usize>,
    sink: &'a mut S,
}

impl<S: Sink> LaneKernel for PanelPass<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        match self.panel.bias.len() {
            PANEL => self.tiles::<L, 6, PANEL>(lanes),
            _ => self.tiles::<L, 12, 1>(lanes),
        }
    }
}

impl<S: Sink> PanelPass<'_, S> {
    /// Tiles of `R` positions. The last tile ends with the last position, and repeats some.
    #[inline(always)]
    fn tiles<L: Lanes, const R: usize, const C: usize>(mut self, lanes: L) {
        let Range { start, end } = self.positions.clone();
        if end - start < R {
            for at in start..end {
                self.tile::<L, 1, C>(lanes, at);
            }
            return;
        }
        for at in (start..end).step_by(R) {
            self.tile::<L, R, C>(lanes, at.min(end - R));
        }
    }

    #[inline(always)]
    fn tile<L: Lanes, const R: usize, const C: usize>(&mut self, lanes: L, at: usize) {
        let sums = self.panel.tile::<L, R, C>(lanes, self.input, self.plane, at);
        for row in 0..R {
            for column in 0..C {
                self.sink.put(lanes, at + row, self.panel.first + column, sums[row][column]);
            }
        }
    }
}

impl Panel {
    /// The outputs of `R` positions from `at` on, for the `C` blocks of this panel.
    #[inline(always)]
    fn tile<L: Lanes, const R: usize, const C: usize>(
        &self,
        lanes: L,
        input: &[LaneBlock],
        plane: usize,
        at: usize,
    ) -> [[L::V; C]; R] {
        let (weights, _) = self.weights.as_chunks::<C>();
        let (weights, _) = weights.as_chunks::<LANES>();
        let mut sums = [[lanes.splat(0.0); C]; R];
        for sums in &mut sums {
            for c in 0..C {
                sums[c] = lanes.load(&self.bias[c]);
            }
        }
        for (plane, weights) in input.chunks_exact(plane).zip(weights) {
            let values: &[LaneBlock; R] = plane[at..].first_chunk().expect("a tile ends within the plane");
            for k in 0..LANES {
                for r in 0..R {
                    let value = lanes.splat(values[r].0[k]);
                    for c in 0..C {
                        sums[r][c] = lanes.mul_add(value, lanes.load(&weights[k][c]), sums[r][c]);
                    }
                }
            }
        }
        sums
    }
}

/// Where a convolution puts its results. All methods are `#[inline(always)]`, as those of [`Lanes`].
trait Sink {
    fn put<L: Lanes>(&mut self, lanes: L, position: usize, block: usize, value: L::V);
}

/// Limited to 0..=6.
struct Limited<'a> {
    output: &'a mut [LaneBlock],
    plane: usize,
    start: usize,
}

impl Sink for Limited<'_> {
    #[inline(always)]
    fn put<L: Lanes>(&mut self, lanes: L, position: usize, block: usize, value: L::V) {
        self.output[block * self.plane + self.start + position] = lanes.store(lanes.relu6(value));
    }
}

/// Limited to 0..=6, in padded planes.
struct Padded<'a> {
    output: &'a mut [LaneBlock],
    geometry: Placement,
    /// The block of channels of the first plane.
    first: usize,
    /// The last position, its column, and its index in a padded plane.
    position: usize,
    column: usize,
    index: usize,
}

impl Padded<'_> {
    fn new(output: &mut [LaneBlock], geometry: Placement, first: usize) -> Padded<'_> {
        Padded { output, geometry, first, position: 0, column: 0, index: geometry.index(0, 0) }
    }
}

impl Sink for Padded<'_> {
    #[inline(always)]
    fn put<L: Lanes>(&mut self, lanes: L, position: usize, block: usize, value: L::V) {
        let Placement { input, padded, .. } = self.geometry;
        if self.position != position {
            let follows = position == self.position + 1;
            self.position = position;
            (self.column, self.index) = match follows {
                true if self.column + 1 < input => (self.column + 1, self.index + 1),
                true => (0, self.index + 1 + padded - input),
                false => (position % input, self.geometry.index(position / input, position % input)),
            };
        }
        let plane = (block - self.first) * padded * padded;
        self.output[plane + self.index] = lanes.store(lanes.relu6(value));
    }
}

/// As they are.
struct Linear<'a> {
    output: &'a mut [LaneBlock],
    plane: usize,
}

impl Sink for Linear<'_> {
    #[inline(always)]
    fn put<L: Lanes>(&mut self, lanes: L, position: usize, block: usize, value: L::V) {
        self.output[block * self.plane + position] = lanes.store(value);
    }
}

impl DepthwiseLayer {
    /// `weights` are (channels, side, side) row after row.
    fn new(weights: &[f32], bias: &[f32], side: usize, stride: usize) -> DepthwiseLayer {
        let channels = bias.len();
        let block = |at: usize, of: &dyn Fn(usize) -> f32| {
            let value = |channel: usize| if channel < channels { of(channel) } else { 0.0 };
            LaneBlock(std::array::from_fn(|i| value(at * LANES + i)))
        };
        let places = side * side;
        let weights = (0..blocks(channels))
            .flat_map(|at| (0..places).map(move |place| (at, place)))
            .map(|(at, place)| block(at, &|channel| weights[channel * places + place]));
        let weights = weights.collect();
        let bias = (0..blocks(channels)).map(|at| block(at, &|channel| bias[channel])).collect();
        DepthwiseLayer { side, stride, bias, weights }
    }

    /// One padded plane to one plane, limited to 0..=6.
    #[inline(always)]
    fn apply<L: Lanes>(
        &self,
        lanes: L,
        geometry: Placement,
        block: usize,
        padded: &[LaneBlock],
        output: &mut [LaneBlock],
    ) {
        match (self.side, self.stride) {
            (3, 1) => self.rows::<L, 3, 1>(lanes, geometry, block, padded, output),
            (3, _) => self.rows::<L, 3, 2>(lanes, geometry, block, padded, output),
            (5, 1) => self.rows::<L, 5, 1>(lanes, geometry, block, padded, output),
            _ => self.rows::<L, 5, 2>(lanes, geometry, block, padded, output),
        }
    }

    #[inline(always)]
    fn rows<L: Lanes, const K: usize, const S: usize>(
        &self,
        lanes: L,
        geometry: Placement,
        block: usize,
        padded: &[LaneBlock],
        output: &mut [LaneBlock],
    ) {
        let weights = &self.weights[block * K * K..][..K * K];
        let bias = lanes.load(&self.bias[block]);
        let width = geometry.output;
        macro_rules! with_tiles {
            ($tile:literal) => {
                for (y, row) in output.chunks_exact_mut(width).enumerate() {
                    let input = &padded[y * S * geometry.padded..];
                    let mut at = 0;
                    while at < width {
                        // The last tile ends with the row, and repeats some positions.
                        let x = at.min(width - $tile);
                        let sums = window::<L, K, S, $tile>(lanes, &input[x * S..], geometry.padded, weights, bias);
                        let row = &mut row[x..x + $tile];
                        for t in 0..$tile {
                            row[t] = lanes.store(lanes.relu6(sums[t]));
                        }
                        at += $tile;
                    }
                }
            };
        }
        let cost = |tile: usize| if width < tile { usize::MAX } else { width.div_ceil(tile) * tile };
        match [13, 11, 10, 9, 8].into_iter().min_by_key(|tile| cost(*tile)) {
            Some(13) if width >= 13 => with_tiles!(13),
            Some(11) if width >= 11 => with_tiles!(11),
            Some(10) if width >= 10 => with_tiles!(10),
            Some(9) if width >= 9 => with_tiles!(9),
            _ if width >= 8 => with_tiles!(8),
            _ => with_tiles!(1),
        }
    }
}

/// `T` outputs in a row of a depthwise convolution of `K` x `K` with stride `S`.
#[inline(always)]
fn window<L: Lanes, const K: usize, const S: usize, const T: usize>(
    lanes: L,
    input: &[LaneBlock],
    width: usize,
    weights: &[LaneBlock],
    bias: L::V,
) -> [L::V; T] {
    let mut sums = [bias; T];
    for (y, weights) in weights.chunks_exact(K).enumerate() {
        let row = &input[y * width..][..(T - 1) * S + K];
        for x in 0..K {
            let weight = lanes.load(&weights[x]);
            for t in 0..T {
                sums[t] = lanes.mul_add(lanes.load(&row[t * S + x]), weight, sums[t]);
            }
        }
    }
    sums
}

/// Buffers of one thread.
#[derive(Default)]
struct LayerBuffers {
    now: Vec<LaneBlock>,
    next: Vec<LaneBlock>,
    wide: Vec<LaneBlock>,
    padded: Vec<LaneBlock>,
    windows: Vec<LaneBlock>,
}

/// The pass of one picture.
struct ForwardPass<'a> {
    network: &'a MbConvNetwork,
    /// (3, side, side) row after row.
    picture: &'a [f32],
    scratch: &'a mut LayerBuffers,
}

impl LaneKernel for ForwardPass<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> Vec<f32> {
        let ForwardPass { network, picture, scratch } = self;
        let mut side = network.side.div_ceil(2);
        stem(lanes, network, picture, scratch);
        for block in &network.blocks {
            let geometry = Placement::new(side, block.depthwise.side, block.depthwise.stride);
            inverted_residual(lanes, block, geometry, scratch);
            side = geometry.output;
        }
        mean_of_head(lanes, &network.head, side * side, scratch)
    }
}

#[inline(always)]
fn stem<L: Lanes>(lanes: L, network: &MbConvNetwork, picture: &[f32], scratch: &mut LayerBuffers) {
    let geometry = Placement::new(network.side, 3, 2);
    let (width, plane) = (geometry.output, geometry.output * geometry.output);
    let LayerBuffers { now, windows, .. } = scratch;
    now.resize(blocks(network.stem.outputs) * plane, LaneBlock::default());
    for first in (0..width).step_by(STEM_ROWS) {
        let rows = STEM_ROWS.min(width - first);
        stem_windows(picture, network.side, geometry, first..first + rows, windows);
        let mut sink = Limited { output: now, plane, start: first * width };
        network.stem.apply(lanes, windows, rows * width, &mut sink);
    }
}

/// The windows of some rows of outputs of the first convolution: the values of a window are colours, rows,
/// columns.
#[inline(always)]
fn stem_windows(picture: &[f32], side: usize, geometry: Placement, rows: Range<usize>, windows: &mut Vec<LaneBlock>) {
    let width = geometry.output;
    let count = rows.len() * width;
    windows.clear();
    windows.resize(WINDOW_BLOCKS * count, LaneBlock::default());
    for (number, y) in rows.enumerate() {
        for i in 0..WINDOW {
            let (colour, row, column) = (i / 9, i / 3 % 3, i % 3);
            let Some(row) = (2 * y + row).checked_sub(geometry.before).filter(|row| *row < side) else { continue };
            let input = &picture[(colour * side + row) * side..][..side];
            // The first window may start before the picture, and the last end after it.
            let skip = usize::from(column < geometry.before);
            let input = input[2 * skip + column - geometry.before..].iter().step_by(2);
            let output = &mut windows[i / LANES * count + number * width..][skip..width];
            for (block, value) in output.iter_mut().zip(input) {
                block.0[i % LANES] = *value;
            }
        }
    }
}

#[inline(always)]
fn inverted_residual<L: Lanes>(lanes: L, block: &MbConv, geometry: Placement, scratch: &mut LayerBuffers) {
    let LayerBuffers { now, next, wide, padded, .. } = scratch;
    let (plane, after) = (geometry.input * geometry.input, geometry.output * geometry.output);
    let padded_plane = geometry.padded * geometry.padded;
    padded.clear();
    padded.resize(PANEL * padded_plane, LaneBlock::default());
    wide.resize(block.depthwise.bias.len() * after, LaneBlock::default());
    match &block.expand {
        Some(expand) => {
            for panel in &expand.panels {
                let mut sink = Padded::new(padded, geometry, panel.first);
                lanes.call(PanelPass { panel, input: now, plane, positions: 0..plane, sink: &mut sink });
                for i in 0..panel.bias.len() {
                    let (padded, number) = (&padded[i * padded_plane..][..padded_plane], panel.first + i);
                    let output = &mut wide[number * after..][..after];
                    block.depthwise.apply(lanes, geometry, number, padded, output);
                }
            }
        }
        None => {
            for (number, input) in now.chunks_exact(plane).enumerate() {
                for (y, row) in input.chunks_exact(geometry.input).enumerate() {
                    padded[geometry.index(y, 0)..][..geometry.input].copy_from_slice(row);
                }
                block.depthwise.apply(lanes, geometry, number, padded, &mut wide[number * after..][..after]);
            }
        }
    }
    next.resize(blocks(block.project.outputs) * after, LaneBlock::default());
    block.project.apply(lanes, wide, after, &mut Linear { output: next, plane: after });
    if block.is_residual {
        for (value, input) in next.iter_mut().zip(now.iter()) {
            *value = lanes.store(lanes.add(lanes.load(value), lanes.load(input)));
        }
    }
    std::mem::swap(now, next);
}

#[inline(always)]
fn mean_of_head<L: Lanes>(lanes: L, head: &PointwiseLayer, plane: usize, scratch: &mut LayerBuffers) -> Vec<f32> {
    let LayerBuffers { now, next, .. } = scratch;
    next.resize(blocks(head.outputs) * plane, LaneBlock::default());
    head.apply(lanes, now, plane, &mut Limited { output: next, plane, start: 0 });
    let mut means = Vec::with_capacity(head.outputs);
    for values in next.chunks_exact(plane) {
        let mut sum = lanes.splat(0.0);
        for value in values {
            sum = lanes.add(sum, lanes.load(value));
        }
        means.extend(lanes.store(sum).0.map(|sum| sum / plane as f32));
    }
    means.truncate(head.outputs);
    means
}

/// Weights of a convolution.
struct ConvolutionWeights {
    shape: Vec<usize>,
    values: Vec<f32>,
    bias: Vec<f32>,
}

/// Reads `name.weight` and `name.bias`.
fn weights(file: &TensorFile<'_>, name: &str) -> Result<ConvolutionWeights, tensors::Error> {
    let weight = format!("{name}.weight");
    let shape = file.shape(&weight)?;
    let values = file.take(&weight, &shape)?;
    let bias = file.take(&format!("{name}.bias"), &shape[..1])?;
    Ok(ConvolutionWeights { shape, values, bias })
}

impl MbConvNetwork {
    /// Reads a network. The metadata of the file give the side of pictures, and the stride of each block.
    ///
    /// # Errors
    /// If a tensor is missing or has the wrong shape, or the metadata are not those of a network.
    pub(super) fn read(file: &TensorFile<'_>) -> Result<MbConvNetwork, tensors::Error> {
        let field = |name: &str| {
            let found = file.metadata.get(name);
            found.ok_or_else(|| tensors::Error::Format(format!("no `{name}` in the metadata")))
        };
        let number = |text: &str| text.parse::<usize>().map_err(|e| tensors::Error::Format(format!("{text}: {e}")));
        let pointwise = |name: &str| weights(file, name).map(|w| PointwiseLayer::new(&w.values, &w.bias));
        let mut blocks = Vec::new();
        for (i, stride) in field("strides")?.split(',').enumerate() {
            let stride = number(stride)?;
            let expands = file.shape(&format!("block{i}.expand.weight")).is_ok();
            let expand = expands.then(|| pointwise(&format!("block{i}.expand"))).transpose()?;
            let depthwise = weights(file, &format!("block{i}.depthwise"))?;
            let project = pointwise(&format!("block{i}.project"))?;
            let inputs = expand.as_ref().map_or(depthwise.bias.len(), |expand| expand.inputs);
            blocks.push(MbConv {
                depthwise: DepthwiseLayer::new(&depthwise.values, &depthwise.bias, depthwise.shape[2], stride),
                is_residual: stride == 1 && inputs == project.outputs,
                expand,
                project,
            });
        }
        Ok(MbConvNetwork { side: number(field("side")?)?, stem: pointwise("stem")?, blocks, head: pointwise("head")? })
    }

    /// The features of pictures, each (3, side, side) row after row: one picture on each thread at a time.
    pub(super) fn features(&self, pictures: &[&[f32]]) -> Vec<Vec<f32>> {
        thread_local! {
            static SCRATCH: RefCell<LayerBuffers> = RefCell::default();
        }
        let one = |picture: &&[f32]| {
            SCRATCH.with_borrow_mut(|scratch| lanes::run(ForwardPass { network: self, picture, scratch }))
        };
        pictures.par_iter().map(one).collect()
    }

    /// As [`MbConvNetwork::features`], without the vector instructions of this processor.
    #[cfg(test)]
    pub(super) fn portable_features(&self, picture: &[f32]) -> Vec<f32> {
        lanes::run_portable(ForwardPass { network: self, picture, scratch: &mut LayerBuffers::default() })
    }
}
