//! Pings from A to B, and what must become of them.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use tests::lab::PATIENCE;
use xtask::lab::address::{lan4, lan6};
use xtask::lab::traffic::wait_reachable;
use xtask::lab::{Lab, Netns, Side};

/// Pings from A to B, each of which is answered, and one that is too big.
pub fn pings(lab: &Lab) -> Result<()> {
    let targets = [IpAddr::from(lan4(Side::B, 10)), lan6(Side::B, 10).into()];
    for target in targets {
        wait_reachable(&lab.a.host, target, PATIENCE)?;
        // A host that knows the tunnel's MTU no longer asks for it.
        lab.a.host.ip("route flush cache")?;
        lab.a.host.ip("-6 route flush cache")?;
        let dont_fragment = ping(&lab.a.host, &format!("-M do -s 1450 {target}"))?;
        ensure!(dont_fragment.contains("1420"), "no word of the tunnel's MTU: {dont_fragment}");
        for options in ["", "-s 1450 -M dont", "-s 4000", "-s 20000"] {
            answered(&lab.a.host, &format!("{options} {target}"))?;
        }
        answered(&lab.a.gateway, &target.to_string())?;
    }
    for options in ["-R", "-T tsonly", "-T tsandaddr", "-R -s 4000"] {
        answered(&lab.a.host, &format!("{options} {}", targets[0]))?;
    }
    Ok(())
}

/// Pings from A to B that get no answer from there. (That A's gateway says why is rate-limited, and the
/// datagrams use that up.)
pub fn refused(lab: &Lab) -> Result<()> {
    for target in [IpAddr::from(lan4(Side::B, 10)), lan6(Side::B, 10).into()] {
        let text = ping(&lab.a.host, &target.to_string())?;
        ensure!(text.contains(" 0 received"), "ping {target}: {text}");
    }
    Ok(())
}

fn answered(from: &Netns, arguments: &str) -> Result<()> {
    let text = ping(from, arguments)?;
    ensure!(!text.contains(" 0 received"), "ping {arguments}: {text}");
    Ok(())
}

/// Three pings; what ping says of them.
pub fn ping(from: &Netns, arguments: &str) -> Result<String> {
    let mut ping = from.command("ping");
    ping.args(["-n", "-c", "3", "-i", "0.2", "-W", "2"]).args(arguments.split_whitespace());
    let output = ping.output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}
