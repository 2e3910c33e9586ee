//! One port's instance of the program, with its maps.

use std::os::fd::{AsFd, RawFd};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, XskMap},
    programs::{ProgramError, Xdp, XdpMode, links::FdLink},
};
use forwarder_contract::{Interface, InterfaceKey, Listener, PROGRAM, Steering, Verdict, map};
use ipnet::IpNet;
use libbpf_rs::XdpFlags;
use nix::{errno::Errno, net::if_::if_indextoname};

use super::{
    error::{XdpError, errno, one_line},
    query,
    table::{Table, Tries},
};
use crate::kernel;

/// Built by `cargo xtask build-ebpf` from the `ebpf` workspace.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/steer.bpf.o");

/// An instance of the program for one port. Dropping it detaches it.
pub struct Program {
    port: String,
    /// While it is open, the program is attached: the kernel closes it with the process.
    link: Option<FdLink>,
    ebpf: Ebpf,
    sockets: XskMap<MapData>,
    interfaces: Table<HashMap<MapData, InterfaceKey, Interface>, InterfaceKey, Interface>,
    listeners: Table<HashMap<MapData, Listener, u8>, Listener, u8>,
    steering: Table<Tries, IpNet, Steering>,
    verdicts: PerCpuArray<MapData, u64>,
}

impl Program {
    /// Loads an instance with empty maps, attached to nothing. `port_name` is the device's name, for
    /// messages.
    ///
    /// # Errors
    ///
    /// No permission, or the kernel refuses the program.
    pub fn load(port_name: &str) -> Result<Self, XdpError> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(|e| load_error(port_name, &e))?;
        let program = steer(&mut ebpf, port_name)?;
        program.load().map_err(|e| load_error(port_name, &e.into()))?;
        Ok(Self {
            sockets: take(&mut ebpf, port_name, map::SOCKETS)?,
            interfaces: Table::new(take(&mut ebpf, port_name, map::INTERFACES)?),
            listeners: Table::new(take(&mut ebpf, port_name, map::LISTENERS)?),
            steering: Table::new(Tries {
                v4: take::<LpmTrie<_, _, _>>(&mut ebpf, port_name, map::STEERING_V4)?,
                v6: take::<LpmTrie<_, _, _>>(&mut ebpf, port_name, map::STEERING_V6)?,
            }),
            verdicts: take(&mut ebpf, port_name, map::VERDICTS)?,
            port: port_name.to_owned(),
            link: None,
            ebpf,
        })
    }

    /// Sends the redirected frames of RX queue `queue` to an AF_XDP socket bound to that queue. The
    /// kernel empties the slot when the socket is closed; frames then pass.
    ///
    /// # Errors
    ///
    /// The queue is beyond [`forwarder_contract::MAX_QUEUES`], or `fd` is no AF_XDP socket.
    pub fn set_socket(&mut self, queue: u32, fd: RawFd) -> Result<(), XdpError> {
        self.sockets.set(queue, fd, 0).map_err(|e| match e {
            MapError::OutOfBounds { .. } => XdpError::Queue { port: self.port.clone(), queue },
            e => map_error(&self.port, map::SOCKETS, &e),
        })
    }

    /// Makes these the layer-3 interfaces whose frames are looked at; all others pass.
    ///
    /// # Errors
    ///
    /// The map is full.
    pub fn set_interfaces(&mut self, interfaces: &[(InterfaceKey, Interface)]) -> Result<(), XdpError> {
        let wanted = interfaces.iter().copied();
        self.interfaces.set(wanted).map_err(|e| map_error(&self.port, map::INTERFACES, &e))
    }

    /// Makes these the addresses and ports whose WireGuard data messages are redirected.
    ///
    /// # Errors
    ///
    /// The map is full.
    pub fn set_listeners(&mut self, listeners: &[Listener]) -> Result<(), XdpError> {
        let wanted = listeners.iter().map(|listener| (*listener, 1));
        self.listeners.set(wanted).map_err(|e| map_error(&self.port, map::LISTENERS, &e))
    }

    /// Makes these the prefixes by which destinations are steered, the longest match deciding; what
    /// matches none passes. Of equal prefixes the last counts.
    ///
    /// # Errors
    ///
    /// The map is full.
    pub fn set_steering(&mut self, steering: &[(IpNet, Steering)]) -> Result<(), XdpError> {
        let wanted = steering.iter().map(|(prefix, steering)| (prefix.trunc(), *steering));
        self.steering.set(wanted).map_err(|e| map_error(&self.port, map::STEERING_V4, &e))
    }

    /// Attaches to the device until [`Program::detach`], drop, or the end of the process, however it
    /// ends. `generic`: on socket buffers instead of in the driver.
    ///
    /// # Errors
    ///
    /// [`XdpError::NativeUnsupported`] asks for another attempt with `generic`; else no permission, or
    /// a program is in the way.
    pub fn attach(&mut self, link: &kernel::Link, generic: bool) -> Result<(), XdpError> {
        let mode = if generic { XdpMode::Skb } else { XdpMode::Driver };
        let program = steer(&mut self.ebpf, &self.port)?;
        let attached = program.attach_to_if_index(link.id.0, mode).and_then(|id| program.take_link(id));
        let attached = attached.map_err(|e| attach_error(link, generic, &e))?;
        let Ok(attached) = FdLink::try_from(attached) else {
            // aya falls back to a netlink attachment, which would outlive the process.
            remove_netlink_attachment(program, link);
            let reason = "the kernel has no BPF links for XDP".into();
            return Err(XdpError::Kernel {
                port: link.name.clone(),
                step: "attaching the XDP program",
                reason,
            });
        };
        self.link = Some(attached);
        Ok(())
    }

    /// Detaches; frames go to the kernel again.
    pub fn detach(&mut self) {
        self.link = None;
    }

    /// Frames by [`Verdict`] (in the order of [`Verdict::ALL`]) since the program was loaded.
    pub fn verdicts(&self) -> [u64; Verdict::ALL.len()] {
        std::array::from_fn(|i| self.verdicts.get(&(i as u32), 0).map_or(0, |per_cpu| per_cpu.iter().sum()))
    }
}

fn steer<'a>(ebpf: &'a mut Ebpf, port: &str) -> Result<&'a mut Xdp, XdpError> {
    let program = ebpf.program_mut(PROGRAM).and_then(|program| <&mut Xdp>::try_from(program).ok());
    program.ok_or_else(|| XdpError::Object { port: port.to_owned(), missing: PROGRAM })
}

fn take<M: TryFrom<Map>>(ebpf: &mut Ebpf, port: &str, name: &'static str) -> Result<M, XdpError> {
    let map = ebpf.take_map(name).and_then(|map| M::try_from(map).ok());
    map.ok_or_else(|| XdpError::Object { port: port.to_owned(), missing: name })
}

fn remove_netlink_attachment(program: &Xdp, link: &kernel::Link) {
    if let (Ok(fd), Ok(ifindex)) = (program.fd(), i32::try_from(link.id.0)) {
        // Nothing more can be done when this fails, too; the caller reports the cause.
        let _ = libbpf_rs::Xdp::new(fd.as_fd()).detach(ifindex, XdpFlags::NONE);
    }
}

fn load_error(port: &str, error: &EbpfError) -> XdpError {
    let port = port.to_owned();
    match error {
        _ if matches!(errno(error), Some(Errno::EPERM)) => XdpError::Permission { port },
        EbpfError::ProgramError(ProgramError::LoadError { io_error, verifier_log }) => {
            let log = verifier_log.to_string();
            // The log ends with statistics; the line that names the fault precedes them.
            let fault = log.lines().rev().find(|l| !l.is_empty() && !l.starts_with("processed "));
            let reason = fault.map_or_else(|| io_error.to_string(), |fault| format!("{io_error}: {fault}"));
            XdpError::Rejected { port, reason }
        }
        _ => XdpError::Kernel { port, step: "loading the XDP program", reason: one_line(error) },
    }
}

fn map_error(port: &str, map: &'static str, error: &MapError) -> XdpError {
    let port = port.to_owned();
    match errno(error) {
        // Hash maps answer E2BIG, tries ENOSPC.
        Some(Errno::E2BIG | Errno::ENOSPC) => XdpError::Full { port, map },
        _ => XdpError::Kernel { port, step: "writing the XDP program's maps", reason: one_line(error) },
    }
}

fn attach_error(link: &kernel::Link, generic: bool, error: &ProgramError) -> XdpError {
    let port = link.name.clone();
    let other = || XdpError::Kernel {
        port: port.clone(),
        step: "attaching the XDP program",
        reason: one_line(error),
    };
    match errno(error) {
        Some(Errno::EPERM | Errno::EACCES) => XdpError::Permission { port },
        Some(Errno::EEXIST | Errno::EBUSY) => in_the_way(link).unwrap_or_else(other),
        // EINVAL, ERANGE, ENOMEM: drivers that run XDP, but not with this MTU or number of queues.
        Some(cause @ (Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ERANGE | Errno::ENOMEM)) if !generic => {
            XdpError::NativeUnsupported { port, cause }
        }
        _ => other(),
    }
}

/// The program that keeps ours off a device: on the device itself, or on its master.
pub fn in_the_way(link: &kernel::Link) -> Option<XdpError> {
    let port = link.name.clone();
    if let Ok(Some(found)) = query::attached(link.id.0) {
        return Some(XdpError::Occupied { port, found });
    }
    let master = link.master?.0;
    let found = query::attached(master).ok()??;
    let master = if_indextoname(master).ok()?.to_string_lossy().into_owned();
    Some(XdpError::OnMaster { port, master, found })
}
