//! Which packets a run was to lose, in words.

use netloss_api::ChaosExperimentSpec;

/// What a spec says beside the share, the direction and the duration.
pub(super) fn words(spec: &ChaosExperimentSpec) -> Vec<String> {
    let list = |lead: &str, of: Option<Vec<String>>| of.filter(|of| !of.is_empty()).map(|of| format!("{lead} {}", of.join(", ")));
    let networks = spec.target_ips.iter().chain(&spec.target_cidrs).flatten().cloned().collect();
    let ports = spec.target_ports.as_ref().map(|ports| ports.iter().map(u16::to_string).collect());
    let model = spec.loss_model.as_ref().filter(|model| model.kind != "random").map(|model| {
        let burst = model.mean_burst.map(|burst| format!(", {burst} packets in a row on average"));
        let shares = model.probabilities.as_ref().map(|shares| format!(" ({shares:?} %)"));
        format!("chosen by the model {}{}{}", model.kind, burst.unwrap_or_default(), shares.unwrap_or_default())
    });
    let correlation = Some(spec.correlation_percentage()).filter(|share| *share > 0.0);
    [
        model,
        correlation.map(|share| format!("correlated by {share} %")),
        list("only to and from", Some(networks)),
        list("only to and from port", ports),
        list("only", spec.target_protocols.clone()),
        list("never to and from", spec.spare.clone()),
        (spec.spare_node == Some(true)).then(|| "never to and from the node".to_owned()),
        (spec.per_segment == Some(true)).then(|| "TCP segments one by one".to_owned()),
        spec.interface.as_ref().map(|interface| format!("on {interface}")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloss_core::machine::fixtures::spec;
    use serde_json::json;

    #[test]
    fn what_narrows_a_loss_is_said() {
        assert_eq!(words(&spec()), [""; 0]);
        let mut rich = serde_json::to_value(spec()).unwrap();
        let more = json!({
            "lossModel": { "type": "gilbert", "meanBurst": 8.0 }, "targetCIDRs": ["10.0.0.0/8"], "targetIPs": ["192.0.2.1"], "targetPorts": [443],
            "targetProtocols": ["tcp"], "spare": ["any:53"], "spareNode": true,
        });
        rich.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let words = words(&serde_json::from_value(rich).unwrap());
        assert_eq!(
            words.join("; "),
            "chosen by the model gilbert, 8 packets in a row on average; only to and from 192.0.2.1, 10.0.0.0/8; only to and from port 443; \
             only tcp; never to and from any:53; never to and from the node"
        );
    }
}
