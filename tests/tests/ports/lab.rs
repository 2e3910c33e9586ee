//! Namespaces, veth pairs, packet sockets, and an XDP program that redirects everything to sockets.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use forwarder::clock;
use forwarder::port::{Port, RxFrame};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, Xdp, XdpFlags, libbpf_sys};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
pub use tests::packet_socket::{EXPERIMENTAL, PacketSocket, readable};

/// Runs `test` in a thread of its own network namespace.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run as root");
        run("ip link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command of words without spaces; it must succeed.
pub fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A packet socket for test frames.
pub fn packet_socket(device: &str) -> PacketSocket {
    PacketSocket::open(device, EXPERIMENTAL).unwrap()
}

/// A veth pair "near" - "far" with 4 queues at each end, up.
pub fn veth_pair() {
    run("ip link add near numtxqueues 4 numrxqueues 4 type veth peer name far numtxqueues 4 numrxqueues 4");
    for end in ["near", "far"] {
        run(&format!("ip link set {end} up"));
    }
}

fn ifindex(device: &str) -> i32 {
    nix::net::if_::if_nametoindex(device).unwrap().cast_signed()
}

/// Receives a burst from a port, waiting at most `patience` for the first frame.
pub fn receive(port: &mut impl Port, patience: Duration) -> Vec<RxFrame> {
    let mut frames = Vec::new();
    port.flush();
    if port.receive(0, 64, &mut frames) == 0 {
        readable(port.poll_fd().unwrap(), patience);
        port.receive(0, 64, &mut frames);
    }
    frames
}

/// Whether what comes wakes who waits for the descriptor: `poll` looks once more when its time is up, which does
/// not count.
pub fn wakes(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let start = clock::boottime();
    readable(fd, patience) && clock::boottime().since(start) < patience
}

/// Test frame number `seq`: its length and every byte follow from the number.
pub fn frame(seq: u32) -> Vec<u8> {
    let len = 60 + seq as usize % 1455;
    let mut bytes = vec![0; len];
    bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    bytes[12..14].copy_from_slice(&EXPERIMENTAL.to_be_bytes());
    bytes[14..18].copy_from_slice(&seq.to_be_bytes());
    for (i, byte) in bytes[18..].iter_mut().enumerate() {
        *byte = (seq.wrapping_mul(31) as usize + i * 7) as u8;
    }
    bytes
}

/// The number of a test frame.
pub fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(*frame[14..].first_chunk().unwrap())
}

/// Native XDP on a device that redirects every frame to the socket of its queue, or passes it.
pub struct Redirect {
    device: i32,
    program: OwnedFd,
    sockets: MapHandle,
}

impl Redirect {
    pub fn attach(device: &str) -> Self {
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as u64,
            ..Default::default()
        };
        let sockets = MapHandle::create(MapType::Xskmap, Some("sockets"), 4, 4, 64, &options).unwrap();
        let program = load(sockets.as_fd());
        let device = ifindex(device);
        Xdp::new(program.as_fd()).attach(device, XdpFlags::DRV_MODE).unwrap();
        Self { device, program, sockets }
    }

    pub fn bind(&self, queue: u32, socket: BorrowedFd<'_>) {
        let fd = socket.as_raw_fd().to_ne_bytes();
        self.sockets.update(&queue.to_ne_bytes(), &fd, MapFlags::ANY).unwrap();
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        let _ = Xdp::new(self.program.as_fd()).detach(self.device, XdpFlags::DRV_MODE);
    }
}

/// `return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS)`
fn load(sockets: BorrowedFd<'_>) -> OwnedFd {
    let instruction = |code, registers: (u8, u8), off, imm| {
        let mut i = libbpf_sys::bpf_insn { code, off, imm, ..Default::default() };
        i.set_dst_reg(registers.0);
        i.set_src_reg(registers.1);
        i
    };
    let instructions = [
        instruction(0x61, (2, 1), 16, 0),                  // r2 = *(u32 *)(r1 + 16)
        instruction(0x18, (1, 1), 0, sockets.as_raw_fd()), // r1 = map
        instruction(0x00, (0, 0), 0, 0),                   // (its second half)
        instruction(0xb7, (3, 0), 0, 2),                   // r3 = XDP_PASS
        instruction(0x85, (0, 0), 0, 51),                  // call bpf_redirect_map
        instruction(0x95, (0, 0), 0, 0),                   // exit
    ];
    // SAFETY: pointers to initialised instructions and strings; the result is a descriptor or an error.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_XDP,
            c"redirect".as_ptr(),
            c"GPL".as_ptr(),
            instructions.as_ptr(),
            instructions.len() as u64,
            std::ptr::null_mut(),
        )
    };
    assert!(fd >= 0, "{}", std::io::Error::from_raw_os_error(-fd));
    // SAFETY: a descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Opens a TUN "tun0" with an address, up.
pub fn open_tun(address: &str) -> OwnedFd {
    let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: all zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tun0") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    // SAFETY: the kernel reads and writes one `ifreq`.
    let created = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(created, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: sets a flag of an open descriptor.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK) };
    run(&format!("ip addr add {address} dev tun0"));
    run("ip link set tun0 txqueuelen 20000 up");
    file.into()
}
