//! Which address a client counts as: behind proxies that are trusted the one they name, and of IPv6 the network.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use hyper::HeaderMap;

/// What proxies write the address into that they were asked from.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// A range of addresses, as `10.0.0.0/8`; an address alone is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && network(address, self.prefix) == self.address
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (address, prefix) =
            s.split_once('/').map_or((s, None), |(address, prefix)| (address, Some(prefix)));
        let bad = || format!("{s:?} is not an address, or a range of them such as 10.0.0.0/8");
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), str::parse).map_err(|_| bad())?;
        if prefix > bits {
            return Err(bad());
        }
        if network(address, prefix) != address {
            return Err(format!(
                "{s:?} has bits set behind its first {prefix}: {}?",
                network(address, prefix)
            ));
        }
        Ok(Network { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The first bits of an address, the others 0.
fn network(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

/// What connections are counted by: the address, or of IPv6, where a client has a whole network to choose from, its first
/// `ipv6_prefix` bits. An IPv4 address counts as such however it is written.
pub fn counted(address: IpAddr, ipv6_prefix: u8) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        v6 @ IpAddr::V6(_) => network(v6, ipv6_prefix),
    }
}

/// Whether `address` is one of a trusted proxy's.
pub fn is_trusted(address: IpAddr, trusted: &[Network]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(address))
}

/// The address of the client behind a trusted proxy: the last in `X-Forwarded-For` (of all its lines) that is not a trusted
/// proxy's itself. What stands before that was written by nobody who is trusted. If there is none, or it cannot be read,
/// it is the last proxy that is known: better all behind one proxy together than each as it likes.
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let mut client = peer.to_canonical();
    let lines: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
    for line in lines.into_iter().rev() {
        let Ok(line) = line.to_str() else { return client };
        for entry in line.rsplit(',') {
            if !is_trusted(client, trusted) {
                return client;
            }
            match parse(entry.trim()) {
                Some(address) => client = address.to_canonical(),
                None => return client,
            }
        }
    }
    client
}

/// Some proxies add the port.
fn parse(entry: &str) -> Option<IpAddr> {
    let bare = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    entry.parse().ok().or_else(|| Some(entry.parse::<SocketAddr>().ok()?.ip())).or_else(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted() -> Vec<Network> {
        ["10.0.0.0/8", "192.0.2.7", "fd00::/8"].map(|network| network.parse().unwrap()).to_vec()
    }

    #[track_caller]
    fn assert_client(peer: &str, lines: &[&str], expected: &str) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        assert_eq!(client(peer.parse().unwrap(), &headers, &trusted()), expected.parse::<IpAddr>().unwrap());
    }

    #[test]
    fn the_client_is_the_last_that_no_trusted_proxy_is() {
        assert_client("10.0.0.1", &["203.0.113.9"], "203.0.113.9");
        assert_client("10.0.0.1", &["1.1.1.1, 203.0.113.9"], "203.0.113.9");
        assert_client("10.0.0.1", &["203.0.113.9, 192.0.2.7 ,10.2.3.4"], "203.0.113.9");
        assert_client("10.0.0.1", &["1.1.1.1", "203.0.113.9", "10.9.9.9"], "203.0.113.9");
        assert_client("::ffff:10.0.0.1", &["2001:db8::1"], "2001:db8::1");
        assert_client("fd00::1", &["[2001:db8::1]:443"], "2001:db8::1");
        assert_client("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1");
        assert_client("10.0.0.1", &["203.0.113.9:1234"], "203.0.113.9");
    }

    #[test]
    fn what_cannot_be_read_ends_the_search() {
        assert_client("10.0.0.1", &[], "10.0.0.1");
        assert_client("10.0.0.1", &[""], "10.0.0.1");
        assert_client("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1");
        assert_client("10.0.0.1", &["203.0.113.9, , 10.0.0.2"], "10.0.0.2");
        assert_client("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3");
    }

    #[test]
    fn who_is_not_trusted_names_nobody() {
        assert_client("203.0.113.1", &["1.1.1.1"], "203.0.113.1");
        assert_client("::ffff:203.0.113.1", &["1.1.1.1"], "203.0.113.1");
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let counted = |address: &str| counted(address.parse().unwrap(), 64).to_string();
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(counted("::ffff:203.0.113.1"), "203.0.113.1");
        assert_eq!(counted("203.0.113.1"), "203.0.113.1");
    }

    #[test]
    fn a_range_is_an_address_and_a_length() {
        for good in ["0.0.0.0/0", "::/0", "10.1.2.3/32", "2001:db8::/32"] {
            assert_eq!(good.parse::<Network>().unwrap().to_string(), good);
        }
        assert_eq!("10.1.2.3".parse::<Network>().unwrap().to_string(), "10.1.2.3/32");
        for bad in ["", "10.0.0.0/33", "10.0.0.1/8", "::/129", "10.0.0.0/", "10.0.0.0/-1", "localhost"] {
            bad.parse::<Network>().unwrap_err();
        }
        assert!(!"0.0.0.0/0".parse::<Network>().unwrap().contains("::1".parse().unwrap()));
    }
}
