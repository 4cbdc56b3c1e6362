//! Names in the metadata of objects: labels, annotations, the finalizer.

/// Keeps an experiment from going while something of it is under way in a pod.
pub const FINALIZER: &str = "chaos.gushchin.dev/netloss";

/// The annotation that requests one more run: an RFC 3339 time, which only has to differ from the last one (`status.runRequestedAt`).
pub const RUN_REQUESTED_ANNOTATION: &str = "chaos.gushchin.dev/run-requested-at";

/// A pod or a namespace that carries this label with the value "true" is never acted on.
pub const EXCLUDE_LABEL: &str = "chaos.gushchin.dev/exclude";

/// Marks a namespace as production with the value "true".
pub const PRODUCTION_ANNOTATION: &str = "chaos.gushchin.dev/production";

/// Opens a namespace to experiments of others: their names with commas between them, or `*`.
pub const ALLOW_FROM_ANNOTATION: &str = "chaos.gushchin.dev/allow-experiments-from";

/// The ConfigMap in the controller's own namespace whose annotation stops all experiments and begins none.
pub const FREEZE: &str = "netloss-freeze";

/// The annotation; any value but "false" freezes.
pub const FREEZE_ANNOTATION: &str = "chaos.gushchin.dev/freeze";

/// Names the experiment's uid on its records.
pub const EXPERIMENT_LABEL: &str = "chaos.gushchin.dev/experiment-uid";

/// Says on a record that something of it was left out.
pub const SHORTENED_ANNOTATION: &str = "chaos.gushchin.dev/shortened";

/// The label by which an installation tells netloss's definition from k8s-chaos's.
pub const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "netloss");
