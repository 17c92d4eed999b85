//! Which addresses are the same to a [`Watch`](crate::watch::Watch).

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Some addresses that one customer of a provider may have one after the other.
///
/// As JSON it is a text such as `"192.0.2.0/24"`. A number, which older habits hold, is read as well: it stands for an
/// IPv4 address, or the /64 of an IPv6 address.
///
/// ```
/// use keyward::watch::Network;
///
/// let network: Network = "192.0.2.7/24".parse()?;
/// assert_eq!(network.to_string(), "192.0.2.0/24");
/// assert_eq!(Network::of("192.0.2.7".parse()?).to_string(), "192.0.2.7");
/// assert_eq!(Network::of("2001:db8::1:2:3:4".parse()?).to_string(), "2001:db8::/64");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    /// The upper half of an IPv6 address, or an IPv4 address after [`V4`].
    bits: u64,
    /// How many bits of the address count.
    length: u8,
}

/// Before an IPv4 address. The /64s that begin like this are reserved (RFC 4291, section 2.4).
const V4: u64 = 0xffff << 32;

/// How many bits of an address count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefixes {
    pub(super) v4: u8,
    pub(super) v6: u8,
}

impl Network {
    /// The network of `ip` alone: an IPv4 address, or the /64 of an IPv6 address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self { bits: V4 | u64::from(v4.to_bits()), length: 32 },
            IpAddr::V6(v6) => Self { bits: (v6.to_bits() >> 64) as u64, length: 64 },
        }
    }

    /// The network that this is a part of, unless it is one as wide.
    pub(super) fn widened(self, to: Prefixes) -> Self {
        self.cut(if self.is_v4() { to.v4 } else { to.v6 })
    }

    /// Whether `other` is a part of it.
    pub(super) fn covers(self, other: Self) -> bool {
        self.is_v4() == other.is_v4() && other.cut(self.length) == self
    }

    const fn is_v4(self) -> bool {
        self.bits >> 32 == V4 >> 32
    }

    fn cut(self, length: u8) -> Self {
        if length >= self.length {
            return self;
        }
        let rest = if self.is_v4() { 32 } else { 64 } - u32::from(length);
        Self { bits: u64::MAX.checked_shl(rest).map_or(0, |mask| self.bits & mask), length }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_v4() {
            return write!(f, "{}/{}", Ipv6Addr::from_bits(u128::from(self.bits) << 64), self.length);
        }
        let ip = Ipv4Addr::from_bits(self.bits as u32);
        if self.length == 32 { ip.fmt(f) } else { write!(f, "{ip}/{}", self.length) }
    }
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a network, such as 192.0.2.0/24 or 2001:db8::/48")]
#[non_exhaustive]
pub struct InvalidNetwork;

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::of(ip));
        }
        let net: IpNet = text.parse().map_err(|_| InvalidNetwork)?;
        let address = Self::of(net.addr());
        // Of an IPv4 address that is written as one of IPv6 the length is none of IPv4.
        match address.is_v4() == net.addr().is_ipv4() {
            true => Ok(address.cut(net.prefix_len())),
            false => Err(InvalidNetwork),
        }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Stored<'a> {
            #[serde(borrow)]
            Text(Cow<'a, str>),
            Number(u64),
        }
        match Stored::deserialize(deserializer)? {
            Stored::Text(text) => text.parse().map_err(de::Error::custom),
            Stored::Number(bits) => {
                let whole = Self { bits, length: 64 };
                Ok(Self { length: if whole.is_v4() { 32 } else { 64 }, ..whole })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIXES: Prefixes = Prefixes { v4: 24, v6: 48 };

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn networks_are_told_apart_as_they_are_handed_out() {
        for (a, b, alone, widened) in [
            ("192.0.2.7", "192.0.2.8", false, true),
            ("192.0.2.7", "192.0.3.7", false, false),
            ("192.0.2.7", "::ffff:192.0.2.7", true, true),
            ("2001:db8::1", "2001:db8::ffff:0:0:2", true, true),
            ("2001:db8::1", "2001:db8:0:1::1", false, true),
            ("2001:db8::1", "2001:db8:1::1", false, false),
            ("0.0.0.0", "::", false, false),
        ] {
            let (x, y): (IpAddr, IpAddr) = (a.parse().unwrap(), b.parse().unwrap());
            let (x, y) = (Network::of(x), Network::of(y));
            assert_eq!(x == y, alone, "{a} and {b}");
            assert_eq!(x.widened(PREFIXES) == y.widened(PREFIXES), widened, "{a} and {b}");
        }
    }

    #[test]
    fn one_covers_its_parts_and_is_read_as_it_is_written() {
        let wide = network("192.0.2.7/24");
        assert!(wide.covers(network("192.0.2.200")) && wide.covers(wide));
        assert!(!wide.covers(network("192.0.3.1")) && !network("192.0.2.7").covers(wide));
        assert!(!network("::/1").covers(network("10.0.0.1")));
        for text in ["192.0.2.7", "192.0.2.0/24", "2001:db8::/48", "2001:db8:0:1::/64", "0.0.0.0/8"] {
            assert_eq!(network(text).to_string(), text);
            let json = serde_json::to_string(&network(text)).unwrap();
            assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), network(text), "{json}");
        }
        for wrong in ["", "192.0.2", "192.0.2.0/33", "::ffff:192.0.2.0/120", "2001:db8::/129", "x"] {
            assert_eq!(wrong.parse::<Network>(), Err(InvalidNetwork), "{wrong}");
        }
    }

    /// They were numbers before they had a length.
    #[test]
    fn what_was_stored_before_is_still_read() {
        for (old, now) in [("281473902969351", "192.0.2.7"), ("2306139568115548160", "2001:db8::/64")] {
            assert_eq!(serde_json::from_str::<Network>(old).unwrap(), network(now), "{old}");
        }
    }
}
