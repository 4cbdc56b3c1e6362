//! Installs the definitions, and leaves alone those of somebody else: k8s-chaos has definitions of the same names.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use netloss_api::{DEFINITIONS, PART_OF};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tracing::info;

/// Who writes, in managedFields.
const FIELD_MANAGER: &str = "netloss-definitions";

/// How long a definition may take to be served. A judgement, for an API server that has just started.
const SERVED_WITHIN: Duration = Duration::from_mins(1);

/// Why definitions were not installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do what it was asked.
    #[error("{what} the definition {name}: {source}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// Which one.
        name: String,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// One that is there is somebody else's.
    #[error(
        "the definition {0} is there and is not netloss's: nothing was changed. To take it over, which keeps its objects, run this with --adopt"
    )]
    Foreign(String),
    /// The API server took it, and does not serve it.
    #[error("the definition {0} is installed, and not served yet: see its conditions (kubectl describe crd {0})")]
    NotServed(String),
}

/// Installs all of them, or brings them up to date; those of somebody else only with `adopt`. Nothing is changed where one of them may not be.
///
/// # Errors
/// When one is somebody else's, or the API server refuses.
pub async fn install(client: &Client, adopt: bool) -> Result<(), Error> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let wanted = DEFINITIONS.map(|definition| definition.labelled());
    for crd in &wanted {
        let there = api.get_opt(&crd.name_any()).await.map_err(error("looking for", crd))?;
        if there.is_some_and(|there| !is_ours(&there)) && !adopt {
            return Err(Error::Foreign(crd.name_any()));
        }
    }
    for crd in &wanted {
        let name = crd.name_any();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&name, &params, &Patch::Apply(crd)).await.map_err(error("installing", crd))?;
        wait_until_served(&api, crd).await?;
        info!(name, "the definition is installed");
    }
    Ok(())
}

/// Whether netloss has installed it.
#[must_use]
pub fn is_ours(crd: &CustomResourceDefinition) -> bool {
    crd.labels().get(PART_OF.0).is_some_and(|whose| whose == PART_OF.1)
}

fn error(what: &'static str, crd: &CustomResourceDefinition) -> impl FnOnce(kube::Error) -> Error {
    let name = crd.name_any();
    move |source| Error::Api { what, name, source: Box::new(source) }
}

async fn wait_until_served(api: &Api<CustomResourceDefinition>, crd: &CustomResourceDefinition) -> Result<(), Error> {
    let (name, deadline) = (crd.name_any(), Instant::now() + SERVED_WITHIN);
    loop {
        let there = api.get(&name).await.map_err(error("looking at", crd))?;
        let conditions = there.status.iter().flat_map(|status| status.conditions.iter().flatten());
        if conditions.into_iter().any(|condition| condition.type_ == "Established" && condition.status == "True") {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::NotServed(name));
        }
        sleep(Duration::from_millis(200)).await;
    }
}
