//! What becomes of packets: what they cost, and how many are lost.

use anyhow::Result;

use super::machine::Machine;
use super::{Report, Size};

pub(super) fn measure(size: Size) -> Result<Report> {
    let measured = Machine::prepare()?.measure("datapath", size.pick(21, 5), 1)?;
    Ok(Report {
        name: "datapath".to_owned(),
        title: "What a packet costs".to_owned(),
        about: "10 000 small UDP packets, and 20 MB over TCP, between a pod and its peer over a veth, both ends on the same processor. The \
                loss is one packet in a million, so that all of it is there and next to nothing is lost; none of the 100 filters matches, so \
                that each packet meets all of them."
            .to_owned(),
        command: "tests/lab bench datapath".to_owned(),
        machine: measured.machine,
        comparisons: measured.comparisons,
    })
}

/// How many are lost.
pub(super) fn exactness(size: Size) -> Result<Report> {
    let measured = Machine::prepare()?.measure("exactness", size.pick(100_000, 5_000), 2)?;
    Ok(Report {
        name: "exactness".to_owned(),
        title: "Asked and lost".to_owned(),
        about: "100 000 UDP packets each, counted where they arrive; of TCP, a transfer of as many segments, as the agent's report counts \
                it. The goal is the interval that 99 of 100 runs of a correct netem are in; of `gilbert` it is wider, because bursts make the mean spread \
                more. Loaded: a busy loop for each of the two processors. Correlated loss has no goal, because netem does not keep its \
                rate (docs/AGENT.md says why): `gilbert` has bursts and keeps it. Without `--per-segment` TCP hands over super-packets, \
                few of which are ever lost."
            .to_owned(),
        command: "tests/lab bench exactness".to_owned(),
        machine: measured.machine,
        comparisons: measured.comparisons,
    })
}
