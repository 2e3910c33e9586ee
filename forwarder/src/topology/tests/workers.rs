//! How many workers there are, and which queues they own.

use super::*;

/// A machine with one port per queue count, eth0, eth1, ...
fn machine(cores: usize, queues: &[u32]) -> Machine {
    let names: Vec<_> = (0..queues.len()).map(|i| format!("eth{i}")).collect();
    let mut machine = Machine::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for ((name, id), &queues) in names.iter().zip(2..).zip(queues) {
        machine = machine.nic_with(plain(id, name), |nic| nic.queues = queues);
    }
    machine.cores = (10..10 + cores).collect();
    machine
}

#[test]
fn workers_are_the_fewest_of_cores_queues_and_wishes() {
    // cores, queues of the ports, --workers, settings.workers -> workers
    for (cores, queues, option, setting, workers) in [
        (4, &[4, 4][..], None, None, 4),
        (2, &[4, 4], None, None, 2),
        (8, &[8, 3, 4], None, None, 3),
        (8, &[8, 8], Some(2), None, 2),
        (8, &[8, 8], None, Some(3), 3),
        (8, &[8, 8], Some(5), Some(3), 5),
        (8, &[8, 8], Some(1), Some(3), 1),
        (2, &[8, 3], Some(9), None, 2),
        (8, &[1, 8], Some(9), None, 1),
    ] {
        let mut machine = machine(cores, queues);
        machine.workers = option;
        machine.settings.workers = setting;
        let case = format!("{cores} cores, queues {queues:?}, --workers {option:?}, settings {setting:?}");
        assert_eq!(machine.plan().cores, (10..10 + workers).collect::<Vec<_>>(), "{case}");
    }
}

#[test]
fn a_port_with_one_queue_is_remarked_where_it_costs_workers() {
    let remark = "eth1 has one queue, so there is one worker";
    for (cores, option, costs) in [(4, None, true), (4, Some(2), true), (1, None, false), (4, Some(1), false)]
    {
        let mut machine = machine(cores, &[4, 1]);
        machine.workers = option;
        let remarks = machine.plan().remarks;
        assert_eq!(remarks.iter().any(|r| r == remark), costs, "{cores} {option:?}: {remarks:?}");
    }
}

#[test]
fn more_workers_than_possible_are_remarked() {
    let mut machine = machine(3, &[4, 2]);
    machine.workers = Some(4);
    let remark = "4 workers were asked for, there are 2: 3 cores allowed, 2 queues on eth1";
    assert_eq!(machine.plan().remarks, [remark]);
    machine.workers = Some(2);
    assert!(machine.plan().remarks.is_empty());
}

#[test]
fn every_queue_has_one_owner_and_every_worker_its_own_queue() {
    for (cores, queues) in [(1, &[5][..]), (2, &[2, 5]), (3, &[3, 8, 4]), (8, &[8, 8]), (4, &[64, 7])] {
        let plan = machine(cores, queues).plan();
        for port in &plan.ports {
            let owned = (0..plan.cores.len()).map(|w| plan.queues_of(w, port).collect::<Vec<_>>());
            for (worker, queues) in owned.clone().enumerate() {
                assert_eq!(queues[0], worker as u32, "the queue that worker {worker} sends on");
                assert!(queues.iter().all(|q| q % plan.cores.len() as u32 == worker as u32));
            }
            let mut all: Vec<_> = owned.flatten().collect();
            all.sort_unstable();
            assert_eq!(all, (0..port.queues).collect::<Vec<_>>(), "{cores} cores, {queues:?}");
        }
    }
}

/// The kernel carries the packets to the TUN and the UDP sockets, and needs no `--iface` for an endpoint.
#[test]
fn without_workers_there_is_no_port() {
    let mut machine = recipe();
    machine.interfaces = vec!["lan0".to_owned()];
    let remark =
        |plan: &Topology| plan.remarks.iter().any(|remark| remark.contains("which no --iface covers"));
    assert!(remark(&machine.plan()), "with workers the endpoint's interface is needed");
    machine.workers = Some(0);
    machine.nics.clear();
    let plan = machine.plan();
    assert!(plan.cores.is_empty() && plan.ports.is_empty() && plan.interfaces.is_empty(), "{plan:?}");
    assert!(plan.remarks.is_empty(), "{:?}", plan.remarks);
    assert!(plan.to_string().starts_with("no workers: all packets go by the TUN"), "{plan}");
    machine.interfaces = vec!["nope".to_owned()];
    assert_eq!(machine.compute().unwrap_err(), [TopologyError::NoSuchDevice("nope".to_owned())]);
}

#[test]
fn without_a_core_there_is_no_plan() {
    assert_eq!(machine(0, &[1]).compute().unwrap_err(), [TopologyError::NoCores]);
}
