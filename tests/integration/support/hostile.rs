//! Makes pictures of unusual shapes and sizes, most of them by hand: a few kilobytes that claim, or expand
//! to, many megabytes.

/// Appends bits, lowest first, as deflate packs them.
struct BitWriter {
    bytes: Vec<u8>,
    bits: u64,
    count: u32,
}

impl BitWriter {
    fn put(&mut self, value: u64, count: u32) {
        self.bits |= value << self.count;
        self.count += count;
        while self.count >= 8 {
            self.bytes.push(self.bits as u8);
            self.bits >>= 8;
            self.count -= 8;
        }
    }
}

/// A zlib stream of `length` zeros. It has 1/150 of their size.
pub(crate) fn zlib_zeros(length: usize) -> Vec<u8> {
    let mut out = BitWriter { bytes: vec![0x78, 0x9c], bits: 0, count: 0 };
    // The last block, with fixed Huffman codes; then a zero (00110000).
    out.put(0b011, 3);
    let zero = u64::from(0b0011_0000_u8.reverse_bits());
    let mut left = length;
    if left > 0 {
        out.put(zero, 8);
        left -= 1;
    }
    while left >= 258 {
        // Length 258 (code 285, 11000101) at distance 1 (code 0).
        out.put(u64::from(0b1100_0101_u8.reverse_bits()), 8);
        out.put(0, 5);
        left -= 258;
    }
    (0..left).for_each(|_| out.put(zero, 8));
    // End of the block, and bits up to the next byte.
    out.put(0, 7);
    out.put(0, 7);
    // Adler-32 of zeros.
    out.bytes.extend(((length as u32 % 65_521) << 16 | 1).to_be_bytes());
    out.bytes
}

fn crc(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256u32)
        .map(|byte| (0..8).fold(byte, |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 }))
        .collect();
    !bytes.iter().fold(!0u32, |crc, byte| (crc >> 8) ^ table[((crc ^ u32::from(*byte)) & 255) as usize])
}

/// A chunk of a PNG.
pub(crate) fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [&kind[..], data].concat();
    [&(data.len() as u32).to_be_bytes()[..], &body, &crc(&body).to_be_bytes()].concat()
}

/// A PNG with these chunks before its pixels.
pub(crate) fn png_with(size: [u32; 2], color: u8, depth: u8, chunks: &[Vec<u8>], pixels: &[u8]) -> Vec<u8> {
    let [width, height] = size.map(u32::to_be_bytes);
    let header = [&width[..], &height, &[depth, color, 0, 0, 0]].concat();
    let parts = [
        &b"\x89PNG\r\n\x1a\n"[..],
        &png_chunk(b"IHDR", &header),
        &chunks.concat(),
        &png_chunk(b"IDAT", pixels),
        &png_chunk(b"IEND", b""),
    ];
    parts.concat()
}

/// Channels of a PNG's colour type.
pub(crate) fn png_channels(color: u8) -> usize {
    match color {
        0 => 1,
        2 => 3,
        4 => 2,
        _ => 4,
    }
}

/// A whole black PNG. `color` is 0 (grey), 2 (RGB), 4 (grey with alpha) or 6 (RGB with alpha).
pub(crate) fn png(size: [u32; 2], color: u8, depth: u8) -> Vec<u8> {
    let row = size[0] as usize * png_channels(color) * usize::from(depth) / 8 + 1;
    png_with(size, color, depth, &[], &zlib_zeros(row * size[1] as usize))
}

/// A PNG that ends soon after its header.
pub(crate) fn png_header(size: [u32; 2], color: u8, depth: u8) -> Vec<u8> {
    png_with(size, color, depth, &[], &zlib_zeros(10))
}

/// A PNG with an iCCP, a zTXt and an iTXt chunk that expand to `length` bytes each.
pub(crate) fn png_metadata_bomb(length: usize) -> Vec<u8> {
    let bomb = zlib_zeros(length);
    let chunks = [
        png_chunk(b"iCCP", &[b"icc\0\0", &bomb[..]].concat()),
        png_chunk(b"zTXt", &[b"Comment\0\0", &bomb[..]].concat()),
        png_chunk(b"iTXt", &[b"XML:com.adobe.xmp\0\x01\0\0\0", &bomb[..]].concat()),
    ];
    png_with([10, 10], 0, 8, &chunks, &zlib_zeros(110))
}

/// How the components of a JPEG are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum JpegScans {
    /// All components in one scan.
    Baseline,
    /// One scan for each component.
    Separate,
    /// The first scan of a progressive file.
    Progressive,
}

/// A grey JPEG of three components. `sampling` are the factors of the first one, such as 0x22 for 4:2:0.
pub(crate) fn jpeg(size: [u16; 2], sampling: u8, scans: JpegScans) -> Vec<u8> {
    let segment =
        |marker: u8, data: &[u8]| [&[0xff, marker][..], &(data.len() as u16 + 2).to_be_bytes(), data].concat();
    let table = |class: u8| {
        // One code of one bit: category 0, or the end of the block.
        let mut table = vec![class << 4, 1];
        table.resize(17, 0);
        segment(0xc4, &[&table[..], &[0]].concat())
    };
    let [width, height] = size.map(u16::to_be_bytes);
    let frame = [&[8][..], &height, &width, &[3, 1, sampling, 0, 2, 0x11, 0, 3, 0x11, 0]].concat();
    let start = if scans == JpegScans::Progressive { 0xc2 } else { 0xc0 };
    let mut bytes = vec![0xff, 0xd8];
    bytes.extend(segment(0xdb, &[&[0][..], &[1; 64]].concat()));
    bytes.extend([table(0), table(1)].concat());
    bytes.extend(segment(start, &frame));
    let (h, v) = (u64::from(sampling >> 4), u64::from(sampling & 15));
    let blocks = |h: u64, v: u64, scale: [u64; 2]| {
        (u64::from(size[0]) * h).div_ceil(8 * scale[0]) * (u64::from(size[1]) * v).div_ceil(8 * scale[1])
    };
    let last = if scans == JpegScans::Progressive { 0 } else { 63 };
    let bits_per_block = if scans == JpegScans::Progressive { 1 } else { 2 };
    let mut scan = |components: &[u8], blocks: u64| {
        let ids: Vec<u8> = components.iter().flat_map(|id| [*id, 0]).collect();
        let header = [&[components.len() as u8][..], &ids, &[0, last, 0]].concat();
        bytes.extend(segment(0xda, &header));
        let length = (blocks * bits_per_block).div_ceil(8) as usize;
        bytes.resize(bytes.len() + length, 0);
    };
    if scans == JpegScans::Separate {
        scan(&[1], blocks(h, v, [h, v]));
        scan(&[2], blocks(1, 1, [h, v]));
        scan(&[3], blocks(1, 1, [h, v]));
    } else {
        scan(&[1, 2, 3], blocks(1, 1, [h, v]) * (h * v + 2));
    }
    bytes.extend([0xff, 0xd9]);
    bytes
}

fn riff_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut chunk = [&kind[..], &(data.len() as u32).to_le_bytes(), data].concat();
    chunk.resize(chunk.len().next_multiple_of(2), 0);
    chunk
}

fn riff(chunks: &[Vec<u8>]) -> Vec<u8> {
    let body = [&b"WEBP"[..], &chunks.concat()].concat();
    [&b"RIFF"[..], &(body.len() as u32).to_le_bytes(), &body].concat()
}

/// The chunk of a grey lossy frame with data for this number of macroblocks.
fn vp8([width, height]: [u16; 2], macroblocks: usize) -> Vec<u8> {
    // Zeros: the default of all flags, and a mode and no coefficient for each block.
    let first = (macroblocks * 10).clamp(64, (1 << 19) - 1);
    let tag = (first as u32) << 5 | 0b1_0000;
    let mut data = tag.to_le_bytes()[..3].to_vec();
    data.extend([0x9d, 0x01, 0x2a]);
    data.extend([width, height].map(u16::to_le_bytes).concat());
    data.resize(data.len() + first + macroblocks * 16, 0);
    riff_chunk(b"VP8 ", &data)
}

/// A lossy WebP.
pub(crate) fn webp_lossy([width, height]: [u16; 2]) -> Vec<u8> {
    let macroblocks = usize::from(width.div_ceil(16)) * usize::from(height.div_ceil(16));
    riff(&[vp8([width, height], macroblocks)])
}

fn vp8x(flags: u8, [width, height]: [u32; 2]) -> Vec<u8> {
    let side = |side: u32| (side - 1).to_le_bytes()[..3].to_vec();
    riff_chunk(b"VP8X", &[&[flags, 0, 0, 0][..], &side(width), &side(height)].concat())
}

/// A lossy WebP with a plane of alpha.
pub(crate) fn webp_alpha([width, height]: [u16; 2]) -> Vec<u8> {
    let macroblocks = usize::from(width.div_ceil(16)) * usize::from(height.div_ceil(16));
    let plane = vec![0; usize::from(width) * usize::from(height) + 1];
    riff(&[
        vp8x(0x10, [u32::from(width), u32::from(height)]),
        riff_chunk(b"ALPH", &plane),
        vp8([width, height], macroblocks),
    ])
}

/// A WebP of 1 x 1 pixel with a frame of 16,383 x 16,383.
pub(crate) fn webp_large_frame() -> Vec<u8> {
    riff(&[vp8x(0, [1, 1]), vp8([16_383; 2], 10)])
}

/// A WebP whose EXIF chunk claims 4 GB.
pub(crate) fn webp_large_exif() -> Vec<u8> {
    let mut exif = riff_chunk(b"EXIF", b"II*\0");
    exif[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    riff(&[vp8x(0x08, [16, 16]), vp8([16, 16], 10), exif])
}

/// A lossless WebP of 4 x 4 pixels with the codes of 65,536 groups, which take 350 times their size.
pub(crate) fn webp_table_bomb() -> Vec<u8> {
    let sides: u32 = 3 | 3 << 14;
    let mut out = BitWriter { bytes: [&[0x2f][..], &sides.to_le_bytes()].concat(), bits: 0, count: 0 };
    // No transform, no colour cache, groups in blocks of 4 x 4 pixels, no colour cache in the image of
    // groups.
    out.put(0b100, 3);
    out.put(0, 3);
    out.put(0, 1);
    for symbol in [255, 255, 0, 0, 0] {
        // A code of one symbol of 8 bits: the only pixel is the group 65,535.
        out.put(0b101, 3);
        out.put(symbol, 8);
    }
    let lengths = [0, 0, 0, 3, 3, 3, 3, 3, 0, 3, 4, 4, 4, 4];
    for _ in 0..65_536 * 5 {
        // A code of 11 symbols with lengths of 1 to 10, 10 bits: its table has 1,024 entries.
        out.put(10 << 1, 5);
        lengths.iter().for_each(|length| out.put(*length, 3));
        out.put(1 | 1 << 1, 4);
        out.put(9, 4);
        (0..6_u8).for_each(|code| out.put(u64::from((code << 5).reverse_bits()), 3));
        [12_u8, 13, 14, 15, 15].iter().for_each(|code| out.put(u64::from((code << 4).reverse_bits()), 4));
    }
    out.put(0, 64 - 8);
    riff(&[riff_chunk(b"VP8L", &out.bytes)])
}

/// A TIFF of one strip, or of tiles if their size is not 0, with `data` as pixels.
pub(crate) fn tiff(size: [u32; 2], samples: u16, compression: u16, tile: [u32; 2], data: &[u8]) -> Vec<u8> {
    let photometric = if samples == 1 { 1 } else { 2 };
    let mut tags: Vec<[u32; 3]> = vec![
        [256, 4, size[0]],
        [257, 4, size[1]],
        [258, 3, 8],
        [259, 3, u32::from(compression)],
        [262, 3, photometric],
        [277, 3, u32::from(samples)],
    ];
    if tile == [0; 2] {
        tags.extend([[273, 4, 0], [278, 4, size[1]], [279, 4, data.len() as u32]]);
    } else {
        tags.extend([[322, 4, tile[0]], [323, 4, tile[1]], [324, 4, 0], [325, 4, data.len() as u32]]);
    }
    tags.sort();
    let start = 8 + 2 + 12 * tags.len() as u32 + 4;
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend((tags.len() as u16).to_le_bytes());
    for [tag, kind, value] in tags {
        let value = if matches!(tag, 273 | 324) { start } else { value };
        bytes.extend((tag as u16).to_le_bytes());
        bytes.extend((kind as u16).to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes.extend(data);
    bytes
}

/// A BMP of 24 bits that ends after its header.
pub(crate) fn bmp_header(size: [u32; 2]) -> Vec<u8> {
    let mut bytes = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    bytes.extend(size.map(u32::to_le_bytes).concat());
    bytes.extend(b"\x01\0\x18\0");
    bytes.resize(54, 0);
    bytes
}

/// A QOI that ends after its header.
pub(crate) fn qoi_header(size: [u32; 2]) -> Vec<u8> {
    [&b"qoif"[..], &size.map(u32::to_be_bytes).concat(), &[3, 0]].concat()
}

/// A GIF that ends after its first frame's header, with a comment of this length.
pub(crate) fn gif_header([width, height]: [u16; 2], comment: usize) -> Vec<u8> {
    let mut bytes = b"GIF89a".to_vec();
    bytes.extend([width, height].map(u16::to_le_bytes).concat());
    bytes.extend([0x80, 0, 0, 0, 0, 0, 255, 255, 255]);
    bytes.extend([b'!', 0xfe]);
    for start in (0..comment).step_by(255) {
        let length = (comment - start).min(255);
        bytes.push(length as u8);
        bytes.resize(bytes.len() + length, b'x');
    }
    bytes.push(0);
    bytes.extend(b",\0\0\0\0");
    bytes.extend([width, height].map(u16::to_le_bytes).concat());
    bytes.extend(b"\0\x02");
    bytes
}

/// A PNM of three channels that ends after its header.
pub(crate) fn pnm_header([width, height]: [u32; 2]) -> Vec<u8> {
    format!("P6 {width} {height} 255\n").into_bytes()
}
