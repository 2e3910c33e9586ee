//! A stand-in for `forwarder run` in the tests of the guard: `guarded [PREFIX ...]` takes the lock, starts
//! the janitor, makes the fail-closed routes, says "ready" and waits for the end of its standard input.
//! `guarded janitor` is its janitor.

use std::io::Read;

use forwarder::kernel::guard::{self, JANITOR, Janitor, Lock};
use forwarder::kernel::netlink::Kernel;
use forwarder::kernel::{Error, TABLE_MAIN};
use ipnet::IpNet;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|a| a == JANITOR) {
        return guard::janitor_main().map(|_| ());
    }
    let prefixes = arguments.iter().map(|a| (a.parse::<IpNet>().expect("a prefix"), TABLE_MAIN));
    let prefixes: Vec<_> = prefixes.collect();
    let lock = Lock::acquire()?;
    let _janitor = Janitor::spawn(&lock)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    runtime.block_on(async { guard::close(&Kernel::connect()?, &prefixes).await })?;
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
    Ok(())
}
