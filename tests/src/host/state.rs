//! The folder of one running cluster: its keys, logs, sockets and the records of its processes.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use super::paths;
use super::process::Record;

/// The file in which a detached cluster's processes are recorded, in the order in which they are to be ended.
const RECORDS: &str = "processes.json";
/// The file that says which lab a folder belongs to.
const OWNER: &str = "owner.json";

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A folder below `target/lab/clusters`, readable by its owner only: there are private keys in it.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    temporary: bool,
}

impl StateDir {
    /// A folder that is removed with this value. When a test panics it stays, for its logs, until the next run.
    ///
    /// # Errors
    ///
    /// If the file system refuses.
    pub fn temporary() -> Result<Self> {
        sweep()?;
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = Self { path: create(&name)?, temporary: true };
        let owner = Record::this_process("lab")?;
        fs::write(dir.path.join(OWNER), serde_json::to_vec(&owner)?)?;
        Ok(dir)
    }

    /// A folder that stays, under a name by which a later run finds it.
    ///
    /// # Errors
    ///
    /// If the file system refuses.
    pub fn named(name: &str) -> Result<Self> {
        Ok(Self { path: create(name)?, temporary: false })
    }

    /// The folder of that name, if there is one.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let path = clusters().join(name);
        path.is_dir().then_some(Self { path, temporary: false })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes down the processes of a cluster that outlives the lab.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn save_records(&self, records: &[Record]) -> Result<()> {
        let path = self.path.join(RECORDS);
        fs::write(&path, serde_json::to_vec_pretty(records)?).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The processes that were written down.
    ///
    /// # Errors
    ///
    /// If the file is there and cannot be understood.
    pub fn records(&self) -> Result<Vec<Record>> {
        let path = self.path.join(RECORDS);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Removes the folder and all that is in it.
    ///
    /// # Errors
    ///
    /// If the file system refuses.
    pub fn remove(self) -> Result<()> {
        remove(&self.path)
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if self.temporary && !std::thread::panicking() {
            // What is left over is swept by the next run.
            drop(remove(&self.path));
        }
    }
}

/// Removes the folders of labs that are gone: a killed one cannot clean up after itself.
fn sweep() -> Result<()> {
    let Ok(entries) = fs::read_dir(clusters()) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        let owner = fs::read(path.join(OWNER)).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
        if owner.is_some_and(|owner| !owner.is_running()) {
            // Another lab may be sweeping the same folder.
            drop(remove(&path));
        }
    }
    Ok(())
}

fn create(name: &str) -> Result<PathBuf> {
    let path = clusters().join(name);
    if path.exists() {
        remove(&path)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))
}

fn clusters() -> PathBuf {
    paths::lab_dir().join("clusters")
}
