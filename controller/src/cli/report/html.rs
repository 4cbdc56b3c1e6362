//! A report as one page that needs nothing else: no script, no font, no image from anywhere.

use super::Report;
use crate::cli::view::{PodLine, Seen, span};
use jiff::Timestamp;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#59636e;--line:#d1d9e0;--back:#fff;--card:#f6f8fa;--seen:#0969da;--asked:#bf3989;--good:#1a7f37;--bad:#cf222e}\
@media(prefers-color-scheme:dark){:root{--ink:#f0f6fc;--soft:#9198a1;--line:#3d444d;--back:#0d1117;--card:#151b23;--seen:#4493f8;--asked:#db61a2;--good:#3fb950;--bad:#f85149}}\
*{box-sizing:border-box}body{margin:0 auto;max-width:60rem;padding:1rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back)}\
h1{font-size:1.4rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin-top:2rem}.result{padding:.1rem .6rem;border-radius:1rem;background:var(--card);border:1px solid var(--line)}\
.success{color:var(--good)}.failure,.partial{color:var(--bad)}dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}\
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}th{color:var(--soft);font-weight:500}\
svg{width:100%;height:auto;display:block}svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg .soft{fill:var(--soft)}.axis{stroke:var(--line)}\
.bar{fill:var(--seen)}.plan{fill:none;stroke:var(--line);stroke-dasharray:3}.interval{stroke:var(--seen);stroke-width:3}.dot{fill:var(--seen)}.asked{stroke:var(--asked);stroke-width:2}footer{margin-top:2rem;color:var(--soft);font-size:.85rem}";

/// Of the pictures, in their own units.
const WIDTH: f64 = 640.0;
/// What is kept for names.
const NAMES: f64 = 190.0;
const ROW: f64 = 26.0;
/// Below the rows, for the axis.
const FOOT: f64 = 24.0;

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let time = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
    let duration = report.asked.duration.as_deref().map(|duration| format!(" for {duration}")).unwrap_or_default();
    let (title, result) = (escaped(&report.title()), report.result_word());
    let mut facts = vec![
        ("asked for", format!("{}{duration}", report.asked.words())),
        ("phase", report.phase.clone()),
        ("started", time(report.started)),
        ("ended", time(report.ended)),
    ];
    facts.extend(report.message.clone().map(|message| ("said", message)));
    facts.extend(report.initiated_by.clone().map(|by| ("by", by)));
    let facts: Vec<String> = facts.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>", escaped(value))).collect();
    let facts = facts.concat();
    let rows: String = report.pods.iter().map(row).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{title}: {result}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title} <span class=\"result {class}\">{result}</span></h1>\n<dl>{facts}</dl>\n\
         <h2>When</h2>\n{timeline}\n<h2>Asked and seen</h2>\n<p>The line is what was asked for, the point what was seen, and the bar its 95 % interval (Wilson).</p>\n{seen}\n\
         <h2>Pods</h2>\n<div class=\"wide\"><table><tr><th>Pod<th>Node<th>Asked<th>Egress<th>Ingress<th>End<th></tr>{rows}</table></div>\n\
         <footer>Written {written} by kubectl-netloss {version}.</footer>\n</body>\n</html>\n",
        class = result.replace(' ', "-"),
        timeline = timeline(report),
        seen = comparison(report),
        written = time(Some(report.written)),
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn row(pod: &PodLine) -> String {
    let seen = |seen: Option<Seen>| seen.map_or_else(|| "-".to_owned(), |seen| format!("{}<br>{}", seen.words(), seen.counts()));
    let cells = [
        escaped(&pod.pod),
        escaped(pod.node.as_deref().unwrap_or("-")),
        escaped(&pod.asked.words()),
        seen(pod.egress),
        seen(pod.ingress),
        escaped(&pod.phase),
        escaped(pod.message.as_deref().unwrap_or_default()),
    ];
    format!("<tr>{}</tr>", cells.map(|cell| format!("<td>{cell}</td>")).concat())
}

/// When the loss was in place in each pod.
fn timeline(report: &Report) -> String {
    let ends = report.pods.iter().filter_map(|pod| pod.ended).chain(report.ended).max();
    let (Some(begin), end) = (report.started, ends.unwrap_or(report.written)) else { return "<p>It has not begun.</p>".to_owned() };
    let whole = end.duration_since(begin).as_secs_f64().max(1.0);
    let x = |at: Timestamp| NAMES + (WIDTH - NAMES - 10.0) * (at.duration_since(begin).as_secs_f64() / whole).clamp(0.0, 1.0);
    let bars = report.pods.iter().enumerate().map(|(n, pod)| {
        let y = ROW * n as f64;
        let bar = pod.applied.map_or_else(
            || format!("<text class=\"soft\" x=\"{NAMES}\" y=\"{:.1}\">{}</text>", y + 17.0, escaped(&pod.phase)),
            |applied| {
                let until = pod.ended.unwrap_or(end).max(applied);
                let (from, width) = (x(applied), (x(until) - x(applied)).max(2.0));
                let title = format!("{}: in place for {}", pod.pod, span(until.duration_since(applied).as_secs()));
                format!(
                    "<rect class=\"bar\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"14\" rx=\"3\"><title>{}</title></rect>",
                    y + 5.0,
                    escaped(&title)
                )
            },
        );
        format!("{}{bar}", name(&pod.pod, y))
    });
    let bars: String = bars.collect();
    let height = ROW * report.pods.len() as f64;
    let axis = format!(
        "<line class=\"axis\" x1=\"{NAMES}\" y1=\"{height:.1}\" x2=\"{end:.1}\" y2=\"{height:.1}\"/>\
         <text class=\"soft\" x=\"{NAMES}\" y=\"{label:.1}\">0s</text><text class=\"soft\" x=\"{end:.1}\" y=\"{label:.1}\" text-anchor=\"end\">{span}</text>",
        end = WIDTH - 10.0,
        label = height + 17.0,
        span = span(end.duration_since(begin).as_secs()),
    );
    picture("When the loss was in place in each pod", height + FOOT, &format!("{bars}{axis}"))
}

/// What was asked for and what was seen, in each pod and direction.
fn comparison(report: &Report) -> String {
    let lines = |pod: &PodLine| {
        let ways = [("egress", pod.egress), ("ingress", pod.ingress)];
        let of = |(way, seen): (&str, Option<Seen>)| seen.map(|seen| (format!("{} {way}", pod.pod), pod.asked.loss_percentage, seen));
        ways.into_iter().filter_map(of).collect::<Vec<_>>()
    };
    let lines: Vec<(String, f64, Seen)> = report.pods.iter().flat_map(lines).collect();
    if lines.is_empty() {
        return "<p>Nothing was counted.</p>".to_owned();
    }
    let most = lines.iter().map(|(_, asked, seen)| asked.max(seen.high.unwrap_or(0.0))).fold(1.0, f64::max) * 1.1;
    let scale = most.min(100.0);
    let x = |percent: f64| NAMES + (WIDTH - NAMES - 10.0) * (percent / scale).clamp(0.0, 1.0);
    let rows = lines.iter().enumerate().map(|(n, (label, asked, seen))| {
        let y = ROW * n as f64;
        let middle = y + 12.0;
        let asked = x(*asked);
        let line = format!("<line class=\"asked\" x1=\"{asked:.1}\" y1=\"{:.1}\" x2=\"{asked:.1}\" y2=\"{:.1}\"/>", y + 3.0, y + 21.0);
        let seen = match (seen.loss_percentage, seen.low, seen.high) {
            (Some(percent), Some(low), Some(high)) => format!(
                "<line class=\"interval\" x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\"/><circle class=\"dot\" cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"5\"><title>{}</title></circle>",
                x(low),
                x(high).max(x(low) + 1.0),
                x(percent),
                seen.words()
            ),
            _ => format!("<text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\">no packets</text>", asked + 8.0, y + 17.0),
        };
        format!("{}{line}{seen}", name(label, y))
    });
    let rows: String = rows.collect();
    let height = ROW * lines.len() as f64;
    let axis = format!(
        "<line class=\"axis\" x1=\"{NAMES}\" y1=\"{height:.1}\" x2=\"{end:.1}\" y2=\"{height:.1}\"/>\
         <text class=\"soft\" x=\"{NAMES}\" y=\"{label:.1}\">0 %</text><text class=\"soft\" x=\"{end:.1}\" y=\"{label:.1}\" text-anchor=\"end\">{scale:.1} %</text>",
        end = WIDTH - 10.0,
        label = height + 17.0,
    );
    picture("What was asked for and what was seen", height + FOOT, &format!("{rows}{axis}"))
}

fn picture(label: &str, height: f64, inside: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{label}\">{inside}</svg>")
}

/// A row's name, shortened to its place; the whole of it shows when it is pointed at.
fn name(text: &str, y: f64) -> String {
    const LONGEST: usize = 28;
    let count = text.chars().count();
    let short: String =
        if count > LONGEST { format!("…{}", text.chars().skip(count - LONGEST).collect::<String>()) } else { text.to_owned() };
    format!("<text x=\"0\" y=\"{:.1}\">{}<title>{}</title></text>", y + 17.0, escaped(&short), escaped(text))
}

/// Words that are words and no markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::report::fixtures::report;

    #[test]
    fn a_page_needs_nothing_else() {
        let page = page(&report());
        for outside in ["http:", "https:", "<script", "<link", "<img", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}: {page}");
        }
        assert!(page.contains("prefers-color-scheme:dark") && page.contains("name=\"viewport\""));
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; | a &quot;b&quot; &amp; &#39;c&#39;"), "{page}");
    }

    #[test]
    fn pictures_show_when_and_how_much() {
        let page = page(&report());
        assert_eq!(page.matches("<svg ").count(), 2);
        // In place from the fifth to the thirty-fifth of forty seconds: (640 - 190 - 10) / 40 is 11 for each.
        assert!(page.contains("<rect class=\"bar\" x=\"245.0\" y=\"5.0\" width=\"330.0\""), "{page}");
        assert!(page.contains("<title>9.8% (8.1-11.8)</title>") && page.contains(">no packets</text>"), "{page}");
        let empty = Report { pods: Vec::new(), started: None, ..report() };
        assert!(super::page(&empty).contains("It has not begun."));
    }

    #[test]
    fn tags_are_closed() {
        let page = page(&report());
        for tag in ["svg", "text", "title", "dl", "table", "td", "tr", "style", "span", "div"] {
            let (open, closed) = (
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count(),
                page.matches(&format!("</{tag}>")).count(),
            );
            assert_eq!(open, closed, "{tag}");
        }
    }
}
