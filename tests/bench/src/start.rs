//! How long it takes until a loss is in place, and until it is gone.

use anyhow::Result;

use super::machine::Machine;
use super::{Report, Size};

pub(super) fn measure(size: Size) -> Result<Report> {
    let measured = Machine::prepare()?.measure("start", size.pick(25, 7), 1)?;
    Ok(Report {
        name: "start".to_owned(),
        title: "Start to applied, stop to clean".to_owned(),
        about: "From the start of the process until it says that a loss of 10 % is in place, and from SIGTERM to its end. The shell is \
                busybox's with Debian's iproute2 (`tc qdisc add dev … root netem loss 10%` after `ip route show default`; for received packets \
                the usual ifb with a redirect), does its work with as few programs as it can, and verifies nothing. The floor is a static \
                program that sends the agent's own netlink messages, as strace has recorded them, and waits for each answer; what the agent \
                takes beyond that is its own. Each sample is taken in a network namespace of its own."
            .to_owned(),
        command: "tests/lab bench start".to_owned(),
        machine: measured.machine,
        comparisons: measured.comparisons,
    })
}

/// Where that time goes.
pub(super) fn share(size: Size) -> Result<Report> {
    let measured = Machine::prepare()?.measure("share", size.pick(25, 7), 1)?;
    Ok(Report {
        name: "share".to_owned(),
        title: "Where the time of the agent's start goes".to_owned(),
        about:
            "Commands of the agent that each do more than the one before and change nothing, from their start to their end: with `--version` its code \
                is there and the command line known, with `status` it has asked who works here and answered, with `plan` it has looked at the \
                namespace and asked the kernel what it would take. Beside them a program that does nothing, and `tc -V`, which finds its \
                libraries and ends."
                .to_owned(),
        command: "tests/lab bench share".to_owned(),
        machine: measured.machine,
        comparisons: measured.comparisons,
    })
}
