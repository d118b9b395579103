//! A segment file: vectors, time spans and sketches of rows, and the table of the videos that they belong to.
//! The README of the crate describes the layout byte by byte.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::graph::file::GraphFile;
use crate::io::{self, HEADER_BYTES, u32_at};
use crate::manifest::SegmentMeta;
use crate::map::MappedFile;
use crate::names;
use crate::packed::RowPlanes;
use crate::types::{IndexSettings, Span};

const MAGIC: &[u8; 8] = b"RSEEKVEC";
const VERSION: u32 = 3;
const SPAN_BYTES: usize = 12;
const VIDEO_BYTES: usize = 16;

/// The sizes in the header. All offsets follow from them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SegmentHeader {
    dim: u32,
    rows: u32,
    videos: u32,
    /// Bits of a value: 32 or 16.
    bits: u32,
    /// Bytes of a sketch.
    sketch: u32,
}

/// Offsets of the sections in bytes.
#[derive(Debug)]
struct SegmentSections {
    second: usize,
    third: usize,
    exponents: usize,
    spans: usize,
    videos: usize,
    sketches: usize,
    /// Size of the file.
    bytes: u64,
}

impl std::fmt::Display for SegmentHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let SegmentHeader { dim, rows, videos, bits, sketch } = self;
        write!(f, "{rows} rows of {dim} values of {bits} bits with {sketch} bytes of sketch and {videos} videos")
    }
}

impl SegmentHeader {
    fn new(settings: &IndexSettings, rows: u64, videos: usize) -> Option<SegmentHeader> {
        let (dim, rows, videos) =
            (u32::try_from(settings.dim).ok()?, u32::try_from(rows).ok()?, u32::try_from(videos).ok()?);
        Some(SegmentHeader { dim, rows, videos, bits: settings.precision.bits(), sketch: settings.sketch })
    }

    /// `None` if a size overflows.
    fn sections(self) -> Option<SegmentSections> {
        let size = |n: u32| usize::try_from(n).ok();
        let (rows, values) = (size(self.rows)?, size(self.rows)?.checked_mul(size(self.dim)?)?);
        let second = HEADER_BYTES.checked_add(values)?;
        let third = second.checked_add(values)?;
        let exponents = third.checked_add(values.checked_mul(size(self.bits / 16 - 1)? * 2)?)?;
        let spans = exponents.checked_add(rows)?.checked_next_multiple_of(8)?;
        let videos = spans.checked_add(rows.checked_mul(SPAN_BYTES)?)?.checked_next_multiple_of(8)?;
        let sketches = videos.checked_add(size(self.videos)?.checked_mul(VIDEO_BYTES)?)?;
        let bytes = sketches.checked_add(rows.checked_mul(size(self.sketch)?)?)?.checked_add(4)? as u64;
        Some(SegmentSections { second, third, exponents, spans, videos, sketches, bytes })
    }

    fn bytes(self, sections: &SegmentSections) -> [u8; HEADER_BYTES] {
        let words = [VERSION, self.dim, self.rows, self.videos, self.bits, self.sketch];
        io::header(MAGIC, &words, &[sections.spans as u64, sections.videos as u64, sections.bytes], 0)
    }
}

/// Entry of a video in the table of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableEntry {
    pub(crate) number: u64,
    pub(crate) first_row: u32,
    pub(crate) rows: u32,
}

/// A video to write.
pub(crate) struct SegmentVideo<'a> {
    pub(crate) number: u64,
    /// `start_ms`, `end_ms`, `at_ms` of each row.
    pub(crate) spans: &'a [u32],
    pub(crate) vectors: RowPlanes<'a>,
    pub(crate) sketches: &'a [u8],
}

/// An open segment file. Its sections are inside the file. Entries of the table are checked when they are
/// used.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    path: PathBuf,
    map: MappedFile,
    dim: usize,
    rows: usize,
    videos: usize,
    /// Bytes of a sketch.
    sketch: usize,
    sections: SegmentSections,
    pub(crate) graph: Option<GraphFile>,
}

impl SegmentFile {
    /// Opens the segment and graph files of `meta` and checks their structure, but neither checksums nor the
    /// table.
    pub(crate) fn open(path: PathBuf, settings: &IndexSettings, meta: &SegmentMeta) -> Result<SegmentFile> {
        let map = MappedFile::open(&path, meta.bytes)?;
        let bytes = map.bytes();
        let header = io::check_header(bytes, &path, MAGIC, VERSION)?;
        let (rows, videos) = (meta.rows as usize, meta.videos as usize);
        let expected = SegmentHeader::new(settings, rows as u64, videos);
        let Some((expected, sections)) = expected.and_then(|header| Some((header, header.sections()?))) else {
            let found = format!("{rows} rows of {}", settings.dim);
            return Err(Error::damaged(&path, "a size this machine can address", found));
        };
        if header != expected.bytes(&sections) {
            let [dim, rows, videos, bits, sketch, crc] = [12, 16, 20, 24, 28, 60].map(|at| u32_at(header, at));
            let found = SegmentHeader { dim, rows, videos, bits, sketch };
            let found = format!("one for {found}, checksum {crc:08x}");
            return Err(Error::damaged(&path, format!("a header for {expected}"), found));
        }
        if bytes.len() as u64 != sections.bytes {
            return Err(Error::damaged(&path, format!("{} bytes", sections.bytes), format!("{} bytes", bytes.len())));
        }
        io::check_trailer(bytes, &path, meta.crc)?;
        if map.slice::<u16>(sections.third..sections.exponents).is_none()
            || map.slice::<u32>(sections.spans..sections.spans + rows * SPAN_BYTES).is_none()
            || map.slice::<[u64; 2]>(sections.videos..sections.sketches).is_none()
        {
            return Err(Error::damaged(&path, "aligned sections", "a misaligned mapping"));
        }
        let open_graph = |graph| GraphFile::open(path.with_file_name(names::graph_name(&meta.name)), meta, graph);
        let graph = meta.graph.map(open_graph).transpose()?;
        let (dim, sketch) = (settings.dim, settings.sketch as usize);
        Ok(SegmentFile { map, dim, rows, videos, sketch, sections, graph, path })
    }

    /// Numbers must ascend, and the rows of the videos must follow one another without gap.
    fn check_table(&self) -> Result<()> {
        let (mut next_number, mut next_row) = (0, 0u64);
        for (i, entry) in self.entries().enumerate() {
            if entry.number < next_number || u64::from(entry.first_row) != next_row {
                let expected = format!("video {i} to have number {next_number} or more and first row {next_row}");
                let found = format!("number {} and first row {}", entry.number, entry.first_row);
                return Err(Error::damaged(&self.path, expected, found));
            }
            next_number = entry.number.saturating_add(1);
            next_row += u64::from(entry.rows);
        }
        if next_row != self.rows as u64 {
            return Err(Error::damaged(&self.path, format!("videos with {} rows in all", self.rows), next_row));
        }
        Ok(())
    }

    /// Compares the checksum of the whole file and checks the table of videos.
    pub(crate) fn verify(&self) -> Result<()> {
        io::verify_checksum(self.map.bytes(), &self.path)?;
        self.check_table()
    }

    /// Size of the segment and graph files in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.map.bytes().len() as u64 + self.graph.as_ref().map_or(0, GraphFile::bytes)
    }

    /// Returns an error if one of the files was truncated since it was opened.
    pub(crate) fn check_file(&self) -> Result<()> {
        self.map.check(&self.path)?;
        self.graph.as_ref().map_or(Ok(()), GraphFile::check_file)
    }

    pub(crate) fn rows(&self) -> u32 {
        self.rows as u32
    }

    /// The video of a row: the last entry that begins at or before the row and is not empty.
    pub(crate) fn entry_of(&self, row: u32) -> Option<TableEntry> {
        let begun = self.table().partition_point(|entry| entry[1] as u32 <= row);
        let entry = self.entry(begun.checked_sub(1)?);
        (row - entry.first_row < entry.rows).then_some(entry)
    }

    /// The table of videos: the number of each, then its first row (the low 32 bits) and its number of rows.
    fn table(&self) -> &[[u64; 2]] {
        self.map.slice(self.sections.videos..self.sections.sketches).unwrap_or(&[])
    }

    fn entry(&self, i: usize) -> TableEntry {
        let [number, rows] = self.table()[i];
        // A damaged table must not point outside the rows.
        let first_row = (rows as u32).min(self.rows as u32);
        TableEntry { number, first_row, rows: ((rows >> 32) as u32).min(self.rows as u32 - first_row) }
    }

    /// The smallest and the largest video number; `None` if there are no videos.
    pub(crate) fn numbers(&self) -> Option<(u64, u64)> {
        let last = self.videos.checked_sub(1)?;
        Some((self.entry(0).number, self.entry(last).number))
    }

    /// All videos, dead ones too, by ascending number and ascending row.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = TableEntry> + '_ {
        (0..self.videos).map(|i| self.entry(i))
    }

    /// The entry of a video, dead or live.
    pub(crate) fn find(&self, number: u64) -> Option<TableEntry> {
        let at = self.table().binary_search_by_key(&number, |entry| entry[0]).ok()?;
        Some(self.entry(at))
    }

    /// The vectors of `rows` rows from `first`; empty if out of range.
    pub(crate) fn vectors(&self, first: u32, rows: u32) -> RowPlanes<'_> {
        self.all_vectors().rows(first as usize, first as usize + rows as usize)
    }

    /// The vectors of all rows.
    pub(crate) fn all_vectors(&self) -> RowPlanes<'_> {
        let SegmentSections { second, third, exponents, .. } = self.sections;
        RowPlanes {
            first: self.map.slice(HEADER_BYTES..second).unwrap_or(&[]),
            second: self.map.slice(second..third).unwrap_or(&[]),
            third: self.map.slice(third..exponents).unwrap_or(&[]),
            exponents: self.map.bytes().get(exponents..exponents + self.rows).unwrap_or(&[]),
            dim: self.dim,
        }
    }

    /// The spans of `rows` rows from `first`, three integers a row.
    pub(crate) fn span_words(&self, first: u32, rows: u32) -> &[u32] {
        let at = self.sections.spans + first as usize * SPAN_BYTES;
        self.map.slice(at..at + rows as usize * SPAN_BYTES).unwrap_or(&[])
    }

    /// The spans of `rows` rows from `first`.
    pub(crate) fn spans(&self, first: u32, rows: u32) -> impl Iterator<Item = Span> + '_ {
        let words = self.span_words(first, rows).chunks_exact(3);
        words.map(|w| Span { start_ms: w[0], end_ms: w[1], at_ms: w[2] })
    }

    /// The sketches of `rows` rows from `first`, row after row.
    pub(crate) fn sketches(&self, first: u32, rows: u32) -> &[u8] {
        let at = self.sections.sketches + first as usize * self.sketch;
        self.map.bytes().get(at..at + rows as usize * self.sketch).unwrap_or(&[])
    }
}

/// Writes a segment file durably (see [`io::replace`]).
pub(crate) fn write(
    dir: &Path,
    name: &str,
    settings: &IndexSettings,
    videos: &[SegmentVideo<'_>],
) -> Result<SegmentMeta> {
    let rows: u64 = videos.iter().map(|video| (video.spans.len() / 3) as u64).sum();
    let header = SegmentHeader::new(settings, rows, videos.len());
    let (header, sections) =
        header.and_then(|header| Some((header, header.sections()?))).ok_or_else(|| Error::Argument {
            what: "segment",
            expected: "fewer than 2^32 rows, of a size this machine can address",
            found: format!("{rows} rows of {}", settings.dim),
        })?;
    let crc = io::replace(dir, name, |out| {
        out.write(&header.bytes(&sections))?;
        videos.iter().try_for_each(|video| out.write(video.vectors.first))?;
        videos.iter().try_for_each(|video| out.write(video.vectors.second))?;
        videos.iter().try_for_each(|video| out.write(video.vectors.third))?;
        videos.iter().try_for_each(|video| out.write(video.vectors.exponents))?;
        out.pad(sections.spans)?;
        videos.iter().try_for_each(|video| out.write(video.spans))?;
        out.pad(sections.videos)?;
        let mut first_row = 0;
        for video in videos {
            let rows = (video.spans.len() / 3) as u32;
            out.write(&[video.number])?;
            out.write(&[first_row, rows])?;
            first_row += rows;
        }
        videos.iter().try_for_each(|video| out.write(video.sketches))
    })?;
    let SegmentHeader { rows, videos, .. } = header;
    Ok(SegmentMeta { name: name.to_owned(), rows, videos, bytes: sections.bytes, crc, graph: None, rounding: None })
}
