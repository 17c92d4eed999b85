//! Which addresses are the same to a [`Watch`](crate::watch::Watch).

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

/// An IPv4 address, or the /64 of an IPv6 address: what one customer of a provider gets.
///
/// ```
/// use keyward::watch::Network;
///
/// assert_eq!(Network::of("192.0.2.7".parse()?).to_string(), "192.0.2.7");
/// assert_eq!(Network::of("2001:db8::1:2:3:4".parse()?).to_string(), "2001:db8::/64");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Network(u64);

impl Network {
    /// Before an IPv4 address. The /64s that begin like this are reserved (RFC 4291, section 2.4).
    const V4: u64 = 0xffff << 32;

    /// The network of `ip`.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self(Self::V4 | u64::from(v4.to_bits())),
            IpAddr::V6(v6) => Self((v6.to_bits() >> 64) as u64),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >> 32 == Self::V4 >> 32 {
            return std::net::Ipv4Addr::from_bits(self.0 as u32).fmt(f);
        }
        write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(self.0) << 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_told_apart_as_they_are_handed_out() {
        for (a, b, same) in [
            ("192.0.2.7", "192.0.2.8", false),
            ("192.0.2.7", "::ffff:192.0.2.7", true),
            ("2001:db8::1", "2001:db8::ffff:0:0:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("0.0.0.0", "::", false),
        ] {
            let (a, b): (IpAddr, IpAddr) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(Network::of(a) == Network::of(b), same, "{a} and {b}");
        }
        assert_eq!(Network::of("::ffff:192.0.2.7".parse().unwrap()).to_string(), "192.0.2.7");
    }
}
