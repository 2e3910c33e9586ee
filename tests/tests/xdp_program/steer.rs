//! The program, loaded by libbpf.

use std::os::fd::AsRawFd;
use std::{env, fs};

use forwarder_contract::{PROGRAM, Verdict, map};
use libbpf_rs::{Map, MapCore, MapFlags, Object, ObjectBuilder, ProgramInput};
use nix::libc;
use nix::unistd::geteuid;
use socket2::{Domain, Socket, Type};

use crate::frames::{
    EXEMPT_V4, EXEMPT_V6, FAR_V4, FAR_V6, LISTENER_V4, LISTENER_V6, LISTENER_WITHIN, MAC, PORT, TAGS,
    TUNNEL_MTU,
};

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// The loaded program with its maps filled.
pub struct Steer {
    object: Object,
    /// Keeps slot 0 of the socket map occupied.
    _socket: Option<Socket>,
}

impl Steer {
    pub fn load() -> Self {
        let steer = Self::without_socket();
        // The map takes sockets that are not bound, and the test run does not get as far as delivery.
        let socket = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None)
            .expect("a kernel with AF_XDP sockets (CONFIG_XDP_SOCKETS)");
        let fd = u32::try_from(socket.as_raw_fd()).unwrap();
        steer.put(map::SOCKETS, &0_u32.to_ne_bytes(), &fd.to_ne_bytes());
        Self { _socket: Some(socket), ..steer }
    }

    pub fn without_socket() -> Self {
        assert!(geteuid().is_root(), "these tests load BPF programs: run them as root");
        let steer = Self { object: object(), _socket: None };
        for tags in TAGS {
            let mut tags = tags.iter().copied().chain([0, 0]);
            let [outer, inner] = [tags.next().unwrap(), tags.next().unwrap()].map(u16::to_ne_bytes);
            let key = [&outer[..], &inner, &MAC, &[0; 2]].concat();
            let value = [7_u32.to_ne_bytes(), (TUNNEL_MTU as u32).to_ne_bytes()].concat();
            steer.put(map::INTERFACES, &key, &value);
        }
        for address in [LISTENER_V4.to_ipv6_mapped(), LISTENER_WITHIN.to_ipv6_mapped(), LISTENER_V6] {
            let key = [&address.octets()[..], &PORT.to_be_bytes(), &[0; 2]].concat();
            steer.put(map::LISTENERS, &key, &[1]);
        }
        for (length, address, steering) in [(16, FAR_V4, 1), (24, EXEMPT_V4, 0), (32, LISTENER_WITHIN, 0)] {
            steer.put(map::STEERING_V4, &prefix(length, &address.octets()), &u32::to_ne_bytes(steering));
        }
        for (length, address, steering) in [(48, FAR_V6, 1), (64, EXEMPT_V6, 0)] {
            steer.put(map::STEERING_V6, &prefix(length, &address.octets()), &u32::to_ne_bytes(steering));
        }
        steer
    }

    /// Asserts the program's action for the frame and that it counted `verdict` and nothing else.
    #[track_caller]
    pub fn expect(&self, what: &str, frame: &[u8], verdict: Verdict) {
        let before = self.counters();
        let action = self.run(frame);
        let counted = difference(&before, &self.counters());
        assert_eq!(counted, [verdict], "{what}: {frame:02x?}");
        assert_eq!(action, action_of(verdict), "{what}: {frame:02x?}");
    }

    pub fn run(&self, frame: &[u8]) -> u32 {
        let program = self.object.progs_mut().find(|program| program.name() == PROGRAM).unwrap();
        let input = ProgramInput { data_in: Some(frame), ..ProgramInput::default() };
        program.test_run(input).unwrap_or_else(|e| panic!("{} bytes: {e}", frame.len())).return_value
    }

    pub fn counters(&self) -> Vec<u64> {
        let map = self.map(map::VERDICTS);
        let sum = |per_cpu: Vec<Vec<u8>>| {
            per_cpu.iter().map(|value| u64::from_ne_bytes(value[..8].try_into().unwrap())).sum()
        };
        let read = |verdict: &Verdict| {
            let key = (*verdict as u32).to_ne_bytes();
            sum(map.lookup_percpu(&key, MapFlags::ANY).unwrap().unwrap())
        };
        Verdict::ALL.iter().map(read).collect()
    }

    fn put(&self, map: &str, key: &[u8], value: &[u8]) {
        self.map(map).update(key, value, MapFlags::ANY).unwrap_or_else(|e| panic!("{map}: {e}"));
    }

    fn map(&self, name: &str) -> Map<'_> {
        self.object.maps().find(|map| map.name() == name).unwrap_or_else(|| panic!("no map {name}"))
    }
}

fn object() -> Object {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/steer.bpf.o");
    let path = env::var("STEER_OBJECT").unwrap_or_else(|_| committed.into());
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let open = ObjectBuilder::default().open_memory(&bytes).expect("libbpf reads the object");
    open.load().expect("the verifier accepts the program")
}

/// The verdicts that were counted in between, each as often as it was.
pub fn difference(before: &[u64], after: &[u64]) -> Vec<Verdict> {
    let counted = |(i, verdict): (usize, &Verdict)| vec![*verdict; (after[i] - before[i]) as usize];
    Verdict::ALL.iter().enumerate().flat_map(counted).collect()
}

pub fn action_of(verdict: Verdict) -> u32 {
    if matches!(verdict, Verdict::RedirectWireGuard | Verdict::RedirectLan) { XDP_REDIRECT } else { XDP_PASS }
}

fn prefix(length: u32, address: &[u8]) -> Vec<u8> {
    [&length.to_ne_bytes()[..], address].concat()
}
