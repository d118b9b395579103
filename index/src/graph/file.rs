//! A graph's file. The layout is described byte by byte in the crate's README.

use std::path::{Path, PathBuf};

use super::build::{Graph, Reach};
use super::walk::{Scratch, descend, walk};
use super::{Ground, MAX_LEVEL, NONE, Towers, Upper};
use crate::error::{Error, Result};
use crate::manifest::{FileMeta, SegmentMeta};
use crate::map::Mapped;
use crate::packed::{Coded, Codes};
use crate::segment::{self, word};

const MAGIC: &[u8; 8] = b"RSEEKNSW";
const VERSION: u32 = 1;
const HEADER: usize = 64;

/// What the header says; the offsets follow from it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head {
    rows: u32,
    m: u32,
    ef_construction: u32,
    /// Rows with levels above the ground.
    towers: u32,
    /// Lists above the ground.
    lists: u32,
    /// Tower at which walks begin.
    entry: u32,
    /// Its highest level.
    top: u32,
    /// The checksum of the vectors' file.
    vectors: u32,
    seed: u64,
}

/// Offsets of the sections, in bytes.
struct Layout {
    tower_rows: usize,
    tower_first: usize,
    upper: usize,
    end: usize,
    bytes: u64,
}

impl Head {
    fn layout(&self) -> Option<Layout> {
        let words = |n: u64| n.checked_mul(4);
        let (m, towers) = (u64::from(self.m), u64::from(self.towers));
        let tower_rows = (HEADER as u64).checked_add(words(u64::from(self.rows).checked_mul(2 * m)?)?)?;
        let tower_first = tower_rows.checked_add(words(towers)?)?;
        let upper = tower_first.checked_add(words(towers + 1)?)?;
        let end = upper.checked_add(words(u64::from(self.lists).checked_mul(m)?)?)?;
        let bytes = end.checked_add(4)?;
        let at = |place: u64| usize::try_from(place).ok();
        Some(Layout {
            tower_rows: at(tower_rows)?,
            tower_first: at(tower_first)?,
            upper: at(upper)?,
            end: at(end)?,
            bytes,
        })
    }

    fn bytes(&self, size: u64) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        let words = [VERSION, self.rows, self.m, self.ef_construction, self.towers, self.lists, self.entry, self.top];
        for (place, word) in header[8..40].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        header[40..48].copy_from_slice(&size.to_le_bytes());
        header[48..56].copy_from_slice(&self.seed.to_le_bytes());
        header[56..60].copy_from_slice(&self.vectors.to_le_bytes());
        let crc = crc32fast::hash(&header[..60]);
        header[60..].copy_from_slice(&crc.to_le_bytes());
        header
    }

    fn read(header: &[u8]) -> Head {
        Head {
            rows: word(header, 12),
            m: word(header, 16),
            ef_construction: word(header, 20),
            towers: word(header, 24),
            lists: word(header, 28),
            entry: word(header, 32),
            top: word(header, 36),
            seed: u64::from(word(header, 48)) | u64::from(word(header, 52)) << 32,
            vectors: word(header, 56),
        }
    }
}

/// Writes a graph durably, as [`segment::write`] does; `vectors` is the checksum of the vectors' file.
pub(crate) fn write(dir: &Path, name: &str, graph: &Graph, vectors: u32) -> Result<FileMeta> {
    let words = |n: usize| u32::try_from(n).unwrap_or(NONE);
    let m = graph.settings.m;
    let head = Head {
        rows: words(graph.ground.len() / (2 * m as usize)),
        m,
        ef_construction: graph.settings.ef_construction,
        towers: words(graph.tower_rows.len()),
        lists: words(graph.upper.len() / m as usize),
        entry: graph.entry,
        top: graph.top,
        vectors,
        seed: graph.settings.seed,
    };
    let too_large =
        || Error::Argument { what: "graph", expected: "a size this machine can address", found: name.into() };
    let layout = head.layout().ok_or_else(too_large)?;
    let crc = segment::replace(dir, name, |out| {
        out.write(&head.bytes(layout.bytes))?;
        for part in [&graph.ground, &graph.tower_rows, &graph.tower_first, &graph.upper] {
            out.words(part.iter().copied())?;
        }
        Ok(())
    })?;
    Ok(FileMeta { bytes: layout.bytes, crc })
}

/// An open graph. What is followed in it is compared with its bounds first, since open does not read it through.
#[derive(Debug)]
pub(crate) struct Frozen {
    path: PathBuf,
    map: Mapped,
    m: usize,
    rows: u32,
    entry: u32,
    top: u32,
    tower_rows: usize,
    tower_first: usize,
    upper: usize,
    end: usize,
}

impl Frozen {
    /// Opens the graph of a segment and checks its structure, not its checksum.
    pub(crate) fn open(path: PathBuf, segment: &SegmentMeta, meta: FileMeta) -> Result<Frozen> {
        let map = Mapped::open(&path, meta.bytes)?;
        let bytes = map.bytes();
        let Some(header) = bytes.get(..HEADER) else {
            return Err(Error::damaged(&path, format!("a header of {HEADER} bytes"), format!("{} bytes", bytes.len())));
        };
        if &header[..8] != MAGIC {
            return Err(Error::damaged(&path, "the magic bytes RSEEKNSW", String::from_utf8_lossy(&header[..8])));
        }
        let version = word(header, 8);
        if version != VERSION {
            return Err(Error::Version { path, expected: VERSION, found: version });
        }
        let head = Head::read(header);
        let layout = head.layout().filter(|layout| layout.bytes == meta.bytes && header == head.bytes(layout.bytes));
        let sound = head.m > 0
            && head.rows == segment.rows
            && head.vectors == segment.crc
            && head.top <= MAX_LEVEL
            && (head.entry < head.towers || (head.towers == 0 && head.top == 0));
        let (Some(layout), true) = (layout, sound) else {
            let wanted = format!("the header of a graph of {} rows in {} bytes", segment.rows, meta.bytes);
            return Err(Error::damaged(&path, wanted, format!("one for {} rows with {} links", head.rows, head.m)));
        };
        let crc = word(bytes, layout.end);
        if crc != meta.crc {
            return Err(Error::damaged(&path, format!("trailing checksum {:08x}", meta.crc), format!("{crc:08x}")));
        }
        if map.words(HEADER..layout.end).is_none() {
            return Err(Error::damaged(&path, "aligned sections", "a misaligned mapping"));
        }
        Ok(Frozen {
            m: head.m as usize,
            rows: head.rows,
            entry: head.entry,
            top: head.top,
            tower_rows: layout.tower_rows,
            tower_first: layout.tower_first,
            upper: layout.upper,
            end: layout.end,
            path,
            map,
        })
    }

    fn words(&self, from: usize, to: usize) -> &[u32] {
        self.map.words(from..to).unwrap_or(&[])
    }

    fn ground(&self) -> Ground<'_, u32> {
        Ground { links: self.words(HEADER, self.tower_rows), stride: 2 * self.m }
    }

    fn towers(&self) -> Towers<'_> {
        let first = self.words(self.tower_first, self.upper);
        Towers { rows: self.words(self.tower_rows, self.tower_first), first }
    }

    /// Leaves in the scratch's pool the `ef` rows found nearest to the query, nearest first.
    pub(crate) fn walk(&self, codes: Codes<'_>, query: &mut Coded, ef: usize, scratch: &mut Scratch) {
        let towers = self.towers();
        let links = self.words(self.upper, self.end);
        let mut at = self.entry;
        for level in (1..=self.top).rev() {
            let layer = Upper { towers, links, stride: self.m, level };
            at = descend(&layer, codes, query, at, scratch);
        }
        let row = |tower: u32| towers.rows.get(tower as usize).copied().unwrap_or(0);
        // The entry's row too: from there every row is reached.
        walk(&self.ground(), codes, query, &[row(at), row(self.entry)], ef, scratch);
    }

    /// Compares the checksum, and follows every link.
    pub(crate) fn verify(&self) -> Result<()> {
        let bytes = self.map.bytes();
        let (wanted, found) = (word(bytes, self.end), crc32fast::hash(&bytes[..self.end]));
        if found != wanted {
            return Err(Error::damaged(&self.path, format!("checksum {wanted:08x}"), format!("{found:08x}")));
        }
        let ground = self.ground();
        if let Some(link) = ground.links.iter().find(|link| **link >= self.rows && **link != NONE) {
            return Err(Error::damaged(&self.path, format!("links below {}", self.rows), link));
        }
        let start = self.towers().rows.get(self.entry as usize).copied().unwrap_or(0);
        let reached = if start < self.rows { Reach::from(&ground, start).reached } else { 0 };
        if reached != self.rows as usize {
            let wanted = format!("all of {} rows to be reached from row {start}", self.rows);
            return Err(Error::damaged(&self.path, wanted, format!("{reached} reached")));
        }
        Ok(())
    }

    pub(crate) fn check_file(&self) -> Result<()> {
        self.map.check(&self.path)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.map.bytes().len() as u64
    }
}
