//! Packet memory, which has plaintext in it: core files leave it out.
#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};

/// `len` bytes of zeros in pages of their own, which no core file holds. They are never given back, and taken
/// from the system now rather than when they are written, which may be in a flood.
///
/// # Errors
/// The system has no memory left.
pub(super) fn pages(len: usize) -> io::Result<&'static mut [u8]> {
    let whole = NonZeroUsize::new(len).unwrap_or(NonZeroUsize::MIN);
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_POPULATE;
    // SAFETY: a new mapping, which touches no other.
    let memory = unsafe { mmap_anonymous(None, whole, access, flags) };
    let what = || format!("no room for {len} bytes of packets");
    let memory = memory.map_err(|errno| failed(errno, &what(), "free memory, or raise `ulimit -v`"))?;
    let memory = memory.cast().as_ptr();
    leave_out(memory, whole.get())?;
    // SAFETY: the mapping has that many bytes, is zero, never unmapped and known to nobody else.
    Ok(unsafe { std::slice::from_raw_parts_mut(memory, len) })
}

/// Has core files leave out the pages from `memory`, where a page begins, up to `len` bytes behind.
///
/// # Errors
/// They are not mapped, or the process has too many mappings.
pub(super) fn leave_out(memory: *mut u8, len: usize) -> io::Result<()> {
    let memory = NonNull::new(memory.cast()).ok_or(Errno::EFAULT);
    // SAFETY: this advice changes neither what stands in memory nor who may reach it.
    let advised = memory.and_then(|memory| unsafe { madvise(memory, len, MmapAdvise::MADV_DONTDUMP) });
    advised.map_err(|errno| failed(errno, "core files would show packets", "raise `sysctl vm.max_map_count`"))
}

fn failed(errno: Errno, what: &str, fix: &str) -> io::Error {
    io::Error::new(io::Error::from(errno).kind(), format!("{what}: {}: {fix}", errno.desc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags of the mapping that the byte lies in (`proc(5)`, smaps).
    fn flags(byte: &u8) -> String {
        let address = std::ptr::from_ref(byte).addr();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let contains = |line: &str| {
            let (start, end) = line.split_once(' ')?.0.split_once('-')?;
            let [start, end] = [start, end].map(|hex| usize::from_str_radix(hex, 16));
            Some((start.ok()?..end.ok()?).contains(&address))
        };
        let mut mapping = smaps.lines().skip_while(|line| contains(line) != Some(true));
        mapping.find(|line| line.starts_with("VmFlags:")).unwrap().to_owned()
    }

    /// `dd`: "do not include area into core dump". Other memory has it not.
    #[test]
    fn core_files_leave_packet_memory_out() {
        let pages = pages(100_000).unwrap();
        assert!(pages.iter().all(|byte| *byte == 0));
        pages.fill(7);
        for byte in [&pages[0], &pages[99_999]] {
            assert!(flags(byte).contains(" dd"), "{}", flags(byte));
        }
        let other = vec![1; 100_000];
        assert!(!flags(&other[0]).contains(" dd"));
        let mut arena = super::super::Arena::new(3, 2048).unwrap();
        let frame = arena.take().unwrap();
        assert!(flags(&frame.memory()[0]).contains(" dd"), "frames lie in such pages");
    }

    /// More than an address space holds, and memory that is not there: said, with what can be done.
    #[test]
    fn what_fails_is_told_with_a_fix() {
        let told = pages(1 << 60).unwrap_err().to_string();
        assert!(told.contains("1152921504606846976 bytes") && told.contains("ulimit -v"), "{told}");
        let told = leave_out(std::ptr::without_provenance_mut(4096), 4096).unwrap_err().to_string();
        assert!(told.contains("core files") && told.contains("max_map_count"), "{told}");
    }
}
