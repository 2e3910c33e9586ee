//! Network namespaces that vanish with their value.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};

use super::daemon::Daemon;
use crate::command::Run as _;

/// A network namespace of ours.
#[derive(Debug)]
pub struct Netns {
    name: String,
    keep: bool,
}

impl Netns {
    /// Makes the namespace `name` with loopback up and no duplicate address detection.
    ///
    /// # Errors
    /// Not root, or the name is taken.
    pub fn create(name: String) -> Result<Self> {
        wait_if_stopped();
        Command::new("ip").args(["netns", "add", &name]).quietly()?;
        let namespace = Self { name, keep: false };
        namespace.ip("link set lo up")?;
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net.ipv6.conf.{scope}.accept_dad"), "0")?;
        }
        Ok(namespace)
    }

    /// Its name, as in `ip netns exec NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs `program` in the namespace, in a process of the same id.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.as_ref());
        command
    }

    /// Runs a command line (words split at spaces) in the namespace; returns its stdout.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        self.command(program).args(words).text()
    }

    /// Runs `ip` with these arguments for the namespace; returns its stdout.
    ///
    /// # Errors
    /// It fails.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()).text()
    }

    /// Sets a sysctl of the namespace.
    ///
    /// # Errors
    /// It does not exist.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.command("sysctl").args(["-qw", &format!("{key}={value}")]).quietly()
    }

    /// Starts a daemon in the namespace, with its output in the file `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self, command: &mut Command, log: &Path) -> Result<Daemon> {
        let mut inside = self.command(command.get_program());
        inside.args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(key, value),
                None => inside.env_remove(key),
            };
        }
        Daemon::spawn(&mut inside, log)
    }

    /// Leaves the namespace in place when this value goes.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        wait_if_stopped();
        if !self.keep {
            // Nothing sensible can be done about a failure on the way out.
            let _ = Command::new("ip").args(["netns", "del", &self.name]).quietly();
        }
    }
}

static STOPPED: AtomicBool = AtomicBool::new(false);

/// From now on the caller alone makes and removes this process's namespaces, until it ends the process: other
/// threads that would, wait for that.
pub(super) fn stop_others() {
    STOPPED.store(true, Ordering::SeqCst);
}

fn wait_if_stopped() {
    while STOPPED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Names of the namespaces that begin with `prefix`.
///
/// # Errors
/// `ip` cannot list them.
pub fn list(prefix: &str) -> Result<Vec<String>> {
    let names = Command::new("ip").args(["netns", "list"]).text()?;
    let names = names.lines().filter_map(|line| line.split_whitespace().next());
    Ok(names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
}

/// Kills every process in the namespace `name` and removes it.
///
/// # Errors
/// `ip` cannot remove it.
pub fn destroy(name: &str) -> Result<()> {
    for pid in Command::new("ip").args(["netns", "pids", name]).text()?.split_whitespace() {
        let pid = nix::unistd::Pid::from_raw(pid.parse()?);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    Command::new("ip").args(["netns", "del", name]).quietly()
}
