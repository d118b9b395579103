//! A graph file. The README of the crate describes the layout byte by byte.

use std::path::{Path, PathBuf};

use super::build::{BuiltGraph, ReachableRows};
use super::walk::{WalkScratch, descend, walk};
use super::{BaseLayer, MAX_LEVEL, NONE, UpperLayer, UpperNodes};
use crate::error::{Error, Result};
use crate::io::{self, HEADER_BYTES, u32_at, u64_at};
use crate::manifest::{FileMeta, SegmentMeta};
use crate::map::MappedFile;
use crate::packed::{CodedVector, RowCodes};

const MAGIC: &[u8; 8] = b"RSEEKNSW";
const VERSION: u32 = 1;

/// The numbers in the header. All offsets follow from them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct GraphHeader {
    rows: u32,
    m: u32,
    ef_construction: u32,
    /// Number of upper nodes.
    upper_nodes: u32,
    /// Number of lists above the base level.
    lists: u32,
    /// Upper node at which walks start.
    entry: u32,
    /// Highest level of that node.
    top: u32,
    /// Checksum of the segment file.
    vectors: u32,
    seed: u64,
}

/// Offsets of the sections in bytes.
#[derive(Clone, Copy, Debug)]
struct GraphSections {
    upper_rows: usize,
    upper_lists: usize,
    upper: usize,
    end: usize,
    /// Size of the file.
    bytes: u64,
}

impl GraphHeader {
    /// `None` if a size overflows.
    fn sections(&self) -> Option<GraphSections> {
        let size = |n: u32| usize::try_from(n).ok();
        let words = |n: usize| n.checked_mul(4);
        let (m, upper_nodes) = (size(self.m)?, size(self.upper_nodes)?);
        let upper_rows = HEADER_BYTES.checked_add(words(size(self.rows)?.checked_mul(2)?.checked_mul(m)?)?)?;
        let upper_lists = upper_rows.checked_add(words(upper_nodes)?)?;
        let upper = upper_lists.checked_add(words(upper_nodes.checked_add(1)?)?)?;
        let end = upper.checked_add(words(size(self.lists)?.checked_mul(m)?)?)?;
        Some(GraphSections { upper_rows, upper_lists, upper, end, bytes: end.checked_add(4)? as u64 })
    }

    fn bytes(&self, size: u64) -> [u8; HEADER_BYTES] {
        let GraphHeader { rows, m, ef_construction, upper_nodes, lists, entry, top, vectors, seed } = *self;
        let words = [VERSION, rows, m, ef_construction, upper_nodes, lists, entry, top];
        io::header(MAGIC, &words, &[size, seed], vectors)
    }

    fn read(header: &[u8]) -> GraphHeader {
        GraphHeader {
            rows: u32_at(header, 12),
            m: u32_at(header, 16),
            ef_construction: u32_at(header, 20),
            upper_nodes: u32_at(header, 24),
            lists: u32_at(header, 28),
            entry: u32_at(header, 32),
            top: u32_at(header, 36),
            seed: u64_at(header, 48),
            vectors: u32_at(header, 56),
        }
    }
}

/// Writes a graph file durably (see [`io::replace`]). `vectors` is the checksum of the segment file.
pub(crate) fn write(dir: &Path, name: &str, graph: &BuiltGraph, vectors: u32) -> Result<FileMeta> {
    let count = |n: usize| u32::try_from(n).unwrap_or(NONE);
    let m = graph.settings.m;
    let header = GraphHeader {
        rows: count(graph.base.len() / (2 * m as usize)),
        m,
        ef_construction: graph.settings.ef_construction,
        upper_nodes: count(graph.upper_rows.len()),
        lists: count(graph.upper.len() / m as usize),
        entry: graph.entry,
        top: graph.top,
        vectors,
        seed: graph.settings.seed,
    };
    let too_large =
        || Error::Argument { what: "graph", expected: "a size this machine can address", found: name.into() };
    let sections = header.sections().ok_or_else(too_large)?;
    let crc = io::replace(dir, name, |out| {
        out.write(&header.bytes(sections.bytes))?;
        [&graph.base, &graph.upper_rows, &graph.upper_lists, &graph.upper].iter().try_for_each(|part| out.write(part))
    })?;
    Ok(FileMeta { bytes: sections.bytes, crc })
}

/// An open graph file. Opening does not read the links; each is checked when it is followed.
#[derive(Debug)]
pub(crate) struct GraphFile {
    path: PathBuf,
    map: MappedFile,
    m: usize,
    rows: u32,
    entry: u32,
    top: u32,
    sections: GraphSections,
}

impl GraphFile {
    /// Opens the graph of a segment and checks its structure, but not its checksum.
    pub(crate) fn open(path: PathBuf, segment: &SegmentMeta, meta: FileMeta) -> Result<GraphFile> {
        let map = MappedFile::open(&path, meta.bytes)?;
        let bytes = map.bytes();
        let found = io::check_header(bytes, &path, MAGIC, VERSION)?;
        let header = GraphHeader::read(found);
        let sections = header.sections();
        let sections = sections.filter(|sections| sections.bytes == meta.bytes && found == header.bytes(meta.bytes));
        let sound = header.m > 0
            && header.rows == segment.rows
            && header.vectors == segment.crc
            && header.top <= MAX_LEVEL
            && (header.entry < header.upper_nodes || (header.upper_nodes == 0 && header.top == 0));
        let (Some(sections), true) = (sections, sound) else {
            let expected = format!("the header of a graph of {} rows in {} bytes", segment.rows, meta.bytes);
            let found = format!("one for {} rows with {} links", header.rows, header.m);
            return Err(Error::damaged(&path, expected, found));
        };
        io::check_trailer(bytes, &path, meta.crc)?;
        if map.slice::<u32>(HEADER_BYTES..sections.end).is_none() {
            return Err(Error::damaged(&path, "aligned sections", "a misaligned mapping"));
        }
        let GraphHeader { m, rows, entry, top, .. } = header;
        Ok(GraphFile { m: m as usize, rows, entry, top, sections, path, map })
    }

    fn words(&self, from: usize, to: usize) -> &[u32] {
        self.map.slice(from..to).unwrap_or(&[])
    }

    fn base(&self) -> BaseLayer<'_, u32> {
        BaseLayer { links: self.words(HEADER_BYTES, self.sections.upper_rows), stride: 2 * self.m }
    }

    fn upper_nodes(&self) -> UpperNodes<'_> {
        let GraphSections { upper_rows, upper_lists, upper, .. } = self.sections;
        UpperNodes { rows: self.words(upper_rows, upper_lists), first: self.words(upper_lists, upper) }
    }

    /// Leaves the `ef` rows found nearest to the query in the pool of `scratch`, nearest first.
    pub(crate) fn walk(&self, codes: RowCodes<'_>, query: &mut CodedVector, ef: usize, scratch: &mut WalkScratch) {
        let upper_nodes = self.upper_nodes();
        let links = self.words(self.sections.upper, self.sections.end);
        let mut at = self.entry;
        for level in (1..=self.top).rev() {
            let layer = UpperLayer { upper_nodes, links, stride: self.m, level };
            at = descend(&layer, codes, query, at, scratch);
        }
        let row = |node: u32| upper_nodes.rows.get(node as usize).copied().unwrap_or(0);
        // Also from the row of the entry, from which every row is reachable.
        walk(&self.base(), codes, query, &[row(at), row(self.entry)], ef, scratch);
    }

    /// Compares the checksum, and checks that every row is reachable.
    pub(crate) fn verify(&self) -> Result<()> {
        io::verify_checksum(self.map.bytes(), &self.path)?;
        let base = self.base();
        if let Some(link) = base.links.iter().find(|link| **link >= self.rows && **link != NONE) {
            return Err(Error::damaged(&self.path, format!("links below {}", self.rows), link));
        }
        let start = self.upper_nodes().rows.get(self.entry as usize).copied().unwrap_or(0);
        let reached = if start < self.rows { ReachableRows::from(&base, start).reached } else { 0 };
        if reached != self.rows as usize {
            let expected = format!("all of {} rows to be reachable from row {start}", self.rows);
            return Err(Error::damaged(&self.path, expected, format!("{reached} reachable rows")));
        }
        Ok(())
    }

    /// Returns an error if the file was truncated since it was opened.
    pub(crate) fn check_file(&self) -> Result<()> {
        self.map.check(&self.path)
    }

    /// Size of the file in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.map.bytes().len() as u64
    }
}
