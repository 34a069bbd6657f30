//! Which web pages may connect. A browser says of every WebSocket which page opened it (`Origin`), and lets any page open
//! one to any server: without a list, a page that its user only looks at can use what cookies, the local network or
//! loopback give it. Whoever is not a browser sends no `Origin`, or the one that it likes: this is no authentication.

use std::fmt;
use std::str::FromStr;

use hyper::HeaderMap;
use hyper::header::ORIGIN;

/// An origin that is allowed, as `https://app.example.com`, with a port if it is not the scheme's; `https://*.example.com` is
/// any name below `example.com`, and not that itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    /// Whether `host` follows what may be any names.
    below: bool,
    /// The host, in lower case, with its port if there is one.
    host: String,
}

impl Origin {
    fn matches(&self, origin: &str) -> bool {
        let Some((scheme, host)) = origin.split_once("://") else { return false };
        if !scheme.eq_ignore_ascii_case(&self.scheme) {
            return false;
        }
        let host = host.to_ascii_lowercase();
        match self.below {
            false => host == self.host,
            true => host
                .strip_suffix(&self.host)
                .and_then(|names| names.strip_suffix('.'))
                .is_some_and(|names| !names.is_empty() && !names.contains(['/', '@', ':'])),
        }
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad =
            || format!("{s:?} is not an origin such as https://app.example.com or https://*.example.com");
        let (scheme, host) = s.split_once("://").ok_or_else(bad)?;
        let (below, host) = host.strip_prefix("*.").map_or((false, host), |host| (true, host));
        let plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && !b"/*@?#,".contains(&b))
        };
        if !plain(scheme) || !plain(host) {
            return Err(bad());
        }
        Ok(Origin { scheme: scheme.to_ascii_lowercase(), below, host: host.to_ascii_lowercase() })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, if self.below { "*." } else { "" }, self.host)
    }
}

/// Whether a request may connect: its origin is on the list, it has none, or there is no list. One with several, or with
/// `null` (a page of no origin), is on no list.
pub fn is_allowed(headers: &HeaderMap, allowed: &[Origin]) -> bool {
    if allowed.is_empty() {
        return true;
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => true,
        (Some(origin), None) => {
            origin.to_str().is_ok_and(|origin| allowed.iter().any(|allowed| allowed.matches(origin)))
        }
        (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(origin: &str) -> bool {
        let list = [
            "https://app.example.com",
            "http://localhost:5173",
            "https://*.example.org",
            "tauri://localhost",
        ];
        let list = list.map(|origin| origin.parse().unwrap());
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().unwrap());
        is_allowed(&headers, &list)
    }

    #[test]
    fn an_origin_matches_whole() {
        for good in [
            "https://app.example.com",
            "HTTPS://App.Example.Com",
            "http://localhost:5173",
            "https://a.example.org",
            "https://a.b.example.org",
            "tauri://localhost",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.net",
            "https://evil.net/https://app.example.com",
            "https://xapp.example.com",
            "http://localhost",
            "https://example.org",
            "https://.example.org",
            "https://evilexample.org",
            "https://evil.net/.example.org",
            "https://a@b.example.org",
            "https://a.example.org:444",
            "null",
            "",
        ] {
            assert!(!allowed(bad), "{bad}");
        }
    }

    #[test]
    fn who_names_none_passes_and_who_names_two_does_not() {
        let list = ["https://a.net".parse().unwrap()];
        let mut headers = HeaderMap::new();
        assert!(is_allowed(&headers, &list));
        headers.append(ORIGIN, "https://a.net".parse().unwrap());
        assert!(is_allowed(&headers, &list));
        headers.append(ORIGIN, "https://a.net".parse().unwrap());
        assert!(!is_allowed(&headers, &list) && is_allowed(&headers, &[]));
    }

    #[test]
    fn a_list_has_origins_only() {
        for good in ["https://a.net", "https://*.a.net", "http://[::1]:80"] {
            assert_eq!(good.parse::<Origin>().unwrap().to_string(), good);
        }
        for bad in ["a.net", "https://", "https://a.net/", "*", "https://*", "https://a.*.net", "://x"] {
            bad.parse::<Origin>().unwrap_err();
        }
    }
}
