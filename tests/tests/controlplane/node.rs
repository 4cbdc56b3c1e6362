//! A node whose kubelet answers nothing but requests for logs.

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use netloss_controller::api::PodStatus;
use netloss_lab::controlplane::Pki;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex};

type Logs = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// The node `localhost`.
pub(crate) struct Node {
    logs: Logs,
}

impl Node {
    /// Makes the node's object and serves its logs until the tests end.
    pub(crate) async fn start(client: Client, pki: &Pki) -> Self {
        let identity = pki.server("fake-kubelet", &["localhost"], &[Ipv4Addr::LOCALHOST]).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let logs = Logs::default();
        // A thread, as each test has a runtime of its own, which ends with it.
        let served = Arc::clone(&logs);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                // A client that goes away is not the node's business.
                let _ = answer(rustls::StreamOwned::new(connection, stream), &served);
            }
        });
        let api = Api::<NodeObject>::all(client);
        let node = serde_json::from_value(json!({ "metadata": { "name": "localhost" } })).unwrap();
        api.create(&PostParams::default(), &node).await.unwrap();
        let status = json!({ "status": {
            "addresses": [{ "type": "Hostname", "address": "localhost" }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
        } });
        api.patch_status("localhost", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        Self { logs }
    }

    /// What the agent's log in this pod says from now on.
    pub(crate) fn set_log(&self, entry: &PodStatus, text: impl Into<Vec<u8>>) {
        let path = format!("/containerLogs/{}/{}/{}", entry.namespace, entry.name, entry.container);
        self.logs.lock().unwrap().insert(path, text.into());
    }
}

/// One request, one answer.
fn answer(mut stream: impl std::io::Read + Write, logs: &Logs) -> std::io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(&mut stream);
    reader.read_line(&mut request)?;
    let mut header = String::from("more");
    while !header.trim().is_empty() {
        header.clear();
        reader.read_line(&mut header)?;
    }
    let path = request.split([' ', '?']).nth(1).unwrap_or_default();
    let (status, text) = match logs.lock().unwrap().get(path) {
        Some(text) => ("200 OK", text.clone()),
        None => ("404 Not Found", b"container not found".to_vec()),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len())?;
    stream.write_all(&text)?;
    stream.flush()
}
