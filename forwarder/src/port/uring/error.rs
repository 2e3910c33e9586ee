//! Why there is no `io_uring`.

use std::io;

use nix::errno::Errno;

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum UringError {
    /// Switched off by sysctl, or hidden by a seccomp filter.
    #[error(
        "io_uring is switched off: `sysctl kernel.io_uring_disabled=0`, or allow it in the container's seccomp profile"
    )]
    Disabled,
    /// No deferred task work, or no ring of buffers.
    #[error("the kernel's io_uring is too old: Linux 6.1 or later is needed")]
    Old,
    /// The locked-memory limit.
    #[error(
        "the rings of io_uring exceed the limit of locked memory: grant CAP_IPC_LOCK or raise `ulimit -l`"
    )]
    LockedMemory,
    /// The frames.
    #[error("{0}")]
    Memory(io::Error),
    /// Anything else.
    #[error("io_uring: {0}")]
    Io(io::Error),
}

impl From<io::Error> for UringError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM | Errno::ENOSYS) => Self::Disabled,
            Some(Errno::EINVAL) => Self::Old,
            Some(Errno::ENOMEM) => Self::LockedMemory,
            _ => Self::Io(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_fix() {
        let told = |errno: Errno| UringError::from(io::Error::from(errno)).to_string();
        assert!(told(Errno::EPERM).contains("kernel.io_uring_disabled=0"));
        assert!(told(Errno::EINVAL).contains("Linux 6.1"));
        assert!(told(Errno::ENOMEM).contains("CAP_IPC_LOCK"));
    }
}
