//! The documents of this repository.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::Document;

/// The root of the repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

impl Document {
    /// The one of this name.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn named(name: &str) -> Result<Self> {
        let text = fs::read_to_string(root().join(name)).with_context(|| format!("cannot read {name}"))?;
        Ok(Self { name: name.to_owned(), text })
    }

    /// The README, the changelog, and everything in docs.
    ///
    /// # Errors
    ///
    /// If one cannot be read.
    pub fn all() -> Result<Vec<Self>> {
        let root = root();
        let mut paths: Vec<PathBuf> = ["README.md", "CHANGELOG.md"].map(|name| root.join(name)).to_vec();
        for folder in ["docs", "docs/adr"] {
            for entry in fs::read_dir(root.join(folder)).with_context(|| format!("cannot read {folder}"))? {
                paths.push(entry?.path());
            }
        }
        let markdown = paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md"));
        markdown
            .map(|path| {
                let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                Ok(Self { name: path.strip_prefix(root)?.display().to_string(), text })
            })
            .collect()
    }
}

/// The commands that are marked with this name, in whichever document.
///
/// # Errors
///
/// If there are none, or others under the same name.
pub fn commands(name: &str) -> Result<String> {
    let mut found: Vec<String> = Document::all()?.iter().filter_map(|document| document.commands(name)).collect();
    found.dedup();
    ensure!(found.len() == 1, "{} different blocks are marked with <!-- run: {name} -->", found.len());
    Ok(found.remove(0))
}
