//! Maps files into memory. Only this module and `simd` contain `unsafe` code.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use stable_deref_trait::StableDeref;

use crate::error::{Error, Result};

/// A file, mapped read-only. On Unix the mapping outlives the file's name.
#[derive(Debug)]
pub(crate) struct MappedFile {
    /// Declared before the mapping, so that it is dropped first.
    #[cfg(unix)]
    guard: Option<guard::BusGuard>,
    map: memmap2::Mmap,
    /// Open for later checks of the length.
    file: File,
}

impl MappedFile {
    /// Maps the file if it has exactly `bytes` bytes.
    pub(crate) fn open(path: &Path, bytes: u64) -> Result<MappedFile> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let found = file.metadata().map_err(Error::io("read the size of", path))?.len();
        let wrong = |found: u64| Error::damaged(path, format!("{bytes} bytes"), format!("{found} bytes"));
        if found != bytes || bytes == 0 {
            return Err(wrong(found));
        }
        let mapped = MappedFile::new(file).map_err(Error::io("map", path))?;
        match mapped.map.len() as u64 {
            found if found != bytes => Err(wrong(found)),
            _ => Ok(mapped),
        }
    }

    /// Maps the whole file.
    pub(crate) fn open_whole(path: &Path) -> std::io::Result<MappedFile> {
        MappedFile::new(File::open(path)?)
    }

    fn new(file: File) -> std::io::Result<MappedFile> {
        // SAFETY: nobody may change the file while it is mapped. This crate and tantivy promise that: they
        // write and sync files before a commit names them, and never write them again, only unlink them. If
        // another process truncates the file, reads beyond its new end return zeros while the guard is
        // installed (see `guard`) and end the process otherwise; `check` detects the truncation.
        let map = unsafe { memmap2::Mmap::map(&file) }?;
        Ok(MappedFile {
            #[cfg(unix)]
            guard: guard::BusGuard::new(&map),
            map,
            file,
        })
    }

    /// Returns an error if the file was truncated since it was opened: then searches may have read zeros.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        // A read within the last page raises no signal: the rest of the page is zeros.
        let cut = self.file.metadata().map_err(Error::io("read the size of", path))?.len() < self.map.len() as u64;
        #[cfg(unix)]
        let cut = cut || self.guard.as_ref().is_some_and(guard::BusGuard::has_caught);
        if cut {
            return Err(Error::damaged(path, "the length at opening", "a file cut short since then"));
        }
        Ok(())
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Bytes `range` as integers; `None` if out of range, misaligned or not a whole number of them.
    pub(crate) fn slice<T: bytemuck::AnyBitPattern>(&self, range: Range<usize>) -> Option<&[T]> {
        bytemuck::try_cast_slice(self.map.get(range)?).ok()
    }
}

/// A mapped file in the form that tantivy needs.
#[derive(Clone)]
pub(crate) struct SharedMap(pub(crate) Arc<MappedFile>);

impl Deref for SharedMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

// SAFETY: the bytes are in the mapping, which keeps its address until the last clone is dropped.
unsafe impl StableDeref for SharedMap {}

/// Installs a signal handler (SIGBUS) that keeps this process alive when another process truncates a file of
/// an open index. Returns whether the handler is installed; it never is on systems other than Unix.
///
/// A program calls this once, before it opens an index. Files that are already open are not guarded. Reads
/// beyond the end of a guarded file then return zeros, and the search that did them ends with
/// [`Error::Damaged`]. The handler passes any other SIGBUS to the handler that was installed before it. It
/// guards up to 1,024 files at a time.
///
/// Without it, such a read ends the process. Damage that was there when a file was opened is an error either
/// way.
pub fn install_sigbus_guard() -> bool {
    #[cfg(unix)]
    let installed = guard::install();
    #[cfg(not(unix))]
    let installed = false;
    installed
}

/// The SIGBUS handler.
///
/// The system answers a read beyond the end of a mapped file with SIGBUS. If the address is in a guarded
/// mapping, the handler replaces the page by zeros and records that. Any other SIGBUS goes to the previous
/// handler.
#[cfg(unix)]
mod guard {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// Largest number of guarded mappings. Later ones have no guard.
    const SLOTS: usize = 1024;

    struct GuardSlot {
        taken: AtomicBool,
        start: AtomicUsize,
        /// 0 while the slot is free.
        end: AtomicUsize,
        caught: AtomicBool,
    }

    static GUARDED: [GuardSlot; SLOTS] = [const {
        GuardSlot {
            taken: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            caught: AtomicBool::new(false),
        }
    }; SLOTS];

    /// Size of a page in bytes and the previous handler; `None` if the system refused the handler. Empty
    /// until [`install`] is called.
    static PREVIOUS: OnceLock<Option<(usize, libc::sigaction)>> = OnceLock::new();

    /// A slot in the list of guarded mappings.
    #[derive(Debug)]
    pub(super) struct BusGuard(usize);

    impl BusGuard {
        /// `None` if the handler is not installed or no slot is free.
        pub(super) fn new(map: &[u8]) -> Option<BusGuard> {
            PREVIOUS.get()?.as_ref()?;
            let i = GUARDED.iter().position(|slot| !slot.taken.swap(true, Ordering::AcqRel))?;
            let (slot, start) = (&GUARDED[i], map.as_ptr() as usize);
            slot.caught.store(false, Ordering::Relaxed);
            slot.start.store(start, Ordering::Relaxed);
            slot.end.store(start + map.len(), Ordering::Release);
            Some(BusGuard(i))
        }

        /// Whether a read beyond the end of the file was caught.
        pub(super) fn has_caught(&self) -> bool {
            GUARDED[self.0].caught.load(Ordering::Relaxed)
        }
    }

    impl Drop for BusGuard {
        fn drop(&mut self) {
            GUARDED[self.0].end.store(0, Ordering::Release);
            GUARDED[self.0].taken.store(false, Ordering::Release);
        }
    }

    pub(super) fn install() -> bool {
        PREVIOUS.get_or_init(replace_handler).is_some()
    }

    fn replace_handler() -> Option<(usize, libc::sigaction)> {
        // SAFETY: the calls get valid pointers to structures of their types; zeros are a valid sigaction.
        unsafe {
            let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).ok().filter(|page| page.is_power_of_two())?;
            let (mut ours, mut before): (libc::sigaction, libc::sigaction) = (std::mem::zeroed(), std::mem::zeroed());
            ours.sa_sigaction = on_bus as *const () as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            libc::sigemptyset(&mut ours.sa_mask);
            // Read the previous handler before ours can run.
            (libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before) == 0).then_some(())?;
            (libc::sigaction(libc::SIGBUS, &ours, std::ptr::null_mut()) == 0).then_some((page, before))
        }
    }

    /// Runs in a signal handler: uses only atomics and two system calls.
    extern "C" fn on_bus(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let Some(Some((page, before))) = PREVIOUS.get() else {
            // SAFETY: plain call. The default action ends the process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            return;
        };
        // SAFETY: with SA_SIGINFO the system passes a valid siginfo, whose address is set for SIGBUS.
        let at = unsafe { (*info).si_addr() } as usize;
        for slot in &GUARDED {
            let end = slot.end.load(Ordering::Acquire);
            if at < end && at >= slot.start.load(Ordering::Relaxed) {
                let from = (at & !(page - 1)) as *mut libc::c_void;
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                // SAFETY: replaces a page of a mapping of this crate by zeros. The mapping outlives its
                // guard.
                let mapped = unsafe { libc::mmap(from, *page, libc::PROT_READ, flags, -1, 0) };
                if mapped != libc::MAP_FAILED {
                    slot.caught.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
        // SAFETY: restores the previous handler. The read that caused the signal is repeated when this one
        // returns.
        unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
    }
}
