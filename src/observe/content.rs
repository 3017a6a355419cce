//! Whether a device is blank, as SAFETY section 1 defines it, and what it holds if it is not.
//!
//! It reads the first MiB, the last MiB, wherever a signature can stand (the Ceph label positions among them), and 64
//! sampled blocks of what the cleaning covers; all of it past the page cache, which can be stale. It opens read-only and
//! not exclusively, and refuses to say `Blank` when anything could not be read.

use crate::host::block::{BlockError, BlockFile};
use crate::host::buffer::{AlignedBuf, is_zero};
use crate::model::chain::chain;
use crate::model::cleaning::Cleaning;
use crate::model::device::Content;
use crate::model::ranges::{Ranges, SAMPLE};
use crate::model::signature::{self, merged};
use std::ops::Range;
use std::path::Path;

/// Read whole at each end.
const ENDS: u64 = 1 << 20;

/// How much is held at a time. Several devices are looked at at once and the whole agent fits into a few MiB; a
/// multiple of 64 KiB, which no signature straddles.
const PIECE: u64 = 128 << 10;

/// The name of data without a known signature.
pub const UNKNOWN: &str = "unknown";

/// Opens the device to look, and reads its content: the form for a scan.
pub fn read_content(path: &Path, size: u64, cleaning: Cleaning) -> Content {
    match BlockFile::open_read(path) {
        Ok(file) => read_content_of(&file, size, cleaning),
        Err(error) => Content::Unreadable { error: chain(&error) },
    }
}

/// The same for a device that is open, and for the cleaning that is to follow.
pub fn read_content_of(file: &BlockFile, size: u64, cleaning: Cleaning) -> Content {
    let mut look = Look { file, size, buf: AlignedBuf::zeroed(PIECE as usize), found: Vec::new(), blank: true };
    match look.all(cleaning) {
        // What was found is certain, whatever else could not be read.
        _ if !look.found.is_empty() => Content::Data { found: look.found.into_iter().map(str::to_owned).collect() },
        Err(error) => Content::Unreadable { error: chain(&error) },
        Ok(()) if look.blank => Content::Blank,
        Ok(()) => Content::Data { found: vec![UNKNOWN.to_owned()] },
    }
}

#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("its size is {is}, and was {was}")]
    Size { was: u64, is: u64 },
    #[error("its size is zero")]
    Empty,
    #[error("it ends at {offset}")]
    Short { offset: u64 },
    #[error(transparent)]
    Block(#[from] BlockError),
}

struct Look<'a> {
    file: &'a BlockFile,
    size: u64,
    buf: AlignedBuf,
    found: Vec<&'static str>,
    blank: bool,
}

impl Look<'_> {
    fn all(&mut self, cleaning: Cleaning) -> Result<(), LookError> {
        let is = self.file.size()?;
        if is != self.size {
            return Err(LookError::Size { was: self.size, is });
        }
        if is == 0 {
            return Err(LookError::Empty);
        }
        let mut wanted = signature::ranges(self.size);
        wanted.push(0..ENDS.min(self.size));
        wanted.push(self.size.saturating_sub(ENDS)..self.size);
        for range in merged(wanted.into_iter().map(|range| self.aligned(range)).collect()) {
            self.range(range)?;
        }
        for offset in Ranges::of(cleaning, self.size).samples() {
            if !self.blank {
                // Nothing a sample says changes the answer any more.
                break;
            }
            self.range(self.aligned(offset..offset + SAMPLE))?;
        }
        Ok(())
    }

    fn aligned(&self, range: Range<u64>) -> Range<u64> {
        let align = self.file.align();
        range.start - range.start % align..range.end.next_multiple_of(align).min(self.size)
    }

    fn range(&mut self, range: Range<u64>) -> Result<(), LookError> {
        let mut at = range.start;
        while at < range.end {
            // Up to the next multiple of PIECE, so that no signature is cut in two.
            let end = (at - at % PIECE + PIECE).min(range.end);
            self.piece(at, (end - at) as usize)?;
            at = end;
        }
        Ok(())
    }

    fn piece(&mut self, offset: u64, len: usize) -> Result<(), LookError> {
        let whole = (len as u64).next_multiple_of(self.file.align()) as usize;
        let read = self.file.read_at(offset, &mut self.buf[..whole])?;
        if read < len {
            return Err(LookError::Short { offset: offset + read as u64 });
        }
        let bytes = &self.buf[..len];
        if is_zero(bytes) {
            return Ok(());
        }
        self.blank = false;
        let names = signature::found(self.size, &|at, len| {
            let from = usize::try_from(at.checked_sub(offset)?).ok()?;
            bytes.get(from..from.checked_add(len)?)
        });
        for name in names {
            if !self.found.contains(&name) {
                self.found.push(name);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// A sparse file that is gone with the value. In the temporary directory, whatever its filesystem.
    struct Sparse(PathBuf, File);

    impl Sparse {
        fn new(name: &str, size: u64) -> Sparse {
            let path = std::env::temp_dir().join(format!("content-{}-{name}", std::process::id()));
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
            file.set_len(size).unwrap();
            Sparse(path, file)
        }

        fn put(self, offset: u64, bytes: &[u8]) -> Sparse {
            self.1.write_all_at(bytes, offset).unwrap();
            self
        }

        fn content(&self, cleaning: Cleaning) -> Content {
            let size = self.1.metadata().unwrap().len();
            read_content_of(&BlockFile::open_read(&self.0).unwrap(), size, cleaning)
        }
    }

    impl Drop for Sparse {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn data(name: &str) -> Content {
        Content::Data { found: vec![name.to_owned()] }
    }

    #[test]
    fn zeros_are_blank_whatever_the_size() {
        for size in [1, 511, 4096, 100_000, MIB - 1, MIB, 2 * MIB + 5, 101 * MIB, GIB, GIB + 512] {
            let device = Sparse::new("zeros", size);
            assert_eq!(device.content(Cleaning::Quick), Content::Blank, "{size}");
            assert_eq!(device.content(Cleaning::Zero), Content::Blank, "{size}");
            assert_eq!(read_content(&device.0, size, Cleaning::Quick), Content::Blank, "{size}");
        }
    }

    #[test]
    fn one_byte_in_the_first_or_last_mib_is_data() {
        for size in [MIB, 3 * MIB + 77, GIB] {
            for at in [0, 1, 4095, MIB - 1, size - MIB, size - 1] {
                let device = Sparse::new("byte", size).put(at, &[1]);
                assert_eq!(device.content(Cleaning::Quick), data(UNKNOWN), "{size} {at}");
            }
        }
    }

    #[test]
    fn a_byte_in_a_sampled_block_is_data_for_the_cleaning_that_covers_it() {
        for cleaning in [Cleaning::Quick, Cleaning::Zero] {
            for at in Ranges::of(cleaning, GIB).samples() {
                let device = Sparse::new(cleaning.as_str(), GIB).put(at + SAMPLE - 1, &[1]);
                assert_eq!(device.content(cleaning), data(UNKNOWN), "{at}");
            }
        }
        let beyond_heads = Sparse::new("beyond", GIB).put(500 * MIB, &vec![1; 64 << 20]);
        assert_eq!(beyond_heads.content(Cleaning::Quick), Content::Blank);
        assert_eq!(beyond_heads.content(Cleaning::Zero), data(UNKNOWN));
    }

    #[test]
    fn signatures_are_named_where_they_stand() {
        assert_eq!(Sparse::new("a", GIB).put(64 * MIB + 64, b"_BHRfS_M").content(Cleaning::Quick), data("btrfs"));
        let label = Sparse::new("b", 10 * GIB + 4096).put(10 * GIB, b"bluestore block device");
        assert_eq!(label.content(Cleaning::Quick), data("ceph_bluestore"));
        assert_eq!(Sparse::new("c", GIB).put(GIB - 512, b"EFI PART").content(Cleaning::Quick), data("gpt"));
        let two = Sparse::new("d", GIB).put(0, b"XFSB").put(GIB - 512, b"EFI PART").content(Cleaning::Quick);
        assert_eq!(two, Content::Data { found: vec!["xfs".to_owned(), "gpt".to_owned()] });
    }

    #[test]
    fn another_size_nothing_or_no_device_is_unreadable() {
        let device = Sparse::new("size", MIB);
        assert!(matches!(read_content(&device.0, 2 * MIB, Cleaning::Quick), Content::Unreadable { .. }));
        assert!(matches!(read_content(&Sparse::new("empty", 0).0, 0, Cleaning::Quick), Content::Unreadable { .. }));
        assert!(matches!(read_content(Path::new("/nowhere"), MIB, Cleaning::Quick), Content::Unreadable { .. }));
        assert!(matches!(read_content(Path::new("/dev/null"), MIB, Cleaning::Quick), Content::Unreadable { .. }));
        assert!(matches!(read_content(&std::env::temp_dir(), MIB, Cleaning::Quick), Content::Unreadable { .. }));
    }
}
