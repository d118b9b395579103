//! The structure of HEIF files (HEIC and AVIF): which coded pictures a file has, where they lie, and how they
//! form one picture. A telephone stores a grid of tiles, each of which is a coded picture.
//!
//! ISO/IEC 23008-12 defines the boxes. Nothing is decoded here.

use std::collections::HashMap;

use image::metadata::Orientation;

/// Most tiles of a picture: 268 million pixels in tiles of 256 x 256.
const MAX_TILES: usize = 4096;
/// The largest structure. That of 4096 tiles takes some 200 kB; in memory it becomes up to 24 times as large.
const MAX_META_BYTES: usize = 1 << 20;
/// Most properties of an item.
const MAX_PROPERTIES: usize = 255;
/// Most separate parts of the data of all tiles. Tiles may share their data.
const MAX_PARTS: usize = 1 << 16;
/// Most bytes of the configuration records of all tiles. Tiles may share a record.
const MAX_CONFIG_BYTES: usize = 4 << 20;

/// The codec of the tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeifCodec {
    /// H.265, in HEIC files.
    Hevc,
    /// AV1, in AVIF files.
    Av1,
}

/// A step from the decoded to the displayed picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum HeifTransform {
    /// A rotation, or the exchange of two sides.
    Turn(Orientation),
    /// Left, top, width and height of the displayed part.
    Crop([u32; 4]),
}

/// A coded picture.
#[derive(Debug)]
pub(super) struct HeifTile<'a> {
    /// The codec's configuration record: the content of `hvcC` or `av1C`.
    pub(super) config: &'a [u8],
    /// The parts of the coded data.
    pub(super) data: Vec<&'a [u8]>,
    /// Whether the file ends before the coded data do.
    pub(super) is_cut: bool,
}

/// The picture of a HEIF file.
#[derive(Debug)]
pub(super) struct HeifPicture<'a> {
    pub(super) codec: HeifCodec,
    /// Width and height before the transforms.
    pub(super) size: [u32; 2],
    /// Width and height of each tile.
    pub(super) tile_size: [u32; 2],
    /// Number of tiles in a row.
    pub(super) columns: u32,
    /// The tiles, row by row.
    pub(super) tiles: Vec<HeifTile<'a>>,
    /// Opacity of each pixel, as a grey picture.
    pub(super) alpha: Option<Box<HeifPicture<'a>>>,
    /// Steps from the decoded to the displayed picture, in order.
    pub(super) transforms: Vec<HeifTransform>,
}

/// Reads big-endian numbers.
#[derive(Clone, Copy)]
struct HeifReader<'a>(&'a [u8]);

impl<'a> HeifReader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of 0 to 8 bytes.
    fn number(&mut self, bytes: usize) -> Option<u64> {
        Some(self.take(bytes)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.number(1)? as u8)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(self.number(2)? as u16)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(self.number(4)? as u32)
    }

    /// The version and the flags of a box that has them.
    fn version(&mut self) -> Option<(u8, u32)> {
        Some((self.u8()?, self.number(3)? as u32))
    }

    /// A number of two bytes, or of four in a later version.
    fn id(&mut self, is_long: bool) -> Option<u32> {
        if is_long { self.u32() } else { self.u16().map(u32::from) }
    }
}

/// The boxes in some bytes: type and content. A box that is cut short is the last one.
fn boxes(bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut reader = HeifReader(bytes);
    std::iter::from_fn(move || {
        let size = u64::from(reader.u32()?);
        let kind = reader.take(4)?.try_into().ok()?;
        let length = match size {
            0 => reader.0.len() as u64,
            1 => reader.number(8)?.checked_sub(16)?,
            size => size.checked_sub(8)?,
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(reader.0.len());
        Some((kind, reader.take(length)?))
    })
}

fn find<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    boxes(bytes).find(|(found, _)| found == kind).map(|(_, content)| content)
}

/// Where the data of an item lie.
struct ItemLocation {
    /// Whether the data lie in the box `idat` instead of the file.
    in_idat: bool,
    /// Offset and length.
    extents: Vec<[u64; 2]>,
}

/// The properties of each item, in order: type and content.
type ItemProperties<'a> = HashMap<u32, Vec<([u8; 4], &'a [u8])>>;
/// Type, item, and the items that it refers to.
type ItemReference = ([u8; 4], u32, Vec<u32>);

/// The items of a file: pictures, tiles, thumbnails, metadata.
struct HeifItems<'a> {
    file: &'a [u8],
    idat: &'a [u8],
    primary: u32,
    kinds: HashMap<u32, [u8; 4]>,
    locations: HashMap<u32, ItemLocation>,
    properties: ItemProperties<'a>,
    references: Vec<ItemReference>,
}

impl<'a> HeifItems<'a> {
    fn read(file: &'a [u8]) -> Option<HeifItems<'a>> {
        let mut meta = HeifReader(find(file, b"meta").filter(|meta| meta.len() <= MAX_META_BYTES)?);
        meta.version()?;
        let meta = meta.0;
        let mut primary = HeifReader(find(meta, b"pitm")?);
        let version = primary.version()?.0;
        let properties = find(meta, b"iprp").and_then(item_properties);
        Some(HeifItems {
            file,
            idat: find(meta, b"idat").unwrap_or_default(),
            primary: primary.id(version > 0)?,
            kinds: item_kinds(find(meta, b"iinf")?)?,
            locations: item_locations(find(meta, b"iloc")?)?,
            properties: properties.unwrap_or_default(),
            references: find(meta, b"iref").and_then(item_references).unwrap_or_default(),
        })
    }

    fn property(&self, item: u32, kind: &[u8; 4]) -> Option<&'a [u8]> {
        let properties = self.properties.get(&item)?;
        properties.iter().find(|(found, _)| found == kind).map(|(_, content)| *content)
    }

    /// Width and height of an item.
    fn size(&self, item: u32) -> Option<[u32; 2]> {
        let mut reader = HeifReader(self.property(item, b"ispe")?);
        reader.version()?;
        Some([reader.u32()?, reader.u32()?])
    }

    /// The data of an item as far as the file has them, and whether a part is missing. `None` if the item has
    /// no data, or more than the file: its parts overlap.
    fn data(&self, item: u32) -> Option<(Vec<&'a [u8]>, bool)> {
        let location = self.locations.get(&item)?;
        let source = if location.in_idat { self.idat } else { self.file };
        let (mut parts, mut is_cut, mut total) = (Vec::new(), false, 0);
        for [offset, length] in &location.extents {
            let start = usize::try_from(*offset).unwrap_or(usize::MAX).min(source.len());
            let available = source.len() - start;
            let length = match *length {
                // The rest of the file.
                0 => available,
                length => usize::try_from(length).unwrap_or(usize::MAX),
            };
            is_cut |= length > available;
            let part = &source[start..start + length.min(available)];
            total += part.len();
            if total > source.len() {
                return None;
            }
            if !part.is_empty() {
                parts.push(part);
            }
        }
        Some((parts, is_cut))
    }

    fn referred(&self, kind: &[u8; 4], item: u32) -> &[u32] {
        let found = self.references.iter().find(|(found, from, _)| found == kind && *from == item);
        found.map_or(&[], |(_, _, to)| to)
    }

    /// The item with the opacity of another one.
    fn alpha_of(&self, item: u32) -> Option<u32> {
        let is_alpha = |id: u32| {
            let kind = self.property(id, b"auxC").and_then(|content| content.get(4..));
            kind.is_some_and(|kind| {
                let name = kind.split(|byte| *byte == 0).next().unwrap_or_default();
                name == b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha" || name == b"urn:mpeg:hevc:2015:auxid:1"
            })
        };
        let mut auxiliary = self.references.iter().filter(|(kind, _, to)| kind == b"auxl" && to.contains(&item));
        auxiliary.find(|(_, from, _)| is_alpha(*from)).map(|(_, from, _)| *from)
    }

    fn tile(&self, item: u32, codec: HeifCodec) -> Option<HeifTile<'a>> {
        let config = self.property(item, if codec == HeifCodec::Hevc { b"hvcC" } else { b"av1C" })?;
        let (data, is_cut) = self.data(item)?;
        Some(HeifTile { config, data, is_cut })
    }

    /// All tiles. `None` if they have more data than the file: tiles that share their data could make a small
    /// file large.
    fn tiles(&self, items: &[u32], codec: HeifCodec) -> Option<Vec<HeifTile<'a>>> {
        let (mut bytes, mut configs, mut parts) = (0, 0, 0);
        let mut tiles = Vec::new();
        for item in items {
            let tile = self.tile(*item, codec)?;
            bytes += tile.data.iter().map(|part| part.len()).sum::<usize>();
            configs += tile.config.len();
            parts += tile.data.len();
            if bytes > self.file.len() || configs > MAX_CONFIG_BYTES || parts > MAX_PARTS {
                return None;
            }
            tiles.push(tile);
        }
        Some(tiles)
    }

    /// Crop, rotation and mirror of an item.
    fn transforms(&self, item: u32, size: [u32; 2]) -> Vec<HeifTransform> {
        let mut transforms = Vec::new();
        let mut size = size;
        for (kind, content) in self.properties.get(&item).into_iter().flatten() {
            let first = content.first().copied().unwrap_or(0);
            let turn = match (kind, first & 3) {
                // Counted against the clock.
                (b"irot", 1) => Orientation::Rotate270,
                (b"irot", 2) => Orientation::Rotate180,
                (b"irot", 3) => Orientation::Rotate90,
                (b"imir", _) if first & 1 == 0 => Orientation::FlipVertical,
                (b"imir", _) => Orientation::FlipHorizontal,
                (b"clap", _) => {
                    if let Some(part) = clean_aperture(content, size) {
                        size = [part[2], part[3]];
                        transforms.push(HeifTransform::Crop(part));
                    }
                    continue;
                }
                _ => continue,
            };
            if matches!(turn, Orientation::Rotate90 | Orientation::Rotate270) {
                size.reverse();
            }
            transforms.push(HeifTransform::Turn(turn));
        }
        transforms
    }

    /// The picture of an item.
    fn picture(&self, item: u32) -> Result<HeifPicture<'a>, String> {
        let damaged = || "its boxes are damaged".to_owned();
        let kind = self.kinds.get(&item).ok_or_else(damaged)?;
        let codec_of = |kind: &[u8; 4]| match kind {
            b"hvc1" | b"hev1" => Some(HeifCodec::Hevc),
            b"av01" => Some(HeifCodec::Av1),
            _ => None,
        };
        let unknown = |kind: &[u8; 4]| format!("pictures of the type `{}` are not read", kind.escape_ascii());
        let (size, tile_size, columns, tiles) = if kind == b"grid" {
            let parts = self.data(item).filter(|(_, is_cut)| !is_cut).ok_or_else(damaged)?.0;
            let (columns, rows, size) = grid(&parts.concat()).ok_or_else(damaged)?;
            let tiles = self.referred(b"dimg", item);
            if tiles.len() != columns as usize * rows as usize || tiles.len() > MAX_TILES {
                return Err(damaged());
            }
            (size, self.size(tiles[0]).ok_or_else(damaged)?, columns, tiles)
        } else {
            let size = self.size(item).ok_or_else(damaged)?;
            (size, size, 1, std::slice::from_ref(&item))
        };
        let tile_kind = self.kinds.get(&tiles[0]).ok_or_else(damaged)?;
        let codec = codec_of(tile_kind).ok_or_else(|| unknown(tile_kind))?;
        let tiles = self.tiles(tiles, codec).ok_or_else(damaged)?;
        let rows = tiles.len() as u64 / u64::from(columns);
        let covers = |side: u32, count: u64, tile: u32| u64::from(side) <= count * u64::from(tile);
        let covered = covers(size[0], columns.into(), tile_size[0]) && covers(size[1], rows, tile_size[1]);
        if !covered {
            return Err(damaged());
        }
        Ok(HeifPicture { codec, size, tile_size, columns, tiles, alpha: None, transforms: Vec::new() })
    }
}

/// Columns, rows, and the size of a grid.
fn grid(bytes: &[u8]) -> Option<(u32, u32, [u32; 2])> {
    let mut reader = HeifReader(bytes);
    reader.u8()?;
    let is_long = reader.u8()? & 1 == 1;
    let (rows, columns) = (u32::from(reader.u8()?) + 1, u32::from(reader.u8()?) + 1);
    Some((columns, rows, [reader.id(is_long)?, reader.id(is_long)?]))
}

/// Left, top, width and height of the part that `clap` declares, if it lies in the picture.
fn clean_aperture(bytes: &[u8], [width, height]: [u32; 2]) -> Option<[u32; 4]> {
    let mut reader = HeifReader(bytes);
    let mut ratio = |signed: bool| -> Option<f64> {
        let (above, below) = (reader.u32()?, reader.u32()?);
        let above = if signed { f64::from(above as i32) } else { f64::from(above) };
        (below > 0).then(|| above / f64::from(below))
    };
    let [w, h, x, y] = [ratio(false)?, ratio(false)?, ratio(true)?, ratio(true)?];
    let span = |side: u32, part: f64, offset: f64| {
        let start = ((f64::from(side) - part) / 2.0 + offset).round();
        let (start, part) = (start.max(0.0) as u32, part.round() as u32);
        (part > 0 && u64::from(start) + u64::from(part) <= u64::from(side)).then_some([start, part])
    };
    let ([left, w], [top, h]) = (span(width, w, x)?, span(height, h, y)?);
    Some([left, top, w, h])
}

/// The type of each item, from `iinf`.
fn item_kinds(bytes: &[u8]) -> Option<HashMap<u32, [u8; 4]>> {
    let mut reader = HeifReader(bytes);
    let (version, _) = reader.version()?;
    reader.id(version > 0)?;
    let kind = |content: &[u8]| {
        let mut reader = HeifReader(content);
        let (version, _) = reader.version()?;
        let id = reader.id(version > 2)?;
        reader.u16()?;
        Some((id, reader.take(4)?.try_into().ok()?))
    };
    Some(boxes(reader.0).filter(|(name, _)| name == b"infe").filter_map(|(_, content)| kind(content)).collect())
}

/// Where the data of each item lie, from `iloc`.
fn item_locations(bytes: &[u8]) -> Option<HashMap<u32, ItemLocation>> {
    let mut reader = HeifReader(bytes);
    let (version, _) = reader.version()?;
    let sizes = reader.u16()?;
    let [offset_size, length_size, base_size, index_size] = [12, 8, 4, 0].map(|shift| usize::from(sizes >> shift & 15));
    if [offset_size, length_size, base_size, index_size].iter().any(|size| *size > 8) {
        return None;
    }
    let count = reader.id(version > 1)?;
    let mut locations = HashMap::new();
    for _ in 0..count {
        let id = reader.id(version > 1)?;
        let method = if version > 0 { reader.u16()? & 15 } else { 0 };
        reader.u16()?;
        let base = reader.number(base_size)?;
        let count = reader.u16()?;
        let mut extents = Vec::new();
        for _ in 0..count {
            if version > 0 {
                reader.number(index_size)?;
            }
            let offset = base.checked_add(reader.number(offset_size)?)?;
            extents.push([offset, reader.number(length_size)?]);
            // Extents of zero bytes would cost memory for nothing.
            if offset_size + length_size == 0 {
                break;
            }
        }
        if method < 2 {
            locations.insert(id, ItemLocation { in_idat: method == 1, extents });
        }
    }
    Some(locations)
}

/// The properties of each item, from `iprp`.
fn item_properties(bytes: &[u8]) -> Option<ItemProperties<'_>> {
    let all: Vec<_> = boxes(find(bytes, b"ipco")?).collect();
    let mut properties = ItemProperties::new();
    for (_, content) in boxes(bytes).filter(|(name, _)| name == b"ipma") {
        let mut reader = HeifReader(content);
        let (version, flags) = reader.version()?;
        for _ in 0..reader.u32()? {
            let id = reader.id(version > 0)?;
            for _ in 0..reader.u8()? {
                let index = if flags & 1 == 1 { reader.u16()? & 0x7fff } else { u16::from(reader.u8()? & 0x7f) };
                // They count from 1; 0 is no property.
                let property = usize::from(index).checked_sub(1).and_then(|index| all.get(index));
                let of_item = properties.entry(id).or_default();
                of_item.extend(property.filter(|_| of_item.len() < MAX_PROPERTIES).copied());
            }
        }
    }
    Some(properties)
}

/// The references between items, from `iref`.
fn item_references(bytes: &[u8]) -> Option<Vec<ItemReference>> {
    let mut reader = HeifReader(bytes);
    let (version, _) = reader.version()?;
    let reference = |(kind, content)| {
        let mut reader = HeifReader(content);
        let from = reader.id(version > 0)?;
        let count = reader.u16()?;
        Some((kind, from, (0..count).map(|_| reader.id(version > 0)).collect::<Option<_>>()?))
    };
    Some(boxes(reader.0).filter_map(reference).collect())
}

/// Reads the structure of a HEIF file. The error says what is wrong with it.
pub(super) fn parse(file: &[u8]) -> Result<HeifPicture<'_>, String> {
    let items = HeifItems::read(file).ok_or("it has no picture, or its boxes are damaged")?;
    let mut picture = items.picture(items.primary)?;
    // A picture with damaged transparency is read without it.
    let alpha = items.alpha_of(items.primary).and_then(|alpha| items.picture(alpha).ok());
    picture.alpha = alpha.filter(|alpha| alpha.size == picture.size).map(Box::new);
    picture.transforms = items.transforms(items.primary, picture.size);
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn longs(values: &[i32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_be_bytes()).collect()
    }

    #[test]
    fn a_clean_aperture_lies_around_the_centre_or_beside_it() {
        assert_eq!(clean_aperture(&longs(&[20, 1, 10, 1, 0, 1, 0, 1]), [30, 16]), Some([5, 3, 20, 10]));
        assert_eq!(clean_aperture(&longs(&[20, 1, 20, 2, -5, 1, 6, 2]), [30, 16]), Some([0, 6, 20, 10]));
        for outside in [[31, 1, 10, 1, 0, 1, 0, 1], [20, 1, 10, 1, 9, 1, 0, 1], [20, 0, 10, 1, 0, 1, 0, 1], [0; 8]] {
            assert_eq!(clean_aperture(&longs(&outside), [30, 16]), None, "{outside:?}");
        }
    }

    #[test]
    fn boxes_end_with_the_bytes() {
        let found = |bytes: &[u8]| boxes(bytes).map(|(kind, content)| (kind, content.len())).collect::<Vec<_>>();
        assert_eq!(found(b"\0\0\0\x0aabcdxy\0\0\0\x08efgh"), [(*b"abcd", 2), (*b"efgh", 0)]);
        // To the end of the file, a long size, and sizes that are too large and too small.
        assert_eq!(found(b"\0\0\0\0abcdxy"), [(*b"abcd", 2)]);
        assert_eq!(found(b"\0\0\0\x01abcd\0\0\0\0\0\0\0\x11x"), [(*b"abcd", 1)]);
        assert_eq!(found(b"\xff\xff\xff\xffabcdxy"), [(*b"abcd", 2)]);
        assert_eq!(found(b"\0\0\0\x07abcdxy"), []);
    }

    /// A grid (item 1) of 64 x 64 tiles that are all item 2, with these parts of a file of 100,000 bytes.
    fn repeated(grid: Vec<[u64; 2]>, tile: Vec<[u64; 2]>) -> Result<(), String> {
        let file = [[0, 0, 63, 63, 0, 64, 0, 64].to_vec(), vec![1; 100_000]].concat();
        let size = [longs(&[0, 1, 1]), vec![]].concat();
        let properties = vec![(*b"ispe", &size[..]), (*b"hvcC", &file[..30])];
        let location = |extents| ItemLocation { in_idat: false, extents };
        let items = HeifItems {
            file: &file,
            idat: &[],
            primary: 1,
            kinds: [(1, *b"grid"), (2, *b"hvc1")].into(),
            locations: [(1, location(grid)), (2, location(tile))].into(),
            properties: [(1, properties.clone()), (2, properties)].into(),
            references: vec![(*b"dimg", 1, vec![2; 4096])],
        };
        items.picture(1).map(drop)
    }

    #[test]
    fn items_that_repeat_their_data_are_refused_before_they_take_memory() {
        repeated(vec![[0, 8]], vec![[8, 10]]).unwrap();
        // A length of 0 is the rest of the file.
        assert!(repeated(vec![[0, 0]; 65_535], vec![[8, 10]]).is_err(), "65,535 times the file");
        assert!(repeated(vec![[0, 8]], vec![[8, 0]]).is_err(), "4,096 tiles of the whole file");
        assert!(repeated(vec![[0, 8]], vec![[8, 1]; 100]).is_err(), "409,600 parts");
        repeated(vec![[0, 8]], vec![[u64::MAX, 1]; 65_535]).unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_structure_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let meta = [b"\0\0\0\0meta\0\0\0\0", &bytes[..]].concat();
            prop_assert!(parse(&meta).is_err() && parse(&bytes).is_err());
            item_locations(&bytes);
            item_kinds(&bytes);
            item_properties(&bytes);
            item_references(&bytes);
            clean_aperture(&bytes, [640, 360]);
        }
    }
}
