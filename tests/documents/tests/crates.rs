//! The layout of docs/ARCHITECTURE.md, as dependencies: what each crate may depend on, and no import cycle within one.

// Helpers of tests are tests: clippy's own exception reaches only functions that carry #[test].
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use netloss_lab_documents::root;
use serde_json::Value;

/// The crates of this workspace that each one depends on, those of its tests aside. Cargo refuses cycles between them.
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("netloss-agent", &["netloss-contract"]),
    ("netloss-api", &["netloss-contract"]),
    ("netloss-cli", &["netloss-api", "netloss-cluster", "netloss-contract", "netloss-core"]),
    ("netloss-cluster", &["netloss-api", "netloss-contract", "netloss-core"]),
    ("netloss-contract", &[]),
    ("netloss-controller", &["netloss-api", "netloss-cluster", "netloss-contract", "netloss-core"]),
    ("netloss-core", &["netloss-api", "netloss-contract"]),
    ("netloss-lab", &["netloss-contract", "netloss-lab-traffic"]),
    (
        "netloss-lab-bench",
        &["netloss-api", "netloss-contract", "netloss-controller", "netloss-lab", "netloss-lab-measure", "netloss-lab-traffic"],
    ),
    ("netloss-lab-commands", &["netloss-lab", "netloss-lab-bench", "netloss-lab-demo", "netloss-lab-pictures"]),
    ("netloss-lab-demo", &["netloss-contract", "netloss-lab", "netloss-lab-traffic"]),
    ("netloss-lab-documents", &[]),
    ("netloss-lab-guest", &["netloss-contract"]),
    ("netloss-lab-measure", &["netloss-contract", "netloss-lab-guest"]),
    ("netloss-lab-pictures", &["netloss-lab"]),
    ("netloss-lab-traffic", &[]),
];

const KUBERNETES: &[&str] = &["k8s-openapi", "kube", "kube-core"];
/// What speaks to an API server.
const CLIENT: &[&str] = &["hyper", "kube/client", "kube-client", "kube-runtime", "tokio"];
/// What serves, and what elects leaders.
const SERVERS: &[&str] = &["hyper/server", "kube-lease-manager", "prometheus", "rcgen"];
const NETLINK: &[&str] = &["netlink-packet-core", "netlink-packet-route", "netlink-sys"];
/// What only pictures and plots are made with.
const DRAWING: &[&str] = &["plotters", "png", "vt100"];

/// Crates, and features of crates, that a crate depends on neither itself nor through others, its tests aside.
const BANNED: &[(&str, &[&[&str]])] = &[
    ("netloss-contract", &[KUBERNETES, CLIENT, SERVERS, NETLINK]),
    ("netloss-agent", &[KUBERNETES, &["hyper", "kube-client", "kube-runtime"], SERVERS]),
    ("netloss-api", &[CLIENT, SERVERS, NETLINK]),
    ("netloss-core", &[CLIENT, SERVERS, NETLINK]),
    ("netloss-cluster", &[SERVERS, NETLINK]),
    ("netloss-cli", &[SERVERS, NETLINK]),
    ("netloss-controller", &[NETLINK, DRAWING, &["indicatif"]]),
    ("netloss-lab", &[DRAWING, &["statrs"]]),
    ("netloss-lab-demo", &[DRAWING]),
    ("netloss-lab-documents", &[KUBERNETES, CLIENT, &["clap", "serde"]]),
    // Compiled for each target of the kernel guests, as optimized as what ships.
    ("netloss-lab-guest", &[KUBERNETES, CLIENT, SERVERS, DRAWING]),
    ("netloss-lab-measure", &[KUBERNETES, CLIENT, SERVERS, DRAWING]),
    ("netloss-lab-traffic", &[KUBERNETES, CLIENT, SERVERS, DRAWING, &["jiff"]]),
];

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).current_dir(root()).args(arguments).output().unwrap();
    assert!(output.status.success(), "cargo {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The packages of the workspace, as `cargo metadata` has them.
fn packages() -> Vec<Value> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"])).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// A name without what follows it: a version, or cargo's mark of a line that it has printed before.
fn name_of(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn each_crate_depends_on_the_crates_of_its_place() {
    let packages = packages();
    let of_workspace = |package: &Value| -> BTreeSet<String> {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let shipped = dependencies.filter(|dependency| dependency["kind"] != "dev" && dependency["path"].is_string());
        shipped.map(|dependency| text(&dependency["name"]).to_owned()).collect()
    };
    let found: BTreeMap<&str, BTreeSet<String>> = packages.iter().map(|package| (text(&package["name"]), of_workspace(package))).collect();
    let expected: BTreeMap<&str, BTreeSet<String>> =
        DEPENDENCIES.iter().map(|(name, others)| (*name, others.iter().map(|&other| other.to_owned()).collect())).collect();
    assert_eq!(found, expected);
}

#[test]
fn no_crate_depends_on_what_its_place_excludes() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for (name, banned) in BANNED {
        // Not metadata's resolution: that has the features of all crates of the workspace together.
        let tree = cargo(&["tree", "--locked", "--package", name, "--edges", "normal", "--prefix", "none", "--format", "{p}|{f}"]);
        let mut found = BTreeSet::new();
        for line in tree.lines() {
            let (package, features) = line.split_once('|').unwrap();
            let package = name_of(package);
            found.insert(package.to_owned());
            found.extend(features.split(',').map(|feature| format!("{package}/{}", name_of(feature))));
        }
        assert!(found.contains(*name), "{tree}");
        for banned in banned.iter().copied().flatten() {
            let package = banned.split('/').next().unwrap();
            assert!(lock.contains(&format!("name = \"{package}\"\n")), "no crate is called {package}");
            assert!(!found.contains(*banned), "{name} depends on {banned}: `cargo tree -p {name} -e normal -i {package}` shows why");
        }
    }
}

#[test]
fn no_modules_of_a_crate_import_each_other_in_a_circle() {
    let mut found = Vec::new();
    for package in packages() {
        let source = Path::new(text(&package["manifest_path"])).parent().unwrap().join("src");
        let imports = imports(&source);
        for modules in cycles(&imports) {
            let inside = modules.iter().map(|module| format!("{module} imports {:?}", &imports[module] & &modules));
            found.push(format!("{}: {}", text(&package["name"]), inside.collect::<Vec<_>>().join("; ")));
        }
    }
    assert!(found.is_empty(), "modules that import each other:\n{}", found.join("\n"));
}

/// Which modules at the top of a crate import which, the code of unit tests aside.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn imports(source: &Path) -> Imports {
    let mut files = Vec::new();
    collect(source, &mut Vec::new(), &mut files);
    let modules: BTreeSet<String> = files.iter().filter_map(|(path, _)| path.first().cloned()).collect();
    // `crate::Error` is an import of the module that the root has it from.
    let mut exported = BTreeMap::new();
    for (_, code) in files.iter().filter(|(path, _)| path.is_empty()) {
        for statement in code.split("pub use ").skip(1).filter_map(|rest| rest.split(';').next()) {
            let statement = statement.trim_start_matches("self::").trim_start_matches("crate::");
            let module = word(statement);
            let names = statement.split(|c: char| !is_word(c)).filter(|name| !name.is_empty() && *name != module);
            exported.extend(names.map(|name| (name.to_owned(), module.to_owned())));
        }
    }
    let mut imports = Imports::new();
    for (path, code) in files.iter().filter(|(path, _)| !path.is_empty()) {
        let from = imports.entry(path[0].clone()).or_default();
        let to_root = "super::".repeat(path.len());
        let heads = heads(code, "crate::").into_iter().chain(heads(code, &to_root));
        for head in heads {
            let module = exported.get(&head).cloned().unwrap_or(head);
            if modules.contains(&module) && module != path[0] {
                from.insert(module);
            }
        }
    }
    imports
}

/// The modules below a folder: their paths, and their code without comments and unit tests.
fn collect(folder: &Path, path: &mut Vec<String>, files: &mut Vec<(Vec<String>, String)>) {
    let (mut below, mut tests) = (Vec::new(), BTreeSet::new());
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap().path();
        let name = entry.file_stem().unwrap().to_str().unwrap().to_owned();
        if entry.is_dir() {
            if !(path.is_empty() && name == "bin") {
                below.push((name, entry));
            }
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&entry).unwrap();
            let lines: Vec<&str> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            let code = lines.join("\n");
            for rest in code.split("#[cfg(test)]").skip(1) {
                let declaration = rest.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
                tests.extend(declaration.strip_prefix("mod ").map(|rest| word(rest).to_owned()));
            }
            // What is between braces is at the end of the file.
            let code = code.split_once("#[cfg(test)]\nmod tests {").map_or(code.as_str(), |(code, _)| code).to_owned();
            let mut module = path.clone();
            if !matches!(name.as_str(), "lib" | "main" | "mod") {
                module.push(name);
            }
            files.push((module, code));
        }
    }
    for (name, folder) in below {
        path.push(name);
        collect(&folder, path, files);
        path.pop();
    }
    let depth = path.len();
    files.retain(|(module, _)| module.len() <= depth || module[..depth] != path[..] || !tests.contains(&module[depth]));
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The word that a text begins with.
fn word(text: &str) -> &str {
    text.split(|c| !is_word(c)).next().unwrap_or_default()
}

/// What follows a prefix in the code: a word, or the first word of each item between braces.
fn heads(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c: char| is_word(c) || c == ':' || c == '$') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let Some(items) = rest.strip_prefix('{') else {
            found.insert(word(rest).to_owned());
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for c in items.chars() {
            match c {
                '}' if depth == 0 => break,
                ',' if depth == 0 => {
                    found.insert(word(item.trim()).to_owned());
                    item.clear();
                    continue;
                }
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            item.push(c);
        }
        found.insert(word(item.trim()).to_owned());
    }
    found
}

/// Sets of modules each of which imports every other, if through more of them.
fn cycles(imports: &Imports) -> BTreeSet<BTreeSet<String>> {
    let reached = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut open = vec![from.to_owned()];
        while let Some(module) = open.pop() {
            for next in imports.get(&module).into_iter().flatten() {
                if reached.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        reached
    };
    let reached: BTreeMap<&String, BTreeSet<String>> = imports.keys().map(|module| (module, reached(module))).collect();
    let in_cycle = reached.iter().filter(|(module, reached)| reached.contains(**module));
    in_cycle
        .map(|(module, others)| {
            others.iter().filter(|other| reached.get(other).is_some_and(|back| back.contains(*module))).cloned().collect()
        })
        .collect()
}

#[test]
fn a_cycle_is_found_whatever_its_imports_look_like() {
    let folder = std::env::temp_dir().join(format!("netloss-imports-{}", std::process::id()));
    fs::create_dir_all(folder.join("b")).unwrap();
    let files = [
        ("lib.rs", "mod a;\nmod b;\nmod c;\nmod d;\nmod e;\npub use c::{Deep, Error};\n"),
        ("a.rs", "use crate::{\n    Error,\n    d::{One, Two},\n};\n#[cfg(test)]\nmod tests {\n    use crate::e;\n}\n"),
        ("b/mod.rs", "mod inner;\n#[cfg(test)]\nmod only_tests;\n"),
        ("b/inner.rs", "use super::super::a::X;\n"),
        ("b/only_tests.rs", "use crate::e;\n"),
        ("c.rs", "// use crate::e;\nuse super::{b, e::E};\n"),
        ("d.rs", "fn f() -> $crate::e { crate::e::f() }\n"),
        ("e.rs", "use std::fmt;\n"),
    ];
    for (name, code) in files {
        fs::write(folder.join(name), code).unwrap();
    }
    let imports = imports(&folder);
    fs::remove_dir_all(folder).unwrap();
    let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<String>>();
    let expected = [("a", set(&["c", "d"])), ("b", set(&["a"])), ("c", set(&["b", "e"])), ("d", set(&["e"])), ("e", set(&[]))];
    assert_eq!(imports, expected.map(|(module, others)| (module.to_owned(), others)).into());
    assert_eq!(cycles(&imports), BTreeSet::from([set(&["a", "b", "c"])]));
}
