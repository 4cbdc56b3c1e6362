//! What is measured inside a kernel guest, as root, with the release build of the agent.

mod datapath;
mod exactness;
mod programs;
mod reaction;
mod recording;
mod result;
mod share;
mod start;
mod weight;

use anyhow::{Context, Result, bail};
pub use result::{Bound, Comparison, Goal, Report, Variant, figure};

/// The prefix of a line with a comparison in a guest's output.
pub const RESULT: &str = "netloss-bench: ";

/// Measures what the arguments say, and prints each comparison as a line for the machine outside.
///
/// # Errors
///
/// If something cannot be measured.
pub fn main(arguments: &[String]) -> Result<()> {
    let [what, number] = arguments else { bail!("expected what to measure and how often, not {arguments:?}") };
    let number = number.parse().context("how often is a number")?;
    // QEMU translates code anew at each address that it is executed at, which takes longer than all else that is measured here, and is
    // nothing that a processor does: with the same addresses each time, it has translated it in the first round.
    std::fs::write("/proc/sys/kernel/randomize_va_space", "0").context("cannot keep addresses the same")?;
    match what.as_str() {
        "datapath" => datapath::measure(number),
        "exactness" => exactness::measure(number),
        "reaction" => reaction::measure(number),
        "start" => start::measure(number),
        "share" => share::measure(number),
        "weight" => weight::measure(number),
        _ => bail!("nothing here measures {what}"),
    }
}

/// Hands a comparison to the machine outside.
fn hand_over(comparison: &Comparison) -> Result<()> {
    println!("{RESULT}{}", serde_json::to_string(comparison)?);
    Ok(())
}
