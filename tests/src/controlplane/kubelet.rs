//! A kubelet that answers nothing but requests for logs, on loopback.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use super::Pki;

type Logs = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// Serves logs until the process ends.
#[derive(Debug)]
pub struct Kubelet {
    port: u16,
    logs: Logs,
}

impl Kubelet {
    /// The name by which the API server reaches it.
    pub const HOST: &str = "localhost";

    /// Starts to serve, on a port of its own.
    ///
    /// # Errors
    ///
    /// If no certificate can be issued, or no port is free.
    pub fn start(pki: &Pki) -> Result<Self> {
        let identity = pki.server("log-kubelet", &[Self::HOST], &[Ipv4Addr::LOCALHOST])?;
        let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key)?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let logs = Logs::default();
        // A thread, as each test has a runtime of its own, which ends with it.
        let served = Arc::clone(&logs);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Ok(connection) = rustls::ServerConnection::new(Arc::clone(&config)) else { return };
                // A client that goes away is not the kubelet's business.
                drop(answer(rustls::StreamOwned::new(connection, stream), &served));
            }
        });
        Ok(Self { port, logs })
    }

    /// What a container's log says from now on.
    pub fn set_log(&self, namespace: &str, pod: &str, container: &str, text: impl Into<Vec<u8>>) {
        let path = format!("/containerLogs/{namespace}/{pod}/{container}");
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).insert(path, text.into());
    }

    /// Where it is, as the status of its node's object says it.
    #[must_use]
    pub fn address(&self) -> Value {
        json!({
            "addresses": [{ "type": "Hostname", "address": Self::HOST }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": self.port } },
        })
    }
}

/// One request, one answer.
fn answer(mut stream: impl Read + Write, logs: &Logs) -> std::io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(&mut stream);
    reader.read_line(&mut request)?;
    let mut header = String::from("more");
    while !header.trim().is_empty() {
        header.clear();
        reader.read_line(&mut header)?;
    }
    let path = request.split([' ', '?']).nth(1).unwrap_or_default();
    let (status, text) = match logs.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
        Some(text) => ("200 OK", text.clone()),
        None => ("404 Not Found", b"container not found".to_vec()),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len())?;
    stream.write_all(&text)?;
    stream.flush()
}
