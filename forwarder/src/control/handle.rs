//! The control thread as the lanes reach it: bounded queues and level-triggered flags. Handshake messages
//! pass the tunnels' doors here, on the lane's thread, so that a flood of bad ones is queued nowhere.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use tokio::sync::Notify;

use crate::clock::{self, Boottime};
use crate::drops::Drop;
use crate::id::{InterfaceId, MAX_PEER_IDS, PeerId, TunnelId};
use crate::pipeline::Control;
use crate::pipeline::control::Refused;
use crate::sync::lock;
use crate::wireguard::message::Handshake;
use crate::wireguard::{Door, Stopped};

/// Handshake messages that may wait, the kernel's `MAX_QUEUED_INCOMING_HANDSHAKES`.
const MAX_HANDSHAKES: usize = 4096;
/// Waiting handshake messages from which on the gateway counts as under load, as the kernel does; so many
/// refused by a door keep it so.
const LOADED: usize = MAX_HANDSHAKES / 8;
/// How long the gateway counts as under load after that, as in the kernel.
const LOAD_LATCH: Duration = Duration::from_secs(1);
/// Next hops that may wait for a look at their MAC address.
const MAX_NEIGHBOURS: usize = 256;

/// A handshake message that its tunnel's door has let pass.
#[derive(Debug)]
pub struct Admitted {
    /// The tunnel whose listen port it came to.
    pub tunnel: TunnelId,
    /// Who sent it.
    pub source: SocketAddr,
    /// The message.
    pub message: Handshake,
}

/// The tunnels' doors.
pub type Doors = HashMap<TunnelId, Arc<Mutex<Door>>>;

/// What lanes leave for the control thread.
pub struct Handle {
    doors: Mutex<Doors>,
    /// Cookies are demanded until then, in nanoseconds of boot time.
    loaded_until: AtomicU64,
    /// Messages that had no cookie, or too many of one source, since that was set last.
    refused: AtomicUsize,
    handshakes: ArrayQueue<Admitted>,
    neighbours: ArrayQueue<(InterfaceId, IpAddr)>,
    sessions: Box<[AtomicBool]>,
    wake: Notify,
}

impl Default for Handle {
    /// Nothing is left yet. Handshake messages are taken as soon as there are doors.
    fn default() -> Self {
        Self {
            doors: Mutex::default(),
            loaded_until: AtomicU64::new(0),
            refused: AtomicUsize::new(0),
            handshakes: ArrayQueue::new(MAX_HANDSHAKES),
            neighbours: ArrayQueue::new(MAX_NEIGHBOURS),
            sessions: (0..MAX_PEER_IDS).map(|_| AtomicBool::new(false)).collect(),
            wake: Notify::new(),
        }
    }
}

impl Handle {
    /// Sets the doors of all tunnels.
    pub fn set_doors(&self, doors: Doors) {
        *lock(&self.doors) = doors;
    }

    /// Waits until a lane left something.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The next handshake message.
    pub fn next_handshake(&self) -> Option<Admitted> {
        self.handshakes.pop()
    }

    /// Makes [`Self::woken`] return once more if handshake messages are left for the next turn.
    pub fn wake_if_any(&self) {
        if !self.handshakes.is_empty() {
            self.wake.notify_one();
        }
    }

    /// The next hop whose MAC address is wanted next.
    pub fn next_neighbour(&self) -> Option<(InterfaceId, IpAddr)> {
        self.neighbours.pop()
    }

    /// Whether packets wait for a session with the peer; asking clears the flag.
    pub fn take_session_wanted(&self, peer: PeerId) -> bool {
        self.sessions[peer.index()].swap(false, Ordering::AcqRel)
    }

    fn is_loaded(&self, now: Boottime) -> bool {
        let until = self.loaded_until.load(Ordering::Relaxed);
        let goes_on = now.nanos() <= until && self.refused.load(Ordering::Relaxed) >= LOADED;
        if goes_on || self.handshakes.len() >= LOADED {
            self.refused.store(0, Ordering::Relaxed);
            self.loaded_until.store((now + LOAD_LATCH).nanos(), Ordering::Relaxed);
            return true;
        }
        now.nanos() < until
    }
}

impl Control for Handle {
    fn want_session(&self, peer: PeerId) {
        if !self.sessions[peer.index()].swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    fn want_neighbour(&self, interface: InterfaceId, address: IpAddr) {
        // A full queue loses nothing: the lane asks again with the next packet.
        if self.neighbours.push((interface, address)).is_ok() {
            self.wake.notify_one();
        }
    }

    fn handshake(&self, tunnel: TunnelId, source: SocketAddr, message: &[u8]) -> Result<(), Refused> {
        let now = clock::boottime();
        let loaded = self.is_loaded(now);
        let admitted = {
            let doors = lock(&self.doors);
            let door = doors.get(&tunnel).ok_or(Drop::NoTunnel)?;
            lock(door).admit(now, &mut rand::rng(), source, message, loaded)
        };
        if let Err(Stopped::CookieRequired(_) | Stopped::RateLimited) = admitted {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        let message = admitted.map_err(|stopped| match stopped {
            Stopped::Malformed => Drop::Malformed.into(),
            Stopped::Mac1 => Drop::Mac1Wrong.into(),
            Stopped::CookieRequired(reply) => Refused { reason: Drop::CookieRequired, reply },
            Stopped::RateLimited => Drop::HandshakeRate.into(),
        })?;
        self.handshakes.push(Admitted { tunnel, source, message }).map_err(|_| Drop::ControlQueueFull)?;
        self.wake.notify_one();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::wireguard::message::TYPE_COOKIE_REPLY;
    use crate::wireguard::{PeerConfig, PrivateKey, Shared, Tunnel};

    const TUNNEL: TunnelId = TunnelId(0);

    /// A message on its way to a handle.
    #[derive(Clone)]
    struct Arriving {
        source: SocketAddr,
        message: Vec<u8>,
    }

    impl Arriving {
        fn at(&self, handle: &Handle) -> Result<(), Drop> {
            handle.handshake(TUNNEL, self.source, &self.message).map_err(|refused| refused.reason)
        }
    }

    /// A handle before one tunnel, and an initiation for it by a stranger.
    fn handle_and_message() -> (Handle, Arriving) {
        let (handle, message, _) = handle_and_stranger();
        (handle, message)
    }

    /// And the stranger.
    fn handle_and_stranger() -> (Handle, Arriving, Tunnel) {
        let rng = &mut StdRng::seed_from_u64(1);
        let (own, stranger) = (PrivateKey::generate(rng), PrivateKey::generate(rng));
        let now = clock::boottime();
        let door = Tunnel::new(TUNNEL, &own, Arc::<Shared>::default(), now, rng).door();

        let mut theirs = Tunnel::new(TUNNEL, &stranger, Arc::<Shared>::default(), now, rng);
        let config = PeerConfig {
            id: PeerId(0),
            public_key: own.public(),
            preshared_key: [0; 32],
            endpoint: Some(([127, 0, 0, 1], 1).into()),
            persistent_keepalive: None,
        };
        assert!(theirs.add_peer(&config, now));
        theirs.want_session(PeerId(0), now, clock::wall(), rng);
        let payload = theirs.poll_transmit().expect("an initiation").payload;
        let message = Arriving { source: ([192, 0, 2, 1], 7).into(), message: payload };
        let handle = Handle::default();
        handle.set_doors([(TUNNEL, door)].into());
        (handle, message, theirs)
    }

    /// Lanes hand on what begins like a handshake message: here it must have its type's exact length.
    #[test]
    fn a_message_of_another_length_is_malformed() {
        let (handle, message) = handle_and_message();
        for len in [1, 147, 149] {
            let mut other = message.clone();
            other.message.resize(len, 0);
            assert_eq!(other.at(&handle), Err(Drop::Malformed), "{len} bytes");
        }
        assert_eq!(message.at(&handle), Ok(()));
    }

    /// Before the first configuration stands, and when a reload takes a tunnel away.
    #[test]
    fn a_message_for_no_tunnel_is_counted_as_such() {
        let (handle, message) = handle_and_message();
        handle.set_doors(Doors::new());
        assert_eq!(message.at(&handle), Err(Drop::NoTunnel));
        assert!(handle.next_handshake().is_none());
    }

    /// Section 5.3: mac1 is checked first, and what fails takes no room and makes no load.
    #[test]
    fn a_flood_with_bad_mac1_is_queued_nowhere() {
        let (handle, mut bad) = handle_and_message();
        let good = bad.clone();
        bad.message[120] ^= 1;
        for _ in 0..2 * MAX_HANDSHAKES {
            assert_eq!(bad.at(&handle), Err(Drop::Mac1Wrong));
        }
        assert_eq!(good.at(&handle), Ok(()));
        assert!(handle.next_handshake().is_some_and(|admitted| admitted.source == good.source));
        assert!(handle.next_handshake().is_none());
    }

    /// Section 5.3: under load a cookie is demanded and given, at once; the queue grows no further. Load ends a
    /// second after the queue was long.
    #[test]
    fn a_flood_with_good_mac1_gets_cookies() {
        let (handle, message) = handle_and_message();
        for _ in 0..LOADED {
            assert_eq!(message.at(&handle), Ok(()));
        }
        let refused = handle.handshake(TUNNEL, message.source, &message.message).expect_err("loaded");
        assert_eq!(refused.reason, Drop::CookieRequired);
        assert_eq!(
            refused.reply.map(|reply| reply.receiver.to_le_bytes()).as_ref(),
            message.message[4..].first_chunk()
        );

        while handle.next_handshake().is_some() {}
        assert_eq!(message.at(&handle), Err(Drop::CookieRequired), "latched");
        assert_eq!(handle.handshakes.len(), 0);
        let later = clock::boottime() + LOAD_LATCH;
        assert!(!handle.is_loaded(later));
    }

    /// The kernel: under load from 512 of 4096 waiting handshake messages on, and for a second after that.
    #[test]
    fn load_begins_at_512_and_lasts_a_second() {
        let (handle, message) = handle_and_message();
        let at = |millis: u64| Boottime(Duration::from_millis(5000 + millis));
        assert!((0..511).all(|_| message.at(&handle).is_ok()));
        assert!(!handle.is_loaded(at(0)));
        assert_eq!(message.at(&handle), Ok(()));
        assert!(handle.is_loaded(at(1)));
        while handle.next_handshake().is_some() {}
        assert!(handle.is_loaded(at(1000)));
        assert!(!handle.is_loaded(at(1001)));
    }

    /// A flood that goes on keeps the load up: else 512 of its messages a second would cost a DH each.
    #[test]
    fn refused_messages_are_load() {
        let (handle, message) = handle_and_message();
        let flood = |count: usize| (0..count).filter(|_| message.at(&handle).is_ok()).count();
        assert_eq!(flood(2 * LOADED), LOADED);
        while handle.next_handshake().is_some() {}
        let latched = Boottime(Duration::from_nanos(handle.loaded_until.load(Ordering::Relaxed)));
        assert_eq!(flood(LOADED), 0);
        assert!(handle.is_loaded(latched), "512 were refused");
        assert!(!handle.is_loaded(latched + LOAD_LATCH), "and no more since");
    }

    /// So does one with valid cookies, of which the limiter lets few pass.
    #[test]
    fn limited_messages_are_load() {
        let (handle, mut message, mut stranger) = handle_and_stranger();
        assert!((0..LOADED).all(|_| message.at(&handle).is_ok()));
        let refused = handle.handshake(TUNNEL, message.source, &message.message).expect_err("loaded");
        let reply = refused.reply.expect("a cookie").to_bytes();
        while handle.next_handshake().is_some() {}

        let (now, rng) = (clock::boottime(), &mut rand::rng());
        let gateway = ([127, 0, 0, 1], 1).into();
        assert_eq!(stranger.receive(now, clock::wall(), rng, gateway, &reply, false), Ok(()));
        stranger.want_session(PeerId(0), now + Duration::from_secs(6), clock::wall(), rng);
        message.message = stranger.poll_transmit().expect("another initiation").payload;
        let latched = Boottime(Duration::from_nanos(handle.loaded_until.load(Ordering::Relaxed)));
        let limited = (0..2 * LOADED).filter(|_| message.at(&handle) == Err(Drop::HandshakeRate)).count();
        assert!(limited > LOADED && handle.handshakes.len() < LOADED);
        assert!(handle.is_loaded(latched));
    }

    /// A flood that ended a while ago makes no load of the next message.
    #[test]
    fn what_was_refused_is_forgotten() {
        let (handle, message) = handle_and_message();
        assert!((0..LOADED).all(|_| message.at(&handle).is_ok()));
        assert!(message.at(&handle).is_err());
        while handle.next_handshake().is_some() {}
        assert!((1..LOADED).all(|_| message.at(&handle).is_err()));
        assert_eq!(handle.refused.load(Ordering::Relaxed), LOADED);
        assert!(!handle.is_loaded(clock::boottime() + 3 * LOAD_LATCH));
    }

    /// The kernel's queue: 4096 handshake messages, and the next one is refused. Cookie replies pass under load.
    #[test]
    fn handshakes_are_queued_up_to_4096() {
        let (handle, mut message) = handle_and_message();
        message.message = [&[TYPE_COOKIE_REPLY, 0, 0, 0][..], &[0; 60]].concat();
        assert!((0..4096).all(|_| message.at(&handle).is_ok()));
        assert_eq!(message.at(&handle), Err(Drop::ControlQueueFull));
        assert_eq!(std::iter::from_fn(|| handle.next_handshake()).count(), 4096);
    }
}
