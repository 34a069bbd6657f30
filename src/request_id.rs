//! Ids of requests: in the answer's `X-Request-Id`, and in every line that the request and its connection log.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

/// The header that brings an id, and gives it back.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken from a request, in bytes.
const MAX_BYTES: usize = 64;

/// Tells this process's ids from those of others.
static PROCESS: LazyLock<u32> = LazyLock::new(|| RandomState::new().hash_one(0) as u32);

static LAST: AtomicU32 = AtomicU32::new(0);

/// Letters, digits and `-_.+/=:`, which stand for themselves in a log line and in a header.
#[derive(Clone, Debug)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The request's own id, as a proxy in front may have given it, if it is of that kind; else a new one.
    pub fn of(headers: &HeaderMap) -> Self {
        let is_sane = |id: &&HeaderValue| {
            (1..=MAX_BYTES).contains(&id.len())
                && id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+/=:".contains(byte))
        };
        headers.get(X_REQUEST_ID).filter(is_sane).map_or_else(Self::new, |id| RequestId(id.clone()))
    }

    fn new() -> Self {
        let id = format!("{:08x}-{:08x}", *PROCESS, LAST.fetch_add(1, Relaxed));
        RequestId(HeaderValue::from_str(&id).expect("digits and a dash are a header's value"))
    }

    /// The value of the answer's header.
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_taken_and_any_other_replaced() {
        let of = |id: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
            RequestId::of(&headers).to_string()
        };
        for sane in ["a", "Root=1-67891233:abc/d+e.f_g", &"x".repeat(MAX_BYTES)] {
            assert_eq!(of(sane.as_bytes()), sane);
        }
        for bad in [&b""[..], b"a b", b"a\tb", b"\xff", b"<b>", b"\"", &[b'x'; MAX_BYTES + 1]] {
            let (one, other) = (of(bad), of(bad));
            assert_eq!(one.len(), 17, "{one}");
            assert_ne!(one, other);
        }
    }
}
