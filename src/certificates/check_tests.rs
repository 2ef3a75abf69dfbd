use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn data(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// 2025-01-01.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600)
}

fn pair(cert: &str, key: &str) -> Result<(String, bool), String> {
    check_pair(&data(cert), &data(key), now())
        .map(|leaf| (leaf.serial, leaf.matched))
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
    assert_eq!(why(b" \n"), "is empty");
    assert_eq!(why(b"garbage"), "holds no certificate");
    let whole = data("ec.crt");
    assert_eq!(why(&whole[..200]), "a CERTIFICATE block is cut off");
    let forged = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(why(forged).starts_with("is no certificate: "));
}

#[test]
fn one_valid_ca_makes_a_bundle_and_none_does_not() {
    let bundle = [
        data("ca-expired.crt"),
        b"\r\n# new\r\n".to_vec(),
        data("ca.crt"),
    ]
    .concat();
    assert!(check_bundle(&bundle, now()).is_ok());
    let why = |ca: &[u8]| check_bundle(ca, now()).unwrap_err().to_string();
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
    let one = Contents {
        cert: all(),
        key: all(),
        ca: Some(all()),
    };
    check(&one, now()).unwrap();
    let clean = cleaned(&one).unwrap();
    assert_eq!(*clean.cert, [data("ec.crt"), data("ca.crt")].concat());
    assert_eq!(*clean.key, data("ec.key"));
    assert_eq!(clean.ca.as_ref(), Some(&clean.cert));
    assert_eq!(cleaned(&clean).unwrap(), clean);
}

proptest! {
    #[test]
    fn no_input_makes_it_panic(cert: Vec<u8>, key: Vec<u8>) {
        let _ = check_pair(&cert, &key, now());
        let _ = check_bundle(&cert, now());
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
        let _ = check_bundle(&cert, now());
    }
}
