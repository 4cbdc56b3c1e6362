//! What a network namespace is like, as iproute2 tells it: an oracle that shares no code with the agent.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Namespace;

/// What changes without anybody's doing, or numbers that the kernel hands out: no part of the state.
const VOLATILE: [&str; 16] = [
    "bind",
    "bytes",
    "carrier_changes",
    "carrier_down_count",
    "carrier_up_count",
    "gc_timer",
    "hello_timer",
    "index",
    "packets",
    "ref",
    "refcnt",
    "stats",
    "stats64",
    "tcn_timer",
    "topology_change_timer",
    "used",
];

/// The kernel hands out handles from this major number on.
const FIRST_AUTOMATIC_HANDLE: u32 = 0x8000;

/// Links with all their attributes, qdiscs with theirs, and the filters on ingress and egress hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceState {
    /// The leaves of iproute2's JSON by their path, such as `link.eth0.txqlen`.
    leaves: BTreeMap<String, String>,
}

impl NamespaceState {
    /// Takes a snapshot.
    ///
    /// # Errors
    ///
    /// If iproute2 fails.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        let mut leaves = BTreeMap::new();
        for link in list(namespace.json("ip", "-j -d link show")?) {
            flatten(&format!("link.{}", text(&link, "ifname")), &link, &mut leaves);
        }
        let mut hooked = BTreeSet::new();
        for qdisc in list(namespace.json("tc", "-j -d qdisc show")?) {
            let (device, kind) = (text(&qdisc, "dev"), text(&qdisc, "kind"));
            let place = qdisc.get("parent").and_then(Value::as_str).unwrap_or("root");
            flatten(&format!("qdisc.{device}.{place}.{kind}"), &qdisc, &mut leaves);
            if matches!(kind.as_str(), "ingress" | "clsact") {
                hooked.insert((device, kind));
            }
        }
        for (device, kind) in hooked {
            let hooks = if kind == "clsact" { ["ingress", "egress"].as_slice() } else { &["ingress"] };
            for hook in hooks {
                let path = format!("filter.{device}.{hook}");
                if let Ok(filters) = namespace.json("tc", &format!("-j -d filter show dev {device} {hook}")) {
                    flatten(&path, &filters, &mut leaves);
                } else {
                    // What iproute2 5.10 prints of a u32 filter is no JSON. Without counters its words are the same each time.
                    let words = namespace.words("tc", &format!("filter show dev {device} {hook}"))?;
                    leaves.insert(format!("{path}.words"), words);
                }
            }
        }
        Ok(Self { leaves })
    }

    /// The value of a leaf, such as `link.eth0.txqlen`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&str> {
        self.leaves.get(path).map(String::as_str)
    }

    /// Whether there is anything below a path, such as `qdisc.eth0.root.netem`.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        let below = format!("{path}.");
        self.leaves.keys().any(|leaf| leaf.starts_with(&below))
    }

    /// Checks that the namespace is now as it was then.
    ///
    /// # Errors
    ///
    /// If it is not; the message lists what went (-) and what came (+).
    pub fn assert_unchanged(&self, namespace: &Namespace) -> Result<()> {
        let now = Self::of(namespace).context("cannot look again")?;
        let difference = self.difference(&now);
        ensure!(difference.is_empty(), "the network namespace is not as before:\n{}", difference.join("\n"));
        Ok(())
    }

    /// Checks that another namespace has the same qdiscs and filters.
    ///
    /// # Errors
    ///
    /// What differs.
    pub fn assert_same_queueing(&self, other: &Self) -> Result<()> {
        let queueing = |state: &Self| {
            let leaves = state.leaves.iter().filter(|(path, _)| path.starts_with("qdisc.") || path.starts_with("filter."));
            Self { leaves: leaves.map(|(path, value)| (path.clone(), value.clone())).collect() }
        };
        let difference = queueing(self).difference(&queueing(other));
        ensure!(difference.is_empty(), "the qdiscs and filters are not the same:\n{}", difference.join("\n"));
        Ok(())
    }

    fn difference(&self, after: &Self) -> Vec<String> {
        let paths: BTreeSet<&String> = self.leaves.keys().chain(after.leaves.keys()).collect();
        let mut lines = Vec::new();
        for path in paths {
            let (before, after) = (self.leaves.get(path), after.leaves.get(path));
            if before != after {
                lines.extend(before.map(|value| format!("- {path} = {value}")));
                lines.extend(after.map(|value| format!("+ {path} = {value}")));
            }
        }
        lines
    }
}

fn list(value: Value) -> Vec<Value> {
    if let Value::Array(values) = value { values } else { vec![value] }
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or("?").to_owned()
}

fn flatten(path: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(name, _)| !VOLATILE.contains(&name.as_str())) {
                flatten(&format!("{path}.{name}"), value, leaves);
            }
        }
        // A list of words, such as flags, is one value; of anything else, its members are numbered.
        Value::Array(values) if !values.iter().all(Value::is_string) => {
            for (number, value) in values.iter().enumerate() {
                flatten(&format!("{path}.{number}"), value, leaves);
            }
        }
        Value::String(handle) if path.ends_with(".handle") && is_automatic(handle) => {
            leaves.insert(path.to_owned(), "automatic".to_owned());
        }
        value => {
            leaves.insert(path.to_owned(), value.to_string());
        }
    }
}

fn is_automatic(handle: &str) -> bool {
    let major = handle.split(':').next().and_then(|major| u32::from_str_radix(major, 16).ok());
    // The ingress hook's handle, ffff:, is a fixed one.
    major.is_some_and(|major| (FIRST_AUTOMATIC_HANDLE..0xffff).contains(&major))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(link: &Value) -> NamespaceState {
        let mut leaves = BTreeMap::new();
        flatten("link.eth0", link, &mut leaves);
        NamespaceState { leaves }
    }

    #[test]
    fn a_difference_is_told_by_its_path() {
        let before = state(&json!({"txqlen": 0, "flags": ["UP"], "linkinfo": {"info_kind": "veth"}}));
        let after = state(&json!({"txqlen": 1000, "flags": ["UP"], "linkinfo": {"info_kind": "veth"}, "promiscuity": 1}));
        assert_eq!(before.difference(&after), ["+ link.eth0.promiscuity = 1", "- link.eth0.txqlen = 0", "+ link.eth0.txqlen = 1000"]);
        assert!(before.has("link.eth0.linkinfo") && !before.has("link.eth0.link"));
    }

    #[test]
    fn counters_and_automatic_handles_are_no_difference() {
        let before = state(&json!({"handle": "8001:", "refcnt": 2, "actions": [{"index": 1, "ref": 1}]}));
        let after = state(&json!({"handle": "8007:", "refcnt": 3, "actions": [{"index": 4, "ref": 1}]}));
        assert_eq!(before, after);
        assert_ne!(before, state(&json!({"handle": "1:", "refcnt": 2, "actions": [{}]})));
    }
}
