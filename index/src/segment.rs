//! A segment file: rows of vectors, their time spans, and the videos they belong to. The layout is
//! described byte by byte in the crate's README.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::graph::Plane;
use crate::graph::file::Frozen;
use crate::manifest::{self, SegmentMeta};
use crate::map::Mapped;
use crate::simd::Halves;
use crate::types::Span;

const MAGIC: &[u8; 8] = b"RSEEKVEC";
const VERSION: u32 = 2;
const HEADER: usize = 64;
const SPAN_BYTES: u64 = 12;
const VIDEO_BYTES: u64 = 16;

/// Where the sections of a file lie: a pure function of its counts.
struct Layout {
    spans: u64,
    videos: u64,
    bytes: u64,
}

impl Layout {
    /// `None` if the sizes overflow.
    fn new(dim: u32, rows: u32, videos: u32) -> Option<Layout> {
        let (dim, rows, videos) = (u64::from(dim), u64::from(rows), u64::from(videos));
        let spans = (HEADER as u64).checked_add(rows.checked_mul(dim)?.checked_mul(4)?)?;
        let table = spans.checked_add(rows * SPAN_BYTES)?.checked_next_multiple_of(8)?;
        let bytes = table.checked_add(videos * VIDEO_BYTES + 4)?;
        usize::try_from(bytes).ok()?;
        Some(Layout { spans, videos: table, bytes })
    }

    fn header(&self, dim: u32, rows: u32, videos: u32) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        for (at, word) in [(8, VERSION), (12, dim), (16, rows), (20, videos)] {
            header[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        for (at, long) in [(24, HEADER as u64), (32, self.spans), (40, self.videos), (48, self.bytes)] {
            header[at..at + 8].copy_from_slice(&long.to_le_bytes());
        }
        let crc = crc32fast::hash(&header[..60]);
        header[60..].copy_from_slice(&crc.to_le_bytes());
        header
    }
}

/// A video's entry in a segment's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) number: u64,
    pub(crate) first_row: u32,
    pub(crate) rows: u32,
}

/// A video to be written.
pub(crate) struct Part<'a> {
    pub(crate) number: u64,
    /// start, end, at: three words a row.
    pub(crate) spans: &'a [u32],
    pub(crate) vectors: Halves<'a>,
}

/// An open segment file. Everything that later calls index with was checked on open.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    map: Mapped,
    dim: usize,
    rows: usize,
    videos: usize,
    spans_at: usize,
    videos_at: usize,
    pub(crate) graph: Option<Frozen>,
}

/// The little-endian word at `at`.
pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

impl Segment {
    /// Opens the files that `meta` describes and checks their structure, not their checksums.
    pub(crate) fn open(path: PathBuf, dim: usize, meta: &SegmentMeta) -> Result<Segment> {
        let map = Mapped::open(&path, meta.bytes)?;
        let bytes = map.bytes();
        let Some(header) = bytes.get(..HEADER) else {
            return Err(Error::damaged(&path, format!("a header of {HEADER} bytes"), format!("{} bytes", bytes.len())));
        };
        if &header[..8] != MAGIC {
            return Err(Error::damaged(&path, "the magic bytes RSEEKVEC", String::from_utf8_lossy(&header[..8])));
        }
        let version = word(header, 8);
        if version != VERSION {
            return Err(Error::Version { path, expected: VERSION, found: version });
        }
        let layout = u32::try_from(dim).ok().and_then(|dim| Some((dim, Layout::new(dim, meta.rows, meta.videos)?)));
        let Some((dim_word, layout)) = layout else {
            return Err(Error::damaged(
                &path,
                "a size this machine can address",
                format!("{} rows of {dim}", meta.rows),
            ));
        };
        if header != layout.header(dim_word, meta.rows, meta.videos) {
            let wanted = format!("a header for {} rows of {dim} values and {} videos", meta.rows, meta.videos);
            let (found_dim, rows, videos, crc) =
                (word(header, 12), word(header, 16), word(header, 20), word(header, 60));
            let found = format!("one for {rows} rows of {found_dim} values and {videos} videos, checksum {crc:08x}");
            return Err(Error::damaged(&path, wanted, found));
        }
        if bytes.len() as u64 != layout.bytes {
            return Err(Error::damaged(&path, format!("{} bytes", layout.bytes), format!("{} bytes", bytes.len())));
        }
        let crc = word(bytes, bytes.len() - 4);
        if crc != meta.crc {
            return Err(Error::damaged(&path, format!("trailing checksum {:08x}", meta.crc), format!("{crc:08x}")));
        }
        let (rows, videos) = (meta.rows as usize, meta.videos as usize);
        let (spans_at, videos_at) = (layout.spans as usize, layout.videos as usize);
        let open_graph = |graph| Frozen::open(path.with_file_name(manifest::graph_name(&meta.name)), meta, graph);
        let graph = meta.graph.map(open_graph).transpose()?;
        let segment = Segment { map, dim, rows, videos, spans_at, videos_at, graph, path };
        if segment.map.halves(HEADER..spans_at).is_none()
            || segment.map.words(spans_at..spans_at + rows * SPAN_BYTES as usize).is_none()
        {
            return Err(Error::damaged(&segment.path, "aligned sections", "a misaligned mapping"));
        }
        segment.check_table()?;
        Ok(segment)
    }

    /// Numbers ascend and the videos' rows follow one another without gap.
    fn check_table(&self) -> Result<()> {
        let (mut next_number, mut next_row) = (0, 0u64);
        for (i, entry) in self.entries().enumerate() {
            if entry.number < next_number || u64::from(entry.first_row) != next_row {
                let wanted = format!("video {i} to have number {next_number} or more and first row {next_row}");
                let found = format!("number {} and first row {}", entry.number, entry.first_row);
                return Err(Error::damaged(&self.path, wanted, found));
            }
            next_number = entry.number.saturating_add(1);
            next_row += u64::from(entry.rows);
        }
        if next_row != self.rows as u64 {
            return Err(Error::damaged(&self.path, format!("videos with {} rows in all", self.rows), next_row));
        }
        Ok(())
    }

    /// Compares the checksum of the whole file with the one at its end.
    pub(crate) fn verify(&self) -> Result<()> {
        let bytes = self.map.bytes();
        let (body, wanted) = (&bytes[..bytes.len() - 4], word(bytes, bytes.len() - 4));
        let found = crc32fast::hash(body);
        if found != wanted {
            return Err(Error::damaged(&self.path, format!("checksum {wanted:08x}"), format!("{found:08x}")));
        }
        Ok(())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.map.bytes().len() as u64 + self.graph.as_ref().map_or(0, Frozen::bytes)
    }

    /// Whether the files are still as long as they were.
    pub(crate) fn check_file(&self) -> Result<()> {
        self.map.check(&self.path)?;
        self.graph.as_ref().map_or(Ok(()), Frozen::check_file)
    }

    pub(crate) fn rows(&self) -> u32 {
        self.rows as u32
    }

    /// What a graph is built over, and walks read.
    pub(crate) fn plane(&self) -> Plane<'_> {
        Plane { high: self.vectors(0, self.rows()).high, dim: self.dim }
    }

    /// The video of a row: the last entry that begins at the row or before, and is not empty.
    pub(crate) fn entry_of(&self, row: u32) -> Option<Entry> {
        let (mut low, mut high) = (0, self.videos);
        while low < high {
            let middle = low.midpoint(high);
            if self.entry(middle).first_row <= row { low = middle + 1 } else { high = middle }
        }
        let entry = self.entry(low.checked_sub(1)?);
        (row - entry.first_row < entry.rows).then_some(entry)
    }

    fn entry(&self, i: usize) -> Entry {
        let bytes = self.map.bytes();
        let at = self.videos_at + i * VIDEO_BYTES as usize;
        let number = u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32;
        Entry { number, first_row: word(bytes, at + 8), rows: word(bytes, at + 12) }
    }

    /// Videos, dead ones too, by ascending number and ascending row.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = Entry> + '_ {
        (0..self.videos).map(|i| self.entry(i))
    }

    /// The entry of a video, dead or live.
    pub(crate) fn find(&self, number: u64) -> Option<Entry> {
        let (mut low, mut high) = (0, self.videos);
        while low < high {
            let middle = low.midpoint(high);
            let entry = self.entry(middle);
            match entry.number.cmp(&number) {
                std::cmp::Ordering::Equal => return Some(entry),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The vectors of `rows` rows from `first`; empty if out of range, which open has excluded for entries.
    pub(crate) fn vectors(&self, first: u32, rows: u32) -> Halves<'_> {
        let plane = self.rows * self.dim * 2;
        let (from, to) = (first as usize * self.dim * 2, (first as usize + rows as usize) * self.dim * 2);
        let part = |plane: usize| self.map.halves(plane + from..plane + to).unwrap_or(&[]);
        Halves { high: part(HEADER), low: part(HEADER + plane) }
    }

    /// The spans of `rows` rows from `first`, three words a row.
    pub(crate) fn span_words(&self, first: u32, rows: u32) -> &[u32] {
        let at = self.spans_at + first as usize * SPAN_BYTES as usize;
        self.map.words(at..at + rows as usize * SPAN_BYTES as usize).unwrap_or(&[])
    }

    /// The spans of `rows` rows from `first`.
    pub(crate) fn spans(&self, first: u32, rows: u32) -> impl Iterator<Item = Span> + '_ {
        let words = self.span_words(first, rows).chunks_exact(3);
        words.map(|w| Span { start_ms: w[0], end_ms: w[1], at_ms: w[2] })
    }
}

/// Writes a segment file durably: a temporary name, sync, rename, sync of the folder.
pub(crate) fn write(dir: &Path, name: &str, dim: usize, parts: &[Part<'_>]) -> Result<SegmentMeta> {
    let too_large = |found: String| Error::Argument { what: "segment", expected: "fewer than 2^32 rows", found };
    let rows: u64 = parts.iter().map(|part| (part.spans.len() / 3) as u64).sum();
    let words = (u32::try_from(dim), u32::try_from(rows), u32::try_from(parts.len()));
    let (Ok(dim), Ok(rows), Ok(videos)) = words else {
        return Err(too_large(format!("{rows} rows")));
    };
    let layout = Layout::new(dim, rows, videos).ok_or_else(|| too_large(format!("{rows} rows of {dim}")))?;
    let crc = replace(dir, name, |out| {
        out.write(&layout.header(dim, rows, videos))?;
        for part in parts {
            out.halves(part.vectors.high)?;
        }
        for part in parts {
            out.halves(part.vectors.low)?;
        }
        for part in parts {
            out.words(part.spans.iter().copied())?;
        }
        out.write(&[0; 8][..(layout.videos - out.bytes) as usize])?;
        let mut first_row = 0;
        for part in parts {
            let rows = (part.spans.len() / 3) as u32;
            out.write(&part.number.to_le_bytes())?;
            out.words([first_row, rows].into_iter())?;
            first_row += rows;
        }
        Ok(())
    })?;
    Ok(SegmentMeta { name: name.to_owned(), rows, videos, bytes: layout.bytes, crc, graph: None })
}

/// Writes a file and, at its end, its checksum, which is the result: under a temporary name, then sync, rename, sync of the folder.
pub(crate) fn replace(dir: &Path, name: &str, fill: impl FnOnce(&mut Checked) -> std::io::Result<()>) -> Result<u32> {
    let (path, temporary) = (dir.join(name), dir.join(format!("{name}.tmp")));
    let file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
    let mut out = Checked { out: BufWriter::with_capacity(1 << 18, file), crc: crc32fast::Hasher::new(), bytes: 0 };
    let written = fill(&mut out).and_then(|()| {
        let crc = out.crc.clone().finalize();
        out.write(&crc.to_le_bytes())?;
        out.out.flush()?;
        out.out.get_ref().sync_all()?;
        Ok(crc)
    });
    let crc = written.map_err(Error::io("write", &temporary))?;
    fs::rename(&temporary, &path).map_err(Error::io("rename to", &path))?;
    sync_dir(dir)?;
    Ok(crc)
}

/// Makes names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", dir))?;
    }
    Ok(())
}

/// A file being written, with the checksum of what was.
pub(crate) struct Checked {
    out: BufWriter<File>,
    crc: crc32fast::Hasher,
    bytes: u64,
}

impl Checked {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.crc.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn halves(&mut self, halves: &[u16]) -> std::io::Result<()> {
        let mut block = [0; 8192];
        for part in halves.chunks(block.len() / 2) {
            block.chunks_exact_mut(2).zip(part).for_each(|(place, half)| place.copy_from_slice(&half.to_le_bytes()));
            self.write(&block[..part.len() * 2])?;
        }
        Ok(())
    }

    pub(crate) fn words(&mut self, mut words: impl Iterator<Item = u32>) -> std::io::Result<()> {
        let mut block = [0; 8192];
        loop {
            let mut filled = 0;
            for (place, word) in block.chunks_exact_mut(4).zip(&mut words) {
                place.copy_from_slice(&word.to_le_bytes());
                filled += 4;
            }
            self.write(&block[..filled])?;
            if filled < block.len() {
                return Ok(());
            }
        }
    }
}
