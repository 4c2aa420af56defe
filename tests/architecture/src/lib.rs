//! The hexagon as a test: which crate may use which, read from `cargo metadata`.
//!
//! The tables below are the whole rule. A new crate has to be entered here before the tests pass again.

use cargo_metadata::{Dependency, DependencyKind, Metadata, Package};

const ADAPTERS: [&str; 5] =
    ["outrigger-memory", "outrigger-sqlite", "outrigger-postgres", "outrigger-jwt", "outrigger-http"];
/// What apps use: nothing of the server but its protocol, and the whole server in its tests.
const CLIENT: &str = "outrigger-client";
/// Crates that only tests may use.
const TESTS: [&str; 6] = [
    "outrigger-testkit",
    "outrigger-testserver",
    "outrigger-conformance",
    "outrigger-torture",
    "outrigger-fuzz",
    "outrigger-architecture",
];
/// All that the rules of the protocol may stand on: values, no I/O, no clock, nothing asynchronous.
const DOMAIN_USES: [&str; 7] = ["base64", "jiff", "serde", "serde_json", "sha2", "thiserror", "uuid"];

/// Crates that bring a database, a transport, a token format or a command line, each with the crates of ours
/// that may know of it. Whatever else uses it does so in its tests only.
const OWNED: [(&str, &[&str]); 10] = [
    ("sqlx", &["outrigger-postgres"]),
    ("rusqlite", &["outrigger-sqlite", CLIENT, "outrigger-bench"]),
    ("jsonwebtoken", &["outrigger-jwt"]),
    ("axum", &["outrigger-http"]),
    ("tower", &["outrigger-http"]),
    ("tower-http", &["outrigger-http"]),
    ("utoipa", &["outrigger-http"]),
    ("clap", &["outrigger", "outrigger-config"]),
    ("figment", &["outrigger-config"]),
    ("tracing-subscriber", &["outrigger", "outrigger-config"]),
];

/// Every edge that the tables do not allow, as a sentence.
pub fn violations(workspace: &Metadata) -> Vec<String> {
    let packages = workspace.workspace_packages();
    let ours: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut found = Vec::new();
    for package in packages {
        for dependency in &package.dependencies {
            let complaint = if ours.contains(&dependency.name.as_str()) {
                inner_edge(package, dependency)
            } else {
                outer_edge(package, dependency)
            };
            found.extend(complaint.map(|why| format!("{} uses {}: {why}", package.name, dependency.name)));
        }
    }
    found
}

/// What is wrong with one crate of ours using another.
fn inner_edge(package: &Package, dependency: &Dependency) -> Option<String> {
    let (from, to) = (package.name.as_str(), dependency.name.as_str());
    let dev = dependency.kind == DependencyKind::Development;
    if TESTS.contains(&from) || (from == CLIENT && dev) {
        return None;
    }
    if dependency.features.iter().any(|feature| feature == "mock") && !dev {
        return Some("mocks are for tests".into());
    }
    let allowed: Vec<&str> = match from {
        "outrigger-domain" | CLIENT => vec![],
        "outrigger-application" => vec!["outrigger-domain"],
        "outrigger" => {
            let inner = ["outrigger-domain", "outrigger-application", "outrigger-config", "outrigger-bench"];
            [ADAPTERS.as_slice(), &inner].concat()
        }
        // The keys of `auth` are checked by what uses them.
        "outrigger-config" => vec!["outrigger-domain", "outrigger-application", "outrigger-jwt"],
        // Signs tokens for the servers that it starts, and starts their database.
        "outrigger-bench" => {
            vec!["outrigger-domain", "outrigger-application", "outrigger-jwt", "outrigger-testkit"]
        }
        _ if ADAPTERS.contains(&from) => vec!["outrigger-domain", "outrigger-application"],
        _ => return Some("the crate is not in the tables of the architecture test".into()),
    };
    let outside = !["outrigger-domain", "outrigger-application"].contains(&from);
    let for_tests = dev && outside && (to == "outrigger-memory" || TESTS.contains(&to));
    (!allowed.contains(&to) && !for_tests).then(|| format!("it may use {allowed:?} of ours"))
}

/// What is wrong with one crate of ours using one of somebody else's.
fn outer_edge(package: &Package, dependency: &Dependency) -> Option<String> {
    let (from, to) = (package.name.as_str(), dependency.name.as_str());
    if dependency.kind == DependencyKind::Development || TESTS.contains(&from) {
        return None;
    }
    if from == "outrigger-domain" && !DOMAIN_USES.contains(&to) {
        return Some(format!("the domain may use {DOMAIN_USES:?}"));
    }
    let (_, owners) = OWNED.iter().find(|(name, _)| *name == to)?;
    (!owners.contains(&from)).then(|| format!("only {} may", owners.join(" and ")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use cargo_metadata::MetadataCommand;

    use super::*;

    /// The workspace with what its manifests declare; nothing is resolved, so no network is needed.
    fn workspace() -> Metadata {
        MetadataCommand::new().no_deps().exec().unwrap()
    }

    fn rust_files(folder: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.extend(rust_files(&path));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
        files
    }

    #[test]
    fn every_edge_between_crates_is_allowed() {
        let found = violations(&workspace());
        assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    }

    #[test]
    fn forbidden_edges_are_found() {
        for (from, to, dev, why) in [
            ("outrigger-domain", "tokio", false, "the domain may use"),
            ("outrigger-domain", "outrigger-application", true, "it may use []"),
            ("outrigger-application", "outrigger-memory", true, "it may use"),
            ("outrigger-application", "sqlx", false, "only outrigger-postgres may"),
            ("outrigger-http", "outrigger-jwt", false, "it may use"),
            ("outrigger-http", "outrigger-sqlite", true, "it may use"),
            ("outrigger-sqlite", "outrigger-testkit", false, "it may use"),
            ("outrigger", "rusqlite", false, "only outrigger-sqlite and outrigger-client and outrigger-bench may"),
            ("outrigger-client", "outrigger-domain", false, "it may use []"),
        ] {
            let mut workspace = workspace();
            let mut planted = workspace.packages[0].dependencies[0].clone();
            planted.name = to.into();
            planted.features.clear();
            planted.kind = if dev { DependencyKind::Development } else { DependencyKind::Normal };
            let package = workspace.packages.iter_mut().find(|package| package.name.as_str() == from).unwrap();
            package.dependencies = vec![planted];
            let sentence = format!("{from} uses {to}: {why}");
            let found = violations(&workspace);
            assert!(found.iter().any(|line| line.starts_with(&sentence)), "{sentence}: {found:?}");
        }
    }

    #[test]
    fn every_crate_has_the_lints_of_the_workspace() {
        for package in workspace().workspace_packages() {
            let manifest = fs::read_to_string(&package.manifest_path).unwrap();
            assert!(manifest.contains("[lints]\nworkspace = true\n"), "{} has lints of its own", package.name);
        }
    }

    #[test]
    fn one_file_names_the_stores() {
        let root = workspace().workspace_root;
        let stores = ["outrigger_memory", "outrigger_sqlite", "outrigger_postgres"];
        for path in rust_files(root.join("bin/src").as_std_path()) {
            let text = fs::read_to_string(&path).unwrap();
            let names_one = stores.iter().any(|store| text.contains(store));
            assert_eq!(names_one, path.ends_with("wire.rs"), "{}", path.display());
        }
    }

    #[test]
    fn nothing_in_the_domain_is_asynchronous() {
        for path in rust_files(workspace().workspace_root.join("domain/src").as_std_path()) {
            let text = fs::read_to_string(&path).unwrap();
            let found = text.lines().find(|line| line.contains("async ") || line.contains(".await"));
            assert_eq!(found, None, "{}", path.display());
        }
    }
}
