//! A network policy of the host, at its end of the pod's interface, is obeyed with every backend as without one.
//!
//! Packets bear numbers, which stand behind the headers of IPv4 and UDP; those of the markers that end a count are far above them.

use anyhow::{Context, Result, ensure};
use netloss_lab_guest::{Agent, Counted, Pod, Way};
use serde_json::Value;

use crate::{BACKENDS, assert_loss};

const PACKETS: u32 = 2000;

/// The same without an agent and with one of each backend.
fn check(set_up: impl Fn(&Pod) -> Result<()>, check: impl Fn(&Pod, Counted) -> Result<()>) -> Result<()> {
    let pod = Pod::new()?;
    set_up(&pod)?;
    check(&pod, pod.send(Way::Out, PACKETS)?).context("without an agent")?;
    for backend in BACKENDS {
        let pod = Pod::new()?;
        set_up(&pod)?;
        let mut agent = Agent::start(&pod.pod, &format!("run --loss 5 --ttl 1h --backend {backend}"))?;
        agent.applied()?;
        let counted = pod.send(Way::Out, PACKETS)?;
        ensure!(counted.lost > 0, "nothing was lost: this tests nothing");
        check(&pod, counted).context(backend)?;
    }
    Ok(())
}

/// What is dropped there never arrives, and of the others as many as the model has it.
#[test]
fn what_tc_drops_is_dropped() -> Result<()> {
    const DROPPED: u32 = 256;
    const FILTER: &str = "filter add dev peer0 ingress protocol ip u32 match u32 0x00000000 0xffffff00 at 28 action gact drop";
    let set_up = |pod: &Pod| {
        pod.peer.tc("qdisc add dev peer0 clsact")?;
        pod.peer.tc(FILTER)
    };
    check(set_up, |_, counted| {
        let others = counted.lost.checked_sub(DROPPED).context("packets came past the policy")?;
        if others == 0 { Ok(()) } else { assert_loss(Counted { sent: PACKETS - DROPPED, lost: others }, 5.0) }
    })
}

#[test]
fn what_tc_counts_is_counted() -> Result<()> {
    const FILTER: &str = "filter add dev peer0 ingress protocol ip u32 match u32 0x00000000 0xffff0000 at 28 action gact pass";
    let set_up = |pod: &Pod| {
        pod.peer.tc("qdisc add dev peer0 clsact")?;
        pod.peer.tc(FILTER)
    };
    check(set_up, |pod, counted| {
        let words = pod.peer.words("tc", "-s filter show dev peer0 ingress")?;
        let packets = words.split_whitespace().zip(words.split_whitespace().skip(1)).filter(|(_, unit)| *unit == "pkt");
        let packets: u32 = packets.map(|(number, _)| number).next().with_context(|| format!("no counter in: {words}"))?.parse()?;
        ensure!(packets == counted.sent - counted.lost, "{packets} counted of {counted:?}");
        Ok(())
    })
}

#[test]
fn what_nft_counts_is_counted() -> Result<()> {
    const TABLE: &str = "table netdev host { chain c { type filter hook ingress device \"peer0\" priority 0; \
                         meta l4proto udp @th,64,16 0 counter accept; }; }";
    check(
        |pod| pod.peer.nft(TABLE),
        |pod, counted| {
            let table = pod.peer.json("nft", "-j list table netdev host")?;
            let packets = counter(&table).with_context(|| format!("no counter in {table}"))?;
            ensure!(packets == u64::from(counted.sent - counted.lost), "{packets} counted of {counted:?}");
            Ok(())
        },
    )
}

/// The packets of the first counter.
fn counter(value: &Value) -> Option<u64> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("counter").and_then(|counter| counter.get("packets")?.as_u64());
            own.or_else(|| fields.values().find_map(counter))
        }
        Value::Array(values) => values.iter().find_map(counter),
        _ => None,
    }
}
