//! What the agent may, as the kernel of a node shows it and as code in its place finds it: the rights of docs/SECURITY.md and no others.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EphemeralContainer, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{LogParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use netloss_api::{PodStatus, SentContainer};
use netloss_core::container::{agent_container, patch, stop_container};
use netloss_lab::cluster::Image;
use netloss_lab::cluster::traffic::wait_ready;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::scenarios::{Stage, play};

const LIMIT: Duration = Duration::from_mins(3);

/// The lines `name: value` of what a script printed.
fn fields(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect()
}

/// What a process holds, by its /proc/PID/status.
fn ensure_rights(status: &str, user: u32, capabilities: u64) -> Result<()> {
    let fields = fields(status);
    let user = format!("{user}\t{user}\t{user}\t{user}");
    let of_caps = |set: &str| fields.get(set).and_then(|text| u64::from_str_radix(text, 16).ok());
    ensure!(fields.get("Uid") == Some(&user.as_str()) && fields.get("Gid") == Some(&user.as_str()), "{status}");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        ensure!(of_caps(set) == Some(capabilities), "{set}: {status}");
    }
    // For a program that it would execute.
    for set in ["CapInh", "CapAmb"] {
        ensure!(of_caps(set).is_some_and(|held| held & !capabilities == 0), "{set}: {status}");
    }
    // 2: a filter.
    ensure!(fields.get("NoNewPrivs") == Some(&"1") && fields.get("Seccomp") == Some(&"2"), "{status}");
    Ok(())
}

const NET_ADMIN: u64 = 1 << 12;

/// A pod that has what somebody could want: a secret in its environment, a volume, a token.
async fn lose_in_a_pod_with_secrets(stage: &Stage) -> Result<PodStatus> {
    let container = json!({
        "env": [{ "name": "APP_SECRET", "value": "hunter2" }],
        "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
    });
    stage.create("target", &["pause"], container, json!({ "volumes": [{ "name": "data", "emptyDir": {} }] })).await?;
    let pod = wait_ready(&stage.pods(), "target").await?;
    let mounts = pod.spec.context("no spec")?.containers.remove(0).volume_mounts.unwrap_or_default();
    ensure!(mounts.iter().any(|mount| mount.mount_path.contains("serviceaccount")), "the app itself has no token: {mounts:?}");
    Ok(stage.lose(json!({})).await?.pods.remove(0))
}

#[tokio::test]
async fn the_agents_process_has_one_capability_and_nothing_of_the_pods() {
    play("p-process", async |stage| {
        lose_in_a_pod_with_secrets(stage).await?;
        let uid = stage.experiments().get("loss").await?.uid().context("an experiment without a uid")?;
        let pod = stage.pods().get("target").await?.uid().context("a pod without a uid")?;
        // With few processes of its own: each costs an emulated node a while. The brackets keep a pattern from finding itself.
        let script = format!(
            r#"first() {{ echo "$1" | cut -d / -f 3; }}
            agent=$(first $(grep -l -e '-[-]run={uid}/' /proc/[0-9]*/cmdline 2>/dev/null))
            app=$(first $(grep -l '{pod}' $(grep -l 'APP_[S]ECRET' /proc/[0-9]*/environ 2>/dev/null | sed s/environ/cgroup/)))
            [ -n "$agent" ] && [ -n "$app" ] || {{ echo "agent $agent app $app"; exit 1; }}
            cat /proc/$agent/status
            for kind in net pid mnt ipc uts; do
                echo "$kind-agent: $(readlink /proc/$agent/ns/$kind | tr -d :)"
                echo "$kind-app: $(readlink /proc/$app/ns/$kind | tr -d :)"
                echo "$kind-host: $(readlink /proc/1/ns/$kind | tr -d :)"
            done
            echo "environment: $(tr '\0' ' ' </proc/$agent/environ)"
            echo "mounts: $(cut -d ' ' -f 2,4 /proc/$agent/mounts | tr '\n' ' ')"
            echo "programs: $(ls /proc/$agent/root/bin)"
            echo "seen-by-app: $(nsenter --target $app --pid -- unshare --mount sh -c 'mount -t proc proc /proc; cat /proc/[0-9]*/cmdline' | tr '\0' ' ')"
            echo "seen-by-agent: $(nsenter --target $agent --pid -- unshare --mount sh -c 'mount -t proc proc /proc; cat /proc/[0-9]*/cmdline' | tr '\0' ' ')""#
        );
        let answer = stage.cluster.node().run_within(&script, LIMIT).await?;
        ensure!(answer.success(), "{answer:?}");
        let text = answer.output;
        ensure_rights(&text, 0, NET_ADMIN)?;

        let fields = fields(&text);
        let namespace = |kind: &str, of: &str| fields.get(format!("{kind}-{of}").as_str()).copied().unwrap_or_default();
        // The pod's network is what it is for; that one sandbox has the pod's IPC and host name is Kubernetes' way.
        for (kind, is_apps) in [("net", true), ("ipc", true), ("uts", true), ("pid", false), ("mnt", false)] {
            ensure!((namespace(kind, "agent") == namespace(kind, "app")) == is_apps, "{kind}: {text}");
            ensure!(!namespace(kind, "agent").is_empty() && namespace(kind, "agent") != namespace(kind, "host"), "{kind}: {text}");
        }
        let field = |name: &str| fields.get(name).copied().unwrap_or_default();
        ensure!(!field("environment").contains("APP_SECRET"), "{text}");
        let mounts = field("mounts");
        ensure!(mounts.starts_with("/ ro,") && !mounts.contains("serviceaccount") && !mounts.contains("/data"), "{text}");
        ensure!(field("programs") == "netloss-agent", "{text}");
        ensure!(field("seen-by-app").contains("pause") && !field("seen-by-app").contains("netloss-agent"), "{text}");
        ensure!(field("seen-by-agent").contains("netloss-agent") && !field("seen-by-agent").contains("pause"), "{text}");
        stage.delete().await
    })
    .await;
}

/// Puts the lab's program into the pod in the place of a container of netloss's: its context, word for word. Returns what it says.
async fn attempts_as(stage: &Stage, entry: &PodStatus, name: &str, mut container: EphemeralContainer) -> Result<Value> {
    container.name = name.to_owned();
    container.image = Some(Image::Traffic.reference());
    container.args = Some(vec!["attempt".to_owned()]);
    let pods = stage.pods();
    pods.patch_ephemeral_containers("target", &PatchParams::default(), &Patch::Strategic(patch(entry, &container))).await?;
    let ended = |pod: Option<&Pod>| {
        let statuses = pod.and_then(|pod| pod.status.as_ref()).and_then(|status| status.ephemeral_container_statuses.as_ref());
        let own = statuses.and_then(|statuses| statuses.iter().find(|status| status.name == name));
        own.and_then(|status| status.state.as_ref()).is_some_and(|state| state.terminated.is_some())
    };
    timeout(LIMIT, await_condition(pods.clone(), "target", ended)).await.with_context(|| format!("{name} does not end"))??;
    let log = pods.logs("target", &LogParams { container: Some(name.to_owned()), ..LogParams::default() }).await?;
    serde_json::from_str(log.trim()).with_context(|| format!("{name} says: {log}"))
}

#[tokio::test]
async fn code_in_the_agents_place_gets_no_further() {
    play("p-attempts", async |stage| {
        let entry = lose_in_a_pod_with_secrets(stage).await?;
        let sent = SentContainer { container: String::new(), argv: Vec::new(), deadline: Time(Timestamp::now()), number: 1 };
        for (name, container, user, capabilities) in
            [("attempt-agent", agent_container(&entry), 0, NET_ADMIN), ("attempt-stop", stop_container(&entry, &sent), 65534, 0)]
        {
            let seen = attempts_as(stage, &entry, name, container).await?;
            let all = serde_json::to_string_pretty(&seen)?;
            let attempts = seen["attempts"].as_object().context("no attempts")?;
            ensure!(attempts.len() == 15 && attempts.values().all(|outcome| outcome != "done"), "{name}: {all}");
            // Without the runtime's filter any user may have a namespace of users, and be mighty in it.
            for refused in
                ["mount", "user namespace", "network namespace", "module", "packet socket", "raw socket", "device", "another user"]
            {
                ensure!(attempts[refused] == "EPERM", "{name}: {refused}: {all}");
            }
            for absent in ["service account", "volume", "devices"] {
                ensure!(attempts[absent] == "ENOENT", "{name}: {absent}: {all}");
            }
            ensure!(attempts["root file system"] == "EROFS", "{name}: {all}");
            ensure_rights(seen["status"].as_str().context("no status")?, user, capabilities)?;
            ensure!(seen["processes"] == json!(["traffic"]), "{name}: {all}");
            let environment = seen["environment"].as_array().context("no environment")?;
            ensure!(!environment.contains(&json!("APP_SECRET")), "{name}: {all}");
            // Kubernetes mounts the pod's into each of its containers, to be written by root: docs/SECURITY.md says so.
            ensure!(seen["hosts"] == if user == 0 { "done" } else { "EACCES" }, "{name}: {all}");
        }
        stage.delete().await
    })
    .await;
}
