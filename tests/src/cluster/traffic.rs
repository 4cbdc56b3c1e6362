//! Pods that exchange packets with each other and say what arrived.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{AsyncBufReadExt, Stream, TryStreamExt};
use k8s_openapi::api::core::v1::{Capabilities, Container, Namespace, Pod, PodSpec, ResourceRequirements, SeccompProfile, SecurityContext};
use kube::api::{Api, LogParams, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use netloss_lab_traffic::Line;
use tokio::time::{Instant, sleep};

/// The port that the answering side listens on.
pub const PORT: u16 = 9000;
/// Two pods at once on an emulated node take some ten seconds.
const READY_LIMIT: Duration = Duration::from_mins(2);

/// A pod that is to exchange packets.
#[derive(Debug, Clone)]
pub struct TrafficPod<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a [(&'a str, &'a str)],
    /// The image with the program in it.
    pub image: &'a str,
}

impl TrafficPod<'_> {
    /// Starts it as the answering side. Returns its address.
    ///
    /// # Errors
    ///
    /// If it is refused or does not become Ready.
    pub async fn echo(&self, client: &Client) -> Result<SocketAddr> {
        let pod = self.start(client, vec!["echo".into(), format!("--port={PORT}")]).await?;
        let address = pod.status.and_then(|status| status.pod_ip).context("a Ready pod without an address")?;
        Ok(SocketAddr::new(address.parse()?, PORT))
    }

    /// Starts it as the side that sends a packet to `peer` every `interval`.
    ///
    /// # Errors
    ///
    /// If it is refused or does not become Ready.
    pub async fn probe(&self, client: &Client, peer: SocketAddr, interval: Duration) -> Result<()> {
        let arguments = vec!["probe".into(), format!("--to={peer}"), format!("--interval={}ms", interval.as_millis())];
        self.start(client, arguments).await.map(drop)
    }

    async fn start(&self, client: &Client, arguments: Vec<String>) -> Result<Pod> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), self.namespace);
        pods.create(&PostParams::default(), &self.object(arguments)).await.with_context(|| format!("cannot create pod {}", self.name))?;
        wait_ready(&pods, self.name).await
    }

    /// A pod that the strictest of the pod security standards admits: what is injected later is not its doing.
    fn object(&self, arguments: Vec<String>) -> Pod {
        let labels: BTreeMap<String, String> = self.labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let container = Container {
            name: "traffic".into(),
            image: Some(self.image.to_owned()),
            args: Some(arguments),
            security_context: Some(SecurityContext {
                run_as_non_root: Some(true),
                allow_privilege_escalation: Some(false),
                read_only_root_filesystem: Some(true),
                capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
                ..SecurityContext::default()
            }),
            resources: Some(ResourceRequirements::default()),
            ..Container::default()
        };
        Pod {
            metadata: ObjectMeta { name: Some(self.name.to_owned()), labels: Some(labels), ..ObjectMeta::default() },
            spec: Some(PodSpec { containers: vec![container], termination_grace_period_seconds: Some(2), ..PodSpec::default() }),
            ..Pod::default()
        }
    }
}

/// Creates a namespace unless it is there, and waits for its service account, without which pods are refused.
///
/// # Errors
///
/// If it is refused or gets no service account.
pub async fn create_namespace(client: &Client, name: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let object = Namespace { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..Namespace::default() };
    match namespaces.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => drop(other.with_context(|| format!("cannot create namespace {name}"))?),
    }
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), name);
    let deadline = Instant::now() + Duration::from_secs(30);
    while accounts.get_opt("default").await?.is_none() {
        if Instant::now() > deadline {
            bail!("the namespace {name} has no service account after 30 s");
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Waits until a pod is Ready.
///
/// # Errors
///
/// If it is not after two minutes; the message says what it waits for.
pub async fn wait_ready(pods: &Api<Pod>, name: &str) -> Result<Pod> {
    let deadline = Instant::now() + READY_LIMIT;
    loop {
        let pod = pods.get(name).await?;
        let status = pod.status.clone().unwrap_or_default();
        if status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
            return Ok(pod);
        }
        if Instant::now() > deadline {
            let containers = status.container_statuses.unwrap_or_default();
            let containers: Vec<_> = containers.into_iter().map(|container| container.state).collect();
            bail!("pod {} is not Ready after {} s: {:?} {containers:?}", pod.name_any(), READY_LIMIT.as_secs(), status.phase);
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// The lines that a traffic pod writes, from now on. They come through the kubelet and not through the pod's network.
///
/// # Errors
///
/// If the kubelet does not serve them.
pub async fn lines(pods: &Api<Pod>, name: &str) -> Result<impl Stream<Item = Result<Line>> + use<>> {
    let container = Some("traffic".to_owned());
    let parameters = LogParams { follow: true, tail_lines: Some(0), container, ..LogParams::default() };
    let log = pods.log_stream(name, &parameters).await.with_context(|| format!("cannot follow the log of {name}"))?;
    let parsed = log
        .lines()
        .map_err(anyhow::Error::from)
        .and_then(async |line| serde_json::from_str(&line).with_context(|| format!("not a line of the traffic program: {line}")));
    Ok(Box::pin(parsed))
}
