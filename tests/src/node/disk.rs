//! The node's second disk: its configuration, keys, kubelet and images, made for one start.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{NAME, rootfs};
use crate::controlplane::{ControlPlane, HOST_FROM_GUEST, kubeconfig};

/// The files of `tests/node`, below their names on the disk.
const FILES: [(&str, &str); 4] = [
    ("init", include_str!("../../node/init")),
    ("shell", include_str!("../../node/shell")),
    ("containerd.toml", include_str!("../../node/containerd.toml")),
    ("cni/10-pods.conflist", include_str!("../../node/cni/10-pods.conflist")),
];
const KUBELET_CONFIG: &str = include_str!("../../node/kubelet.yaml");

/// The disk's name in the node's folder.
pub(super) const IMAGE: &str = "disk.img";

/// What goes onto the disk.
pub(super) struct Contents {
    pub(super) kubelet: PathBuf,
    pub(super) kubelet_port: u16,
    pub(super) api_port: u16,
    pub(super) identity: Identity,
    /// Archives that containerd imports.
    pub(super) images: Vec<PathBuf>,
}

/// Who the node is to others.
pub(super) struct Identity {
    kubeconfig: String,
    ca: String,
    certificate: String,
    key: String,
}

impl Identity {
    /// The kubelet's client and server certificates for the node's name.
    pub(super) fn issue(control_plane: &ControlPlane) -> Result<Self> {
        let pki = control_plane.pki();
        let client = pki.client("node", &format!("system:node:{NAME}"), "system:nodes")?;
        let server = pki.server("kubelet", &[NAME], &[])?;
        let address = format!("https://{HOST_FROM_GUEST}:{}", control_plane.port());
        Ok(Self {
            kubeconfig: kubeconfig(&address, pki, &client),
            ca: pki.ca().to_owned(),
            certificate: server.certificate,
            key: server.key,
        })
    }
}

impl Contents {
    /// Writes the disk's image into `dir`, which is created.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let files = dir.join("files");
        for folder in ["cni", "images", "pki"] {
            fs::create_dir_all(files.join(folder)).with_context(|| format!("cannot create {folder} in {}", files.display()))?;
        }
        for (name, content) in FILES {
            fs::write(files.join(name), content)?;
        }
        make_executable(&files.join("init"))?;
        fs::write(files.join("kubelet.yaml"), KUBELET_CONFIG.replace("KUBELET_PORT", &self.kubelet_port.to_string()))?;
        fs::write(files.join("environment"), format!("NODE_NAME={NAME}\nAPI_PORT={}\n", self.api_port))?;
        fs::write(files.join("kubeconfig"), &self.identity.kubeconfig)?;
        fs::write(files.join("pki/ca.crt"), &self.identity.ca)?;
        fs::write(files.join("pki/kubelet.crt"), &self.identity.certificate)?;
        fs::write(files.join("pki/kubelet.key"), &self.identity.key)?;
        copy(&self.kubelet, &files.join("kubelet"))?;
        let mut size = fs::metadata(&self.kubelet)?.len();
        for image in &self.images {
            let name = image.file_name().with_context(|| format!("{} is no file", image.display()))?.to_string_lossy().into_owned();
            let length = fs::metadata(image).with_context(|| format!("no {}", image.display()))?.len();
            // Imported in the order of these names, the small ones first: no pod starts before its sandbox's image is there.
            copy(image, &files.join("images").join(format!("{length:012}-{name}")))?;
            size += length;
        }
        // The file system's own structures take a few percent.
        let mebibytes = size / (1024 * 1024) * 11 / 10 + 32;
        // It is only read.
        rootfs::file_system(&files, &dir.join(IMAGE), &format!("{mebibytes}M"), "^has_journal")?;
        fs::remove_dir_all(&files).context("cannot remove the disk's files")
    }
}

/// A hard link where that is possible: the kubelet alone is 80 MB.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(|| format!("cannot make {} executable", path.display()))
}
