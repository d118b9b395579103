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
//! | [`features`] | which feature sets lie on disk, with which labels and splits? | - |
//! | [`gmf`] | how do features of unequal lengths become comparable? (model, losses, training, checkpoints) | features (training only) |
//! | [`reelseek_index`] | which rows are nearest, among those that pass the filter? | - |
//! | [`search`] | which videos, and when, show what this picture shows? | media, encode, gmf, index |
//! | [`ingest`] | the conductor: videos → media → encode → gmf → index, with an outcome for every file; feature sets and training examples from videos | all above |
//! | [`eval`] | how good are the answers? | all above |
//! | [`serve`] | the web page and the HTTP API | media, encode, gmf, search, ingest |
//! | [`cli`] | arguments in, library call, output | everything |
//!
//! A walk through: `cli::index` calls [`ingest::run`], which finds files with [`media::walk`], decodes each with
//! [`media::frames`], describes each frame with [`encode::Descriptor`], joins 8 of them to a clip in
//! [`ingest::ClipBuilder`], embeds that with [`gmf::Folded`] and hands it to [`reelseek_index::Writer`]. `cli::search` reads
//! a picture with [`media::open`] and asks a [`search::Engine`]: the nearest rows, a second look at their frames ([`search::align`]), neighbouring rows joined to moments, and
//! a [`search::Calibration`] that turns all that into confidence.
//! [`eval::quality`] measures how often that is right, [`eval::kinds`] how often the same kind of scene is found.
//!
//! Research goes another way: `cli::dataset` draws a list of frames and clips from annotations ([`features::benchmark`]), [`ingest::extract`] makes a
//! [`features::Set`] of it, and `cli::eval` asks its images against its videos ([`eval::retrieval::Task`]): [`eval::methods`] bring both into one space, [`eval::ranking`]
//! ranks exactly, [`eval::metrics`] judges and [`eval::summary`] sums up; [`eval::table`], [`eval::report`] and [`eval::trec`] tell.
//!
//! And how a checkpoint comes to be: `cli::train` opens a [`features::Set`], or makes one of videos with [`ingest::pairs`], and hands
//! it to [`gmf::train()`], which steps a [`gmf::Cpu`] (gradients by hand; [`gmf::Autograd`] is the reference, and the way to a GPU) and keeps
//! the epoch that [`eval::retrieval`] finds best. [`gmf::Weights::fold`] makes of it the small [`gmf::Folded`] that indexing and searching use.
//!
//! `cli::serve` opens the same [`search::Engine`] to the web ([`serve::run`]): each request holds one snapshot of the index, passes the guards and waits for its turn; the page in
//! `assets/page` is one of its clients.
//!
//! Which encoders there are says [`encode::registry`]; `cli::encoders` has [`encode::hub`] fetch their weights.
//!
//! Two small helpers belong to no room: `tensors` (safetensors files) and `seeded` (random numbers that never change).

// One file of the engine has `unsafe`: `gmf/gemm.rs`, for the call of a matrix product. A test holds that.
#![deny(unsafe_code)]

mod base;
pub mod cli;
pub mod encode;
pub mod features;
pub mod gmf;
pub mod ingest;
pub mod media;
pub mod research;
pub mod search;
pub mod serve;

pub use base::{Cancel, ErrorPaths};
