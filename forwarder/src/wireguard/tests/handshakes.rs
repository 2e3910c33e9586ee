//! What a handshake message must be to be taken (section 5.4).

use super::*;
use crate::wireguard::crypto::SMALL_ORDER;

/// Section 5.1: an initiation counts once, and none that is as old as the greatest seen.
#[test]
fn timestamps_must_grow() {
    let mut net = Net::new();
    let hour = Duration::from_secs(3600);
    let [old, new] = [Duration::ZERO, hour].map(|ahead| initiation(net.now, ahead));
    let twin = {
        let mut twin = Node::new(A, &config(B), 77);
        twin.ahead = hour;
        twin.want(net.now);
        twin.tunnel.poll_transmit().unwrap().payload
    };
    let mut receive = |message: &[u8]| {
        net.now = net.now + seconds(1.0);
        net.nodes[B].receive(net.now, Node::address(A), message)
    };
    assert_eq!(receive(&new), Ok(()));
    assert_eq!(receive(&new), Err(Refusal::Replayed));
    assert_eq!(receive(&old), Err(Refusal::Replayed));
    assert_eq!(receive(&twin), Err(Refusal::Replayed), "another message of the same time");
}

/// A refused initiation changes nothing: not the slots, not the endpoint, and it is not answered.
#[test]
fn a_refused_initiation_changes_nothing() {
    let mut net = Net::connected();
    let message = initiation(net.now, Duration::from_secs(3600));
    assert!(net.deliver(A, Node::address(A), &message));
    net.up = [false; 2];
    net.settle();
    let next = net.nodes[B].tunnel.slots(PEER).next.unwrap().local_index;
    net.now = net.now + seconds(1.0);
    assert!(!net.deliver(A, address("203.0.113.9:9"), &message));
    assert_eq!(net.nodes[B].tunnel.slots(PEER).next.unwrap().local_index, next);
    assert_eq!(net.nodes[B].endpoint(), Some(Node::address(A)));
    assert!(net.nodes[B].tunnel.poll_transmit().is_none() && net.nodes[B].tunnel.poll_event().is_none());
}

/// Section 5.1, the kernel's behaviour: a peer that restarts with its clock set back is refused until it
/// passes its old time; ours succeed, and its answer brings the tunnel up.
#[test]
fn a_peer_whose_clock_went_back() {
    let mut net = Net::connected();
    net.nodes[A] = Node::new(A, &config(B), 5);
    net.now = net.now + seconds(10.0);
    let mut past = Node::new(A, &config(B), 6);
    past.tunnel.want_session(PEER, net.now, Wall(Duration::from_secs(1_600_000_000)), &mut past.rng);
    let message = past.tunnel.poll_transmit().unwrap().payload;
    assert_eq!(net.nodes[B].receive(net.now, Node::address(A), &message), Err(Refusal::Replayed));
    net.nodes[B].current().unwrap().preset_sent(REJECT_AFTER_MESSAGES);
    net.want(B);
    net.advance(seconds(1.0));
    assert!(net.data(A) && net.data(B));
}

/// Section 5.1: our timestamps grow within a process, whatever the clock does, over tunnels of one key.
#[test]
fn our_timestamps_never_go_back() {
    let (own, peer) = (private_key(A).public(), private_key(B).public());
    let shared = shared::Shared::default();
    let walls = [1000, 999, 1000, 10, 1001].map(|s| Wall(Duration::from_secs(s)));
    let stamps = walls.map(|wall| shared.timestamp(own, peer, wall));
    assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]), "{stamps:?}");
}

/// The kernel's receiver (`INITIATIONS_PER_SECOND` = 50): initiations of a peer less than 20 ms apart are
/// refused, after decryption.
#[test]
fn initiations_20_ms_apart_are_refused() {
    let mut net = Net::new();
    let message = |ahead| initiation(START, Duration::from_secs(ahead));
    let mut receive = |millis, message: &[u8]| {
        let now = START + Duration::from_millis(millis);
        net.nodes[B].receive(now, Node::address(A), message)
    };
    assert_eq!(receive(0, &message(1)), Ok(()));
    assert_eq!(receive(19, &message(2)), Err(Refusal::TooSoon));
    assert_eq!(receive(20, &message(2)), Ok(()), "a refused one does not count");
    assert_eq!(receive(39, &message(3)), Err(Refusal::TooSoon));
    assert_eq!(receive(40, &message(3)), Ok(()));
}

/// Section 5.3: mac1 is checked first, always; under load no cookie is given for a wrong one.
#[test]
fn mac1_is_checked_first() {
    let mut net = Net::new();
    let good = initiation(net.now, Duration::ZERO);
    for byte in 4..132 {
        let mut bad = good.clone();
        bad[byte] ^= 1;
        let source = Node::address(A);
        assert_eq!(net.nodes[B].receive(net.now, source, &bad), Err(Refusal::Mac1), "byte {byte}");
        assert_eq!(net.nodes[B].receive_under_load(net.now, source, &bad), Err(Refusal::Mac1));
    }
    assert!(net.nodes[B].tunnel.poll_transmit().is_none());
    assert!(net.deliver(A, Node::address(A), &good));
}

/// An initiation that wireguard-go sent: initiator's private key 32 times 0x11, responder's 32 times 0x22,
/// preshared key 32 times 0x33. An independent implementation of mac1, TAI64N and the sealed fields.
const OF_WIREGUARD_GO: &str = "\
    010000001195330bcb7566f1f70ca04fc35ba6cbdd449e3298e830745bbe862285b161d9da36720fd99c3db75bcf101d0675e7db\
    245d7bb99edc93e74dc68f2d704ab729000019b699653f884788a73d9fe9a611bf69d9a3d0154b35cf4a98f17e03661cd335e63f\
    369b7e9b8730f54eaf81370102f1fed72c48c119904d0d2e725fc86d00000000000000000000000000000000";

/// Sections 5.4.2 and 5.4.4, against wireguard-go.
#[test]
fn an_initiation_of_wireguard_go_is_answered() {
    let message = hex::decode(OF_WIREGUARD_GO).unwrap();
    let mut net = Net::new();
    let mut rng = StdRng::seed_from_u64(1);
    let mut tunnel = Tunnel::new(TunnelId(0), &PrivateKey([0x22; 32]), Arc::default(), START, &mut rng);
    let public_key = PrivateKey([0x11; 32]).public();
    assert!(tunnel.add_peer(&PeerConfig { public_key, preshared_key: [0x33; 32], ..config(A) }, START));
    net.nodes[B].tunnel = tunnel;
    assert!(net.deliver(A, Node::address(A), &message));
    let response = net.nodes[B].tunnel.poll_transmit().unwrap().payload;
    assert_eq!((response.len(), &response[8..12]), (message::RESPONSE_LEN, &message[4..8]));
}

/// Section 5.4.2: whoever's static key is unknown is not answered.
#[test]
fn strangers_are_not_answered() {
    let mut net = Net::with(|_, at_b| at_b.public_key = private_key(7).public());
    let message = initiation(net.now, Duration::ZERO);
    let source = Node::address(A);
    assert_eq!(net.nodes[B].receive(net.now, source, &message), Err(Refusal::Unauthenticated));
    assert!(net.nodes[B].tunnel.poll_transmit().is_none());
}

/// Section 5.4.3: with different preshared keys no session comes about.
#[test]
fn preshared_keys_must_agree() {
    let mut net = Net::with(|at_a, _| at_a.preshared_key = [1; 32]);
    net.want(A);
    net.advance(seconds(4.0));
    assert!(net.nodes.iter().all(|node| node.current().is_none()));
    let mut net = Net::with(|at_a, at_b| (at_a.preshared_key, at_b.preshared_key) = ([1; 32], [1; 32]));
    net.connect();
    assert!(net.data(A) && net.data(B));
}

/// Section 5.4 (the kernel's behaviour): an all-zero DH is refused, for static keys and ephemeral ones.
#[test]
fn keys_of_small_order_are_refused() {
    for key in SMALL_ORDER {
        let key: [u8; 32] = hex::decode(key).unwrap().try_into().unwrap();
        let mut net = Net::new();
        let other = PeerConfig { id: PeerId(1), public_key: PublicKey(key), ..config(B) };
        assert!(!net.nodes[A].tunnel.add_peer(&other, net.now));

        let (to_b, source) = (mac::Mac1Key::new(&private_key(B).public()), Node::address(A));
        let mut initiation = initiation(net.now, Duration::ZERO);
        initiation[8..40].copy_from_slice(&key);
        to_b.fill(&mut initiation, None);
        assert_eq!(net.nodes[B].receive(net.now, source, &initiation), Err(Refusal::Unauthenticated));

        net.up[A] = false;
        net.want(A);
        let sent = net.last(A, Kind::Initiation);
        assert!(net.deliver(A, source, &sent));
        let mut response = net.nodes[B].tunnel.poll_transmit().unwrap().payload;
        response[12..44].copy_from_slice(&key);
        mac::Mac1Key::new(&private_key(A).public()).fill(&mut response, None);
        let refused = net.nodes[A].receive(net.now, Node::address(B), &response);
        assert_eq!(refused, Err(Refusal::Unauthenticated));
    }
}

/// Operators use one key pair on several tunnels: an observer who repeats an initiation to another tunnel's
/// port is refused, though that tunnel's peer has never seen it.
#[test]
fn an_initiation_to_one_tunnel_is_refused_by_another() {
    let mut rng = StdRng::seed_from_u64(9);
    let shared = Arc::<Shared>::default();
    let mut tunnels = [0, 1].map(|id| {
        let mut tunnel = Tunnel::new(TunnelId(id), &private_key(B), Arc::clone(&shared), START, &mut rng);
        assert!(tunnel.add_peer(&PeerConfig { id: PeerId(u32::from(id)), ..config(A) }, START));
        tunnel
    });
    let (message, wall) = (initiation(START, Duration::ZERO), Wall(EPOCH));
    let mut receive = |tunnel: usize, message: &[u8]| {
        tunnels[tunnel].receive(START, wall, &mut rng, Node::address(A), message, false)
    };
    assert_eq!(receive(0, &message), Ok(()));
    assert_eq!(receive(1, &message), Err(Refusal::Replayed));
    // A response is for the tunnel of its index.
    assert_eq!(receive(1, &initiation(START, Duration::from_secs(1))), Ok(()));
}

/// Indices are unpredictable (a bug that peers had): they spread over all 32 bits and follow no order.
#[test]
fn indices_are_unpredictable() {
    let shared = Arc::<Shared>::default();
    let mut rng = StdRng::seed_from_u64(3);
    let indices: Vec<_> = (0..256).map(|_| shared.allocate((TunnelId(0), PEER), &mut rng)).collect();
    let mut values: Vec<u32> = indices.iter().map(shared::Index::value).collect();
    let steps = values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).filter(|step| *step < 1 << 16);
    assert!(steps.count() < 3);
    values.sort_unstable();
    assert!(values[0] < 1 << 27 && values[255] > 31 << 27);
}

/// A datagram of any length is refused without a panic (a bug that peers had), also with a right type.
#[test]
fn datagrams_of_any_length_are_survived() {
    let mut net = Net::connected();
    let mut datagram = vec![0; 65_535];
    for kind in 0..=5 {
        datagram[0] = kind;
        for len in (0..300).chain([1500, 65_507, 65_535]) {
            let outcome = net.nodes[B].receive(net.now, Node::address(A), &datagram[..len]);
            assert!(outcome.is_err(), "type {kind}, {len} bytes");
        }
    }
    assert!(net.data(A) && net.data(B));
}
