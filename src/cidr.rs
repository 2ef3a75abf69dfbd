//! Networks, as `--shutdown-from` lists them: `10.0.0.0/8`, `fd00::/8`, `127.0.0.1`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A network of IPv4 or IPv6 addresses.
///
/// Bits behind the prefix are allowed and mean nothing: `10.1.2.3/8` is `10.0.0.0/8`. An
/// IPv4-mapped network (`::ffff:10.0.0.0/104`) is the IPv4 network, because that is how an IPv4
/// peer of a dual-stack socket is looked at too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    /// How many leading bits count: at most 32 for IPv4, 128 for IPv6.
    prefix: u32,
}

impl Cidr {
    /// The loopback networks, `127.0.0.0/8` and `::1`.
    pub fn loopback() -> [Cidr; 2] {
        let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        [Cidr::new(v4, 8), Cidr::new(v6, 128)]
    }

    fn new(address: IpAddr, prefix: u32) -> Cidr {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Cidr { address, prefix }
    }

    /// Whether `address` is one of the network; an IPv4-mapped IPv6 address is taken for the IPv4
    /// address that it stands for.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && Cidr::new(address, self.prefix) == *self
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Cidr, String> {
        parse(text).ok_or_else(|| {
            let right = match text {
                "none" | "loopback" => Some(format!("{text} stands alone")),
                "localhost" => Some("write 127.0.0.1 and ::1, or loopback alone".into()),
                "all" | "any" | "*" => Some("write 0.0.0.0/0,::/0".into()),
                _ => nearly(text).map(|network| format!("write {network}")),
            };
            let wrong = "is neither an address nor a network such as 10.0.0.0/8 or fd00::/8";
            match right {
                Some(right) => format!("'{text}' {wrong}: {right}"),
                None => format!("'{text}' {wrong}"),
            }
        })
    }
}

/// What a URL, an address with a port or in brackets, or one with a netmask is meant to be.
fn nearly(text: &str) -> Option<String> {
    let (is_url, text) = match text.split_once("://") {
        Some((_, rest)) => (true, rest),
        None => (false, text),
    };
    if let Some((address, mask)) = text.split_once('/')
        && let (Ok(address), Ok(mask)) = (address.parse::<Ipv4Addr>(), mask.parse::<Ipv4Addr>())
        && mask.to_bits().leading_ones() + mask.to_bits().trailing_zeros() == 32
    {
        return Some(Cidr::new(address.into(), mask.to_bits().leading_ones()).to_string());
    }
    let address = text.split('/').next()?;
    let with_port = address.parse::<SocketAddr>().map(|address| address.ip());
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    let ip = with_port.ok().or_else(|| bare.parse().ok())?;
    (is_url || ip.to_string() != address).then(|| ip.to_string())
}

fn parse(text: &str) -> Option<Cidr> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        // `parse` alone would take a sign.
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        Some(_) => return None,
        None => longest,
    };
    if prefix > longest {
        return None;
    }
    let canonical = address.to_canonical();
    if address.is_ipv6() && canonical.is_ipv4() && prefix >= 96 {
        return Some(Cidr::new(canonical, prefix - 96));
    }
    Some(Cidr::new(address, prefix))
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(network: &str, address: &str) -> bool {
        let network: Cidr = network.parse().unwrap();
        network.contains(address.parse().unwrap())
    }

    #[test]
    fn an_address_is_in_its_network_and_in_no_other() {
        assert!(holds("10.0.0.0/8", "10.255.0.1"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("10.1.2.3/8", "10.9.9.9"));
        assert!(holds("192.0.2.7", "192.0.2.7"));
        assert!(!holds("192.0.2.7", "192.0.2.6"));
        assert!(holds("192.0.2.6/31", "192.0.2.7"));
        assert!(holds("0.0.0.0/0", "203.0.113.9"));
        assert!(holds("fd00::/8", "fdff::1"));
        assert!(!holds("fd00::/8", "fe80::1"));
        assert!(holds("::1", "::1"));
        assert!(!holds("::1", "::2"));
        assert!(holds("::/0", "2001:db8::1"));
    }

    #[test]
    fn a_mapped_peer_is_judged_as_the_ipv4_address_it_is() {
        assert!(holds("10.0.0.0/8", "::ffff:10.2.3.4"));
        assert!(holds("::ffff:10.0.0.0/104", "10.2.3.4"));
        assert!(holds("::ffff:10.2.3.4", "::ffff:10.2.3.4"));
        assert!(!holds("10.0.0.0/8", "::ffff:11.2.3.4"));
        // A wider one is a network of IPv6, where no peer of IPv4 is ever looked for.
        assert!(!holds("::/0", "10.2.3.4"));
        assert!(!holds("::/0", "::ffff:10.2.3.4"));
        assert!(!holds("0.0.0.0/0", "2001:db8::1"));
    }

    #[test]
    fn loopback_is_loopback_of_both_families() {
        for (address, inside) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("128.0.0.1", false),
            ("::2", false),
        ] {
            let address = address.parse().unwrap();
            let found = Cidr::loopback().iter().any(|cidr| cidr.contains(address));
            assert_eq!(found, inside, "{address}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused_and_the_message_names_it() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::1/129",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0/8",
            "localhost",
            "10.0.0.0/8/8",
            "[::1]",
            "fe80::1%eth0",
            " 10.0.0.1",
            "10.0.0.0/99999999999",
        ] {
            let error = text.parse::<Cidr>().unwrap_err();
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
        for (text, right) in [
            ("10.0.0.1:8090", "write 10.0.0.1"),
            ("http://10.0.0.1/", "write 10.0.0.1"),
            ("[::1]:80", "write ::1"),
            ("10.1.0.0/255.255.0.0", "write 10.1.0.0/16"),
            ("none", "none stands alone"),
            ("localhost", "write 127.0.0.1"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err();
            assert!(error.contains(right), "{text}: {error}");
        }
        assert_eq!(
            "10.1.2.3/8".parse::<Cidr>().unwrap().to_string(),
            "10.0.0.0/8"
        );
    }
}
