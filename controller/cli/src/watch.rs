//! `watch`: a run as it goes.

use super::{connect::Cluster, error::Error, output::OutputArgs, run::to_its_end, show::Show, verdict};
use clap::Args;
use netloss_contract::Ttl;

/// Show a run until it is over: what was asked for and what was seen in each pod, and the time left
#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Name of the experiment
    name: String,

    /// Watch no longer than this
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Ttl>,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: WatchArgs, cluster: &Cluster) -> Result<(), Error> {
    let object = cluster.experiment(&args.name).await?;
    let format = args.output.output;
    to_its_end(cluster, &object, args.timeout.map(Ttl::duration), verdict::is_over, Show::new(format), format).await
}
