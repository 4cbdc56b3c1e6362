//! Reports as files: JSON and plots in docs/performance, and sections of docs/PERFORMANCE.md that are made from them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use netloss_lab::host::paths;
use netloss_lab_measure::{Comparison, Goal, Report, Variant, figure};

use super::plot;

/// The document, as seen from the root of the repository.
const DOCUMENT: &str = "docs/PERFORMANCE.md";

/// The folder of reports and plots, as seen from the document.
const FOLDER: &str = "performance";

fn folder() -> PathBuf {
    paths::workspace_root().join("docs").join(FOLDER)
}

/// Keeps a report in the repository: its file, its plot and its section of the document.
///
/// # Errors
///
/// If something cannot be written, or the document is not as it was made.
pub fn publish(report: &Report) -> Result<()> {
    write(report, &folder())?;
    let document = paths::workspace_root().join(DOCUMENT);
    let text = fs::read_to_string(&document).with_context(|| format!("cannot read {DOCUMENT}"))?;
    fs::write(&document, with_section(&text, report)?).with_context(|| format!("cannot write {DOCUMENT}"))
}

/// Writes a report and its plot into a folder.
///
/// # Errors
///
/// If something cannot be written.
fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let json = serde_json::to_string_pretty(report)?;
    fs::write(folder.join(&report.name).with_extension("json"), json + "\n").context("cannot write a report")?;
    if report.comparisons.iter().any(|comparison| comparison.drawn) {
        fs::write(folder.join(&report.name).with_extension("svg"), plot::svg(report)?).context("cannot write a plot")?;
    }
    Ok(())
}

/// All reports that are kept in the repository.
///
/// # Errors
///
/// If one cannot be read.
pub fn stored() -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for entry in fs::read_dir(folder()).context("cannot read the folder of reports")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read_to_string(&path)?;
            reports.push(serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))?);
        }
    }
    Ok(reports)
}

fn marks(name: &str) -> (String, String) {
    (format!("<!-- bench {name}: made by tests/lab bench -->"), format!("<!-- end of bench {name} -->"))
}

/// The document with the section of a report in its place; at the end, where it has none yet.
///
/// # Errors
///
/// If a section begins and does not end.
pub fn with_section(text: &str, report: &Report) -> Result<String> {
    let (begin, end) = marks(&report.name);
    let section = section(report);
    let Some((before, rest)) = text.split_once(&begin) else {
        return Ok(format!("{}\n\n{section}", text.trim_end()));
    };
    let parts = rest.split_once(&end);
    ensure!(parts.is_some(), "{DOCUMENT} has the line {begin} and not the line {end}");
    let after = parts.map_or("", |(_, after)| after);
    Ok(format!("{before}{}{after}", section.trim_end()))
}

/// A report as the document has it, between its marks.
#[must_use]
pub fn section(report: &Report) -> String {
    let (begin, end) = marks(&report.name);
    let mut text = format!("{begin}\n## {}\n\n{}\n\n", report.title, report.about);
    // Those with the same variants are one table.
    for tabled in report.comparisons.chunk_by(|one, other| names(one).eq(names(other))) {
        text += &table(tabled);
        text.push('\n');
    }
    let reasons: BTreeSet<&str> = goals(report).filter_map(|goal| goal.because.as_deref()).collect();
    for because in reasons {
        let _ = writeln!(text, "Missed: {because}\n");
    }
    if report.comparisons.iter().any(|comparison| comparison.drawn) {
        let _ = writeln!(text, "![{}]({FOLDER}/{}.svg)\n", report.title, report.name);
    }
    let _ = writeln!(
        text,
        "`{}` measures it again; every sample is in [{FOLDER}/{name}.json]({FOLDER}/{name}.json). {}.\n{end}",
        report.command,
        report.machine,
        name = report.name
    );
    text
}

fn goals(report: &Report) -> impl Iterator<Item = &Goal> {
    report.comparisons.iter().flat_map(|comparison| &comparison.goals)
}

fn names(comparison: &Comparison) -> impl Iterator<Item = &str> {
    comparison.variants.iter().map(|variant| variant.name.as_str())
}

fn table(comparisons: &[Comparison]) -> String {
    let has_goals = comparisons.iter().any(|comparison| !comparison.goals.is_empty());
    let variants: Vec<&str> = comparisons.first().map(|first| names(first).collect()).unwrap_or_default();
    let goal = if has_goals { " goal |" } else { "" };
    let mut text =
        format!("| | {} |{goal}\n|---|{}{}\n", variants.join(" | "), "---|".repeat(variants.len()), if has_goals { "---|" } else { "" });
    for comparison in comparisons {
        let cells: Vec<String> = comparison.variants.iter().map(cell).collect();
        let unit = if comparison.unit.is_empty() { String::new() } else { format!(", {}", comparison.unit) };
        let _ = write!(text, "| {}{unit} | {} |", comparison.what, cells.join(" | "));
        if has_goals {
            let goals: Vec<String> = comparison.goals.iter().map(reached).collect();
            let _ = write!(text, " {} |", goals.join("; "));
        }
        text.push('\n');
    }
    text
}

fn cell(variant: &Variant) -> String {
    let [low, high] = variant.quartiles.map(figure);
    let median = figure(variant.median);
    if low == median && high == median { median } else { format!("{median} ({low}–{high})") }
}

fn reached(goal: &Goal) -> String {
    let verdict = if goal.met { "met" } else { "**missed**" };
    match &goal.to {
        Some(to) => format!("{} {} × {to}: {}, {verdict}", goal.of, goal.wanted, figure(goal.reached)),
        None => format!("{} {}: {}, {verdict}", goal.of, goal.wanted, figure(goal.reached)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netloss_lab_measure::Bound;

    /// Figures are not written by hand.
    #[test]
    fn the_figures_of_performance_are_those_of_their_reports() {
        let text = fs::read_to_string(paths::workspace_root().join(DOCUMENT)).unwrap();
        for report in stored().unwrap() {
            let rendered = with_section(&text, &report).unwrap();
            assert!(rendered == text, "{DOCUMENT} does not have the figures of {}: `tests/lab bench {0}` makes them anew", report.name);
        }
    }

    fn report() -> Report {
        let time = Comparison::new("egress applied", "ms").variant("ours", vec![1.0, 2.0, 3.0]).variant("theirs", vec![10.0; 3]);
        Report {
            name: "start".into(),
            title: "Start".into(),
            about: "About it.".into(),
            command: "tests/lab bench start".into(),
            machine: "Measured here".into(),
            comparisons: vec![time.ratio("ours", "theirs", Bound::AtMost(0.1), None).because("It is slow.")],
        }
    }

    #[test]
    fn a_section_has_medians_quartiles_and_goals() {
        let text = section(&report());
        assert!(text.contains("| egress applied, ms | 2 (1.5–2.5) | 10 | ours ≤ 0.1 × theirs: 0.2, **missed** |"), "{text}");
        assert!(text.contains("Missed: It is slow.") && text.contains("performance/start.svg"), "{text}");
    }

    #[test]
    fn a_section_is_replaced_where_it_is_and_appended_where_it_is_not() {
        let first = with_section("# Performance\n", &report()).unwrap();
        assert_eq!(with_section(&first, &report()).unwrap(), first);
        let between = first.replace("About it.", "Old words.") + "\nAfter it.\n";
        let again = with_section(&between, &report()).unwrap();
        assert!(again.contains("About it.") && !again.contains("Old words.") && again.ends_with("After it.\n"), "{again}");
    }

    #[test]
    fn a_plot_names_its_variants() {
        let svg = plot::svg(&report()).unwrap();
        assert!(svg.contains("<svg") && svg.contains("theirs") && svg.contains("egress applied"), "{svg}");
    }
}
