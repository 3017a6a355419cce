//! Memory that O_DIRECT takes: aligned, zeroed, not on any stack. Nothing else lives here.

use nix::libc;
use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut};

/// What the kernel maps is a multiple of this, and starts at one.
const PAGE: usize = 4096;

/// A buffer for O_DIRECT. Mapped rather than allocated: a buffer that is only ever read (a source of zeros) costs no
/// memory, as all of its pages are the kernel's one zero page, and a dropped one goes back to the system at once.
/// (`alloc_zeroed` with such an alignment allocates and then writes the zeros.)
#[derive(Debug)]
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
}

impl AlignedBuf {
    /// `len` zero bytes, rounded up to whole pages; at least one.
    pub fn zeroed(len: usize) -> AlignedBuf {
        let len = len.max(1).next_multiple_of(PAGE);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory that exists.
        let raw = unsafe { libc::mmap(null_mut(), len, protection, flags, -1, 0) };
        match NonNull::new(raw.cast()) {
            Some(start) if raw != libc::MAP_FAILED => AlignedBuf { start, len },
            _ => handle_alloc_error(Layout::new::<[u8; PAGE]>()),
        }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: this very mapping was made by `zeroed`, and is unmapped once; no reference outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `len` mapped, initialised bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` means that nobody else looks at them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

// SAFETY: the buffer owns its memory like a `Box<[u8]>` does.
unsafe impl Send for AlignedBuf {}

/// Whether every byte is zero. Sixteen at a time in plain code: the release profile optimises for size, which leaves
/// out vector code, and musl's `memcmp` goes byte by byte.
pub fn is_zero(bytes: &[u8]) -> bool {
    // SAFETY: every bit pattern of sixteen bytes is a u128.
    let (head, words, tail) = unsafe { bytes.align_to::<u128>() };
    words.iter().all(|word| *word == 0) && head.iter().chain(tail).all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_zeroed_and_as_long_as_asked() {
        for len in [1, 4096, 65536, 1 << 20] {
            let mut buf = AlignedBuf::zeroed(len);
            assert!((buf.as_ptr() as usize).is_multiple_of(PAGE));
            assert_eq!(buf.len(), len.max(PAGE));
            assert!(is_zero(&buf));
            buf[len - 1] = 1;
            assert!(!is_zero(&buf));
        }
    }

    #[test]
    fn one_byte_anywhere_is_not_zero() {
        for len in [1, 255, 256, 257, 1000] {
            for at in 0..len {
                let mut bytes = vec![0; len];
                assert!(is_zero(&bytes));
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes));
            }
        }
    }
}
