//! Both gateways, and what is seen on the wire between them.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use xtask::command::Run as _;
use xtask::lab::eavesdrop::Eavesdropper;
use xtask::lab::gateway::Gateway;
use xtask::lab::peer::{Peer, Program};
use xtask::lab::{Family, Lab, Netns, Options, Side, Site, traffic};
use xtask::workspace;

use crate::PATIENCE;

/// How a pair of gateways comes together.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub initiator: Side,
    pub underlay: Family,
    pub preshared_key: bool,
}

impl Case {
    /// Both sites, where only the initiator knows where the other one is.
    pub fn lab(self) -> Lab {
        let lab = lab(1, self.underlay);
        let preshared_key = Command::new("wg").arg("genpsk").text().unwrap();
        for site in lab.sites() {
            if site.side != self.initiator {
                without(site, "Endpoint");
            }
            if self.preshared_key {
                rewrite(site, |lines| lines.push(format!("PresharedKey = {preshared_key}")));
            }
        }
        lab
    }
}

/// Two sites with that many tunnels, which only packets wake.
pub fn lab(ports: u8, underlay: Family) -> Lab {
    let lab = Lab::build(Options { ports, underlay, ..Options::default() }).unwrap();
    lab.offload(false).unwrap();
    for site in lab.sites() {
        without(site, "PersistentKeepalive");
    }
    lab
}

/// Takes a setting out of the site's wg-quick files.
pub fn without(site: &Site, key: &str) {
    rewrite(site, |lines| lines.retain(|line| !line.starts_with(key)));
}

/// Changes the site's wg-quick files; their last section is the peer's.
fn rewrite(site: &Site, change: impl Fn(&mut Vec<String>)) {
    for path in tunnels(site) {
        let text = fs::read_to_string(&path).unwrap();
        let mut lines = text.lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(path, lines.join("\n") + "\n").unwrap();
    }
}

fn tunnels(site: &Site) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(&site.tunnels).unwrap().map(|file| file.unwrap().path())
}

/// Both gateways, running; they end before their lab does.
pub struct Ends {
    pub forwarder: Gateway,
    pub peers: Vec<Peer>,
    pub lab: Lab,
}

impl Ends {
    pub fn start(lab: Lab, program: &Program) -> Self {
        let peers = (0..lab.options.ports).map(|index| program.start(&lab.b, index).unwrap()).collect();
        Self { forwarder: Self::forwarder(&lab), peers, lab }
    }

    /// `forwarder` at site A, ready. Many run at once: each takes the next core.
    pub fn forwarder(lab: &Lab) -> Gateway {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let core = STARTED.fetch_add(1, Ordering::Relaxed);
        let program = workspace::program("debug", "forwarder").unwrap();
        let mut forwarder = Gateway::start(&program, &lab.a, lab.options, core, &[]).unwrap();
        forwarder.wait_ready(PATIENCE).unwrap();
        forwarder
    }

    /// The site on that side, and the other one.
    pub fn from(&self, side: Side) -> (&Site, &Site) {
        match side {
            Side::A => (&self.lab.a, &self.lab.b),
            Side::B => (&self.lab.b, &self.lab.a),
        }
    }
}

/// Handshake messages of one type on the wire, by the end that takes them in.
pub struct Messages {
    at_a: Eavesdropper,
    at_b: Eavesdropper,
}

impl Messages {
    pub fn initiations(lab: &Lab) -> Self {
        Self::watch(lab, 1, "")
    }

    pub fn responses(lab: &Lab) -> Self {
        Self::watch(lab, 2, "")
    }

    /// Messages of `kind` that match `more` of a filter, too.
    pub fn watch(lab: &Lab, kind: u8, more: &str) -> Self {
        let filter = match lab.options.underlay {
            Family::V4 => format!("udp[8:4] = 0x0{kind}000000{more}"),
            // pcap cannot look into UDP over IPv6 by name.
            Family::V6 => format!("ip6[6] = 17 and ip6[48:4] = 0x0{kind}000000{more}"),
        };
        let directory = lab.directory().join(format!("messages-{kind}"));
        fs::create_dir(&directory).unwrap();
        let at = |site: &Site| {
            let mut eavesdropper = Eavesdropper::new(&directory);
            eavesdropper.watch(&site.gateway, "wan0", &filter).unwrap();
            eavesdropper
        };
        Self { at_a: at(&lab.a), at_b: at(&lab.b) }
    }

    /// How many the end on that side has sent so far.
    pub fn sent_by(&self, side: Side) -> usize {
        let taken_in = if side == Side::A { &self.at_b } else { &self.at_a };
        taken_in.frames().unwrap().len()
    }
}

/// TCP for a second.
pub fn tcp(from: &Netns, to: (&Netns, IpAddr), lab: &Lab) {
    let run = traffic::tcp_between(from, to, 2, 1, &lab.directory().join("iperf3.log")).unwrap();
    let mbps = run.mbps;
    println!("{} to {}: {mbps:.0} Mbit/s, {} retransmits", from.name(), to.1, run.tcp.retransmits);
    assert!(mbps > 0.0);
}
