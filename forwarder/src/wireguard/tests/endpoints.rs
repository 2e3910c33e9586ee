//! Roaming (section 6.6, "Endpoints & Roaming", and the kernel's checks).

use super::*;

const ELSEWHERE: &str = "203.0.113.7:4500";

/// Section 2.1: an authentic, fresh data message moves the endpoint; a replay from elsewhere does not.
#[test]
fn data_moves_the_endpoint_once() {
    let mut net = Net::connected();
    let data = net.nodes[A].seal(net.now, &[1; 16]).unwrap();
    assert!(net.deliver(A, address(ELSEWHERE), &data));
    net.nodes[B].events.clear();
    net.advance(seconds(1.1));
    assert_eq!(net.nodes[B].endpoint(), Some(address(ELSEWHERE)));
    assert!(net.nodes[B].events.contains(&Event::Endpoint(PEER)));

    assert!(!net.deliver(A, address("203.0.113.8:1"), &data), "a replay");
    let mut forged = net.nodes[A].seal(net.now, &[1; 16]).unwrap();
    forged[20] ^= 1;
    assert!(!net.deliver(A, address("203.0.113.8:1"), &forged));
    net.advance(seconds(1.1));
    assert_eq!(net.nodes[B].endpoint(), Some(address(ELSEWHERE)));
}

/// Section 2.1: an initiation moves it when its timestamp counts; a replay from elsewhere does not.
#[test]
fn an_accepted_initiation_moves_the_endpoint() {
    let mut net = Net::connected();
    let message = initiation(net.now, Duration::from_secs(60));
    assert!(net.deliver(A, address(ELSEWHERE), &message));
    assert_eq!(net.nodes[B].endpoint(), Some(address(ELSEWHERE)));
    let Some(Transmit { to, .. }) = net.nodes[B].tunnel.poll_transmit() else { panic!("no response") };
    assert_eq!(to, address(ELSEWHERE));
    net.now = net.now + seconds(1.0);
    assert!(!net.deliver(A, address("203.0.113.8:1"), &message));
    assert_eq!(net.nodes[B].endpoint(), Some(address(ELSEWHERE)));
}

/// Section 2.1: a response moves it when it belongs to our initiation, and not when it comes again.
#[test]
fn an_expected_response_moves_the_endpoint() {
    let mut net = Net::new();
    net.up[B] = false;
    net.want(A);
    let response = net.last(B, Kind::Response);
    assert!(!net.deliver(B, address("203.0.113.8:1"), &forged_response(&response, A)));
    assert_eq!(net.nodes[A].endpoint(), Some(Node::address(B)));
    assert!(net.deliver(B, address(ELSEWHERE), &response));
    assert!(!net.deliver(B, address("203.0.113.8:1"), &response));
    assert_eq!(net.nodes[A].endpoint(), Some(address(ELSEWHERE)));
}

/// A cookie reply never moves it (a bug that peers had).
#[test]
fn a_cookie_reply_does_not_move_the_endpoint() {
    let mut net = Net::new();
    net.up[A] = false;
    net.want(A);
    let message = net.last(A, Kind::Initiation);
    let refused = net.nodes[B].receive_under_load(net.now, Node::address(A), &message);
    assert_eq!(refused, Err(Refusal::CookieRequired));
    let reply = net.nodes[B].tunnel.poll_transmit().unwrap().payload;
    assert_eq!(net.nodes[A].receive(net.now, address(ELSEWHERE), &reply), Ok(()));
    net.advance(seconds(2.0));
    assert_eq!(net.nodes[A].endpoint(), Some(Node::address(B)));
}

/// Nobody is at a multicast, broadcast, loopback or unspecified address, at port 0, or at ours.
#[test]
fn impossible_endpoints_are_refused() {
    let mut net = Net::connected();
    let own = address("198.51.100.1:51820");
    let shared = Arc::<Shared>::default();
    shared.set_own([own.ip()].into());
    let mut rng = StdRng::seed_from_u64(8);
    net.nodes[B].tunnel = Tunnel::new(TunnelId(0), &private_key(B), shared, START, &mut rng);
    assert!(net.nodes[B].tunnel.add_peer(&config(A), START));
    net.nodes[A] = Node::new(A, &config(B), 11);
    net.connect();
    let all = [
        "224.0.0.1:1",
        "255.255.255.255:1",
        "127.0.0.1:1",
        "0.0.0.0:1",
        "203.0.113.7:0",
        "[ff02::1]:1",
        "[::1]:1",
        "[::]:1",
        "[::ffff:127.0.0.1]:1",
        "198.51.100.1:9",
    ];
    for (source, hour) in all.iter().zip(1..) {
        net.now = net.now + seconds(1.0);
        let data = net.nodes[A].seal(net.now, &[1; 16]).unwrap();
        assert!(net.deliver(A, address(source), &data), "the message itself counts");
        net.advance(seconds(1.1));
        let message = initiation(net.now, Duration::from_secs(3600 * hour));
        assert!(net.nodes[B].receive(net.now, address(source), &message).is_ok());
        let Some(Transmit { to, .. }) = net.nodes[B].tunnel.poll_transmit() else { panic!("no response") };
        assert_eq!(to, Node::address(A), "nothing is sent to {source}");
        assert_eq!(net.nodes[B].endpoint(), Some(Node::address(A)), "{source}");
    }
}

/// A peer whose endpoint is pinned is sent to where the configuration says, and is heard from anywhere.
#[test]
fn a_pinned_endpoint_stays() {
    let mut net = Net::new();
    net.nodes[B].tunnel.set_roaming(PEER, false);
    net.connect();
    let data = net.nodes[A].seal(net.now, &[1; 16]).unwrap();
    assert!(net.deliver(A, address(ELSEWHERE), &data));
    net.advance(seconds(1.1));
    assert_eq!(net.nodes[B].endpoint(), Some(Node::address(A)));
    let message = initiation(net.now, Duration::from_secs(60));
    assert!(net.deliver(A, address(ELSEWHERE), &message));
    let Some(Transmit { to, .. }) = net.nodes[B].tunnel.poll_transmit() else { panic!("no response") };
    assert_eq!(to, Node::address(A));
    assert!(net.nodes[B].tunnel.poll_event() != Some(Event::Endpoint(PEER)));
}

/// Who is heard there and sent to here is not reached: a name may know better, as of one that is silent.
#[test]
fn a_pinned_peer_that_is_elsewhere_counts_as_silent() {
    let mut net = Net::new();
    net.nodes[B].tunnel.set_roaming(PEER, false);
    net.up = [false; 2];
    net.want(B);
    for (hour, source, silent) in [(1, address(ELSEWHERE), true), (2, Node::address(A), false)] {
        net.advance(seconds(1.0));
        let message = initiation(net.now, Duration::from_secs(3600 * hour));
        assert!(net.deliver(A, source, &message));
        assert_eq!(net.nodes[B].tunnel.status(PEER).unwrap().silent_since.is_some(), silent, "{source}");
    }
}
