//! Every order in which threads may take their steps on a session, by loom.

use loom::thread;

use super::*;
use crate::wireguard::session::SessionId;

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // Bugs need few preemptions; more of them only take time.
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn session() -> Arc<Session> {
    let id = SessionId { tunnel: TunnelId(0), peer: PEER, local_index: 1, remote_index: 2 };
    let keys = SessionKeys::new(&[1; 32], &[2; 32]);
    Arc::new(Session::new(id, keys, Role::Initiator, START, Arc::default()))
}

/// Two workers at the end of the counters: each is drawn once, and none beyond the limit.
#[test]
fn model_counters_are_drawn_once() {
    explore(|| {
        const LEFT: u64 = 3;
        let session = session();
        session.preset_sent(REJECT_AFTER_MESSAGES - LEFT);
        let other = Arc::clone(&session);
        let drawing = thread::spawn(move || other.draw(START, 2));
        let mine = session.draw(START, 2);
        let mut drawn: Vec<u64> = mine.chain(drawing.join().unwrap()).collect();
        drawn.sort_unstable();
        assert_eq!(drawn, [3, 2, 1].map(|left| REJECT_AFTER_MESSAGES - left));
    });
}

/// Two workers get the same message: it is fresh for one of them.
#[test]
fn model_a_message_is_fresh_once() {
    explore(|| {
        let session = session();
        let other = Arc::clone(&session);
        let accept = |session: &Session, counters: [u64; 2]| {
            let mut window = session.replay();
            let fresh = counters.map(|counter| window.accept(counter));
            drop(window);
            session.note_received(START, 1, 32, 0, None);
            fresh
        };
        let accepting = thread::spawn(move || accept(&other, [5, 6]));
        let mine = accept(&session, [6, 7]);
        let theirs = accepting.join().unwrap();
        assert!(theirs[0] && mine[1]);
        assert!(theirs[1] != mine[0], "counter 6");
        assert!(session.confirmed());
    });
}

/// A worker hears the peer at a new address while a handshake sets another: the later one holds, and a move
/// that is known is also told.
#[test]
fn model_a_move_is_not_lost() {
    explore(|| {
        let [heard, set] = ["203.0.113.7:1", "203.0.113.8:1"].map(address);
        let traffic = Arc::<Traffic>::default();
        let other = Arc::clone(&traffic);
        let working = thread::spawn(move || other.source.note(Endpoint { remote: heard }));
        traffic.source.reset(set);
        working.join().unwrap();
        let told = traffic.source.take().is_some();
        assert_eq!((traffic.source.known_is(heard), traffic.source.known_is(set)), (told, !told));
    });
}

/// A worker opens the responder's first data while the control thread looks: the promotion is not lost, the
/// new endpoint is not lost, and each comes once.
#[test]
fn model_a_promotion_comes_once() {
    // A handshake needs more stack than loom's threads have, in words.
    const STACK: usize = 1 << 16;
    explore(|| {
        let control = thread::Builder::new().stack_size(STACK).spawn(promotion);
        control.unwrap().join().unwrap();
    });
}

fn promotion() {
    let mut node = Node::new(B, &config(A), 2);
    node.receive(START, Node::address(A), &initiation(START, Duration::ZERO)).unwrap();
    while node.tunnel.poll_event().is_some() {}
    let next = node.tunnel.slots(PEER).next.unwrap();
    let elsewhere = address("203.0.113.7:4500");
    let working = {
        let next = Arc::clone(&next);
        thread::spawn(move || {
            assert!(next.replay().accept(0));
            next.note_received(START, 1, 32, 0, Some(Endpoint { remote: elsewhere }));
        })
    };
    let mut look = || {
        node.tunnel.handle_timeout(START, Wall(EPOCH), &mut node.rng);
        std::iter::from_fn(|| node.tunnel.poll_event()).collect::<Vec<_>>()
    };
    let mut events = look();
    working.join().unwrap();
    events.extend(look());
    let count = |wanted| events.iter().filter(|event| **event == wanted).count();
    assert_eq!((count(Event::Sessions(PEER)), count(Event::Endpoint(PEER))), (1, 1), "{events:?}");
    let Slots { current, next: left, .. } = node.tunnel.slots(PEER);
    assert!(Arc::ptr_eq(&current.unwrap(), &next) && left.is_none());
    assert_eq!(node.endpoint(), Some(elsewhere));
}
