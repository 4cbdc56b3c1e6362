//! An AdmissionReview, from the bytes to what is asked, and from the verdict to the answer. No I/O.
//!
//! Of an object the spec alone is decoded, and only once it is known that it is ours to judge: its status and the object before may be large, and are anybody's.

use hyper::body::Bytes;
use k8s_openapi::api::authentication::v1::UserInfo;
use kube::core::{
    Status,
    admission::{AdmissionResponse, Operation as Done},
};
use netloss_api::ChaosExperimentSpec;
use netloss_core::admission::{Admission, Operation};
use netloss_core::{machine::Experiment, sanitize::brief};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

/// What the API server asks.
#[derive(Debug)]
pub struct Review {
    body: Bytes,
    request: Request<Head>,
}

/// An AdmissionReview, with as much of its object as `T` has.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<T> {
    api_version: String,
    kind: String,
    request: Option<Request<T>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<T> {
    uid: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    operation: Done,
    user_info: UserInfo,
    #[serde(default = "Option::default")]
    object: Option<T>,
}

/// An object's metadata, as far as it matters.
#[derive(Debug, Deserialize)]
struct Head {
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    generation: i64,
    #[serde(default)]
    deletion_timestamp: Option<IgnoredAny>,
    #[serde(default)]
    annotations: Option<Annotations>,
}

/// The annotation that requests another run.
#[derive(Debug, Default, Deserialize)]
struct Annotations {
    #[serde(default, rename = "chaos.gushchin.dev/run-requested-at")]
    run_requested_at: Option<String>,
}

/// An object's spec.
#[derive(Debug, Deserialize)]
struct Spec {
    spec: ChaosExperimentSpec,
}

/// An update: the specs before and after, whatever they contain.
#[derive(Debug, Deserialize)]
struct Update {
    request: Specs,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Specs {
    object: AnySpec,
    old_object: AnySpec,
}

#[derive(Debug, Deserialize)]
struct AnySpec {
    #[serde(default)]
    spec: Value,
}

impl Update {
    /// Whether it sets `spec.paused` to true and leaves the rest of the spec unchanged. The update that resumes the experiment is checked in
    /// full.
    fn only_pauses(self) -> bool {
        let without_paused = |AnySpec { mut spec }: AnySpec| {
            let paused = spec.as_object_mut().and_then(|fields| fields.remove("paused"));
            (spec, paused)
        };
        let ((before, _), (after, paused)) = (without_paused(self.request.old_object), without_paused(self.request.object));
        before == after && paused == Some(Value::Bool(true))
    }
}

/// What is to be found out for the answer.
#[derive(Debug)]
pub enum Asked {
    /// Nothing: it is not netloss's business.
    Admitted,
    /// Nothing: the object is none; why, in words.
    Unreadable(String),
    /// Whether this experiment may be.
    Experiment(Box<AskedFor>),
}

/// An experiment that is about to be created or changed.
#[derive(Debug)]
pub struct AskedFor {
    /// What is about to be done to it.
    pub operation: Operation,
    /// Its namespace.
    pub namespace: String,
    uid: String,
    generation: i64,
    requested: Option<String>,
    spec: ChaosExperimentSpec,
}

impl AskedFor {
    /// As the state machine has it.
    #[must_use]
    pub fn experiment(&self) -> Experiment<'_> {
        Experiment {
            namespace: &self.namespace,
            uid: &self.uid,
            generation: self.generation,
            deleting: false,
            finalized: false,
            requested: self.requested.as_deref(),
            spec: &self.spec,
            // Nothing that is judged depends on it.
            status: None,
        }
    }
}

impl Review {
    /// Reads the body of a request; none where it is no AdmissionReview that asks for something.
    #[must_use]
    pub fn read(body: impl Into<Bytes>) -> Option<Self> {
        let body = body.into();
        let review: Body<Head> = serde_json::from_slice(&body).ok()?;
        let is_review = review.kind == "AdmissionReview" && review.api_version == "admission.k8s.io/v1";
        let request = review.request.filter(|_| is_review)?;
        Some(Self { body, request })
    }

    /// Without the bytes that it was read from, which are not needed once it is known what is asked.
    #[must_use]
    pub fn without_body(self) -> Self {
        Self { body: Bytes::new(), ..self }
    }

    /// By which the answer is told from others.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.request.uid
    }

    /// The object's name, where it has one yet.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.request.name
    }

    /// Who asks.
    #[must_use]
    pub fn user(&self) -> &UserInfo {
        &self.request.user_info
    }

    /// What is asked.
    #[must_use]
    pub fn asked(&self) -> Asked {
        let request = &self.request;
        let operation = match request.operation {
            Done::Create => Operation::Create,
            Done::Update => Operation::Update,
            Done::Delete | Done::Connect => return Asked::Admitted,
        };
        let Some(Head { metadata }) = request.object.as_ref().filter(|object| object.metadata.deletion_timestamp.is_none()) else {
            return Asked::Admitted;
        };
        // Before the spec is parsed: what stops a run must pass whatever the rest of the object contains.
        if operation == Operation::Update && serde_json::from_slice::<Update>(&self.body).is_ok_and(Update::only_pauses) {
            return Asked::Admitted;
        }
        let spec = match serde_json::from_slice::<Body<Spec>>(&self.body) {
            Ok(Body { request: Some(Request { object: Some(Spec { spec }), .. }), .. }) => spec,
            Ok(_) => return Asked::Admitted,
            Err(error) => return Asked::Unreadable(format!("spec: {}", brief(&error.to_string()))),
        };
        if !spec.action.is_served() {
            return Asked::Admitted;
        }
        Asked::Experiment(Box::new(AskedFor {
            operation,
            namespace: request.namespace.clone().unwrap_or_default(),
            uid: metadata.uid.clone(),
            generation: metadata.generation,
            requested: metadata.annotations.as_ref().and_then(|of| of.run_requested_at.clone()),
            spec,
        }))
    }

    /// The answer that all is well.
    #[must_use]
    pub fn admitted(&self) -> AdmissionResponse {
        let mut response = AdmissionResponse::invalid("");
        (response.uid, response.allowed, response.result) = (self.request.uid.clone(), true, Status::default());
        response
    }

    /// The answer that it may not be.
    #[must_use]
    pub fn refused(&self, why: &str) -> AdmissionResponse {
        self.admitted().deny(why)
    }

    /// The answer of a verdict.
    #[must_use]
    pub fn answered(&self, verdict: Admission) -> AdmissionResponse {
        let mut response = match verdict.refusal {
            Some(refusal) => self.refused(&refusal),
            None => self.admitted(),
        };
        response.warnings = (!verdict.warnings.is_empty()).then_some(verdict.warnings);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Pods die during an experiment: that is when somebody stops it, and when its count is more than `maxPercentage` allows.
    #[test]
    fn an_update_that_only_pauses_is_not_checked() {
        let asked = |old: serde_json::Value, new: serde_json::Value| {
            let object = |spec: serde_json::Value| json!({ "apiVersion": "chaos.gushchin.dev/v1alpha1", "kind": "ChaosExperiment", "metadata": { "name": "x" }, "spec": spec });
            let review = json!({
                "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                "request": {
                    "uid": "1", "operation": "UPDATE", "namespace": "n", "name": "x", "userInfo": {},
                    "kind": { "group": "chaos.gushchin.dev", "version": "v1alpha1", "kind": "ChaosExperiment" },
                    "resource": { "group": "chaos.gushchin.dev", "version": "v1alpha1", "resource": "chaosexperiments" },
                    "object": object(new), "oldObject": object(old),
                },
            });
            Review::read(review.to_string()).unwrap().asked()
        };
        let spec = |paused: Option<bool>, count: u32| json!({ "action": "pod-network-loss", "selector": { "app": "web" }, "duration": "30s", "count": count, "maxPercentage": 50, "paused": paused });
        let running = || {
            let mut spec = spec(None, 2);
            spec.as_object_mut().unwrap().remove("paused");
            spec
        };
        for before in [running(), spec(Some(false), 2), spec(Some(true), 2)] {
            assert!(matches!(asked(before.clone(), spec(Some(true), 2)), Asked::Admitted), "{before}");
        }
        assert!(matches!(asked(running(), spec(Some(true), 3)), Asked::Experiment(_)), "something else changes");
        assert!(matches!(asked(spec(Some(true), 2), spec(Some(false), 2)), Asked::Experiment(_)), "a resumption is checked");
        assert!(matches!(asked(spec(Some(true), 2), running()), Asked::Experiment(_)), "a resumption is checked");
        let unreadable = || json!({ "action": "pod-network-loss", "targetPorts": [70000] });
        let mut paused = unreadable();
        paused["paused"] = json!(true);
        assert!(matches!(asked(unreadable(), paused), Asked::Admitted), "what cannot be parsed can be paused");
    }

    /// Whoever requests another run has to have the right to it, as for an edit, so that a request is checked in full.
    #[test]
    fn a_requested_run_is_checked() {
        let review = of(&json!({
            "metadata": { "annotations": { "chaos.gushchin.dev/run-requested-at": "now", "other": "x" } },
            "spec": { "action": "pod-network-loss", "selector": { "app": "web" }, "duration": "30s" },
        }));
        let Asked::Experiment(asked) = review.asked() else { panic!("it is checked") };
        assert_eq!(asked.experiment().requested, Some("now"));
    }

    fn of(object: &serde_json::Value) -> Review {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "the-uid", "operation": "CREATE", "name": "x", "namespace": "n", "userInfo": {}, "object": object,
                "kind": { "group": "chaos.gushchin.dev", "version": "v1alpha1", "kind": "ChaosExperiment" },
                "resource": { "group": "chaos.gushchin.dev", "version": "v1alpha1", "resource": "chaosexperiments" },
            },
        });
        Review::read(review.to_string()).unwrap()
    }

    #[test]
    fn what_is_wrong_with_a_spec_is_said_on_one_line() {
        for object in [
            json!({ "metadata": {}, "spec": { "action": "pod-network-loss", "selector": {}, "direction": "a\nb\u{1b}[31m" } }),
            json!({ "metadata": {} }),
            json!({ "metadata": {}, "spec": ["a\nb"] }),
        ] {
            let review = of(&object);
            let Asked::Unreadable(why) = review.asked() else { panic!("{object}") };
            assert!(why.starts_with("spec: ") && !why.contains(char::is_control), "{why:?}");
            let answer = review.refused(&why);
            assert_eq!((answer.uid.as_str(), answer.allowed), ("the-uid", false));
        }
    }

    #[test]
    fn what_asks_for_nothing_is_no_review() {
        for body in ["", "{}", "[]", r#"{ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview" }"#] {
            assert!(Review::read(body).is_none(), "{body}");
        }
    }
}
