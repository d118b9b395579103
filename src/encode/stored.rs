//! Where the files of a zip archive lie, for archives whose files are stored as they are: those of `torch.save` and `np.savez`.

use std::collections::HashMap;
use std::fs::File;

use crate::base::files::read_exact_at;

/// Longest list of files: some 100,000 of them.
const MAX_LIST: usize = 16 << 20;
/// The record at an archive's end, and the longest comment behind it.
const END: usize = 22;
const MAX_COMMENT: usize = 65_535;

/// Where a file lies: its first byte, and how many there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) start: u64,
    pub(super) bytes: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?).into())
}

/// The files of an archive by their names. Compressed ones are `None`.
pub(super) fn files(file: &File, length: u64) -> Result<HashMap<String, Option<Place>>, String> {
    let (start, bytes) = list(file, length)?;
    let mut list = vec![0u8; bytes];
    read_exact_at(file, &mut list, start).map_err(|e| e.to_string())?;
    let mut files = HashMap::new();
    let mut rest = list.as_slice();
    while rest.starts_with(b"PK\x01\x02") {
        let (name, place, used) = entry(file, rest, length).ok_or("an entry of the archive's list is damaged")??;
        files.insert(name, place);
        rest = &rest[used..];
    }
    Ok(files)
}

/// Where the list of files begins, and how long it is.
fn list(file: &File, length: u64) -> Result<(u64, usize), String> {
    let tail = length.min((END + MAX_COMMENT) as u64);
    let mut bytes = vec![0u8; tail as usize];
    read_exact_at(file, &mut bytes, length - tail).map_err(|e| e.to_string())?;
    let end = bytes.windows(4).rposition(|window| window == b"PK\x05\x06").ok_or("a zip archive without its end")?;
    let told = |at: usize| u32_at(&bytes, end + at);
    let (Some(size), Some(start)) = (told(12), told(16)) else { return Err("a zip archive cut short".to_owned()) };
    if size > MAX_LIST as u64 || start + size > length {
        return Err(format!("a zip archive whose list of {size} bytes lies at {start} of {length}"));
    }
    Ok((start, size as usize))
}

type Entry = (String, Option<Place>, usize);

/// The first entry of a list, and how long it is. `None` if the list ends in it.
fn entry(file: &File, list: &[u8], length: u64) -> Option<Result<Entry, String>> {
    let (flags, method) = (u16_at(list, 8)?, u16_at(list, 10)?);
    let (packed, bytes, header) = (u32_at(list, 20)?, u32_at(list, 24)?, u32_at(list, 42)?);
    let [name, extra, comment] = [u16_at(list, 28)?, u16_at(list, 30)?, u16_at(list, 32)?];
    let used = 46 + name + extra + comment;
    let name = String::from_utf8_lossy(list.get(46..46 + name)?).into_owned();
    list.get(..used)?;
    // Encrypted, or compressed.
    if flags & 1 != 0 || method != 0 {
        return Some(Ok((name, None, used)));
    }
    // The file's own header has a name and extra fields of its own length.
    let mut own = [0u8; 30];
    if let Err(e) = read_exact_at(file, &mut own, header) {
        return Some(Err(format!("`{name}` in the archive: {e}")));
    }
    let start = header + 30 + (u16_at(&own, 26)? + u16_at(&own, 28)?) as u64;
    if !own.starts_with(b"PK\x03\x04") || packed != bytes || start + bytes > length {
        return Some(Err(format!("`{name}` in the archive does not lie where its list says")));
    }
    Some(Ok((name, Some(Place { start, bytes }), used)))
}
