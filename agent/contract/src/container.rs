//! Names of the agent's containers.

/// Every container of netloss is named with this in front; k8s-chaos's tooling looks for it.
pub const CONTAINER_PREFIX: &str = "network-loss";

/// The name of the agent's container in a pod: a function of the experiment, its run and the attempt, so that a controller that
/// lost its memory between planning and patching finds what it did (invariant 4). It is unique within the pod, which is its scope.
///
/// `uid` is the experiment's; 12 of its hexadecimal digits (48 random bits of a version 4 UUID) tell experiments apart. The result is
/// a DNS label of at most 63 characters.
#[must_use]
pub fn container_name(uid: &str, run: u32, attempt: u32) -> String {
    let digits: String = uid.chars().filter(char::is_ascii_hexdigit).take(12).collect();
    format!("{CONTAINER_PREFIX}-{}-r{run}-a{attempt}", digits.to_ascii_lowercase())
}

/// The name of the container that is sent after an agent's to stop it, in the same pod. `number` counts from 1: one that the node never
/// started is followed by another.
#[must_use]
pub fn stop_container_name(uid: &str, run: u32, attempt: u32, number: u32) -> String {
    let name = container_name(uid, run, attempt);
    if number <= 1 { format!("{name}-stop") } else { format!("{name}-stop-{number}") }
}

/// The name of the container that takes away what an agent may have left, in the same pod. `number` counts from 1: one that found the agent
/// at work is followed by another when that has ended.
#[must_use]
pub fn repair_container_name(uid: &str, run: u32, attempt: u32, number: u32) -> String {
    let name = container_name(uid, run, attempt);
    if number <= 1 { format!("{name}-repair") } else { format!("{name}-repair-{number}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_dns_label_and_tells_runs_and_attempts_apart() {
        let uid = "1B4E28BA-2fa1-41d2-883f-0016d3cca427";
        assert_eq!(container_name(uid, 1, 1), "network-loss-1b4e28ba2fa1-r1-a1");
        assert_ne!(container_name(uid, 1, 2), container_name(uid, 2, 1));
        assert_eq!(stop_container_name(uid, 1, 1, 1), "network-loss-1b4e28ba2fa1-r1-a1-stop");
        assert_eq!(stop_container_name(uid, 1, 1, 2), "network-loss-1b4e28ba2fa1-r1-a1-stop-2");
        assert_eq!(repair_container_name(uid, 1, 1, 1), "network-loss-1b4e28ba2fa1-r1-a1-repair");
        assert_eq!(repair_container_name(uid, 1, 1, 2), "network-loss-1b4e28ba2fa1-r1-a1-repair-2");
        let longest = repair_container_name(uid, u32::MAX, u32::MAX, 9);
        assert!(longest.len() <= 63 && longest.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{longest}");
    }
}
