//! The UDP port against plain sockets.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use forwarder::id::TunnelId;
use forwarder::port::udp::{TunnelSocket, UdpPort, UdpSockets};
use forwarder::port::{Destination, Layer, Port};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};

use crate::lab::{in_namespace, receive, run, wakes};

const DATAGRAMS: u32 = 10_000;
const PATIENCE: Duration = Duration::from_secs(2);

fn tunnel(file: &str, port: u16) -> TunnelSocket {
    TunnelSocket { file: file.into(), port, fwmark: Some(0xca6c) }
}

fn open(tunnels: &[TunnelSocket]) -> (Arc<UdpSockets>, UdpPort) {
    let sockets = Arc::new(UdpSockets::open(tunnels).unwrap());
    let port = UdpPort::new(Arc::clone(&sockets), 256, 2048).unwrap();
    (sockets, port)
}

fn peer(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    if socket.local_addr().unwrap().is_ipv4() {
        setsockopt(&socket, sockopt::IpRecvTos, &true).unwrap();
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvTClass, &true).unwrap();
    }
    socket
}

fn payload(seq: u32) -> Vec<u8> {
    let mut bytes = seq.to_be_bytes().to_vec();
    bytes.resize(4 + seq as usize % 1470, seq as u8);
    bytes
}

fn send_with_tos(socket: &UdpSocket, to: SocketAddr, tos: u8, bytes: &[u8]) {
    let (v4, v6) = (tos, i32::from(tos));
    let control = if to.is_ipv4() { ControlMessage::Ipv4Tos(&v4) } else { ControlMessage::Ipv6TClass(&v6) };
    let address = SockaddrStorage::from(to);
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &[control], MsgFlags::empty(), Some(&address))
        .unwrap();
}

fn receive_with_tos(socket: &UdpSocket, buffer: &mut [u8]) -> (usize, u8) {
    let mut control = nix::cmsg_space!(i32);
    let mut iov = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::empty();
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut control), flags).unwrap();
    let tos = message.cmsgs().unwrap().find_map(|c| match c {
        ControlMessageOwned::Ipv4Tos(tos) => Some(tos),
        ControlMessageOwned::Ipv6TClass(tos) => u8::try_from(tos).ok(),
        _ => None,
    });
    (message.bytes, tos.unwrap())
}

/// Sends and receives [`DATAGRAMS`] in bursts, asserting bytes, order, tunnel, source and DS byte.
fn exchange(address: &str, id: TunnelId) {
    let (sockets, mut port) = open(&[tunnel("wg0", 0), tunnel("wg1", 0)]);
    let peer = peer(&format!("{address}:0"));
    let source = peer.local_addr().unwrap();
    let to: SocketAddr = format!("{address}:{}", sockets.port(id).unwrap()).parse().unwrap();
    let mut buffer = [0; 2048];
    let (mut sent, mut seen) = (0, 0);
    while seen < DATAGRAMS {
        for _ in 0..50 {
            send_with_tos(&peer, to, sent as u8, &payload(sent));
            sent += 1;
        }
        while seen < sent {
            let frames = receive(&mut port, PATIENCE);
            assert!(!frames.is_empty(), "lost after {seen}");
            for rx in frames {
                assert_eq!(rx.layer, Layer::Datagram { tunnel: id, source, ds: seen as u8 });
                assert_eq!(rx.frame.bytes(), payload(seen));
                let mut tx = port.reserve().unwrap();
                tx.frame.set_range(0, rx.frame.len());
                tx.frame.bytes_mut().copy_from_slice(rx.frame.bytes());
                port.transmit(tx, &Destination::Datagram { tunnel: id, to: source, tos: seen as u8 });
                port.release(rx.frame);
                seen += 1;
            }
        }
        port.flush();
        for n in seen - 50..seen {
            let (len, tos) = receive_with_tos(&peer, &mut buffer);
            assert_eq!((&buffer[..len], tos), (&payload(n)[..], n as u8));
        }
    }
    port.flush();
    assert_eq!(port.available(), 256, "send frames leaked");
    let counters = port.counters();
    assert_eq!((counters.rx_packets, counters.tx_packets), (DATAGRAMS.into(), DATAGRAMS.into()));
    assert_eq!((counters.rx_lost, counters.tx_failed), (0, 0));
}

#[test]
fn ipv4_datagrams_keep_bytes_order_and_ds_byte_both_ways() {
    in_namespace(|| exchange("127.0.0.1", TunnelId(1)));
}

#[test]
fn ipv6_datagrams_keep_bytes_order_and_ds_byte_both_ways() {
    in_namespace(|| exchange("[::1]", TunnelId(0)));
}

#[test]
fn receiving_goes_on_after_all_frames_were_held() {
    in_namespace(|| {
        let (sockets, mut port) = open(&[tunnel("wg0", 0)]);
        let peer = peer("127.0.0.1:0");
        let to = SocketAddr::from(([127, 0, 0, 1], sockets.port(TunnelId(0)).unwrap()));
        (0..600).for_each(|i| send_with_tos(&peer, to, 0, &payload(i)));
        let mut held = Vec::new();
        while held.len() < 256 {
            held.extend(receive(&mut port, PATIENCE));
        }
        assert!(receive(&mut port, Duration::ZERO).is_empty(), "more frames than there are");
        let mut seen = 0;
        while seen < 600 {
            for rx in held.drain(..) {
                assert_eq!(rx.frame.bytes(), payload(seen));
                port.release(rx.frame);
                seen += 1;
            }
            held = receive(&mut port, PATIENCE);
            assert!(!held.is_empty() || seen == 600, "stopped at {seen}");
        }
    });
}

/// Who waits for the port's descriptor is woken by what comes later.
#[test]
fn what_arrives_while_one_waits_wakes() {
    in_namespace(|| {
        let (sockets, mut port) = open(&[tunnel("wg0", 0)]);
        let peer = peer("127.0.0.1:0");
        let to = SocketAddr::from(([127, 0, 0, 1], sockets.port(TunnelId(0)).unwrap()));
        for round in 0..20 {
            assert!(receive(&mut port, Duration::from_millis(1)).is_empty(), "round {round}");
            let peer = peer.try_clone().unwrap();
            let sender = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                send_with_tos(&peer, to, 0, &payload(round));
            });
            assert!(wakes(port.poll_fd().unwrap(), PATIENCE), "round {round}: nobody is woken");
            for rx in receive(&mut port, PATIENCE) {
                port.release(rx.frame);
            }
            sender.join().unwrap();
        }
        assert_eq!(port.counters().rx_packets, 20);
    });
}

/// A bug that peers had: a panic on an oversized datagram.
#[test]
fn datagrams_larger_than_a_frame_are_counted_not_cut() {
    in_namespace(|| {
        let (sockets, mut port) = open(&[tunnel("wg0", 0)]);
        let peer = peer("127.0.0.1:0");
        let to = SocketAddr::from(([127, 0, 0, 1], sockets.port(TunnelId(0)).unwrap()));
        port.flush();
        peer.send_to(&[1; 9000], to).unwrap();
        peer.send_to(&[2; 2048], to).unwrap();
        let frames = receive(&mut port, PATIENCE);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].frame.bytes(), [2; 2048]);
        assert_eq!(port.counters().rx_lost, 1);
    });
}

/// The kernel's marking of handshakes: DS byte 0x88.
#[test]
fn the_control_thread_sends_without_the_port() {
    in_namespace(|| {
        let sockets = UdpSockets::open(&[tunnel("wg0", 0)]).unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let peer = peer(address);
            let to = peer.local_addr().unwrap();
            sockets.send_to(TunnelId(0), to, 0x88, b"handshake").unwrap();
            let mut buffer = [0; 64];
            assert_eq!(receive_with_tos(&peer, &mut buffer), (9, 0x88));
            assert_eq!(&buffer[..9], b"handshake");
        }
    });
}

#[test]
fn a_port_in_use_is_named_with_its_file() {
    in_namespace(|| {
        let _holder = UdpSocket::bind("0.0.0.0:51820").unwrap();
        let error = UdpSockets::open(&[tunnel("/etc/wireguard/wg0.conf", 51820)]).unwrap_err().to_string();
        assert!(error.starts_with("/etc/wireguard/wg0.conf: UDP port 51820 is in use"), "{error}");
    });
}

#[test]
fn a_host_without_ipv6_addresses_and_an_unknown_destination_lose_no_frame() {
    in_namespace(|| {
        run("ip -6 addr flush dev lo");
        let (_sockets, mut port) = open(&[tunnel("wg0", 0)]);
        for to in ["[2001:db8::1]:9", "192.0.2.1:9"] {
            let mut tx = port.reserve().unwrap();
            tx.frame.set_range(0, 32);
            let to = to.parse().unwrap();
            port.transmit(tx, &Destination::Datagram { tunnel: TunnelId(0), to, tos: 0 });
        }
        let tx = port.reserve().unwrap();
        port.transmit(tx, &Destination::Headers);
        port.flush();
        assert_eq!((port.available(), port.counters().tx_failed), (256, 3));
    });
}

/// What a reload does: the tunnel that stays loses nothing, ids follow their sockets, and a port that is no
/// more is free for others.
#[test]
fn sockets_come_and_go_under_a_running_port() {
    in_namespace(|| {
        let (sockets, mut port) = open(&[tunnel("wg0", 0), tunnel("wg1", 0)]);
        let peer = peer("127.0.0.1:0");
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let [stays, goes] = [0, 1].map(|id| local(sockets.port(TunnelId(id)).unwrap()));
        let mut seen = 0;
        let mut sent = 0;
        for round in 0..4 {
            let mut bound = sockets.bound();
            if round % 2 == 0 {
                bound.remove(&TunnelId(1));
                bound.insert(TunnelId(2), sockets.bind(&tunnel("wg2", 0)).unwrap());
            } else {
                let moved = bound.remove(&TunnelId(2)).unwrap();
                bound.insert(TunnelId(1), moved);
            }
            (0..50).for_each(|_| {
                send_with_tos(&peer, stays, 0, &payload(sent));
                sent += 1;
            });
            sockets.replace(bound);
            let id = TunnelId(if round % 2 == 0 { 2 } else { 1 });
            let other = local(sockets.port(id).unwrap());
            // Once the port has seen the change.
            for rx in receive(&mut port, PATIENCE) {
                seen += 1;
                port.release(rx.frame);
            }
            send_with_tos(&peer, other, 0, b"other");
            let mut arrived = false;
            while seen < sent || !arrived {
                let frames = receive(&mut port, PATIENCE);
                assert!(!frames.is_empty(), "round {round}: {seen} of {sent}, other: {arrived}");
                for rx in frames {
                    let Layer::Datagram { tunnel, .. } = rx.layer else { panic!("a datagram") };
                    if rx.frame.bytes() == b"other" {
                        assert_eq!(tunnel, id);
                        arrived = true;
                    } else {
                        assert_eq!((tunnel, rx.frame.bytes()), (TunnelId(0), &payload(seen)[..]));
                        seen += 1;
                    }
                    port.release(rx.frame);
                }
            }
        }
        assert!((0..100).any(|_| {
            receive(&mut port, Duration::from_millis(10));
            UdpSocket::bind(("0.0.0.0", goes.port())).is_ok()
        }));
    });
}

/// Two changes in short order, before the ring has let go of the first one's sockets: every socket is read, each
/// by its own tunnel, and the ports of those that went are free at once.
#[test]
fn sockets_may_change_at_every_turn() {
    in_namespace(|| {
        let (sockets, mut port) = open(&[tunnel("wg0", 0)]);
        let peer = peer("127.0.0.1:0");
        let turn = |port: &mut UdpPort| {
            assert_eq!(port.receive(0, 64, &mut Vec::new()), 0);
            port.flush();
        };
        turn(&mut port);
        for round in 0..10 {
            let former = sockets.port(TunnelId(round)).unwrap();
            let next = TunnelId(round + 1);
            let bound = [(next, sockets.bind(&tunnel("wg0", 0)).unwrap())];
            sockets.replace(bound.into());
            let to = SocketAddr::from(([127, 0, 0, 1], sockets.port(next).unwrap()));
            turn(&mut port);
            if round % 2 == 0 {
                assert!(
                    UdpSocket::bind(("0.0.0.0", former)).is_ok(),
                    "round {round}: the former port is held"
                );
                continue;
            }
            assert_eq!(port.receive(0, 64, &mut Vec::new()), 0);
            send_with_tos(&peer, to, 0, &payload(100));
            let frames = receive(&mut port, PATIENCE);
            let layers: Vec<_> = frames.iter().map(|rx| rx.layer).collect();
            let source = peer.local_addr().unwrap();
            assert_eq!(layers, [Layer::Datagram { tunnel: next, source, ds: 0 }], "round {round}");
            for rx in frames {
                port.release(rx.frame);
            }
        }
    });
}

/// What the ring had read for a socket that goes is the tunnel's still, and no other's who gets its number.
#[test]
fn what_a_socket_received_before_it_went_arrives() {
    in_namespace(|| {
        let (sockets, mut port) = open(&[tunnel("wg0", 0)]);
        let peer = peer("127.0.0.1:0");
        let to = SocketAddr::from(([127, 0, 0, 1], sockets.port(TunnelId(0)).unwrap()));
        port.flush();
        (0..40).for_each(|i| send_with_tos(&peer, to, 0, &payload(i)));
        let mut seen = 0;
        for round in 1..5 {
            let mut frames = Vec::new();
            assert_eq!(port.receive(0, 10, &mut frames), 10, "round {round}");
            for rx in frames {
                let source = peer.local_addr().unwrap();
                assert_eq!(rx.layer, Layer::Datagram { tunnel: TunnelId(0), source, ds: 0 });
                assert_eq!(rx.frame.bytes(), payload(seen));
                seen += 1;
                port.release(rx.frame);
            }
            port.flush();
            sockets.replace([(TunnelId(round), sockets.bind(&tunnel("wg1", 0)).unwrap())].into());
        }
        assert_eq!(port.counters().rx_packets, 40);
    });
}

/// A bug that peers had: of a batch for `sendmmsg`, what came after a datagram that failed was lost.
#[test]
fn a_datagram_that_cannot_be_sent_takes_no_other_with_it() {
    in_namespace(|| {
        let (_sockets, mut port) = open(&[tunnel("wg0", 0)]);
        let peer = peer("127.0.0.1:0");
        let reachable = peer.local_addr().unwrap();
        let unreachable = SocketAddr::from(([192, 0, 2, 1], 9));
        for n in 0..50 {
            let mut tx = port.reserve().unwrap();
            tx.frame.set_range(0, payload(n).len());
            tx.frame.bytes_mut().copy_from_slice(&payload(n));
            let to = if n % 5 == 2 { unreachable } else { reachable };
            port.transmit(tx, &Destination::Datagram { tunnel: TunnelId(0), to, tos: 0 });
        }
        port.flush();
        let mut buffer = [0; 2048];
        for n in (0..50).filter(|n| n % 5 != 2) {
            let (len, _) = receive_with_tos(&peer, &mut buffer);
            assert_eq!(buffer[..len], payload(n));
        }
        port.flush();
        assert_eq!((port.available(), port.counters().tx_failed), (256, 10));
    });
}
