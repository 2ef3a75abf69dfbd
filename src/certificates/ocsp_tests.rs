use super::*;
use crate::testing::data;
use proptest::prelude::*;
use std::time::Duration;

fn parse(name: &str) -> Result<Response, String> {
    Response::parse(&data(name))
}

#[test]
fn a_response_tells_of_which_certificate_it_is_and_until_when_it_holds() {
    let good = parse("staple-good.der").unwrap();
    assert_eq!(
        (good.serial.to_string().as_str(), good.status),
        ("a1b2c3", Status::Good)
    );
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
    assert_eq!(
        seconds(good.since),
        Some(Duration::from_secs(1_704_067_200))
    ); // 2024-01-01
    let until = good.until.and_then(seconds);
    assert_eq!(until, Some(Duration::from_secs(4_070_908_800))); // 2099-01-01
    assert_eq!(parse("staple-endless.der").unwrap().until, None);
    assert_eq!(parse("staple-revoked.der").unwrap().status, Status::Revoked);
    assert_eq!(parse("staple-unknown.der").unwrap().status, Status::Unknown);
}

#[test]
fn what_is_no_answer_is_refused_in_words() {
    assert_eq!(
        parse("staple-later.der").unwrap_err(),
        "is no answer: its responder failed with 3"
    );
    assert_eq!(parse("ec.crt").unwrap_err(), "is PEM: Envoy takes DER");
    let whole = data("staple-good.der");
    for cut in 0..whole.len() {
        assert!(Response::parse(&whole[..cut]).is_err(), "{cut}");
    }
    let more = [&whole[..], &[0]].concat();
    assert_eq!(
        Response::parse(&more).unwrap_err(),
        "is no OCSP response: something follows the response"
    );
}

/// Each of them costs the certificate that it is stapled to, in Envoy 1.36.4 and 1.40.0.
#[test]
fn what_envoy_refuses_besides_is_refused_too() {
    let good = data("staple-good.der");
    let at = |of: &[u8]| good.windows(of.len()).position(|part| part == of).unwrap();
    let basic = at(BASIC) + BASIC.len() - 1;
    // Who answers is the first of what is signed, and then comes when.
    let who = at(&[tag::CONSTRUCTED_2, 22, tag::OCTET_STRING, 20]);
    let when = who + 24;
    assert_eq!(good[when], tag::GENERALIZED_TIME);
    for (place, byte, why) in [
        (basic, 2, "it is of another kind than the basic one"),
        (
            who,
            tag::CONSTRUCTED_0,
            "it names a version, which Envoy does not take",
        ),
        (who, tag::CONSTRUCTED_3, "it does not say who answers"),
        (
            when,
            tag::UTC_TIME,
            "an element is not of the kind it should be",
        ),
    ] {
        let mut bad = good.clone();
        bad[place] = byte;
        let why = format!("is no OCSP response: {why}");
        assert_eq!(Response::parse(&bad), Err(why));
    }
}

proptest! {
    #[test]
    fn no_flipped_byte_makes_it_panic(at in 0usize..400, with: u8) {
        let mut der = data("staple-good.der");
        let length = der.len();
        der[at % length] = with;
        let _ = Response::parse(&der);
    }
}
