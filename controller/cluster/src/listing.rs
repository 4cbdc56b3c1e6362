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
pub const PAGE: u32 = 8;

/// Lists that expired between two pages and were begun again, at most. The API server compacts etcd every five minutes by default: a list that is slower
/// than that three times will not end.
const RESTARTS: usize = 3;

/// Objects of a kind in a namespace, or in all.
#[must_use]
pub fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The object that is named in a status or a record, which others may have written: what is no name at all names nothing, and is no error of a request.
///
/// # Errors
/// When the API server does not answer, or not to this client.
pub async fn named<K>(client: &Client, namespace: &str, name: &str) -> kube::Result<Option<Guarded<K>>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    if !is_name(namespace) || !is_name(name) {
        return Ok(None);
    }
    Api::<Guarded<K>>::namespaced(client.clone(), namespace).get_opt(name).await
}

/// Whether an object may have this name: a DNS subdomain (RFC 1123), which names of namespaces are as well.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = text.as_bytes();
    let all = bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'));
    all && bytes.len() <= 253 && is_edge(bytes.first()) && is_edge(bytes.last())
}

/// Whether the same request may be answered later: the API server was not reached, or had trouble of its own.
#[must_use]
pub fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => true,
        _ => false,
    }
}

/// The objects that `keep` makes something of, read in pages of `page`.
///
/// # Errors
/// When the API server does not list them. An object that does not decode is no error, it is given to `keep`.
pub async fn list<K, T>(
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
pub async fn metadata<K>(api: Api<K>, params: &ListParams) -> kube::Result<ObjectList<Guarded<PartialObjectMeta<K>>>>
where
    K: Resource + Clone,
{
    let request = Request::new(api.resource_url()).list_metadata(params).map_err(kube::Error::BuildRequest)?;
    api.into_client().request(request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use futures::FutureExt;
    use k8s_openapi::api::core::v1::Pod;

    #[tokio::test]
    async fn what_is_no_name_is_asked_of_nobody() {
        let client = testing::answering(|_| futures::future::pending().boxed());
        for (namespace, name) in
            [("n", ""), ("", "p"), ("n", "a b"), ("n", "../p"), ("n", "P"), ("a/b", "p"), ("n", "-p"), ("n", &"p".repeat(254))]
        {
            let answer = named::<Pod>(&client, namespace, name).now_or_never().unwrap_or_else(|| panic!("asked for {namespace}/{name}"));
            assert!(answer.unwrap().is_none(), "{namespace}/{name}");
        }
        assert!(is_name("p") && is_name("web-0.a") && is_name("kube-system"));
    }
}
