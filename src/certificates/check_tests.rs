use super::*;
use crate::testing::data;
use proptest::prelude::*;
use std::time::Duration;

/// 2025-01-01.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600)
}

fn pair(cert: &str, key: &str) -> Result<(String, bool), String> {
    check_pair(&data(cert), &data(key), now())
        .map(|leaf| (leaf.serial.to_string(), leaf.matched))
        .map_err(|refusal| refusal.to_string())
}

#[test]
fn good_pairs_of_every_kind_are_taken() {
    for (cert, key, serial, matched) in [
        ("ec.crt", "ec.key", "a1b2c3", true),
        ("ec.crt", "ec-sec1.key", "a1b2c3", true),
        ("ec.crt", "ec-bare.key", "a1b2c3", false),
        ("chain.crt", "ec.key", "a1b2c3", true),
        ("other.crt", "other.key", "700", true),
        ("ed25519.crt", "ed25519.key", "ed", false),
    ] {
        assert_eq!(
            pair(cert, key),
            Ok((serial.to_owned(), matched)),
            "{cert} {key}"
        );
    }
    assert!(pair("rsa.crt", "rsa.key").unwrap().1);
    assert!(pair("rsa.crt", "rsa-pkcs1.key").unwrap().1);
}

#[test]
fn bad_pairs_are_refused_with_the_file_and_the_reason() {
    for (cert, key, why) in [
        ("ec.crt", "other.key", "the key: is not the certificate's"),
        (
            "expired.crt",
            "ec.key",
            "the certificate: expired at 2024-04-01T00:00:00Z",
        ),
        (
            "future.crt",
            "ec.key",
            "the certificate: is not valid before 2098-01-01T00:00:00Z",
        ),
        ("ec.crt", "ec-encrypted.key", "the key: is encrypted"),
        ("ec.crt", "ec-sec1-encrypted.key", "the key: is encrypted"),
        ("ec.crt", "ec.crt", "the key: holds no private key"),
        ("ec.key", "ec.key", "the certificate: holds no certificate"),
    ] {
        assert_eq!(pair(cert, key), Err(why.to_owned()), "{cert} {key}");
    }
    let why = |cert: &[u8]| check_pair(cert, &data("ec.key"), now()).unwrap_err().why;
    assert_eq!(
        why(&[data("ca.crt"), data("ec.crt")].concat()),
        "does not begin with the leaf: the key is that of a later certificate"
    );
    assert_eq!(why(b" \n"), "is empty");
    assert_eq!(why(b"garbage"), "holds no certificate");
    let whole = data("ec.crt");
    assert_eq!(why(&whole[..200]), "a CERTIFICATE block is cut off");
    let forged = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(why(forged).starts_with("is no certificate: "));
}

/// What is wrong with a bundle of CAs, or with one of its lists.
fn bundle(ca: &[u8]) -> Result<trust::Bundle, String> {
    let checked = trust::check(ca, None, now(), Age::Valid);
    checked
        .map(|(bundle, ..)| bundle)
        .map_err(|refusal| refusal.to_string())
}

#[test]
fn one_valid_ca_makes_a_bundle_and_none_does_not() {
    let two = [
        data("ca-expired.crt"),
        b"\r\n# new\r\n".to_vec(),
        data("ca.crt"),
    ]
    .concat();
    assert_eq!(bundle(&two).unwrap().cas, 1);
    let why = |ca: &[u8]| bundle(ca).unwrap_err();
    assert_eq!(
        why(&data("ca-expired.crt")),
        "the CA: expired at 2024-04-01T00:00:00Z"
    );
    assert_eq!(why(b"# nothing yet"), "the CA: holds no certificate");
    assert_eq!(why(&data("ec.key")), "the CA: holds no certificate");
    assert_eq!(why(b""), "the CA: is empty");
}

#[test]
fn nothing_of_a_key_stays_among_the_certificates() {
    let all = [
        b"# all in one\n".to_vec(),
        data("ec.key"),
        data("ec.crt"),
        b"the next\r\n".to_vec(),
        data("ca.crt"),
        data("other.key"),
    ];
    let all = || SecretBytes::copy(&all.concat()).unwrap();
    let one = Material::Pair {
        cert: all(),
        key: all(),
        staple: None,
    };
    let clean = check(&one, None, now(), Age::Valid).unwrap().material;
    assert_eq!(cleaned(&clean).unwrap(), clean);
    let Material::Pair { cert, key, .. } = clean else {
        panic!("{clean:?}");
    };
    assert_eq!(*cert, [data("ec.crt"), data("ca.crt")].concat());
    assert_eq!(*key, data("ec.key"));
    let trust = Material::Trust {
        ca: all(),
        crl: None,
        leaf_only: false,
    };
    let Material::Trust { ca, .. } = cleaned(&trust).unwrap() else {
        panic!("{trust:?}");
    };
    assert_eq!(ca, cert);
}

fn with_staple(cert: &str, staple: Option<&str>) -> Material {
    let bytes = |name: &str| SecretBytes::copy(&data(name)).unwrap();
    let missing = || Err("x.der: is missing".to_owned());
    Material::Pair {
        cert: bytes(cert),
        key: bytes("ec.key"),
        staple: Some(staple.map_or_else(missing, |name| Ok(bytes(name)))),
    }
}

fn staple_of(material: &Material) -> Option<&[u8]> {
    let Material::Pair { staple, .. } = material else {
        return None;
    };
    staple.as_ref().map(|staple| &**staple.as_ref().unwrap())
}

#[test]
fn a_staple_that_cannot_be_used_is_left_out_and_told_and_keeps_the_certificate_from_nobody() {
    let good = check(
        &with_staple("ec.crt", Some("staple-good.der")),
        None,
        now(),
        Age::Valid,
    );
    let good = good.unwrap();
    assert_eq!(staple_of(&good.material), Some(&*data("staple-good.der")));
    assert_eq!((good.lacks, good.term == Term::default()), (None, false));
    for (staple, why) in [
        (None, "x.der: is missing"),
        (
            Some("staple-expired.der"),
            "expired at 2024-04-01T00:00:00Z",
        ),
        (
            Some("staple-revoked.der"),
            "says that the certificate is revoked",
        ),
        (
            Some("staple-unknown.der"),
            "says that the certificate is unknown",
        ),
        (
            Some("staple-later.der"),
            "is no answer: its responder failed with 3",
        ),
        (
            Some("staple-endless.der"),
            "does not say until when it is valid, which Envoy takes for expired",
        ),
        (
            Some("crl.der"),
            "is no OCSP response: an element is not of the kind it should be",
        ),
    ] {
        let bad = with_staple("ec.crt", staple);
        let found = check(&bad, None, now(), Age::Valid).unwrap();
        assert_eq!(staple_of(&found.material), None, "{why}");
        let told = found.lacks.unwrap().to_string();
        assert_eq!(told, format!("the OCSP staple: {why}"));
        // The one that Envoy has of the same certificate stays.
        let found = check(&bad, Some(&good.material), now(), Age::Valid).unwrap();
        assert_eq!(found.material, good.material, "{why}");
        assert!(found.lacks.is_some() && found.term.left(now()) == good.term.left(now()));
        // Without one Envoy does not take such a certificate at all.
        let why = check(
            &with_staple("must-staple.crt", staple),
            None,
            now(),
            Age::Valid,
        );
        let why = why.unwrap_err().to_string();
        assert!(why.ends_with("; the certificate demands one"), "{why}");
    }
    // When that may be otherwise is known all the same.
    let year = |year: u64| SystemTime::UNIX_EPOCH + Duration::from_secs((year - 1970) * 31_557_600);
    let refused = |staple, at| {
        let demanding = with_staple("must-staple.crt", Some(staple));
        check(&demanding, None, at, Age::Any).unwrap_err().term
    };
    let early = refused("staple-good.der", year(2023));
    assert!(early.covers(year(2023)) && !early.covers(now()));
    let late = refused("staple-expired.der", now());
    assert!(late.covers(now()) && !late.covers(year(2024)));
    let demanding = with_staple("must-staple.crt", Some("staple-good.der"));
    assert!(
        check(&demanding, None, now(), Age::Valid)
            .unwrap()
            .lacks
            .is_none()
    );
}

#[test]
fn a_staple_of_another_certificate_does_not_go_with_the_new_one() {
    let cert = SecretBytes::copy(&data("other.crt")).unwrap();
    let new = Material::Pair {
        cert,
        key: SecretBytes::copy(&data("other.key")).unwrap(),
        staple: Some(Ok(SecretBytes::copy(&data("staple-good.der")).unwrap())),
    };
    let loaded = with_staple("ec.crt", Some("staple-good.der"));
    let found = check(&new, Some(&loaded), now(), Age::Valid).unwrap();
    assert_eq!(staple_of(&found.material), None);
    assert_eq!(
        found.lacks.unwrap().to_string(),
        "the OCSP staple: is of serial a1b2c3, not of this certificate"
    );
}

proptest! {
    #[test]
    fn no_input_makes_it_panic(cert: Vec<u8>, key: Vec<u8>) {
        let _ = check_pair(&cert, &key, now());
        let _ = bundle(&cert);
    }

    #[test]
    fn no_cut_or_flipped_byte_makes_it_panic(cut in 0usize..2000, at in 0usize..2000, with: u8) {
        let mut cert = data("chain.crt");
        let mut key = data("rsa.key");
        for text in [&mut cert, &mut key] {
            let length = text.len();
            text[at % length] = with;
            text.truncate(cut.max(1));
        }
        let _ = check_pair(&cert, &key, now());
        let _ = bundle(&cert);
    }
}
