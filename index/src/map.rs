//! Maps files into memory and views their bytes as numbers. With `simd`,
//! the only place of `unsafe`.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use stable_deref_trait::StableDeref;

use crate::error::{Error, Result};

/// A file, mapped read-only. The mapping outlives the file's name on Unix.
#[derive(Debug)]
pub(crate) struct Mapped {
    /// Before the mapping, so that it is given up first.
    #[cfg(unix)]
    guard: Option<guard::Guard>,
    map: memmap2::Mmap,
    /// To look at its length again.
    file: File,
}

impl Mapped {
    /// Maps the file if it has exactly `bytes` bytes.
    pub(crate) fn open(path: &Path, bytes: u64) -> Result<Mapped> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let found = file.metadata().map_err(Error::io("read the size of", path))?.len();
        let wrong = |found: u64| Error::damaged(path, format!("{bytes} bytes"), format!("{found} bytes"));
        if found != bytes || bytes == 0 {
            return Err(wrong(found));
        }
        let mapped = Mapped::new(file).map_err(Error::io("map", path))?;
        match mapped.map.len() as u64 {
            found if found != bytes => Err(wrong(found)),
            _ => Ok(mapped),
        }
    }

    /// Maps the file as long as it is.
    pub(crate) fn open_whole(path: &Path) -> std::io::Result<Mapped> {
        Mapped::new(File::open(path)?)
    }

    fn new(file: File) -> std::io::Result<Mapped> {
        // SAFETY: the promise needed is that nobody changes the file while it is mapped. It is this
        // crate's, and tantivy's: files are written and synced before a commit names them and never written
        // again, only unlinked. If a foreign process breaks it by cutting the file short, reads beyond
        // its new end give zeros (see `guard`), and `check` tells.
        let map = unsafe { memmap2::Mmap::map(&file) }?;
        Ok(Mapped {
            #[cfg(unix)]
            guard: guard::Guard::new(&map),
            map,
            file,
        })
    }

    /// Whether the file is as long as it was: if it was cut short, zeros may have been read.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        // A cut within a page raises no signal: its rest reads as zeros.
        let cut = self.file.metadata().map_err(Error::io("read the size of", path))?.len() < self.map.len() as u64;
        #[cfg(unix)]
        let cut = cut || self.guard.as_ref().is_some_and(guard::Guard::was_needed);
        if cut {
            return Err(Error::damaged(path, "the length it was opened with", "a file cut short meanwhile"));
        }
        Ok(())
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Bytes `range` as `u32`; `None` if out of range, misaligned or not a multiple of 4.
    pub(crate) fn words(&self, range: Range<usize>) -> Option<&[u32]> {
        let bytes = checked::<u32>(self.map.get(range)?)?;
        // SAFETY: `checked` has seen alignment and length; every bit pattern is a u32, and the
        // result borrows `self`, which keeps the mapping.
        Some(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 4) })
    }

    /// Bytes `range` as `i8`; `None` if out of range.
    pub(crate) fn signed(&self, range: Range<usize>) -> Option<&[i8]> {
        let bytes = self.map.get(range)?;
        // SAFETY: i8 has the size and the alignment of u8, and every bit pattern is one; the
        // result borrows `self`, which keeps the mapping.
        Some(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) })
    }

    /// Bytes `range` as `u16`; `None` if out of range, misaligned or not a multiple of 2.
    pub(crate) fn halves(&self, range: Range<usize>) -> Option<&[u16]> {
        let bytes = checked::<u16>(self.map.get(range)?)?;
        // SAFETY: as in `words`; every bit pattern is a u16.
        Some(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 2) })
    }
}

/// A mapped file as tantivy wants it.
#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Arc<Mapped>);

impl Deref for Shared {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

// SAFETY: the bytes lie in the mapping, which stays where it is however `Shared` is moved or cloned, until the last clone is dropped.
unsafe impl StableDeref for Shared {}

/// The bytes, if they are aligned for and a whole number of `T`.
fn checked<T>(bytes: &[u8]) -> Option<&[u8]> {
    let aligned = bytes.as_ptr().align_offset(align_of::<T>()) == 0;
    (aligned && bytes.len().is_multiple_of(size_of::<T>())).then_some(bytes)
}

/// Keeps the process alive when a mapped file is cut short.
///
/// The system answers a read beyond the end of a mapped file with SIGBUS, which ends the process. Our handler puts a
/// page of zeros in the place that was read, if it lies in one of our mappings, and notes it; any other
/// SIGBUS goes to whoever handled it before.
#[cfg(unix)]
mod guard {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// Mappings guarded at a time; any beyond are not.
    const PLACES: usize = 1024;

    struct Place {
        taken: AtomicBool,
        start: AtomicUsize,
        /// 0 while the place is free.
        end: AtomicUsize,
        needed: AtomicBool,
    }

    static GUARDED: [Place; PLACES] = [const {
        Place {
            taken: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            needed: AtomicBool::new(false),
        }
    }; PLACES];

    /// Bytes in a page, and what handled SIGBUS before; `None` if the system refused our handler.
    static BEFORE: OnceLock<Option<(usize, libc::sigaction)>> = OnceLock::new();

    /// A place in the list of guarded mappings.
    #[derive(Debug)]
    pub(super) struct Guard(usize);

    impl Guard {
        /// `None` if there is no place left.
        pub(super) fn new(map: &[u8]) -> Option<Guard> {
            BEFORE.get_or_init(install).as_ref()?;
            let i = GUARDED.iter().position(|place| !place.taken.swap(true, Ordering::AcqRel))?;
            let (place, start) = (&GUARDED[i], map.as_ptr() as usize);
            place.needed.store(false, Ordering::Relaxed);
            place.start.store(start, Ordering::Relaxed);
            place.end.store(start + map.len(), Ordering::Release);
            Some(Guard(i))
        }

        pub(super) fn was_needed(&self) -> bool {
            GUARDED[self.0].needed.load(Ordering::Relaxed)
        }
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            GUARDED[self.0].end.store(0, Ordering::Release);
            GUARDED[self.0].taken.store(false, Ordering::Release);
        }
    }

    fn install() -> Option<(usize, libc::sigaction)> {
        // SAFETY: the calls get valid pointers to structures of their types; zeros are a valid sigaction.
        unsafe {
            let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).ok().filter(|page| page.is_power_of_two())?;
            let (mut ours, mut before): (libc::sigaction, libc::sigaction) = (std::mem::zeroed(), std::mem::zeroed());
            ours.sa_sigaction = on_bus as *const () as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            libc::sigemptyset(&mut ours.sa_mask);
            // Known before the handler can run.
            (libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before) == 0).then_some(())?;
            (libc::sigaction(libc::SIGBUS, &ours, std::ptr::null_mut()) == 0).then_some((page, before))
        }
    }

    /// Runs in a signal handler: only atomics and two system calls.
    extern "C" fn on_bus(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let Some(Some((page, before))) = BEFORE.get() else {
            // SAFETY: plain call. Without what was before, the default action ends the process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            return;
        };
        // SAFETY: with SA_SIGINFO the system hands over a valid siginfo, whose address is set for SIGBUS.
        let at = unsafe { (*info).si_addr() } as usize;
        for place in &GUARDED {
            let end = place.end.load(Ordering::Acquire);
            if at < end && at >= place.start.load(Ordering::Relaxed) {
                let from = (at & !(page - 1)) as *mut libc::c_void;
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                // SAFETY: replaces a page of our own mapping, which the guard outlives not, by one of zeros.
                let mapped = unsafe { libc::mmap(from, *page, libc::PROT_READ, flags, -1, 0) };
                if mapped != libc::MAP_FAILED {
                    place.needed.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
        // SAFETY: gives the signal back; the read that caused it is tried again when we return.
        unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
    }
}
