//! The manifests of config/samples, which docs/SCENARIOS.md explains: each on an API server, with pods to act on, and what comes of it.

use crate::world::World;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{Patch, PatchParams};
use netloss_api::{Phase, PodState};
use netloss_lab::host::paths::workspace_root;
use netloss_lab_documents::Document;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Ready pods that each scenario finds.
const PODS: usize = 12;

/// What comes of an experiment.
enum Comes {
    /// Agents in so many pods, with these among their arguments.
    Injected(usize, &'static [&'static str]),
    /// No agent, and a message that begins so.
    Held(Phase, &'static str),
}

/// Each scenario, by what its file is called.
fn expected() -> BTreeMap<&'static str, Comes> {
    use Comes::{Held, Injected};
    [
        ("", Injected(1, &["--loss=10", "--direction=both", "--ttl=30s"])),
        ("_share", Injected(2, &["--loss=10", "--ttl=5m"])),
        ("_dependency", Injected(PODS, &["--loss=5", "--target=10.20.0.0/16:5432/tcp", "--per-segment"])),
        ("_dns", Injected(1, &["--loss=20", "--target=any:53/udp"])),
        ("_received", Injected(1, &["--loss=15", "--direction=ingress"])),
        ("_blackout", Injected(1, &["--loss=100", "--spare-node=172.18.0.2"])),
        ("_bursts", Injected(1, &["--model=gilbert", "--burst=8", "--target=10.20.0.0/16/tcp", "--spare=any:53"])),
        ("_measured", Injected(1, &["--model=gemodel,1,20,60,0.1", "--seed=7"])),
        ("_correlated", Injected(1, &["--loss=10", "--correlation=25"])),
        ("_scheduled", Held(Phase::Pending, "Scheduled: the next run is at ")),
        ("_window", Held(Phase::Pending, "Scheduled: the next run is at ")),
        ("_dry_run", Held(Phase::Completed, "DRY RUN: would inject 10% packet loss (pod-network-loss) into 3 pod(s)")),
        ("_after", Held(Phase::Pending, "Waiting")),
        ("_by_hand", Held(Phase::Paused, "Paused")),
        ("_production", Injected(1, &["--loss=2", "--backend=guarded"])),
        ("_second_network", Injected(1, &["--interface=net1"])),
        ("_other_namespace", Injected(1, &["--loss=10"])),
    ]
    .into()
}

/// The committed manifests, by what their files are called, and their text without the comment on top.
pub(crate) fn samples() -> BTreeMap<String, String> {
    let files = std::fs::read_dir(workspace_root().join("config/samples")).unwrap().map(|file| file.unwrap().path());
    let sample = |path: std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let name = name.strip_prefix("chaos_v1alpha1_chaosexperiment_network_loss").unwrap_or_else(|| panic!("{name}"));
        let text = std::fs::read_to_string(&path).unwrap();
        let begin = text.find("apiVersion:").unwrap();
        (name.to_owned(), text[begin..].to_owned())
    };
    files.map(sample).collect()
}

async fn change(world: &World, metadata: Value) {
    let namespaces = Api::<Namespace>::all(world.client.clone());
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    namespaces.patch(&world.namespace, &PatchParams::default(), &patch).await.unwrap();
}

async fn comes_of(sample: &str, text: &str, expected: Comes) {
    let manifest: Value = serde_saphyr::from_str(text).unwrap();
    let mut spec = manifest["spec"].clone();
    let name = manifest["metadata"]["name"].as_str().unwrap();
    let world = World::new(&format!("scenario{}", sample.replace('_', "-"))).await;
    let targets = if spec["namespace"].is_string() { World::new("scenario-targets").await } else { world.clone() };
    if spec["namespace"].is_string() {
        spec["namespace"] = json!(targets.namespace);
        change(&targets, json!({ "annotations": { "chaos.gushchin.dev/allow-experiments-from": world.namespace } })).await;
    }
    if spec["allowProduction"] == json!(true) {
        change(&targets, json!({ "labels": { "environment": "production" } })).await;
    }
    let ready = json!({
        "phase": "Running", "hostIP": "172.18.0.2", "hostIPs": [{ "ip": "172.18.0.2" }], "conditions": [{ "type": "Ready", "status": "True" }],
    });
    for number in 0..PODS {
        let pod = format!("pod-{number}");
        targets.pod_with(&pod, json!({ "labels": spec["selector"] }), json!({})).await;
        targets.set_status(&pod, ready.clone()).await;
    }
    world.apply(name, spec).await.unwrap_or_else(|refusal| panic!("{sample}: {refusal}"));
    world.pass(name, 0).await;

    let status = world.status(name).await;
    let mut agents = Vec::new();
    for number in 0..PODS {
        agents.extend(targets.agents(&format!("pod-{number}")).await);
    }
    match expected {
        Comes::Injected(pods, arguments) => {
            assert_eq!((agents.len(), status.pods.len()), (pods, pods), "{sample}: {:?}", status.message);
            assert!(status.pods.iter().all(|pod| pod.state == PodState::Injected), "{sample}: {:?}", status.pods);
            let argv = agents[0].args.clone().unwrap();
            for argument in arguments {
                assert!(argv.iter().any(|given| given == argument), "{sample}: {argument} is not in {argv:?}");
            }
        }
        Comes::Held(phase, words) => {
            assert!(agents.is_empty(), "{sample}: {agents:?}");
            assert_eq!(status.phase, Some(phase), "{sample}: {:?}", status.message);
            assert!(status.message.as_deref().unwrap_or_default().starts_with(words), "{sample}: {:?}", status.message);
        }
    }
}

#[tokio::test]
async fn each_scenario_comes_to_what_it_says() {
    let mut expected = expected();
    for (sample, text) in samples() {
        let comes = expected.remove(sample.as_str()).unwrap_or_else(|| panic!("nothing is expected of {sample:?}"));
        Box::pin(comes_of(&sample, &text, comes)).await;
    }
    assert!(expected.is_empty(), "there are no files for {:?}", expected.into_keys().collect::<Vec<_>>());
}

/// The page shows the files as they are, all of them and no other.
#[test]
fn the_page_has_each_scenario_word_for_word() {
    let page = Document::named("docs/SCENARIOS.md").unwrap();
    let mut shown: Vec<String> = page.blocks().into_iter().filter(|block| block.language == "yaml").map(|block| block.text).collect();
    let mut samples: Vec<String> = samples().into_values().collect();
    shown.sort();
    samples.sort();
    assert!(shown == samples, "docs/SCENARIOS.md and config/samples differ:\n{shown:#?}\n{samples:#?}");
}

/// The README's manifests are taken too, the one that has only a spec included.
#[tokio::test]
async fn the_readmes_manifests_are_taken() {
    let world = World::new("scenario-readme").await;
    let readme = Document::named("README.md").unwrap();
    let manifests: Vec<String> = readme.blocks().into_iter().filter(|block| block.language == "yaml").map(|block| block.text).collect();
    assert_eq!(manifests.len(), 2);
    for (name, text) in ["whole", "fields"].iter().zip(&manifests) {
        let manifest: Value = serde_saphyr::from_str(text).unwrap();
        world.apply(name, manifest["spec"].clone()).await.unwrap();
    }
}
