//! Network namespaces, and what stands in them.

use std::future::Future;
use std::net::IpAddr;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use forwarder::id::InterfaceId;
use forwarder::kernel::netlink::Kernel;
use forwarder::kernel::{Error, View};
use forwarder::tun::Tun;
use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, gettid};

/// Runs a test on a runtime in a network namespace of its own.
pub fn isolated<F: Future<Output = Result<(), Error>>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run as root");
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), test()).await })
    });
    match thread.join() {
        Ok(outcome) => outcome.expect("in time").expect("no refusal"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Another network namespace, with a thread that works in it.
pub struct Namespace {
    pub tid: Pid,
    jobs: mpsc::Sender<(Job, mpsc::Sender<()>)>,
}

impl Namespace {
    pub fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<(Job, mpsc::Sender<()>)>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            let _ = tell.send(gettid());
            for (job, done) in inbox {
                job();
                let _ = done.send(());
            }
        });
        Self { tid: told.recv().expect("a thread"), jobs }
    }

    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let (done, finished) = mpsc::channel();
        self.jobs.send((Box::new(job), done)).expect("the thread");
        finished.recv().expect("the job");
    }
}

/// `ip ARGUMENTS` in this thread's namespace, and what it prints.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A veth pair with addresses on its near end, in a state that no longer changes by itself.
pub async fn wire_up(kernel: &Kernel) -> Result<InterfaceId, Error> {
    ip("link add v0 type veth peer name v1");
    for end in ["v0", "v1"] {
        ip(&format!("link set {end} addrgenmode none up"));
    }
    until(async || !ip("link").contains("LOWERLAYERDOWN")).await;
    ip("address add 192.0.2.1/24 dev v0");
    ip("-6 address add 2001:db8::1/64 dev v0 nodad");
    Ok(device(&kernel.view().await?, "v0"))
}

pub async fn tun_up(kernel: &Kernel, name: &str) -> Result<Tun, Error> {
    let tun = Tun::create(name)?;
    kernel.set_no_link_local(tun.interface()).await?;
    kernel.set_link_up(tun.interface()).await?;
    Ok(tun)
}

pub fn device(view: &View, name: &str) -> InterfaceId {
    view.link_named(name).expect("the device").id
}

pub async fn until(mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("did not come true within 5 s");
}

pub fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

pub fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
