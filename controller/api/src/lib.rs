//! The API: `ChaosExperiment` of the group `chaos.gushchin.dev`, version `v1alpha1`, as k8s-chaos has it.
//!
//! The types are the source of `config/crd`: ranges, defaults and rules stand here once and are enforced by the API server. The
//! controller checks again what it acts on (`machine::plan`), because a cluster may carry an older or a loosened CRD.

mod action;
mod crd;
mod history;
mod names;
mod plan;
mod pod;
mod reference;
mod schema;
mod spec;
mod stable_hash;
mod status;

pub use action::Action;
pub use crd::{DEFINITIONS, Definition};
pub use history::{
    AffectedResource, Audit, ChaosExperimentHistory, ChaosExperimentHistorySpec, ChaosExperimentHistoryStatus, ErrorDetails, Execution,
    ExperimentRef, FailureReason, RunResult,
};
pub use names::{
    ALLOW_FROM_ANNOTATION, EXCLUDE_LABEL, EXPERIMENT_LABEL, FINALIZER, FREEZE, FREEZE_ANNOTATION, LEASE, NAME_LABEL, PART_OF,
    PRODUCTION_ANNOTATION, REMAINS_LABEL, RUN_REQUESTED_ANNOTATION, SHORTENED_ANNOTATION,
};
pub use plan::{ChaosExperimentPlan, ChaosExperimentPlanSpec, PlannedArguments};
pub use pod::{AskedLoss, ObservedInterval, ObservedLoss, ObservedTraffic, Outcome, PodState, PodStatus, SentContainer};
pub use reference::page as reference;
pub use spec::{ChaosExperiment, ChaosExperimentSpec, LossModelSpec, MAX_LOSS_PERCENTAGE, RetryBackoff, TimeWindow, WindowKind};
pub use stable_hash::stable_hash;
pub use status::{
    ACCEPTED, AS_REQUESTED, ChaosExperimentStatus, LOSS_MAY_REMAIN, NOT_ASKED, PREFLIGHT, Phase, RECOVERED, RUN_REQUESTED, Stopping,
};
