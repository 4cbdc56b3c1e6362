//! Why a run is not begun, or not gone on with: a reason that programs read, and words for people.

use std::fmt;

/// Why, in one word: the reason of the condition `Accepted`, and what metrics and records count by. The names are the API's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// The experiment asks for what cannot be done, whatever the cluster is like.
    InvalidSpec,
    /// Another controller acts on the same experiments.
    AnotherController,
    /// An experiment that `spec.dependsOn` names has failed.
    DependencyFailed,
    /// All experiments are frozen.
    Frozen,
    /// The namespace of the pods is closed to this experiment.
    NamespaceNotAllowed,
    /// There is no such namespace.
    NamespaceNotFound,
    /// No pod may be acted on.
    NoEligiblePods,
    /// None of `spec.timeWindows` opens.
    NoTimeWindow,
    /// The addresses of a pod's node are not known.
    NodeUnknown,
    /// A production namespace, without consent.
    Production,
    /// `spec.experimentDuration` is over.
    TimeOver,
    /// Fewer targets are ready than `spec.abort` allows.
    TooFewReady,
    /// A larger share of the pods than `spec.maxPercentage`.
    TooLargeAShare,
    /// What is to be done takes more room than a status has.
    TooLargeAStatus,
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variants are spelled as the API spells them.
        fmt::Debug::fmt(self, f)
    }
}

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Of what kind that is.
    pub reason: RefusalReason,
    /// For people: the field, its value and the way out.
    pub words: String,
}

impl Refusal {
    /// Of an experiment that asks for what cannot be done.
    pub fn invalid(words: impl Into<String>) -> Self {
        Self::new(RefusalReason::InvalidSpec, words)
    }

    /// A refusal in these words.
    pub fn new(reason: RefusalReason, words: impl Into<String>) -> Self {
        Self { reason, words: words.into() }
    }
}
