//! reelseek finds the videos, and the moment in each, that show what a picture shows.
//!
//! # The tour
//!
//! ```text
//! video ─ media ─ frames ─ encode ─ clip features (4096) ─┐ gmf  ┌─ embedding (128, unit) ─ index ─┐
//! image ─ media ─ pixels ─ encode ─ image features (128) ─┘(fold)└─ embedding (128, unit) ─────────┴─ search ─ moments ─ cli │ serve
//!                           features + labels ─ train ─ checkpoint ─┘
//! ```
//!
//! Each room answers one question and may use only the rooms named (a test holds this table):
//!
//! | room | question | uses |
//! |---|---|---|
//! | [`media`] | which pictures are in this file, and when? | - |
//! | [`encode`] | what are the frozen features of this image, of this clip? | media |
//! | `features` | which feature sets are on disk, with which labels and splits? (feature `research`) | base |
//! | [`gmf`] | how do features of unequal lengths become comparable? (model, losses, training, checkpoints) | base, features (training only) |
//! | [`reelseek_index`] | which rows are nearest, among those that pass the filter? | - |
//! | [`search`] | which videos, and when, show what this picture shows? | media, encode, gmf, index |
//! | [`ingest`] | the conductor: videos → media → encode → gmf → index, with an outcome for every file | all above |
//! | `research` | how good are the answers? fits and feature sets from videos (feature `research`) | all above |
//! | [`serve`] | the web page and the HTTP API | media, encode, gmf, search, ingest |
//! | [`cli`] | arguments in, library call, output | everything |
//!
//! A walk through: `cli::index` calls [`ingest::run`], which finds files with [`media::walk`], decodes each with
//! [`media::frames`], describes each frame with [`encode::Descriptor`], joins 8 of them to a clip in
//! [`ingest::ClipBuilder`], embeds that with [`gmf::Folded`] and hands it to [`reelseek_index::Writer`]. `cli::search` reads
//! a picture with [`media::open`] and asks a [`search::Engine`]: the nearest rows, a second look at their frames ([`search::align`]), neighbouring rows joined to moments, and
//! a [`search::Calibration`] that turns all that into confidence.
//! `research::eval::quality` measures how often the answer is correct, `research::eval::kinds` how often an answer of the
//! same kind is found.
//!
//! The Cargo feature `research` adds training and evaluation. The command `dataset` draws a benchmark of frames and clips
//! from annotations (`features::benchmark`), and `extract` builds a `features::FeatureSet` of its rows
//! (`research::extract`). The command `eval` ranks the videos of a split for its images (`research::eval::task`):
//! `methods` map both into one space, `ranking` ranks exactly, `metrics` and `summary` judge the rankings, `table`,
//! `report` and `trec` write the results.
//!
//! The command `train` opens a `features::FeatureSet`, or builds one from videos (`research::fit::pairs`), and calls
//! `gmf::train`. It takes steps with `gmf::CpuStepper` (gradients by hand; `gmf::AutogradStepper` is the reference, and
//! the path to a GPU) and keeps the epoch with the best validation (`research::eval::retrieval`). `gmf::GmfWeights::fold`
//! converts the result to the small [`gmf::Folded`] that indexing and searching use.
//!
//! `cli::serve` opens the same [`search::Engine`] to the web ([`serve::run`]): each request holds one snapshot of the index, passes the guards and waits for its turn; the page in
//! `assets/page` is one of its clients.
//!
//! Which encoders there are says [`encode::registry`]; `cli::encoders` has [`encode::hub`] fetch their weights.
//!
//! Two small helpers belong to no room: `tensors` (safetensors files) and `seeded` (random numbers that never change).

// One file of the engine has `unsafe`: `base/linalg.rs`, for the call of a matrix product. A test holds that.
#![deny(unsafe_code)]

mod base;
#[cfg(feature = "cli")]
pub mod cli;
pub mod collection;
pub mod encode;
#[cfg(feature = "research")]
pub mod features;
pub mod gmf;
pub mod ingest;
pub mod media;
#[cfg(feature = "research")]
pub mod research;
pub mod search;
pub mod serve;

pub use base::Cancel;
