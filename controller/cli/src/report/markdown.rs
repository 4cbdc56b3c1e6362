//! A report as Markdown.

use super::Report;
use crate::view::{PodLine, Seen};

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let time = |time: Option<jiff::Timestamp>| time.map_or_else(|| "-".to_owned(), |time| time.to_string());
    let duration = report.asked.duration.as_deref().map(|duration| format!(" for {duration}")).unwrap_or_default();
    let mut text = format!(
        "# {}: {}\n\n| | |\n|---|---|\n| asked for | {}{duration} |\n| phase | {} |\n| started | {} |\n| ended | {} |\n",
        cell(&report.title()),
        report.result_word(),
        report.asked.words(),
        report.phase,
        time(report.started),
        time(report.ended),
    );
    let packets = (!report.packets.is_empty()).then(|| report.packets.join("; "));
    for (name, value) in [("packets", &packets), ("said", &report.message), ("field manager", &report.initiated_by)] {
        text += &value.as_deref().map(|value| format!("| {name} | {} |\n", cell(value))).unwrap_or_default();
    }
    text += "\n## Pods\n\nSeen with its 95 % interval (Wilson), and dropped of all packets that met the loss.\n\n";
    text += "| pod | node | asked | egress | ingress | end | |\n|---|---|---|---|---|---|---|\n";
    text += &report.pods.iter().map(row).collect::<String>();
    let written = format!("\nWritten {} by kubectl-netloss {}.\n", report.written, env!("CARGO_PKG_VERSION"));
    text + &written
}

fn row(pod: &PodLine) -> String {
    let seen = |seen: Option<Seen>| seen.map_or_else(|| "-".to_owned(), |seen| format!("{}, {}", seen.words(), seen.counts()));
    let (node, message) = (pod.node.as_deref().unwrap_or("-"), pod.message.as_deref().unwrap_or_default());
    format!(
        "| {} | {} | {} | {} | {} | {} | {} |\n",
        cell(&pod.pod),
        cell(node),
        pod.asked.words(),
        seen(pod.egress),
        seen(pod.ingress),
        pod.phase,
        cell(message)
    )
}

/// Words that stay in their cell.
fn cell(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures::report;

    #[test]
    fn a_page_says_what_was_asked_and_seen() {
        let page = page(&report());
        assert!(page.starts_with("# n/x, run 1: partial\n\n| | |\n|---|---|\n| asked for | 10% both for 30s |\n"), "{page}");
        assert!(page.contains("| p | - | 10% both | 9.8% (8.1-11.8), 98/1000 | no packets, 0/0 | clean |  |\n"), "{page}");
        assert!(page.contains("| &lt;script>alert(1)&lt;/script> \\| a \"b\" & 'c' |\n"), "{page}");
    }
}
