//! Notices that the machine was away: suspended, or a virtual one that was restored from a snapshot. A restored one
//! sends with counters that it has used before, and two messages of one nonce give each other's plaintext away.
//!
//! Who restores a machine should say so: the hypervisor by a new VM generation ID, of which Linux tells since 6.10.
//! Without it there is the wall clock: it is put right by the hypervisor's agent or by NTP, and has then gone on
//! while the machine stood still.

use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use rtnetlink::sys::protocols::NETLINK_KOBJECT_UEVENT;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};

use super::Error;
use crate::clock;

/// The kernel's multicast group of uevents; udev's is another one.
const KERNEL_GROUP: u32 = 1;
/// All devices at once, as when udev starts.
const BUFFER: usize = 4 << 20;
/// What the kernel's `vmgenid` driver says.
const NEW_GENERATION: &[u8] = b"NEW_VMGENID=1";
/// A clock that is set forward by less than this is only put right.
const SHORTEST: Duration = Duration::from_secs(5);

/// What tells of the machine's absences.
pub struct Absence {
    uevents: TokioSocket,
    /// How far the wall clock is ahead of the one that stands still with the machine.
    ahead: Duration,
}

impl Absence {
    /// Watches from now on.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch() -> Result<Self, Error> {
        let failed = |e: std::io::Error| Error::io("watch uevents over netlink", &e);
        let mut uevents = TokioSocket::new(NETLINK_KOBJECT_UEVENT).map_err(failed)?;
        let socket = uevents.socket_mut();
        // Whoever may not have that much has the usual 200 KiB.
        let _ = setsockopt(socket, RcvBufForce, &BUFFER);
        socket.bind(&SocketAddr::new(0, KERNEL_GROUP)).map_err(failed)?;
        Ok(Self { uevents, ahead: ahead() })
    }

    /// Waits until the machine was away, and says how that was noticed. Looks at the clock only when it is called. May
    /// be cancelled at any time.
    pub async fn over(&mut self) -> &'static str {
        let before = std::mem::replace(&mut self.ahead, ahead());
        if self.ahead.saturating_sub(before) >= SHORTEST {
            return "the wall clock was set forward";
        }
        loop {
            match self.uevents.recv_from_full().await {
                // Processes may send to this group, too; they have numbers.
                Ok((uevent, sender)) if sender.port_number() == 0 && tells_of_a_restore(&uevent) => {
                    return "the hypervisor has told of a new VM generation";
                }
                Ok(_) => {}
                // More than the socket holds: this may have been among them.
                Err(_) => return "uevents were lost",
            }
        }
    }
}

fn ahead() -> Duration {
    clock::wall().0.saturating_sub(clock::awake())
}

/// A uevent is a headline and then variables, each closed by a zero.
fn tells_of_a_restore(uevent: &[u8]) -> bool {
    uevent.split(|byte| *byte == 0).any(|variable| variable == NEW_GENERATION)
}

#[cfg(test)]
mod tests {
    use rtnetlink::sys::Socket;

    use super::*;

    /// What is there is noticed at once.
    const SOON: Duration = Duration::from_millis(100);

    async fn noticed(absence: &mut Absence) -> Option<&'static str> {
        tokio::time::timeout(SOON, absence.over()).await.ok()
    }

    #[tokio::test]
    async fn a_wall_clock_that_is_far_ahead_is_noticed_once() {
        let mut absence = Absence::watch().unwrap();
        assert_eq!(noticed(&mut absence).await, None);
        // As NTP puts a clock right; or sets it back.
        absence.ahead = absence.ahead.saturating_sub(SHORTEST / 2);
        assert_eq!(noticed(&mut absence).await, None);
        absence.ahead += Duration::from_hours(1);
        assert_eq!(noticed(&mut absence).await, None);
        absence.ahead = absence.ahead.saturating_sub(SHORTEST + SOON);
        assert_eq!(noticed(&mut absence).await, Some("the wall clock was set forward"));
        assert_eq!(noticed(&mut absence).await, None);
    }

    /// As the kernel's `vmgenid_notify` sends it.
    #[test]
    fn the_hypervisors_word_is_one_variable_of_a_uevent() {
        let uevent = |variable| format!("change@/devices/QEMUVGID:00\0ACTION=change\0{variable}\0SEQNUM=7\0");
        assert!(tells_of_a_restore(uevent("NEW_VMGENID=1").as_bytes()));
        // What `echo "change UUID NEW_VMGENID=1" > uevent` makes of it.
        assert!(!tells_of_a_restore(uevent("SYNTH_ARG_NEW_VMGENID=1").as_bytes()));
        assert!(!tells_of_a_restore(&[]));
    }

    /// Or else any process of root's namespace could end all sessions.
    #[tokio::test]
    async fn only_the_kernel_is_believed() {
        let mut absence = Absence::watch().unwrap();
        let sender = Socket::new(NETLINK_KOBJECT_UEVENT).unwrap();
        match sender.send_to(b"change@/x\0NEW_VMGENID=1\0", &SocketAddr::new(0, KERNEL_GROUP), 0) {
            Ok(_) => assert_eq!(noticed(&mut absence).await, None),
            // Without privileges nobody may send.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
        }
    }
}
