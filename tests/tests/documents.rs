//! What the documents say of the repository is so.

// Helpers of tests are tests: clippy's own exception reaches only functions that carry #[test].
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use netloss_lab::host::paths::workspace_root;

/// The documents, each with its name.
fn documents() -> Vec<(String, String)> {
    let root = workspace_root();
    let mut files: Vec<PathBuf> = ["README.md", "CHANGELOG.md"].map(|name| root.join(name)).to_vec();
    for folder in ["docs", "docs/adr"] {
        files.extend(fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()));
    }
    let markdown = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    markdown.map(|path| (path.strip_prefix(&root).unwrap().display().to_string(), fs::read_to_string(&path).unwrap())).collect()
}

/// The texts between backticks on one line.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// A test as the documents name it: the folder or file of its binary, its module, its name.
fn is_there(test: &str) -> bool {
    let tests = workspace_root().join("tests/tests");
    let (file, name) = match test.split("::").collect::<Vec<_>>()[..] {
        // The controller's own.
        ["model", name] => (workspace_root().join("controller/tests/model/main.rs"), name),
        [binary, name] => (tests.join(binary).with_extension("rs"), name),
        [binary, module, name] => (tests.join(binary).join(module).with_extension("rs"), name),
        _ => return false,
    };
    // Some of the kernel tests are made by a macro, so that there is no `fn` before the name.
    fs::read_to_string(file).is_ok_and(|text| text.contains(name))
}

#[test]
fn each_test_that_a_document_names_is_there() {
    let mut named = 0;
    for (document, text) in documents() {
        for test in quoted(&text).filter(|quoted| {
            ["kernel::", "controlplane::", "cluster::", "install::", "model::"].iter().any(|binary| quoted.starts_with(binary))
        }) {
            assert!(is_there(test), "{document} names the test {test}, which is not there");
            named += 1;
        }
    }
    assert!(named > 60, "{named}");
}

/// The sources of the programs in one text, with lines that go on joined.
fn sources() -> String {
    fn read(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut text = String::new();
    for folder in ["controller/src", "agent/src", "agent/contract/src"] {
        read(&workspace_root().join(folder), &mut text);
    }
    text.split("\\\n").map(str::trim_start).collect::<String>().replace("\\\"", "\"")
}

/// Messages that a person looks for are those that the programs have.
#[test]
fn each_message_that_is_explained_is_one_that_is_said() {
    /// Said by others.
    const OF_OTHERS: [&str; 3] = ["ImagePullBackOff", "is forbidden: User", "failed calling webhook"];
    let text = fs::read_to_string(workspace_root().join("docs/TROUBLESHOOTING.md")).unwrap();
    let sources = sources();
    let mut explained = 0;
    for message in text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')) {
        let is_said = sources.to_lowercase().contains(&message.trim_end().to_lowercase());
        assert!(is_said || OF_OTHERS.iter().any(|others| message.starts_with(others)), "nobody says: {message}");
        explained += 1;
    }
    assert!(explained > 25, "{explained}");
}

/// Files of the repository that links lead to.
#[test]
fn each_link_leads_somewhere() {
    for (document, text) in documents() {
        let folder = workspace_root().join(&document).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(folder.join(path).exists(), "{document} links to {target}, which is not there");
        }
    }
}
