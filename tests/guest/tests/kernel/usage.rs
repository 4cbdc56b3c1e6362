//! Arguments that are wrong: the exit code 2, a sentence that names them, and nothing touched.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use netloss_contract::ExitCode;
use netloss_lab_guest::{Agent, NamespaceState, Pod};

/// Each with what its sentence has to name.
const WRONG: [(&str, &str); 40] = [
    ("--loss 0", "--loss"),
    ("--loss -1", "--loss"),
    ("--loss 100.001", "100.001"),
    ("--loss NaN", "NaN"),
    ("--loss inf", "inf"),
    ("--loss ten", "ten"),
    ("--loss 10 --correlation -0.1", "--correlation"),
    ("--loss 10 --correlation 100.1", "100.1"),
    ("--loss 10 --correlation NaN", "NaN"),
    ("--correlation 10", "--loss is missing"),
    ("--loss 10 --direction up", "--direction"),
    ("--loss 10 --backend ebpf", "--backend"),
    ("--loss 10 --ttl 0s", "--ttl"),
    ("--loss 10 --ttl 169h", "169h"),
    ("--loss 10 --ttl 99999999999999999999h", "--ttl"),
    ("--loss 10 --ttl 5", "--ttl"),
    ("--loss 10 --ttl -5s", "-5s"),
    ("--loss 10 --heartbeat 0s", "--heartbeat"),
    ("--loss 10 --heartbeat 61m", "61m"),
    ("--loss 10 --deadline tomorrow", "--deadline"),
    ("--loss 10 --run a/b\\c", "--run"),
    ("--loss 10 --seed -1", "--seed"),
    ("--loss 10 --seed 18446744073709551616", "--seed"),
    ("--loss 10 --model markov", "markov"),
    ("--loss 10 --model gilbert", "--burst"),
    ("--loss 10 --model gilbert --burst 0.9", "--burst"),
    ("--loss 10 --model gilbert --burst 1001", "1001"),
    ("--loss 90 --model gilbert --burst 2", "bursts of 2"),
    ("--loss 10 --burst 4", "--burst"),
    ("--model gemodel", "probabilities"),
    ("--model gemodel 1 2 3 4 5", "probabilities"),
    ("--model gemodel 101 2", "--model"),
    ("--model state 60 1 1 1 60", "P13 and P14"),
    ("--loss 10 --target 10.0.0.1/8", "10.0.0.0/8"),
    ("--loss 10 --target 10.0.0.0/33", "10.0.0.0/33"),
    ("--loss 10 --target any:0", "any:0"),
    ("--loss 10 --target any:70000", "any:70000"),
    ("--loss 10 --spare any:80/icmp", "icmp"),
    ("--loss 10 --spare-node node-1", "node-1"),
    ("--loss 10 --no-such-flag", "--no-such-flag"),
];

#[test]
fn what_is_wrong_is_named_and_nothing_is_touched() -> Result<()> {
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    for (arguments, named) in WRONG {
        let ttl = if arguments.contains("--ttl") { "" } else { "--ttl 1h" };
        let mut command = Command::new("/usr/bin/netloss-agent");
        command.args(["run"]).args(arguments.split(' ')).args(ttl.split_whitespace());
        let output = pod.pod.run(|| Ok(command.stdin(Stdio::null()).output()?))?;
        let words = String::from_utf8_lossy(&output.stderr);
        let usage = i32::from(ExitCode::Usage.code());
        ensure!(output.status.code() == Some(usage) && words.contains(named), "{arguments}: {:?}: {words}", output.status);
    }
    before.assert_unchanged(&pod.pod)
}

/// Those that only together are wrong are said as a record: the arguments themselves could be read.
#[test]
fn what_does_not_fit_together_is_said_as_a_record() -> Result<()> {
    let pod = Pod::new()?;
    let before = NamespaceState::of(&pod.pod)?;
    let many = "--target 10.0.0.0/8 ".repeat(101);
    for (arguments, named) in [("--target any --backend tc", "--backend guarded"), (many.as_str(), "at most 100")] {
        let failed = Agent::start(&pod.pod, &format!("run --loss 10 --ttl 1h {arguments}"))?.finish()?.failed(ExitCode::Usage)?;
        ensure!(failed.message.contains(named) && failed.left.is_empty(), "{failed:?}");
    }
    before.assert_unchanged(&pod.pod)
}
