//! An AdmissionReview, from the bytes to what is asked, and from the verdict to the answer. No I/O.

use super::judge::{Operation, Verdict};
use crate::{
    api::{ChaosExperimentSpec, ChaosExperimentStatus},
    machine::Experiment,
    words::brief,
};
use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation as Done},
};

/// What the API server asks.
#[derive(Debug)]
pub struct Review(AdmissionRequest<DynamicObject>);

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
    spec: ChaosExperimentSpec,
    status: Option<ChaosExperimentStatus>,
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
            spec: &self.spec,
            status: self.status.as_ref(),
        }
    }
}

impl Review {
    /// Reads the body of a request; none where it is no AdmissionReview that asks for something.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let review: AdmissionReview<DynamicObject> = serde_json::from_slice(body).ok()?;
        review.try_into().ok().map(Self)
    }

    /// As it was read.
    #[must_use]
    pub fn request(&self) -> &AdmissionRequest<DynamicObject> {
        &self.0
    }

    /// What is asked.
    #[must_use]
    pub fn asked(&self) -> Asked {
        let request = &self.0;
        let operation = match request.operation {
            Done::Create => Operation::Create,
            Done::Update => Operation::Update,
            Done::Delete | Done::Connect => return Asked::Admitted,
        };
        let Some(object) = request.object.as_ref().filter(|object| object.metadata.deletion_timestamp.is_none()) else {
            return Asked::Admitted;
        };
        // Before the spec is parsed: what stops a run must pass whatever the rest of the object contains.
        if operation == Operation::Update && request.old_object.as_ref().is_some_and(|old| only_pauses(old, object)) {
            return Asked::Admitted;
        }
        let field = |name: &str| object.data.get(name).cloned().unwrap_or_default();
        let spec: ChaosExperimentSpec = match serde_json::from_value(field("spec")) {
            Ok(spec) => spec,
            Err(error) => return Asked::Unreadable(format!("spec: {}", brief(&error.to_string()))),
        };
        if !spec.action.is_served() {
            return Asked::Admitted;
        }
        Asked::Experiment(Box::new(AskedFor {
            operation,
            namespace: request.namespace.clone().unwrap_or_default(),
            uid: object.metadata.uid.clone().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            spec,
            status: serde_json::from_value(field("status")).ok(),
        }))
    }

    /// The answer that all is well.
    #[must_use]
    pub fn admitted(&self) -> AdmissionResponse {
        AdmissionResponse::from(&self.0)
    }

    /// The answer that it may not be.
    #[must_use]
    pub fn refused(&self, why: &str) -> AdmissionResponse {
        self.admitted().deny(why)
    }

    /// The answer of a verdict.
    #[must_use]
    pub fn answered(&self, verdict: Verdict) -> AdmissionResponse {
        let mut response = match verdict.refusal {
            Some(refusal) => self.refused(&refusal),
            None => self.admitted(),
        };
        response.warnings = (!verdict.warnings.is_empty()).then_some(verdict.warnings);
        response
    }
}

/// Whether the update sets `spec.paused` to true and leaves the rest of the spec unchanged. The update that resumes the experiment is
/// checked in full.
fn only_pauses(old: &DynamicObject, new: &DynamicObject) -> bool {
    let without_paused = |object: &DynamicObject| {
        let mut spec = object.data.get("spec").cloned().unwrap_or_default();
        let paused = spec.as_object_mut().and_then(|fields| fields.remove("paused"));
        (spec, paused)
    };
    let ((before, _), (after, paused)) = (without_paused(old), without_paused(new));
    before == after && paused == Some(serde_json::Value::Bool(true))
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
            Review::read(review.to_string().as_bytes()).unwrap().asked()
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

    fn of(object: &serde_json::Value) -> Review {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "the-uid", "operation": "CREATE", "name": "x", "namespace": "n", "userInfo": {}, "object": object,
                "kind": { "group": "chaos.gushchin.dev", "version": "v1alpha1", "kind": "ChaosExperiment" },
                "resource": { "group": "chaos.gushchin.dev", "version": "v1alpha1", "resource": "chaosexperiments" },
            },
        });
        Review::read(review.to_string().as_bytes()).unwrap()
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
            assert!(Review::read(body.as_bytes()).is_none(), "{body}");
        }
    }
}
