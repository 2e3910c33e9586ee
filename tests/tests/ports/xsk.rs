//! AF_XDP ports on veth, native XDP, copy mode.

use std::time::Duration;

use forwarder::clock::boottime;
use forwarder::id::PortId;
use forwarder::port::xsk::{RING, XskCause, XskError, XskPort};
use forwarder::port::{Destination, Layer, Port};
use forwarder::topology::Mode;

use crate::lab::{
    EXPERIMENTAL, Redirect, frame, in_namespace, number, packet_socket, receive, run, veth_pair,
};

const PORT: PortId = PortId(3);
const FRAMES: u32 = 100_000;
const PATIENCE: Duration = Duration::from_secs(2);

fn open(queue: u32, mode: Mode) -> Result<XskPort, XskError> {
    XskPort::open(PORT, "near", queue, mode, 2048, RING)
}

/// Queues one frame; `false` when all frames are in flight.
fn transmit(port: &mut XskPort, bytes: &[u8]) -> bool {
    let Some(mut tx) = port.reserve() else { return false };
    assert!(tx.frame.is_empty() && tx.frame.start() == 0);
    tx.frame.set_range(0, bytes.len());
    tx.frame.bytes_mut().copy_from_slice(bytes);
    port.transmit(tx, &Destination::Headers);
    true
}

/// Every transmit frame comes home, and no receive frame is out.
fn assert_nothing_leaked(port: &mut XskPort) {
    assert_eq!(port.lent(), 0);
    let mut home = Vec::new();
    for _ in 0..1000 {
        port.flush();
        while let Some(frame) = port.reserve() {
            home.push(frame);
        }
        if home.len() == RING as usize {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(home.len(), RING as usize, "transmit frames leaked");
    for frame in home {
        port.cancel(frame);
    }
    assert_eq!(port.lent(), 0);
}

#[test]
fn what_is_transmitted_reaches_the_wire_byte_by_byte_in_order() {
    in_namespace(|| {
        veth_pair();
        let far = packet_socket("far");
        let mut port = open(0, Mode::Copy).unwrap();
        let (mut sent, mut seen, mut buffer) = (0, 0, [0; 2048]);
        while seen < FRAMES {
            for _ in 0..64 {
                if sent < FRAMES && transmit(&mut port, &frame(sent)) {
                    sent += 1;
                }
            }
            port.flush();
            let patience = if sent == FRAMES { PATIENCE } else { Duration::ZERO };
            while let Some(got) = far.receive(&mut buffer, patience) {
                assert_eq!(got, frame(seen), "frame {seen}");
                seen += 1;
                if seen == sent {
                    break;
                }
            }
        }
        let counters = port.counters();
        assert_eq!((counters.tx_packets, counters.tx_failed), (FRAMES.into(), 0));
        assert_eq!(counters.tx_bytes, (0..FRAMES).map(|i| frame(i).len() as u64).sum::<u64>());
        assert_nothing_leaked(&mut port);
    });
}

/// Behind "far" stands a slow cable, whose queue holds more than the kernel lets one socket queue at once.
#[test]
fn what_a_slow_device_has_no_room_for_leaves_later() {
    const FRAMES: u32 = 1500;
    in_namespace(|| {
        veth_pair();
        run("ip link add slow type veth peer name end");
        for end in ["slow", "end"] {
            run(&format!("ip link set {end} up"));
        }
        run("tc qdisc add dev far clsact");
        run(
            "tc filter add dev far ingress protocol all u32 match u32 0 0 action mirred egress redirect dev slow",
        );
        run("tc qdisc add dev slow root tbf rate 200mbit burst 3000 limit 10000000");
        let end = packet_socket("end");
        let mut port = open(0, Mode::Copy).unwrap();
        assert!((0..FRAMES).all(|n| transmit(&mut port, &frame(n))));
        port.flush();
        assert!(port.unsent(), "it took {FRAMES} frames at once");
        let (mut seen, mut buffer) = (0, [0; 2048]);
        while seen < FRAMES {
            if port.unsent() {
                port.flush();
            }
            let got = end.receive(&mut buffer, PATIENCE);
            assert_eq!(got, Some(&frame(seen)[..]), "frame {seen}");
            seen += 1;
        }
        assert!(!port.unsent());
        assert_eq!(port.counters().tx_failed, 0);
        assert_nothing_leaked(&mut port);
    });
}

/// Received frames and plaintexts lie in the UMEM: no core file holds it, neither its first page nor its last.
#[test]
fn core_files_leave_the_umem_out() {
    in_namespace(|| {
        veth_pair();
        let mut port = open(0, Mode::Copy).unwrap();
        let mut frames: Vec<_> = std::iter::from_fn(|| port.reserve()).collect();
        assert_eq!(frames.len(), RING as usize);
        let of_frames = frames.iter_mut().map(|tx| tx.frame.memory_mut().as_ptr().addr());
        let addresses: Vec<usize> = of_frames.collect();
        let (first, last) = (addresses.iter().min().unwrap(), addresses.iter().max().unwrap());
        // The receive half lies before the transmit half.
        let umem = first - RING as usize * 2048;
        for address in [umem, *first, *last] {
            let flags = vm_flags(address);
            assert!(flags.contains(" dd"), "{flags}");
        }
        for tx in frames {
            port.cancel(tx);
        }
    });
}

/// The flags of the mapping that the address lies in (`proc(5)`, smaps).
fn vm_flags(address: usize) -> String {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let contains = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let [start, end] = [start, end].map(|hex| usize::from_str_radix(hex, 16));
        Some((start.ok()?..end.ok()?).contains(&address))
    };
    let mut mapping = smaps.lines().skip_while(|line| contains(line) != Some(true));
    mapping.find(|line| line.starts_with("VmFlags:")).unwrap().to_owned()
}

#[test]
fn a_frame_that_starts_behind_offset_0_is_sent_from_its_start() {
    in_namespace(|| {
        veth_pair();
        let far = packet_socket("far");
        let mut port = open(1, Mode::Copy).unwrap();
        let mut tx = port.reserve().unwrap();
        let bytes = frame(40);
        tx.frame.set_range(33, bytes.len());
        tx.frame.bytes_mut().copy_from_slice(&bytes);
        port.transmit(tx, &Destination::Headers);
        port.flush();
        assert_eq!(far.receive(&mut [0; 2048], PATIENCE), Some(&bytes[..]));
    });
}

#[test]
fn what_arrives_is_received_and_echoed_byte_by_byte_on_every_queue() {
    in_namespace(|| {
        veth_pair();
        let mut ports: Vec<_> = (0..4).map(|q| open(q, Mode::Copy).unwrap()).collect();
        let redirect = Redirect::attach("near");
        for (port, queue) in ports.iter().zip(0..) {
            redirect.bind(queue, port.fd());
        }
        let far = packet_socket("far");
        let (mut sent, mut received, mut echoed) = (0, 0, 0);
        let mut seen = vec![false; FRAMES as usize];
        let mut buffer = [0; 2048];
        let start = boottime();
        while echoed < FRAMES {
            assert!(
                boottime().since(start) < Duration::from_mins(1),
                "{sent} sent, {received} in, {echoed} back"
            );
            for _ in 0..32 {
                if sent < FRAMES && sent - echoed < 1000 {
                    far.send(&frame(sent));
                    sent += 1;
                }
            }
            for port in &mut ports {
                for rx in receive(port, Duration::ZERO) {
                    assert_eq!(rx.layer, Layer::Ethernet(PORT));
                    // The kernel's own traffic on a new interface is IPv6.
                    if rx.frame.bytes()[12..14] != EXPERIMENTAL.to_be_bytes() {
                        port.release(rx.frame);
                        continue;
                    }
                    assert_eq!(rx.frame.bytes(), frame(number(rx.frame.bytes())));
                    assert!(transmit(port, rx.frame.bytes()));
                    port.release(rx.frame);
                    received += 1;
                }
                port.flush();
            }
            while let Some(got) = far.receive(&mut buffer, Duration::ZERO) {
                let n = number(got);
                assert_eq!(got, frame(n));
                assert!(!std::mem::replace(&mut seen[n as usize], true), "frame {n} came twice");
                echoed += 1;
            }
        }
        assert_eq!(received, FRAMES);
        assert!(ports.iter().map(|p| p.counters().rx_packets).sum::<u64>() >= u64::from(FRAMES));
        assert_eq!(ports.iter().map(|p| p.counters().rx_lost).sum::<u64>(), 0);
        ports.iter_mut().for_each(assert_nothing_leaked);
    });
}

#[test]
fn receiving_goes_on_after_all_frames_were_held() {
    in_namespace(|| {
        veth_pair();
        let mut ports: Vec<_> = (0..4).map(|q| open(q, Mode::Copy).unwrap()).collect();
        let redirect = Redirect::attach("near");
        for (port, queue) in ports.iter().zip(0..) {
            redirect.bind(queue, port.fd());
        }
        let far = packet_socket("far");
        let mut held = Vec::new();
        // One sender uses one queue: its port runs dry, and the rest is lost and counted.
        for n in 0..2 * RING {
            far.send(&frame(n));
            if n % 32 == 31 {
                held.extend(
                    ports
                        .iter_mut()
                        .enumerate()
                        .flat_map(|(i, p)| receive(p, Duration::ZERO).into_iter().map(move |rx| (i, rx))),
                );
            }
        }
        assert!(held.len() >= RING as usize, "{}", held.len());
        assert!(ports.iter().map(|p| p.counters().rx_lost).sum::<u64>() > 0);
        for (i, rx) in held {
            ports[i].release(rx.frame);
        }
        ports.iter_mut().for_each(Port::flush);
        far.send(&frame(99));
        let got: Vec<_> = ports
            .iter_mut()
            .flat_map(|p| {
                receive(p, Duration::from_millis(100)).into_iter().map(|rx| rx.frame.bytes().to_vec())
            })
            .collect();
        assert!(got.contains(&frame(99)), "receiving stopped");
    });
}

#[test]
fn the_true_mode_is_told_when_zero_copy_is_refused() {
    in_namespace(|| {
        veth_pair();
        assert_eq!(open(0, Mode::ZeroCopy).unwrap().mode(), Mode::Copy);
        assert_eq!(open(1, Mode::Copy).unwrap().mode(), Mode::Copy);
        assert_eq!(open(2, Mode::Generic).unwrap().mode(), Mode::Generic);
    });
}

#[test]
fn errors_name_device_queue_cause_and_fix() {
    in_namespace(|| {
        veth_pair();
        let _holder = open(0, Mode::Copy).unwrap();
        let busy = open(0, Mode::Copy).unwrap_err();
        assert!(matches!(busy.cause, XskCause::Busy));
        let text = busy.to_string();
        assert!(text.starts_with("near queue 0: another AF_XDP socket holds the queue"), "{text}");

        assert!(matches!(open(4, Mode::Copy).unwrap_err().cause, XskCause::Refused(2048)));
        let nowhere = XskPort::open(PORT, "nowhere", 0, Mode::Copy, 2048, RING).unwrap_err();
        assert_eq!(nowhere.to_string(), "nowhere queue 0: there is no such device: `ip link` lists them");
        let odd = XskPort::open(PORT, "near", 1, Mode::Copy, 3000, RING).unwrap_err();
        assert!(matches!(odd.cause, XskCause::Sizes { chunk: 3000, .. }), "{odd}");
        let many = XskPort::open(PORT, "near", 1, Mode::Copy, 2048, 1 << 16).unwrap_err();
        assert!(many.to_string().ends_with("at most 32768 slots"), "{many}");
    });
}

#[test]
fn a_queue_can_be_opened_again_after_it_was_closed() {
    in_namespace(|| {
        veth_pair();
        let far = packet_socket("far");
        for i in 0..5 {
            let mut port = open(0, Mode::Copy).unwrap();
            assert!(transmit(&mut port, &frame(i)));
            port.flush();
            assert_eq!(far.receive(&mut [0; 2048], PATIENCE), Some(&frame(i)[..]));
        }
    });
}

#[test]
fn a_device_that_goes_down_loses_packets_but_no_frames() {
    in_namespace(|| {
        veth_pair();
        let far = packet_socket("far");
        let mut port = open(0, Mode::Copy).unwrap();
        run("ip link set near down");
        for i in 0..10_000 {
            assert!(transmit(&mut port, &frame(i)), "frame {i}: none is free");
            if i % 16 == 15 {
                port.flush();
            }
        }
        let counters = port.counters();
        assert_eq!(counters.tx_packets + counters.tx_failed, 10_000);
        assert!(counters.tx_packets <= 16, "{counters:?}");

        run("ip link set near up");
        assert!(transmit(&mut port, &frame(77)));
        port.flush();
        let mut buffer = [0; 2048];
        let mut last = None;
        while let Some(got) = far.receive(&mut buffer, Duration::from_millis(500)) {
            last = Some(got.to_vec());
            port.flush();
        }
        assert_eq!(last, Some(frame(77)));
        assert_nothing_leaked(&mut port);
    });
}
