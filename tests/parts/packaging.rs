//! The recipes under `packaging/` name the version and the Rust of `Cargo.toml`.

use std::path::Path;

#[test]
fn recipes_have_the_versions_of_the_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let (version, rust) = (env!("CARGO_PKG_VERSION"), env!("CARGO_PKG_RUST_VERSION"));
    for (file, lines) in [
        (
            "spack/spack_repo/phalanx/packages/phalanx/package.py",
            vec![
                format!("version(\"{version}\")"),
                format!("dev-build phalanx@{version}`"),
                format!("\"rust@{rust}:\""),
            ],
        ),
        ("conda/recipe.yaml", vec![format!("version: \"{version}\""), format!("- rust >={rust}\n")]),
        ("Dockerfile", vec![format!("image.version=\"{version}\""), format!("FROM rust:{rust}-bookworm AS build")]),
        ("phalanx.def", vec![format!("Version {version}\n"), format!("From: rust:{rust}-bookworm\n")]),
    ] {
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        for line in lines {
            assert!(text.contains(&line), "{file} has no {line:?}");
        }
        let text = text.replace(rust, "");
        let others = text
            .split(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.matches('.').count() == 2);
        assert!(others.clone().all(|word| word == version), "{file}: {:?}", others.collect::<Vec<_>>());
    }
}
