//! Thumbnails and previews on disk, so that each is made once: bounded in bytes, the least recently used out first.
//!
//! A file's name says all that it depends on, as a hash; its time is that of its last use. So nothing else need be kept: another start, or another process with the
//! same folder, finds what is there. Files come in whole, by renaming; only those named like ours are counted or removed. Requests for what is being made wait for it
//! in [`crate::serve::admission::flights`].

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Result, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tempfile::NamedTempFile;

/// Hexadecimal digits of a name.
const DIGITS: usize = 32;
/// Where files are made before they are renamed. Nothing else comes and goes in the main folder than what is counted.
const PARTS: &str = "parts";
/// Held while files come and go: several processes may share the folder.
const LOCK: &str = "lock";
/// A part older than this was left behind by a process that ended in the midst of it.
const STALE: Duration = Duration::from_secs(3600);

/// What is asked for: a hash of all that it depends on, and the ending of its file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key(String);

impl Key {
    /// The key of what depends on these. Each is told apart from the next.
    pub(crate) fn new(parts: &[&[u8]], extension: &str) -> Key {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        Key(format!("{}.{extension}", &hasher.finalize().to_hex()[..DIGITS]))
    }

    /// The name of the file.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

/// The cache; one for all requests.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    limit: u64,
    state: Mutex<State>,
}

/// What is known of the folder.
#[derive(Debug, Default)]
struct State {
    /// Size and last use of each file.
    files: HashMap<String, (u64, Use)>,
    by_use: BTreeMap<Use, String>,
    bytes: u64,
    uses: u64,
    /// When the folder was last changed, as far as this is up to date with it.
    as_of: Option<SystemTime>,
}

/// When a file was last used: by its time, and for equal ones by order.
type Use = (SystemTime, u64);

impl State {
    fn take(&mut self, name: &str) -> Option<u64> {
        let (bytes, last) = self.files.remove(name)?;
        self.by_use.remove(&last);
        self.bytes -= bytes;
        Some(bytes)
    }

    fn put(&mut self, name: &str, bytes: u64, time: SystemTime) {
        self.take(name);
        self.uses += 1;
        self.files.insert(name.to_owned(), (bytes, (time, self.uses)));
        self.by_use.insert((time, self.uses), name.to_owned());
        self.bytes += bytes;
    }
}

impl Cache {
    /// A cache in this folder, which need not be there yet. Nothing is read or written before the first use.
    pub(crate) fn new(folder: PathBuf, limit: u64) -> Cache {
        Cache { folder, limit, state: Mutex::default() }
    }

    /// What is kept under a key.
    pub(crate) fn get(&self, key: &Key) -> Option<Bytes> {
        let path = self.folder.join(key.name());
        let file = File::options().read(true).write(true).open(&path).ok()?;
        let bytes = read(&file).ok().filter(|bytes| !bytes.is_empty())?;
        // Only the order of removal depends on the time.
        let now = SystemTime::now();
        let _ = file.set_modified(now);
        let mut state = self.lock();
        if state.files.contains_key(key.name()) {
            state.put(key.name(), bytes.len() as u64, now);
        }
        Some(bytes)
    }

    /// A new file in which something can be made; it goes away with the handle, unless it is kept. Where the folder cannot be written, it lies among the
    /// system's temporary files.
    pub(crate) fn part_anywhere(&self) -> Result<NamedTempFile> {
        self.part().or_else(|error| {
            self.warn(&error);
            NamedTempFile::with_prefix("reelseek-")
        })
    }

    fn part(&self) -> Result<NamedTempFile> {
        let folder = self.folder.join(PARTS);
        std::fs::create_dir_all(&folder)?;
        tempfile::Builder::new().prefix("reelseek-").suffix(".part").tempfile_in(folder)
    }

    /// Keeps these bytes, if it can: without a cache all is slower, but it is.
    pub(crate) fn keep_bytes(&self, key: &Key, bytes: &[u8]) {
        let kept = self.part().and_then(|mut part| {
            part.write_all(bytes)?;
            self.put(key, part, bytes.len() as u64)
        });
        kept.unwrap_or_else(|error| self.warn(&error));
    }

    /// Keeps a finished part, if it can, and gives what is in it.
    ///
    /// # Errors
    /// If the part cannot be read.
    pub(crate) fn keep(&self, key: &Key, part: NamedTempFile) -> Result<Bytes> {
        // Another program may have put a new file in the place of ours.
        let bytes = read(&File::open(part.path())?)?;
        self.put(key, part, bytes.len() as u64).unwrap_or_else(|error| self.warn(&error));
        Ok(bytes)
    }

    fn warn(&self, error: &std::io::Error) {
        let folder = self.folder.display();
        tracing::warn!("{folder}: what was made cannot be kept: {error}; REELSEEK_CACHE names another folder");
    }

    /// Puts a finished part into the folder. What was used least goes first to make room; a part larger than all room is not kept.
    fn put(&self, key: &Key, part: NamedTempFile, size: u64) -> Result<()> {
        if size > self.limit {
            return Ok(());
        }
        // A name must not come to stand for a file whose bytes a crash has lost.
        File::open(part.path())?.sync_data()?;
        // First the folder, then what is known of it: whoever looks something up does not wait for another process.
        let lock = File::create(self.folder.join(LOCK))?;
        lock.lock()?;
        let mut state = self.lock();
        let modified = || std::fs::metadata(&self.folder).and_then(|meta| meta.modified()).ok();
        if state.as_of.is_none() || state.as_of != modified() {
            *state = survey(&self.folder)?;
        }
        // Until all has gone well.
        state.as_of = None;
        state.take(key.name());
        while state.bytes + size > self.limit {
            let Some(oldest) = state.by_use.first_key_value().map(|(_, name)| name.clone()) else { break };
            match std::fs::remove_file(self.folder.join(&oldest)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => state.take(&oldest),
            };
        }
        part.persist(self.folder.join(key.name())).map_err(|error| error.error)?;
        state.put(key.name(), size, SystemTime::now());
        state.as_of = modified();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(mut file: &File) -> Result<Bytes> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok(bytes.into())
}

/// Whether a file is one of ours: 32 hexadecimal digits and an ending.
fn is_ours(name: &str) -> bool {
    let Some((digits, extension)) = name.split_once('.') else { return false };
    let hexadecimal = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    digits.len() == DIGITS && digits.bytes().all(hexadecimal) && ["jpg", "mp4", "webm"].contains(&extension)
}

/// What is in the folder. Parts that were left behind are removed.
fn survey(folder: &Path) -> Result<State> {
    let mut state = State::default();
    for entry in std::fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        // A link is not ours, wherever it leads.
        if let (Some(name), Ok(meta)) = (name.to_str().filter(|name| is_ours(name)), entry.metadata())
            && meta.is_file()
        {
            state.put(name, meta.len(), meta.modified().unwrap_or(SystemTime::UNIX_EPOCH));
        }
    }
    for entry in std::fs::read_dir(folder.join(PARTS)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with("reelseek-") && name.ends_with(".part"));
        let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if ours && age.is_some_and(|age| age > STALE) {
            // Another process may have been faster.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(&[name.as_bytes()], "jpg")
    }

    /// Names and bytes of the files in the folder that are ours.
    fn ours(folder: &Path) -> (usize, u64) {
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap()).collect();
        let ours =
            files.iter().filter(|e| is_ours(e.file_name().to_str().unwrap()) && e.file_type().unwrap().is_file());
        ours.fold((0, 0), |(n, bytes), e| (n + 1, bytes + e.metadata().unwrap().len()))
    }

    #[test]
    fn what_is_kept_is_found_again_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new/previews");
        let cache = Cache::new(folder.clone(), 1000);
        assert_eq!(cache.get(&key("a")), None);
        cache.keep_bytes(&key("a"), b"abc");
        assert_eq!(cache.get(&key("a")).unwrap(), "abc");
        assert_eq!(Cache::new(folder, 1000).get(&key("a")).unwrap(), "abc");
    }

    #[test]
    fn the_least_recently_used_goes_first_and_the_bound_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned(), 100);
        for name in ["a", "b", "c"] {
            cache.keep_bytes(&key(name), &[7; 30]);
        }
        assert!(cache.get(&key("a")).is_some(), "now b is the oldest");
        cache.keep_bytes(&key("d"), &[7; 30]);
        assert_eq!(cache.get(&key("b")), None);
        assert!(["a", "c", "d"].iter().all(|name| cache.get(&key(name)).is_some()));
        for i in 0..50 {
            cache.keep_bytes(&key(&i.to_string()), &vec![7; i % 40 + 1]);
            assert!(ours(dir.path()).1 <= 100);
        }
        // The same again takes no room twice, and what is larger than all room is given but not kept.
        let before = ours(dir.path());
        cache.keep_bytes(&key("49"), &[8; 10]);
        assert_eq!(ours(dir.path()), before);
        cache.keep_bytes(&key("huge"), &[1; 101]);
        assert_eq!((cache.get(&key("huge")), ours(dir.path())), (None, before));
    }

    #[test]
    fn the_order_of_use_survives_a_restart_and_a_smaller_bound_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned(), 100);
        for name in ["a", "b", "c"] {
            cache.keep_bytes(&key(name), &[7; 30]);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(cache.get(&key("a")).is_some());
        let cache = Cache::new(dir.path().to_owned(), 65);
        cache.keep_bytes(&key("d"), &[7; 30]);
        assert_eq!(ours(dir.path()), (2, 60));
        assert!(cache.get(&key("a")).is_some() && cache.get(&key("d")).is_some());
    }

    #[test]
    fn two_with_one_folder_keep_the_bound_together() {
        let dir = tempfile::tempdir().unwrap();
        let caches = [(); 2].map(|()| Cache::new(dir.path().to_owned(), 100));
        for i in 0..40 {
            caches[i % 2].keep_bytes(&key(&i.to_string()), &[7; 30]);
            assert!(ours(dir.path()).1 <= 100);
            // Clocks of file systems tick every few milliseconds.
            std::thread::sleep(Duration::from_millis(12));
        }
        assert!(caches[0].get(&key("39")).is_some() && caches[1].get(&key("38")).is_some());
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("previews");
        std::fs::create_dir_all(folder.join("parts")).unwrap();
        let name = key("a folder").name().to_owned();
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
        let cache = Cache::new(folder.clone(), 100);
        for i in 0..20 {
            cache.keep_bytes(&key(&i.to_string()), &[7; 30]);
        }
        assert_eq!(ours(&folder), (3, 90));
        assert!(foreign.iter().all(|name| folder.join(name).metadata().unwrap().len() == 500));
        assert!(folder.join(name).is_dir() && !stale.exists());
        assert_eq!(std::fs::read_dir(folder.join("parts")).unwrap().count(), 1, "no part is left");
    }

    #[test]
    fn keys_tell_their_parts_apart() {
        let key = |parts: &[&str]| Key::new(&parts.iter().map(|p| p.as_bytes()).collect::<Vec<_>>(), "mp4");
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["a"]), key(&["a", ""]));
        assert!(is_ours(key(&["a"]).name()));
    }
}
