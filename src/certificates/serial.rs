//! Serial numbers of certificates.

use std::fmt;

use super::der::hex;

/// A certificate's serial number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Serial(String);

impl Serial {
    /// The number that these bytes are, the highest first.
    pub fn of(bytes: &[u8]) -> Serial {
        Serial(hex(bytes))
    }

    /// The number that is written in hex, as Envoy's `/certs` has it.
    pub fn parse(text: &str) -> Serial {
        Serial(match text.trim_start_matches('0') {
            "" => "0".to_owned(),
            digits => digits.to_ascii_lowercase(),
        })
    }
}

/// Lower-case hex without leading zeros; `0` for zero.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
