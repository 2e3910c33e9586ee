//! Runs a script as root inside a User-mode Linux guest: real bonding, LACP and kernel WireGuard on a
//! machine whose kernel has none of them. The guest sees the host's files and runs its binaries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};

/// What a script in the guest may take.
const LIMIT: Duration = Duration::from_mins(2);

/// The same for the interop test, which waits for two rekeys and for the timers of a dozen tunnels.
const INTEROP_LIMIT: Duration = Duration::from_mins(10);

/// How a script in the guest ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status; 124 when its time was over.
    pub status: i32,
    /// What it wrote to stdout and stderr.
    pub output: String,
}

/// The bond test: `forwarder` on an 802.3ad bond, kernel WireGuard with the ECMP recipe on the other.
///
/// # Errors
/// The guest did not come up; a test that failed is an [`Outcome`].
pub fn bond_test(linux: &Path, forwarder: &Path) -> anyhow::Result<Outcome> {
    bond(linux, &[("FORWARDER", guest_path(&fs::canonicalize(forwarder)?))])
}

/// The same with the LAN and the underlay on VLANs of one bond.
///
/// # Errors
/// As for [`bond_test`].
pub fn hairpin_test(linux: &Path, forwarder: &Path) -> anyhow::Result<Outcome> {
    bond(linux, &[("FORWARDER", guest_path(&fs::canonicalize(forwarder)?)), ("HAIRPIN", "yes".to_owned())])
}

/// The bond test with the kernel recipe at both ends: it tests the lab itself.
///
/// # Errors
/// As for [`bond_test`].
pub fn recipe_test(linux: &Path) -> anyhow::Result<Outcome> {
    bond(linux, &[])
}

/// The same `wg` commands on the kernel's WireGuard and on `forwarder`.
///
/// # Errors
/// As for [`bond_test`].
pub fn uapi_test(linux: &Path, forwarder: &Path) -> anyhow::Result<Outcome> {
    let variables = [("FORWARDER", guest_path(&fs::canonicalize(forwarder)?))];
    run(linux, &repository().join("tests/uml/uapi.sh"), &variables, LIMIT)
}

/// `forwarder` and the kernel's own WireGuard: the interop matrix, and what else peers do to each other.
/// `flood` is the test program of that name.
///
/// # Errors
/// As for [`bond_test`].
pub fn interop_test(linux: &Path, forwarder: &Path, flood: &Path) -> anyhow::Result<Outcome> {
    let variables = [
        ("FORWARDER", guest_path(&fs::canonicalize(forwarder)?)),
        ("FLOOD", guest_path(&fs::canonicalize(flood)?)),
    ];
    run(linux, &repository().join("tests/uml/interop.sh"), &variables, INTEROP_LIMIT)
}

fn bond(linux: &Path, variables: &[(&str, String)]) -> anyhow::Result<Outcome> {
    run(linux, &repository().join("tests/uml/bond.sh"), variables, LIMIT)
}

/// Boots `linux` and runs `script` in it with these environment variables.
///
/// # Errors
/// The guest could not be started, or it died before the script ended.
pub fn run(
    linux: &Path,
    script: &Path,
    variables: &[(&str, String)],
    limit: Duration,
) -> anyhow::Result<Outcome> {
    let work = WorkDirectory::new()?;
    let mut lines: Vec<_> =
        variables.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
    lines.push(format!("exec '{}'\n", guest_path(&fs::canonicalize(script)?)));
    fs::write(work.0.join("run"), lines.concat())?;

    // The outer limit is for a guest that hangs. In the foreground, ^C ends the guest as it ends us; and the
    // processes that a guest consists of end with their kernel.
    let console = Command::new("timeout")
        .args(["--foreground", "--kill-after=5", &(limit.as_secs() + 15).to_string()])
        .args(["taskset", "--cpu-list", &first_allowed_cpu()?])
        .arg(linux)
        .args("mem=1G root=none rootfstype=hostfs rootflags=/ ro quiet loglevel=3 panic=-1".split(' '))
        .args("con=null con0=null,fd:1 ssl=null bonding.max_bonds=0 dummy.numdummies=0".split(' '))
        .arg(format!("init={}", repository().join("xtask/lab/uml-init.sh").display()))
        .arg(format!("lab.work={}", work.0.display()))
        .arg(format!("lab.limit={}", limit.as_secs()))
        .stdin(Stdio::null())
        .output()
        .context("cannot start the User-mode Linux guest")?;

    let status = fs::read_to_string(work.0.join("status")).unwrap_or_default();
    ensure!(!status.is_empty(), "the guest died: {}", String::from_utf8_lossy(&console.stdout).trim_end());
    let output = fs::read(work.0.join("output"))?;
    Ok(Outcome { status: status.trim().parse()?, output: String::from_utf8_lossy(&output).into_owned() })
}

/// Where the guest finds a file of the host, even one that a tmpfs of the guest hides.
fn guest_path(path: &Path) -> String {
    format!("/run/host{}", path.display())
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).with_file_name("")
}

/// A system call of the guest is a switch between two processes: it is cheaper when both share a CPU.
fn first_allowed_cpu() -> anyhow::Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = list.and_then(|list| list.trim().split([',', '-']).next());
    Ok(first.context("no Cpus_allowed_list in /proc/self/status")?.to_owned())
}

/// Shared with the guest and removed at the end.
struct WorkDirectory(PathBuf);

impl WorkDirectory {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("forwarder-uml-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
