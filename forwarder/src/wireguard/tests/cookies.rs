//! Denial of service: cookies and the limiter (sections 5.3 and 5.4.7).

use super::*;

/// A's first initiation, and the cookie reply that B gives it under load.
fn reply(net: &mut Net) -> (Vec<u8>, Transmit) {
    net.up[A] = false;
    net.want(A);
    let message = net.last(A, Kind::Initiation);
    let refused = net.nodes[B].receive_under_load(net.now, Node::address(A), &message);
    assert_eq!(refused, Err(Refusal::CookieRequired));
    (message, net.nodes[B].tunnel.poll_transmit().unwrap())
}

/// Under load a message without a valid mac2 gets a cookie reply, to its source and by no peer's path, and
/// nothing is computed for it.
#[test]
fn under_load_a_cookie_is_demanded() {
    let mut net = Net::new();
    let (message, reply) = reply(&mut net);
    assert_eq!((reply.peer, reply.to), (None, Node::address(A)));
    assert_eq!(reply.payload.len(), message::COOKIE_REPLY_LEN);
    assert!(net.nodes[B].tunnel.slots(PEER).next.is_none());
    assert!(net.deliver(A, Node::address(A), &message), "the initiation itself was not used up");
}

/// A cookie is kept for the next message and is no reason to send one now; the next one has a valid mac2.
#[test]
fn a_cookie_waits_for_the_next_message() {
    let mut net = Net::new();
    let (_, reply) = reply(&mut net);
    assert_eq!(net.nodes[A].receive(net.now, Node::address(B), &reply.payload), Ok(()));
    net.advance(seconds(4.9));
    assert_eq!(net.count(A, Kind::Initiation), 1);
    net.advance(seconds(0.5));
    let second = net.last(A, Kind::Initiation);
    assert_eq!(net.nodes[B].receive_under_load(net.now, Node::address(A), &second), Ok(()));
    let elsewhere = net.nodes[B].receive_under_load(net.now, address("192.0.2.1:9"), &second);
    assert_eq!(elsewhere, Err(Refusal::CookieRequired), "it holds for one address and port");
}

/// One reply is taken per message, and only by whom it answers: its AAD is the mac1 that was sent last.
#[test]
fn a_cookie_reply_answers_the_last_message() {
    let mut net = Net::new();
    let (_, first) = reply(&mut net);
    net.advance(seconds(5.4));
    let source = Node::address(B);
    // The retry has another index and another mac1.
    assert_eq!(net.nodes[A].receive(net.now, source, &first.payload), Err(Refusal::Unexpected));
    let message = net.last(A, Kind::Initiation);
    let _ = net.nodes[B].receive_under_load(net.now, Node::address(A), &message);
    let second = net.nodes[B].tunnel.poll_transmit().unwrap();
    let mut forged = second.payload.clone();
    forged[40] ^= 1;
    assert_eq!(net.nodes[A].receive(net.now, source, &forged), Err(Refusal::Unexpected));
    assert_eq!(net.nodes[A].receive(net.now, source, &second.payload), Ok(()));
    assert_eq!(net.nodes[A].receive(net.now, source, &second.payload), Err(Refusal::Unexpected));
}

/// Responses need a cookie under load, too.
#[test]
fn a_response_needs_a_cookie_under_load() {
    let mut net = Net::new();
    net.up[B] = false;
    net.want(A);
    let response = net.last(B, Kind::Response);
    let refused = net.nodes[A].receive_under_load(net.now, Node::address(B), &response);
    assert_eq!(refused, Err(Refusal::CookieRequired));
    assert!(net.deliver(B, Node::address(B), &response));
}

/// Not under load mac2 is ignored and nothing is limited: a hundred initiations in one instant meet only
/// the peer's own rule.
#[test]
fn without_load_mac2_and_rates_do_not_matter() {
    let mut net = Net::new();
    for hour in 1..100 {
        let mut message = initiation(net.now, Duration::from_secs(3600 * hour));
        let at = message.len() - message::MAC_LEN;
        message[at..].fill(0xee);
        let expected = if hour == 1 { Ok(()) } else { Err(Refusal::TooSoon) };
        assert_eq!(net.nodes[B].receive(net.now, Node::address(A), &message), expected);
    }
}

/// Under load a source with a cookie gets 20 messages a second, bursts of 5.
#[test]
fn with_a_cookie_the_source_is_limited() {
    let mut net = Net::new();
    let (_, reply) = reply(&mut net);
    assert_eq!(net.nodes[A].receive(net.now, Node::address(B), &reply.payload), Ok(()));
    net.advance(seconds(5.4));
    let message = net.last(A, Kind::Initiation);
    let receive = |_| net.nodes[B].receive_under_load(net.now, Node::address(A), &message);
    let outcomes: Vec<_> = (0..8).map(receive).collect();
    assert_eq!(outcomes[0], Ok(()));
    assert_eq!(outcomes[1..5], [Err(Refusal::Replayed); 4]);
    assert_eq!(outcomes[5..], [Err(Refusal::RateLimited); 3]);
}

/// Every genuine peer gets its cookie; a flood of a million a second with right mac1 gets a tenth answered.
#[test]
fn cookie_replies_are_limited() {
    let mut net = Net::new();
    let message = initiation(net.now, Duration::ZERO);
    for i in 0..10_000_u32 {
        let source = SocketAddr::from(((0x0a00_0000 + i).to_be_bytes(), 9));
        let now = net.now + Duration::from_micros(i.into());
        assert_eq!(net.nodes[B].receive_under_load(now, source, &message), Err(Refusal::CookieRequired));
    }
    let replies = std::iter::from_fn(|| net.nodes[B].tunnel.poll_transmit()).count();
    assert!((1990..=2001).contains(&replies), "{replies} replies in 10 ms");
}

/// The kernel's marking: DSCP 34 (DS byte 0x88) on handshakes, none on cookie replies.
#[test]
fn handshakes_are_marked_and_cookie_replies_are_not() {
    let mut net = Net::new();
    let (_, reply) = reply(&mut net);
    assert_eq!(reply.ds(), 0);
    net.nodes[B].want(net.now);
    assert_eq!(net.nodes[B].tunnel.poll_transmit().unwrap().ds(), 0x88);
    let message = initiation(net.now, Duration::ZERO);
    assert!(net.deliver(A, Node::address(A), &message));
    assert_eq!(net.nodes[B].tunnel.poll_transmit().unwrap().ds(), 0x88);
}
