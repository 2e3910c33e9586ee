//! The interop matrix: peer x who initiates x underlay x preshared key. Tests write down what they found, a
//! line for each field of the table; a field that nobody has written about is no pass.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::not_run::append;
use crate::lab::Family;
use crate::lab::peer::Implementation;

/// Names the file in which tests write down what they found.
const VARIABLE: &str = "FORWARDER_TESTS_MATRIX";
/// The kernel's own WireGuard, which runs under User-mode Linux.
pub const KERNEL: &str = "kernel";

/// One field of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The other implementation.
    pub peer: &'static str,
    /// Whether it sends the first initiation; else `forwarder` does.
    pub peer_initiates: bool,
    /// IP version of the underlay.
    pub underlay: Family,
    /// Whether there is a preshared key.
    pub preshared_key: bool,
}

impl Case {
    /// The eight cases of one peer.
    pub fn all(peer: &'static str) -> Vec<Self> {
        let mut cases = Vec::new();
        for peer_initiates in [false, true] {
            for underlay in [Family::V4, Family::V6] {
                for preshared_key in [false, true] {
                    cases.push(Self { peer, peer_initiates, underlay, preshared_key });
                }
            }
        }
        cases
    }

    /// Writes down that it works.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn passed(self) {
        self.write("pass");
    }

    /// Writes down that this machine cannot tell, and why.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn not_run(self, reason: &str) {
        self.write(&format!("not run: {}", reason.replace('\n', " ")));
    }

    fn write(self, result: &str) {
        // Whoever runs the test alone wants no table.
        let Some(path) = std::env::var_os(VARIABLE) else { return };
        append(path.as_ref(), &format!("{self} {result}")).expect("xtask has made the file");
    }
}

/// As in the file, where the result follows: `kernel initiates IPv6 psk`.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if self.peer_initiates { "initiates" } else { "responds" };
        let underlay = if self.underlay == Family::V4 { "IPv4" } else { "IPv6" };
        let key = if self.preshared_key { "psk" } else { "no-psk" };
        write!(f, "{} {role} {underlay} {key}", self.peer)
    }
}

/// What the tests have written down.
#[derive(Debug)]
pub struct Matrix {
    path: PathBuf,
}

impl Matrix {
    /// An empty one, in a file in `directory`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(directory: &Path) -> Result<Self> {
        let path = directory.join("interop-matrix");
        // Tests write as root, we perhaps not: what an earlier run left could not be written.
        let _ = fs::remove_file(&path);
        File::create(&path)?;
        Ok(Self { path })
    }

    /// The setting that the tests' environment needs, as `NAME=value`.
    pub fn setting(&self) -> String {
        format!("{VARIABLE}={}", self.path.display())
    }

    /// Takes the lines that a guest has printed after the word `matrix:`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn take(&self, output: &str) -> Result<()> {
        let mut lines = output.lines().filter_map(|line| line.strip_prefix("matrix: "));
        Ok(lines.try_for_each(|line| append(&self.path, line))?)
    }

    /// Writes down that none of a peer's cases can run here.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn not_run(&self, peer: &'static str, reason: &str) -> Result<()> {
        let reason = reason.replace('\n', " ");
        let mut cases = Case::all(peer).into_iter();
        Ok(cases.try_for_each(|case| append(&self.path, &format!("{case} not run: {reason}")))?)
    }

    /// The table, and how many of its fields have no result.
    ///
    /// # Errors
    /// The file is gone.
    pub fn table(&self) -> Result<(String, usize)> {
        Ok(table(&fs::read_to_string(&self.path)?))
    }
}

fn table(text: &str) -> (String, usize) {
    let results = results(text);
    let mut table =
        format!("{:<14}{:<10}{:>10}{:>10}{:>10}{:>10}\n", "peer", "", "IPv4", "+ PSK", "IPv6", "+ PSK");
    let (mut notes, mut missing) = (Vec::new(), 0);
    let peers = Implementation::ALL.map(Implementation::name).into_iter().chain([KERNEL]);
    for peer in peers {
        for (role, cases) in ["responds", "initiates"].into_iter().zip(Case::all(peer).chunks(4)) {
            let mut line = vec![format!("{peer:<14}{role:<10}")];
            for case in cases {
                let field = match results.get(&case.to_string()).map(String::as_str) {
                    Some("pass") => "pass",
                    Some(reason) => {
                        let note = format!("    {peer}: {reason}\n");
                        if !notes.contains(&note) {
                            notes.push(note);
                        }
                        "not run"
                    }
                    None => {
                        missing += 1;
                        "NO RESULT"
                    }
                };
                line.push(format!("{field:>10}"));
            }
            table += &line.concat();
            table += "\n";
        }
    }
    (table + &notes.concat(), missing)
}

/// The result of each case, which is written in four words.
fn results(text: &str) -> HashMap<String, String> {
    let split = |line: &str| {
        let (at, _) = line.match_indices(' ').nth(3)?;
        Some((line[..at].to_owned(), line[at + 1..].to_owned()))
    };
    text.lines().filter_map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_tests_side_by_side_do_not_mix() {
        let path = std::env::temp_dir().join(format!("xtask-matrix-{}", std::process::id()));
        File::create(&path).expect("a file");
        let write = || (0..200).for_each(|_| append(&path, "peer responds IPv4 psk pass").expect("a line"));
        std::thread::scope(|scope| (0..4).for_each(|_| _ = scope.spawn(write)));
        let text = fs::read_to_string(&path).expect("the file is there");
        fs::remove_file(&path).expect("the file is there");
        assert_eq!(text.lines().filter(|line| *line == "peer responds IPv4 psk pass").count(), 800);
    }

    fn lines(cases: &[Case], result: &str) -> String {
        let lines: Vec<_> = cases.iter().map(|case| format!("{case} {result}\n")).collect();
        lines.concat()
    }

    #[test]
    fn silence_is_no_pass() {
        let (table, missing) = table("");
        assert_eq!(missing, 32);
        assert!(!table.contains("pass") && table.contains("NO RESULT"), "{table}");
    }

    #[test]
    fn each_field_has_its_own_result() {
        let mut text = lines(&Case::all("wireguard-go"), "pass") + &lines(&Case::all("gotatun"), "pass");
        text += &lines(&Case::all("boringtun"), "not run: no network");
        text += &lines(&Case::all(KERNEL)[..7], "pass");
        let (table, missing) = table(&text);
        assert_eq!(missing, 1);
        assert_eq!(table.matches("    boringtun: not run: no network\n").count(), 1, "{table}");
        let last = table.lines().find(|line| line.starts_with("kernel        initiates")).expect("a line");
        assert_eq!(
            last.split_whitespace().collect::<Vec<_>>()[2..],
            ["pass", "pass", "pass", "NO", "RESULT"]
        );
    }
}
