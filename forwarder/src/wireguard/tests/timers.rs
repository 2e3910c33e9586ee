//! Section 6: timers, and what the kernel does where the paper is silent.

use super::*;

/// Section 6.1, in the paper's own numbers.
#[test]
fn the_limits_are_those_of_the_paper() {
    let times = [REKEY_AFTER_TIME, REJECT_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT, KEEPALIVE_TIMEOUT];
    assert_eq!(times, [120, 180, 90, 5, 10].map(Duration::from_secs));
    // 2^60 and 2^64 - 2^13 - 1.
    assert_eq!(REKEY_AFTER_MESSAGES, 1_152_921_504_606_846_976);
    assert_eq!(REJECT_AFTER_MESSAGES, 18_446_744_073_709_543_423);
}

/// Section 6.2: the initiator renews a session when it sends at an age of 120 s, not before.
#[test]
fn the_initiator_renews_when_it_sends_at_120_s() {
    let mut net = Net::connected();
    net.age(A, seconds(119.9));
    assert!(net.data(A));
    net.age(A, seconds(119.99));
    assert_eq!(net.count(A, Kind::Initiation), 0);
    net.age(A, seconds(120.0));
    assert!(net.data(A));
    net.advance(seconds(1.0));
    assert_eq!((net.count(A, Kind::Initiation), net.count(B, Kind::Initiation)), (1, 0));
    assert!(net.nodes[A].current().unwrap().created > START + seconds(120.0));
}

/// Section 6.2: the responder does not, so that both do not initiate at once.
#[test]
fn the_responder_does_not_renew_by_age() {
    let mut net = Net::connected();
    for age in 120..164 {
        net.age(B, Duration::from_secs(age));
        assert!(net.packet(B, &[]));
    }
    assert_eq!((net.count(A, Kind::Initiation), net.count(B, Kind::Initiation)), (0, 0));
}

/// Section 6.2: the initiator renews once when it receives at an age of 165 s or more (180 - 10 - 5), as it will
/// perhaps not send before the session ends.
#[test]
fn the_initiator_renews_when_it_receives_at_165_s() {
    let mut net = Net::connected();
    net.age(A, seconds(164.9));
    assert!(net.packet(B, &[]));
    // Until it has looked; what counts is when it received.
    net.age(A, seconds(166.0));
    assert_eq!(net.count(A, Kind::Initiation), 0);
    assert!(net.packet(B, &[]));
    net.advance(seconds(1.0));
    assert!(net.packet(B, &[]));
    net.advance(seconds(3.0));
    assert_eq!((net.count(A, Kind::Initiation), net.count(B, Kind::Initiation)), (1, 0));
}

/// Section 6.2: once. What it receives while nobody answers does not make it ask for longer.
#[test]
fn what_is_received_meanwhile_does_not_begin_the_retries_again() {
    let mut net = Net::connected();
    net.age(A, seconds(166.0));
    net.up = [false; 2];
    for _ in 166..178 {
        let sealed = net.nodes[B].seal(net.now, &[]).unwrap();
        assert!(net.deliver(B, Node::address(B), &sealed));
        net.advance(seconds(1.0));
    }
    net.advance(seconds(120.0));
    assert_eq!(net.count(A, Kind::Initiation), 20);
    assert!(net.nodes[A].events.contains(&Event::GaveUp(PEER)));
}

/// Section 6.2: both roles renew after 2^60 messages.
#[test]
fn both_roles_renew_after_2_to_the_60_messages() {
    for node in [A, B] {
        let mut net = Net::connected();
        net.advance(seconds(10.0));
        net.nodes[node].current().unwrap().preset_sent(REKEY_AFTER_MESSAGES - 1);
        assert!(net.data(node));
        net.advance(seconds(1.0));
        assert_eq!((net.count(node, Kind::Initiation), net.count(1 - node, Kind::Initiation)), (1, 0));
        assert!(net.data(node));
    }
}

/// Section 6.1, Reject-After-Messages (a bug that peers had): nothing is sent beyond, and it is renewed.
#[test]
fn nothing_is_sent_after_the_last_message() {
    let mut net = Net::connected();
    net.advance(seconds(10.0));
    net.nodes[A].current().unwrap().preset_sent(REJECT_AFTER_MESSAGES - 1);
    assert!(net.data(A));
    assert!(net.nodes[A].seal(net.now, &[1]).is_none());
    assert!(!net.data(A), "this one waits, and asks for a session");
    assert!(net.data(A));
    assert_eq!(net.count(A, Kind::Initiation), 1);
}

/// Section 6.4: initiations are 5 s and up to 333 ms apart, however often a session is wanted.
#[test]
fn initiations_are_5_s_and_a_jitter_apart() {
    let mut net = Net::new();
    net.up = [false; 2];
    for _ in 0..600 {
        net.want(A);
        net.advance(seconds(0.1));
    }
    let times = net.times(A, Kind::Initiation);
    let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    assert!(gaps.len() >= 10);
    // What is asked for just after the 5 s is sent at once; what a timer repeats has its jitter.
    assert!(gaps.iter().all(|gap| (REKEY_TIMEOUT..=REKEY_TIMEOUT + REKEY_TIMEOUT_JITTER).contains(gap)));
}

/// Section 6.4 (a bug that peers had: no jitter): repetitions are spread over 333 ms.
#[test]
fn repeated_initiations_have_a_jitter() {
    let mut net = Net::new();
    net.up = [false; 2];
    net.want(A);
    net.advance(seconds(90.0));
    let times = net.times(A, Kind::Initiation);
    let jitters: Vec<Duration> =
        times.windows(2).map(|pair| pair[1].since(pair[0]).checked_sub(REKEY_TIMEOUT).unwrap()).collect();
    let (min, max) = (jitters.iter().min().unwrap(), jitters.iter().max().unwrap());
    assert!(*max <= REKEY_TIMEOUT_JITTER && *max > *min + REKEY_TIMEOUT_JITTER / 3, "{jitters:?}");
}

/// The kernel counts the 5 s from a response that was sent, too.
#[test]
fn a_response_holds_back_an_initiation() {
    let mut net = Net::new();
    let message = initiation(net.now, Duration::ZERO);
    assert!(net.deliver(A, Node::address(A), &message));
    net.up = [false; 2];
    let answered = net.now;
    for _ in 0..60 {
        net.want(B);
        net.advance(seconds(0.1));
    }
    assert_eq!(net.times(B, Kind::Response), [answered]);
    let first = net.times(B, Kind::Initiation)[0].since(answered);
    assert!((REKEY_TIMEOUT..=REKEY_TIMEOUT + REKEY_TIMEOUT_JITTER).contains(&first), "{first:?}");
}

/// Section 6.2: a new handshake when data was sent and nothing was heard for 15 s, and a jitter.
#[test]
fn unanswered_data_starts_a_handshake_after_15_s() {
    let mut net = Net::connected();
    net.advance(seconds(30.0));
    net.up = [false; 2];
    let sent = net.now;
    net.data(A);
    net.advance(seconds(3.0));
    net.data(A);
    net.advance(seconds(12.5));
    let [at] = net.times(A, Kind::Initiation)[..] else { panic!("{:?}", net.log) };
    assert!((seconds(15.0)..=seconds(15.334)).contains(&at.since(sent)), "{:?}", at.since(sent));
}

/// Section 6.5: an empty message asks for no answer.
#[test]
fn an_unanswered_keepalive_starts_no_handshake() {
    let mut net = Net::connected();
    net.advance(seconds(30.0));
    net.up = [false; 2];
    net.packet(A, &[]);
    net.advance(seconds(30.0));
    assert_eq!(net.count(A, Kind::Initiation), 0);
}

/// Section 6.4; the kernel sends 20 initiations and gives up when the last one is not answered.
#[test]
fn twenty_initiations_then_it_gives_up() {
    let mut net = Net::new();
    net.up = [false; 2];
    net.want(A);
    net.advance(seconds(99.0));
    assert!(!net.nodes[A].events.contains(&Event::GaveUp(PEER)));
    net.advance(seconds(8.0));
    assert_eq!(net.count(A, Kind::Initiation), 20);
    assert!(net.nodes[A].events.contains(&Event::GaveUp(PEER)));
    net.advance(seconds(300.0));
    assert_eq!(net.count(A, Kind::Initiation), 20);
}

/// Section 6.5: data is answered after 10 s, be it by an empty message; one that was answered is not.
#[test]
fn data_is_answered_after_10_s() {
    let mut net = Net::connected();
    net.advance(seconds(30.0));
    let sent = net.now;
    net.data(A);
    net.advance(seconds(3.0));
    net.data(A);
    net.advance(seconds(8.0));
    assert_eq!(net.times(B, Kind::Keepalive), [sent + KEEPALIVE_TIMEOUT]);

    let mut net = Net::connected();
    net.advance(seconds(30.0));
    net.data(A);
    net.advance(seconds(5.0));
    net.data(B);
    net.advance(seconds(9.9));
    assert_eq!(net.count(B, Kind::Keepalive), 0);
}

/// Section 6.5 (a bug that peers had: two ends answer each other's keepalives for ever).
#[test]
fn keepalives_are_not_answered() {
    let mut net = Net::connected();
    net.data(A);
    net.advance(seconds(115.0));
    assert_eq!((net.count(A, Kind::Keepalive), net.count(B, Kind::Keepalive)), (0, 1));
}

/// wg(8), persistent-keepalive: an empty message after that long without any, for which a session is made.
#[test]
fn persistent_keepalives_come_after_silence() {
    let mut net = Net::with(|at_a, _| at_a.persistent_keepalive = Some(seconds(25.0)));
    net.advance(seconds(1.0));
    assert!(net.nodes[A].current().is_some());
    let mut last = net.times(A, Kind::Keepalive)[0];
    net.advance(seconds(110.0));
    let times = net.times(A, Kind::Keepalive);
    assert_eq!(times.len(), 5);
    for at in &times[1..] {
        assert!((seconds(25.0)..=seconds(26.0)).contains(&at.since(last)), "{:?}", at.since(last));
        last = *at;
    }
    // Any message puts it off, one of the peer's, too.
    let mut net = Net::with(|at_a, _| at_a.persistent_keepalive = Some(seconds(25.0)));
    net.advance(seconds(20.0));
    net.packet(B, &[]);
    net.log.clear();
    net.advance(seconds(24.9));
    assert_eq!(net.count(A, Kind::Keepalive), 0);
    net.advance(seconds(0.1));
    assert_eq!(net.count(A, Kind::Keepalive), 1);
}

/// Section 6.1, Reject-After-Time: at 180 s neither direction works any more.
#[test]
fn sessions_end_at_180_s() {
    let mut net = Net::connected();
    net.age(A, seconds(178.9));
    let [late, too_late] = [0; 2].map(|_| net.nodes[B].seal(net.now, &[1; 16]).unwrap());
    net.up = [false; 2];
    net.age(A, seconds(179.99));
    assert!(net.nodes[A].open(net.now, Node::address(B), &late).is_some());
    net.age(A, seconds(180.0));
    assert!(net.nodes[A].open(net.now, Node::address(B), &too_late).is_none());
    assert!(net.nodes[A].seal(net.now, &[1; 16]).is_none());
}

/// Section 6.3: keys are wiped 540 s (3 x Reject-After-Time) after the last new session, and the indices
/// are free.
#[test]
fn keys_are_wiped_after_540_s() {
    let mut net = Net::connected();
    let Net { nodes, .. } = &net;
    let held: Vec<_> = nodes.iter().map(|node| Arc::downgrade(&node.current().unwrap())).collect();
    net.age(A, seconds(539.9));
    assert!(net.nodes[A].current().is_some(), "kept until then");
    net.nodes[A].events.clear();
    net.advance(seconds(0.1));
    assert!(net.nodes[A].events.contains(&Event::Sessions(PEER)));
    net.advance(seconds(1.0));
    assert!(held.iter().all(|session| session.upgrade().is_none()));
    // Nothing wakes the tunnel any more.
    assert!(net.nodes.iter().all(|node| node.tunnel.poll_timeout().is_none()));
}

/// A handshake that was begun is forgotten, too.
#[test]
fn a_pending_handshake_is_wiped_with_the_keys() {
    let mut net = Net::connected();
    net.age(A, seconds(539.0));
    net.up = [false; 2];
    net.want(A);
    let message = net.last(A, Kind::Initiation);
    net.advance(seconds(2.0));
    assert!(net.deliver(A, Node::address(A), &message));
    let response = net.nodes[B].tunnel.poll_transmit().unwrap().payload;
    assert_eq!(net.nodes[A].receive(net.now, Node::address(B), &response), Err(Refusal::Unexpected));
}

/// Sessions age in `CLOCK_BOOTTIME`, so a suspended machine does not wake up with usable old keys.
#[test]
fn a_suspend_ends_all_sessions() {
    let mut net = Net::connected();
    assert!(net.data(A));
    net.now = net.now + seconds(200.0);
    assert!(net.nodes[A].seal(net.now, &[1]).is_none());
    assert!(!net.data(A));
    net.advance(seconds(1.0));
    assert!(net.data(A) && net.data(B));
}
