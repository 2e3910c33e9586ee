//! What benchmarks measure tunnels against: gateways without encryption, and slaves of a known rate. Needs root and
//! the debug build of `bench`.
#![allow(clippy::unwrap_used)]

use tests::lab::{PATIENCE, lab};
use xtask::lab::generator::{Generator, Load};
use xtask::lab::system::System;
use xtask::lab::{Lab, Options, Wire, counters, traffic};
use xtask::workspace;

const LOAD: Load<'static> = Load { seconds: 0.5, ..Load::SMALL };

#[test]
fn null_and_plain_routes_carry_the_mix_over_all_slaves() {
    let name = "null_and_plain_routes_carry_the_mix_over_all_slaves";
    let Some(lab) = lab(name, Options::default()).unwrap() else { return };
    let program = workspace::program("debug", "bench").unwrap();
    for system in [System::Null { program: program.clone(), settings: Vec::new() }, System::IpForward] {
        let running = system.start(&lab).unwrap();
        reach(&lab);
        let before = slave_bytes(&lab);
        let generator = Generator { program: &program, ends: lab.sites() };
        let trial = generator.offer(Load { size: "imix", ..LOAD }, 2000).unwrap();
        let name = system.name();
        assert!(trial.received > trial.sent / 2 && trial.received <= trial.sent, "{name}: {trial:?}");
        assert_eq!((trial.offered, trial.reordered), (1000, 0), "{name}");
        for (slave, (now, before)) in slave_bytes(&lab).into_iter().zip(before).enumerate() {
            // A tenth of what the packets have.
            assert!(now - before > trial.received * 329 / 10, "{name}, slave {slave}: {now} after {before}");
        }
        drop(running);
    }
}

#[test]
fn a_shaped_slave_has_the_rate_of_its_cable() {
    let name = "a_shaped_slave_has_the_rate_of_its_cable";
    let shape = Options { wire: Wire::Switch, ..Options::default() };
    let Some(lab) = lab(name, shape).unwrap() else { return };
    let program = workspace::program("debug", "bench").unwrap();
    lab.make_shapeable().unwrap();
    lab.shape(10).unwrap();
    let _running = System::IpForward.start(&lab).unwrap();
    reach(&lab);
    let generator = Generator { program: &program, ends: lab.sites() };
    let trial = generator.offer(Load { size: "1420", flows: 1, ..LOAD }, 3000).unwrap();
    // A flow has one slave: 10 Mbit/s of frames of 1420 + 14 + 24 bytes on the wire.
    let cable = 10_000_000 / 8 / 1458;
    assert!((cable / 3..cable * 11 / 10).contains(&trial.delivered_pps), "{trial:?}");
}

fn reach(lab: &Lab) {
    traffic::wait_reachable(&lab.a.host, lab.b.host_address().into(), PATIENCE).unwrap();
}

fn slave_bytes(lab: &Lab) -> Vec<u64> {
    let slaves = lab.a.slaves(lab.options);
    slaves.iter().map(|slave| counters::link(&lab.a.gateway, slave).unwrap().tx_bytes).collect()
}
