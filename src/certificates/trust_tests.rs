use super::*;
use crate::testing::data;
use proptest::prelude::*;
use std::time::Duration;

fn all(names: &[&str]) -> Vec<u8> {
    names.iter().flat_map(|name| data(name)).collect()
}

/// 2025-01-01.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600)
}

fn trust(ca: &[&str], crl: &[&str]) -> Result<(Bundle, Option<String>), String> {
    let crl = (!crl.is_empty()).then(|| all(crl));
    let checked = check(&all(ca), crl.as_deref(), now(), Age::Valid);
    let told = |why: Refusal| why.to_string();
    checked
        .map(|(bundle, lacks, _)| (bundle, lacks.map(told)))
        .map_err(told)
}

#[test]
fn the_cas_that_are_valid_count_and_those_of_them_with_a_list() {
    let found = |ca: &[&str], crl: &[&str]| {
        let (bundle, lacks) = trust(ca, crl).unwrap();
        (bundle.cas, bundle.listed, lacks)
    };
    assert_eq!(found(&["ca.crt"], &[]), (1, 0, None));
    assert_eq!(
        found(&["ca.crt", "ca-expired.crt"], &["crl.pem"]),
        (1, 1, None)
    );
    // Among the CAs, Envoy obeys it, too.
    assert_eq!(
        found(&["crl.pem", "ca.crt", "other.crt"], &[]),
        (2, 1, None)
    );
    // Of an expired list and a newer one of the same CA the newer one counts.
    let lists = ["crl-expired.pem", "crl.pem"];
    assert_eq!(found(&["ca.crt"], &lists), (1, 1, None));
}

#[test]
fn what_would_have_envoy_refuse_every_client_is_refused() {
    let why = |ca: &[&str], crl: &[&str]| trust(ca, crl).unwrap_err();
    assert_eq!(
        why(&["ca.crt"], &["crl-expired.pem"]),
        "the CRL: expired at 2024-04-01T00:00:00Z"
    );
    let foreign = "the CRL: no list in it is of a CA in the bundle: Envoy would refuse all clients; \
                   put the certificate of the list's issuer beside the CAs";
    assert_eq!(why(&["ca.crt"], &["crl-other.pem"]), foreign);
    // Of a CA that has expired is of none.
    assert_eq!(
        why(&["ca-expired.crt", "ca.crt"], &["crl-other.pem"]),
        foreign
    );
    assert_eq!(
        why(&["ca.crt"], &["crl.der"]),
        "the CRL: is DER: Envoy takes PEM"
    );
    for none in ["ca.crt", "ec.key"] {
        assert_eq!(
            why(&["ca.crt"], &[none]),
            "the CRL: holds no revocation list"
        );
    }
    let forged = b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let why = check(&data("ca.crt"), Some(forged), now(), Age::Valid).unwrap_err();
    assert!(
        why.to_string()
            .starts_with("the CRL: is no revocation list: ")
    );
}

#[test]
fn one_expired_list_of_several_holds_the_others_not_up_and_is_told() {
    let (bundle, lacks) = trust(
        &["ca.crt", "ca-second.crt"],
        &["crl-expired.pem", "crl-second.pem"],
    )
    .unwrap();
    assert_eq!((bundle.cas, bundle.listed), (2, 1));
    assert_eq!(lacks.unwrap(), "the CRL: expired at 2024-04-01T00:00:00Z");
}

#[test]
fn lists_of_two_keys_of_one_name_are_told_apart() {
    assert!(trust(&["ca-named.crt"], &["crl-named.pem"]).is_ok());
    let other = trust(&["ca-named.crt"], &["crl-before.pem"]).unwrap_err();
    assert!(other.starts_with("the CRL: no list in it"), "{other}");
}

#[test]
fn the_end_of_what_ends_first_is_the_bundles() {
    let (bundle, _) = trust(&["ca.crt"], &["crl.pem"]).unwrap();
    let (ca, _) = trust(&["ca.crt"], &[]).unwrap();
    assert_eq!(bundle.not_after, ca.not_after);
    let before = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_251_200); // 2024-03-01
    let crl = data("crl-expired.pem");
    let (bundle, ..) = check(&data("ca.crt"), Some(&crl), before, Age::Valid).unwrap();
    assert!(bundle.not_after < ca.not_after);
}

#[test]
fn envoy_looks_for_cas_in_the_lists_only_where_each_has_one() {
    let leaf_only = |ca: &[&str], crl: &[&str]| is_leaf_only(&all(ca), Some(&all(crl)));
    assert!(!leaf_only(&["ca.crt"], &["crl.pem"]));
    assert!(leaf_only(&["ca.crt", "ca-second.crt"], &["crl.pem"]));
    assert!(!is_leaf_only(&data("ca.crt"), None));
}

proptest! {
    #[test]
    fn no_input_makes_it_panic(ca: Vec<u8>, crl: Vec<u8>, at in 0usize..900, with: u8) {
        let _ = check(&ca, Some(&crl), now(), Age::Valid);
        let _ = is_leaf_only(&ca, Some(&crl));
        let mut der = data("crl.der");
        let length = der.len();
        der[at % length] = with;
        let _ = Crl::parse(&der);
    }
}
