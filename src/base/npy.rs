//! Opens `.npy` files. Their header is a Python literal; the parser of `npyz` recurses, and parses each
//! nested bracket again for each way that it may continue. So deep headers are refused before it runs.

use std::io::{Error, ErrorKind, Read, Result};

use npyz::{NpyFile, NpyHeader};

/// Longest header in bytes. The header of an array of numbers has 118.
const MAX_HEADER_BYTES: usize = 1 << 16;
/// Most open brackets at one point of a header. The header of an array of numbers has 2.
const MAX_DEPTH: usize = 4;

/// Reads the header. The rest of the reader are the values.
///
/// # Errors
/// An error of kind [`ErrorKind::InvalidData`] if this is not a header, or if the array has more than 2^64
/// values.
pub(crate) fn header(reader: &mut impl Read) -> Result<NpyHeader> {
    let wrong = |found: String| Error::new(ErrorKind::InvalidData, found);
    let mut bytes = vec![0; 8];
    reader.read_exact(&mut bytes)?;
    // The length of the header has two bytes in version 1, and four in later versions.
    let length_bytes = if bytes[6] == 1 { 2 } else { 4 };
    bytes.resize(8 + length_bytes, 0);
    reader.read_exact(&mut bytes[8..])?;
    let length = bytes[8..].iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
    if length > MAX_HEADER_BYTES {
        return Err(wrong(format!("a header of {length} bytes, expected at most {MAX_HEADER_BYTES}")));
    }
    let start = bytes.len();
    bytes.resize(start + length, 0);
    reader.read_exact(&mut bytes[start..])?;
    if depth(&bytes[start..]) > MAX_DEPTH {
        return Err(wrong(format!("a header with more than {MAX_DEPTH} nested brackets")));
    }
    let header = NpyHeader::from_reader(&bytes[..])?;
    let count = header.shape().iter().try_fold(1u64, |product, side| product.checked_mul(*side));
    count.map(|_| header).ok_or_else(|| wrong("a shape of more than 2^64 values".to_owned()))
}

/// Opens a file. The reader is then at the first value.
///
/// # Errors
/// As [`header`].
pub(crate) fn open<R: Read>(mut reader: R) -> Result<NpyFile<R>> {
    Ok(NpyFile::with_header(header(&mut reader)?, reader))
}

/// Most brackets that are open at one point, those in strings included.
fn depth(text: &[u8]) -> usize {
    let (mut open, mut most) = (0usize, 0);
    for byte in text {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> std::result::Result<Vec<u64>, String> {
        let mut bytes = bytes;
        header(&mut bytes).map(|header| header.shape().to_vec()).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_headers_of_both_lengths_and_leaves_the_values() {
        for version in [1, 2] {
            let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
            let bytes = [file(version, text), vec![7; 24]].concat();
            let opened = open(&bytes[..]).unwrap();
            assert_eq!(opened.shape(), [2, 3]);
            assert_eq!(opened.into_inner(), [7; 24]);
        }
    }

    #[test]
    fn refuses_deep_headers_without_parsing_them() {
        for (open, close) in [('(', ",)"), ('[', "]"), ('{', "}"), ('{', ":0}")] {
            for depth in [10, 30, 15_000] {
                let nested = format!("{}1{}", open.to_string().repeat(depth), close.repeat(depth));
                let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {nested}}}");
                let error = read(&file(2, &header)).unwrap_err();
                assert!(error.contains("nested brackets"), "{error}");
            }
        }
    }

    #[test]
    fn refuses_a_header_or_a_shape_that_claims_too_much() {
        let mut long = file(2, "");
        long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(&long).unwrap_err().contains("a header of 4294967295 bytes"));
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967297)}";
        assert!(read(&file(1, header)).unwrap_err().contains("more than 2^64 values"));
    }
}
