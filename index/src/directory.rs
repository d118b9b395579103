//! The folder of the text index, as tantivy reads and writes it. Adds checksums to the files that have none,
//! checks all files when they are opened, and maps them with [`MappedFile`].
//!
//! tantivy replaces two files as a whole: `meta.json` (the root of the index) and `.managed.json` (tantivy's
//! list of its files). Each ends with an additional line of 16 bytes, which tantivy does not see: a line
//! feed, `crc32 `, the CRC-32 (IEEE) of everything before as eight hexadecimal digits, a line feed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::footer::Footer;
use tantivy::directory::{
    AntiCallToken, Directory, DirectoryLock, FileHandle, Lock, MmapDirectory, OwnedBytes, TerminatingWrite,
    WatchCallback, WatchHandle, WritePtr,
};

use crate::error::{Error, Result};
use crate::io::u32_at;
use crate::map::{MappedFile, SharedMap};

/// Size of the additional line in bytes.
const CHECKSUM_LINE_BYTES: usize = 16;

/// The last number of tantivy's footers.
const FOOTER_MAGIC: u32 = 1337;

/// tantivy's directory with checksums; see the module.
#[derive(Clone, Debug)]
pub(crate) struct TextDirectory {
    path: PathBuf,
    inner: MmapDirectory,
    /// Files that are mapped now.
    maps: Arc<Mutex<HashMap<PathBuf, Weak<MappedFile>>>>,
    /// The last error of a write.
    failed_write: FailedWrite,
}

type FailedWrite = Arc<Mutex<Option<io::Error>>>;

/// A file that tantivy writes. Keeps the error of a write, because tantivy's threads do not pass it on.
struct RecordedFile {
    file: WritePtr,
    failed: FailedWrite,
}

impl RecordedFile {
    fn record<T>(&self, done: io::Result<T>) -> io::Result<T> {
        if let Some(code) = done.as_ref().err().and_then(io::Error::raw_os_error) {
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(io::Error::from_raw_os_error(code));
        }
        done
    }
}

impl Write for RecordedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.file.write(bytes);
        self.record(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = self.file.flush();
        self.record(done)
    }
}

impl TerminatingWrite for RecordedFile {
    fn terminate_ref(&mut self, token: AntiCallToken) -> io::Result<()> {
        let done = self.file.terminate_ref(token);
        self.record(done)
    }
}

/// The additional line of a file with this content.
fn checksum_line(content: &[u8]) -> [u8; CHECKSUM_LINE_BYTES] {
    let mut line = *b"\ncrc32 ........\n";
    line[7..15].copy_from_slice(format!("{:08x}", crc32fast::hash(content)).as_bytes());
    line
}

fn damaged(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Reads a file of tantivy and compares it with its footer: the JSON of [`Footer`], then the length of the
/// JSON and [`FOOTER_MAGIC`] as `u32`. Returns the size of the file and the version of tantivy in the footer.
pub(crate) fn check(path: &Path) -> io::Result<(u64, String)> {
    let cut = || damaged("expected a footer of tantivy, found a file cut short".to_owned());
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut end = [0; 8];
    file.seek(SeekFrom::Start(bytes.checked_sub(8).ok_or_else(cut)?))?;
    file.read_exact(&mut end)?;
    let [length, magic] = [0, 4].map(|at| u32_at(&end, at));
    let body = bytes.checked_sub(8 + u64::from(length)).filter(|_| magic == FOOTER_MAGIC).ok_or_else(cut)?;
    file.seek(SeekFrom::Start(0))?;
    let (mut crc, mut block, mut left) = (crc32fast::Hasher::new(), vec![0; 1 << 16], body);
    while left > 0 {
        let part = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut block[..part])?;
        crc.update(&block[..part]);
        left -= part as u64;
    }
    let mut found = Vec::new();
    file.take(u64::from(length)).read_to_end(&mut found)?;
    let footer: Footer = serde_json::from_slice(&found).map_err(|error| damaged(format!("footer: {error}")))?;
    let crc = crc.finalize();
    if footer.crc != crc {
        return Err(damaged(format!("expected checksum {:08x}, found {crc:08x}", footer.crc)));
    }
    // The checksum does not cover the footer, so that must be exactly as tantivy writes it.
    if serde_json::to_vec(&footer)? != found {
        let found = String::from_utf8_lossy(&found);
        return Err(damaged(format!("expected a footer as tantivy writes it, found {found}")));
    }
    Ok((bytes, serde_json::to_string(&footer.version)?))
}

impl TextDirectory {
    pub(crate) fn open(path: &Path) -> Result<TextDirectory> {
        let inner = MmapDirectory::open(path).map_err(Error::text(path))?;
        Ok(TextDirectory { path: path.to_owned(), inner, maps: Arc::default(), failed_write: Arc::default() })
    }

    /// Takes the last error of a write.
    pub(crate) fn take_failed_write(&self) -> Option<io::Error> {
        self.failed_write.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns an error if a mapped file was truncated since it was opened.
    pub(crate) fn check(&self) -> Result<()> {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        maps.retain(|_, map| map.strong_count() > 0);
        maps.iter().filter_map(|(path, map)| Some((path, map.upgrade()?))).try_for_each(|(path, map)| map.check(path))
    }
}

impl Directory for TextDirectory {
    fn get_file_handle(&self, path: &Path) -> std::result::Result<Arc<dyn FileHandle>, OpenReadError> {
        let full = self.path.join(path);
        let known = |maps: &HashMap<PathBuf, Weak<MappedFile>>| maps.get(&full).and_then(Weak::upgrade);
        let lock = || self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known(&lock());
        let map = match found {
            Some(map) => map,
            // tantivy trusts its files and aborts the process for some damage, so check the whole file here.
            None => match check(&full).and_then(|_| MappedFile::open_whole(&full)) {
                Ok(map) => {
                    let mut maps = lock();
                    // Another thread may have mapped it meanwhile.
                    let map = known(&maps).unwrap_or_else(|| Arc::new(map));
                    maps.insert(full.clone(), Arc::downgrade(&map));
                    map
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(OpenReadError::FileDoesNotExist(full));
                }
                Err(error) => return Err(OpenReadError::wrap_io_error(error, full)),
            },
        };
        Ok(Arc::new(OwnedBytes::new(SharedMap(map))))
    }

    fn atomic_read(&self, path: &Path) -> std::result::Result<Vec<u8>, OpenReadError> {
        let mut content = self.inner.atomic_read(path)?;
        let end = content.len().saturating_sub(CHECKSUM_LINE_BYTES);
        if content[end..] != checksum_line(&content[..end]) {
            let error = damaged("its checksum does not match".to_owned());
            return Err(OpenReadError::wrap_io_error(error, self.path.join(path)));
        }
        content.truncate(end);
        Ok(content)
    }

    fn atomic_write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.inner.atomic_write(path, &[content, &checksum_line(content)].concat())
    }

    fn delete(&self, path: &Path) -> std::result::Result<(), DeleteError> {
        self.inner.delete(path)
    }

    fn exists(&self, path: &Path) -> std::result::Result<bool, OpenReadError> {
        self.inner.exists(path)
    }

    fn open_write(&self, path: &Path) -> std::result::Result<WritePtr, OpenWriteError> {
        let file = self.inner.open_write(path)?;
        Ok(BufWriter::new(Box::new(RecordedFile { file, failed: self.failed_write.clone() })))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.inner.sync_directory()
    }

    fn acquire_lock(&self, lock: &Lock) -> std::result::Result<DirectoryLock, LockError> {
        self.inner.acquire_lock(lock)
    }

    fn watch(&self, callback: WatchCallback) -> tantivy::Result<WatchHandle> {
        self.inner.watch(callback)
    }
}
