//! A segment file: rows of vectors, their time spans and sketches, and the videos they belong to. The layout is
//! described byte by byte in the crate's README.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::graph::file::Frozen;
use crate::manifest::{self, SegmentMeta};
use crate::map::Mapped;
use crate::packed::Planes;
use crate::types::{Settings, Span};

const MAGIC: &[u8; 8] = b"RSEEKVEC";
const VERSION: u32 = 3;
const HEADER: usize = 64;
const SPAN_BYTES: u64 = 12;
const VIDEO_BYTES: u64 = 16;

/// What the header says.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head {
    dim: u32,
    rows: u32,
    videos: u32,
    /// Of a value: 32 or 16.
    bits: u32,
    /// Bytes of a row's sketch.
    sketch: u32,
}

/// Where the sections of a file lie: a pure function of its head.
#[derive(Debug)]
struct Layout {
    second: usize,
    third: usize,
    exponents: usize,
    spans: usize,
    videos: usize,
    sketches: usize,
    bytes: u64,
}

impl Head {
    fn new(settings: &Settings, rows: u64, videos: usize) -> Option<Head> {
        let (dim, rows, videos) =
            (u32::try_from(settings.dim).ok()?, u32::try_from(rows).ok()?, u32::try_from(videos).ok()?);
        Some(Head { dim, rows, videos, bits: settings.precision.bits(), sketch: settings.sketch })
    }

    /// `None` if the sizes overflow.
    fn layout(self) -> Option<Layout> {
        let (dim, rows, videos) = (u64::from(self.dim), u64::from(self.rows), u64::from(self.videos));
        let plane = rows.checked_mul(dim)?;
        let second = (HEADER as u64).checked_add(plane)?;
        let third = second.checked_add(plane)?;
        let exponents = third.checked_add(plane.checked_mul(u64::from(self.bits / 16 - 1) * 2)?)?;
        let spans = exponents.checked_add(rows)?.checked_next_multiple_of(8)?;
        let table = spans.checked_add(rows * SPAN_BYTES)?.checked_next_multiple_of(8)?;
        let sketches = table.checked_add(videos * VIDEO_BYTES)?;
        let bytes = sketches.checked_add(rows * u64::from(self.sketch))?.checked_add(4)?;
        let at = |place: u64| usize::try_from(place).ok();
        at(bytes)?;
        Some(Layout {
            second: at(second)?,
            third: at(third)?,
            exponents: at(exponents)?,
            spans: at(spans)?,
            videos: at(table)?,
            sketches: at(sketches)?,
            bytes,
        })
    }

    fn bytes(self, layout: &Layout) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        let words = [VERSION, self.dim, self.rows, self.videos, self.bits, self.sketch];
        for (place, word) in header[8..32].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let longs = [layout.spans as u64, layout.videos as u64, layout.bytes];
        for (place, long) in header[32..56].chunks_exact_mut(8).zip(longs) {
            place.copy_from_slice(&long.to_le_bytes());
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
    pub(crate) vectors: Planes<'a>,
    pub(crate) sketches: &'a [u8],
}

/// An open segment file. Its sections lie within the file; what its table of videos says is compared with its bounds where it is followed.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    map: Mapped,
    dim: usize,
    rows: usize,
    videos: usize,
    /// Bytes of a row's sketch.
    sketch: usize,
    layout: Layout,
    pub(crate) graph: Option<Frozen>,
}

/// The little-endian word at `at`.
pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

impl Segment {
    /// Opens the files that `meta` describes and checks their structure, not their checksums, nor the table of videos.
    pub(crate) fn open(path: PathBuf, settings: &Settings, meta: &SegmentMeta) -> Result<Segment> {
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
        let (rows, videos) = (meta.rows as usize, meta.videos as usize);
        let head = Head::new(settings, rows as u64, videos);
        let Some((head, layout)) = head.and_then(|head| Some((head, head.layout()?))) else {
            let found = format!("{rows} rows of {}", settings.dim);
            return Err(Error::damaged(&path, "a size this machine can address", found));
        };
        if header != head.bytes(&layout) {
            let told = |head: Head| {
                let Head { dim, rows, videos, bits, sketch } = head;
                format!("{rows} rows of {dim} values of {bits} bits with {sketch} bytes of sketch and {videos} videos")
            };
            let [dim, rows, videos, bits, sketch, crc] = [12, 16, 20, 24, 28, 60].map(|at| word(header, at));
            let wanted = format!("a header for {}", told(head));
            let found = format!("one for {}, checksum {crc:08x}", told(Head { dim, rows, videos, bits, sketch }));
            return Err(Error::damaged(&path, wanted, found));
        }
        if bytes.len() as u64 != layout.bytes {
            return Err(Error::damaged(&path, format!("{} bytes", layout.bytes), format!("{} bytes", bytes.len())));
        }
        let crc = word(bytes, bytes.len() - 4);
        if crc != meta.crc {
            return Err(Error::damaged(&path, format!("trailing checksum {:08x}", meta.crc), format!("{crc:08x}")));
        }
        if map.halves(layout.third..layout.exponents).is_none()
            || map.words(layout.spans..layout.spans + rows * SPAN_BYTES as usize).is_none()
        {
            return Err(Error::damaged(&path, "aligned sections", "a misaligned mapping"));
        }
        let open_graph = |graph| Frozen::open(path.with_file_name(manifest::graph_name(&meta.name)), meta, graph);
        let graph = meta.graph.map(open_graph).transpose()?;
        let (dim, sketch) = (settings.dim, settings.sketch as usize);
        Ok(Segment { map, dim, rows, videos, sketch, layout, graph, path })
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

    /// Compares the checksum of the whole file with the one at its end, and looks through the table of videos.
    pub(crate) fn verify(&self) -> Result<()> {
        let bytes = self.map.bytes();
        let (body, wanted) = (&bytes[..bytes.len() - 4], word(bytes, bytes.len() - 4));
        let found = crc32fast::hash(body);
        if found != wanted {
            return Err(Error::damaged(&self.path, format!("checksum {wanted:08x}"), format!("{found:08x}")));
        }
        self.check_table()
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
        let at = self.layout.videos + i * VIDEO_BYTES as usize;
        let number = u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32;
        // A damaged table must not name rows that are not there.
        let first_row = word(bytes, at + 8).min(self.rows as u32);
        let rows = word(bytes, at + 12).min(self.rows as u32 - first_row);
        Entry { number, first_row, rows }
    }

    /// The least and the greatest number of a video; `None` if there are none.
    pub(crate) fn numbers(&self) -> Option<(u64, u64)> {
        let last = self.videos.checked_sub(1)?;
        Some((self.entry(0).number, self.entry(last).number))
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

    /// The vectors of `rows` rows from `first`; empty if there are not so many.
    pub(crate) fn vectors(&self, first: u32, rows: u32) -> Planes<'_> {
        self.all_vectors().rows(first as usize, first as usize + rows as usize)
    }

    /// The vectors of all rows.
    pub(crate) fn all_vectors(&self) -> Planes<'_> {
        let Layout { second, third, exponents, .. } = self.layout;
        Planes {
            first: self.map.signed(HEADER..second).unwrap_or(&[]),
            second: self.map.signed(second..third).unwrap_or(&[]),
            third: self.map.halves(third..exponents).unwrap_or(&[]),
            exponents: self.map.bytes().get(exponents..exponents + self.rows).unwrap_or(&[]),
            dim: self.dim,
        }
    }

    /// The spans of `rows` rows from `first`, three words a row.
    pub(crate) fn span_words(&self, first: u32, rows: u32) -> &[u32] {
        let at = self.layout.spans + first as usize * SPAN_BYTES as usize;
        self.map.words(at..at + rows as usize * SPAN_BYTES as usize).unwrap_or(&[])
    }

    /// The spans of `rows` rows from `first`.
    pub(crate) fn spans(&self, first: u32, rows: u32) -> impl Iterator<Item = Span> + '_ {
        let words = self.span_words(first, rows).chunks_exact(3);
        words.map(|w| Span { start_ms: w[0], end_ms: w[1], at_ms: w[2] })
    }

    /// The sketches of `rows` rows from `first`, row after row.
    pub(crate) fn sketches(&self, first: u32, rows: u32) -> &[u8] {
        let at = self.layout.sketches + first as usize * self.sketch;
        self.map.bytes().get(at..at + rows as usize * self.sketch).unwrap_or(&[])
    }
}

/// Writes a segment file durably: a temporary name, sync, rename, sync of the folder.
pub(crate) fn write(dir: &Path, name: &str, settings: &Settings, parts: &[Part<'_>]) -> Result<SegmentMeta> {
    let rows: u64 = parts.iter().map(|part| (part.spans.len() / 3) as u64).sum();
    let head = Head::new(settings, rows, parts.len());
    let (head, layout) = head.and_then(|head| Some((head, head.layout()?))).ok_or_else(|| Error::Argument {
        what: "segment",
        expected: "fewer than 2^32 rows, of a size this machine can address",
        found: format!("{rows} rows of {}", settings.dim),
    })?;
    let crc = replace(dir, name, |out| {
        out.write(&head.bytes(&layout))?;
        for part in parts {
            out.signed(part.vectors.first)?;
        }
        for part in parts {
            out.signed(part.vectors.second)?;
        }
        for part in parts {
            out.halves(part.vectors.third)?;
        }
        for part in parts {
            out.write(part.vectors.exponents)?;
        }
        out.pad(layout.spans)?;
        for part in parts {
            out.words(part.spans.iter().copied())?;
        }
        out.pad(layout.videos)?;
        let mut first_row = 0;
        for part in parts {
            let rows = (part.spans.len() / 3) as u32;
            out.write(&part.number.to_le_bytes())?;
            out.words([first_row, rows].into_iter())?;
            first_row += rows;
        }
        for part in parts {
            out.write(part.sketches)?;
        }
        Ok(())
    })?;
    let Head { rows, videos, .. } = head;
    Ok(SegmentMeta { name: name.to_owned(), rows, videos, bytes: layout.bytes, crc, graph: None, rounding: None })
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

    /// Zeros up to offset `to`, fewer than 8.
    fn pad(&mut self, to: usize) -> std::io::Result<()> {
        self.write(&[0; 8][..(to as u64 - self.bytes) as usize])
    }

    fn signed(&mut self, values: &[i8]) -> std::io::Result<()> {
        let mut block = [0; 8192];
        for part in values.chunks(block.len()) {
            block.iter_mut().zip(part).for_each(|(place, value)| *place = value.cast_unsigned());
            self.write(&block[..part.len()])?;
        }
        Ok(())
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
