//! The lanes: ports opened, queues connected, threads started; and all that undone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::Context as _;

use super::handle::Handle;
use crate::id::PortId;
use crate::pipeline::{Lane, LaneCounters, Ports, Snapshot};
use crate::port::queue::{self, QueueRx};
use crate::port::tun::TunPort;
use crate::port::udp::{UdpPort, UdpSockets};
use crate::port::xsk::{self, XskPort};
use crate::port::{BURST, Port};
use crate::publish::{Publisher, Subscriber};
use crate::topology::Topology;
use crate::tun::Tun;
use crate::worker::{Place, Worker};
use crate::xdp::Program;

/// Sealed messages that may be on their way out of one port, over all its workers: far less than the 1024
/// that the smallest replay window among the peers (boringtun's) can tell apart.
const MAX_UNSENT: usize = 512;
/// Frames between a worker and the TUN.
const KERNEL_QUEUE: usize = 512;
/// Frames of the slow path's TUN and UDP ports, each way.
const SLOW_FRAMES: u16 = 512;
/// Room of a slow-path frame in bytes: a whole IP packet of the largest MTU we carry, sealed.
const SLOW_ROOM: usize = 4096;

/// The threads of a running gateway. The last lane is the slow path.
pub struct Lanes {
    threads: Vec<JoinHandle<Lane>>,
    /// What each lane counted.
    pub counters: Vec<Arc<LaneCounters>>,
    /// What each lane's ports are called: device and queue.
    pub ports: Vec<Vec<PortName>>,
    stop: Arc<AtomicBool>,
}

/// What a port is called in tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortName {
    /// The device, or `to-kernel`, `udp`.
    pub name: String,
    /// The queue of an AF_XDP socket.
    pub queue: Option<u32>,
}

/// What the lanes are made of.
pub struct Parts<'a> {
    /// The plan.
    pub topology: &'a Topology,
    /// The ports' programs, whose socket maps are filled.
    pub programs: &'a mut [Program],
    /// The TUN.
    pub tun: Tun,
    /// The tunnels' UDP sockets.
    pub sockets: &'a Arc<UdpSockets>,
    /// What lanes ask the control thread.
    pub handle: &'a Arc<Handle>,
    /// Where lanes get their snapshots.
    pub publisher: &'a mut Publisher,
}

impl Lanes {
    /// Opens all ports and starts one thread per worker and one for the slow path.
    ///
    /// # Errors
    /// Which port or thread could not be had, and why.
    pub fn start(parts: Parts<'_>) -> anyhow::Result<Self> {
        let Parts { topology, programs, tun, sockets, handle, publisher } = parts;
        let empty = Arc::new(Snapshot::default());
        let workers = topology.cores.len();
        let subscribe = |_| publisher.subscribe(&empty).context("cannot make an eventfd");
        let mut subscribers = (0..=workers).map(subscribe).collect::<anyhow::Result<Vec<_>>>()?;
        let slow = subscribers.pop().context("no slow path")?;
        let mut lanes = Self { threads: vec![], counters: vec![], ports: vec![], stop: Arc::default() };
        let mut from_workers = Vec::new();
        let mut ready = Vec::new();
        for (worker, snapshots) in subscribers.into_iter().enumerate() {
            let (ports, names, to_tun) = worker_ports(topology, programs, worker, &slow)?;
            from_workers.push(to_tun);
            lanes.ports.push(names);
            let lane = lanes.add(ports, handle)?;
            ready.push((lane, snapshots, format!("worker{worker}"), Place::Core(topology.cores[worker])));
        }
        let (ports, names) = slow_ports(tun, from_workers, sockets)?;
        lanes.ports.push(names);
        ready.push((lanes.add(ports, handle)?, slow, "slow-path".to_owned(), Place::beside(workers)));
        // Threads start only when every lane is there: a failure before leaves nothing running.
        for (lane, snapshots, name, place) in ready {
            let worker = Worker { lane, snapshots, stop: Arc::clone(&lanes.stop) };
            lanes.threads.push(worker.spawn(name, place).context("cannot start a thread")?);
        }
        Ok(lanes)
    }

    /// A lane over these ports, with counters of its own.
    fn add(&mut self, ports: Ports, handle: &Arc<Handle>) -> io::Result<Lane> {
        let counters = Arc::<LaneCounters>::default();
        self.counters.push(Arc::clone(&counters));
        Lane::new(ports, counters, Arc::clone(handle) as _, SLOW_ROOM)
    }

    /// Whether a thread has ended, which none does by itself.
    pub fn any_dead(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Stops the threads and closes their ports.
    pub fn stop(self, publisher: &Publisher) {
        self.stop.store(true, Ordering::Release);
        publisher.wake_all();
        for thread in self.threads {
            // A panicked thread has said so; its ports are closed with the process.
            drop(thread.join());
        }
    }
}

/// The sockets of worker `worker` on every port, and its queue to the TUN.
fn worker_ports(
    topology: &Topology,
    programs: &mut [Program],
    worker: usize,
    slow: &Subscriber,
) -> anyhow::Result<(Ports, Vec<PortName>, QueueRx)> {
    let mut all: Vec<Box<dyn Port>> = Vec::new();
    let mut names = Vec::new();
    let mut egress = Vec::new();
    for ((plan, program), id) in topology.ports.iter().zip(programs).zip(0..) {
        // Every queue of ours receives; the first, which has the worker's number, also transmits.
        egress.push(Some(all.len() as u16));
        for queue in topology.queues_of(worker, plan) {
            let mut port = XskPort::open(PortId(id), &plan.name, queue, plan.mode, plan.chunk, xsk::RING)?;
            port.limit_transmit((MAX_UNSENT / topology.cores.len()).max(BURST));
            program.set_socket(queue, std::os::fd::AsRawFd::as_raw_fd(&port.fd()))?;
            all.push(Box::new(port));
            names.push(PortName { name: plan.name.clone(), queue: Some(queue) });
        }
    }
    let (to_tun, from_worker) = queue::pair(KERNEL_QUEUE, SLOW_ROOM, slow.wake_handle())?;
    let kernel = Some(all.len() as u16);
    all.push(Box::new(to_tun));
    names.push(PortName { name: "to-kernel".into(), queue: None });
    Ok((Ports { all, egress, kernel, datagrams: None }, names, from_worker))
}

/// The slow path's TUN and UDP ports.
fn slow_ports(
    tun: Tun,
    from_workers: Vec<QueueRx>,
    sockets: &Arc<UdpSockets>,
) -> anyhow::Result<(Ports, Vec<PortName>)> {
    let name = tun.name().to_owned();
    let tun = TunPort::new(tun.into(), from_workers, SLOW_FRAMES, SLOW_ROOM)?;
    let udp = UdpPort::new(Arc::clone(sockets), SLOW_FRAMES, SLOW_ROOM)?;
    let names = [name, "udp".to_owned()].map(|name| PortName { name, queue: None });
    let all: Vec<Box<dyn Port>> = vec![Box::new(tun), Box::new(udp)];
    Ok((Ports { all, egress: Vec::new(), kernel: Some(0), datagrams: Some(1) }, names.into()))
}
