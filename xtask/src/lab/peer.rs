//! Other implementations of WireGuard as a site's gateway: peers to interoperate with, and one to compare with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Daemon, Side, Site, address, wireguard_go};
use crate::command::Run as _;
use crate::progress::{Progress, wait_until};
use crate::workspace;

/// An implementation that runs in user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// The reference implementation in Go.
    WireguardGo,
    /// Mullvad's, in Rust.
    Gotatun,
    /// Cloudflare's, in Rust.
    Boringtun,
}

impl Implementation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::WireguardGo, Self::Gotatun, Self::Boringtun];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::WireguardGo => "wireguard-go",
            Self::Gotatun => "gotatun",
            Self::Boringtun => "boringtun",
        }
    }

    /// Installs it below cargo's target directory, unless it is there.
    ///
    /// # Errors
    /// It cannot be had here: neither the machine's Debian mirror nor its cargo gives it.
    pub fn install(self, progress: Progress) -> Result<Program> {
        let path = match self {
            Self::WireguardGo => wireguard_go::fetch(progress)?,
            Self::Gotatun => cargo_install(progress, "gotatun-cli", "0.10.2", "gotatun")?,
            Self::Boringtun => cargo_install(progress, "boringtun-cli", "0.7.1", "boringtun-cli")?,
        };
        Ok(Program { implementation: self, path })
    }
}

fn cargo_install(progress: Progress, package: &str, version: &str, program: &str) -> Result<PathBuf> {
    let root = workspace::target()?.join("peers");
    let path = root.join("bin").join(program);
    if !path.exists() {
        progress.step(format!("installing {package} {version} (a few minutes)"));
        let build = root.join("build");
        let mut cargo = workspace::cargo();
        cargo.args(["install", "--quiet", "--locked", "--version", version, package]);
        cargo.arg("--root").arg(&root).arg("--target-dir").arg(&build).quietly()?;
        fs::remove_dir_all(build)?;
    }
    Ok(path)
}

/// An implementation that is installed here.
#[derive(Clone, Debug)]
pub struct Program {
    /// Which one.
    pub implementation: Implementation,
    path: PathBuf,
}

impl Program {
    /// Starts it at a site with the tunnel of this index, and brings its interface up as wg-quick would.
    ///
    /// # Errors
    /// It does not start, or does not take the configuration.
    pub fn start(&self, site: &Site, index: u8) -> Result<Peer> {
        self.start_by(Command::new(&self.path), site, index)
    }

    /// The same with its wall clock an hour behind, by libfaketime; it must ask the C library for the time.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_an_hour_ago(&self, site: &Site, index: u8) -> Result<Peer> {
        // Not by the program `faketime`, which stays between us and what it runs.
        let directories = fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path());
        let mut libraries = directories.map(|directory| directory.join("faketime/libfaketimeMT.so.1"));
        let library = libraries.find(|library| library.exists());
        let mut command = Command::new(&self.path);
        command.env("LD_PRELOAD", library.context("libfaketime is missing")?);
        command.env("FAKETIME", "-1h").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        self.start_by(command, site, index)
    }

    fn start_by(&self, mut command: Command, site: &Site, index: u8) -> Result<Peer> {
        let name = self.implementation.name();
        let interface = interface(site.gateway.name(), index);
        let log = site.tunnels.with_extension(format!("{name}{index}.log"));
        command.args(["-f", &interface]);
        match self.implementation {
            // It hints, at length, that the kernel can do the same.
            Implementation::WireguardGo => _ = command.env("WG_PROCESS_FOREGROUND", "1"),
            // They would become the user that has logged in.
            Implementation::Gotatun | Implementation::Boringtun => {
                command.arg("--disable-drop-privileges");
            }
        }
        // One that was killed leaves its socket, which would look like the new one's.
        let _ = fs::remove_file(socket(&interface));
        let daemon = site.gateway.spawn(&mut command, &log)?;
        let mut peer = Peer { daemon, interface, keep: false };
        peer.wait_ready().with_context(|| format!("{name} does not start"))?;
        configure(site, &peer.interface, index)?;
        Ok(peer)
    }
}

/// A running implementation with one of a site's tunnels.
#[derive(Debug)]
pub struct Peer {
    /// The process.
    pub daemon: Daemon,
    /// The tunnel's interface. Its control socket is seen by all namespaces, so its name is the machine's
    /// only one.
    pub interface: String,
    keep: bool,
}

impl Peer {
    /// Leaves it running when this value goes.
    pub fn keep(&mut self) {
        self.daemon.keep();
        self.keep = true;
    }

    fn wait_ready(&mut self) -> Result<()> {
        let socket = socket(&self.interface);
        let ready = wait_until(Duration::from_secs(5), || {
            let ended = self.daemon.ended()?;
            ensure!(ended.is_none(), "it has ended: {}", self.daemon.output()?.trim());
            Ok(socket.exists())
        })?;
        ensure!(ready, "it has not made {}", socket.display());
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !self.keep {
            // Not all of them remove their socket. Nothing sensible can be done about a failure on the way out.
            let _ = self.daemon.stop();
            let _ = fs::remove_file(socket(&self.interface));
        }
    }
}

/// Gives a tunnel's interface the configuration of that index, and brings it up as wg-quick would.
pub(super) fn configure(site: &Site, interface: &str, index: u8) -> Result<()> {
    let file = fs::read_to_string(site.tunnels.join(format!("wg{index}.conf")))?;
    // `wg` knows nothing of the keys that wg-quick adds; the lab's files have one.
    let stripped: Vec<_> = file.lines().filter(|line| !line.starts_with("Address")).collect();
    let path = site.tunnels.with_extension(format!("{interface}.setconf"));
    fs::write(&path, stripped.join("\n") + "\n")?;
    site.gateway.run(&format!("wg setconf {interface} {}", path.display()))?;

    let far = if site.side == Side::A { Side::B } else { Side::A };
    site.gateway.ip(&format!("addr add {}/32 dev {interface}", address::tunnel(site.side, index)))?;
    site.gateway.ip(&format!("link set {interface} mtu 1420 up"))?;
    site.gateway.ip(&format!("route add {}/32 dev {interface}", address::tunnel(far, index)))?;
    for prefix in address::lan_prefixes(far) {
        // Behind the route of another tunnel there may already be.
        site.gateway.ip(&format!("route append {prefix} dev {interface}"))?;
    }
    Ok(())
}

/// The name of a peer's interface, in a gateway's namespace.
pub(super) fn interface(gateway: &str, index: u8) -> String {
    format!("wg{index}{}", gateway.trim_start_matches(super::PREFIX).replace('-', ""))
}

/// Its control socket.
fn socket(interface: &str) -> PathBuf {
    Path::new("/var/run/wireguard").join(format!("{interface}.sock"))
}

/// Removes the sockets that peers have left which were killed with a gateway's namespace.
pub(super) fn remove_sockets(gateway: &str) {
    for index in 0..=9 {
        // Most are not there.
        let _ = fs::remove_file(socket(&interface(gateway, index)));
    }
}
