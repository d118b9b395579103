//! A cache of thumbnails and previews on disk, bounded in bytes. The least recently used files are evicted.
//!
//! The name of a file is a hash of everything that it depends on; its modification time is the time of its
//! last use. The folder is the only state, so the cache survives a restart and several processes can share
//! it. A file is written elsewhere and renamed, so it is always complete. Only files with such names are
//! counted or removed.

use std::fs::File;
use std::io::{Result, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use tempfile::NamedTempFile;

/// Hexadecimal digits of a name.
const DIGITS: usize = 32;
/// Subfolder in which files are written before they are renamed. So the modification time of the cache folder
/// changes only when cached files are added or removed.
const PARTS: &str = "parts";
/// File that is locked while files are added or removed: several processes may share the folder.
const LOCK: &str = "lock";
/// Age from which a part counts as abandoned by a process that has ended.
const STALE: Duration = Duration::from_secs(3600);

/// The name of a file: a hash of everything that it depends on, and an extension.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey(String);

impl CacheKey {
    /// A key of these parts. It also depends on the borders between them: `ab`, `c` and `a`, `bc` give
    /// different keys.
    pub(crate) fn new(parts: &[&[u8]], extension: &str) -> CacheKey {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        CacheKey(format!("{}.{extension}", &hasher.finalize().to_hex()[..DIGITS]))
    }

    pub(crate) fn file_name(&self) -> &str {
        &self.0
    }
}

/// The cache, shared by all requests.
#[derive(Debug)]
pub(crate) struct FileCache {
    folder: PathBuf,
    limit: u64,
    state: Mutex<FolderState>,
}

/// The files of the folder.
#[derive(Debug)]
struct FolderState {
    /// Size of each file, in the order of their last use.
    files: LruCache<String, u64>,
    bytes: u64,
    /// Modification time of the folder when this state was read or written; `None` if the state is out of
    /// date.
    as_of: Option<SystemTime>,
}

impl Default for FolderState {
    fn default() -> FolderState {
        FolderState { files: LruCache::unbounded(), bytes: 0, as_of: None }
    }
}

impl FileCache {
    /// A cache of at most `limit` bytes. The folder need not exist; nothing is read or written before the
    /// first use.
    pub(crate) fn new(folder: PathBuf, limit: u64) -> FileCache {
        FileCache { folder, limit, state: Mutex::default() }
    }

    /// The bytes of a key.
    pub(crate) fn get(&self, key: &CacheKey) -> Option<Bytes> {
        let path = self.folder.join(key.file_name());
        let file = File::options().read(true).write(true).open(&path).ok()?;
        let bytes = read(&file).ok().filter(|bytes| !bytes.is_empty())?;
        // If this fails, the file may be evicted too early.
        let _ = file.set_modified(SystemTime::now());
        self.state.lock().files.promote(key.file_name());
        Some(bytes)
    }

    /// A new file to write, deleted with its handle unless it is put into the cache. If the folder is not
    /// writable, the file is among the system's temporary files.
    pub(crate) fn new_part_anywhere(&self) -> Result<NamedTempFile> {
        self.new_part().or_else(|error| {
            self.warn(&error);
            NamedTempFile::with_prefix("reelseek-")
        })
    }

    fn new_part(&self) -> Result<NamedTempFile> {
        let folder = self.folder.join(PARTS);
        std::fs::create_dir_all(&folder)?;
        tempfile::Builder::new().prefix("reelseek-").suffix(".part").tempfile_in(folder)
    }

    /// Stores bytes under a key. If that fails, a warning is logged: the server works without its cache.
    pub(crate) fn put_bytes(&self, key: &CacheKey, bytes: &[u8]) {
        let stored = self.new_part().and_then(|mut part| {
            part.write_all(bytes)?;
            self.add(key, part, bytes.len() as u64)
        });
        stored.unwrap_or_else(|error| self.warn(&error));
    }

    /// Stores a complete part under a key, if possible, and returns its bytes.
    ///
    /// # Errors
    /// If the part cannot be read.
    pub(crate) fn put(&self, key: &CacheKey, part: NamedTempFile) -> Result<Bytes> {
        // ffmpeg may have replaced the file, so the open handle is not used.
        let bytes = read(&File::open(part.path())?)?;
        self.add(key, part, bytes.len() as u64).unwrap_or_else(|error| self.warn(&error));
        Ok(bytes)
    }

    fn warn(&self, error: &std::io::Error) {
        let folder = self.folder.display();
        tracing::warn!("{folder}: cannot write the cache: {error}; REELSEEK_CACHE names another folder");
    }

    /// Moves a complete part into the folder, and evicts files to make room. A part larger than the limit is
    /// not stored.
    fn add(&self, key: &CacheKey, part: NamedTempFile, size: u64) -> Result<()> {
        if size > self.limit {
            return Ok(());
        }
        // After a crash, a name must not refer to a file without its bytes.
        File::open(part.path())?.sync_data()?;
        // The folder is locked before the state, so that `get` does not wait for another process.
        let lock = File::create(self.folder.join(LOCK))?;
        lock.lock()?;
        let mut state = self.state.lock();
        let modified = || std::fs::metadata(&self.folder).and_then(|meta| meta.modified()).ok();
        if state.as_of.is_none() || state.as_of != modified() {
            *state = survey(&self.folder)?;
        }
        // The state is valid again when all steps have succeeded.
        state.as_of = None;
        state.bytes -= state.files.pop(key.file_name()).unwrap_or(0);
        while state.bytes + size > self.limit
            && let Some((oldest, bytes)) = state.files.pop_lru()
        {
            match std::fs::remove_file(self.folder.join(&oldest)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => state.bytes -= bytes,
            }
        }
        part.persist(self.folder.join(key.file_name())).map_err(|error| error.error)?;
        state.files.put(key.file_name().to_owned(), size);
        state.bytes += size;
        state.as_of = modified();
        Ok(())
    }
}

fn read(mut file: &File) -> Result<Bytes> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok(bytes.into())
}

/// Whether a file belongs to the cache: its name is 32 hexadecimal digits and a known extension.
fn is_ours(name: &str) -> bool {
    let Some((digits, extension)) = name.split_once('.') else { return false };
    let hexadecimal = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    digits.len() == DIGITS && digits.bytes().all(hexadecimal) && ["jpg", "mp4", "webm"].contains(&extension)
}

/// Lists the files of the folder. Removes stale parts.
fn survey(folder: &Path) -> Result<FolderState> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        // A symbolic link does not belong to the cache.
        if let (Some(name), Ok(meta)) = (name.to_str().filter(|name| is_ours(name)), entry.metadata())
            && meta.is_file()
        {
            found.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), name.to_owned(), meta.len()));
        }
    }
    for entry in std::fs::read_dir(folder.join(PARTS)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with("reelseek-") && name.ends_with(".part"));
        let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if ours && age.is_some_and(|age| age > STALE) {
            // Another process may have removed it.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    found.sort();
    let mut state = FolderState::default();
    for (_, name, bytes) in found {
        state.bytes += bytes;
        state.files.put(name, bytes);
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> CacheKey {
        CacheKey::new(&[name.as_bytes()], "jpg")
    }

    /// Number and bytes of the files in the folder that belong to the cache.
    fn ours(folder: &Path) -> (usize, u64) {
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap()).collect();
        let ours =
            files.iter().filter(|e| is_ours(e.file_name().to_str().unwrap()) && e.file_type().unwrap().is_file());
        ours.fold((0, 0), |(n, bytes), e| (n + 1, bytes + e.metadata().unwrap().len()))
    }

    #[test]
    fn stored_bytes_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new/previews");
        let cache = FileCache::new(folder.clone(), 1000);
        assert_eq!(cache.get(&key("a")), None);
        cache.put_bytes(&key("a"), b"abc");
        assert_eq!(cache.get(&key("a")).unwrap(), "abc");
        assert_eq!(FileCache::new(folder, 1000).get(&key("a")).unwrap(), "abc");
    }

    #[test]
    fn evicts_the_least_recently_used_file_at_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FileCache::new(dir.path().to_owned(), 100);
        for name in ["a", "b", "c"] {
            cache.put_bytes(&key(name), &[7; 30]);
        }
        assert!(cache.get(&key("a")).is_some(), "now b is the oldest");
        cache.put_bytes(&key("d"), &[7; 30]);
        assert_eq!(cache.get(&key("b")), None);
        assert!(["a", "c", "d"].iter().all(|name| cache.get(&key(name)).is_some()));
        for i in 0..50 {
            cache.put_bytes(&key(&i.to_string()), &vec![7; i % 40 + 1]);
            assert!(ours(dir.path()).1 <= 100);
        }
        // A key stored twice counts once; bytes above the limit are not stored.
        let before = ours(dir.path());
        cache.put_bytes(&key("49"), &[8; 10]);
        assert_eq!(ours(dir.path()), before);
        cache.put_bytes(&key("huge"), &[1; 101]);
        assert_eq!((cache.get(&key("huge")), ours(dir.path())), (None, before));
    }

    #[test]
    fn the_order_of_use_survives_a_restart_and_a_lower_limit_evicts() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FileCache::new(dir.path().to_owned(), 100);
        for name in ["a", "b", "c"] {
            cache.put_bytes(&key(name), &[7; 30]);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(cache.get(&key("a")).is_some());
        let cache = FileCache::new(dir.path().to_owned(), 65);
        cache.put_bytes(&key("d"), &[7; 30]);
        assert_eq!(ours(dir.path()), (2, 60));
        assert!(cache.get(&key("a")).is_some() && cache.get(&key("d")).is_some());
    }

    #[test]
    fn two_caches_in_one_folder_share_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let caches = [(); 2].map(|()| FileCache::new(dir.path().to_owned(), 100));
        for i in 0..40 {
            caches[i % 2].put_bytes(&key(&i.to_string()), &[7; 30]);
            assert!(ours(dir.path()).1 <= 100);
            // File systems store times to a few milliseconds.
            std::thread::sleep(Duration::from_millis(12));
        }
        assert!(caches[0].get(&key("39")).is_some() && caches[1].get(&key("38")).is_some());
    }

    #[test]
    fn other_files_are_never_touched() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("previews");
        std::fs::create_dir_all(folder.join("parts")).unwrap();
        let name = key("a folder").file_name().to_owned();
        std::fs::create_dir(folder.join(&name)).unwrap();
        let foreign = [
            "holiday.mp4",
            "0123456789abcdef0123456789abcdeg.mp4",
            "0123456789abcdef0123456789abcdef.txt",
            "parts/mine",
        ];
        for name in foreign {
            std::fs::write(folder.join(name), [1; 500]).unwrap();
        }
        let stale = folder.join("parts/reelseek-x.part");
        std::fs::write(&stale, "half").unwrap();
        let long_ago = SystemTime::now() - 2 * STALE;
        for path in [&stale, &folder.join("parts/mine")] {
            File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
        let cache = FileCache::new(folder.clone(), 100);
        for i in 0..20 {
            cache.put_bytes(&key(&i.to_string()), &[7; 30]);
        }
        assert_eq!(ours(&folder), (3, 90));
        assert!(foreign.iter().all(|name| folder.join(name).metadata().unwrap().len() == 500));
        assert!(folder.join(name).is_dir() && !stale.exists());
        assert_eq!(std::fs::read_dir(folder.join("parts")).unwrap().count(), 1, "the stale part was removed");
    }

    #[test]
    fn the_borders_between_the_parts_of_a_key_count() {
        let key = |parts: &[&str]| CacheKey::new(&parts.iter().map(|p| p.as_bytes()).collect::<Vec<_>>(), "mp4");
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["a"]), key(&["a", ""]));
        assert!(is_ours(key(&["a"]).file_name()));
    }
}
