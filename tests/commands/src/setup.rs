//! What the `*.needs` files declare and what the lab uses, and `tests/setup` without root, lists or a mirror.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use netloss_lab::host::paths;

use crate::test::{SHORT, stages};

/// All files below `tests` whose names end in `suffix`, by name.
fn files(suffix: &str) -> BTreeMap<String, String> {
    fn walk(folder: &Path, suffix: &str, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, suffix, found);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.insert(path.display().to_string(), fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&paths::workspace_root().join("tests"), suffix, &mut found);
    found
}

/// Every stage that is more than cargo has its row, every row names parts that exist, and every part is used by a row.
#[test]
fn every_stage_has_a_row_and_every_part_is_used() {
    let table = fs::read_to_string(paths::workspace_root().join("tests/needs")).unwrap();
    let rows: BTreeMap<&str, &str> = table.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(": ")).collect();
    let only_cargo = BTreeSet::from(["format", "lint", "deny", "unit"]);
    let row = |name: &str| -> BTreeSet<&str> { rows.get(name).into_iter().flat_map(|parts| parts.split_whitespace()).collect() };
    for stage in stages().filter(|stage| !only_cargo.contains(stage.name)) {
        assert!(!row(&format!("test {}", stage.name)).is_empty(), "tests/needs has no row for the stage {}", stage.name);
    }
    let short: BTreeSet<&str> = SHORT.iter().flat_map(|stage| row(&format!("test {}", stage.name))).collect();
    assert_eq!(row("test"), short, "the row `test` has the parts of the stages that run without arguments");
    let parts: BTreeSet<String> =
        files(".needs").keys().map(|path| Path::new(path).file_stem().unwrap().to_string_lossy().into_owned()).collect();
    let mut used: BTreeSet<String> = rows.values().flat_map(|parts| parts.split_whitespace()).map(str::to_owned).collect();
    used.insert("lab".into());
    assert_eq!(parts, used);
}

/// A program that the lab starts by name is declared by a part, unless every Debian has it.
#[test]
fn every_program_that_the_lab_starts_is_declared() {
    const IN_EVERY_DEBIAN: [&str; 13] =
        ["apt-get", "bash", "chmod", "dpkg-deb", "dpkg-query", "find", "sh", "sha256sum", "tar", "timeout", "unshare", "git", "cp"];
    let declared: BTreeSet<String> = files(".needs")
        .values()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.strip_prefix("program ").map(str::to_owned))
        .collect();
    for (file, text) in files(".rs").iter().filter(|(file, _)| !file.contains("/fuzz/") && !file.ends_with("commands/src/setup.rs")) {
        for program in text.split("Command::new(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let known = program.starts_with('/') || IN_EVERY_DEBIAN.contains(&program) || declared.contains(program);
            assert!(known, "{file} starts {program}, which no *.needs file declares");
        }
    }
}

/// Only tests/setup installs something.
#[test]
fn nothing_but_setup_installs() {
    let scripts = ["tests/lab", "tests/fuzz", "images/build", "images/check", "images/release", "images/reproduce", ".ci/run"];
    let scripts = scripts.map(|name| (name.to_owned(), fs::read_to_string(paths::workspace_root().join(name)).unwrap()));
    let sources = files(".rs").into_iter().filter(|(file, _)| !file.ends_with("commands/src/setup.rs"));
    for (file, text) in sources.chain(scripts) {
        for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', '/', 'N'])) {
            let words: Vec<&str> = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').filter(|word| !word.is_empty()).collect();
            let installs = words.contains(&"install") && ["apt-get", "pip", "apt", "rustup"].iter().any(|tool| words.contains(tool));
            let updates = words.contains(&"apt-get") && words.contains(&"update");
            assert!(!installs && !updates, "{file}: {line}");
        }
    }
}

/// A folder with stand-ins for apt, dpkg and id: what they answer is up to the test.
struct Tools(PathBuf);

impl Tools {
    fn new(name: &str, scripts: &[(&str, &str)]) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("netloss-setup-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (program, script) in scripts {
            let path = folder.join(program);
            fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}", folder.display())).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(folder)
    }

    /// What `tests/setup` does with them for a part that has packages and nothing else, and what it says.
    fn setup(&self) -> (bool, String) {
        let path = format!("{}:{}", self.0.display(), std::env::var("PATH").unwrap());
        let output = Command::new(paths::workspace_root().join("tests/setup")).arg("images-arm64").env("PATH", path).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

const DPKG: &str = "[ -e installed ] && for name; do echo \"$name install ok installed\"; done; exit 1";

#[test]
fn setup_waits_for_locks_and_tries_a_broken_mirror_again() {
    let apt = r#"echo "$*" >>calls
case $(wc -l <calls) in
1) echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 42 (packagekitd)" >&2; exit 100 ;;
3) echo "E: Failed to fetch somewhere  Connection failed" >&2; exit 100 ;;
5) touch installed ;;
esac"#;
    let tools = Tools::new("retries", &[("apt-get", apt), ("apt-cache", ""), ("dpkg-query", DPKG), ("sleep", ""), ("id", "echo 0")]);
    let (success, said) = tools.setup();
    assert!(success, "{said}");
    assert!(said.contains("waiting: packagekitd (process 42) holds /var/lib/apt/lists/lock"), "{said}");
    assert!(said.contains("the mirror failed (E: Failed to fetch somewhere  Connection failed); trying again"), "{said}");
    let calls = fs::read_to_string(tools.0.join("calls")).unwrap();
    let verbs: Vec<&str> = calls.lines().filter_map(|line| line.split(' ').find(|word| ["update", "install"].contains(word))).collect();
    assert_eq!(verbs, ["update", "update", "install", "update", "install"]);
    let install = calls.lines().last().unwrap();
    assert!(install.contains("gcc-aarch64-linux-gnu libc6-dev-arm64-cross"), "one transaction: {install}");
}

#[test]
fn setup_gives_up_on_what_no_repetition_mends() {
    let apt = r#"echo "$*" >>calls
case "$*" in *install*) echo "E: dpkg was interrupted" >&2; exit 100 ;; esac"#;
    let tools = Tools::new("broken", &[("apt-get", apt), ("apt-cache", ""), ("dpkg-query", DPKG), ("sleep", ""), ("id", "echo 0")]);
    let (success, said) = tools.setup();
    assert!(!success && said.contains("dpkg was interrupted"), "{said}");
    assert_eq!(fs::read_to_string(tools.0.join("calls")).unwrap().lines().count(), 2);
}

#[test]
fn setup_without_root_says_the_one_command() {
    let tools = Tools::new("user", &[("apt-get", "touch called"), ("dpkg-query", DPKG), ("id", "echo 1000")]);
    let (success, said) = tools.setup();
    assert!(!success, "{said}");
    let command = "sudo sh -c 'apt-get update && apt-get install --no-install-recommends ca-certificates gcc-aarch64-linux-gnu libc6-dev-arm64-cross'";
    assert!(said.contains(command), "{said}");
    assert!(!tools.0.join("called").exists());
}
