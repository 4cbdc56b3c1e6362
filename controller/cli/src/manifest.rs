//! `manifest`: the experiment as YAML, to keep and to apply.

use super::{
    connect::Cluster,
    error::Error,
    loss::LossArgs,
    output::{note, print, yaml},
    prepare::{Prepared, prepare},
};
use netloss_api::ChaosExperiment;
use serde_json::Value;

pub(super) async fn run(loss: &LossArgs, cluster: &Cluster) -> Result<(), Error> {
    let Prepared { spec, namespace, .. } = prepare(cluster, loss).await?;
    if let Some(why) = namespace.production.filter(|_| !loss.allow_production) {
        note(&format!(
            "warning: \"{}\" is a production namespace by {why}: this is refused there without --allow-production",
            cluster.namespace
        ));
    }
    let mut object = loss.experiment(spec, &cluster.namespace);
    // `kubectl apply` takes no generateName.
    object.metadata.generate_name = None;
    object.metadata.name = object.metadata.name.or_else(|| Some(loss.stem()));
    print(&text(&object)?)
}

/// What is left of it without the defaults, which the API server fills in.
fn text(object: &ChaosExperiment) -> Result<String, Error> {
    let mut value = serde_json::to_value(object).map_err(|error| Error::Failed(format!("making the manifest: {error}")))?;
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, field| !field.is_null());
    }
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        spec.retain(|key, field| !(field.is_null() || matches!(key.as_str(), "retryBackoff" | "retryDelay")));
    }
    yaml(&value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloss_core::machine::fixtures::spec;

    #[test]
    fn a_manifest_is_what_was_asked_for() {
        let mut object = ChaosExperiment::new("web-loss", spec());
        object.metadata.namespace = Some("shop".to_owned());
        let text = text(&object).unwrap();
        let read: ChaosExperiment = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read.spec, object.spec);
        assert_eq!(read.metadata, object.metadata);
        assert!(
            text.contains("apiVersion: chaos.gushchin.dev/v1alpha1") && !text.contains("status") && !text.contains("retryDelay"),
            "{text}"
        );
    }
}
