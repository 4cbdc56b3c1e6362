//! `status`: what there is, and how it goes.

use super::{
    connect::{Cluster, Scope},
    error::Error,
    live,
    output::{Format, OutputArgs, Paint, Tone, document, note, print, table},
    preview,
    show::{tone, whole},
    view::{ExperimentView, Seen, span},
};
use clap::Args;
use jiff::Timestamp;
use kube::api::ListParams;
use netloss_api::ChaosExperiment;
use serde::Serialize;

/// Show experiments, or one of them with its pods
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Name of an experiment; left out it is all of the namespace
    name: Option<String>,

    /// Of all namespaces
    #[arg(long, short = 'A', conflicts_with = "name")]
    all_namespaces: bool,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    /// Why everything is frozen, if it is.
    frozen: Option<String>,
    experiments: Vec<ExperimentView>,
}

pub(super) async fn run(args: StatusArgs, cluster: &Cluster) -> Result<(), Error> {
    let format = args.output.output;
    if let Some(name) = &args.name {
        let object = cluster.experiment(name).await?;
        let figures = live::figures(cluster.client.clone(), vec![object.clone()]).await;
        let view = ExperimentView::new(&object, &figures, Timestamp::now());
        return print(&match format {
            Format::Json | Format::Yaml => document(format, "Experiment", &view)?,
            Format::Table | Format::Wide => whole(&view, format == Format::Wide, Paint::stdout()),
        });
    }
    let scope = cluster.scope(args.all_namespaces);
    let (objects, frozen) = futures::try_join!(experiments(cluster, &scope), preview::freeze(cluster))?;
    let figures = live::figures(cluster.client.clone(), objects.clone()).await;
    let now = Timestamp::now();
    let views = objects.iter().map(|object| ExperimentView::new(object, &figures, now)).collect();
    let list = List { frozen, experiments: views };
    if !format.is_table() {
        return print(&document(format, "ExperimentList", &list)?);
    }
    if let Some(reason) = &list.frozen {
        note(&format!("all experiments are frozen: {reason} ({})", cluster.command("unfreeze")));
    }
    if list.experiments.is_empty() {
        let place = if scope == Scope::All { "any namespace".to_owned() } else { format!("namespace \"{}\"", cluster.namespace) };
        note(&format!("no experiments in {place}"));
        return Ok(());
    }
    print(&text(&list.experiments, scope == Scope::All, format == Format::Wide, Paint::stdout(), now))
}

/// netloss's experiments in these namespaces. One that this version does not understand is named, and left out.
pub(super) async fn experiments(cluster: &Cluster, scope: &Scope) -> Result<Vec<ChaosExperiment>, Error> {
    let mut objects = cluster.list::<ChaosExperiment>(scope, &ListParams::default()).await.map_err(Error::api("listing experiments"))?;
    objects.retain(|object| object.spec.action.is_served());
    Ok(objects)
}

/// A table of experiments.
pub(super) fn text(views: &[ExperimentView], namespaces: bool, wide: bool, paint: Paint, now: Timestamp) -> String {
    let mut heading = vec!["NAME", "PHASE", "ASKED", "PODS", "EGRESS", "INGRESS", "LEFT", "AGE"];
    if namespaces {
        heading.insert(0, "NAMESPACE");
    }
    if wide {
        heading.extend(["RUN", "NEXT", "MESSAGE"]);
    }
    let rows: Vec<Vec<String>> = views.iter().map(|view| row(view, namespaces, wide, paint, now)).collect();
    table(&heading, &rows)
}

fn row(view: &ExperimentView, namespaces: bool, wide: bool, paint: Paint, now: Timestamp) -> Vec<String> {
    let seen = |seen: Option<Seen>| seen.map(|seen| seen.words()).unwrap_or_default();
    let phase = if view.loss_may_remain > 0 {
        paint.tone(Tone::Bad, &format!("{}, loss may remain", view.phase))
    } else {
        paint.tone(tone(&view.phase), &view.phase)
    };
    let mut row = vec![
        view.name.clone(),
        phase,
        view.asked.words(),
        format!("{}/{}", view.applied, view.planned),
        seen(view.egress),
        seen(view.ingress),
        view.seconds_left.map(span).unwrap_or_default(),
        view.created.map(|made| span(now.duration_since(made).as_secs())).unwrap_or_default(),
    ];
    if namespaces {
        row.insert(0, view.namespace.clone());
    }
    if wide {
        let next = view.next.map(|next| format!("in {}", span(next.duration_since(now).as_secs()))).unwrap_or_default();
        row.extend([view.run.map(|run| run.to_string()).unwrap_or_default(), next, view.message.clone().unwrap_or_default()]);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::LiveFigures;
    use netloss_core::machine::fixtures::{at, planned, spec};

    #[test]
    fn a_list_has_a_line_for_each() {
        let mut object = ChaosExperiment::new("x", spec());
        object.metadata.namespace = Some("n".to_owned());
        object.status = Some(planned(&spec(), 2));
        let view = ExperimentView::new(&object, &LiveFigures::new(), at(10));
        let narrow = text(std::slice::from_ref(&view), false, false, Paint::none(), at(10));
        assert_eq!(
            narrow,
            "NAME   PHASE     ASKED      PODS   EGRESS   INGRESS   LEFT    AGE\nx      Pending   10% both   0/2    -        -         2m20s   -\n"
        );
        let wide = text(&[view], true, true, Paint::none(), at(10));
        assert!(wide.starts_with("NAMESPACE   NAME") && wide.contains("Injecting 10% packet loss into 2 pod(s)"), "{wide}");
    }
}
