//! Socket options that nix does not have: all are one 32-bit integer.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc::{self, c_int};

/// Sets an option.
pub(super) fn set(fd: impl AsFd, level: c_int, name: c_int, value: c_int) -> nix::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the four bytes of `value` and keeps nothing.
    let result =
        unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size_of::<c_int>() as u32) };
    Errno::result(result).map(drop)
}

/// Reads an option.
pub(super) fn get(fd: impl AsFd, level: c_int, name: c_int) -> nix::Result<c_int> {
    let fd = fd.as_fd().as_raw_fd();
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as u32;
    // SAFETY: the kernel writes at most `len` bytes into `value`, and what it wrote into `len`.
    let result = unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) };
    Errno::result(result).map(|_| value)
}
