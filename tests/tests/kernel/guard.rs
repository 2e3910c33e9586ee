//! The fail-closed routes, and the janitor that takes them away.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use forwarder::kernel::guard::{self, Lock};
use forwarder::kernel::netlink::Kernel;
use forwarder::kernel::{DefaultRules, Error, Family, PROTOCOL, Route, TABLE_MAIN};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Namespace, addr, ip, isolated, net, tun_up, wire_up};

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

/// Everything that a forwarder could leave behind.
fn state() -> String {
    ["link", "address", "route show table all", "-6 route show table all", "rule", "-6 rule", "neighbour"]
        .map(ip)
        .join("--\n")
}
