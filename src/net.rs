//! Addresses: per-token allow-lists and the client's address behind trusted proxies.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use http::{Extensions, HeaderMap, HeaderName, header};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::ConfigError;

/// The addresses from which a token may be used: single ones and networks, IPv4 and IPv6.
///
/// An IPv4 address written as IPv6 (`::ffff:192.0.2.1`) is the IPv4 address. A network with bits set
/// after its prefix (`10.0.0.1/8`) is refused, since it is unclear what was meant.
///
/// ```
/// use keyward::net::IpList;
///
/// let list = IpList::new(["192.0.2.7", "2001:db8::/32"])?;
/// assert!(list.contains("::ffff:192.0.2.7".parse()?));
/// assert!(!list.contains("192.0.2.8".parse()?));
/// assert!(IpList::new(["10.0.0.1/8"]).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IpList(Arc<[Range]>);

/// A text that is no address or network, or a list that is empty or too long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an address list holds 1 to 64 addresses or networks such as 192.0.2.7 or 2001:db8::/32, \
     with no bits set after a network's prefix"
)]
#[non_exhaustive]
pub struct InvalidIpList;

impl IpList {
    /// The list of `addresses`, each an address or a network in CIDR form.
    ///
    /// # Errors
    /// When the list is empty or longer than 64, or an entry is neither.
    pub fn new<S: AsRef<str>>(addresses: impl IntoIterator<Item = S>) -> Result<Self, InvalidIpList> {
        let range = |entry: S| parse_net(entry.as_ref()).map(Range::from);
        let ranges: Option<Vec<_>> = addresses.into_iter().map(range).collect();
        match ranges {
            Some(ranges) if (1..=64).contains(&ranges.len()) => Ok(Self(ranges.into())),
            _ => Err(InvalidIpList),
        }
    }

    /// Whether `address` is on the list.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => self.0.iter().any(|range| range.has_v4(v4.to_bits())),
            IpAddr::V6(v6) => self.0.iter().any(|range| range.has_v6(v6.to_bits())),
        }
    }

    /// Whether every address of this list is also on `other`.
    #[must_use]
    pub fn is_subset_of(&self, other: &Self) -> bool {
        let is_within = |range: &Range| other.0.iter().any(|wider| wider.net().contains(&range.net()));
        self.0.iter().all(is_within)
    }
}

/// A network as its first address and the bits that all of its addresses share with it: one look tells whether an
/// address is in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Range {
    V4 { first: u32, shared: u32 },
    V6 { first: u128, shared: u128 },
}

impl Range {
    #[inline]
    fn has_v4(self, address: u32) -> bool {
        matches!(self, Self::V4 { first, shared } if (address ^ first) & shared == 0)
    }

    #[inline]
    fn has_v6(self, address: u128) -> bool {
        matches!(self, Self::V6 { first, shared } if (address ^ first) & shared == 0)
    }

    fn net(self) -> IpNet {
        match self {
            Self::V4 { first, shared } => {
                Ipv4Net::new_assert(first.into(), shared.leading_ones() as u8).into()
            }
            Self::V6 { first, shared } => {
                Ipv6Net::new_assert(first.into(), shared.leading_ones() as u8).into()
            }
        }
    }
}

impl From<IpNet> for Range {
    fn from(net: IpNet) -> Self {
        match net {
            IpNet::V4(net) => Self::V4 { first: net.network().to_bits(), shared: net.netmask().to_bits() },
            IpNet::V6(net) => Self::V6 { first: net.network().to_bits(), shared: net.netmask().to_bits() },
        }
    }
}

fn parse_net(entry: &str) -> Option<IpNet> {
    let net = match entry.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address.to_canonical()),
        Err(_) => entry.parse::<IpNet>().ok().filter(|net| net.trunc() == *net)?,
    };
    match net {
        IpNet::V6(v6) => match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
            (Some(v4), Some(prefix)) => Ipv4Net::new(v4, prefix).ok().map(IpNet::V4),
            _ => Some(net),
        },
        IpNet::V4(_) => Some(net),
    }
}

impl fmt::Debug for IpList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|range| range.net().to_string())).finish()
    }
}

impl Serialize for IpList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let single = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
        let text = |net: &IpNet| if single(net) { net.addr().to_string() } else { net.to_string() };
        serializer.collect_seq(self.0.iter().map(|range| text(&range.net())))
    }
}

impl<'de> Deserialize<'de> for IpList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::<String>::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// The address at the other end of the connection, for the layer to find in the request's extensions.
///
/// A server that is not axum's puts it there for each connection; in tonic, copy it from `TcpConnectInfo`. With the feature `axum` the layer also
/// finds what `into_make_service_with_connect_info::<SocketAddr>()` leaves.
///
/// ```
/// use keyward::net::PeerAddr;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(PeerAddr(([127, 0, 0, 1], 50_000).into()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "users make it from one address")]
pub struct PeerAddr(pub SocketAddr);

/// Marks a request as received over TLS by this very process; a server that terminates TLS itself puts
/// it into the request's extensions for [`AuthLayer::require_https`](crate::AuthLayer::require_https).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a mark without content")]
pub struct OverTls;

/// Tells the client's address of a request.
///
/// The default is [`Peer`]; behind proxies use [`TrustedProxies`].
///
/// ```
/// use std::net::IpAddr;
/// use keyward::net::{ClientIp, PeerAddr};
///
/// /// Behind a load balancer that is the only way in and that sets this header itself.
/// #[derive(Debug)]
/// struct Balancer;
/// impl ClientIp for Balancer {
///     fn client_ip(&self, headers: &http::HeaderMap, _: &http::Extensions) -> Option<IpAddr> {
///         headers.get("x-balancer-client")?.to_str().ok()?.parse().ok()
///     }
/// }
/// ```
pub trait ClientIp: fmt::Debug + Send + Sync + 'static {
    /// The client's address; `None` if it is not known, which refuses tokens that are limited to
    /// addresses.
    fn client_ip(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<IpAddr>;

    /// Whether the request came over HTTPS, as far as this source can vouch for it.
    fn is_https(&self, headers: &HeaderMap, extensions: &Extensions) -> bool {
        let _ = headers;
        extensions.get::<OverTls>().is_some()
    }
}

/// The address of the connection itself. Forwarding headers are not read: anybody can send them.
///
/// ```
/// use keyward::net::{ClientIp, Peer, PeerAddr};
///
/// let mut request = http::Request::new(());
/// request.headers_mut().insert("x-forwarded-for", "10.0.0.1".parse()?);
/// assert_eq!(Peer.client_ip(request.headers(), request.extensions()), None);
/// request.extensions_mut().insert(PeerAddr(([192, 0, 2, 1], 50_000).into()));
/// assert_eq!(Peer.client_ip(request.headers(), request.extensions()), Some([192, 0, 2, 1].into()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no settings")]
pub struct Peer;

impl ClientIp for Peer {
    #[inline]
    fn client_ip(&self, _: &HeaderMap, extensions: &Extensions) -> Option<IpAddr> {
        let peer = extensions.get::<PeerAddr>().map(|peer| peer.0);
        #[cfg(feature = "axum")]
        let peer = peer.or_else(|| {
            extensions.get::<axum::extract::ConnectInfo<SocketAddr>>().map(|connection| connection.0)
        });
        peer.map(|peer| peer.ip().to_canonical())
    }
}

/// The one forwarding header that [`TrustedProxies`] reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: a list, nearest hop last.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239): the `for` parameters, nearest hop last.
    Forwarded,
    /// `X-Real-IP`: a single address.
    XRealIp,
}

impl ForwardedHeader {
    fn name(self) -> HeaderName {
        static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
        static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
        match self {
            Self::XForwardedFor => X_FORWARDED_FOR.clone(),
            Self::Forwarded => header::FORWARDED,
            Self::XRealIp => X_REAL_IP.clone(),
        }
    }
}

/// The header's name, as it is usually written.
impl fmt::Display for ForwardedHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::XForwardedFor => "X-Forwarded-For",
            Self::Forwarded => "Forwarded",
            Self::XRealIp => "X-Real-IP",
        })
    }
}

impl std::str::FromStr for ForwardedHeader {
    type Err = ConfigError;

    /// Reads a header name, in any case.
    fn from_str(name: &str) -> Result<Self, ConfigError> {
        match name.to_ascii_lowercase().as_str() {
            "x-forwarded-for" => Ok(Self::XForwardedFor),
            "forwarded" => Ok(Self::Forwarded),
            "x-real-ip" => Ok(Self::XRealIp),
            _ => Err(ConfigError::new(
                "the client address header must be X-Forwarded-For, Forwarded or X-Real-IP",
            )),
        }
    }
}

/// The client's address behind proxies that are known.
///
/// A forwarding header counts only when the connection comes from a trusted proxy. Its hops are walked
/// from the right, past trusted ones, to the first that is not: that is the client. A hop on the way
/// that is no address makes the client unknown. Only the one configured header is read.
///
/// ```
/// use keyward::net::{ClientIp, PeerAddr, TrustedProxies};
///
/// let proxies = TrustedProxies::new(["10.0.0.0/8"])?;
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(PeerAddr(([10, 0, 0, 1], 50_000).into()));
/// request.headers_mut().insert("x-forwarded-for", "192.0.2.66, 198.51.100.7, 10.0.0.2".parse()?);
/// let client = proxies.client_ip(request.headers(), request.extensions());
/// assert_eq!(client, Some([198, 51, 100, 7].into())); // what 192.0.2.66 claims, nobody vouches for
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct TrustedProxies {
    proxies: IpList,
    header: ForwardedHeader,
}

impl TrustedProxies {
    /// Trusts the proxies at `addresses` (single ones and networks) and reads `X-Forwarded-For`.
    ///
    /// # Errors
    /// When an entry is no address or network, or a network is the whole of IPv4 or IPv6, which would
    /// let every client choose its address.
    pub fn new<S: AsRef<str>>(addresses: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        let proxies =
            IpList::new(addresses).map_err(|error| ConfigError::new(format!("trusted proxies: {error}")))?;
        // Also in pieces, such as 0.0.0.0/1 and 128.0.0.0/1.
        let nets: Vec<_> = proxies.0.iter().map(|range| range.net()).collect();
        if IpNet::aggregate(&nets).iter().any(|net| net.prefix_len() == 0) {
            return Err(ConfigError::new(
                "trusted proxies: a network of prefix length 0 trusts everybody; name the proxies' own networks",
            ));
        }
        Ok(Self { proxies, header: ForwardedHeader::default() })
    }

    /// Reads `header` instead of `X-Forwarded-For`.
    #[must_use]
    pub fn with_header(mut self, header: ForwardedHeader) -> Self {
        self.header = header;
        self
    }

    fn walk(&self, headers: &HeaderMap, peer: IpAddr) -> Option<IpAddr> {
        let mut nearest = peer;
        let lines: Vec<_> = headers.get_all(self.header.name()).iter().collect();
        for line in lines.iter().rev() {
            for hop in line.to_str().ok()?.rsplit(',') {
                nearest = self.parse_hop(hop.trim())?;
                if !self.proxies.contains(nearest) {
                    return Some(nearest);
                }
            }
        }
        Some(nearest)
    }

    fn parse_hop(&self, hop: &str) -> Option<IpAddr> {
        let node = match self.header {
            ForwardedHeader::XForwardedFor | ForwardedHeader::XRealIp => hop,
            ForwardedHeader::Forwarded => {
                let mut names = hop.split(';').filter_map(|pair| {
                    let (name, value) = pair.trim().split_once('=')?;
                    name.eq_ignore_ascii_case("for").then_some(value)
                });
                let node = names.next()?;
                if names.next().is_some() {
                    return None;
                }
                node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node)
            }
        };
        parse_node(node)
    }
}

/// An address, with or without a port; IPv6 with a port stands in brackets.
fn parse_node(node: &str) -> Option<IpAddr> {
    let plain = node.parse::<IpAddr>().ok();
    let with_port = || node.parse::<SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || node.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    plain.or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}

impl ClientIp for TrustedProxies {
    fn client_ip(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<IpAddr> {
        let peer = Peer.client_ip(headers, extensions)?;
        if self.proxies.contains(peer) { self.walk(headers, peer) } else { Some(peer) }
    }

    /// What the nearest trusted proxy says in its last `X-Forwarded-Proto`, or [`OverTls`].
    fn is_https(&self, headers: &HeaderMap, extensions: &Extensions) -> bool {
        let proxied = Peer.client_ip(headers, extensions).is_some_and(|peer| self.proxies.contains(peer));
        let forwarded = headers.get_all("x-forwarded-proto").iter().next_back();
        let says_https = forwarded
            .and_then(|line| line.to_str().ok()?.rsplit(',').next())
            .is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"));
        if proxied && forwarded.is_some() { says_https } else { Peer.is_https(headers, extensions) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(proxies: &TrustedProxies, peer: &str, lines: &[&[u8]]) -> Option<IpAddr> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(proxies.header.name(), http::HeaderValue::from_bytes(line).unwrap());
        }
        let mut extensions = Extensions::new();
        extensions.insert(PeerAddr(SocketAddr::new(peer.parse().unwrap(), 1)));
        proxies.client_ip(&headers, &extensions)
    }

    #[test]
    fn the_walk_goes_from_the_right_and_stops_at_the_first_stranger() {
        let proxies = TrustedProxies::new(["10.0.0.0/8", "::1", "fd00::/8"]).unwrap();
        for (name, peer, lines, expected) in [
            ("stranger's header is ignored", "192.0.2.1", &[&b"10.0.0.1"[..]][..], Some("192.0.2.1")),
            ("no header", "10.0.0.1", &[], Some("10.0.0.1")),
            ("one hop", "10.0.0.1", &[b"198.51.100.7"], Some("198.51.100.7")),
            ("claimed hop left of the client", "10.0.0.1", &[b"1.1.1.1, 198.51.100.7"], Some("198.51.100.7")),
            (
                "two lines are one list",
                "10.0.0.1",
                &[b"1.1.1.1", b"198.51.100.7,10.2.0.1"],
                Some("198.51.100.7"),
            ),
            ("all trusted", "10.0.0.1", &[b"10.0.0.3, 10.0.0.2"], Some("10.0.0.3")),
            ("port", "10.0.0.1", &[b"198.51.100.7:4711"], Some("198.51.100.7")),
            ("IPv6", "::1", &[b"2001:db8::1"], Some("2001:db8::1")),
            ("IPv6 in brackets", "::1", &[b"[2001:db8::1]:443"], Some("2001:db8::1")),
            ("mapped peer", "::ffff:10.0.0.1", &[b"::ffff:198.51.100.7"], Some("198.51.100.7")),
            ("garbage hop", "10.0.0.1", &[b"198.51.100.7, garbage"], None),
            ("unknown hop", "10.0.0.1", &[b"unknown"], None),
            ("empty hop", "10.0.0.1", &[b"198.51.100.7,"], None),
            ("empty line", "10.0.0.1", &[b""], None),
            ("octal", "10.0.0.1", &[b"010.0.0.1"], None),
            ("zone", "10.0.0.1", &[b"fe80::1%eth0"], None),
            ("non-ASCII", "10.0.0.1", &[b"198.51.100.7\xff"], None),
            (
                "garbage left of the client is not reached",
                "10.0.0.1",
                &[b"x, 198.51.100.7"],
                Some("198.51.100.7"),
            ),
        ] {
            assert_eq!(client(&proxies, peer, lines), expected.map(|ip| ip.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        let proxies = TrustedProxies::new(["10.0.0.0/8"]).unwrap().with_header(ForwardedHeader::Forwarded);
        for (name, line, expected) in [
            ("plain", "for=198.51.100.7", Some("198.51.100.7")),
            ("case and parameters", "proto=https;For=198.51.100.7;by=10.0.0.9", Some("198.51.100.7")),
            ("quoted IPv6 with port", "for=\"[2001:db8:cafe::17]:4711\"", Some("2001:db8:cafe::17")),
            ("list", "for=1.1.1.1, for=198.51.100.7", Some("198.51.100.7")),
            ("twice", "for=1.1.1.1;for=198.51.100.7", None),
            ("obfuscated", "for=_hidden", None),
            ("unknown", "for=unknown", None),
            ("no for", "proto=https", None),
        ] {
            let found = client(&proxies, "10.0.0.1", &[line.as_bytes()]);
            assert_eq!(found, expected.map(|ip| ip.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn https_is_believed_of_trusted_proxies_only() {
        let proxies = TrustedProxies::new(["10.0.0.0/8"]).unwrap();
        let https = |peer: [u8; 4], lines: &[&str], tls: bool| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-proto", line.parse().unwrap());
            }
            let mut extensions = Extensions::new();
            extensions.insert(PeerAddr((peer, 1).into()));
            if tls {
                extensions.insert(OverTls);
            }
            proxies.is_https(&headers, &extensions)
        };
        assert!(https([10, 0, 0, 1], &["https"], false));
        assert!(https([10, 0, 0, 1], &["http", "https"], false));
        assert!(!https([10, 0, 0, 1], &["https, http"], true));
        assert!(!https([10, 0, 0, 1], &[], false));
        assert!(!https([192, 0, 2, 1], &["https"], false));
        assert!(https([192, 0, 2, 1], &[], true));
    }

    #[test]
    fn trusting_everybody_is_refused() {
        for everybody in [&["0.0.0.0/0"][..], &["::/0"], &["128.0.0.0/1", "10.0.0.1", "0.0.0.0/1"]] {
            assert!(TrustedProxies::new(everybody).unwrap_err().to_string().contains("trusts everybody"));
        }
        assert!(TrustedProxies::new([""; 0]).is_err());
    }

    #[test]
    fn lists_are_normalized_and_compared_as_sets_of_addresses() {
        for bad in ["", "10.0.0.1/8", "010.0.0.1", "1.2.3", "fe80::1%1", "10.0.0.0/33", "a.example"] {
            assert_eq!(IpList::new([bad]), Err(InvalidIpList), "{bad}");
        }
        assert_eq!(IpList::new(["::ffff:10.0.0.0/104"]), IpList::new(["10.0.0.0/8"]));
        let wide = IpList::new(["10.0.0.0/8", "2001:db8::/32"]).unwrap();
        let narrow = IpList::new(["10.1.0.0/16", "10.0.0.1"]).unwrap();
        assert!(narrow.is_subset_of(&wide) && !wide.is_subset_of(&narrow));
        let edge = IpList::new(["192.0.2.128/25"]).unwrap();
        assert!(edge.contains([192, 0, 2, 128].into()) && !edge.contains([192, 0, 2, 127].into()));
        assert_eq!(serde_json::to_string(&narrow).unwrap(), r#"["10.1.0.0/16","10.0.0.1"]"#);
    }

    proptest! {
        #[test]
        fn a_list_contains_what_its_networks_contain(
            first in any::<u128>(), prefix in 0u8..=128, v4 in any::<bool>(), near in 0u32..=128, other in any::<u128>(),
        ) {
            let net = if v4 {
                IpNet::new(IpAddr::V4((first as u32).into()), prefix.min(32)).unwrap().trunc()
            } else {
                IpNet::new(IpAddr::V6(first.into()), prefix).unwrap().trunc()
            };
            // Addresses that share some of its bits, and one of the other family.
            let close = first ^ other.checked_shr(near).unwrap_or(0);
            let asked = [IpAddr::V6(close.into()), IpAddr::V4((close as u32).into()), IpAddr::V6(other.into())];
            let list = IpList::new([net.to_string()]).unwrap();
            let mapped = |net: &IpNet| matches!(net, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() && v6.prefix_len() >= 96);
            for address in asked.map(|address| address.to_canonical()) {
                if !mapped(&net) {
                    prop_assert_eq!(list.contains(address), net.contains(&address), "{} in {}", address, net);
                }
            }
            prop_assert_eq!(list.to_owned(), serde_json::from_str::<IpList>(&serde_json::to_string(&list).unwrap()).unwrap());
        }

        #[test]
        fn no_header_makes_it_panic_or_trust_a_stranger(
            line in prop::collection::vec(prop_oneof![Just(b'\t'), 32u8..127, 128u8..=255], 0..60)
        ) {
            let proxies = TrustedProxies::new(["10.0.0.0/8"]).unwrap();
            prop_assert_eq!(client(&proxies, "192.0.2.1", &[&line]), Some([192, 0, 2, 1].into()));
            let _ = client(&proxies, "10.0.0.1", &[&line]);
            let forwarded = proxies.with_header(ForwardedHeader::Forwarded);
            let _ = client(&forwarded, "10.0.0.1", &[&line]);
        }
    }
}
