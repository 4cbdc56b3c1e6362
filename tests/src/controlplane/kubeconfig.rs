//! Kubeconfig files with everything inside, so that one can be copied to where it is needed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::pki::{Identity, Pki};

/// The name of the cluster, the user and the context.
pub const CONTEXT: &str = "netloss-lab";

/// The text of a kubeconfig for `identity` at `server`.
#[must_use]
pub fn kubeconfig(server: &str, pki: &Pki, identity: &Identity) -> String {
    let ca = STANDARD.encode(pki.ca());
    let certificate = STANDARD.encode(&identity.certificate);
    let key = STANDARD.encode(&identity.key);
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {CONTEXT}
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: {CONTEXT}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: {CONTEXT}
  context:
    cluster: {CONTEXT}
    user: {CONTEXT}
current-context: {CONTEXT}
"
    )
}
