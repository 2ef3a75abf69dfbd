//! The fuzz targets' checks, for a moment: their seeds, changed a little, and anything at all.

#[path = "fuzz/checks.rs"]
mod checks;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds");
    let files = fs::read_dir(directory.join(target)).expect("seeds");
    files
        .map(|file| fs::read(file.expect("a seed").path()).expect("a seed"))
        .collect()
}

/// A seed with some bytes replaced, and cut somewhere; or any bytes.
fn bytes(target: &str) -> impl Strategy<Value = Vec<u8>> {
    let changed = (
        proptest::sample::select(seeds(target)),
        proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        any::<Index>(),
    )
        .prop_map(|(mut bytes, changes, end)| {
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(bytes.len() - end.index(bytes.len()));
            bytes
        });
    prop_oneof![3 => changed, 1 => proptest::collection::vec(any::<u8>(), 0..200)]
}

#[test]
fn every_seed_passes() {
    for (target, check) in [
        ("stats", checks::stats as fn(&[u8])),
        ("http_head", checks::http_head),
        ("words", checks::words),
        ("envoy_argv", checks::envoy_argv),
        ("options", checks::options),
        ("answers", checks::answers),
        ("pem", checks::pem),
        ("der", checks::der),
        ("admin_pages", checks::admin_pages),
        ("netlink", checks::netlink),
    ] {
        for seed in seeds(target) {
            check(&seed);
        }
    }
}

proptest! {
    #[test]
    fn a_page_of_gauges_reads_as_it_is(bytes in bytes("stats")) {
        checks::stats(&bytes);
    }

    #[test]
    fn a_head_stays_what_it_is(bytes in bytes("http_head")) {
        checks::http_head(&bytes);
    }

    #[test]
    fn durations_networks_and_addresses_are_read_as_they_are_shown(bytes in bytes("words")) {
        checks::words(&bytes);
    }

    #[test]
    fn envoys_command_line_gets_what_it_lacks(bytes in bytes("envoy_argv")) {
        checks::envoy_argv(&bytes);
    }

    #[test]
    fn our_command_line_is_taken_or_refused_in_a_line(bytes in bytes("options")) {
        checks::options(&bytes);
    }

    #[test]
    fn what_a_stranger_answers_is_shown_as_it_is_or_not_at_all(bytes in bytes("answers")) {
        checks::answers(&bytes);
    }

    #[test]
    fn certificates_and_keys_are_taken_or_refused_in_a_line(bytes in bytes("pem")) {
        checks::pem(&bytes);
    }

    #[test]
    fn what_claims_to_be_a_certificate_is_one_or_malformed(bytes in bytes("der")) {
        checks::der(&bytes);
    }

    #[test]
    fn the_pages_about_certificates_are_read_as_they_are(bytes in bytes("admin_pages")) {
        checks::admin_pages(&bytes);
    }

    #[test]
    fn each_socket_that_the_kernel_tells_of_counts_once_at_the_most(bytes in bytes("netlink")) {
        checks::netlink(&bytes);
    }
}
