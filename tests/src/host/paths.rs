//! Where things are. Everything the lab downloads or builds lies below cargo's target folder, so `cargo clean` removes it.

use std::path::{Path, PathBuf};

/// The root of the workspace.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir).to_path_buf()
}

/// Cargo's target folder, with `CARGO_TARGET_DIR` honoured.
#[must_use]
pub fn target_dir() -> PathBuf {
    let root = workspace_root();
    // `join` keeps an absolute path as it is; a relative one is meant from the root, where the lab runs cargo.
    root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The lab's own folder: every download and every built tool is below it.
#[must_use]
pub fn lab_dir() -> PathBuf {
    target_dir().join("lab")
}
