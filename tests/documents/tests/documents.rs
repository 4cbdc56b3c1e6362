//! What the documents say of the repository is so.

// Helpers of tests are tests: clippy's own exception reaches only functions that carry #[test].
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use netloss_lab_documents::{Document, root};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use serde_json::{Value, json};
use syn::LitStr;

/// The texts between backticks on one line.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// A test as the documents name it: the folder or file of its binary, its module, its name.
fn is_there(test: &str) -> bool {
    let tests = root().join(if test.starts_with("kernel::") {
        "tests/guest/tests"
    } else if test.starts_with("documents::") {
        "tests/documents/tests"
    } else {
        "tests/tests"
    });
    let (file, name) = match test.split("::").collect::<Vec<_>>()[..] {
        // The controller's own.
        ["model", name] => (root().join("controller/tests/model/main.rs"), name),
        [binary, name] => (tests.join(binary).with_extension("rs"), name),
        [binary, module, name] => (tests.join(binary).join(module).with_extension("rs"), name),
        _ => return false,
    };
    if !file.exists() {
        return false;
    }
    let words = source(&file, Part::All).words;
    // Some of the kernel tests are made by a macro, so that there is no `fn` before the name.
    let is_made = test.starts_with("kernel::") && words.iter().any(|word| word == name);
    is_made || words.windows(2).any(|pair| pair == ["fn", name])
}

#[test]
fn each_test_that_a_document_names_is_there() {
    let mut named = 0;
    for Document { name: document, text } in Document::all().unwrap() {
        for test in quoted(&text).filter(|quoted| {
            ["kernel::", "controlplane::", "cluster::", "campaign::", "documents::", "images::", "install::", "model::"]
                .iter()
                .any(|binary| quoted.starts_with(binary))
        }) {
            assert!(is_there(test), "{document} names the test {test}, which is not there");
            named += 1;
        }
    }
    assert!(named > 60, "{named}");
}

/// Which part of a source counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    /// What is compiled into a program: nothing behind `#[test]` and `#[cfg(test)]`.
    Program,
}

/// What a source has, without its comments.
#[derive(Debug, Default)]
struct Source {
    /// Its identifiers and keywords, in their order.
    words: Vec<String>,
    /// Its texts between quotation marks, as they are when the program runs.
    texts: Vec<String>,
}

impl Source {
    fn read(&mut self, tokens: TokenStream, part: Part) {
        let mut tokens = tokens.into_iter();
        let mut is_test = false;
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Punct(mark) if mark.as_char() == '#' => {
                    let attribute =
                        tokens.by_ref().find_map(|token| if let TokenTree::Group(group) = token { Some(group.stream()) } else { None });
                    let attribute = attribute.unwrap();
                    let text = attribute.to_string();
                    is_test |= text == "test" || text.contains(":: test") || text.starts_with("cfg (") && text.contains("test");
                    // A comment, or not of this item. What thiserror says of an error is in an attribute.
                    let is_left_out = text.starts_with("doc ") || is_test && part == Part::Program;
                    if !is_left_out {
                        self.read(attribute, part);
                    }
                }
                // The item that such an attribute is about ends with its body, or with a semicolon.
                TokenTree::Group(group) if is_test && part == Part::Program => is_test = group.delimiter() != Delimiter::Brace,
                TokenTree::Punct(mark) if is_test && part == Part::Program => is_test = mark.as_char() != ';',
                _ if is_test && part == Part::Program => {}
                TokenTree::Group(group) => self.read(group.stream(), part),
                TokenTree::Ident(word) => self.words.push(word.to_string()),
                TokenTree::Literal(literal) => {
                    self.texts.extend(syn::parse_str::<LitStr>(&literal.to_string()).map(|text| text.value()));
                }
                TokenTree::Punct(_) => {}
            }
        }
    }
}

fn source(file: &Path, part: Part) -> Source {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let tokens = text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut source = Source::default();
    source.read(tokens, part);
    source
}

/// The sources below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// All that the programs may say: their texts, with the names of constants that stand in them replaced by what these are.
fn said() -> Vec<String> {
    /// Files whose module is behind `#[cfg(test)]` in another one.
    const OF_TESTS: [&str; 4] = ["properties", "krew", "documented", "golden"];
    let mut found = Vec::new();
    for folder in [
        "controller/src",
        "controller/api/src",
        "controller/cli/src",
        "controller/cluster/src",
        "controller/core/src",
        "agent/src",
        "agent/contract/src",
    ] {
        files(&root().join(folder), &mut found);
    }
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let of_tests = |path: &PathBuf| name(path).ends_with("tests") || OF_TESTS.contains(&name(path).as_str());
    let texts = found.iter().filter(|path| !of_tests(path)).flat_map(|path| source(path, Part::Program).texts);
    let names = [("{RUN_REQUESTED_ANNOTATION}", netloss_api::RUN_REQUESTED_ANNOTATION)];
    texts.map(|text| names.iter().fold(text, |text, (name, value)| text.replace(name, value))).collect()
}

/// Messages that a person looks for are those that the programs have.
#[test]
fn each_message_that_is_explained_is_one_that_is_said() {
    /// Said by others.
    const OF_OTHERS: [&str; 3] = ["ImagePullBackOff", "is forbidden: User", "failed calling webhook"];
    let text = fs::read_to_string(root().join("docs/TROUBLESHOOTING.md")).unwrap();
    let said = said();
    let mut explained = 0;
    for message in text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')) {
        let is_said = said.iter().any(|text| text.contains(message.trim_end()));
        assert!(is_said || OF_OTHERS.iter().any(|others| message.starts_with(others)), "nobody says: {message}");
        explained += 1;
    }
    assert!(explained > 25, "{explained}");
}

/// Neither a comment nor a test says anything to a user.
#[test]
fn a_text_of_a_comment_or_a_test_is_not_said() {
    let text = r#"
        //! "a module"
        /// "an item"
        #[error("an error: {0}")]
        struct Failed(&'static str);
        #[cfg(test)]
        use x::y;
        fn program() -> char { println!("goes \
            on"); '"' }
        #[cfg(all(test, unix))]
        mod tests { const OF: &str = "a test"; }
        #[test]
        fn test() { assert_eq!("one", "test"); }
        const LAST: &str = "the last";
    "#;
    let read = |part| {
        let mut source = Source::default();
        source.read(text.parse().unwrap(), part);
        source.texts
    };
    assert_eq!(read(Part::Program), ["an error: {0}", "goes on", "the last"]);
    assert_eq!(read(Part::All), ["an error: {0}", "goes on", "a test", "one", "test", "the last"]);
}

/// Files of the repository that links lead to.
#[test]
fn each_link_leads_somewhere() {
    for Document { name: document, text } in Document::all().unwrap() {
        let folder = root().join(&document).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(folder.join(path).exists(), "{document} links to {target}, which is not there");
        }
    }
}

/// The texts of the tests and of the lab. Not this package's: what they look for would be found in themselves.
fn texts_of_tests() -> BTreeSet<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("documents") {
            files(&path, &mut found);
        }
    }
    found.iter().flat_map(|path| source(path, Part::All).texts).collect()
}

/// What a document tells its readers to type is run by a test as it stands there, or says why not.
#[test]
fn each_block_of_commands_is_run() {
    let (mut run, tests) = (0, texts_of_tests());
    for document in Document::all().unwrap() {
        for block in document.blocks() {
            let place = format!("{}:{}", document.name, block.line);
            let is_output = matches!(block.language.as_str(), "text" | "yaml" | "json");
            assert!(is_output || block.language == "console", "{place}: a block of {:?}", block.language);
            let Some(mark) = block.mark else {
                assert!(is_output, "{place}: commands, and no comment before them that says what runs them (tests/documents/src/lib.rs)");
                continue;
            };
            match mark.split_once(": ") {
                Some(("run", name)) => assert!(tests.contains(name), "{place}: no test runs {name:?}"),
                Some(("run by" | "elsewhere", why)) => assert!(why.len() > 10, "{place}: {why}"),
                _ => panic!("{place}: {mark:?}"),
            }
            run += 1;
        }
    }
    assert!(run > 10, "{run}");
}

/// A page of the documents loads each of them, from this repository alone.
#[test]
fn pictures_are_small_and_need_nothing_else() {
    let mut found = 0;
    for entry in fs::read_dir(root().join("docs/pictures")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() < 150_000, "{} has {} bytes: `tests/lab pictures` makes it anew", path.display(), bytes.len());
        if path.extension().is_some_and(|extension| extension == "svg" || extension == "html") {
            let text = String::from_utf8(bytes).unwrap().replace("http://www.w3.org/2000/svg", "");
            assert!(!["http:", "https:", "<script", "@import", "url("].iter().any(|outside| text.contains(outside)), "{}", path.display());
        }
        found += 1;
    }
    assert_eq!(found, 6);
}

/// The workflows of GitHub, by their names: the text, and what is in it.
fn workflows() -> Vec<(String, String, Value)> {
    let folder = root().join(".github/workflows");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let parsed = serde_saphyr::from_str(&text).unwrap();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), text, parsed)
    };
    fs::read_dir(folder).unwrap().map(|entry| read(entry.unwrap().path())).collect()
}

fn steps(job: &Value) -> impl Iterator<Item = &Value> {
    job["steps"].as_array().unwrap().iter()
}

/// Whoever moves a tag of an action changes nothing here, and who reads sees its version.
#[test]
fn each_action_of_a_workflow_is_pinned() {
    let mut pinned = BTreeMap::new();
    for (name, text, _) in workflows() {
        for line in text.lines().filter_map(|line| line.trim_start().trim_start_matches("- ").strip_prefix("uses: ")) {
            let (action, version) = line.split_once(" # v").unwrap_or_else(|| panic!("{name}: no version: {line}"));
            let (action, commit) = action.split_once('@').unwrap();
            assert!(commit.len() == 40 && commit.chars().all(|digit| digit.is_ascii_hexdigit()), "{name}: {line}");
            assert!(version.split('.').count() == 3 && version.split('.').all(|part| part.parse::<u32>().is_ok()), "{name}: {line}");
            let known = pinned.entry(action.to_owned()).or_insert_with(|| commit.to_owned());
            assert_eq!(known, commit, "{action} has two versions");
        }
    }
    assert!(pinned.len() > 4, "{pinned:?}");
}

/// What a job may write is what it is for; one that builds or tests may write nothing.
#[test]
fn each_job_of_a_workflow_has_the_rights_that_it_needs() {
    let mut privileged = BTreeMap::new();
    for (name, _, workflow) in workflows() {
        assert_eq!(workflow["permissions"], json!({}), "{name}");
        for (job, content) in workflow["jobs"].as_object().unwrap() {
            let place = format!("{name}/{job}");
            assert_eq!(content["runs-on"], "ubuntu-24.04", "{place}");
            let rights = content["permissions"].as_object().unwrap_or_else(|| panic!("{place} has all rights"));
            let writes: Vec<&str> = rights.iter().filter(|(_, right)| *right == "write").map(|(name, _)| name.as_str()).collect();
            for step in steps(content) {
                let run = step["run"].as_str().unwrap_or_default();
                // What an expression holds would be part of the script.
                assert!(!run.contains("${{"), "{place}: {run}");
                let builds = run.contains("cargo ") || run.contains("images/build");
                assert!(!builds || writes.is_empty(), "{place}: {run}");
                let checks_out = step["uses"].as_str().is_some_and(|action| action.starts_with("actions/checkout@"));
                assert!(!checks_out || step["with"]["persist-credentials"] == false, "{place}");
            }
            if !writes.is_empty() {
                privileged.insert(place, writes.join(" "));
            }
        }
    }
    let expected = [
        ("release/bills", "attestations id-token packages"),
        ("release/publish", "attestations id-token packages"),
        ("release/release", "contents"),
    ];
    assert_eq!(privileged, expected.map(|(job, rights)| (job.to_owned(), rights.to_owned())).into());
}

/// What a release does, as far as it can be done without GitHub, is what tests do.
#[test]
fn a_workflow_runs_what_tests_run() {
    let (mut scripts, tests) = (BTreeSet::new(), texts_of_tests());
    for (name, _, workflow) in workflows() {
        for step in workflow["jobs"].as_object().unwrap().values().flat_map(steps) {
            for line in step["run"].as_str().unwrap_or_default().lines() {
                let script = line.split_whitespace().next().unwrap_or_default();
                if script.starts_with("images/") {
                    let mode = fs::metadata(root().join(script)).unwrap_or_else(|_| panic!("{name}: {script}")).permissions().mode();
                    assert!(mode & 0o111 != 0, "{script}");
                    scripts.insert(script.to_owned());
                } else if let Some(version) = line.strip_prefix("cargo install --locked cargo-deny --version ") {
                    assert!(tests.contains(version), "{name}: the lab has another cargo-deny");
                }
            }
        }
    }
    // Two clean builds take as long as everything else together: what they find is looked for in each binary instead.
    let expected = ["images/build", "images/check", "images/push", "images/release", "images/reproduce"];
    assert_eq!(scripts, expected.map(str::to_owned).into());
    for script in expected.iter().filter(|script| **script != "images/reproduce") {
        assert!(tests.contains(*script), "no test runs {script}");
    }
}
