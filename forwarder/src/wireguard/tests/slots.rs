//! Session slots: previous, current, next (section 6.3 and the kernel's `noise.c`).

use super::*;

fn indices(node: &Node) -> [Option<u32>; 3] {
    let Slots { previous, current, next } = node.tunnel.slots(PEER);
    [previous, current, next].map(|session| session.map(|session| session.local_index))
}

/// A connected pair that may initiate again, with what it knows: A's current index and B's.
fn old() -> (Net, Option<u32>, Option<u32>) {
    let mut net = Net::connected();
    net.advance(seconds(10.0));
    let (a, b) = (indices(&net.nodes[A])[1], indices(&net.nodes[B])[1]);
    (net, a, b)
}

/// A's next initiation reaches B.
fn initiate(net: &mut Net) {
    let message = initiation_of(net, A);
    net.log.clear();
    assert!(net.deliver(A, Node::address(A), &message));
}

fn initiation_of(net: &mut Net, node: usize) -> Vec<u8> {
    // As after 120 s: what is current still works.
    let current = net.nodes[node].current().unwrap();
    let sent = current.preset_sent(REKEY_AFTER_MESSAGES);
    net.nodes[node].seal(net.now, &[]).unwrap();
    let wall = net.nodes[node].wall(net.now);
    let Node { tunnel, rng, .. } = &mut net.nodes[node];
    tunnel.handle_timeout(net.now, wall, rng);
    current.preset_sent(sent + 1);
    net.nodes[node].tunnel.poll_transmit().unwrap().payload
}

/// The initiator's: current -> previous, new -> current; it confirms at once.
#[test]
fn the_initiator_uses_its_new_session_at_once() {
    let (mut net, old, _) = old();
    initiate(&mut net);
    net.settle();
    let [previous, current, next] = indices(&net.nodes[A]);
    assert_eq!((previous, next), (old, None));
    assert_ne!(current, old);
    assert_eq!((net.count(B, Kind::Response), net.count(A, Kind::Keepalive)), (1, 1));
}

/// The responder's: new -> next, previous is dropped; it goes on sending on current until the first data
/// under next arrives, then next -> current -> previous.
#[test]
fn the_responder_waits_for_the_first_data() {
    let (mut net, _, old) = old();
    initiate(&mut net);
    let [previous, current, next] = indices(&net.nodes[B]);
    assert_eq!((previous, current), (None, old));
    assert!(next.is_some());
    let sealed = net.nodes[B].seal(net.now, &[1; 16]).unwrap();
    assert!(net.nodes[A].open(net.now, Node::address(B), &sealed).is_some(), "it still sends on current");
    net.settle();
    // Seen by the next sweep: while current works, there is no hurry.
    net.advance(seconds(1.0));
    assert_eq!(indices(&net.nodes[B]), [old, next, None]);
    let sealed = net.nodes[B].seal(net.now, &[1; 16]).unwrap();
    assert!(net.nodes[A].open(net.now, Node::address(B), &sealed).is_some());
}

/// The kernel: of the older sessions only current stays beside next.
#[test]
fn a_next_session_drops_the_previous_one() {
    let (mut net, _, old) = old();
    initiate(&mut net);
    net.settle();
    net.advance(seconds(10.0));
    assert_eq!(indices(&net.nodes[B])[0], old);
    initiate(&mut net);
    let [previous, current, next] = indices(&net.nodes[B]);
    assert!(previous.is_none() && current.is_some() && next.is_some(), "{previous:?}");
}

/// Only authentic data under next promotes it: not data under current, no forgery.
#[test]
fn nothing_else_promotes_next() {
    let (mut net, _, old) = old();
    let data = net.nodes[A].seal(net.now, &[1; 16]).unwrap();
    initiate(&mut net);
    let [_, _, next] = indices(&net.nodes[B]);
    let mut forged = data.clone();
    forged[4..8].copy_from_slice(&next.unwrap().to_le_bytes());
    assert!(!net.deliver(A, Node::address(A), &forged));
    assert!(net.deliver(A, Node::address(A), &data));
    net.up = [false; 2];
    net.advance(seconds(0.05));
    assert_eq!(indices(&net.nodes[B]), [None, old, next]);
}

/// A second initiation replaces what the first one left in next, whose index is unknown from then on.
#[test]
fn a_newer_initiation_replaces_next() {
    let (mut net, _, old) = old();
    let [first, second] = [1, 2].map(|hour| initiation(net.now, Duration::from_secs(3600 * hour)));
    assert!(net.deliver(A, Node::address(A), &first));
    let [_, _, replaced] = indices(&net.nodes[B]);
    net.now = net.now + seconds(1.0);
    assert!(net.deliver(A, Node::address(A), &second));
    let [previous, current, next] = indices(&net.nodes[B]);
    assert_eq!((previous, current), (None, old));
    assert!(next.is_some() && next != replaced);
}

/// Messages in flight while the session changes are accepted under previous, at both ends.
#[test]
fn messages_in_flight_are_accepted_under_previous() {
    let (mut net, ..) = old();
    let [from_a, from_b] = [A, B].map(|node| net.nodes[node].seal(net.now, &[1; 16]).unwrap());
    initiate(&mut net);
    net.settle();
    net.advance(seconds(0.02));
    assert!(net.deliver(A, Node::address(A), &from_a));
    assert!(net.deliver(B, Node::address(B), &from_b));
}

/// A response counts only while its initiation waits for one: not twice, and not late.
#[test]
fn a_response_counts_once() {
    let (mut net, ..) = old();
    initiate(&mut net);
    let response = net.nodes[B].tunnel.poll_transmit().unwrap().payload;
    let refused = net.nodes[A].receive(net.now, Node::address(B), &forged_response(&response, A));
    assert_eq!(refused, Err(Refusal::Unauthenticated));
    assert!(net.deliver(B, Node::address(B), &response), "the forged one has not spoilt it");
    let session = indices(&net.nodes[A]);
    let again = net.nodes[A].receive(net.now, Node::address(B), &response);
    assert_eq!(again, Err(Refusal::Unexpected));
    assert_eq!(indices(&net.nodes[A]), session);
}

/// Simultaneous initiations cancel each other, harm no current session, and recover by their jitter.
#[test]
fn simultaneous_initiations_recover() {
    for seed in 0..20 {
        let mut net = Net::new();
        for (node, rng) in net.nodes.iter_mut().zip(2 * seed..) {
            node.rng = StdRng::seed_from_u64(rng);
            node.want(START);
        }
        let crossed = net.nodes.each_mut().map(|node| node.tunnel.poll_transmit().unwrap().payload);
        assert!(
            net.deliver(A, Node::address(A), &crossed[A]) && net.deliver(B, Node::address(B), &crossed[B])
        );
        net.advance(seconds(0.5));
        assert!(net.nodes.iter().all(|node| node.current().is_none()), "both have cancelled their own");
        net.advance(seconds(5.0));
        assert!(net.data(A) && net.data(B), "seed {seed}");
    }
    let (mut net, ..) = old();
    let crossed = [A, B].map(|node| initiation_of(&mut net, node));
    assert!(net.deliver(A, Node::address(A), &crossed[A]) && net.deliver(B, Node::address(B), &crossed[B]));
    for step in 0..100 {
        for node in [A, B] {
            assert!(net.data(node), "node {node}, step {step}");
        }
        net.advance(seconds(0.1));
    }
    let current = net.nodes.each_ref().map(|node| node.current().unwrap());
    assert_eq!(current[A].local_index, current[B].remote_index, "one session in the end");
}

/// What a message reveals is there before the message: the session's slot and its event.
#[test]
fn an_index_is_known_before_the_message_that_reveals_it() {
    let mut net = Net::new();
    let message = initiation(net.now, Duration::ZERO);
    assert!(net.deliver(A, Node::address(A), &message));
    let Node { tunnel, .. } = &mut net.nodes[B];
    assert_eq!(tunnel.poll_event(), Some(Event::Sessions(PEER)));
    let next = tunnel.slots(PEER).next.unwrap();
    let response = tunnel.poll_transmit().unwrap().payload;
    assert_eq!(response[4..8], next.local_index.to_le_bytes());
}

/// No loss is acceptable during a rekey (a bug that peers had: one packet between 170 s and 180 s).
#[test]
fn no_packet_is_lost_while_sessions_change() {
    for (from_a, from_b) in [(true, true), (true, false), (false, true)] {
        let mut net = Net::connected();
        for step in 0..20_000 {
            assert!(!from_a || net.data(A), "{step}");
            assert!(!from_b || net.data(B), "{step}");
            net.advance(seconds(0.05));
        }
        assert!(net.count(A, Kind::Initiation) + net.count(B, Kind::Initiation) >= 6);
    }
}

/// The same for packets so rare that each may be the only one between 170 s and 180 s.
#[test]
fn a_packet_late_in_the_life_of_a_session_arrives() {
    for node in [A, B] {
        for age in [170.0, 174.9, 175.0, 178.9] {
            let mut net = Net::connected();
            net.age(node, seconds(age));
            assert!(net.data(node), "at {age} s");
            net.advance(seconds(1.0));
            // So late it may have to wait for a session.
            assert!(net.data(node) || net.data(node), "a second after {age} s");
        }
    }
}

/// Section 5.4.6 (a bug that peers had: cut to 32 bits): counter and nonce have 64 bits.
#[test]
fn counters_have_64_bits() {
    let net = Net::connected();
    let session = net.nodes[A].current().unwrap();
    let [low, high] = [5, (1 << 32) + 5].map(|counter| {
        session.preset_sent(counter);
        net.nodes[A].seal(net.now, &[1; 16]).unwrap()
    });
    assert_eq!(high[8..16], [5, 0, 0, 0, 1, 0, 0, 0]);
    assert_ne!(low[16..], high[16..], "one keystream for two counters");
    assert!(net.nodes[B].open(net.now, Node::address(A), &high).is_some());
}
