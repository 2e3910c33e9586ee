//! What the kernel refuses, in a line that names the object, the cause and the fix.

use std::fmt;

use nix::errno::Errno;

/// Why a reading or a change of the kernel's network state failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request.
    #[error("cannot {action}: {cause}{}", fix(cause.errno))]
    Refused {
        /// What was asked for: "add the route 10.0.0.0/8 dev 4".
        action: String,
        /// Its answer.
        cause: Cause,
    },
    /// The netlink socket is gone; nothing can be read or changed any more.
    #[error("cannot {action}: the netlink connection is closed; restart forwarder")]
    Closed {
        /// What was asked for.
        action: String,
    },
    /// The network namespace belongs to another forwarder.
    #[error("another forwarder (pid {pid}) runs in this network namespace; stop it first")]
    Running {
        /// Its process; 0 when it lives in another process namespace.
        pid: i32,
    },
    /// The janitor could not be started.
    #[error("cannot start the janitor process: {0}; check that the program's file can be executed")]
    Janitor(std::io::Error),
}

/// The kernel's negative answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The error number.
    pub errno: Errno,
    /// The kernel's own sentence (extended acknowledgement), where it gives one.
    pub sentence: Option<String>,
}

impl Error {
    /// The kernel's error number, when it is the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { cause, .. } => Some(cause.errno),
            _ => None,
        }
    }

    pub(crate) fn refused(action: impl Into<String>, errno: Errno) -> Self {
        Self::Refused { action: action.into(), cause: Cause { errno, sentence: None } }
    }

    pub(crate) fn io(action: impl Into<String>, error: &std::io::Error) -> Self {
        Self::refused(action, Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.errno.desc(), self.errno)?;
        self.sentence.as_ref().map_or(Ok(()), |s| write!(f, ", the kernel says \"{s}\""))
    }
}

/// What the operator can do about it.
fn fix(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => "; run as root or with CAP_NET_ADMIN",
        Errno::EEXIST => "; somebody else's is there: remove it first (ip route, ip rule, ip address)",
        Errno::EBUSY => "; the name is taken: see `ip link`, stop its owner or choose another name",
        Errno::ENODEV | Errno::ENXIO => "; there is no such device: see `ip link`",
        Errno::ENETDOWN => "; the device is down: `ip link set DEVICE up`",
        Errno::ENETUNREACH | Errno::EHOSTUNREACH => "; no route leads there: see `ip route get`",
        Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT => {
            "; this kernel lacks it (IPv6 disabled, option not built in)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_line_with_object_cause_and_fix() {
        let error = Error::Refused {
            action: "add the address 10.0.0.1/24 to device 7".into(),
            cause: Cause { errno: Errno::EPERM, sentence: Some("no".into()) },
        };
        assert_eq!(
            error.to_string(),
            "cannot add the address 10.0.0.1/24 to device 7: Operation not permitted (EPERM), \
             the kernel says \"no\"; run as root or with CAP_NET_ADMIN"
        );
    }
}
