//! `netloss-agent check`: whether loss would work here, and what to do where it would not.

use super::{fail, holder};
use crate::{
    backend::{self, Target, Unmarked, guarded::Variant},
    guard::LEASE,
    host,
    impairment::{self, NoGuard, Trial},
    interface::{self, Choice, NoInterface},
    netem::Netem,
    netlink::{Netlink, QDISC_NETEM, QDISC_PRIO, QDISC_TBF},
    nft::{EgressHook, PeerFilter},
    prepare::unreadable,
    reporter::Reporter,
    signals::Signals,
    snapshot::Snapshot,
};
use netloss_contract::{Checked, Direction, Event, ExitCode, Failed, Finding, Verdict};

/// Says what there is and what is missing.
pub fn check(interface: Option<&str>, signals: &Signals, reporter: &mut Reporter) -> ExitCode {
    match look(interface, signals) {
        Ok(seen) => {
            let checks = seen.checks();
            let exit = checks.iter().find(|(finding, _)| finding.verdict == Verdict::Bad).map_or(ExitCode::Done, |(_, exit)| *exit);
            let findings: Vec<_> = checks.into_iter().map(|(finding, _)| finding).collect();
            let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Good);
            reporter.report(Event::Checked(Checked { verdict, findings }));
            exit
        }
        Err(failure) => fail(reporter, failure),
    }
}

/// What can be seen without changing anything.
#[derive(Debug)]
struct Seen {
    capable: bool,
    /// Why nobody else could work here.
    occupied: Option<Failed>,
    evidence: Vec<String>,
    choice: Result<Choice, NoInterface>,
    snapshot: Snapshot,
    /// The guard that the kernel would take, or why it takes none; none where there is no interface to ask for.
    guard: Option<Result<Variant, NoGuard>>,
    /// Whether the kernel knows what the loss is made of; none where it does not say.
    netem: Option<bool>,
    prio: Option<bool>,
    ifb: Option<bool>,
    tbf: Option<bool>,
}

fn look(named: Option<&str>, signals: &Signals) -> Result<Seen, Failed> {
    let netlink = Netlink::connect().map_err(|error| unreadable(&error))?;
    let snapshot = Snapshot::take(&netlink).map_err(|error| unreadable(&error))?;
    let routes = netlink.default_routes().map_err(|error| unreadable(&error))?;
    let choice = interface::choose(&snapshot.links, &routes, named);
    let capable = netlink.is_permitted().map_err(|error| unreadable(&error))?;
    let guard = match &choice {
        Ok(Choice { link, .. }) => {
            let target = Target {
                link: link.clone(),
                direction: Direction::Both,
                netem: Netem::default(),
                per_segment: false,
                ends: PeerFilter::default(),
            };
            Some(impairment::probe(&target, Trial::Rehearsal).map(|probed| probed.variant))
        }
        Err(_) => None,
    };
    Ok(Seen {
        capable,
        occupied: holder(signals).err(),
        evidence: host::evidence(&snapshot.links, host::in_initial_namespace()),
        choice,
        snapshot,
        guard,
        netem: netlink.knows_qdisc(QDISC_NETEM),
        prio: netlink.knows_qdisc(QDISC_PRIO),
        ifb: netlink.knows_ifb(),
        tbf: netlink.knows_qdisc(QDISC_TBF),
    })
}

impl Seen {
    /// The findings, and with what a run would exit where one is bad. The first bad one is the one that a run would meet first.
    fn checks(&self) -> Vec<(Finding, ExitCode)> {
        let mut checks = vec![(self.capability(), ExitCode::Unsupported), (self.agent(), ExitCode::AlreadyRunning)];
        checks.push((self.namespace(), ExitCode::Refused));
        checks.push((self.interface(), ExitCode::Refused));
        if let Ok(Choice { link, .. }) = &self.choice {
            checks.extend([self.root(link.index), self.ingress(link.index)].map(|finding| (finding, ExitCode::Refused)));
        }
        let failed = matches!(self.guard, Some(Err(NoGuard::Failed { .. })));
        checks.push((self.leftovers(), ExitCode::Unsupported));
        checks.push((self.guard(), if failed { ExitCode::Failed } else { ExitCode::Unsupported }));
        let modules = [
            ("netem", self.netem, Verdict::Bad, "sch_netem, which every loss needs"),
            ("ifb", self.ifb, Verdict::Bad, "ifb, which loss of received packets needs"),
            ("prio", self.prio, Verdict::Warning, "sch_prio, which the guarded backend needs for sent packets"),
            ("tbf", self.tbf, Verdict::Warning, "sch_tbf, which --per-segment needs"),
        ];
        checks.extend(modules.map(|(what, known, missing, words)| (module(what, known, missing, words), ExitCode::Unsupported)));
        checks
    }

    fn capability(&self) -> Finding {
        if self.capable {
            return good("capability", "CAP_NET_ADMIN is there");
        }
        let remedy = "in a pod: runAsUser: 0 and capabilities.add: [NET_ADMIN]; as another user a capability is void";
        finding("capability", Verdict::Bad, "CAP_NET_ADMIN is missing in this network namespace", remedy)
    }

    fn agent(&self) -> Finding {
        match &self.occupied {
            None => good("agent", "no other agent works here"),
            Some(failure) => Finding { what: "agent".to_owned(), verdict: Verdict::Bad, found: failure.message.clone(), remedy: None },
        }
    }

    fn namespace(&self) -> Finding {
        if self.evidence.is_empty() {
            return good("namespace", "this looks like a pod's network namespace");
        }
        let found = format!("this looks like a host's network namespace: {}", self.evidence.join(", and "));
        finding("namespace", Verdict::Bad, found, "run in a pod's; --allow-host-network would hit every pod of this host")
    }

    fn interface(&self) -> Finding {
        match &self.choice {
            Ok(Choice { link, reason }) => good("interface", format!("{} ({reason})", link.name)),
            Err(error) => Finding { what: "interface".to_owned(), verdict: Verdict::Bad, found: error.to_string(), remedy: None },
        }
    }

    fn root(&self, ifindex: u32) -> Finding {
        let snapshot = backend::without_ours(&self.snapshot, Unmarked::default());
        match snapshot.root(ifindex) {
            Some(root) if !root.is_default() => {
                let found = format!("{} {} is not the kernel's default, and is not replaced", root.kind, root.handle);
                finding("root qdisc", Verdict::Bad, found, "remove it, or ask for --direction ingress, which leaves it alone")
            }
            Some(root) => good("root qdisc", format!("the kernel's default ({})", root.kind)),
            None => good("root qdisc", "the kernel's default"),
        }
    }

    fn ingress(&self, ifindex: u32) -> Finding {
        let filters = self.snapshot.foreign_filters(ifindex).count();
        match self.snapshot.ingress(ifindex) {
            Some(hook) if filters > 0 && !matches!(self.guard, Some(Ok(_))) => {
                let found = format!("{} with {filters} filters of others, which the backend tc gets in the way of", hook.kind);
                finding("ingress hook", Verdict::Bad, found, "remove them, or ask for --direction egress")
            }
            Some(hook) => good("ingress hook", format!("{} with {filters} filters of others, which go on as they are", hook.kind)),
            None => good("ingress hook", "free"),
        }
    }

    fn leftovers(&self) -> Finding {
        let steps: Vec<_> = backend::removal(&self.snapshot, Unmarked::default()).iter().map(ToString::to_string).collect();
        if steps.is_empty() || self.occupied.is_some() {
            return good("leftovers", "no dead agent left anything here");
        }
        let found = format!("a dead agent left something here: to {}", steps.join(", to "));
        finding("leftovers", Verdict::Warning, found, "netloss-agent cleanup removes them, and so does the next run")
    }

    fn guard(&self) -> Finding {
        match &self.guard {
            Some(Ok(variant)) => {
                let found = format!("the kernel can end the loss by itself: {}", variant.describe());
                let lacks = [
                    (!variant.owned).then(|| {
                        format!("a killed agent's loss lasts until its lease of {} s runs out (before Linux 5.12)", LEASE.as_secs())
                    }),
                    (variant.hook == EgressHook::Postrouting).then(|| "sent ARP is never lost (before Linux 5.16)".to_owned()),
                ];
                let lacks: Vec<_> = lacks.into_iter().flatten().collect();
                if lacks.is_empty() {
                    good("guard", found)
                } else {
                    finding("guard", Verdict::Warning, format!("{found}; {}", lacks.join("; ")), "a newer kernel has more")
                }
            }
            Some(Err(failed @ NoGuard::Failed { .. })) => {
                let found = format!("whether the kernel can end the loss by itself cannot be told ({failed})");
                finding("guard", Verdict::Bad, found, "try again: a run does not put a loss in place either while this fails")
            }
            unsupported => {
                let why = match unsupported {
                    Some(Err(why)) => why.to_string(),
                    _ => "not asked, because there is no interface to ask for".to_owned(),
                };
                let found = format!("the kernel cannot end the loss by itself, and the backend tc is left ({why})");
                finding("guard", Verdict::Warning, found, "a killed agent then leaves its loss behind: netloss-agent cleanup removes it")
            }
        }
    }
}

fn module(what: &str, known: Option<bool>, missing: Verdict, words: &str) -> Finding {
    match known {
        Some(true) => good(what, "the kernel has it"),
        Some(false) => {
            let remedy = "install it on the node (such as kernel-modules-extra), or use another node";
            finding(what, missing, format!("the node's kernel has no module {words}"), remedy)
        }
        None => finding(what, Verdict::Warning, "the kernel does not say whether it has it", "give the agent CAP_NET_ADMIN"),
    }
}

fn good(what: &str, found: impl Into<String>) -> Finding {
    Finding { what: what.to_owned(), verdict: Verdict::Good, found: found.into(), remedy: None }
}

fn finding(what: &str, verdict: Verdict, found: impl Into<String>, remedy: &str) -> Finding {
    Finding { what: what.to_owned(), verdict, found: found.into(), remedy: Some(remedy.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::guarded::LADDER,
        netlink::{Handle, Link, Qdisc, ROOT},
    };

    fn seen() -> Seen {
        let link = Link { index: 2, name: "eth0".to_owned(), up: true, ..Link::default() };
        Seen {
            capable: true,
            occupied: None,
            evidence: Vec::new(),
            choice: Ok(Choice { link: link.clone(), reason: "the only interface that is up".to_owned() }),
            snapshot: Snapshot { links: vec![link], ..Snapshot::default() },
            guard: Some(Ok(LADDER[0])),
            netem: Some(true),
            prio: Some(true),
            ifb: Some(true),
            tbf: Some(true),
        }
    }

    /// What is not good, with the exit code of a run.
    fn troubles(seen: &Seen) -> Vec<(String, Verdict, ExitCode)> {
        let checks = seen.checks().into_iter().filter(|(finding, _)| finding.verdict != Verdict::Good);
        checks.map(|(finding, exit)| (finding.what, finding.verdict, exit)).collect()
    }

    #[test]
    fn a_pod_with_everything_is_good() {
        assert_eq!(troubles(&seen()), []);
        assert_eq!(seen().checks().len(), 12);
    }

    #[test]
    fn each_trouble_has_its_verdict_and_exit_code() {
        let mut bare = seen();
        (bare.capable, bare.netem, bare.tbf) = (false, None, Some(false));
        let capability = ("capability".to_owned(), Verdict::Bad, ExitCode::Unsupported);
        let netem = ("netem".to_owned(), Verdict::Warning, ExitCode::Unsupported);
        assert_eq!(troubles(&bare), [capability, netem, ("tbf".to_owned(), Verdict::Warning, ExitCode::Unsupported)]);

        let mut host = seen();
        host.evidence = vec!["it has an interface cni0".to_owned()];
        assert_eq!(troubles(&host), [("namespace".to_owned(), Verdict::Bad, ExitCode::Refused)]);

        let mut busy = seen();
        let htb = Qdisc { ifindex: 2, parent: ROOT, handle: Handle::of_major(1), kind: "htb".to_owned(), ..Qdisc::default() };
        busy.snapshot.qdiscs.push(htb);
        assert_eq!(troubles(&busy), [("root qdisc".to_owned(), Verdict::Bad, ExitCode::Refused)]);

        let mut old = seen();
        old.guard = Some(Ok(LADDER[3]));
        let guard = &old.checks()[7].0;
        assert!(guard.verdict == Verdict::Warning && guard.found.contains("5.12") && guard.found.contains("5.16"), "{guard:?}");

        let mut pressed = seen();
        pressed.guard = Some(Err(NoGuard::Failed { variant: LADDER[0], error: crate::nft::Error::TimedOut }));
        assert_eq!(troubles(&pressed), [("guard".to_owned(), Verdict::Bad, ExitCode::Failed)]);
    }

    #[test]
    fn every_trouble_has_a_way_out() {
        let mut worst = seen();
        (worst.capable, worst.netem, worst.prio, worst.ifb, worst.tbf) = (false, Some(false), Some(false), Some(false), Some(false));
        worst.evidence = vec!["it is the kernel's initial network namespace".to_owned()];
        worst.guard = Some(Err(NoGuard::Unsupported("no nf_tables".to_owned())));
        for (finding, _) in worst.checks() {
            assert_eq!(finding.verdict != Verdict::Good, finding.remedy.is_some(), "{finding:?}");
        }
    }
}
