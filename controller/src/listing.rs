//! Lists of objects that anybody may have written: page by page, and one that cannot be decoded hides none of the others.

use crate::guarded::{Guarded, Unreadable};
use kube::{
    Api, Client, Resource,
    api::ListParams,
    core::{NamespaceResourceScope, ObjectList, PartialObjectMeta, Request},
};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Experiments of one page: one may have 1.5 MiB, the most that etcd stores by default.
pub(crate) const PAGE: u32 = 8;

/// Lists that expired between two pages and were begun again, at most.
const RESTARTS: usize = 3;

/// Objects of a kind in a namespace, or in all.
pub(crate) fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The objects that `keep` makes something of, read in pages of `page`.
///
/// # Errors
/// When the API server does not list them. An object that does not decode is no error, it is given to `keep`.
pub(crate) async fn list<K, T>(
    api: &Api<Guarded<K>>,
    params: &ListParams,
    page: u32,
    mut keep: impl FnMut(Result<K, Unreadable>) -> Option<T>,
) -> kube::Result<Vec<T>>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let (mut kept, mut restarts) = (Vec::new(), 0);
    let mut next = params.clone().limit(page);
    loop {
        let list = match api.list(&next).await {
            // The pages of one list are of one version, which etcd keeps for five minutes only.
            Err(kube::Error::Api(status)) if status.code == 410 && restarts < RESTARTS => {
                restarts += 1;
                kept.clear();
                next = params.clone().limit(page);
                continue;
            }
            answer => answer?,
        };
        kept.extend(list.items.into_iter().filter_map(|Guarded(object)| keep(object)));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => next = next.continue_token(&token),
            None => return Ok(kept),
        }
    }
}

/// A page of the objects' metadata, as [`Api::list_metadata`] reads it, with one that does not decode among the others.
///
/// # Errors
/// When the API server does not list them.
pub(crate) async fn metadata<K>(api: Api<K>, params: &ListParams) -> kube::Result<ObjectList<Guarded<PartialObjectMeta<K>>>>
where
    K: Resource + Clone,
{
    let request = Request::new(api.resource_url()).list_metadata(params).map_err(kube::Error::BuildRequest)?;
    api.into_client().request(request).await
}
