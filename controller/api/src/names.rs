//! Names in the metadata of objects: labels, annotations, the finalizer.

/// Keeps an experiment from going while something of it is under way in a pod.
pub const FINALIZER: &str = "chaos.gushchin.dev/netloss";

/// The annotation that requests one more run: an RFC 3339 time, which only has to differ from the last one (`status.runRequestedAt`).
pub const RUN_REQUESTED_ANNOTATION: &str = "chaos.gushchin.dev/run-requested-at";

/// A pod or a namespace that carries this label with the value "true" is never acted on.
pub const EXCLUDE_LABEL: &str = "chaos.gushchin.dev/exclude";

/// Marks a namespace as production with the value "true".
pub const PRODUCTION_ANNOTATION: &str = "chaos.gushchin.dev/production";

/// On a namespace: the other namespaces whose experiments may act on its pods, separated by commas, or `*` for all.
pub const ALLOW_FROM_ANNOTATION: &str = "chaos.gushchin.dev/allow-experiments-from";

/// The Lease in the controller's own namespace, which the replica that runs experiments holds.
pub const LEASE: &str = "netloss-controller";

/// The ConfigMap in the controller's own namespace whose annotation stops all experiments and begins none.
pub const FREEZE: &str = "netloss-freeze";

/// On [`FREEZE`]: any value but "false" stops all experiments.
pub const FREEZE_ANNOTATION: &str = "chaos.gushchin.dev/freeze";

/// Names the experiment's uid on its records.
pub const EXPERIMENT_LABEL: &str = "chaos.gushchin.dev/experiment-uid";

/// Marks the record of a run that may have left loss in a pod, for those who list these alone.
pub const REMAINS_LABEL: &str = "chaos.gushchin.dev/loss-may-remain";

/// Names the experiment on its records, as k8s-chaos does; a name of more than 63 characters is cut.
pub const NAME_LABEL: &str = "chaos.gushchin.dev/experiment";

/// Says on a record that something of it was left out.
pub const SHORTENED_ANNOTATION: &str = "chaos.gushchin.dev/shortened";

/// The label by which an installation tells netloss's definition from k8s-chaos's.
pub const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "netloss");
