//! A report as one page that needs nothing else: no script, no font, no image from anywhere.

use super::{
    Report,
    plot::{Scale, key},
};
use crate::{
    output::Tone,
    show::tone,
    view::{PodLine, Seen, span},
};
use jiff::Timestamp;
use netloss_api::RunResult;
use netloss_contract::LossVerdict;

const STYLE: &str = include_str!("style.css");

/// What a browser may do with the page, whatever is in it: show it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let run = report.run.map(|run| format!(", run {run}")).unwrap_or_default();
    let result = report.result_word();
    let alert = (report.loss_may_remain() > 0).then(|| {
        let (count, namespace) = (report.loss_may_remain(), escaped(&report.namespace));
        format!("<p class=\"alert\"><strong class=\"bad\">Loss may remain in {count} pod(s).</strong> <code>kubectl netloss doctor --fix -n {namespace}</code> removes it, and so does deleting them.</p>\n")
    });
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}: {result}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<p class=\"soft\">Packet loss in namespace {namespace}{run}</p>\n<h1>{name} {badge}</h1>\n<p class=\"lead\">{lead}</p>\n{alert}</header>\n\
         <main>\n{tiles}\n<section>\n<h2>The run</h2>\n{facts}\n</section>\n<section>\n<h2>When</h2>\n{timeline}\n</section>\n\
         <section>\n<h2>Asked for and seen</h2>\n{comparison}\n</section>\n<section>\n<h2>How each pod was left</h2>\n{pods}\n</section>\n</main>\n\
         <footer>Written {written} by kubectl-netloss {version}. Times of pods are by the clocks of their nodes.</footer>\n</body>\n</html>\n",
        title = escaped(&report.title()),
        namespace = escaped(&report.namespace),
        name = escaped(&report.experiment),
        badge = badge(result, tone(result)),
        lead = lead(report),
        alert = alert.unwrap_or_default(),
        tiles = tiles(report),
        facts = facts(report),
        timeline = timeline(report),
        comparison = comparison(report),
        pods = pods(report),
        written = moment(report.written),
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// How it went, in a sentence.
fn lead(report: &Report) -> String {
    let (good, all) = (report.pods.iter().filter(|pod| pod.phase == "clean").count(), report.pods.len());
    match report.result {
        None => format!("It is under way in {} of {all} pod(s): figures are so far.", report.pods.iter().filter(|pod| pod.is_open).count()),
        Some(RunResult::Success) => format!("In {good} of {all} pod(s) the loss lasted as asked, and is verified to be gone."),
        Some(RunResult::Cancelled) => format!("It was stopped before its time. In {good} of {all} pod(s) the loss had lasted as asked."),
        Some(RunResult::Failure) => "No pod had the loss as asked.".to_owned(),
        Some(RunResult::Partial) => {
            format!("In {good} of {all} pod(s) the loss lasted as asked, and is verified to be gone. The others are explained below.")
        }
    }
}

fn tiles(report: &Report) -> String {
    let duration = report.asked.duration.as_deref().map(|duration| format!(" for {duration}")).unwrap_or_default();
    let way = match report.asked.direction {
        netloss_contract::Direction::Egress => "of what pods send",
        netloss_contract::Direction::Ingress => "of what pods receive",
        netloss_contract::Direction::Both => "each way",
    };
    let seen = |seen: Option<Seen>| match seen.map(|seen| (seen.loss_percentage, seen)) {
        None => ("-".to_owned(), "not counted".to_owned()),
        Some((None, _)) => ("-".to_owned(), "no packets".to_owned()),
        Some((Some(share), seen)) => (format!("{share:.1}%"), format!("{} packets", counts(&seen))),
    };
    let had = report.pods.iter().filter(|pod| pod.applied.is_some()).count();
    let egress = seen(report.total(|pod| pod.egress));
    let ingress = seen(report.total(|pod| pod.ingress));
    let tiles = [
        ("Asked for", format!("{}%", report.asked.loss_percentage), format!("{way}{duration}")),
        ("Lost of what was sent", egress.0, egress.1),
        ("Lost of what was received", ingress.0, ingress.1),
        ("Pods with the loss", format!("{had} of {}", report.pods.len()), took(report)),
    ];
    let tile = |(name, value, more): &(&str, String, String)| {
        format!("<div><dt>{name}</dt><dd>{}</dd><dd>{}</dd></div>", escaped(value), escaped(more))
    };
    format!("<dl class=\"tiles\">{}</dl>", tiles.iter().map(tile).collect::<String>())
}

fn took(report: &Report) -> String {
    let (Some(started), end) = (report.started, report.ended.unwrap_or(report.written)) else { return "not begun".to_owned() };
    let seconds = span(end.duration_since(started).as_secs());
    if report.ended.is_some() { format!("the run took {seconds}") } else { format!("the run began {seconds} ago") }
}

fn facts(report: &Report) -> String {
    let duration = report.asked.duration.as_deref().map(|duration| format!(" for {duration}")).unwrap_or_default();
    let mut facts = vec![("asked for", format!("{}{duration}", report.asked.words()))];
    facts.extend((!report.packets.is_empty()).then(|| ("packets", report.packets.join("; "))));
    facts.push(("phase", report.phase.clone()));
    facts.extend(report.started.map(|started| ("started", moment(started))));
    facts.extend(report.ended.map(|ended| ("ended", moment(ended))));
    facts.extend(report.message.clone().map(|message| ("said", message)));
    facts.extend(report.initiated_by.clone().map(|by| ("field manager", by)));
    let fact = |(name, value): &(&str, String)| format!("<dt>{name}</dt><dd>{}</dd>", escaped(value));
    format!("<dl class=\"facts\">{}</dl>", facts.iter().map(fact).collect::<String>())
}

/// When the loss was in place in each pod.
fn timeline(report: &Report) -> String {
    let Some(begin) = report.started else { return "<p>It has not begun.</p>".to_owned() };
    let since = |at: Timestamp| at.duration_since(begin).as_secs_f64().max(0.0);
    let lines: Vec<_> = report.pods.iter().map(|pod| (pod, InPlace::of(pod, report.written))).collect();
    let ends =
        lines.iter().filter_map(|(_, line)| line.as_ref()).map(|line| since(line.from) + line.planned.unwrap_or(0.0).max(line.seconds));
    let end = ends.chain(report.ended.map(since)).fold(0.0, f64::max);
    if lines.is_empty() {
        return "<p>No pod was chosen.</p>".to_owned();
    }
    let scale = Scale::seconds(end);
    let row = |(pod, line): &(&PodLine, Option<InPlace>)| {
        let (picture, value) = match line {
            None => (scale.nothing(), format!("<span class=\"soft\">{}</span>", escaped(&pod.phase))),
            Some(line) => {
                let from = since(line.from);
                let picture = scale.time(from, from + line.seconds, line.planned.map(|planned| from + planned));
                let words = if line.is_counted {
                    "in place"
                } else if pod.is_open {
                    "so far"
                } else {
                    "until it was seen to have ended"
                };
                (picture, format!("{:.1} s {words}<br><span class=\"soft\">from {}</span>", line.seconds, line.from.strftime("%H:%M:%S")))
            }
        };
        format!("<div class=\"row\"><div>{}</div>{picture}<div class=\"value small\">{value}</div></div>\n", escaped(&pod.pod))
    };
    let rows: String = lines.iter().map(row).collect();
    let key = key(&[("bar", "the loss was in place"), ("plan", "for as long as was asked")]);
    format!(
        "<p class=\"soft small\">From {}, when it was planned.</p>\n{key}\n{rows}<div class=\"row axis\"><div></div>{}<div></div></div>",
        moment(begin),
        scale.labels()
    )
}

/// A loss in a pod.
struct InPlace {
    from: Timestamp,
    seconds: f64,
    planned: Option<f64>,
    /// Whether the agent said for how long, and not only somebody when it was over.
    is_counted: bool,
}

impl InPlace {
    fn of(pod: &PodLine, now: Timestamp) -> Option<Self> {
        let from = pod.applied?;
        let until_seen = pod.ended.unwrap_or(now).duration_since(from).as_secs_f64().max(0.0);
        let planned = pod.asked.duration.as_deref().and_then(|duration| duration.parse::<netloss_contract::Ttl>().ok());
        Some(Self {
            from,
            seconds: pod.loss_seconds.unwrap_or(until_seen),
            planned: planned.map(|ttl| ttl.duration().as_secs_f64()),
            is_counted: pod.loss_seconds.is_some(),
        })
    }
}

/// What was asked for and what was seen, in each pod and direction.
fn comparison(report: &Report) -> String {
    let mut lines: Vec<(&PodLine, &str, Seen)> = Vec::new();
    for pod in &report.pods {
        lines.extend(pod.egress.map(|seen| (pod, "sent", seen)));
        lines.extend(pod.ingress.map(|seen| (pod, "received", seen)));
    }
    if lines.is_empty() {
        return "<p>Nothing was counted.</p>".to_owned();
    }
    let most = lines.iter().map(|(pod, _, seen)| pod.asked.loss_percentage.max(seen.high.unwrap_or(0.0))).fold(0.0, f64::max);
    let scale = Scale::percent(most * 1.02);
    let row = |(pod, way, seen): &(&PodLine, &str, Seen)| {
        let share = seen.loss_percentage.zip(seen.low).zip(seen.high).map(|((share, low), high)| (share, low, high));
        let picture = scale.share(pod.asked.loss_percentage, pod.asked.predicted_percentage, share);
        let name = format!("{}<br><span class=\"soft\">{way}</span>", escaped(&pod.pod));
        let value = share.map_or_else(
            || "no packets".to_owned(),
            |_| format!("{}<br><span class=\"soft\">{} packets</span>{}", seen.words(), counts(seen), judgement(pod, seen)),
        );
        format!("<div class=\"row\"><div>{name}</div>{picture}<div class=\"value small\">{value}</div></div>\n")
    };
    let rows: String = lines.iter().map(row).collect();
    let mut signs = vec![("asked", "asked for"), ("seen", "seen, with its 95% interval (Wilson)")];
    if lines.iter().any(|(pod, _, _)| pod.asked.predicted_percentage.is_some()) {
        signs.insert(1, ("predicted", "what that loses in the long run, by the kernel's formula"));
    }
    format!(
        "<p class=\"soft small\">Counted in the pods' kernels, of the packets that met the loss. One interval in twenty misses what was asked for by chance alone; a figure is said to be more or less than asked where chance does so once in a million times.</p>\n{}\n{rows}<div class=\"row axis\"><div></div>{}<div></div></div>",
        key(&signs),
        scale.labels()
    )
}

/// What is to be said of a figure that is not as asked.
fn judgement(pod: &PodLine, seen: &Seen) -> String {
    let words = match pod.asked.expectation().judge(seen.packets, seen.dropped) {
        LossVerdict::TooFewPackets | LossVerdict::NoPackets => "too few packets to tell",
        LossVerdict::Above => "more than asked",
        LossVerdict::Below => "less than asked",
        LossVerdict::Consistent => return String::new(),
    };
    format!("<br><span class=\"busy\">{words}</span>")
}

fn pods(report: &Report) -> String {
    if report.pods.is_empty() {
        return "<p>There is none.</p>".to_owned();
    }
    let item = |pod: &PodLine| {
        let tone = if pod.loss_may_remain { Tone::Bad } else { tone(&pod.phase) };
        let backend =
            pod.backend.clone().map(|backend| if pod.unguarded == Some(true) { format!("{backend}, unguarded") } else { backend });
        let place: Vec<String> = [pod.node.as_ref().map(|node| format!("on {node}")), backend].into_iter().flatten().collect();
        let message = pod.message.as_deref().map(|message| format!("<br>{}", escaped(message))).unwrap_or_default();
        format!(
            "<li><div>{}<br><span class=\"soft small\">{}</span></div><div>{}</div><div>{}{message}</div></li>\n",
            escaped(&pod.pod),
            escaped(&place.join(", ")),
            badge(&pod.phase, tone),
            meaning(pod)
        )
    };
    format!("<ul class=\"pods\">\n{}</ul>", report.pods.iter().map(item).collect::<String>())
}

/// What a pod's phase means to who has not read the documents.
fn meaning(pod: &PodLine) -> &'static str {
    match pod.phase.as_str() {
        "planned" => "The agent is not in the pod yet.",
        "injected" => "The agent is in the pod; the loss is not in place yet.",
        "applied" => "The loss is in place.",
        "silent" => "The agent runs, and reports nothing.",
        "stopping" => "The agent is being stopped.",
        "repairing" => "What the agent may have left is being looked for.",
        "clean" => "The loss lasted as asked, and the agent verified that it is gone.",
        "shortened" => "The agent verified that the loss is gone. It lasted less than 90% of the duration.",
        "degraded" => {
            "The agent verified that the loss is gone. It was in force for less than 95% of the time: the agent got too little of a processor."
        }
        "failed" => "There was an error. The pod is as it was before.",
        "never-started" => "The agent did nothing: it was not put into the pod, or did not start in time.",
        "pod-ended" => "The pod ended or was replaced, and its network with it.",
        "repaired" => "The agent did not say how it ended. What it may have left was looked for, and is gone.",
        "sandbox-recreated" => "The pod got a new sandbox. The network that had the loss is gone.",
        "unknown" if pod.loss_may_remain => "The agent did not say how it ended. Loss may remain in the pod.",
        "unknown" => "The agent did not say how it ended. The kernel takes the loss away by itself.",
        _ => "",
    }
}

fn badge(word: &str, tone: Tone) -> String {
    let (class, sign) = match tone {
        Tone::Good => ("good", "✓"),
        Tone::Bad => ("bad", "✗"),
        Tone::Busy | Tone::Strong => ("busy", "!"),
        Tone::Quiet => ("quiet", "–"),
    };
    format!("<span class=\"badge {class}\"><span aria-hidden=\"true\">{sign}</span> {}</span>", escaped(word))
}

fn counts(seen: &Seen) -> String {
    format!("{} of {}", seen.dropped, seen.packets)
}

fn moment(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Words that are words and no markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures::report;

    #[test]
    fn a_page_needs_nothing_else() {
        let page = page(&report());
        for outside in ["http:", "https:", "<script", "<link", "<img", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}: {page}");
        }
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("name=\"viewport\"") && page.contains("default-src 'none'"));
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; | a &quot;b&quot; &amp; &#39;c&#39;"), "{page}");
    }

    #[test]
    fn what_comes_from_a_cluster_is_escaped_wherever_it_stands() {
        let evil = || "<b>&\"'".to_owned();
        let mut report = report();
        (report.namespace, report.experiment, report.phase) = (evil(), evil(), evil());
        (report.message, report.initiated_by, report.packets) = (Some(evil()), Some(evil()), vec![evil()]);
        report.asked.duration = Some(evil());
        for pod in &mut report.pods {
            (pod.pod, pod.phase, pod.node, pod.backend, pod.message) = (evil(), evil(), Some(evil()), Some(evil()), Some(evil()));
            pod.loss_may_remain = true;
        }
        let page = page(&report);
        assert!(!page.contains("<b>") && page.matches("&lt;b&gt;&amp;&quot;&#39;").count() > 15, "{page}");
    }

    #[test]
    fn pictures_show_when_and_how_much() {
        let page = page(&report());
        // Planned at 0, in place from the fifth second on, for 30 of 40 seconds.
        assert!(page.contains("<rect class=\"bar\" x=\"12.50%\" width=\"75.00%\""), "{page}");
        // 10 % asked for, on a scale to 15 %.
        assert!(page.contains("<line class=\"asked\" x1=\"66.67%\""), "{page}");
        assert!(
            page.contains(">9.8% (8.1-11.8)<br><span class=\"soft\">98 of 1000 packets</span></div>") && page.contains(">no packets</div>"),
            "{page}"
        );
        let empty = Report { pods: Vec::new(), started: None, ..report() };
        let empty = super::page(&empty);
        assert!(empty.contains("It has not begun.") && empty.contains("Nothing was counted."), "{empty}");
    }

    #[test]
    fn a_figure_that_is_not_as_asked_is_said_to_be_so() {
        let of = |packets, dropped, predicted| {
            let mut report = report();
            report.pods[0].egress = Some(Seen::new(packets, dropped, 10.0));
            report.pods[0].asked.predicted_percentage = predicted;
            page(&report)
        };
        assert!(of(1000, 200, None).contains("busy\">more than asked") && of(1000, 20, None).contains("busy\">less than asked"));
        assert!(of(20, 2, None).contains("busy\">too few packets to tell"));
        let predicted = of(1000, 20, Some(2.0));
        assert!(!predicted.contains("than asked<") && predicted.contains("<line class=\"predicted\" x1=\"13.33%\""), "{predicted}");
    }

    #[test]
    fn loss_that_may_remain_cannot_be_overlooked() {
        let mut report = report();
        assert!(!page(&report).contains("class=\"alert\""));
        (report.pods[0].loss_may_remain, report.pods[0].phase) = (true, "unknown".to_owned());
        let page = page(&report);
        assert!(page.contains("Loss may remain in 1 pod(s).") && page.contains("kubectl netloss doctor --fix -n n"), "{page}");
    }

    #[test]
    fn tags_are_closed() {
        let page = page(&report());
        for tag in
            ["svg", "text", "title", "dl", "dd", "dt", "ul", "li", "style", "span", "div", "p", "section", "header", "main", "footer"]
        {
            let (open, closed) = (
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count(),
                page.matches(&format!("</{tag}>")).count(),
            );
            assert_eq!(open, closed, "{tag}");
        }
    }
}
