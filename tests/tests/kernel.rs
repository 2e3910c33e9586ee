//! The kernel interface against a real kernel. Needs root. Each test works in a network namespace of its
//! own, made by its own thread, so that nothing reaches the machine; `ip` is the independent witness.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use forwarder::id::InterfaceId;
use forwarder::kernel::guard::{self, Lock};
use forwarder::kernel::netlink::{Changed, Kernel};
use forwarder::kernel::{
    BondMode, DefaultRules, Error, Family, LinkKind, PROTOCOL, Resolved, Route, RouteKind, TABLE_MAIN, View,
    nic,
};
use forwarder::tun::Tun;
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};
use xtask::test::not_run;

// Reading

#[test]
fn links_as_ip_made_them() {
    isolated(|| async {
        ip("link add v0 address 02:00:00:00:00:01 mtu 1400 type veth peer name v1");
        ip("link property add dev v0 altname a-name-longer-than-fifteen-letters");
        ip("link add bridge type bridge");
        ip("link set v0 master bridge");
        ip("link set v0 up");
        let view = Kernel::connect()?.view().await?;
        let link = |name: &str| view.link_named(name).expect(name);

        let v0 = link("a-name-longer-than-fifteen-letters");
        assert_eq!((v0.name.as_str(), v0.mac, v0.mtu), ("v0", [2, 0, 0, 0, 0, 1], 1400));
        assert_eq!((v0.up, v0.carrier, &v0.kind, v0.slave), (true, false, &LinkKind::Plain, None));
        assert_eq!(v0.master, Some(link("bridge").id));
        assert_eq!(link("bridge").kind, LinkKind::Other("bridge".into()));
        assert_eq!(link("lo").kind, LinkKind::Loopback);

        ip("link set v1 up");
        let view = Kernel::connect()?.view().await?;
        assert!(view.link_named("v0").is_some_and(|l| l.carrier));
        Ok(())
    });
}

#[test]
fn vlans_where_the_kernel_has_them() {
    isolated(|| async {
        ip("link add v0 type veth peer name v1");
        if !can("link add link v0 name tagged type vlan id 10") {
            not_run("vlans_where_the_kernel_has_them", "the kernel has no 802.1Q driver");
            return Ok(());
        }
        ip("link add link v0 name service type vlan proto 802.1ad id 20");
        let view = Kernel::connect()?.view().await?;
        let kind = |name: &str| view.link_named(name).expect(name).kind.clone();
        let lower = device(&view, "v0");
        assert_eq!(kind("tagged"), LinkKind::Vlan { id: 10, lower, service: false });
        assert_eq!(kind("service"), LinkKind::Vlan { id: 20, lower, service: true });
        Ok(())
    });
}

#[test]
fn an_lacp_bond_where_the_kernel_has_it() {
    isolated(|| async {
        if !can("link add bond0 type bond mode 802.3ad lacp_rate fast miimon 100") {
            not_run("an_lacp_bond_where_the_kernel_has_it", "the kernel has no bonding driver");
            return Ok(());
        }
        ip("link add bond1 type bond mode 802.3ad lacp_rate fast miimon 100");
        for port in 0..2_u8 {
            ip(&format!("link add a{port} address 02:00:00:00:00:0{port} type veth peer name b{port}"));
            ip(&format!("link set a{port} master bond0"));
            ip(&format!("link set b{port} master bond1"));
        }
        ip("link set bond0 up");
        ip("link set bond1 up");
        let kernel = Kernel::connect()?;
        let view = kernel.view().await?;
        let bond = view.link_named("bond0").expect("the bond");
        assert_eq!(bond.kind, LinkKind::Bond(BondMode::Lacp));
        let fully_up = async || {
            let slaves = kernel.slaves(bond.id).await.unwrap_or_default();
            let state = slaves.iter().filter_map(|s| s.slave);
            slaves.len() == 2
                && state.clone().count() == 2
                && state
                    .clone()
                    .all(|s| s.mii_up && s.active && s.actor_state == 0x3f && s.partner_state == 0x3f)
        };
        until(fully_up).await;
        let slaves = kernel.slaves(bond.id).await?;
        let states: Vec<_> = slaves.iter().filter_map(|s| s.slave).collect();
        assert_eq!(states[0].aggregator, states[1].aggregator);
        assert_eq!(states[1].permanent_mac, [2, 0, 0, 0, 0, 1]);
        assert_eq!(slaves[0].mac, slaves[1].mac, "a bond's slaves share its address");
        ip("link set b1 down");
        until(async || !fully_up().await).await;
        Ok(())
    });
}

#[test]
fn slaves_of_a_device_that_is_no_bond_or_is_absent() {
    isolated(|| async {
        ip("link add v0 type veth peer name v1");
        let kernel = Kernel::connect()?;
        let v0 = device(&kernel.view().await?, "v0");
        assert_eq!(kernel.slaves(v0).await?, []);
        assert_eq!(kernel.slaves(InterfaceId(9999)).await?, []);
        ip("link add bridge type bridge");
        ip("link set v0 master bridge");
        let bridge = device(&kernel.view().await?, "bridge");
        let slaves = kernel.slaves(bridge).await?;
        assert_eq!(slaves.iter().map(|l| l.id).collect::<Vec<_>>(), [v0]);
        Ok(())
    });
}

#[test]
fn addresses_routes_and_neighbours_as_ip_made_them() {
    isolated(|| async {
        let v0 = wire_up(&Kernel::connect()?).await?;
        ip("route add 10.1.0.0/16 via 192.0.2.2 metric 7 proto static");
        ip("route add 10.2.0.0/16 nexthop via 192.0.2.2 dev v0 nexthop via 192.0.2.3 dev v0");
        ip("route add 10.3.0.0/16 via inet6 2001:db8::2 dev v0");
        ip("route add blackhole 10.4.0.0/16");
        ip("route add 10.5.0.0/16 dev v0 table 77");
        ip("-6 route add 2001:db8:1::/48 via 2001:db8::2");
        ip("neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev v0 nud stale");
        ip("neighbour add 192.0.2.8 dev v0 nud failed");
        let view = Kernel::connect()?.view().await?;

        assert!(view.addresses.iter().any(|a| a.interface == v0 && a.address == net("192.0.2.1/24")));
        assert!(view.addresses.iter().any(|a| a.interface == v0 && a.address == net("2001:db8::1/64")));
        let route = |prefix: &str| {
            let found = view.routes.iter().find(|r| r.prefix == net(prefix));
            found.map(|r| (r.kind, r.interface, r.gateway, r.metric))
        };
        let unicast = |gateway, metric| Some((RouteKind::Unicast, Some(v0), gateway, metric));
        assert_eq!(route("192.0.2.0/24"), unicast(None, 0));
        assert_eq!(route("10.1.0.0/16"), unicast(Some(addr("192.0.2.2")), 7));
        assert_eq!(route("10.2.0.0/16"), unicast(Some(addr("192.0.2.2")), 0));
        assert_eq!(route("10.3.0.0/16"), unicast(Some(addr("2001:db8::2")), 0));
        assert_eq!(route("10.4.0.0/16"), Some((RouteKind::Unreachable, None, None, 0)));
        assert_eq!(route("10.5.0.0/16"), None, "another table");
        assert_eq!(route("2001:db8:1::/48"), unicast(Some(addr("2001:db8::2")), 1024));
        assert_eq!(route("192.0.2.1/32"), Some((RouteKind::Local, Some(v0), None, 0)));
        assert_eq!(route("192.0.2.255/32"), Some((RouteKind::Special, Some(v0), None, 0)));
        assert!(matches!(route("ff00::/8"), Some((RouteKind::Special, ..))));

        let mac = |ip: &str| view.neighbours.iter().find(|n| n.address == addr(ip)).map(|n| n.mac);
        assert_eq!(mac("192.0.2.9"), Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(mac("192.0.2.8"), None, "failed");
        Ok(())
    });
}

#[test]
fn a_mark_resolves_past_our_own_default_route() {
    isolated(|| async {
        let kernel = Kernel::connect()?;
        let v0 = wire_up(&kernel).await?;
        let tun = tun_up(&kernel, "tun0").await?;
        ip("route add default via 192.0.2.2");
        ip("-6 route add default via 2001:db8::2");
        ip("address add 203.0.113.1/32 dev tun0");
        for (family, all) in [(Family::V4, "0.0.0.0/0"), (Family::V6, "::/0")] {
            kernel.add_route(&Route::through(net(all), tun.interface(), 0, 51820)).await?;
            for _ in 0..2 {
                kernel.add_default_rules(&DefaultRules { family, mark: 51820, table: 51820 }).await?;
            }
        }
        for part in ["51820", "suppress_prefixlength 0"] {
            assert_eq!(ip("rule").matches(part).count(), 1, "taken over, not doubled");
        }
        let resolve = async |to: &str, mark| kernel.resolve(addr(to), mark).await;
        let direct = |next_hop: &str, source: &str| Resolved {
            interface: v0,
            next_hop: addr(next_hop),
            source: addr(source),
        };

        assert_eq!(resolve("198.51.100.1", 0).await?.interface, tun.interface());
        assert_eq!(resolve("2001:db8:9::1", 51820).await?, direct("2001:db8::2", "2001:db8::1"));
        assert_eq!(resolve("198.51.100.1", 51820).await?, direct("192.0.2.2", "192.0.2.1"));
        assert_eq!(
            resolve("192.0.2.7", 0).await?,
            direct("192.0.2.7", "192.0.2.1"),
            "specific route of main"
        );

        for family in [Family::V4, Family::V6] {
            kernel.remove_default_rules(&DefaultRules { family, mark: 51820, table: 51820 }).await?;
        }
        assert_eq!(resolve("198.51.100.1", 0).await?, direct("192.0.2.2", "192.0.2.1"));
        assert!(!ip("rule").contains("51820") && !ip("-6 rule").contains("51820"));
        Ok(())
    });
}

#[test]
fn changes_wake_once_for_many_and_tell_their_kinds() {
    isolated(|| async {
        let kernel = Kernel::connect()?;
        let mut watch = kernel.watch()?;
        assert!(quiet(watch.changed()).await);
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
        ip("address add 192.0.2.1/24 dev v0");
        ip("neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev v0");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let all = Changed::LINKS | Changed::ADDRESSES | Changed::ROUTES | Changed::NEIGHBOURS;
        assert_eq!(watch.changed().await, all);
        // Duplicate address detection goes on for a while.
        while !quiet(watch.changed()).await {}
        ip("route add unreachable 10.0.0.0/8");
        assert_eq!(watch.changed().await, Changed::ROUTES);
        assert!(quiet(watch.changed()).await);
        Ok(())
    });
}

// Changing

#[test]
fn a_used_neighbour_is_resolved_and_is_like_any_other() {
    isolated(|| async {
        let kernel = Kernel::connect()?;
        let far = Namespace::new();
        ip(&format!("link add v0 type veth peer name v1 netns {}", far.tid));
        ip("address add 192.0.2.1/24 dev v0");
        ip("-6 address add 2001:db8::1/64 dev v0 nodad");
        ip("link set v0 up");
        far.run(|| {
            ip("address add 192.0.2.2/24 dev v1");
            ip("address add 192.0.2.3/24 dev v1");
            ip("-6 address add 2001:db8::2/64 dev v1 nodad");
            ip("-6 address add 2001:db8::3/64 dev v1 nodad");
            ip("link set v1 address 02:00:00:00:00:02 up");
        });
        let v0 = device(&kernel.view().await?, "v0");

        for (used, sent) in [("192.0.2.2", "192.0.2.3"), ("2001:db8::2", "2001:db8::3")] {
            assert!(!ip("neighbour").contains(used));
            kernel.use_neighbour(v0, addr(used)).await?;
            until(async || mac_of(&kernel, used).await == Some([2, 0, 0, 0, 0, 2])).await;
            let socket = UdpSocket::bind(if used.contains(':') { "[::]:0" } else { "0.0.0.0:0" });
            socket.and_then(|s| s.send_to(b"x", (sent, 9))).expect("a packet");
            until(async || mac_of(&kernel, sent).await.is_some()).await;
            let shown = |which: &str| {
                let lines = ip("neighbour");
                let line = lines.lines().find(|l| l.starts_with(&format!("{which} "))).expect("an entry");
                line.replacen(which, "", 1)
            };
            assert_eq!(shown(used), shown(sent), "state and flags of a neighbour that packets resolved");
        }
        // A stale one is verified again.
        ip("neighbour change 192.0.2.2 lladdr 02:00:00:00:00:99 dev v0 nud stale");
        kernel.use_neighbour(v0, addr("192.0.2.2")).await?;
        until(async || mac_of(&kernel, "192.0.2.2").await == Some([2, 0, 0, 0, 0, 2])).await;
        // One that does not answer stays unknown.
        kernel.use_neighbour(v0, addr("192.0.2.77")).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(mac_of(&kernel, "192.0.2.77").await, None);
        Ok(())
    });
}

#[test]
fn refusals_are_one_line_with_object_cause_and_fix() {
    isolated(|| async {
        let kernel = Kernel::connect()?;
        let nowhere = InterfaceId(4242);
        let error = kernel.set_link_up(nowhere).await.expect_err("no such device");
        assert_eq!(error.errno(), Some(Errno::ENODEV));
        assert!(
            error.to_string().starts_with("cannot set device number 4242 up: No such device (ENODEV)"),
            "{error}"
        );
        let lo = device(&kernel.view().await?, "lo");
        kernel.add_address(lo, net("192.0.2.1/24")).await?;
        let error = kernel.add_address(lo, net("192.0.2.1/24")).await.expect_err("it is there").to_string();
        assert!(
            error.starts_with("cannot add the address 192.0.2.1/24 to device lo: File exists"),
            "{error}"
        );
        ip("route add unreachable 10.0.0.0/8 metric 4294967295");
        let error = guard::close(&kernel, &[(net("10.0.0.0/8"), TABLE_MAIN)]).await.expect_err("taken");
        assert_eq!(error.errno(), Some(Errno::EEXIST));
        let text = error.to_string();
        assert!(
            text.contains("unreachable 10.0.0.0/8 metric 4294967295") && text.contains("remove"),
            "{text}"
        );
        assert!(!text.contains('\n'));
        let error = kernel.resolve(addr("10.0.0.1"), 0).await.expect_err("unreachable");
        assert_eq!(error.errno(), Some(Errno::EHOSTUNREACH));
        // The kernel's own sentence: an MTU that loopback cannot have.
        let error = kernel.set_mtu(lo, u32::MAX).await.expect_err("too large").to_string();
        assert!(error.contains("the kernel says"), "{error}");
        Ok(())
    });
}

// TUN and NIC

#[test]
fn a_tun_is_made_once_and_goes_with_its_descriptor() {
    isolated(|| async {
        let kernel = Kernel::connect()?;
        let tun = tun_up(&kernel, "tun0").await?;
        kernel.set_mtu(tun.interface(), 1380).await?;
        let view = kernel.view().await?;
        let link = view.link(tun.interface()).expect("the TUN");
        assert_eq!((link.name.as_str(), link.mtu, link.up), ("tun0", 1380, true));
        assert_eq!(link.kind, LinkKind::Other("tun".into()));
        assert!(ip("link show tun0").contains("qlen 2000"));
        assert!(!ip("-6 address show dev tun0").contains("fe80"), "no link-local address");
        assert_eq!(nix::unistd::read(&tun, &mut [0; 1500]), Err(Errno::EAGAIN), "silent, non-blocking");
        assert_eq!(Tun::create("tun0").expect_err("taken").errno(), Some(Errno::EBUSY));
        assert_eq!(Tun::create("lo").expect_err("taken").errno(), Some(Errno::EBUSY));
        println!("{}", Tun::create("tun0").expect_err("taken"));
        drop(tun);
        assert!(kernel.view().await?.link_named("tun0").is_none());
        Ok(())
    });
}

#[test]
fn facts_of_a_veth_and_of_a_device_without_channels() {
    isolated(|| async {
        ip("link add v0 numrxqueues 4 numtxqueues 3 type veth peer name v1");
        ip("link add bridge type bridge");
        let kernel = Kernel::connect()?;
        let view = kernel.view().await?;
        let facts =
            async |name: &str| nic::facts(&kernel, view.link_named(name).expect(name), true, false).await;
        let veth = facts("v0").await?;
        assert_eq!(
            (veth.queues, veth.driver.as_str(), veth.native, veth.zero_copy),
            (4, "veth", true, false)
        );
        let bridge = facts("bridge").await?;
        assert_eq!((bridge.queues, bridge.driver.as_str()), (1, "bridge"));
        ip("link del v0");
        assert_eq!(facts("v0").await.expect_err("gone").errno(), Some(Errno::ENODEV));
        Ok(())
    });
}

// The guard

#[test]
fn the_guard_refuses_what_the_tun_no_longer_carries() {
    isolated(|| async {
        let kernel = Kernel::connect()?;
        let v0 = wire_up(&kernel).await?;
        ip("route add default via 192.0.2.2");
        ip("-6 route add default via 2001:db8::2");
        let prefixes = ["10.0.0.0/8", "2001:db8:a::/48"].map(|p| (net(p), TABLE_MAIN));
        let remote = ["10.1.1.1", "2001:db8:a::1"];
        for to in remote {
            assert_eq!(kernel.resolve(addr(to), 0).await?.interface, v0, "in clear without the guard");
        }
        guard::close(&kernel, &prefixes).await?;
        guard::close(&kernel, &prefixes).await?;
        let tun = tun_up(&kernel, "tun0").await?;
        for (prefix, table) in prefixes {
            kernel.add_route(&Route::through(prefix, tun.interface(), 0, table)).await?;
        }
        for to in remote {
            assert_eq!(kernel.resolve(addr(to), 0).await?.interface, tun.interface());
        }
        drop(tun);
        for (to, any) in remote.into_iter().zip(["0.0.0.0:0", "[::]:0"]) {
            let error = kernel.resolve(addr(to), 0).await.expect_err("refused");
            assert_eq!(error.errno(), Some(Errno::EHOSTUNREACH));
            assert!(UdpSocket::bind(any).and_then(|s| s.send_to(b"clear", (to, 9))).is_err(), "{to}");
        }
        // A withdrawn prefix goes, the other stays.
        guard::close(&kernel, &prefixes[..1]).await?;
        assert_eq!(kernel.our_routes().await?, [Route::unreachable(net("10.0.0.0/8"), TABLE_MAIN)]);
        Ok(())
    });
}

#[test]
fn only_what_is_ours_is_removed() {
    isolated(|| async {
        let kernel = Kernel::connect()?;
        wire_up(&kernel).await?;
        ip("route add unreachable 10.0.0.0/8 metric 4294967295");
        ip("route add 10.1.0.0/16 via 192.0.2.2 table 77 proto 150");
        ip("rule add fwmark 7 table 77");
        let before = state();
        let tun = tun_up(&kernel, "tun0").await?;
        guard::close(&kernel, &[(net("10.2.0.0/16"), TABLE_MAIN), (net("::/0"), 51820)]).await?;
        kernel.add_address(tun.interface(), net("203.0.113.1/32")).await?;
        kernel.add_route(&Route::through(net("10.2.0.0/16"), tun.interface(), 0, TABLE_MAIN)).await?;
        kernel.add_default_rules(&DefaultRules { family: Family::V6, mark: 9, table: 51820 }).await?;
        assert!(state().contains(&format!("proto {PROTOCOL}")));
        let removed = kernel.remove_ours().await?;
        assert_eq!((removed.routes, removed.rules), (3, 2));
        assert_eq!(kernel.remove_ours().await?, forwarder::kernel::netlink::Removed::default());
        drop(tun);
        assert_eq!(state(), before);
        Ok(())
    });
}

#[test]
fn after_kill_9_all_is_as_before_within_a_second() {
    isolated(|| async {
        ip("route add unreachable 172.16.0.0/12 metric 4294967295");
        let before = state();
        let mut parent = Guarded::start();
        assert_eq!(ip("route show proto 151").lines().count(), 1);
        assert_eq!(ip("-6 route show proto 151").lines().count(), 1);
        // What ends everything politely does not end the janitor before its parent.
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            kill(Pid::from_raw(parent.janitor()), signal).expect("the janitor");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_ne!(state(), before, "still on guard");
        parent.0.kill().expect("kill -9");
        for _ in 0..50 {
            if state() == before {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("left behind:\n{}", state());
    });
}

#[test]
fn a_successor_keeps_its_routes_when_the_janitor_before_it_works() {
    isolated(|| async {
        let mut first = Guarded::start();
        for _ in 0..5 {
            first.0.kill().expect("kill -9");
            let second = Guarded::start();
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(ip("route show proto 151").lines().count(), 1);
            first = second;
        }
        Ok(())
    });
}

#[test]
fn one_forwarder_in_a_namespace() {
    isolated(|| async {
        let mut running = Guarded::start();
        let Err(Error::Running { pid }) = Lock::acquire() else { panic!("a second lock") };
        assert_eq!(pid, running.0.id().cast_signed());
        let elsewhere = Namespace::new();
        elsewhere.run(|| drop(Lock::acquire().expect("another namespace")));
        // A polite end: the routes are gone when the process is.
        drop(running.0.stdin.take());
        assert!(running.0.wait().expect("the end").success());
        assert!(!state().contains("proto 151"));
        drop(Lock::acquire()?);
        Ok(())
    });
}

#[test]
fn down_removes_what_a_kept_guard_left() {
    isolated(|| async {
        let before = state();
        let kernel = Kernel::connect()?;
        guard::close(&kernel, &[(net("10.0.0.0/8"), TABLE_MAIN), (net("2001:db8::/32"), TABLE_MAIN)]).await?;
        // In this namespace, yet on a thread without a runtime.
        let removed = std::thread::spawn(guard::down).join().expect("no panic")?;
        assert_eq!((removed.routes, removed.rules), (2, 0));
        assert_eq!(state(), before);
        Ok(())
    });
}

// The laboratory

/// Runs a test on a runtime in a network namespace of its own.
fn isolated<F: Future<Output = Result<(), Error>>>(test: impl FnOnce() -> F + Send + 'static) {
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
struct Namespace {
    tid: Pid,
    jobs: mpsc::Sender<(Job, mpsc::Sender<()>)>,
}

impl Namespace {
    fn new() -> Self {
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

    fn run(&self, job: impl FnOnce() + Send + 'static) {
        let (done, finished) = mpsc::channel();
        self.jobs.send((Box::new(job), done)).expect("the thread");
        finished.recv().expect("the job");
    }
}

/// A process that guards two prefixes.
struct Guarded(Child);

impl Guarded {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_guarded"))
            .args(["10.0.0.0/8", "2001:db8::/32"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the stand-in");
        let mut line = String::new();
        let output = child.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn janitor(&self) -> i32 {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        std::fs::read_to_string(children).ok().and_then(|c| c.trim().parse().ok()).expect("one child")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `ip ARGUMENTS` in this thread's namespace, and what it prints.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether the kernel does `ip ARGUMENTS`.
fn can(arguments: &str) -> bool {
    let status = Command::new("ip").args(arguments.split(' ')).stderr(Stdio::null()).status();
    status.expect("iproute2").success()
}

/// Everything that a forwarder could leave behind.
fn state() -> String {
    ["link", "address", "route show table all", "-6 route show table all", "rule", "-6 rule", "neighbour"]
        .map(ip)
        .join("--\n")
}

/// A veth pair with addresses on its near end, in a state that no longer changes by itself.
async fn wire_up(kernel: &Kernel) -> Result<InterfaceId, Error> {
    ip("link add v0 type veth peer name v1");
    for end in ["v0", "v1"] {
        ip(&format!("link set {end} addrgenmode none up"));
    }
    until(async || !ip("link").contains("LOWERLAYERDOWN")).await;
    ip("address add 192.0.2.1/24 dev v0");
    ip("-6 address add 2001:db8::1/64 dev v0 nodad");
    Ok(device(&kernel.view().await?, "v0"))
}

async fn tun_up(kernel: &Kernel, name: &str) -> Result<Tun, Error> {
    let tun = Tun::create(name)?;
    kernel.set_no_link_local(tun.interface()).await?;
    kernel.set_link_up(tun.interface()).await?;
    Ok(tun)
}

fn device(view: &View, name: &str) -> InterfaceId {
    view.link_named(name).expect("the device").id
}

async fn mac_of(kernel: &Kernel, address: &str) -> Option<[u8; 6]> {
    let view = kernel.view().await.ok()?;
    view.neighbours.iter().find(|n| n.address == addr(address)).map(|n| n.mac)
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("did not come true within 5 s");
}

/// Whether nothing comes for a while.
async fn quiet<T>(event: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_millis(500), event).await.is_err()
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
