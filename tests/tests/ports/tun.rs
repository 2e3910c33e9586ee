//! The TUN port against the kernel's IP stack.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use forwarder::port::queue::{QueueTx, pair};
use forwarder::port::tun::TunPort;
use forwarder::port::{Destination, Layer, Port};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::lab::{in_namespace, open_tun, readable, receive, wakes};

const PACKETS: u32 = 10_000;
const PATIENCE: Duration = Duration::from_secs(2);
/// IPv4 and UDP headers.
const HEADERS: usize = 28;

/// A UDP packet from 10.9.0.2 to 10.9.0.1:7000 with the number as payload, without UDP checksum.
fn packet(number: u32) -> Vec<u8> {
    let mut bytes = vec![0; HEADERS + 4];
    bytes[..10].copy_from_slice(&[0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17]);
    bytes[12..20].copy_from_slice(&[10, 9, 0, 2, 10, 9, 0, 1]);
    let sum: u32 = bytes[..20].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes[20..28].copy_from_slice(&[0x1b, 0x59, 0x1b, 0x58, 0, 12, 0, 0]);
    bytes[28..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn transmit(port: &mut impl Port, bytes: &[u8]) -> bool {
    let Some(mut tx) = port.reserve() else { return false };
    tx.frame.set_range(0, bytes.len());
    tx.frame.bytes_mut().copy_from_slice(bytes);
    port.transmit(tx, &Destination::Headers);
    true
}

fn kernel_socket() -> UdpSocket {
    let socket = UdpSocket::bind("10.9.0.1:7000").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn next(socket: &UdpSocket) -> u32 {
    let mut buffer = [0; 4];
    assert_eq!(socket.recv(&mut buffer).unwrap(), 4);
    u32::from_be_bytes(buffer)
}

/// Who waits for the port's descriptor is woken by what comes later.
#[test]
fn what_arrives_while_one_waits_wakes() {
    in_namespace(|| {
        // The kernel's own traffic on a new interface is IPv6, and comes at any time.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let mut port = TunPort::new(open_tun("10.9.0.1/24"), Vec::new(), 256, 2048).unwrap();
        let socket = kernel_socket();
        assert!(receive(&mut port, Duration::from_millis(1)).is_empty());
        let sender = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            socket.send_to(b"late", "10.9.0.2:7001").unwrap();
        });
        assert!(wakes(port.poll_fd().unwrap(), PATIENCE), "nobody is woken");
        sender.join().unwrap();
        assert_eq!(receive(&mut port, PATIENCE).len(), 1);
    });
}

#[test]
fn packets_from_the_kernel_keep_their_order() {
    in_namespace(|| {
        let mut port = TunPort::new(open_tun("10.9.0.1/24"), Vec::new(), 256, 2048).unwrap();
        let socket = kernel_socket();
        let mut seen = 0;
        for burst in 0..PACKETS / 500 {
            // More than there are frames, so that receiving stops and starts again.
            for n in burst * 500..(burst + 1) * 500 {
                socket.send_to(&n.to_be_bytes(), "10.9.0.2:7001").unwrap();
            }
            while seen < (burst + 1) * 500 {
                let frames = receive(&mut port, PATIENCE);
                assert!(!frames.is_empty(), "stopped at {seen}");
                for rx in frames {
                    assert_eq!(rx.layer, Layer::Ip);
                    // The kernel's own traffic on a new interface is IPv6.
                    if rx.frame.bytes()[0] == 0x45 {
                        assert_eq!(rx.frame.bytes()[HEADERS..], seen.to_be_bytes());
                        seen += 1;
                    }
                    port.release(rx.frame);
                }
            }
        }
        assert!(port.counters().rx_packets >= u64::from(PACKETS));
    });
}

#[test]
fn packets_to_the_kernel_keep_their_order() {
    in_namespace(|| {
        let mut port = TunPort::new(open_tun("10.9.0.1/24"), Vec::new(), 256, 2048).unwrap();
        let socket = kernel_socket();
        let (mut sent, mut seen) = (0, 0);
        while seen < PACKETS {
            while sent < PACKETS && sent - seen < 100 {
                assert!(transmit(&mut port, &packet(sent)));
                sent += 1;
            }
            port.flush();
            while seen < sent {
                assert_eq!(next(&socket), seen);
                seen += 1;
            }
        }
        port.flush();
        assert_eq!(port.available(), 256, "send frames leaked");
        assert_eq!((port.counters().tx_packets, port.counters().tx_failed), (PACKETS.into(), 0));
    });
}

#[test]
fn what_the_kernel_refuses_is_counted_and_its_frame_comes_back() {
    in_namespace(|| {
        let mut port = TunPort::new(open_tun("10.9.0.1/24"), Vec::new(), 16, 2048).unwrap();
        for _ in 0..100 {
            assert!(transmit(&mut port, &[0xff; 40]), "neither IPv4 nor IPv6");
            port.flush();
        }
        assert_eq!((port.available(), port.counters().tx_failed), (16, 100));
    });
}

#[test]
fn workers_packets_reach_the_kernel_in_order_without_a_copy() {
    in_namespace(|| {
        let tun = open_tun("10.9.0.1/24");
        let socket = kernel_socket();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
        let (queues, ends): (Vec<QueueTx>, Vec<_>) =
            (0..2).map(|_| pair(128, 2048, Arc::clone(&wake)).unwrap()).unzip();
        let mut port = TunPort::new(tun, ends, 16, 2048).unwrap();
        let workers: Vec<_> =
            queues.into_iter().zip(0..).map(|(q, id)| std::thread::spawn(move || work(q, id))).collect();
        let mut expected = [0; 2];
        while expected.iter().sum::<u32>() < PACKETS {
            assert!(readable(wake.as_fd(), PATIENCE), "no wake-up after {expected:?}");
            let _ = wake.read();
            port.flush();
            socket.set_nonblocking(true).unwrap();
            let mut buffer = [0; 4];
            while socket.recv(&mut buffer).is_ok() {
                let number = u32::from_be_bytes(buffer);
                let worker = (number >> 24) as usize;
                assert_eq!(number & 0xff_ffff, expected[worker], "worker {worker}");
                expected[worker] += 1;
            }
        }
        assert_eq!((port.counters().tx_packets, port.counters().tx_failed), (PACKETS.into(), 0));
        for worker in workers {
            assert_eq!(worker.join().unwrap().available(), 128, "frames leaked");
        }
    });
}

/// Queues half of the packets, numbered, with the worker's id in the top byte.
fn work(mut queue: QueueTx, id: u32) -> QueueTx {
    for n in 0..PACKETS / 2 {
        while !transmit(&mut queue, &packet(id << 24 | n)) {
            std::thread::yield_now();
        }
        queue.flush();
    }
    queue
}
