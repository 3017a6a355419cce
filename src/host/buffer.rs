//! Memory that O_DIRECT takes: aligned, zeroed, on the heap. Nothing else lives here.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment of the memory. Every block device and filesystem takes a page, however large its blocks are.
const ALIGN: usize = 4096;

/// A buffer for O_DIRECT. Large ones are mapped, so that a buffer that is only ever read (a source of zeros)
/// costs no memory, and a dropped one goes back to the system at once.
#[derive(Debug)]
pub struct AlignedBuf {
    start: NonNull<u8>,
    layout: Layout,
}

impl AlignedBuf {
    /// `len` zero bytes; at least one page.
    pub fn zeroed(len: usize) -> AlignedBuf {
        let len = len.max(ALIGN);
        let Ok(layout) = Layout::from_size_align(len, ALIGN) else {
            handle_alloc_error(Layout::new::<u8>());
        };
        // SAFETY: the layout's size is at least ALIGN, so it is not zero.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(raw) else { handle_alloc_error(layout) };
        AlignedBuf { start, layout }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this very layout, and is freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `layout.size()` initialised bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` means that nobody else looks at them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
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
            assert_eq!(buf.as_ptr() as usize % ALIGN, 0);
            assert_eq!(buf.len(), len.max(ALIGN));
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
