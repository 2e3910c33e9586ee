//! Rules that steered packets never meet: they skip the kernel's stack between two ports.

use serde::Deserialize;

use super::output;
use crate::topology::Topology;

/// Tables in use of the older iptables, one a line, per family.
const LEGACY: [(&str, &str); 2] =
    [("iptables", "/proc/net/ip_tables_names"), ("ip6tables", "/proc/net/ip6_tables_names")];

/// A line for everything that is bypassed, or could not be looked at.
pub(super) fn bypassed(topology: &Topology) -> Vec<String> {
    if topology.ports.is_empty() {
        return Vec::new();
    }
    let ruleset = output("nft", &["--json", "--terse", "list", "ruleset"]);
    let chains = ruleset.and_then(|json| chains(&json).map_err(|e| format!("nft answers unreadably ({e})")));
    let mut lines = match chains {
        Ok(chains) => chains.iter().map(|chain| warning(chain)).collect(),
        Err(reason) => {
            vec![format!(
                "nftables rules could not be looked at: {reason}: steered packets would bypass them"
            )]
        }
    };
    for (program, file) in LEGACY {
        let tables = std::fs::read_to_string(file).unwrap_or_default();
        lines.extend(tables.lines().map(|table| warning(&format!("{program} table {table}"))));
    }
    lines
}

fn warning(rules: &str) -> String {
    format!("{rules}: steered packets bypass it: filter and translate at the hosts or on another device")
}

/// What `nft --json list ruleset` prints, as far as it matters.
#[derive(Deserialize)]
struct Ruleset {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    chain: Option<Chain>,
    rule: Option<Rule>,
}

#[derive(Deserialize)]
struct Chain {
    family: String,
    table: String,
    name: String,
    /// Only base chains have one.
    hook: Option<String>,
    policy: Option<String>,
}

#[derive(Deserialize)]
struct Rule {
    family: String,
    table: String,
    chain: String,
}

/// The chains with an effect at a hook that steered packets skip: table, chain, hook.
fn chains(json: &str) -> serde_json::Result<Vec<String>> {
    let objects = serde_json::from_str::<Ruleset>(json)?.nftables;
    let acts = |chain: &Chain| {
        let own = |r: &Rule| r.family == chain.family && r.table == chain.table && r.chain == chain.name;
        chain.policy.as_deref() == Some("drop") || objects.iter().filter_map(|o| o.rule.as_ref()).any(own)
    };
    let line = |chain: &Chain| {
        let Chain { family, table, name, hook, .. } = chain;
        let hook = hook.as_deref().filter(|hook| is_skipped(family, hook))?;
        acts(chain).then(|| format!("nftables table {family} {table} chain {name} (hook {hook})"))
    };
    Ok(objects.iter().filter_map(|o| o.chain.as_ref()).filter_map(line).collect())
}

/// Steered packets are neither ours nor for us, so `input` and `output` lose nothing.
fn is_skipped(family: &str, hook: &str) -> bool {
    matches!(family, "ip" | "ip6" | "inet" | "netdev")
        && matches!(hook, "ingress" | "egress" | "prerouting" | "forward" | "postrouting")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_with_rules_or_a_drop_policy_are_named() {
        let json = r#"{"nftables": [
            {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
            {"table": {"family": "inet", "name": "filter", "handle": 1}},
            {"chain": {"family": "inet", "table": "filter", "name": "fwd", "handle": 1, "type": "filter",
                       "hook": "forward", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "filter", "name": "in", "handle": 2, "type": "filter",
                       "hook": "input", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "filter", "name": "lan", "handle": 3}},
            {"rule": {"family": "inet", "table": "filter", "chain": "lan", "handle": 4, "expr": [{"drop": null}]}},
            {"table": {"family": "ip", "name": "nat", "handle": 2}},
            {"chain": {"family": "ip", "table": "nat", "name": "post", "handle": 1, "type": "nat",
                       "hook": "postrouting", "prio": 100, "policy": "accept"}},
            {"rule": {"family": "ip", "table": "nat", "chain": "post", "handle": 2, "expr": [{"masquerade": null}]}},
            {"chain": {"family": "ip", "table": "nat", "name": "pre", "handle": 3, "type": "nat",
                       "hook": "prerouting", "prio": -100, "policy": "accept"}},
            {"chain": {"family": "arp", "table": "x", "name": "y", "handle": 1, "type": "filter",
                       "hook": "forward", "prio": 0, "policy": "drop"}}
        ]}"#;
        assert_eq!(
            chains(json).expect("well-formed"),
            [
                "nftables table inet filter chain fwd (hook forward)",
                "nftables table ip nat chain post (hook postrouting)"
            ]
        );
    }

    #[test]
    fn nothing_is_bypassed_where_there_is_nothing() {
        assert_eq!(chains(r#"{"nftables": [{"metainfo": {}}]}"#).expect("well-formed"), [""; 0]);
        assert!(chains("Error: syntax").is_err());
    }
}
