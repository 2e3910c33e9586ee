//! The labs themselves. Needs root.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::lab::{PATIENCE, able, lab};
use xtask::lab::peer::Implementation;
use xtask::lab::{Options, netns, remove_kept};
use xtask::progress::{Progress, wait_until};
use xtask::test::not_run;

#[test]
fn nothing_is_left_of_a_lab_when_a_signal_ends_its_process() {
    let name = "nothing_is_left_of_a_lab_when_a_signal_ends_its_process";
    if !able(name) {
        return;
    }
    let had_etc = Path::new("/etc/netns").exists();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut up = Command::new(env!("CARGO_BIN_EXE_lab-up")).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(up.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (folder, daemon) = line.trim().split_once(' ').unwrap();
        let prefix = format!("fwd-{}-", up.id());
        assert!(netns::list(&prefix).unwrap().len() >= 4);
        assert!(Path::new(folder).exists());

        kill(Pid::from_raw(up.id().cast_signed()), signal).unwrap();
        assert_eq!(up.wait().unwrap().code(), Some(128 + signal as i32), "{signal}");
        assert_eq!(netns::list(&prefix).unwrap(), Vec::<String>::new(), "{signal}");
        for directory in [Path::new(folder).parent().unwrap(), Path::new("/etc/netns")] {
            let mut names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
            assert_eq!(names.find(|name| name.to_string_lossy().starts_with(&prefix)), None, "{signal}");
        }
        let daemon = Path::new("/proc").join(daemon);
        assert!(wait_until(PATIENCE, || Ok(!daemon.exists())).unwrap(), "{signal}: the daemon lives on");
    }
    if !had_etc {
        fs::remove_dir("/etc/netns").unwrap();
    }
}

#[test]
fn nothing_is_left_of_a_peer() {
    let name = "nothing_is_left_of_a_peer";
    let Some(lab) = lab(name, Options::default()).unwrap() else { return };
    let mut missing = Vec::new();
    let mut kept = Vec::new();
    for (implementation, index) in Implementation::ALL.into_iter().zip(0..) {
        let program = match implementation.install(Progress::start()) {
            Ok(program) => program,
            Err(error) => {
                missing.push(format!("{}: {error:#}", implementation.name()));
                continue;
            }
        };
        let start = || {
            let peer = program.start(&lab.b, index).unwrap();
            let socket = format!("/var/run/wireguard/{}.sock", peer.interface);
            assert!(Path::new(&socket).exists(), "{socket}");
            (peer, socket)
        };
        let (peer, socket) = start();
        drop(peer);
        assert!(!Path::new(&socket).exists(), "{} leaves {socket}", implementation.name());
        let (mut peer, socket) = start();
        peer.keep();
        kept.push(socket);
    }
    remove_kept(false).unwrap();
    for socket in kept {
        assert!(!Path::new(&socket).exists(), "{socket}");
    }
    if !missing.is_empty() {
        not_run(name, &missing.join("; "));
    }
}
