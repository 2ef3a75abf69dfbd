//! The names of secrets: what Envoy takes, and what becomes of them in the names of files and of
//! Envoy's statistics.

use std::fmt::Write;

/// The secret of the xDS client's certificate and key, by Contour's name.
pub const CONTOUR_LEAF: &str = "contour_xds_tls_certificate";
/// The secret of the CA that the xDS server is checked against, by Contour's name.
pub const CONTOUR_CA: &str = "contour_xds_tls_validation_context";
/// Where Contour's bootstrap has the leaf's SDS file, below its resources directory, without
/// `.json`.
pub(super) const CONTOUR_LEAF_FILE: &str = "xds-tls-certificate";
/// Where Contour's bootstrap has the CA's SDS file, below its resources directory, without `.json`.
pub(super) const CONTOUR_CA_FILE: &str = "xds-validation-context";

/// The longest name of a file, in bytes (NAME_MAX of limits.h), less what its temporary file has
/// around it: a dot, `.json` and `.tmp`.
const LONGEST: usize = 255 - ".".len() - ".json".len() - ".tmp".len();

/// The name of the file in `DIR/sds` that the secret `name` is published in: bytes other than
/// letters, digits, `.`, `_` and `-` are percent-encoded, so that no two secrets share a file and
/// none has a directory of its own. The names `.` and `..` become `..json` and `...json`.
pub fn file_name(name: &str) -> String {
    let mut file = String::with_capacity(name.len() + ".json".len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            file.push(char::from(byte));
        } else {
            // A String takes everything.
            let _ = write!(file, "%{byte:02X}");
        }
    }
    file.push_str(".json");
    file
}

/// How Envoy calls the secret `name` in its statistics (`sds.NAME.update_success`): a colon in the
/// name of a scope gives way, with the slashes behind it (`Stats::Utility::sanitizeStatsName` in
/// Envoy's source/common/stats/utility.cc; `spiffe://td/web` is `spiffe_td/web` in 1.36 and 1.40).
pub fn in_statistics(name: &str) -> String {
    let name = name.replace("://", "_");
    name.replace(":/", "_").replace(':', "_")
}

/// Whether a secret of this name can be published, and asked for.
///
/// # Errors
/// In one line, when it cannot.
pub fn check(name: &str) -> Result<(), String> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || "=,".contains(c);
    if name.is_empty() || name.contains(bad) {
        return Err(format!(
            "a secret's name is not empty and has no '=', ',', white space or control character: \
             {name:?}"
        ));
    }
    let file = file_name(name).len() - ".json".len();
    if file > LONGEST {
        return Err(format!(
            "a secret's name has {LONGEST} bytes at the most, a byte other than letters, digits, \
             '.', '_' and '-' counting three times: {name:?} has {file}"
        ));
    }
    if [CONTOUR_LEAF_FILE, CONTOUR_CA_FILE, CONTOUR_LEAF, CONTOUR_CA].contains(&name) {
        return Err(format!("{name} is the xDS client's own"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn the_names_of_spire_istio_and_gloo_are_taken_and_escaped() {
        for (name, file, statistic) in [
            ("tls", "tls.json", "tls"),
            ("A-1_b.c", "A-1_b.c.json", "A-1_b.c"),
            (
                "spiffe://td/web",
                "spiffe%3A%2F%2Ftd%2Fweb.json",
                "spiffe_td/web",
            ),
            (
                "kubernetes://ns/x",
                "kubernetes%3A%2F%2Fns%2Fx.json",
                "kubernetes_ns/x",
            ),
            ("a%3Ab", "a%253Ab.json", "a%3Ab"),
            ("über", "%C3%BCber.json", "über"),
            ("../x", "..%2Fx.json", "../x"),
            (".", "..json", "."),
            ("..", "...json", ".."),
        ] {
            assert_eq!(check(name), Ok(()));
            assert_eq!(file_name(name), file);
            assert_eq!(in_statistics(name), statistic);
        }
    }

    #[test]
    fn a_name_that_cannot_be_given_or_is_taken_is_refused() {
        let long = "x".repeat(246);
        let escaped = ":".repeat(82);
        for name in [
            "",
            "a=b",
            "a,b",
            "a b",
            "a\tb",
            "a\u{1}b",
            "\u{a0}",
            &long,
            &escaped,
            CONTOUR_LEAF,
            CONTOUR_CA,
            "xds-tls-certificate",
            "xds-validation-context",
        ] {
            assert!(check(name).is_err(), "{name}");
        }
        assert_eq!(check(&long[1..]), Ok(()));
    }

    proptest! {
        #[test]
        fn every_name_is_a_file_of_its_own_in_the_directory(one: String, other: String) {
            let file = file_name(&one);
            let mut parts = Path::new(&file).components();
            prop_assert!(matches!(parts.next(), Some(Component::Normal(_))));
            prop_assert_eq!(parts.next(), None);
            prop_assert_eq!(one == other, file == file_name(&other));
        }
    }
}
