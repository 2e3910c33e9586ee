//! `forwarder check`: the preflight of `run`, and what else the operator should know, as one report.

mod firewall;
mod offload;

use std::fmt;
use std::process::Command;

use comfy_table::Table;
use comfy_table::presets::NOTHING;

use super::plan::Planned;
use super::preflight::{Check, Preflight, Verdict, preflight};
use crate::config::{RunOptions, TunnelConfig, key};
use crate::kernel::netlink::Kernel;
use crate::topology::Topology;

/// What `check` found.
#[derive(Debug, serde::Serialize)]
pub struct Findings {
    /// Whether `run` would start.
    pub ok: bool,
    /// One row for each thing that was looked at.
    pub checks: Vec<Check>,
    /// The plan, if there can be one; its remarks stand among the checks.
    pub topology: Option<Topology>,
}

/// Tests whether `run` would start. Attaches nothing, changes nothing.
///
/// # Errors
/// The kernel does not answer.
pub fn check(options: &RunOptions) -> anyhow::Result<Findings> {
    super::block_on(async {
        // The lock, the sockets and the programs go at once: other people's programs may take their time.
        let Preflight { mut checks, planned, .. } = preflight(options, &Kernel::connect()?).await?;
        let ok = checks.iter().all(|check| check.verdict != Verdict::Fail);
        let topology = planned.map(|mut planned| {
            let remarks = std::mem::take(&mut planned.topology.remarks);
            checks.extend(remarks.into_iter().map(|remark| Check::warning("note", remark)));
            checks.extend(advice(&planned));
            planned.topology
        });
        Ok(Findings { ok, checks, topology })
    })
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(NOTHING).set_header(["check", "verdict", "detail"]);
        for check in &self.checks {
            table.add_row([check.name, check.verdict.word(), &check.detail]);
        }
        writeln!(f, "{}", table.trim_fmt())?;
        self.topology.as_ref().map_or(Ok(()), |topology| write!(f, "\n{topology}"))
    }
}

/// What does not keep `run` from starting, but may surprise.
fn advice(planned: &Planned) -> Vec<Check> {
    let Planned { topology, configs, .. } = planned;
    let advice = [
        ("keys", shared_keys(configs), "every tunnel has its own"),
        ("forwarding", forwarding(topology), "the kernel forwards"),
        ("firewall", firewall::bypassed(topology), "no rules that steered packets bypass"),
        ("offload", offload::harmful(topology), "nothing changes frames before XDP sees them"),
    ];
    let rows = |(name, lines, well): (_, Vec<String>, _)| {
        let ok = lines.is_empty().then(|| Check { name, verdict: Verdict::Ok, detail: String::from(well) });
        ok.into_iter().chain(lines.into_iter().map(move |line| Check::warning(name, line)))
    };
    advice.into_iter().flat_map(rows).collect()
}

/// Tunnels with the key pair of an earlier one.
fn shared_keys(configs: &[TunnelConfig]) -> Vec<String> {
    let keys: Vec<_> = configs.iter().map(|c| key::public(&c.private_key)).collect();
    let line = |(i, config): (usize, &TunnelConfig)| {
        let first = &configs[keys[..i].iter().position(|key| *key == keys[i])?].name;
        let name = &config.name;
        Some(format!("{name}: has the private key of {first}: normal for parallel tunnels of one gateway"))
    };
    configs.iter().enumerate().filter_map(line).collect()
}

/// Switches that are off, although the kernel must forward what the fast path cannot take.
fn forwarding(topology: &Topology) -> Vec<String> {
    let carries = |v4| topology.groups.iter().flat_map(|g| &g.prefixes).any(|p| p.addr().is_ipv4() == v4);
    let switches = [(true, "net.ipv4.ip_forward"), (false, "net.ipv6.conf.all.forwarding")];
    let off = switches.into_iter().filter(|&(v4, name)| carries(v4) && is_off(name));
    let line = |name| format!("{name} is off, but the slow path needs it: sysctl -w {name}=1");
    off.map(|(_, name)| line(name)).collect()
}

/// Whether a switch of this network namespace is off. One that the kernel lacks is not.
fn is_off(sysctl: &str) -> bool {
    let value = std::fs::read_to_string(format!("/proc/sys/{}", sysctl.replace('.', "/")));
    value.is_ok_and(|value| value.trim() == "0")
}

/// What another program prints.
///
/// # Errors
/// It is not there, or its last words.
fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("{program} is not installed"),
        _ => format!("{program} cannot be run ({error})"),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
    Err(format!("{program} failed ({last})"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::wg_quick;

    fn tunnel(name: &str, key: &str) -> TunnelConfig {
        let text = format!("[Interface]\nPrivateKey = {key}\n");
        wg_quick::parse(name, Path::new("x.conf"), text.as_bytes()).expect("well-formed")
    }

    /// One key pair on several tunnels is legal (the kernel recipe does it), and told.
    #[test]
    fn shared_keys_are_named_with_the_first_that_has_them() {
        let (one, other) =
            ("6AgToMKAU6mHoSgHQnIUKXvMhZ5vwcNuSj1T3KHfZ1Q=", "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=");
        let tunnels = [tunnel("wg0", one), tunnel("wg1", other), tunnel("wg2", one), tunnel("wg3", one)];
        let lines = shared_keys(&tunnels);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("wg2: has the private key of wg0"), "{lines:?}");
        assert!(lines[1].starts_with("wg3: has the private key of wg0"), "{lines:?}");
    }

    #[test]
    fn rows_are_lines_of_a_table_and_values_of_json() {
        let checks = vec![Check::warning("keys", "a: b: c")];
        let findings = Findings { ok: true, checks, topology: None };
        let text = findings.to_string();
        assert!(
            text.lines().any(|line| line.split_whitespace().eq(["keys", "warn", "a:", "b:", "c"])),
            "{text}"
        );
        let json =
            r#"{"ok":true,"checks":[{"name":"keys","verdict":"warn","detail":"a: b: c"}],"topology":null}"#;
        assert_eq!(serde_json::to_string(&findings).expect("plain data"), json);
    }
}
