//! wireguard-go as a site's gateway: the system to compare with, and a peer to interoperate with.
//!
//! Debian 12's package is of 2022 and lacks the offloads that make it fast, so the one of Debian's next
//! release is fetched from the machine's own mirror and unpacked, not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Daemon, Side, Site, address};
use crate::command::Run as _;
use crate::progress::{Progress, wait_until};
use crate::workspace;

/// Where Debian keeps the keys that its package lists are signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Fetches wireguard-go unless it was fetched before; returns the program.
///
/// # Errors
/// The machine is no Debian, or its mirror does not answer.
pub fn fetch(progress: Progress) -> Result<PathBuf> {
    let directory = workspace::target()?.join("wireguard-go");
    let program = directory.join("wireguard-go");
    if !program.exists() {
        progress.step("fetching wireguard-go from Debian unstable");
        let scratch = directory.join("download");
        download(&scratch).context("wireguard-go is fetched from the mirror of a Debian machine")?;
        fs::rename(scratch.join("usr/bin/wireguard-go"), &program)?;
        fs::remove_dir_all(scratch)?;
    }
    Ok(program)
}

fn download(scratch: &Path) -> Result<()> {
    for directory in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(scratch.join(directory))?;
    }
    let sources = scratch.join("sources.list");
    fs::write(&sources, format!("deb [signed-by={KEYRING}] {} sid main\n", mirror()?))?;
    // The machine's own lists and sources stay as they are.
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command.current_dir(scratch);
        for (option, path) in [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::State::Lists", "lists"),
            ("Dir::Cache", "cache"),
        ] {
            command.args(["-o", &format!("{option}={}", scratch.join(path).display())]);
        }
        command.args(["-o", "Dir::Etc::SourceParts=-", "-o", "Acquire::Languages=none"]);
        command.args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]);
        // The sandbox user may not write into a build directory.
        if crate::elevate::is_root() {
            command.args(["-o", "APT::Sandbox::User=root"]);
        }
        command
    };
    apt_get().arg("update").quietly()?;
    apt_get().args(["download", "wireguard-go"]).quietly()?;
    let package = fs::read_dir(scratch)?.flatten().map(|entry| entry.path());
    let package = package.filter(|path| path.extension().is_some_and(|end| end == "deb")).max();
    Command::new("dpkg").arg("-x").arg(package.context("apt-get downloaded nothing")?).arg(scratch).quietly()
}

/// The mirror that this machine's apt uses for Debian itself.
fn mirror() -> Result<String> {
    let filters = ["Created-By: Packages", "Origin: Debian", "Component: main"];
    let sites = Command::new("apt-get").args(["indextargets", "--format", "$(SITE)"]).args(filters).text()?;
    let site = sites.lines().find(|site| !site.contains("security"));
    Ok(site.context("apt knows no Debian mirror: run `apt-get update`")?.to_owned())
}

/// A running wireguard-go with one of a site's tunnels.
#[derive(Debug)]
pub struct WireguardGo {
    /// The process.
    pub daemon: Daemon,
    /// The tunnel's interface. Its control socket is seen by all namespaces, so its name is the machine's
    /// only one.
    pub interface: String,
}

impl WireguardGo {
    /// Starts `program` at a site with the tunnel of this index, and brings its interface up as wg-quick
    /// would.
    ///
    /// # Errors
    /// It does not start, or does not take the configuration.
    pub fn start(program: &Path, site: &Site, index: u8) -> Result<Self> {
        let site_name = site.gateway.name().trim_start_matches(super::PREFIX);
        let interface = format!("wg{index}{}", site_name.replace('-', ""));
        let log = site.tunnels.with_extension(format!("wireguard-go{index}.log"));
        let mut command = Command::new(program);
        // It hints, at length, that the kernel can do the same.
        command.args(["-f", &interface]).env("WG_PROCESS_FOREGROUND", "1");
        // gotatun, which starts by the same words, would become the user that has logged in.
        command.env("WG_SUDO", "1");
        // One that was killed leaves its socket, which would look like the new one's.
        let _ = fs::remove_file(socket(&interface));
        let daemon = site.gateway.spawn(&mut command, &log)?;
        let mut this = Self { daemon, interface };
        this.wait_ready()?;
        this.configure(site, index)?;
        Ok(this)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let socket = socket(&self.interface);
        let ready = wait_until(Duration::from_secs(5), || {
            let ended = self.daemon.ended()?;
            ensure!(ended.is_none(), "wireguard-go has ended: {}", self.daemon.output()?.trim());
            Ok(socket.exists())
        })?;
        ensure!(ready, "wireguard-go has not made {}", socket.display());
        Ok(())
    }

    fn configure(&self, site: &Site, index: u8) -> Result<()> {
        let file = fs::read_to_string(site.tunnels.join(format!("wg{index}.conf")))?;
        // `wg` knows nothing of the keys that wg-quick adds; the lab's files have one.
        let stripped: Vec<_> = file.lines().filter(|line| !line.starts_with("Address")).collect();
        let path = site.tunnels.with_extension(format!("{}.setconf", self.interface));
        fs::write(&path, stripped.join("\n") + "\n")?;
        site.gateway.run(&format!("wg setconf {} {}", self.interface, path.display()))?;

        let far = if site.side == Side::A { Side::B } else { Side::A };
        let dev = &self.interface;
        site.gateway.ip(&format!("addr add {}/32 dev {dev}", address::tunnel(site.side, index)))?;
        site.gateway.ip(&format!("link set {dev} mtu 1420 up"))?;
        site.gateway.ip(&format!("route add {}/32 dev {dev}", address::tunnel(far, index)))?;
        for prefix in address::lan_prefixes(far) {
            // Behind the route of another tunnel there may already be.
            site.gateway.ip(&format!("route append {prefix} dev {dev}"))?;
        }
        Ok(())
    }
}

/// Its control socket.
fn socket(interface: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{interface}.sock"))
}
