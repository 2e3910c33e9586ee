//! The sink's XDP program: packets of a benchmark go to the socket of their queue, all else to the
//! kernel. It is short enough to be written as instructions, and so needs no compiler.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use anyhow::Context as _;
use libbpf_rs::{MapCore as _, MapFlags, MapHandle, MapType, libbpf_sys};

use crate::packet::DESTINATION_PORT;

/// What the program writes into the packets that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// When they arrived (`CLOCK_BOOTTIME`, nanoseconds), over their MAC addresses, which nobody needs any more:
    /// who reads them may come late.
    Told,
    /// Nothing.
    Untold,
}

const XDP_PASS: i32 = 2;
/// The numbers of `bpf_redirect_map` and `bpf_ktime_get_boot_ns`.
const REDIRECT_MAP: i32 = 51;
const BOOT_TIME: i32 = 125;

// Opcodes (RFC 9669): class, size or operation, and source in one byte.
const LOAD_U32: u8 = 0x61;
const LOAD_U16: u8 = 0x69;
const LOAD_U8: u8 = 0x71;
const STORE_U64: u8 = 0x7b;
const LOAD_MAP: u8 = 0x18;
const PSEUDO_MAP_FD: u8 = 1;
const COPY: u8 = 0xbf;
const SET: u8 = 0xb7;
const ADD: u8 = 0x07;
const IF_GREATER: u8 = 0x2d;
const IF_NOT: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// The program on one interface; it is taken off when this value is dropped.
#[derive(Debug)]
pub struct Program {
    _link: OwnedFd,
}

impl Program {
    /// Attaches the program to the interface; `sockets` are those of its queues 0, 1, ...
    ///
    /// # Errors
    /// Another program is attached there, or the privileges are missing.
    pub fn attach(ifindex: i32, sockets: &[BorrowedFd<'_>], arrival: Arrival) -> anyhow::Result<Self> {
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as u64,
            ..Default::default()
        };
        let map =
            MapHandle::create(MapType::Xskmap, Some("bench_sockets"), 4, 4, sockets.len() as u32, &options)
                .context("cannot create an XSKMAP: run as root")?;
        for (queue, socket) in (0u32..).zip(sockets) {
            map.update(&queue.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes(), MapFlags::ANY)?;
        }
        let program =
            load(&instructions(map.as_fd().as_raw_fd(), arrival)).context("cannot load the XDP program")?;
        let link = link(&program, ifindex).context("cannot attach the XDP program; is there another?")?;
        Ok(Self { _link: link })
    }
}

/// The verifier's view: r1 is the context (`struct xdp_md`) at entry, r0 the verdict at exit.
fn instructions(map: RawFd, arrival: Arrival) -> Vec<u64> {
    let note = match arrival {
        Arrival::Told => vec![instruction(CALL, 0, 0, 0, BOOT_TIME), instruction(STORE_U64, 6, 0, 0, 0)],
        Arrival::Untold => Vec::new(),
    };
    // Instruction `at` jumps to the verdict "pass", which is number 20 but for what is noted.
    let pass = 20 + if arrival == Arrival::Told { 2 } else { 0 };
    let pass_if = |jump, source, value, at: i16| instruction(jump, 4, source, pass - (at + 1), value);
    let is_ours = [
        instruction(COPY, 7, 1, 0, 0),
        instruction(LOAD_U32, 6, 1, 0, 0), // r6 = data
        instruction(LOAD_U32, 3, 1, 4, 0), // r3 = data_end
        instruction(COPY, 4, 6, 0, 0),
        instruction(ADD, 4, 0, 0, 38), // up to the end of the UDP ports
        pass_if(IF_GREATER, 3, 0, 5),
        instruction(LOAD_U16, 4, 6, 12, 0), // EtherType
        pass_if(IF_NOT, 0, in_memory(0x0800), 7),
        instruction(LOAD_U8, 4, 6, 14, 0), // IP version and header length
        pass_if(IF_NOT, 0, 0x45, 9),
        instruction(LOAD_U8, 4, 6, 23, 0), // protocol: UDP
        pass_if(IF_NOT, 0, 17, 11),
        instruction(LOAD_U16, 4, 6, 36, 0), // destination port
        pass_if(IF_NOT, 0, in_memory(DESTINATION_PORT), 13),
    ];
    let redirect = [
        instruction(LOAD_U32, 2, 7, 16, 0), // r2 = rx_queue_index
        instruction(LOAD_MAP, 1, PSEUDO_MAP_FD, 0, map),
        0,                                   // the load of a map takes two slots
        instruction(SET, 3, 0, 0, XDP_PASS), // where the map has no socket
        instruction(CALL, 0, 0, 0, REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0, 0),
        instruction(SET, 0, 0, 0, XDP_PASS),
        instruction(EXIT, 0, 0, 0, 0),
    ];
    [&is_ours[..], &note, &redirect].concat()
}

/// A 16-bit field of a packet as a 16-bit load reads it.
fn in_memory(field: u16) -> i32 {
    i32::from(field.to_be())
}

/// One instruction as the kernel wants it (RFC 9669 section 3).
fn instruction(opcode: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    let registers =
        if cfg!(target_endian = "little") { source << 4 | destination } else { destination << 4 | source };
    let [o0, o1] = offset.to_ne_bytes();
    let [i0, i1, i2, i3] = immediate.to_ne_bytes();
    u64::from_ne_bytes([opcode, registers, o0, o1, i0, i1, i2, i3])
}

fn load(instructions: &[u64]) -> io::Result<OwnedFd> {
    // SAFETY: the strings end with NUL, the instructions have the size and alignment of `bpf_insn`,
    // and all outlive the call; no options are given.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_XDP,
            c"bench_sink".as_ptr(),
            c"GPL".as_ptr(),
            instructions.as_ptr().cast(),
            instructions.len() as u64,
            std::ptr::null_mut(),
        )
    };
    owned(fd)
}

fn link(program: &OwnedFd, ifindex: i32) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open; no options are given.
    let fd = unsafe {
        libbpf_sys::bpf_link_create(program.as_raw_fd(), ifindex, libbpf_sys::BPF_XDP, std::ptr::null())
    };
    owned(fd)
}

/// libbpf returns a new descriptor or a negative errno.
fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: the call has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
