//! What the tests do again and again: change files, reload, and look whether packets are lost.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tests::lab::PATIENCE;
use xtask::lab::gateway::Gateway;
use xtask::lab::{Daemon, Lab, Netns, Site, traffic};
use xtask::progress::wait_until;

/// Pings from A's LAN host, 100 a second.
pub struct Flow(Daemon);

impl Flow {
    pub fn start(lab: &Lab, target: IpAddr) -> Result<Self> {
        let mut command = Command::new("ping");
        command.args(["-n", "-i", "0.01", &target.to_string()]);
        let mut ping = lab.a.host.spawn(&mut command, &lab.directory().join("flow.log"))?;
        ping.wait_for("icmp_seq=20 ", PATIENCE)?;
        Ok(Self(ping))
    }

    /// None was lost, up to a second after the last change; but those that are on their way at the end.
    pub fn finish(mut self) -> Result<()> {
        let last = self.answered()?.len();
        ensure!(wait_until(PATIENCE, || Ok(self.answered()?.len() >= last + 100))?, "the flow has stopped");
        self.0.end_with(Signal::SIGINT)?;
        let mut answered = self.answered()?;
        answered.sort_unstable();
        answered.dedup();
        let last = answered.last().copied().context("no answers")?;
        let missing: Vec<u32> = (1..=last).filter(|seq| answered.binary_search(seq).is_err()).collect();
        println!("{last} pings beside the changes");
        ensure!(missing.is_empty(), "lost {missing:?} of {last}");
        Ok(())
    }

    /// The numbers of the pings that were answered.
    fn answered(&self) -> Result<Vec<u32>> {
        let number = |line: &str| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse().ok();
        Ok(self.0.output()?.lines().filter_map(number).collect())
    }
}

/// Whether each of a few pings is answered.
pub fn pings(from: &Netns, target: IpAddr) -> Result<bool> {
    let ping = traffic::ping(from, target, 10)?;
    Ok(ping.sent == ping.received)
}

/// SIGHUP, and the line that it shall bring, after the lines that are there.
pub fn reload(gateway: &mut Gateway, says: &str) -> Result<()> {
    let before = gateway.daemon.output()?.len();
    gateway.daemon.signal(Signal::SIGHUP)?;
    let news = |gateway: &Gateway| Ok::<_, anyhow::Error>(gateway.daemon.output()?[before..].to_owned());
    let done = ["was read again", "nothing was changed"];
    let ended =
        wait_until(PATIENCE, || Ok(done.iter().any(|end| news(gateway).is_ok_and(|n| n.contains(end)))))?;
    let news = news(gateway)?;
    ensure!(ended && news.contains(says), "no \"{says}\" in: {news}");
    Ok(())
}

/// Changes the lines that begin with `key`, in the files of a site whose names begin with `files`.
pub fn edit(site: &Site, files: &str, key: &str, change: impl Fn(&str) -> String) -> Result<()> {
    let mut paths: Vec<PathBuf> = fs::read_dir(&site.tunnels)?.flatten().map(|file| file.path()).collect();
    paths.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(files)));
    for path in paths {
        let text = fs::read_to_string(&path)?;
        let lines = text.lines().map(|l| if l.starts_with(key) { change(l) } else { l.to_owned() });
        fs::write(&path, lines.collect::<Vec<_>>().join("\n") + "\n")?;
    }
    Ok(())
}
