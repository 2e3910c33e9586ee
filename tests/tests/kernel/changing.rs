//! What is changed, and what the kernel refuses.

use std::net::UdpSocket;
use std::time::Duration;

use forwarder::id::InterfaceId;
use forwarder::kernel::netlink::Kernel;
use forwarder::kernel::{TABLE_MAIN, guard};
use nix::errno::Errno;

use crate::lab::{Namespace, addr, device, ip, isolated, net, until};

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

async fn mac_of(kernel: &Kernel, address: &str) -> Option<[u8; 6]> {
    let view = kernel.view().await.ok()?;
    view.neighbours.iter().find(|n| n.address == addr(address)).map(|n| n.mac)
}
