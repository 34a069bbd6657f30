//! Where Redis is, as it is configured. The password that may stand there is shown to nobody.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, parse_redis_url};

use super::kind::Kind;

/// What stands for a password where it would be shown.
const MASK: &str = "***";

/// `redis://[[user]:password@]host[:port]`, or `rediss://` over TLS. Shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// What to connect to, and the user and password, if they are in it.
    pub fn info(&self) -> ConnectionInfo {
        self.0.as_str().into_connection_info().expect("it was taken when it was set")
    }

    /// Whether it is spoken to over TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.info().addr(), ConnectionAddr::TcpTls { .. })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&masked(&self.0), f)
    }
}

impl Kind for RedisUrl {
    /// No problem that it tells has the value in it.
    fn parse(value: &str, _: std::ops::RangeInclusive<u64>) -> Result<Self, String> {
        let url = parse_redis_url(value).filter(|url| matches!(url.scheme(), "redis" | "rediss"));
        // A fragment would be `#insecure`, which there is not.
        let Some(url) = url.filter(|url| url.has_host() && url.fragment().is_none()) else {
            return Err("it must be redis://[[user]:password@]host[:port], or rediss://".into());
        };
        if url.password() == Some(MASK) {
            let problem =
                "its password is masked, as --print-config shows it; set redis_password_file instead";
            return Err(problem.into());
        }
        url.into_connection_info().map_err(|e| e.to_string())?;
        Ok(RedisUrl(value.into()))
    }

    fn toml(&self) -> String {
        masked(&self.0).toml()
    }
}

/// A text without the passwords of the URLs in it. What it cannot tell from one is masked too.
pub(super) fn masked(text: &str) -> String {
    text.split_inclusive('\n').map(masked_line).collect()
}

fn masked_line(line: &str) -> String {
    let password = || {
        let user = line.find("://")? + "://".len();
        let end = line.rfind('@').filter(|end| *end >= user)?;
        let colon = user + line[user..end].find(':')?;
        Some((&line[..=colon], &line[end..]))
    };
    password().map_or_else(|| line.into(), |(before, after)| format!("{before}{MASK}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_shown_to_nobody() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://user@host", "redis://user@host"),
            ("redis://:secret@host:1/0", "redis://:***@host:1/0"),
            ("rediss://user:s:e%2Fc@r et@host", "rediss://user:***@host"),
        ] {
            let url = RedisUrl::parse(url, 0..=0).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!((format!("{url:?}"), url.toml()), (format!("{shown:?}"), format!("{shown:?}")));
        }
        let text = "1 | redis = \"redis://user:secret@host\n2 | redis://user@host:6379/0\n";
        assert_eq!(masked(text), text.replace("secret", MASK));
    }

    #[test]
    fn what_cannot_be_taken_is_not_shown_either() {
        for url in [
            "http://user:secret@host",
            "redis://user:sec/ret@host",
            "redis://user:secret@",
            "redis://user:secret@host/secret",
            "rediss://user:secret@host#insecure",
            "redis:user:secret",
            "secret",
        ] {
            let problem = RedisUrl::parse(url, 0..=0).unwrap_err();
            assert!(!problem.contains("secret"), "{url}: {problem}");
        }
        let problem = RedisUrl::parse("redis://user:***@host", 0..=0).unwrap_err();
        assert!(problem.contains("redis_password_file"), "{problem}");
    }
}
