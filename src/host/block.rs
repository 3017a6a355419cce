//! Block devices, and regular files that stand in for them: opened once, then spoken to by descriptor only.
//!
//! Owns the open (never anything but a block device or a regular file, and no side effect on what is neither), size,
//! `diskseq`, O_DIRECT reads, and the ways to make a range zero. Refuses to decide: whether a byte may be written is
//! the caller's business, and nothing here looks at a path a second time.

use super::buffer::AlignedBuf;
use crate::model::device::Place;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};
use nix::libc;
use nix::sys::stat::{SFlag, fstat, major, minor};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What O_DIRECT offsets and lengths are multiples of, unless the device's own blocks are larger.
/// A page: no filesystem under a regular file asks for more, whatever disk is below it.
const MIN_ALIGN: u64 = 4096;

/// Zeros handed to one O_DIRECT write: large enough for a disk's full speed, small enough to be mapped and forgotten.
const WRITE_LEN: usize = 512 << 10;

mod ioctl {
    //! From linux/fs.h.
    nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);
    nix::ioctl_read!(blkgetdiskseq, 0x12, 128, u64);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), nix::libc::c_int);
    nix::ioctl_none!(blkrrpart, 0x12, 95);
    nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
    nix::ioctl_write_ptr_bad!(blksecdiscard, nix::request_code_none!(0x12, 125), [u64; 2]);
    nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);
}

#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    #[error("nothing is there")]
    Gone,
    #[error("it is {what}, not a block device or a regular file")]
    NotADevice { what: &'static str },
    /// O_EXCL said EBUSY.
    #[error("it is in use")]
    Busy,
    #[error("it cannot be opened")]
    Open { source: io::Error },
    #[error("it does not answer {question}")]
    Ask { question: &'static str, source: io::Error },
    #[error("{len} bytes at {offset} cannot be read")]
    Read { offset: u64, len: usize, source: io::Error },
    #[error("{len} bytes at {offset} cannot be made zero by {way}")]
    Zero { way: &'static str, offset: u64, len: u64, source: io::Error },
    #[error("{len} bytes at {offset} cannot be written")]
    Write { offset: u64, len: usize, source: io::Error },
    #[error("{len} bytes at {offset} cannot be discarded")]
    Discard { offset: u64, len: u64, source: io::Error },
    #[error("{len} bytes at {offset} cannot be discarded securely")]
    SecureDiscard { offset: u64, len: u64, source: io::Error },
    /// No error of the medium: there is no such command for it.
    #[error("it knows no {what}; clean it by zero instead")]
    Unsupported { what: &'static str },
    #[error("the device does not flush")]
    Flush { source: io::Error },
}

/// A way to make a range zero, in the order in which they are tried. Each guarantees that the range reads zero afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// `fallocate(PUNCH_HOLE | KEEP_SIZE)`: the device's own "write zeroes", unmapping where it can; the kernel does
    /// not fall back to writing.
    PunchHole,
    /// `fallocate(ZERO_RANGE)`: write zeroes without unmapping; the kernel falls back to writing.
    ZeroRange,
    /// The ioctl BLKZEROOUT: the same for kernels whose block devices know no fallocate.
    ZeroOut,
    /// Zeros through O_DIRECT: what is left when the others are missing or were found to lie.
    Write,
}

impl Way {
    pub const ALL: [Way; 4] = [Way::PunchHole, Way::ZeroRange, Way::ZeroOut, Way::Write];

    pub fn as_str(self) -> &'static str {
        match self {
            Way::PunchHole => "punch-hole",
            Way::ZeroRange => "zero-range",
            Way::ZeroOut => "blkzeroout",
            Way::Write => "direct-write",
        }
    }
}

/// An open device. What it stands for cannot change while it lives: links and names do not matter any more.
#[derive(Debug)]
pub struct BlockFile {
    file: File,
    place: Place,
    /// Offsets and lengths of reads and writes are multiples of this, but for the end of the device.
    align: u64,
    /// Whether O_DIRECT is set: a filesystem under a regular file may not know it.
    direct: bool,
}

impl BlockFile {
    /// Opens to look: read-only, not exclusively, so that nobody's mount is disturbed.
    pub fn open_read(path: &Path) -> Result<BlockFile, BlockError> {
        BlockFile::open(path, false)
    }

    /// Opens to write, and holds the device: until this is dropped nobody can mount it, swap on it, put dm or md on
    /// it, or open it exclusively. On a regular file exclusion protects nothing, as the kernel knows none.
    pub fn open_exclusive(path: &Path) -> Result<BlockFile, BlockError> {
        BlockFile::open(path, true)
    }

    fn open(path: &Path, exclusive: bool) -> Result<BlockFile, BlockError> {
        // O_PATH opens nothing: no FIFO waits for its other end, no tape rewinds, no watchdog starts.
        let pin = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path).map_err(
            |source| match source.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => BlockError::Gone,
                _ => BlockError::Open { source },
            },
        )?;
        let (place, _) = place_of(&pin)?;
        let block = matches!(place, Place::Block { .. });
        // By way of /proc the pinned inode itself is opened, whatever the path leads to by now.
        let through = format!("/proc/self/fd/{}", pin.as_raw_fd());
        let exclusion = if exclusive && block { libc::O_EXCL } else { 0 };
        let open = |flags: i32| {
            OpenOptions::new()
                .read(true)
                .write(exclusive)
                .custom_flags(flags | exclusion | libc::O_CLOEXEC | libc::O_NOCTTY)
                .open(&through)
        };
        let mut direct = true;
        let file = open(libc::O_DIRECT).or_else(|error| {
            if block || error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error);
            }
            direct = false;
            open(0)
        });
        let file = file.map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY) if exclusive => BlockError::Busy,
            // A node whose device is gone.
            Some(libc::ENXIO | libc::ENODEV) => BlockError::Gone,
            _ => BlockError::Open { source },
        })?;
        let (place, block_len) = place_of(&file)?;
        let align = if block { logical_block(&file)?.max(MIN_ALIGN) } else { block_len.clamp(MIN_ALIGN, 1 << 16) };
        Ok(BlockFile { file, place, align, direct })
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// Offsets and lengths of [`BlockFile::read_at`] are multiples of this power of two.
    pub fn align(&self) -> u64 {
        self.align
    }

    /// Bytes, asked anew at each call.
    pub fn size(&self) -> Result<u64, BlockError> {
        let asked = |source: io::Error| BlockError::Ask { question: "its size", source };
        match self.place {
            Place::Block { .. } => {
                let mut size: u64 = 0;
                // SAFETY: BLKGETSIZE64 writes a u64, whatever its request code says of a size_t.
                unsafe { ioctl::blkgetsize64(self.file.as_raw_fd(), (&raw mut size).cast()) }
                    .map_err(|errno| asked(errno.into()))?;
                Ok(size)
            }
            Place::File { .. } | Place::Directory { .. } => Ok(self.file.metadata().map_err(asked)?.len()),
        }
    }

    /// Grows whenever another medium is behind the same number. `None` for files, and where the kernel does not know.
    pub fn diskseq(&self) -> Option<u64> {
        if let Place::File { .. } = self.place {
            return None;
        }
        let mut diskseq: u64 = 0;
        // SAFETY: BLKGETDISKSEQ writes a u64.
        unsafe { ioctl::blkgetdiskseq(self.file.as_raw_fd(), &raw mut diskseq) }.ok()?;
        Some(diskseq)
    }

    /// Reads past the page cache, which may be stale. `offset` and the buffer's length are multiples of
    /// [`BlockFile::align`], the buffer is an [`AlignedBuf`] or an aligned part of one.
    /// Returns how much was read: less than asked only at the end of the device.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, BlockError> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(BlockError::Read { offset: offset + done as u64, len: buf.len() - done, source });
                }
            }
            // A short read that is not aligned can only be the end; asking on from there would be EINVAL.
            if !(done as u64).is_multiple_of(self.align) {
                break;
            }
        }
        Ok(done)
    }

    /// Reads any range, aligned or not; shorter than asked only at the end of the device.
    /// For a few sectors here and there: it takes a buffer each time.
    pub fn read_range(&self, offset: u64, len: usize) -> Result<Vec<u8>, BlockError> {
        let start = offset - offset % self.align;
        let end = (offset + len as u64).next_multiple_of(self.align);
        let mut buf = AlignedBuf::zeroed((end - start) as usize);
        let read = self.read_at(start, &mut buf[..(end - start) as usize])?;
        let from = ((offset - start) as usize).min(read);
        let to = (from + len).min(read);
        Ok(buf[from..to].to_vec())
    }

    /// Makes the range zero by the first way that works, chosen anew at each call: support can vanish between two.
    pub fn zero(&self, offset: u64, len: u64) -> Result<Way, BlockError> {
        for way in [Way::PunchHole, Way::ZeroRange, Way::ZeroOut] {
            match self.zero_by(way, offset, len) {
                Ok(()) => return Ok(way),
                Err(BlockError::Zero { source, .. }) if is_missing(&source) => {}
                // The device itself is at fault; whether plain writes fare better is found out in one step.
                // ENODATA is the kernel's word for a medium error.
                Err(BlockError::Zero { source, .. })
                    if matches!(source.raw_os_error(), Some(libc::EIO | libc::ENODATA)) =>
                {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.zero_by(Way::Write, offset, len)?;
        Ok(Way::Write)
    }

    /// Makes the range zero by this way or not at all.
    pub fn zero_by(&self, way: Way, offset: u64, len: u64) -> Result<(), BlockError> {
        let failed = |source: io::Error| BlockError::Zero { way: way.as_str(), offset, len, source };
        let by_fallocate = |flags: FallocateFlags| {
            let keep_size = FallocateFlags::FALLOC_FL_KEEP_SIZE;
            retried(|| fallocate(&self.file, flags | keep_size, offset as i64, len as i64)).map_err(failed)
        };
        match way {
            Way::PunchHole => by_fallocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE),
            Way::ZeroRange => by_fallocate(FallocateFlags::FALLOC_FL_ZERO_RANGE),
            Way::ZeroOut => {
                // SAFETY: BLKZEROOUT reads two u64, the range; a file answers ENOTTY.
                retried(|| unsafe { ioctl::blkzeroout(self.file.as_raw_fd(), &[offset, len]) }.map(drop))
                    .map_err(failed)
            }
            Way::Write => self.write_zeros(offset, len).map_err(failed),
        }
    }

    /// Tells the device that the range is not needed. What it reads afterwards is the device's own business: the
    /// caller reads it back.
    pub fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        if let Place::File { .. } = self.place {
            return self.zero_by(Way::PunchHole, offset, len);
        }
        // SAFETY: BLKDISCARD reads two u64, the range.
        retried(|| unsafe { ioctl::blkdiscard(self.file.as_raw_fd(), &[offset, len]) }.map(drop)).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EOPNOTSUPP) => BlockError::Unsupported { what: "discard" },
                _ => BlockError::Discard { offset, len, source },
            }
        })
    }

    /// Tells the device to erase the range and every copy of it that it keeps.
    pub fn secure_discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        // SAFETY: BLKSECDISCARD reads two u64, the range; a file answers ENOTTY.
        retried(|| unsafe { ioctl::blksecdiscard(self.file.as_raw_fd(), &[offset, len]) }.map(drop)).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENOTTY) => BlockError::Unsupported { what: "secure discard" },
                _ => BlockError::SecureDiscard { offset, len, source },
            }
        })
    }

    /// Writes these bytes past the page cache; what would lie past the end is left out. `offset` is a multiple of
    /// [`BlockFile::align`], and so is the length but at the end; the buffer is an [`AlignedBuf`] or an aligned part.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), BlockError> {
        let failed = |source: io::Error| BlockError::Write { offset, len: bytes.len(), source };
        let end = self.size()?.min(offset + bytes.len() as u64);
        let mut at = offset;
        while at < end {
            let rest = (at - offset) as usize..(end - offset) as usize;
            at += self.write_some(&bytes[rest], at).map_err(failed)? as u64;
        }
        Ok(())
    }

    /// What was written survives a power cut once this has returned.
    pub fn flush(&self) -> Result<(), BlockError> {
        self.file.sync_all().map_err(|source| BlockError::Flush { source })
    }

    /// Whether the kernel knows partitions of it.
    pub fn has_partitions(&self) -> bool {
        let Place::Block { major, minor } = self.place else { return false };
        let Ok(entries) = fs::read_dir(format!("/sys/dev/block/{major}:{minor}")) else { return false };
        entries.flatten().any(|entry| entry.path().join("partition").exists())
    }

    /// Makes the kernel forget partitions whose table was zeroed. Works only while the device is held exclusively.
    pub fn reread_partitions(&self) -> Result<(), BlockError> {
        // SAFETY: BLKRRPART takes no argument.
        retried(|| unsafe { ioctl::blkrrpart(self.file.as_raw_fd()) }.map(drop))
            .map_err(|source| BlockError::Ask { question: "to read its partition table again", source })
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        // Never past the end: a regular file would grow.
        let size = self.size().map_err(io::Error::other)?;
        let end = (offset + len).min(size);
        let zeros = AlignedBuf::zeroed(WRITE_LEN);
        let mut at = offset;
        while at < end {
            let n = (end - at).min(WRITE_LEN as u64);
            at += self.write_some(&zeros[..n as usize], at)? as u64;
        }
        Ok(())
    }

    /// One write. Returns how much of it was written: none when a signal came between.
    fn write_some(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        // The last bytes of a file whose length is no multiple of its blocks: O_DIRECT does not take them. A block
        // device's size always is one.
        let n = bytes.len() as u64;
        let odd = matches!(self.place, Place::File { .. }) && !n.is_multiple_of(self.align);
        let written = if odd && n > self.align {
            self.file.write_at(&bytes[..(n - n % self.align) as usize], at)
        } else if odd && self.direct {
            self.without_direct(|| self.file.write_at(bytes, at))
        } else {
            self.file.write_at(bytes, at)
        };
        match written {
            Ok(0) => Err(io::Error::from(ErrorKind::WriteZero)),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
            other => other,
        }
    }

    fn without_direct<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let flags = OFlag::from_bits_retain(fcntl(&self.file, FcntlArg::F_GETFL)?);
        fcntl(&self.file, FcntlArg::F_SETFL(flags - OFlag::O_DIRECT))?;
        let result = act();
        fcntl(&self.file, FcntlArg::F_SETFL(flags))?;
        result
    }
}

/// The place, and the block size that `stat` tells, of what is a device; an error for everything else.
fn place_of(file: &File) -> Result<(Place, u64), BlockError> {
    let stat = fstat(file).map_err(|errno| BlockError::Ask { question: "what it is", source: errno.into() })?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    let place = match kind {
        SFlag::S_IFBLK => Place::Block { major: major(stat.st_rdev) as u32, minor: minor(stat.st_rdev) as u32 },
        SFlag::S_IFREG => Place::File { dev: stat.st_dev, ino: stat.st_ino },
        SFlag::S_IFDIR => return Err(BlockError::NotADevice { what: "a directory" }),
        SFlag::S_IFIFO => return Err(BlockError::NotADevice { what: "a FIFO" }),
        SFlag::S_IFSOCK => return Err(BlockError::NotADevice { what: "a socket" }),
        SFlag::S_IFCHR => return Err(BlockError::NotADevice { what: "a character device" }),
        _ => return Err(BlockError::NotADevice { what: "of an unknown kind" }),
    };
    Ok((place, stat.st_blksize as u64))
}

fn logical_block(file: &File) -> Result<u64, BlockError> {
    let mut len: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes an int.
    unsafe { ioctl::blksszget(file.as_raw_fd(), &raw mut len) }
        .map_err(|errno| BlockError::Ask { question: "its block size", source: errno.into() })?;
    Ok(len.max(1) as u64)
}

fn retried(mut call: impl FnMut() -> nix::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(()) => return Ok(()),
        }
    }
}

/// Whether the error says that the way is not there, rather than that the device is at fault. EINVAL because drivers
/// differ in what they call unsupported, EREMOTEIO because SCSI says so when a disk refuses "write same" after all,
/// EPERM because seccomp profiles do.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS | libc::EINVAL | libc::EREMOTEIO | libc::EPERM)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::buffer::is_zero;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    /// A directory that is gone with the value.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let path = std::env::temp_dir().join(format!("block-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Dir(path)
        }

        fn file(&self, bytes: &[u8]) -> PathBuf {
            let path = self.0.join("file");
            fs::write(&path, bytes).unwrap();
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_no_device_is_refused_at_once_and_named() {
        let dir = Dir::new("kinds");
        let fifo = dir.0.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let socket = dir.0.join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let to_fifo = dir.0.join("link");
        symlink(&fifo, &to_fifo).unwrap();
        let dangling = dir.0.join("dangling");
        symlink("nowhere", &dangling).unwrap();
        for open in [BlockFile::open_read, BlockFile::open_exclusive] {
            let what = |path: &Path| match open(path) {
                Err(BlockError::NotADevice { what }) => what,
                other => panic!("{other:?}"),
            };
            assert_eq!(what(&fifo), "a FIFO");
            assert_eq!(what(&to_fifo), "a FIFO");
            assert_eq!(what(&socket), "a socket");
            assert_eq!(what(&dir.0), "a directory");
            assert_eq!(what(Path::new("/dev/null")), "a character device");
            assert!(matches!(open(&dangling), Err(BlockError::Gone)));
            assert!(matches!(open(&dangling.join("below")), Err(BlockError::Gone)));
        }
    }

    #[test]
    fn an_open_file_stays_the_same_when_its_path_leads_elsewhere() {
        let dir = Dir::new("path");
        let path = dir.file(&[7; 8192]);
        let file = BlockFile::open_exclusive(&path).unwrap();
        let place = file.place();
        fs::rename(&path, dir.0.join("away")).unwrap();
        fs::write(&path, [9; 100]).unwrap();
        assert_eq!((file.place(), file.size().unwrap()), (place, 8192));
        file.zero(0, 8192).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [9; 100]);
        assert!(is_zero(&fs::read(dir.0.join("away")).unwrap()));
    }

    #[test]
    fn each_way_makes_exactly_the_range_zero_and_keeps_the_length() {
        let dir = Dir::new("ways");
        for len in [65536, 65536 + 513, 100] {
            for way in Way::ALL {
                let path = dir.file(&vec![7; len]);
                let file = BlockFile::open_exclusive(&path).unwrap();
                let from = if len > 65536 { 32768 } else { 0 };
                match file.zero_by(way, from as u64, (len - from) as u64) {
                    // A file has no ioctls, and not every filesystem has every kind of fallocate.
                    Err(BlockError::Zero { source, .. }) if way != Way::Write => assert!(is_missing(&source)),
                    result => {
                        result.unwrap();
                        file.flush().unwrap();
                        let bytes = fs::read(&path).unwrap();
                        assert_eq!(bytes.len(), len);
                        assert!(bytes[..from].iter().all(|b| *b == 7) && is_zero(&bytes[from..]), "{way:?} {len}");
                    }
                }
            }
        }
    }

    #[test]
    fn plain_writes_stop_at_the_end_although_the_range_does_not() {
        let dir = Dir::new("end");
        let path = dir.file(&[7; 10_000]);
        let file = BlockFile::open_exclusive(&path).unwrap();
        file.zero_by(Way::Write, 0, 1 << 20).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [0; 10_000]);
    }

    #[test]
    fn bytes_are_written_where_they_belong_and_never_past_the_end() {
        let dir = Dir::new("write");
        for len in [100usize, 8192, 65536 + 513] {
            let path = dir.file(&vec![7; len]);
            let file = BlockFile::open_exclusive(&path).unwrap();
            let mut bytes = AlignedBuf::zeroed(128 << 10);
            bytes.fill(9);
            let from = if len > 4096 { 4096 } else { 0 };
            file.write_at(from as u64, &bytes).unwrap();
            let after = fs::read(&path).unwrap();
            assert_eq!(after.len(), len);
            assert!(after[..from].iter().all(|b| *b == 7) && after[from..].iter().all(|b| *b == 9), "{len}");
        }
    }

    #[test]
    fn a_file_knows_no_secure_discard_and_says_so() {
        let dir = Dir::new("secure");
        let file = BlockFile::open_exclusive(&dir.file(&[7; 4096])).unwrap();
        let error = file.secure_discard(0, 4096).unwrap_err();
        assert!(error.to_string().contains("secure discard"), "{error}");
    }

    #[test]
    fn ranges_are_read_as_they_are_and_end_with_the_device() {
        let dir = Dir::new("read");
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i / 7) as u8).collect();
        let file = BlockFile::open_read(&dir.file(&bytes)).unwrap();
        for (offset, len) in [(0, 1), (0, 10_000), (5000, 100), (4095, 2), (9_999, 1)] {
            assert_eq!(file.read_range(offset as u64, len).unwrap(), bytes[offset..offset + len]);
        }
        assert_eq!(file.read_range(9_990, 100).unwrap(), bytes[9_990..]);
        assert!(file.read_range(20_000, 10).unwrap().is_empty());
    }
}
