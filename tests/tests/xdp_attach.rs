//! Loading, attaching and configuring the XDP program on veth devices, in a network namespace of the
//! test's own. Needs root.
#![allow(clippy::unwrap_used)]

use std::{
    env,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use forwarder::{
    id::InterfaceId,
    kernel::Link,
    xdp::{
        Program, XdpError,
        query::{self, AttachMode},
    },
};
use forwarder_contract::{Interface, InterfaceKey, Listener, MAX_QUEUES, Steering, Verdict};
use ipnet::IpNet;
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};

/// Of the device `port0`.
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];

#[test]
fn attaches_in_both_modes_and_detaches() {
    let port = veth_pair();
    let features = query::features(port.id.0).unwrap();
    assert!(features.native && !features.zero_copy, "veth: {features:?}");
    for (generic, mode) in [(false, AttachMode::Native), (true, AttachMode::Generic)] {
        let mut program = Program::load(&port.name).unwrap();
        assert_eq!(query::attached(port.id.0).unwrap(), None, "loading does not attach");
        program.attach(&port, generic).unwrap();
        let found = query::attached(port.id.0).unwrap().expect("attached");
        assert_eq!((found.name.as_str(), found.mode), ("steer", mode));
        program.detach();
        assert_eq!(query::attached(port.id.0).unwrap(), None, "detached");
        program.attach(&port, generic).unwrap();
        drop(program);
        assert_eq!(query::attached(port.id.0).unwrap(), None, "dropped");
    }
}

#[test]
fn the_kernel_detaches_when_the_process_is_killed() {
    let port = veth_pair();
    for generic in ["", "generic"] {
        let mut holder = hold(&port.name, generic);
        assert!(query::attached(port.id.0).unwrap().is_some());
        // SIGKILL: the holder can do nothing about it.
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!(query::attached(port.id.0).unwrap(), None);
    }
}

#[test]
fn another_program_is_named_with_the_way_to_remove_it() {
    let port = veth_pair();
    let mut first = Program::load(&port.name).unwrap();
    let mut second = Program::load(&port.name).unwrap();
    for (in_place, keyword) in [(false, "xdp"), (true, "xdpgeneric")] {
        first.attach(&port, in_place).unwrap();
        let id = query::attached(port.id.0).unwrap().unwrap().id;
        for wanted in [false, true] {
            let sentence = second.attach(&port, wanted).unwrap_err().to_string();
            assert!(sentence.contains(&format!("id {id}, steer")), "{sentence}");
            assert!(sentence.contains(&format!("ip link set dev port0 {keyword} off")), "{sentence}");
        }
        first.detach();
    }
    second.attach(&port, false).unwrap();
}

#[test]
fn a_program_on_the_master_is_named() {
    let mut port = veth_pair();
    // What holds for a bond's slaves holds for a bridge's ports, and more kernels have bridges.
    ip("link add bridge0 type bridge");
    ip("link set port0 master bridge0");
    let bridge = link("bridge0");
    port.master = Some(bridge.id);
    let mut above = Program::load(&bridge.name).unwrap();
    above.attach(&bridge, true).unwrap();
    let sentence = Program::load(&port.name).unwrap().attach(&port, false).unwrap_err().to_string();
    assert!(sentence.starts_with("port0: its master bridge0 has an XDP program"), "{sentence}");
    assert!(sentence.contains("ip link set dev bridge0 xdpgeneric off"), "{sentence}");
}

#[test]
fn a_driver_that_refuses_native_mode_asks_for_generic() {
    let port = veth_pair();
    // veth runs native programs only when a frame fits into a page.
    ip("link set dev port0 mtu 9000");
    ip("link set dev host0 mtu 9000");
    let mut program = Program::load(&port.name).unwrap();
    let error = program.attach(&port, false).unwrap_err();
    assert!(matches!(error, XdpError::NativeUnsupported { .. }), "{error}");
    assert_eq!(query::attached(port.id.0).unwrap(), None);
    program.attach(&port, true).unwrap();
}

#[test]
fn frames_are_counted_and_maps_take_effect() {
    let port = veth_pair();
    let mut program = Program::load(&port.name).unwrap();
    program.attach(&port, false).unwrap();
    let counted = |program: &Program, verdict: Verdict| program.verdicts()[verdict as usize];
    let steered = |steering| [("10.2.0.0/16".parse::<IpNet>().unwrap(), steering)];

    send_one();
    assert!(counted(&program, Verdict::PassForeign) > 0, "no interface is known yet");

    let key = InterfaceKey { outer_vlan: 0, inner_vlan: 0, mac: port.mac, padding: [0; 2] };
    let interface = Interface { ifindex: port.id.0, tunnel_mtu: 1420 };
    program.set_interfaces(&[(key, interface)]).unwrap();
    program.set_steering(&steered(Steering::Tunnel)).unwrap();
    send_one();
    assert!(counted(&program, Verdict::PassNoSocket) > 0, "steered, but there is no socket");

    let before = counted(&program, Verdict::PassNoSocket);
    program.set_steering(&steered(Steering::Pass)).unwrap();
    send_one();
    assert_eq!(counted(&program, Verdict::PassNoSocket), before);
    assert!(counted(&program, Verdict::PassUnsteered) > 0, "no longer steered");

    let before = counted(&program, Verdict::PassForeign);
    program.set_interfaces(&[]).unwrap();
    send_one();
    assert!(counted(&program, Verdict::PassForeign) > before, "the interface is gone");
}

#[test]
fn map_errors_say_what_is_wrong() {
    let port = veth_pair();
    let mut program = Program::load(&port.name).unwrap();
    let error = program.set_socket(MAX_QUEUES, 0).unwrap_err();
    assert!(matches!(error, XdpError::Queue { .. }), "{error}");
    let error = program.set_socket(0, 0).unwrap_err();
    assert!(matches!(error, XdpError::Kernel { .. }), "descriptor 0 is no AF_XDP socket: {error}");
    let listener = |port: u16| Listener { address: [0; 16], port_be: port, padding: [0; 2] };
    let listeners: Vec<Listener> = (0..=4096).map(listener).collect();
    program.set_listeners(&listeners[..4096]).unwrap();
    let error = program.set_listeners(&listeners).unwrap_err();
    assert!(matches!(error, XdpError::Full { map: "LISTENERS", .. }), "{error}");
    let host = |i: u32| (IpNet::from(IpAddr::from(Ipv4Addr::from_bits(i))), Steering::Tunnel);
    let hosts: Vec<_> = (0..=65_536).map(host).collect();
    let error = program.set_steering(&hosts).unwrap_err();
    assert!(matches!(error, XdpError::Full { .. }), "{error}");
}

#[test]
fn without_privileges_the_error_says_which_are_needed() {
    let port = veth_pair();
    let output = this_test_binary("hold_the_program")
        .env("HOLD_ON", &port.name)
        .env("HOLD_AS", "65534")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("port0: no permission for XDP: run as root"), "{text}");
}

/// Not a test: what the tests above start as another process. Attaches to the device named by
/// `HOLD_ON` and waits to be killed; with `HOLD_AS` it becomes that user first.
#[test]
#[ignore = "started by other tests"]
fn hold_the_program() {
    let Ok(name) = env::var("HOLD_ON") else { return };
    if let Ok(user) = env::var("HOLD_AS") {
        nix::unistd::setuid(user.parse::<u32>().unwrap().into()).unwrap();
    }
    let attached = Program::load(&name).and_then(|mut program| {
        program.attach(&link(&name), env::var("HOLD_GENERIC").is_ok_and(|v| !v.is_empty()))?;
        Ok(program)
    });
    match attached {
        Ok(_program) => {
            println!("attached");
            thread::sleep(Duration::from_mins(1));
        }
        Err(error) => println!("{error}"),
    }
}

/// Starts [`hold_the_program`] and waits until it has attached.
fn hold(name: &str, generic: &str) -> Child {
    let mut holder = this_test_binary("hold_the_program")
        .env("HOLD_ON", name)
        .env("HOLD_GENERIC", generic)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(holder.stdout.take().unwrap());
    let attached = output.lines().map_while(Result::ok).any(|line| line.contains("attached"));
    assert!(attached, "the holder could not attach");
    holder
}

fn this_test_binary(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([test, "--exact", "--ignored", "--nocapture"]);
    command
}

/// Moves this thread into a new network namespace with the devices `port0` and `host0`, joined by a cable. It
/// goes with the thread. Returns `port0`.
fn veth_pair() -> Link {
    assert!(geteuid().is_root(), "these tests attach XDP programs: run them as root");
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link add port0 address 02:00:00:00:00:0a type veth peer name host0");
    ip("address add 10.1.0.2/24 dev host0");
    ip("link set dev port0 up");
    ip("link set dev host0 up");
    ip("neighbour add 10.1.0.1 lladdr 02:00:00:00:00:0a dev host0");
    ip("route add 10.2.0.0/16 via 10.1.0.1");
    link("port0")
}

fn link(name: &str) -> Link {
    Link {
        name: name.into(),
        mac: MAC,
        mtu: 1500,
        up: true,
        carrier: true,
        ..Link::new(InterfaceId(if_nametoindex(name).unwrap()))
    }
}

/// Sends an IPv4 packet for 10.2.0.7 from `host0` to `port0`.
fn send_one() {
    let socket = std::net::UdpSocket::bind("10.1.0.2:0").unwrap();
    socket.send_to(b"hello", "10.2.0.7:9").unwrap();
    // veth delivers in a softirq of the sending CPU, but that may have been deferred.
    thread::sleep(Duration::from_millis(50));
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2");
    assert!(status.success(), "ip {arguments}");
}
