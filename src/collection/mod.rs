//! An index folder: the index, and the encoder and checkpoint that made its vectors.
//!
//! An index records in its attributes which encoder ([`ENCODER`]) and which checkpoint ([`CHECKPOINT`]) made
//! its vectors. A checkpoint other than the embedded one is stored in the folder as [`CHECKPOINT_FILE`].
//! Every command that reads or writes an index goes through [`Collection`], so that these rules are written
//! once.
//!
//! An index may have two spaces. The folder itself finds the same scene. Its subfolder [`KIND_FOLDER`] is an
//! index of the same videos that finds the same kind of scene: see [`Collection::kind`].

mod calibration;
mod error;
mod file;
mod metadata;
mod model;
mod space;
mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reelseek_index::{Index, IndexSettings, RowPrecision, Searcher, Writer};

pub use calibration::{Calibration, EvidenceKind};
pub use error::Error;
pub use file::{indexed_file, video_path};
pub(crate) use file::{link_target, modified_ns, open_at_once};
pub(crate) use metadata::{MAX_LABEL_BYTES, MAX_LABELS, MAX_TITLE_BYTES, cut, limited, limited_video};
pub use model::{Model, ModelChoice, ModelChoices};
pub use space::{KIND_FOLDER, Space};
pub use state::{CalibratedOn, CollectionState, DecodeFailure};

use crate::base::files;
use crate::encode::{self, registry};
use crate::gmf::Folded;

/// Index attribute: id of the encoder that made the features.
pub const ENCODER: &str = "encoder";
/// Index attribute: fingerprint of the checkpoint that made the vectors.
pub const CHECKPOINT: &str = "checkpoint";
/// Index attribute: path of the encoder's weights, if the creator of the index named one.
pub const WEIGHTS: &str = "weights";
/// File name of the index's checkpoint in its folder, if that is not the embedded one.
pub const CHECKPOINT_FILE: &str = "checkpoint.safetensors";

/// An index folder.
#[derive(Debug, Clone)]
pub struct Collection {
    folder: PathBuf,
    index: Index,
}

impl Collection {
    /// Whether the folder holds an index, whole or damaged.
    pub fn exists(folder: &Path) -> bool {
        Index::exists(folder)
    }

    /// Opens an index for reading. Writes nothing.
    ///
    /// # Errors
    /// [`Error::Index`] if the folder holds no index, or its manifest cannot be read.
    pub fn open(folder: &Path) -> Result<Collection, Error> {
        Ok(Collection { folder: folder.to_owned(), index: Index::open(folder)? })
    }

    /// Opens an index for writing. If the creation of the index was interrupted before it renamed the
    /// checkpoint, this completes it.
    ///
    /// # Errors
    /// As [`Collection::open`]; [`Error::Io`] if the checkpoint cannot be renamed.
    pub fn open_for_writing(folder: &Path) -> Result<Collection, Error> {
        let collection = Collection::open(folder)?;
        collection.publish_checkpoint()?;
        Ok(collection)
    }

    /// Creates an empty index in a new or empty folder. The model's checkpoint is stored beside it unless it
    /// is the embedded one.
    ///
    /// * `sketch_bytes`: size of the sketch stored with each row, or 0 for none.
    ///
    /// # Errors
    /// [`Error::Index`] if the folder holds an index or other files, or another process is creating an index
    /// in it; [`Error::Io`] if the checkpoint cannot be written; [`Error::Checkpoint`] if it was made for
    /// another encoder.
    pub fn create(
        folder: &Path,
        model: &Model,
        precision: RowPrecision,
        sketch_bytes: u32,
    ) -> Result<Collection, Error> {
        let id = &model.encoder.info().id;
        model.checkpoint.expect_encoder(id, "in use")?;
        let fingerprint = model.checkpoint.fingerprint();
        let mut attributes =
            BTreeMap::from([(ENCODER.to_owned(), id.clone()), (CHECKPOINT.to_owned(), fingerprint.clone())]);
        if let Some(weights) = &model.weights {
            let path = std::path::absolute(weights).unwrap_or_else(|_| weights.clone());
            attributes.insert(WEIGHTS.to_owned(), path.to_string_lossy().into_owned());
        }
        let settings = IndexSettings {
            attributes,
            precision,
            sketch: sketch_bytes,
            ..IndexSettings::new(model.checkpoint.record.invariant)
        };
        // An index without its checkpoint is useless: the checkpoint is on disk before the index exists.
        let pending = pending_checkpoint(folder, &fingerprint);
        let write_checkpoint = || match model.checkpoint == Folded::embedded() {
            true => Ok(()),
            false => files::replace(&pending, |part| std::fs::write(part, model.checkpoint.to_bytes()))
                .map_err(Error::io(&pending)),
        };
        let created = Index::create_after(folder, &settings, write_checkpoint);
        let elsewhere = |error: &Error| matches!(error, Error::Index(reelseek_index::Error::Locked { .. }));
        if created.as_ref().is_err_and(|error| !elsewhere(error)) && !Index::exists(folder) {
            // No later run would use the file. An error of the removal is ignored: the first error is
            // reported.
            let _ = std::fs::remove_file(&pending);
        }
        let collection = Collection { folder: folder.to_owned(), index: created? };
        collection.publish_checkpoint()?;
        Ok(collection)
    }

    /// Reads every file of an index, of both spaces, and compares checksums.
    ///
    /// # Errors
    /// [`Error::Index`] if the folder holds no index. Damage is part of the report.
    pub fn verify(folder: &Path) -> Result<reelseek_index::VerifyReport, Error> {
        let mut report = Index::verify(folder)?;
        let kind = folder.join(KIND_FOLDER);
        if Index::exists(&kind) {
            report.problems.extend(Index::verify(&kind)?.problems);
        }
        Ok(report)
    }

    /// The folder, as given.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The settings recorded at creation.
    pub fn settings(&self) -> &IndexSettings {
        self.index.settings()
    }

    /// Id of the encoder that made the features. An index without the attribute was made by `layout`.
    pub fn encoder_id(&self) -> &str {
        self.settings().attributes.get(ENCODER).map_or(encode::layout::ID, String::as_str)
    }

    /// A snapshot of the last commit.
    ///
    /// # Errors
    /// [`Error::Index`] if a segment cannot be opened.
    pub fn searcher(&self) -> Result<Searcher, Error> {
        Ok(self.index.searcher()?)
    }

    /// The writer; there is one at a time.
    ///
    /// # Errors
    /// [`Error::Index`] if another process writes, or the index cannot be read.
    pub fn writer(&self) -> Result<Writer, Error> {
        Ok(self.index.writer()?)
    }

    /// The encoder and the checkpoint of the index: the recorded ones, or copies that `choice` names.
    ///
    /// # Errors
    /// [`Error::Encoder`] if the encoder's weights are missing or not the recorded ones, or if weights are
    /// named for an encoder that has none;
    /// [`Error::Checkpoint`] if the checkpoint cannot be read; [`Error::MissingCheckpoint`] if the index's
    /// own checkpoint file is gone; [`Error::OtherCheckpoint`] if the checkpoint is not the recorded one.
    pub fn model(&self, choice: &ModelChoice) -> Result<Model, Error> {
        let attributes = &self.settings().attributes;
        let id = self.encoder_id();
        let named = choice.checkpoint.as_deref().map(Folded::open).transpose()?;
        let name = choice.encoder.as_deref().unwrap_or(id.split('/').next().unwrap_or(id));
        // Earlier versions also recorded a file that they did not read.
        let recorded = attributes.get(WEIGHTS).filter(|_| name != registry::LAYOUT);
        let weights = choice.named_weights().or_else(|| recorded.map(PathBuf::from));
        let encoder = registry::open_known(name, weights.as_deref(), Some(id))?;
        registry::check_id(id, encoder.as_ref(), "the index")?;
        let own = self.folder.join(CHECKPOINT_FILE);
        let (is_named, has_own) = (named.is_some(), own.exists());
        let checkpoint = match named {
            Some(checkpoint) => checkpoint,
            None if has_own => Folded::open(&own)?,
            None => Folded::embedded(),
        };
        let given = checkpoint.fingerprint();
        if let Some(found) = attributes.get(CHECKPOINT).filter(|found| **found != given) {
            let found = found.clone();
            return Err(match is_named || has_own {
                true => Error::OtherCheckpoint { found, given },
                false => Error::MissingCheckpoint { path: own, fingerprint: found },
            });
        }
        checkpoint.expect_encoder(id, "in use")?;
        Ok(Model { encoder, checkpoint, weights })
    }

    /// Renames the checkpoint of an interrupted creation to its final name.
    fn publish_checkpoint(&self) -> Result<(), Error> {
        let Some(fingerprint) = self.settings().attributes.get(CHECKPOINT) else { return Ok(()) };
        let (pending, path) = (pending_checkpoint(&self.folder, fingerprint), self.folder.join(CHECKPOINT_FILE));
        if pending.exists() {
            std::fs::rename(&pending, &path).map_err(Error::io(&path))?;
        }
        Ok(())
    }
}

/// The name of the checkpoint while its index is being created. [`Index::create`] accepts files with this
/// prefix in the folder, so that an interrupted creation can be repeated.
fn pending_checkpoint(folder: &Path, fingerprint: &str) -> PathBuf {
    folder.join(format!("text.new.checkpoint.{fingerprint}"))
}

/// The path of these bytes. Only Unix has paths of any bytes.
fn path_of_bytes(bytes: Vec<u8>) -> PathBuf {
    #[cfg(unix)]
    let path: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(bytes);
    #[cfg(not(unix))]
    let path = String::from_utf8_lossy(&bytes).into_owned();
    PathBuf::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded() -> Model {
        ModelChoice::default().open(|_| Ok::<_, Error>(Folded::embedded())).unwrap()
    }

    fn create(folder: &Path) -> (Model, Collection) {
        let model = embedded();
        let collection = Collection::create(folder, &model, RowPrecision::Full, 0).unwrap();
        (model, collection)
    }

    #[test]
    fn a_new_index_records_its_encoder_and_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let (model, collection) = create(&dir.path().join("index"));
        assert_eq!(collection.encoder_id(), encode::layout::ID);
        assert_eq!(collection.settings().attributes[CHECKPOINT], model.checkpoint.fingerprint());
        assert!(!collection.folder().join(CHECKPOINT_FILE).exists(), "the embedded checkpoint needs no file");
        let opened = collection.model(&ModelChoice::default()).unwrap();
        assert_eq!(opened.checkpoint, model.checkpoint);
    }

    #[test]
    fn an_index_whose_checkpoint_is_gone_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("index");
        let mut model = embedded();
        model.checkpoint.image.bias[0] += 1.0;
        let collection = Collection::create(&folder, &model, RowPrecision::Full, 0).unwrap();
        let file = folder.join(CHECKPOINT_FILE);
        // Stored as f16, so the numbers are rounded.
        let fingerprint = model.checkpoint.fingerprint();
        assert_eq!(collection.model(&ModelChoice::default()).unwrap().checkpoint.fingerprint(), fingerprint);

        let copy = dir.path().join("copy.safetensors");
        std::fs::rename(&file, &copy).unwrap();
        let error = collection.model(&ModelChoice::default()).unwrap_err();
        assert!(matches!(error, Error::MissingCheckpoint { path, .. } if path == file));
        let choice = ModelChoice { checkpoint: Some(copy), ..ModelChoice::default() };
        assert_eq!(collection.model(&choice).unwrap().checkpoint.fingerprint(), fingerprint);
    }

    #[test]
    fn opening_for_writing_completes_an_interrupted_creation() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("index");
        let (model, _) = create(&folder);
        let pending = pending_checkpoint(&folder, &model.checkpoint.fingerprint());
        std::fs::write(&pending, model.checkpoint.to_bytes()).unwrap();
        Collection::open(&folder).unwrap();
        assert!(pending.exists(), "reading changes nothing");
        Collection::open_for_writing(&folder).unwrap();
        assert!(!pending.exists() && folder.join(CHECKPOINT_FILE).exists());
    }

    #[test]
    fn weights_are_refused_if_the_encoder_has_none_unless_an_earlier_version_recorded_them() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("index");
        let recorded = Model { weights: Some("weights.safetensors".into()), ..embedded() };
        let collection = Collection::create(&folder, &recorded, RowPrecision::Full, 0).unwrap();
        assert!(collection.settings().attributes.contains_key(WEIGHTS));
        assert_eq!(collection.model(&ModelChoice::default()).unwrap().weights, None);
        let choice = ModelChoice { weights: Some("/w.npz".into()), ..ModelChoice::default() };
        let refused = |error: Error| matches!(error, Error::Encoder(encode::Error::TakesNoWeights { .. }));
        assert!(refused(collection.model(&choice).unwrap_err()));
        assert!(refused(choice.open(|_| Ok::<_, Error>(Folded::embedded())).unwrap_err()));
    }

    #[test]
    fn another_checkpoint_than_the_recorded_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mut model, collection) = create(&dir.path().join("index"));
        model.checkpoint.image.bias[0] += 1.0;
        let file = dir.path().join("other.safetensors");
        std::fs::write(&file, model.checkpoint.to_bytes()).unwrap();
        let choice = ModelChoice { checkpoint: Some(file), ..ModelChoice::default() };
        assert!(matches!(collection.model(&choice), Err(Error::OtherCheckpoint { .. })));
    }
}
