//! Bytes that may be a private key's: kept in pages of their own.
//!
//! Such pages are left out of core dumps, whatever writes those (a limit of the process is not
//! asked for where `core_pattern` is a pipe, core(5)), and the kernel takes them back when they
//! are dropped: a key that is not used any more is nowhere in this process.

use std::fmt;
use std::io::{self, Read};
use std::num::NonZero;
use std::ops::{Deref, DerefMut};
use std::os::raw::c_void;
use std::ptr::NonNull;
use std::slice;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Bytes that may be a key's. Their buffer never moves, so that no copy stays behind.
#[derive(Default)]
pub struct SecretBytes {
    pages: Option<Pages>,
    length: usize,
}

impl SecretBytes {
    /// An empty buffer for so many bytes.
    ///
    /// # Errors
    /// When the kernel has no memory.
    pub fn with_capacity(capacity: usize) -> io::Result<SecretBytes> {
        let pages = NonZero::new(capacity).map(Pages::new).transpose()?;
        Ok(SecretBytes { pages, length: 0 })
    }

    /// A copy of these bytes.
    ///
    /// # Errors
    /// When the kernel has no memory.
    pub fn copy(bytes: &[u8]) -> io::Result<SecretBytes> {
        let mut copy = SecretBytes::with_capacity(bytes.len())?;
        copy.push(bytes)?;
        Ok(copy)
    }

    /// All that `source` gives until its end, `limit` bytes at the most; `expected` is a hint.
    ///
    /// # Errors
    /// Those of `source`, and when the kernel has no memory.
    pub fn read(mut source: impl Read, expected: usize, limit: usize) -> io::Result<SecretBytes> {
        // One byte more: the end is seen without another buffer.
        let mut bytes = SecretBytes::with_capacity(expected.min(limit).saturating_add(1))?;
        while bytes.length < limit {
            if bytes.spare().is_empty() {
                let mut larger = SecretBytes::with_capacity(bytes.length.saturating_mul(2))?;
                larger.push(&bytes)?;
                bytes = larger;
            }
            let room = (limit - bytes.length).min(bytes.spare().len());
            match source.read(bytes.spare().get_mut(..room).unwrap_or_default()) {
                Ok(0) => break,
                Ok(read) => bytes.grow(read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// Appends these bytes.
    ///
    /// # Errors
    /// When the buffer is too small for them: `StorageFull`.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = self.spare().get_mut(..bytes.len());
        room.ok_or(io::ErrorKind::StorageFull)?
            .copy_from_slice(bytes);
        self.grow(bytes.len());
        Ok(())
    }

    /// The part of the buffer that holds nothing yet; see [`SecretBytes::grow`].
    pub fn spare(&mut self) -> &mut [u8] {
        let all = self.pages.as_mut().map(Pages::all).unwrap_or_default();
        all.get_mut(self.length..).unwrap_or_default()
    }

    /// Notes that `by` more bytes of the spare part are filled.
    pub fn grow(&mut self, by: usize) {
        self.length += by.min(self.spare().len());
    }
}

impl DerefMut for SecretBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        let all = self.pages.as_mut().map(Pages::all).unwrap_or_default();
        all.get_mut(..self.length).unwrap_or_default()
    }
}

impl Deref for SecretBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pages.as_ref().map_or(&[], |pages| {
            // SAFETY: the pages are readable and initialised (by the kernel, with zeros), and
            // `length` is at most theirs; they are borrowed as long as `self` is.
            unsafe { slice::from_raw_parts(pages.start.as_ptr().cast(), self.length) }
        })
    }
}

impl PartialEq for SecretBytes {
    fn eq(&self, other: &SecretBytes) -> bool {
        **self == **other
    }
}

impl Eq for SecretBytes {}

impl fmt::Debug for SecretBytes {
    // The bytes are never shown.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} bytes", self.length)
    }
}

/// Anonymous pages.
struct Pages {
    start: NonNull<c_void>,
    length: NonZero<usize>,
}

// SAFETY: the pages belong to this value alone, whichever thread has it, and shared they are
// only read.
unsafe impl Send for Pages {}
// SAFETY: see above.
unsafe impl Sync for Pages {}

impl Pages {
    fn new(length: NonZero<usize>) -> io::Result<Pages> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses the place: nothing of ours lies there.
        let start = unsafe { mmap_anonymous(None, length, access, MapFlags::MAP_PRIVATE) }?;
        let pages = Pages { start, length };
        // Miri knows no advice.
        if !cfg!(miri) {
            // A kernel that knows none either has no core dumps to write (gVisor).
            // SAFETY: the pages were mapped just now, and the advice changes none of their bytes.
            let _ = unsafe { madvise(start, length.get(), MmapAdvise::MADV_DONTDUMP) };
        }
        Ok(pages)
    }

    fn all(&mut self) -> &mut [u8] {
        // SAFETY: the pages are writable and initialised, and borrowed as long as `self` is.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.length.get()) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // Before they go, in case the kernel does not take them.
        self.all().fill(0);
        // SAFETY: nobody borrows the pages any more.
        let _ = unsafe { munmap(self.start, self.length.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_there_to_the_limit_whatever_was_expected() {
        let text: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
        for expected in [0, 1, 100, 20_000, 1 << 30] {
            let read = SecretBytes::read(&text[..], expected, 1 << 20).unwrap();
            assert_eq!(*read, text[..]);
            let cut = SecretBytes::read(&text[..], expected, 7000).unwrap();
            assert_eq!(*cut, text[..7000]);
        }
        assert!(SecretBytes::default().is_empty());
        assert!(
            SecretBytes::with_capacity(3)
                .unwrap()
                .push(b"four")
                .is_err()
        );
    }

    #[test]
    fn no_core_dump_holds_the_pages_and_they_are_gone_with_the_value() {
        let kept = SecretBytes::copy(b"a key").unwrap();
        let at = format!("{:x}", kept.as_ptr() as usize);
        let map = || std::fs::read_to_string("/proc/self/smaps").unwrap();
        let flags = |map: &str| {
            let rest = map.split_once(&format!("{at}-"))?.1.to_owned();
            rest.lines()
                .find_map(|line| line.strip_prefix("VmFlags: ").map(str::to_owned))
        };
        if let Some(flags) = flags(&map()) {
            assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
        }
        assert_eq!(format!("{kept:?}"), "5 bytes");
    }
}
