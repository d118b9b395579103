//! Writes HEIC files of tiles, as telephones do.

/// A box with this content.
fn with_head(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    [&(content.len() as u32 + 8).to_be_bytes()[..], kind, content].concat()
}

fn shorts(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn longs(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// The units of a stream with start codes.
fn units(stream: &[u8]) -> Vec<&[u8]> {
    let is_start = |at: &usize| stream[*at..].starts_with(&[0, 0, 1]);
    let starts: Vec<usize> = (0..stream.len()).filter(is_start).map(|at| at + 3).collect();
    let ends = starts.iter().skip(1).map(|start| start - 3).chain([stream.len()]);
    let unit = |(start, end): (&usize, usize)| {
        let unit = &stream[*start..end];
        // A start code of four bytes begins with a zero, which no unit ends with.
        unit.strip_suffix(&[0]).unwrap_or(unit)
    };
    starts.iter().zip(ends).map(unit).collect()
}

fn kind(unit: &[u8]) -> u8 {
    unit[0] >> 1 & 0x3f
}

/// The picture of a HEIC file.
pub(crate) struct HeicGrid<'a> {
    /// An HEVC stream for each tile, row by row.
    pub(crate) tiles: &'a [Vec<u8>],
    pub(crate) columns: u8,
    pub(crate) rows: u8,
    pub(crate) tile_size: [u32; 2],
    pub(crate) size: [u32; 2],
    /// Quarter turns against the clock.
    pub(crate) turns: u8,
    /// Whether left and right are exchanged after the turns.
    pub(crate) mirrored: bool,
}

impl HeicGrid<'_> {
    /// The file. The tiles are the items from 1 on; the grid is item 100.
    pub(crate) fn file(&self) -> Vec<u8> {
        let count = self.tiles.len() as u16;
        let data: Vec<Vec<u8>> = self.tiles.iter().map(|tile| coded(tile)).collect();
        let brands = with_head(b"ftyp", b"heic\0\0\0\0mif1heic");
        // The offsets depend on the size of the box, not on their values.
        let length = self.meta(&data, 0).len();
        let meta = self.meta(&data, (brands.len() + length + 8) as u32);
        assert!(count < 100 && meta.len() == length);
        [brands, meta, with_head(b"mdat", &data.concat())].concat()
    }

    fn meta(&self, data: &[Vec<u8>], start: u32) -> Vec<u8> {
        let count = data.len() as u16;
        let infe =
            |id: u16, kind: &[u8; 4]| with_head(b"infe", &[&[2, 0, 0, 0][..], &shorts(&[id, 0]), kind, b"\0"].concat());
        let items: Vec<u8> = (1..=count).flat_map(|id| infe(id, b"hvc1")).chain(infe(100, b"grid")).collect();
        let grid = [&[0, 0, self.rows - 1, self.columns - 1][..], &shorts(&self.size.map(|side| side as u16))].concat();
        let mut offset = start;
        let mut locations = shorts(&[0x4400, count + 1]);
        for (id, data) in (1..).zip(data) {
            locations.extend([shorts(&[id, 0, 0, 1]), longs(&[offset, data.len() as u32])].concat());
            offset += data.len() as u32;
        }
        locations.extend([shorts(&[100, 1, 0, 1]), longs(&[0, grid.len() as u32])].concat());
        let ispe = |size: [u32; 2]| with_head(b"ispe", &longs(&[0, size[0], size[1]]));
        let properties = [
            with_head(b"hvcC", &configuration(&self.tiles[0])),
            ispe(self.tile_size),
            ispe(self.size),
            with_head(b"irot", &[self.turns]),
            with_head(b"imir", &[1]),
        ];
        let mut associations = longs(&[0, u32::from(count) + 1]);
        (1..=count).for_each(|id| associations.extend([&shorts(&[id])[..], &[2, 0x81, 2]].concat()));
        associations.extend(shorts(&[100]));
        associations.extend(if self.mirrored { &[3, 3, 0x84, 0x85][..] } else { &[2, 3, 0x84] });
        let iprp = [with_head(b"ipco", &properties.concat()), with_head(b"ipma", &associations)].concat();
        let tiles: Vec<u16> = (1..=count).collect();
        let dimg = with_head(b"dimg", &[shorts(&[100, count]), shorts(&tiles)].concat());
        let content = [
            longs(&[0]),
            with_head(b"hdlr", &[&longs(&[0, 0])[..], b"pict", &[0; 13]].concat()),
            with_head(b"pitm", &[longs(&[0]), shorts(&[100])].concat()),
            with_head(b"iinf", &[longs(&[0]), shorts(&[count + 1]), items].concat()),
            with_head(b"iloc", &[&[1, 0, 0, 0][..], &locations].concat()),
            with_head(b"iprp", &iprp),
            with_head(b"iref", &[longs(&[0]), dimg].concat()),
            with_head(b"idat", &grid),
        ];
        with_head(b"meta", &content.concat())
    }
}

/// The units of a picture without parameter sets, each after its length.
fn coded(stream: &[u8]) -> Vec<u8> {
    let pictures = units(stream).into_iter().filter(|unit| kind(unit) < 32);
    pictures.flat_map(|unit| [&(unit.len() as u32).to_be_bytes()[..], unit].concat()).collect()
}

/// The configuration record with the parameter sets of a stream.
fn configuration(stream: &[u8]) -> Vec<u8> {
    let mut record = vec![1; 21];
    // Lengths of four bytes, and three arrays.
    record.extend([3, 3]);
    for parameters in [32, 33, 34] {
        let unit = units(stream).into_iter().find(|unit| kind(unit) == parameters).unwrap();
        record.extend([&[parameters][..], &shorts(&[1, unit.len() as u16]), unit].concat());
    }
    record
}
