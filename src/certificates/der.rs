//! Just enough DER: one element after the other, by length, without recursion.
//!
//! What is BER and not DER is refused, as by Envoy's BoringSSL: indefinite lengths, lengths that
//! are longer than they need to be, tags of several bytes.

use std::time::{Duration, SystemTime};

use crate::clock;

/// Why something is not DER, in a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

const NO_DATE: Malformed = Malformed("a date cannot be read");

/// Universal and context-specific tags, as far as they are needed here.
pub mod tag {
    #![allow(missing_docs)]
    pub const BOOLEAN: u8 = 0x01;
    pub const INTEGER: u8 = 0x02;
    pub const BIT_STRING: u8 = 0x03;
    pub const OCTET_STRING: u8 = 0x04;
    pub const OBJECT_IDENTIFIER: u8 = 0x06;
    pub const ENUMERATED: u8 = 0x0a;
    pub const UTC_TIME: u8 = 0x17;
    pub const GENERALIZED_TIME: u8 = 0x18;
    pub const SEQUENCE: u8 = 0x30;
    pub const PRIMITIVE_0: u8 = 0x80;
    pub const PRIMITIVE_1: u8 = 0x81;
    pub const PRIMITIVE_2: u8 = 0x82;
    pub const CONSTRUCTED_0: u8 = 0xa0;
    pub const CONSTRUCTED_1: u8 = 0xa1;
    pub const CONSTRUCTED_2: u8 = 0xa2;
    pub const CONSTRUCTED_3: u8 = 0xa3;
}

/// Reads the elements of some DER in their order.
#[derive(Clone, Copy)]
pub struct DerReader<'a> {
    rest: &'a [u8],
}

impl<'a> DerReader<'a> {
    /// A reader of the elements in `der`.
    pub fn new(der: &'a [u8]) -> DerReader<'a> {
        DerReader { rest: der }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next element, which must be of this tag: its value.
    ///
    /// # Errors
    /// When it is of another tag, or not whole, or not DER.
    pub fn expect(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        match self.any()? {
            (found, value) if found == tag => Ok(value),
            _ => Err(Malformed("an element is not of the kind it should be")),
        }
    }

    /// The next element's value where it is of this tag; none, and nothing is read, otherwise.
    ///
    /// # Errors
    /// When it is of this tag, and not whole or not DER.
    pub fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, Malformed> {
        match self.rest.first() {
            Some(next) if *next == tag => self.expect(tag).map(Some),
            _ => Ok(None),
        }
    }

    /// The next element, which must be a sequence: a reader of what it holds.
    ///
    /// # Errors
    /// As [`DerReader::expect`].
    pub fn sequence(&mut self) -> Result<DerReader<'a>, Malformed> {
        self.expect(tag::SEQUENCE).map(DerReader::new)
    }

    /// The next element, which must be a whole number: its bytes without leading zeros.
    ///
    /// # Errors
    /// As [`DerReader::expect`], and when it is longer than it needs to be.
    pub fn integer(&mut self) -> Result<&'a [u8], Malformed> {
        match self.expect(tag::INTEGER)? {
            [] => Err(Malformed("a number is empty")),
            [0x00, 0x00..=0x7f, ..] | [0xff, 0x80..=0xff, ..] => {
                Err(Malformed("a number is longer than it needs to be"))
            }
            [0x00, digits @ ..] | digits => Ok(digits),
        }
    }

    /// The next element, which must be a bit string of whole bytes.
    ///
    /// # Errors
    /// As [`DerReader::expect`], and when bits are left over.
    pub fn bit_string(&mut self) -> Result<&'a [u8], Malformed> {
        whole_bytes(self.expect(tag::BIT_STRING)?)
    }

    /// The next element, which must be a UTCTime or a GeneralizedTime, to the second.
    ///
    /// # Errors
    /// As [`DerReader::expect`], and when it is no time in UTC.
    pub fn time(&mut self) -> Result<SystemTime, Malformed> {
        match self.any()? {
            (tag::UTC_TIME, text) => {
                // RFC 5280: years 50 to 99 are of the last century.
                let century = if text.first() >= Some(&b'5') {
                    "19"
                } else {
                    "20"
                };
                moment(&[century.as_bytes(), text].concat())
            }
            (tag::GENERALIZED_TIME, text) => moment(text),
            _ => None,
        }
        .ok_or(NO_DATE)
    }

    /// The next element, which must be a GeneralizedTime, to the second.
    ///
    /// # Errors
    /// As [`DerReader::time`].
    pub fn generalized_time(&mut self) -> Result<SystemTime, Malformed> {
        moment(self.expect(tag::GENERALIZED_TIME)?).ok_or(NO_DATE)
    }

    /// Whether the next element is a time.
    pub fn is_time(&self) -> bool {
        matches!(
            self.rest.first(),
            Some(&(tag::UTC_TIME | tag::GENERALIZED_TIME))
        )
    }

    /// The next element, of whatever tag: that, and its value.
    ///
    /// # Errors
    /// When there is none, or it is not whole or not DER.
    pub fn any(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        const CUT: Malformed = Malformed("it is cut off");
        let [tag, first, rest @ ..] = self.rest else {
            return Err(CUT);
        };
        if tag & 0x1f == 0x1f {
            return Err(Malformed("a tag has several bytes"));
        }
        let (length, rest) = match *first {
            0x80 => return Err(Malformed("a length is indefinite (BER, not DER)")),
            short @ 0x00..=0x7f => (usize::from(short), rest),
            long => {
                let size = usize::from(long & 0x7f);
                if size > 4 {
                    return Err(Malformed("a length is beyond reason"));
                }
                let (digits, rest) = rest.split_at_checked(size).ok_or(CUT)?;
                let length = digits
                    .iter()
                    .fold(0u32, |length, digit| length << 8 | u32::from(*digit));
                if length < 0x80 || digits.first() == Some(&0) {
                    return Err(Malformed("a length is longer than it needs to be"));
                }
                (usize::try_from(length).map_err(|_| CUT)?, rest)
            }
        };
        let (value, rest) = rest.split_at_checked(length).ok_or(CUT)?;
        self.rest = rest;
        Ok((*tag, value))
    }
}

/// The bytes of a bit string's value.
///
/// # Errors
/// When its bits do not fill its last byte.
pub fn whole_bytes(value: &[u8]) -> Result<&[u8], Malformed> {
    match value {
        [0, bytes @ ..] => Ok(bytes),
        _ => Err(Malformed("a bit string is not of whole bytes")),
    }
}

/// `YYYYMMDDHHMMSSZ`.
fn moment(text: &[u8]) -> Option<SystemTime> {
    let digits = text
        .strip_suffix(b"Z")
        .filter(|digits| digits.len() == 14)?;
    let number = |from: usize, to: usize| {
        digits
            .get(from..to)?
            .iter()
            .try_fold(0i64, |number, digit| {
                digit
                    .is_ascii_digit()
                    .then(|| number * 10 + i64::from(digit - b'0'))
            })
    };
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(8, 10)?, number(10, 12)?, number(12, 14)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = clock::days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let apart = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(apart)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(apart)
    }
}

/// A number in lower-case hex, without leading zeros.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let zeros = text.len() - text.trim_start_matches('0').len();
    text.drain(..zeros);
    if text.is_empty() {
        text.push('0');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Option<i64> {
        let moment = moment(text.as_bytes())?;
        Some(match moment.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => after.as_secs() as i64,
            Err(before) => -(before.duration().as_secs() as i64),
        })
    }

    #[test]
    fn dates_are_read_to_the_second() {
        for (text, seconds) in [
            ("19700101000000Z", 0),
            ("19691231235959Z", -1),
            ("20000229120000Z", 951_825_600),
            ("20240301000000Z", 1_709_251_200),
            ("20491231235959Z", 2_524_607_999),
            ("99991231235959Z", 253_402_300_799),
            ("00010101000000Z", -62_135_596_800),
        ] {
            assert_eq!(at(text), Some(seconds), "{text}");
        }
        for wrong in [
            "20230229000000Z",
            "21000229000000Z",
            "20231301000000Z",
            "20230001000000Z",
            "20230100000000Z",
            "20230101240000Z",
            "20230101000060Z",
            "20230101000000",
            "20230101000000+0100",
            "202301010000Z",
            "2023010100000xZ",
            "",
        ] {
            assert_eq!(at(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_two_digit_year_is_of_1950_to_2049() {
        let time = |text: &[u8]| {
            let der = [&[tag::UTC_TIME, text.len() as u8], text].concat();
            DerReader::new(&der).time()
        };
        assert_eq!(time(b"491231235959Z").ok(), moment(b"20491231235959Z"));
        assert_eq!(time(b"500101000000Z").ok(), moment(b"19500101000000Z"));
        assert!(time(b"4912312359Z").is_err());
        assert!(time(b"").is_err());
    }

    #[test]
    fn ber_that_is_not_der_is_refused() {
        let why = |der: &[u8]| DerReader::new(der).any().unwrap_err().0;
        assert_eq!(
            why(&[0x30, 0x80, 0, 0]),
            "a length is indefinite (BER, not DER)"
        );
        assert_eq!(
            why(&[0x30, 0x81, 0x01, 0]),
            "a length is longer than it needs to be"
        );
        assert_eq!(
            why(&[0x30, 0x82, 0, 0x81]),
            "a length is longer than it needs to be"
        );
        assert_eq!(
            why(&[0x30, 0x85, 1, 1, 1, 1, 1]),
            "a length is beyond reason"
        );
        assert_eq!(why(&[0x30, 0xff]), "a length is beyond reason");
        assert_eq!(why(&[0x1f, 0x01, 0x00]), "a tag has several bytes");
        for cut in [
            &[][..],
            &[0x30],
            &[0x30, 1],
            &[0x30, 0x82, 1],
            &[0x30, 0x84, 255, 255, 255, 255],
        ] {
            assert_eq!(why(cut), "it is cut off", "{cut:?}");
        }
        assert_eq!(
            DerReader::new(&[2, 2, 0, 1]).integer(),
            Err(Malformed("a number is longer than it needs to be"))
        );
        assert_eq!(DerReader::new(&[2, 2, 0, 0x80]).integer(), Ok(&[0x80][..]));
        assert_eq!(DerReader::new(&[2, 1, 0]).integer(), Ok(&[][..]));
    }

    proptest! {
        #[test]
        fn an_element_is_never_longer_than_what_was_given(der: Vec<u8>) {
            let mut reader = DerReader::new(&der);
            let mut read = 0;
            while let Ok((_, value)) = reader.any() {
                read += value.len() + 2;
            }
            prop_assert!(read <= der.len());
            let _ = DerReader::new(&der).time();
            let _ = DerReader::new(&der).integer();
        }
    }
}
