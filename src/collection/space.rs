//! The spaces of an index.

use std::path::Path;

use reelseek_index::RowPrecision;
use serde::{Deserialize, Serialize};

use super::{Collection, Error, Model};
use crate::encode::registry::LAYOUT;

/// Folder of the kind space in the folder of an index.
pub const KIND_FOLDER: &str = "kind";

/// What a space finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "serve", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// The same scene.
    Scene,
    /// The same kind of scene.
    Kind,
}

impl Space {
    /// The name: `scene` or `kind`.
    pub fn name(self) -> &'static str {
        match self {
            Space::Scene => "scene",
            Space::Kind => "kind",
        }
    }
}

impl Collection {
    /// What the index finds by itself, without its kind space.
    pub fn space(&self) -> Space {
        match self.encoder_id().split('/').next() {
            Some(LAYOUT) => Space::Scene,
            _ => Space::Kind,
        }
    }

    /// The kind space of an index: an index of the same videos, with its own encoder, checkpoint and
    /// calibration. `None` if there is none.
    ///
    /// # Errors
    /// [`Error::KindSpace`] if it cannot be opened.
    pub fn kind(&self) -> Result<Option<Collection>, Error> {
        self.existing_kind(Collection::open)
    }

    /// As [`Collection::kind`], for writing: see [`Collection::open_for_writing`].
    ///
    /// # Errors
    /// As [`Collection::kind`].
    pub fn kind_for_writing(&self) -> Result<Option<Collection>, Error> {
        self.existing_kind(Collection::open_for_writing)
    }

    fn existing_kind(&self, open: fn(&Path) -> Result<Collection, Error>) -> Result<Option<Collection>, Error> {
        let folder = self.folder().join(KIND_FOLDER);
        if self.space() == Space::Kind || !Collection::exists(&folder) {
            return Ok(None);
        }
        open(&folder).map(Some).map_err(Error::of_kind_space)
    }

    /// Creates an empty kind space, or opens the one that another process has created in the meantime. It
    /// stores its vectors in the precision of the index.
    ///
    /// # Errors
    /// [`Error::SingleSpace`] if the index finds kinds by itself; else as [`Collection::create`].
    pub fn create_kind(&self, model: &Model) -> Result<Collection, Error> {
        if self.space() == Space::Kind {
            return Err(Error::SingleSpace { encoder: self.encoder_id().to_owned() });
        }
        let precision: RowPrecision = self.settings().precision;
        match Collection::create(&self.folder().join(KIND_FOLDER), model, precision, 0) {
            Err(Error::Index(reelseek_index::Error::AlreadyExists { path })) => {
                Collection::open_for_writing(&path).map_err(Error::of_kind_space)
            }
            created => created.map_err(Error::of_kind_space),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::ModelChoice;
    use crate::gmf::Folded;

    #[test]
    fn an_index_has_no_kind_space_until_one_is_created() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("index");
        let model = ModelChoice::default().open(|_| Ok::<_, Error>(Folded::embedded())).unwrap();
        let scene = Collection::create(&folder, &model, RowPrecision::Half, 8).unwrap();
        assert_eq!(scene.space(), Space::Scene);
        assert!(scene.kind().unwrap().is_none() && scene.kind_for_writing().unwrap().is_none());

        // A creation that was interrupted leaves a folder without an index.
        std::fs::create_dir_all(folder.join(KIND_FOLDER).join("segments")).unwrap();
        assert!(scene.kind().unwrap().is_none());
        let kind = scene.create_kind(&model).unwrap();
        assert_eq!((kind.settings().precision, kind.settings().sketch), (RowPrecision::Half, 0));
        assert_eq!(scene.kind().unwrap().unwrap().folder(), folder.join("kind"));
        assert_eq!(scene.create_kind(&model).unwrap().folder(), kind.folder());

        // The files of both are verified, and the space of the index itself has not changed.
        assert!(Collection::verify(&folder).unwrap().problems.is_empty());
        std::fs::remove_dir_all(folder.join("kind/segments")).unwrap();
        std::fs::write(folder.join("kind/text/meta.json"), "{").unwrap();
        assert!(!Collection::verify(&folder).unwrap().problems.is_empty());
        assert!(matches!(scene.kind(), Err(Error::KindSpace { .. })));
        assert!(Collection::open(&folder).is_ok());
    }
}
