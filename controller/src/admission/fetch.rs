//! What is looked at for a verdict.

use k8s_openapi::api::{
    authentication::v1::UserInfo,
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use netloss_cluster::observe;
use netloss_core::admission::ObservedState;
use netloss_core::machine::{Experiment, Settings};

/// Looks at everything that a verdict on this experiment depends on, as asked for by this user.
///
/// # Errors
/// When the API server cannot answer.
pub async fn fetch(client: &Client, experiment: &Experiment<'_>, user: &UserInfo, settings: &Settings) -> kube::Result<ObservedState> {
    let namespace = experiment.spec.target_namespace(experiment.namespace);
    let Some(facts) = observe::namespace(client, namespace).await? else { return Ok(ObservedState::default()) };
    let may_act = async {
        if namespace == experiment.namespace || facts.allows(experiment.namespace) {
            Ok(true)
        } else {
            may_act(client, namespace, user).await
        }
    };
    let (may_act, pods, freeze, conflicting_controller) = futures::try_join!(
        may_act,
        observe::candidates(client, namespace, &experiment.spec.selector, jiff::Timestamp::now()),
        observe::freeze(client, &settings.own_namespace),
        observe::conflicting_controller(client, settings),
    )?;
    Ok(ObservedState { namespace: Some(facts), may_act, pods, freeze, conflicting_controller })
}

/// Whether a user may do by hand what the controller would do for them.
async fn may_act(client: &Client, namespace: &str, user: &UserInfo) -> kube::Result<bool> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: user.username.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.to_owned()),
                verb: Some("patch".to_owned()),
                group: Some(String::new()),
                version: Some("v1".to_owned()),
                resource: Some("pods".to_owned()),
                subresource: Some("ephemeralcontainers".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
