//! The TUN, and what NICs say of themselves.

use forwarder::kernel::netlink::Kernel;
use forwarder::kernel::{LinkKind, nic};
use forwarder::tun::Tun;
use nix::errno::Errno;

use crate::lab::{ip, isolated, tun_up, until};

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
        // A child that another test's thread is just starting has every descriptor, until it executes its program.
        until(async || kernel.view().await.is_ok_and(|view| view.link_named("tun0").is_none())).await;
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
