//! `netloss-controller`: parses, runs, exits.

use clap::Parser;
use netloss_controller::Args;

fn main() -> anyhow::Result<()> {
    Args::parse().run()
}
