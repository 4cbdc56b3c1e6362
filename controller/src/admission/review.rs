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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
