//! The images as they ship: what is in them, what is said of it, and how a release makes them.

// Helpers of tests are tests: clippy's own exception reaches only functions that carry #[test].
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use netloss_lab::cluster::{Architecture, Image, build_images};
use netloss_lab::host::cargo::cargo;
use netloss_lab::host::command;
use netloss_lab::host::paths::{target_dir, workspace_root};
use serde_json::Value;

/// Of agent and controller, for both architectures.
static ARCHIVES: LazyLock<Vec<PathBuf>> = LazyLock::new(|| build_images(&[Image::Agent, Image::Controller], &Architecture::ALL).unwrap());

fn check() -> Command {
    let mut check = Command::new(workspace_root().join("images/check"));
    check.args(&*ARCHIVES);
    check
}

#[test]
fn each_is_one_static_file_without_a_shell() {
    let output = check().output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// What would make it another binary in another folder. The check itself is tried with a path that each of them has.
#[test]
fn no_binary_knows_where_it_was_built() {
    let output = check().env("CARGO_HOME", "/crates").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches("knows where it was built: /crates/\n").count(), ARCHIVES.len(), "{said}");
}

fn bill(archive: &Path) -> Value {
    serde_json::from_slice(&fs::read(archive.with_extension("cdx.json")).unwrap()).unwrap()
}

/// The crates that cargo's own resolver links into a package, told another way than by what it compiled.
fn resolved(package: &str, target: &str) -> BTreeSet<String> {
    let tree = ["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"];
    let lines = command::output(cargo().args(tree).args(["--package", package, "--target", target])).unwrap();
    let crates = lines.lines().map(|line| {
        let (name, version) = line.split_once(" v").unwrap();
        format!("{name} {}", version.split(' ').next().unwrap())
    });
    crates.filter(|name| !name.starts_with(&format!("{package} "))).collect()
}

#[test]
fn the_bill_of_materials_lists_what_is_linked_and_nothing_else() {
    for archive in &*ARCHIVES {
        let name = archive.file_stem().unwrap().to_str().unwrap();
        let (package, arch) = name.rsplit_once('-').unwrap();
        let target = if arch == "amd64" { "x86_64-unknown-linux-musl" } else { "aarch64-unknown-linux-musl" };
        let bill = bill(archive);
        let word = |component: &Value, field: &str| component[field].as_str().unwrap().to_owned();
        let components = bill["components"].as_array().unwrap();
        let listed: BTreeSet<String> =
            components.iter().map(|component| format!("{} {}", word(component, "name"), word(component, "version"))).collect();
        let mut expected = resolved(package, target);
        let std = listed.iter().find(|name| name.starts_with("std ")).unwrap();
        expected.insert(std.clone());
        assert_eq!(listed, expected, "{name}");
        let has = |name: &str| listed.iter().any(|listed| listed.starts_with(&format!("{name} ")));
        // C code is in one of them; tests and macros are in none.
        assert_eq!(has("ring"), package == "netloss-controller", "{name}");
        assert!(has("netloss-contract") && !["proptest", "stateright", "serde_derive", "cc"].into_iter().any(has), "{name}: {listed:?}");
        println!("{name}: {} components", components.len());
    }
}

/// An empty folder of this test.
fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("netloss-images-{name}-{}", std::process::id()));
    drop(fs::remove_dir_all(&path));
    fs::create_dir_all(&path).unwrap();
    path
}

/// As a registry gets them, into a folder instead: one name for both architectures, and twice the same.
#[test]
fn what_is_pushed_is_for_both_architectures_and_has_one_digest() {
    LazyLock::force(&ARCHIVES);
    let folder = scratch("push");
    let push = |to: &str| {
        let destination = format!("oci:{}", folder.join(to).display());
        fs::create_dir(folder.join(to)).unwrap();
        let mut push = Command::new(workspace_root().join("images/push"));
        command::output(push.args([&destination, "v0"]).env("CARGO_TARGET_DIR", target_dir())).unwrap()
    };
    let digests = push("a");
    assert_eq!(digests, push("b"));
    for name in ["netloss-agent", "netloss-controller"] {
        let digest = |name: &str| {
            let line = digests.lines().find_map(|line| line.strip_prefix(&format!("{name} sha256:")));
            line.unwrap_or_else(|| panic!("{name}: {digests}")).to_owned()
        };
        let blob = folder.join("a").join(name).join("blobs/sha256").join(digest(name));
        let index: Value = serde_json::from_slice(&fs::read(blob).unwrap()).unwrap();
        let listed: BTreeSet<_> = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| (entry["platform"]["architecture"].as_str().unwrap().to_owned(), entry["digest"].as_str().unwrap().to_owned()))
            .collect();
        let expected = ["amd64", "arm64"].map(|arch| (arch.to_owned(), format!("sha256:{}", digest(&format!("{name}-{arch}")))));
        assert_eq!(listed, expected.into(), "{name}");
    }
    fs::remove_dir_all(folder).unwrap();
}

/// From files of which only the names matter, in a copy of what the script reads.
#[test]
fn a_release_has_sums_notes_and_a_manifest_for_krew() {
    let root = scratch("release");
    for folder in ["images", "config/krew", "target/images"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for file in ["images/release", "config/krew/netloss.yaml", "Cargo.toml"] {
        fs::copy(workspace_root().join(file), root.join(file)).unwrap();
    }
    let version = env!("CARGO_PKG_VERSION");
    fs::write(
        root.join("CHANGELOG.md"),
        format!("# Changelog\n\n## [Unreleased]\n\n- later\n\n## [{version}] - today\n\n- now\n\n## [0.0.1]\n"),
    )
    .unwrap();
    for arch in ["amd64", "arm64"] {
        for name in ["netloss-agent", "netloss-controller", "kubectl-netloss-linux"] {
            let kind = if name.starts_with("kubectl") { "tar.gz" } else { "tar" };
            for kind in [kind, "cdx.json"] {
                let file = format!("{name}-{arch}.{kind}");
                fs::write(root.join("target/images").join(&file), &file).unwrap();
            }
        }
    }
    let release = |tag: &str| {
        let mut release = Command::new(root.join("images/release"));
        command::output(release.arg(tag).arg(root.join("release")).env_remove("CARGO_TARGET_DIR"))
    };
    let error = release("v0.0.0").unwrap_err().to_string();
    assert!(error.contains("Cargo.toml says"), "{error}");
    release(&format!("v{version}")).unwrap();

    let folder = root.join("release");
    assert_eq!(fs::read_to_string(folder.join("notes.md")).unwrap(), "- now\n");
    command::run(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&folder)).unwrap();
    let sums = fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    assert_eq!(sums.lines().count(), 13, "{sums}");
    let text = fs::read_to_string(folder.join("netloss.yaml")).unwrap();
    assert!(!text.contains("{{"), "{text}");
    let plugin: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(plugin["spec"]["version"], format!("v{version}"));
    for platform in plugin["spec"]["platforms"].as_array().unwrap() {
        let uri = platform["uri"].as_str().unwrap();
        let line = format!("{}  {}", platform["sha256"].as_str().unwrap(), uri.rsplit('/').next().unwrap());
        assert!(sums.lines().any(|sum| sum == line), "{line} is not in\n{sums}");
        assert!(uri.contains(&format!("/releases/download/v{version}/")), "{uri}");
    }
    fs::remove_dir_all(root).unwrap();
}
