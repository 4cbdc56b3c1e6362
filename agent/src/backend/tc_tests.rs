use super::*;
use crate::{
    backend::{Unmarked, removal, without_ours},
    netem::Netem,
    netlink::{Filter, Handle, INGRESS_PARENT, Link, QDISC_CLSACT, QDISC_INGRESS, QDISC_PRIO, Qdisc},
    nft::PeerFilter,
};
use netloss_contract::{Correlation, Direction, LossModel};
use proptest::{collection, prelude::*, sample};

const ETH0: u32 = 2;
const NL_IN: u32 = 7;
const OUR_HOOK: Unmarked = Unmarked { ingress_qdisc: Some(ETH0), txqlen_0: None };

fn losing(percent: f64) -> Netem {
    let model = LossModel::Random { loss_percentage: percent.try_into().unwrap(), correlation: Correlation::default() };
    Netem::of(&model, None)
}

fn netem() -> Netem {
    losing(10.0)
}

fn eth0() -> Link {
    Link { index: ETH0, name: "eth0".to_owned(), kind: Some("veth".to_owned()), up: true, txqlen: 1000, ..Link::default() }
}

fn ifb() -> Link {
    Link { index: NL_IN, name: marks::IFB.to_owned(), kind: Some("ifb".to_owned()), up: true, ..Link::default() }
}

fn root(ifindex: u32, kind: &str, handle: Handle) -> Qdisc {
    let netem = (kind == QDISC_NETEM).then(netem);
    Qdisc { ifindex, parent: ROOT, handle, kind: kind.to_owned(), netem, ..Qdisc::default() }
}

fn hook(kind: &str) -> Qdisc {
    Qdisc { ifindex: ETH0, parent: INGRESS_PARENT, handle: Handle::of_major(0xffff), kind: kind.to_owned(), ..Qdisc::default() }
}

fn redirect(priority: u16) -> Filter {
    Filter { ifindex: ETH0, priority, kind: "u32".to_owned(), redirects_to: Some(NL_IN) }
}

/// Somebody's, whatever its priority.
fn matchall(priority: u16) -> Filter {
    Filter { ifindex: ETH0, priority, kind: "matchall".to_owned(), redirects_to: None }
}

/// A pod as a network plugin leaves it.
fn pod() -> Snapshot {
    Snapshot { links: vec![eth0()], qdiscs: vec![root(ETH0, "noqueue", Handle::default())], filters: vec![] }
}

/// A pod with the loss of [`target`] on it.
fn lossy() -> Snapshot {
    Snapshot {
        links: vec![eth0(), ifb()],
        qdiscs: vec![root(ETH0, QDISC_NETEM, marks::EGRESS_NETEM), root(NL_IN, QDISC_NETEM, marks::INGRESS_NETEM), hook(QDISC_INGRESS)],
        filters: vec![redirect(marks::REDIRECT_OWN_QDISC)],
    }
}

fn target(direction: Direction) -> Target {
    Target { link: eth0(), direction, netem: netem(), per_segment: false, ends: PeerFilter::default() }
}

fn words(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

#[test]
fn both_directions_are_ready_before_the_redirect_leads_to_them() {
    let steps = application(&pod(), &target(Direction::Both)).unwrap();
    assert_eq!(
        words(&steps),
        [
            "create the interface nl-in",
            "add the netem qdisc 7a13: to nl-in",
            "add an ingress qdisc to eth0",
            "redirect what eth0 receives to nl-in",
            "add the netem qdisc 7a12: to eth0",
        ]
    );
}

#[test]
fn one_direction_leaves_the_other_alone() {
    assert_eq!(words(&application(&pod(), &target(Direction::Egress)).unwrap()), ["add the netem qdisc 7a12: to eth0"]);
    let htb = Snapshot { qdiscs: vec![root(ETH0, "htb", Handle::of_major(1))], ..pod() };
    assert_eq!(application(&htb, &target(Direction::Ingress)).unwrap().len(), 4, "ingress alone does not touch the root");
}

#[test]
fn a_transmit_queue_of_length_zero_is_remembered_in_the_mark() {
    let link = Link { txqlen: 0, ..eth0() };
    let snapshot = Snapshot { links: vec![link.clone()], ..pod() };
    let steps = application(&snapshot, &Target { link, ..target(Direction::Egress) }).unwrap();
    assert_eq!(words(&steps), ["add the netem qdisc 7a14: to eth0"]);

    let after = Snapshot { qdiscs: vec![root(ETH0, QDISC_NETEM, marks::EGRESS_NETEM_TXQLEN_0)], ..pod() };
    assert_eq!(
        words(&removal(&after, Unmarked::default())),
        ["set the transmit queue length of eth0 back to 0", "remove the netem qdisc 7a14: from eth0"]
    );
}

/// Somebody deleted the qdisc that told of it, or the kernel refused that after it had changed the length.
#[test]
fn a_transmit_queue_of_length_zero_is_remembered_without_a_mark() {
    let unmarked = Unmarked { txqlen_0: Some(ETH0), ..Unmarked::default() };
    let set_back = ["set the transmit queue length of eth0 back to 0"];
    assert_eq!(words(&removal(&pod(), unmarked)), set_back);
    assert_eq!(removal(&without_ours(&pod(), unmarked), unmarked), []);
    assert_eq!(words(&removal(&lossy(), unmarked)).iter().filter(|step| *step == set_back[0]).count(), 1);
    // Somebody's own qdisc or length.
    let foreign = Snapshot { qdiscs: vec![root(ETH0, "htb", Handle::of_major(1))], ..pod() };
    let chosen = Snapshot { links: vec![Link { txqlen: 123, ..eth0() }], ..pod() };
    let unchanged = Snapshot { links: vec![Link { txqlen: 0, ..eth0() }], ..pod() };
    for snapshot in [foreign, chosen, unchanged] {
        assert_eq!(removal(&snapshot, unmarked), [], "{snapshot:?}");
    }
}

#[test]
fn a_root_of_others_is_refused_with_its_name_and_the_way_out() {
    for kind in ["htb", "prio", "netem", "noqueue"] {
        let snapshot = Snapshot { qdiscs: vec![root(ETH0, kind, Handle::of_major(0x8001))], ..pod() };
        let refusal = application(&snapshot, &target(Direction::Both)).unwrap_err().to_string();
        assert!(refusal.contains(kind) && refusal.contains("8001:") && refusal.contains("--direction ingress"), "{refusal}");
    }
}

#[test]
fn an_ingress_hook_is_shared_only_where_nobody_filters() {
    let foreign = Filter { ifindex: ETH0, priority: 1, kind: "bpf".to_owned(), redirects_to: None };
    for kind in [QDISC_INGRESS, QDISC_CLSACT] {
        let empty = Snapshot { qdiscs: vec![hook(kind)], ..pod() };
        let steps = application(&empty, &target(Direction::Ingress)).unwrap();
        assert!(!steps.iter().any(|step| matches!(step, Step::AddIngress { .. })));
        assert!(steps.contains(&Step::AddRedirect { device: Device::of(&eth0()), priority: marks::REDIRECT }));

        let used = Snapshot { filters: vec![foreign.clone()], ..empty };
        let refusal = application(&used, &target(Direction::Both)).unwrap_err().to_string();
        assert!(refusal.contains(kind) && refusal.contains("bpf pref 1") && refusal.contains("--direction egress"), "{refusal}");
        assert!(application(&used, &target(Direction::Egress)).is_ok());
    }
}

#[test]
fn a_name_that_is_taken_is_refused() {
    let snapshot = Snapshot { links: vec![eth0(), Link { kind: Some("dummy".to_owned()), ..ifb() }], ..pod() };
    assert!(matches!(application(&snapshot, &target(Direction::Ingress)), Err(Refusal::NameTaken("nl-in"))));
    assert_eq!(removal(&snapshot, Unmarked::default()), []);
}

#[test]
fn an_index_that_is_taken_is_refused() {
    let other = Link { index: marks::IFB_INDEX, name: "eth7".to_owned(), ..Link::default() };
    let snapshot = Snapshot { links: vec![eth0(), other], ..pod() };
    assert_eq!(application(&snapshot, &target(Direction::Ingress)), Err(Refusal::IndexTaken("eth7".to_owned())));
    assert!(application(&snapshot, &target(Direction::Egress)).is_ok());
}

#[test]
fn what_leads_to_the_ifb_goes_before_the_ifb() {
    assert_eq!(
        words(&removal(&lossy(), Unmarked::default())),
        [
            "remove the redirect (pref 31250) from eth0",
            "remove the interface nl-in",
            "remove the ingress qdisc ffff: from eth0",
            "remove the netem qdisc 7a12: from eth0",
        ]
    );
}

#[test]
fn a_shared_ingress_hook_stays() {
    let shared = Snapshot { filters: vec![redirect(marks::REDIRECT)], ..lossy() };
    assert!(!words(&removal(&shared, Unmarked::default())).iter().any(|step| step.contains("ingress qdisc")));

    let joined = Filter { ifindex: ETH0, priority: 5, ..Filter::default() };
    let joined = Snapshot { filters: vec![redirect(marks::REDIRECT_OWN_QDISC), joined], ..lossy() };
    assert!(!words(&removal(&joined, OUR_HOOK)).iter().any(|step| step.contains("ingress qdisc")));
}

#[test]
fn a_hook_that_never_got_its_redirect_goes_by_what_the_caller_knows() {
    let half = Snapshot { qdiscs: vec![hook(QDISC_INGRESS)], ..pod() };
    assert_eq!(removal(&half, Unmarked::default()), []);
    assert_eq!(words(&removal(&half, OUR_HOOK)), ["remove the ingress qdisc ffff: from eth0"]);
}

#[test]
fn what_was_applied_has_not_drifted() {
    assert_eq!(drift(&lossy(), &target(Direction::Both)), Vec::<String>::new());
}

#[test]
fn each_drift_is_named() {
    type Change = fn(&mut Snapshot);
    let cases: [(&str, Change); 9] = [
        ("eth0 is gone", |snapshot| snapshot.links.remove(0).index = 0),
        ("eth0 is now called eth9", |snapshot| snapshot.links[0].name = "eth9".to_owned()),
        ("nl-in is gone", |snapshot| snapshot.links.truncate(1)),
        ("nl-in is down", |snapshot| snapshot.links[1].up = false),
        ("netem qdisc of eth0 is gone", |snapshot| snapshot.qdiscs[0] = root(ETH0, "noqueue", Handle::default())),
        ("netem qdisc of nl-in was replaced by fq 8001:", |snapshot| snapshot.qdiscs[1] = root(NL_IN, "fq", Handle::of_major(0x8001))),
        ("loses 20.000 % and not 10.000 %", |snapshot| {
            snapshot.qdiscs[0].netem = Some(losing(20.0));
        }),
        ("the redirect of what eth0 receives is gone", |snapshot| snapshot.filters.clear()),
        ("does not lead to nl-in", |snapshot| snapshot.filters[0].redirects_to = Some(99)),
    ];
    for (expected, change) in cases {
        let mut snapshot = lossy();
        change(&mut snapshot);
        let drift = drift(&snapshot, &target(Direction::Both));
        assert!(drift.iter().any(|entry| entry.contains(expected)), "{expected}: {drift:?}");
    }
}

/// The redirect keeps the interface itself, whatever has its name later; without a redirect nothing is sent there.
#[test]
fn a_pod_is_cut_off_where_the_redirect_leads_to_nothing() {
    type Change = fn(&mut Snapshot);
    let cases: [(bool, Change); 7] = [
        (false, |_| {}),
        (true, |snapshot| snapshot.links[1].up = false),
        (true, |snapshot| snapshot.links.truncate(1)),
        // Made again by its name alone: the redirect of an interface that went shows the index 0.
        (true, |snapshot| (snapshot.links[1].index, snapshot.filters[0].redirects_to) = (9, Some(0))),
        (true, |snapshot| snapshot.links[1].index = 9),
        (false, |snapshot| (snapshot.links[1].up, snapshot.filters) = (false, Vec::new())),
        (false, |snapshot| snapshot.links[1].name = "renamed".to_owned()),
    ];
    for (place, (cut_off, change)) in cases.into_iter().enumerate() {
        let mut snapshot = lossy();
        change(&mut snapshot);
        assert_eq!(receives_nothing(&snapshot, &target(Direction::Both)), cut_off, "{place}");
    }
}

prop_compose! {
    fn any_snapshot()(
        links in sample::subsequence(vec![eth0(), ifb(), Link { index: 3, name: "net1".to_owned(), up: true, ..Link::default() }], 0..=3),
        roots in collection::vec((sample::select(vec![ETH0, 3, NL_IN]), sample::select(vec!["netem", "prio", "htb", "noqueue"]),
            sample::select(vec![0, 1, 0x7a11, 0x7a12, 0x7a13, 0x7a14, 0x7a15, 0x8001])), 0..3),
        hooks in collection::vec(sample::select(vec![QDISC_INGRESS, QDISC_CLSACT]), 0..=1),
        filters in sample::subsequence(vec![redirect(1), redirect(marks::REDIRECT_OWN_QDISC), matchall(marks::REDIRECT)], 0..=3),
    ) -> Snapshot {
        let mut qdiscs: Vec<Qdisc> = Vec::new();
        for (ifindex, kind, major) in roots {
            if !qdiscs.iter().any(|qdisc| qdisc.ifindex == ifindex) {
                qdiscs.push(root(ifindex, kind, Handle::of_major(major)));
            }
        }
        // Filters hang on a hook, or are not.
        let filters = if hooks.is_empty() { vec![] } else { filters };
        qdiscs.extend(hooks.into_iter().map(hook));
        Snapshot { links, qdiscs, filters }
    }
}

proptest! {
    #[test]
    fn a_removal_touches_nothing_foreign_and_leaves_nothing_of_ours(before in any_snapshot()) {
        let foreign = |snapshot: &Snapshot| {
            let links: Vec<_> = snapshot.links.iter().filter(|link| link.name != marks::IFB).map(|link| link.index).collect();
            let roots: Vec<_> = snapshot.qdiscs.iter()
                .filter(|qdisc| qdisc.parent == ROOT && qdisc.ifindex != NL_IN)
                .filter(|qdisc| qdisc.kind != QDISC_NETEM || !marks::is_egress_netem(qdisc.handle))
                .filter(|qdisc| qdisc.kind != QDISC_PRIO || !marks::is_prio(qdisc.handle)).cloned().collect();
            let filters: Vec<_> = snapshot.filters.iter().filter(|filter| !snapshot.is_ours(filter)).cloned().collect();
            let clsact: Vec<_> = snapshot.qdiscs.iter().filter(|qdisc| qdisc.kind == QDISC_CLSACT).cloned().collect();
            (links, roots, filters, clsact)
        };
        let after = without_ours(&before, Unmarked::default());
        prop_assert_eq!(foreign(&after), foreign(&before));
        prop_assert_eq!(removal(&after, Unmarked::default()), vec![]);
    }

    #[test]
    fn an_application_is_refused_or_touches_only_what_is_free(before in any_snapshot(), direction in sample::select(vec![
        Direction::Egress, Direction::Ingress, Direction::Both,
    ])) {
        let Ok(steps) = application(&before, &target(direction)) else { return Ok(()) };
        for step in steps {
            match step {
                Step::AddNetem { device: Device { index, .. }, .. } => {
                    prop_assert!(before.root(index).is_none_or(Qdisc::is_default));
                }
                Step::AddRedirect { .. } => prop_assert!(before.foreign_filters(ETH0).next().is_none()),
                Step::AddIngress { .. } => prop_assert!(before.ingress(ETH0).is_none()),
                _ => {}
            }
        }
    }
}
