//! Folders that are expensive to make and the same every time, made once.
//!
//! An entry's name carries a hash of everything it was made from, so a change of the inputs makes another entry and nothing
//! ever has to be invalidated. It is made beside its place and renamed into it: an entry that exists is complete.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::paths;

/// The folder of an entry: made by `build`, in a folder that exists and is empty, unless it is there already.
///
/// Two runs that want the same entry do not collide: the second waits for the first.
///
/// # Errors
///
/// If `build` fails, or the file system does.
pub fn entry<I: AsRef<[u8]>>(name: &str, inputs: &[I], build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    entry_in(&folder(), name, inputs, build)
}

/// The folder of an entry, if it has been made.
#[must_use]
pub fn find<I: AsRef<[u8]>>(name: &str, inputs: &[I]) -> Option<PathBuf> {
    Some(place(&folder(), name, inputs)).filter(|place| place.exists())
}

/// Waits until nobody else, in this process or another, holds the lock of that name. It is held until the file is dropped.
///
/// # Errors
///
/// If the file system refuses.
pub fn lock(name: &str) -> Result<File> {
    lock_in(&folder(), name)
}

fn folder() -> PathBuf {
    paths::lab_dir().join("cache")
}

fn place<I: AsRef<[u8]>>(cache: &Path, name: &str, inputs: &[I]) -> PathBuf {
    cache.join(format!("{name}-{}", digest(inputs)))
}

fn lock_in(cache: &Path, name: &str) -> Result<File> {
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let path = cache.join(format!("{name}.lock"));
    let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(lock)
}

fn entry_in<I: AsRef<[u8]>>(cache: &Path, name: &str, inputs: &[I], build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let place = place(cache, name, inputs);
    if place.exists() {
        return Ok(place);
    }
    let _lock = lock_in(cache, &format!("{name}-{}", digest(inputs)))?;
    if place.exists() {
        return Ok(place);
    }
    let unfinished = place.with_added_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    fs::create_dir(&unfinished).with_context(|| format!("cannot create {}", unfinished.display()))?;
    build(&unfinished).with_context(|| format!("cannot make {name}"))?;
    fs::rename(&unfinished, &place).with_context(|| format!("cannot complete {}", place.display()))?;
    Ok(place)
}

/// A short hash of the inputs, in which moving a byte from one input to the next makes a difference.
fn digest<I: AsRef<[u8]>>(inputs: &[I]) -> String {
    let mut hasher = Sha256::new();
    for input in inputs {
        let input = input.as_ref();
        hasher.update((input.len() as u64).to_le_bytes());
        hasher.update(input);
    }
    let hash = hasher.finalize();
    hash.iter().take(8).fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("netloss-cache-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        path
    }

    #[test]
    fn an_entry_is_made_once() {
        let cache = scratch("once");
        let first = entry_in(&cache, "thing", &["1"], |dir| Ok(fs::write(dir.join("file"), "made")?)).unwrap();
        let second = entry_in(&cache, "thing", &["1"], |_| anyhow::bail!("made twice")).unwrap();
        assert_eq!(first, second);
        assert_eq!(fs::read_to_string(second.join("file")).unwrap(), "made");
        fs::remove_dir_all(cache).unwrap();
    }

    #[test]
    fn a_failed_entry_leaves_nothing_that_looks_complete() {
        let cache = scratch("failed");
        let half = |dir: &Path| {
            fs::write(dir.join("half"), "")?;
            anyhow::bail!("power cut")
        };
        assert!(entry_in(&cache, "thing", &["1"], half).is_err());
        let place = entry_in(&cache, "thing", &["1"], |dir| {
            assert_eq!(fs::read_dir(dir)?.count(), 0, "the next attempt starts in an empty folder");
            Ok(())
        });
        assert!(place.unwrap().exists());
        fs::remove_dir_all(cache).unwrap();
    }

    #[test]
    fn other_inputs_are_another_entry() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_eq!(digest(&["ab", "c"]), digest(&["ab", "c"]));
    }
}
