//! A lab that stays up until a signal comes: a daemon runs in it, and a namespace has files of its own in
//! /etc/netns. Prints the lab's folder and the daemon's process id when it stands. Others come and go meanwhile.

use std::fs;
use std::process::Command;

use anyhow::Result;
use xtask::lab::{Lab, Options};

fn main() -> Result<()> {
    let options = Options { ports: 1, ..Options::default() };
    let lab = Lab::build(options)?;
    fs::create_dir_all(format!("/etc/netns/{}", lab.a.gateway.name()))?;
    let log = lab.directory().join("sleep.log");
    let daemon = lab.a.gateway.spawn(Command::new("sleep").arg("infinity"), &log)?;
    println!("{} {}", lab.directory().display(), daemon.pid());
    loop {
        Lab::build(options)?;
    }
}
