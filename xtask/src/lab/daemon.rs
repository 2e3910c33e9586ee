//! Processes that end with their value.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::line;
use crate::progress::wait_until;

/// Time to end after SIGTERM; then comes SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// A background process with its output in a file.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
    /// Where its own output begins in the log, in bytes.
    begin: usize,
    keep: bool,
}

impl Daemon {
    /// Starts `command` with stdout and stderr appended to `log`, out of the terminal's signals.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let begin = output.metadata()?.len() as usize;
        let name = line(command);
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {name}"))?;
        Ok(Self { child, name, log: log.to_owned(), begin, keep: false })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    ///
    /// # Errors
    /// The file is gone.
    pub fn output(&self) -> Result<String> {
        let log = fs::read(&self.log)?;
        Ok(String::from_utf8_lossy(log.get(self.begin..).unwrap_or_default()).into_owned())
    }

    /// Waits until it has written `text`.
    ///
    /// # Errors
    /// It ended or the time was over before that: the error has its last line.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let found = wait_until(limit, || {
            // The end is looked at first: what it wrote before that counts.
            let ended = self.ended()?;
            let found = self.output()?.contains(text);
            if let (Some(status), false) = (ended, found) {
                bail!("`{}` ended ({status}): {}", self.name, self.last_words());
            }
            Ok(found)
        })?;
        if !found {
            bail!("`{}` did not say \"{text}\" within {limit:?}: {}", self.name, self.last_words());
        }
        Ok(())
    }

    /// Its exit status, once it has ended.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("`{}` has ended ({status}): {}", self.name, self.last_words());
        }
        Ok(kill(Pid::from_raw(self.pid().cast_signed()), signal)?)
    }

    /// Ends it with SIGTERM, or SIGKILL after five seconds; returns how it ended.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.end_with(Signal::SIGTERM)
    }

    /// Ends it with `signal`, or SIGKILL after five seconds; returns how it ended.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn end_with(&mut self, signal: Signal) -> Result<ExitStatus> {
        if self.ended()?.is_none() {
            self.signal(signal)?;
            if !wait_until(GRACE, || Ok(self.ended()?.is_some()))? {
                self.child.kill()?;
            }
        }
        Ok(self.child.wait()?)
    }

    /// Seconds of CPU time it has used, in user space and in system calls.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // Fields 14 and 15 of proc(5), counted after the name, which may hold spaces.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
        let ticks = fields.into_iter().flatten().map(|field| field.parse::<f64>().unwrap_or_default());
        Ok(ticks.sum::<f64>() / 100.0)
    }

    /// Leaves it running when this value goes.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    fn last_words(&self) -> String {
        let output = self.output().unwrap_or_default();
        output.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing sensible can be done about a failure on the way out.
            let _ = self.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("xtask-daemon-{}-{name}", std::process::id()))
    }

    #[test]
    fn what_it_says_is_waited_for() {
        let path = log("says");
        let mut daemon =
            Daemon::spawn(Command::new("sh").args(["-c", "echo ready; sleep 60"]), &path).expect("sh starts");
        daemon.wait_for("ready", Duration::from_secs(10)).expect("it says ready");
        assert!(daemon.ended().expect("it can be waited for").is_none());
        assert!(!daemon.stop().expect("it can be stopped").success());
        fs::remove_file(path).expect("the log is there");
    }

    #[test]
    fn what_another_said_before_it_does_not_count() {
        let path = log("earlier");
        fs::write(&path, "ready\n").expect("the log can be written");
        let mut daemon =
            Daemon::spawn(Command::new("sh").args(["-c", "echo no luck; exit 1"]), &path).expect("sh starts");
        daemon.wait_for("ready", Duration::from_secs(10)).expect_err("it never says ready");
        fs::remove_file(path).expect("the log is there");
    }

    #[test]
    fn an_early_end_is_told_with_its_last_words() {
        let path = log("ends");
        let mut daemon =
            Daemon::spawn(Command::new("sh").args(["-c", "echo no luck; exit 1"]), &path).expect("sh starts");
        let error = daemon.wait_for("ready", Duration::from_secs(10)).expect_err("it fails").to_string();
        assert!(error.ends_with("no luck"), "{error}");
        fs::remove_file(path).expect("the log is there");
    }
}
