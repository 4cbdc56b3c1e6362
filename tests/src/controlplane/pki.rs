//! The keys and certificates of one cluster, made anew for each start.
//!
//! Every connection is authenticated both ways, as on a cluster that one would run: a client that skips the check of the
//! server's certificate would not notice that it talks to another lab's API server on a reused port.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

/// The address of the service `kubernetes` in the cluster.
pub const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The address at which a guest of QEMU's user network reaches the machine's loopback.
pub const HOST_FROM_GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// A certificate authority that keeps what it issues in a folder.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

/// A certificate and its private key, as PEM and as files.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS #8.
    pub key: String,
    /// Where the certificate is.
    pub certificate_file: PathBuf,
    /// Where the key is.
    pub key_file: PathBuf,
}

/// Where the two halves of a key pair are.
#[derive(Debug, Clone)]
pub struct KeyFiles {
    /// The half that signs.
    pub private: PathBuf,
    /// The half that checks.
    pub public: PathBuf,
}

impl Pki {
    /// A new authority, in a folder that is created.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "netloss lab");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_pem = params.self_signed(&key)?.pem();
        fs::write(dir.join("ca.crt"), &ca_pem)?;
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(params, key), ca_pem })
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.ca_pem
    }

    /// Where the authority's certificate is.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// A server's certificate, for the names and addresses at which it is reached.
    ///
    /// # Errors
    ///
    /// If a name is none or the files cannot be written.
    pub fn server(&self, name: &str, names: &[&str], addresses: &[Ipv4Addr]) -> Result<Identity> {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?;
        params.subject_alt_names.extend(addresses.iter().map(|&address| SanType::IpAddress(IpAddr::V4(address))));
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(name, params)
    }

    /// A client's certificate: Kubernetes takes the common name as the user and the organization as its group.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn client(&self, file: &str, user: &str, group: &str) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(file, params)
    }

    /// The key pair that service account tokens are signed and checked with.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn service_account_key(&self) -> Result<KeyFiles> {
        let key = KeyPair::generate()?;
        let files = KeyFiles { private: self.dir.join("service-account.key"), public: self.dir.join("service-account.pub") };
        fs::write(&files.private, key.serialize_pem())?;
        fs::write(&files.public, key.public_key_pem())?;
        Ok(files)
    }

    fn issue(&self, name: &str, mut params: CertificateParams) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let identity = Identity {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
            certificate_file: self.dir.join(format!("{name}.crt")),
            key_file: self.dir.join(format!("{name}.key")),
        };
        fs::write(&identity.certificate_file, &identity.certificate)?;
        fs::write(&identity.key_file, &identity.key)?;
        Ok(identity)
    }
}
