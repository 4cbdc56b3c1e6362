//! Lists of objects that anybody may have written: page by page, and one that cannot be decoded hides none of the others.

use crate::words::brief;
use kube::{
    Api, Resource,
    api::ListParams,
    core::{DeserializeGuard, ObjectMeta},
};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Experiments of one page: one may have 1.5 MiB, the most that etcd stores by default.
pub(crate) const PAGE: u32 = 8;

/// Lists that expired between two pages and were begun again, at most.
const RESTARTS: usize = 3;

/// An object that does not decode.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unreadable {
    /// Its metadata.
    pub(crate) metadata: ObjectMeta,
    /// Why it does not decode, on one line.
    pub(crate) error: String,
}

/// The objects that `keep` makes something of, read in pages of `page`.
///
/// # Errors
/// When the API server does not list them. An object that does not decode is no error, it is given to `keep`.
pub(crate) async fn list<K, T>(
    api: &Api<DeserializeGuard<K>>,
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
        for DeserializeGuard(object) in list.items {
            let object = object.map_err(|invalid| Unreadable { error: brief(&invalid.error), metadata: invalid.metadata });
            kept.extend(keep(object));
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => next = next.continue_token(&token),
            None => return Ok(kept),
        }
    }
}
