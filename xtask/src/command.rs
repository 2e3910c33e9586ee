//! Running other programs, with errors of one line.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Ways to run a command to its end.
pub trait Run {
    /// Runs it and returns what it wrote to stdout.
    ///
    /// # Errors
    /// It cannot be started, or it fails: the error names the command and its last words.
    fn text(&mut self) -> Result<String>;

    /// Runs it, ignoring what it writes.
    ///
    /// # Errors
    /// As [`Run::text`].
    fn quietly(&mut self) -> Result<()> {
        self.text().map(drop)
    }

    /// Runs it with `input` on stdin and returns what it wrote to stdout.
    ///
    /// # Errors
    /// As [`Run::text`].
    fn feed(&mut self, input: &str) -> Result<String>;

    /// Runs it with the terminal as its own.
    ///
    /// # Errors
    /// It cannot be started, or it fails.
    fn visibly(&mut self) -> Result<()>;
}

impl Run for Command {
    fn text(&mut self) -> Result<String> {
        let output =
            self.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", line(self)))?;
        checked(self, &output)
    }

    fn feed(&mut self, input: &str) -> Result<String> {
        let mut child = self
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", line(self)))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        checked(self, &child.wait_with_output()?)
    }

    fn visibly(&mut self) -> Result<()> {
        let status = self.status().with_context(|| format!("cannot run {}", line(self)))?;
        if !status.success() {
            bail!("`{}` failed ({status})", line(self));
        }
        Ok(())
    }
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether `program` is found on the search path.
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps administration tools out of a plain user's path, yet they are there after sudo.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}

fn checked(command: &Command, output: &Output) -> Result<String> {
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
        bail!("`{}` failed ({}): {last}", line(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_last_words() {
        let error = Command::new("sh")
            .args(["-c", "echo first >&2; echo last >&2; exit 3"])
            .text()
            .expect_err("it fails");
        let text = error.to_string();
        assert!(text.starts_with("`sh -c") && text.ends_with("last") && text.contains('3'), "{text}");
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(Command::new("cat").feed("abc").expect("cat runs"), "abc");
    }

    #[test]
    fn programs_are_found_on_the_path_only() {
        assert!(exists("sh"));
        assert!(!exists("no-such-program-anywhere"));
    }
}
