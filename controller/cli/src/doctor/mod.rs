//! `doctor`: whether everything is as netloss needs it, and nothing is left where it should not be.

mod checks;
mod facts;
mod fix;

use super::{
    connect::Cluster,
    error::Error,
    output::{OutputArgs, Paint, Tone, document, print},
};
use checks::{Finding, Verdict, check};
use clap::Args;
use serde::Serialize;

/// Check the installation, rights, the namespace's Pod Security, and whether anything is left in pods
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Stop agents of no experiment, take away what may be left, and release experiments that cannot go
    #[arg(long)]
    fix: bool,

    /// Look at the pods and experiments of all namespaces; with --fix, change them
    #[arg(long, short = 'A')]
    all_namespaces: bool,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Checkup {
    findings: Vec<Finding>,
}

pub(super) async fn run(args: DoctorArgs, cluster: &Cluster) -> Result<(), Error> {
    let scope = cluster.scope(args.all_namespaces);
    let mut facts = facts::look(cluster, &scope).await?;
    if args.fix {
        fix::fix(cluster, &facts).await?;
        // What was put right is no longer found.
        facts = facts::look(cluster, &scope).await?;
    }
    let checkup = Checkup { findings: check(&facts) };
    let format = args.output.output;
    if format.is_table() {
        print(&text(&checkup.findings, Paint::stdout()))?;
    } else {
        print(&document(format, "Checkup", &checkup)?)?;
    }
    verdict(&checkup.findings)
}

fn text(findings: &[Finding], paint: Paint) -> String {
    let line = |finding: &Finding| {
        let (tone, word) = match finding.verdict {
            Verdict::Ok => (Tone::Good, "ok     "),
            Verdict::Warning => (Tone::Busy, "warning"),
            Verdict::Problem => (Tone::Bad, "problem"),
            Verdict::LossMayRemain => (Tone::Bad, "LOSS   "),
        };
        let remedy = finding.remedy.as_deref().map(|remedy| format!("         -> {remedy}\n")).unwrap_or_default();
        format!("{}  {}: {}\n{remedy}", paint.tone(tone, word), finding.about, finding.found)
    };
    findings.iter().map(line).collect()
}

/// What the findings mean for the exit code.
fn verdict(findings: &[Finding]) -> Result<(), Error> {
    let of = |verdict: Verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    match (of(Verdict::LossMayRemain), of(Verdict::Problem)) {
        (0, 0) => Ok(()),
        (0, count) => Err(Error::Failed(format!("{count} problem(s) found; each has its way out above"))),
        (count, _) => Err(Error::LossMayRemain(format!("loss may remain in {count} place(s); the way out is above"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn finding(verdict: Verdict) -> Finding {
        Finding { verdict, about: "controller", found: "down".to_owned(), remedy: Some("start it".to_owned()) }
    }

    #[test]
    fn the_worst_finding_is_the_exit_code() {
        let code = |verdicts: &[Verdict]| {
            let findings: Vec<Finding> = verdicts.iter().map(|verdict| finding(*verdict)).collect();
            verdict(&findings).map_or_else(|error| error.exit(), |()| Exit::Done)
        };
        assert_eq!(code(&[Verdict::Ok, Verdict::Warning]), Exit::Done);
        assert_eq!(code(&[Verdict::Problem, Verdict::Warning]), Exit::Failed);
        assert_eq!(code(&[Verdict::Problem, Verdict::LossMayRemain]), Exit::LossMayRemain);
    }

    #[test]
    fn a_finding_has_its_way_out_below() {
        assert_eq!(text(&[finding(Verdict::Problem)], Paint::none()), "problem  controller: down\n         -> start it\n");
    }
}
