//! What the repository as a whole keeps: packages that can be published, documents whose links lead somewhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml::Table;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the repository's folder")
}

fn manifest(path: &Path) -> Table {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The manifests of the workspace's packages, with their folders.
fn packages() -> Vec<(PathBuf, Table)> {
    let folders = fs::read_dir(root().join("crates")).expect("crates/");
    let folders = folders.map(|entry| entry.expect("an entry of crates/").path());
    folders.map(|folder| (folder.clone(), manifest(&folder.join("Cargo.toml")))).collect()
}

#[test]
fn every_published_package_says_what_it_is_and_brings_its_licences() {
    let (mut published, root) = (0, root());
    for (folder, manifest) in packages() {
        let package = manifest["package"].as_table().expect("a package");
        let name = package["name"].as_str().expect("a name");
        if package.get("publish").and_then(|publish| publish.as_bool()) == Some(false) {
            continue;
        }
        published += 1;
        for key in ["description", "license", "readme", "keywords", "categories", "exclude"] {
            assert!(package.contains_key(key), "{name} has no {key}");
        }
        let words = |key: &str| package[key].as_array().expect("a list").len();
        assert!((1..=5).contains(&words("keywords")), "{name}: a registry takes five keywords");
        assert!((1..=5).contains(&words("categories")), "{name}: a registry takes five categories");
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            let (own, whole) = (fs::read(folder.join(licence)), fs::read(root.join(licence)));
            assert_eq!(own.expect(name), whole.expect("the repository's licence"), "{name}");
        }
    }
    assert!(published >= 20, "only {published} packages were looked at");
}

#[test]
fn packages_of_the_workspace_ask_for_each_other_by_the_workspaces_version() {
    let manifest = manifest(&root().join("Cargo.toml"));
    let workspace = &manifest["workspace"];
    let version = workspace["package"]["version"].as_str().expect("a version");
    let dependencies = workspace["dependencies"].as_table().expect("dependencies");
    let mut asked = 0;
    for (name, dependency) in dependencies.iter().filter(|(_, value)| value.get("path").is_some()) {
        let wanted = dependency.get("version").and_then(|version| version.as_str());
        // What is for tests alone stays out of published packages, which it does by having no version.
        let right = (name != "lns-testing").then_some(version);
        assert_eq!(wanted, right, "{name}");
        asked += 1;
    }
    assert!(asked >= 20, "only {asked} packages were looked at");
}

#[test]
fn the_python_package_has_the_workspaces_version() {
    let root = root();
    let (rust, python) =
        (manifest(&root.join("Cargo.toml")), manifest(&root.join("python/pyproject.toml")));
    assert_eq!(python["project"]["version"], rust["workspace"]["package"]["version"]);
}

/// The targets of `[…](target)` in a Markdown text, code blocks and code in a line left out.
fn links(text: &str) -> Vec<String> {
    let prose: String = text.split("```").step_by(2).collect();
    let prose: String = prose.split('`').step_by(2).collect();
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

#[test]
fn every_relative_link_of_the_documentation_leads_to_a_file() {
    let root = root();
    let (mut documents, mut followed) = (Vec::new(), 0);
    for folder in ["", "docs", "docs/studies", "python", "golden"] {
        let entries = fs::read_dir(root.join(folder)).expect(folder);
        documents.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    for document in documents.iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let folder = document.parent().expect("a folder");
        for link in links(&fs::read_to_string(document).expect("a document")) {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || link.contains("://") {
                continue;
            }
            followed += 1;
            assert!(folder.join(file).exists(), "{} links to {link}", document.display());
        }
    }
    assert!(followed > 40, "only {followed} links were followed");
}
