//! The krew manifest, held to what krew asks of one.

use serde_json::Value;

/// As krew's own validation has it (sigs.k8s.io/krew, pkg/index/validation), as far as a template can be held to it.
#[test]
fn the_manifest_is_one_that_krew_takes() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/krew/netloss.yaml")).unwrap();
    let manifest: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(
        (manifest["apiVersion"].as_str(), manifest["kind"].as_str()),
        (Some("krew.googlecontainertools.github.com/v1alpha2"), Some("Plugin"))
    );
    // The binary's name is kubectl- and the plugin's.
    let name = manifest["metadata"]["name"].as_str().unwrap();
    assert_eq!(format!("kubectl-{name}"), super::PROGRAM);
    let spec = &manifest["spec"];
    for (field, longest) in [("version", 50), ("homepage", 100), ("shortDescription", 50), ("description", 2000), ("caveats", 500)] {
        let words = spec[field].as_str().unwrap_or_else(|| panic!("{field} is missing"));
        assert!(!words.is_empty() && words.len() <= longest, "{field}: {words}");
    }
    let platforms = spec["platforms"].as_array().unwrap();
    assert!(!platforms.is_empty());
    for platform in platforms {
        let arch = platform["selector"]["matchLabels"]["arch"].as_str().unwrap();
        for field in ["uri", "sha256"] {
            assert!(platform[field].as_str().unwrap().contains(arch), "{field} of {arch} is another's: {platform}");
        }
        let bin = platform["bin"].as_str().unwrap();
        assert_eq!(bin, super::PROGRAM);
        let files = platform["files"].as_array().unwrap();
        assert!(files.iter().any(|file| file["from"] == bin) && files.iter().any(|file| file["from"] == "LICENSE"), "{platform}");
    }
    // Each example of the description is one that the command line takes.
    let examples: Vec<&str> =
        spec["description"].as_str().unwrap().lines().filter_map(|line| line.trim().strip_prefix("kubectl netloss ")).collect();
    assert!(examples.len() >= 2);
    for example in examples {
        let words = std::iter::once(super::PROGRAM).chain(example.split(' '));
        assert!(<super::Cli as clap::Parser>::try_parse_from(words).is_ok(), "{example}");
    }
}
