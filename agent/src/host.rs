//! Whether a network namespace is a host's, where loss would hit every pod and service on it.

use crate::netlink::Link;
use std::{collections::BTreeSet, path::Path};

/// The kernel shows this setting in its initial network namespace only (`net/core/sysctl_net_core.c`: not in `netns_core_table`).
const INITIAL_NAMESPACE_ONLY: &str = "/proc/sys/net/core/netdev_budget";

/// Interfaces that network plugins and container engines make on a host.
const HOST_INTERFACES: [&str; 12] = [
    "antrea-gw0",
    "cilium_host",
    "cni0",
    "docker0",
    "flannel.1",
    "kube-bridge",
    "kube-ipvs0",
    "nodelocaldns",
    "ovn-k8s-mp0",
    "podman0",
    "vxlan.calico",
    "weave",
];

/// Whether the calling thread is in the kernel's initial network namespace. Where /proc is not mounted, that is not known: false.
#[must_use]
pub fn in_initial_namespace() -> bool {
    Path::new(INITIAL_NAMESPACE_ONLY).exists()
}

/// What makes a namespace look like a host's, in words; nothing where it looks like a pod's.
///
/// A host that runs as a container (kind, k3d) is not in the initial namespace, but the ends of its pods' interfaces give it away.
#[must_use]
pub fn evidence(links: &[Link], in_initial_namespace: bool) -> Vec<String> {
    let mut evidence = Vec::new();
    if in_initial_namespace {
        evidence.push("it is the kernel's initial network namespace".to_owned());
    }
    let known = links.iter().map(|link| link.name.as_str()).filter(|name| HOST_INTERFACES.contains(name));
    evidence.extend(known.map(|name| format!("it has an interface {name}")));
    for bridge in links.iter().filter(|link| link.kind.as_deref() == Some("bridge")) {
        let ports: Vec<_> = links.iter().filter(|link| link.controller == Some(bridge.index)).map(|link| link.name.as_str()).collect();
        if !ports.is_empty() {
            evidence.push(format!("its bridge {} has the ports {}", bridge.name, ports.join(", ")));
        }
    }
    let peers: BTreeSet<_> = links.iter().filter_map(|link| link.peer_namespace).collect();
    if peers.len() > 1 {
        evidence.push(format!("its interfaces lead into {} other network namespaces", peers.len()));
    }
    evidence
}

#[cfg(test)]
mod tests {
    use super::*;

    fn veth(index: u32, name: &str, peer_namespace: i32) -> Link {
        Link { index, name: name.to_owned(), kind: Some("veth".to_owned()), peer_namespace: Some(peer_namespace), ..Link::default() }
    }

    #[test]
    fn a_pod_is_none() {
        let lo = Link { index: 1, name: "lo".to_owned(), loopback: true, ..Link::default() };
        // Two interfaces, as multus makes them, lead to the same host.
        assert_eq!(evidence(&[lo, veth(2, "eth0", 0), veth(3, "net1", 0)], false), Vec::<String>::new());
    }

    #[test]
    fn each_evidence_is_named() {
        assert!(evidence(&[], true)[0].contains("initial network namespace"));
        assert!(evidence(&[veth(2, "cilium_host", 0)], false)[0].contains("cilium_host"));
        assert!(evidence(&[veth(2, "cali1", 0), veth(3, "cali2", 1)], false)[0].contains("2 other network namespaces"));
        let bridge = Link { index: 9, name: "br0".to_owned(), kind: Some("bridge".to_owned()), ..Link::default() };
        let port = Link { controller: Some(9), ..veth(2, "veth1", 0) };
        assert!(evidence(&[bridge.clone(), port], false)[0].contains("br0 has the ports veth1"));
        assert_eq!(evidence(&[bridge], false), Vec::<String>::new(), "a bridge without ports is nobody's");
    }
}
