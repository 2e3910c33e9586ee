//! `docs/protocol.md` names tests; they must exist.

use std::fs;

use crate::workspace;

/// The tests that the text links: name and file.
fn links(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("[`").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once("`](../")?;
        Some((name, rest.split_once(')')?.0))
    })
}

/// Whether the source has a test of that name.
fn has_test(source: &str, name: &str) -> bool {
    let Some((before, _)) = source.split_once(&format!("fn {name}(")) else { return false };
    // The function's own attributes, and nothing that ends another item.
    let attributes = before.rsplit("\n\n").next().unwrap_or_default();
    attributes.contains("#[test]") || attributes.contains("#[tokio::test]")
}

#[test]
fn every_test_named_in_the_protocols_table_exists() {
    let text = fs::read_to_string(workspace::root().join("docs/protocol.md")).unwrap();
    let mut rules = 0;
    for row in text.lines().filter(|line| line.starts_with("| ") && !line.contains("| tests |")) {
        let tests: Vec<_> = links(row).collect();
        assert!(!tests.is_empty(), "a rule without a test: {row}");
        for (name, file) in tests {
            let source = fs::read_to_string(workspace::root().join(file));
            let source = source.unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(has_test(&source, name), "{file} has no test {name}");
        }
        rules += 1;
    }
    assert!(rules > 50, "{rules} rules: the table was not read");
}

#[test]
fn a_function_that_is_no_test_does_not_count() {
    let source = "#[test]\nfn one() {}\n\nfn two() {}\n\n/// Why.\n#[test]\nfn three() {}\n";
    assert!(has_test(source, "one") && has_test(source, "three"));
    assert!(!has_test(source, "two") && !has_test(source, "four"));
}
