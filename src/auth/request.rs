//! Where a request has its token: `Authorization: Bearer`, `?token=`, or a subprotocol, which is all that a browser can send.

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use percent_encoding::percent_decode_str;

use super::Denied;
use crate::protocol::Token;

/// What precedes a token in a subprotocol.
const BEARER_PROTOCOL: &str = "causeway.bearer.";

/// The subprotocol without a token.
const PROTOCOL: &str = "causeway";

/// The token of a request, if it has one. It may have the same one several times.
pub fn token(headers: &HeaderMap, query: Option<&str>) -> Result<Option<Token>, Denied> {
    let bearers = headers.get_all(AUTHORIZATION).iter().map(|value| {
        let value = value.to_str().map_err(|_| Denied::Malformed)?;
        // Another scheme may be for a proxy on the way.
        let (scheme, token) = value.trim().split_once(' ').unwrap_or((value, ""));
        Ok(if scheme.eq_ignore_ascii_case("bearer") { token.trim().to_owned() } else { String::new() })
    });
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let in_query =
        pairs.filter(|(key, _)| percent_decode_str(key).eq(b"token".iter().copied())).map(|(_, value)| {
            percent_decode_str(value).decode_utf8().map(String::from).map_err(|_| Denied::Malformed)
        });
    let in_protocols = protocols(headers)
        .filter_map(|protocol| protocol.strip_prefix(BEARER_PROTOCOL))
        .map(|token| Ok(token.into()));
    let mut found = None;
    for token in bearers.chain(in_query).chain(in_protocols) {
        let token = token?;
        match &found {
            _ if token.is_empty() => {}
            None => found = Some(token),
            Some(other) if *other == token => {}
            Some(_) => return Err(Denied::Ambiguous),
        }
    }
    Ok(found.map(Token::from))
}

/// The subprotocol to select. A browser gives a connection up whose server selects none of those it offered, or another; one
/// that offers `causeway` as well does not get its token back.
pub fn subprotocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = || protocols(headers);
    let bearer = || offered().find(|protocol| protocol.starts_with(BEARER_PROTOCOL));
    let selected = offered().find(|protocol| *protocol == PROTOCOL).or_else(bearer)?;
    HeaderValue::from_str(selected).ok()
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    fn found(all: &[(&'static str, &'static str)], query: Option<&str>) -> Result<Option<String>, Denied> {
        Ok(token(&append(all), query)?.map(|token| token.as_str().to_owned()))
    }

    /// `collect` keeps the last of several headers.
    fn append(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in all {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn a_token_is_found_wherever_it_stands() {
        for (all, query) in [
            (&[("authorization", "Bearer t.o.k")][..], None),
            (&[("authorization", "bearer  t.o.k ")], None),
            (&[("authorization", "Basic eA=="), ("authorization", "BEARER t.o.k")], None),
            (&[], Some("channel=x&token=t.o.k")),
            (&[], Some("%74oken=t%2Eo.k&token=")),
            (&[("sec-websocket-protocol", "causeway.bearer.t.o.k")], None),
            (&[("sec-websocket-protocol", "chat, causeway.bearer.t.o.k,causeway")], None),
            (
                &[("sec-websocket-protocol", "chat"), ("sec-websocket-protocol", "causeway.bearer.t.o.k")],
                None,
            ),
            (
                &[("authorization", "Bearer t.o.k"), ("sec-websocket-protocol", "causeway.bearer.t.o.k")],
                Some("token=t.o.k"),
            ),
        ] {
            assert_eq!(found(all, query), Ok(Some("t.o.k".into())), "{all:?} {query:?}");
        }
        for (all, query) in [
            (&[][..], None),
            (&[("authorization", "Basic eA==")], Some("token=&tokens=x&token")),
            (&[("authorization", "Bearer"), ("sec-websocket-protocol", "causeway.bearer., causeway")], None),
        ] {
            assert_eq!(found(all, query), Ok(None), "{all:?} {query:?}");
        }
    }

    #[test]
    fn two_tokens_are_refused() {
        for (all, query) in [
            (&[("authorization", "Bearer a")][..], Some("token=b")),
            (&[("authorization", "Bearer a"), ("authorization", "Bearer b")], None),
            (&[], Some("token=a&token=b")),
            (&[("sec-websocket-protocol", "causeway.bearer.a, causeway.bearer.b")], None),
        ] {
            assert_eq!(found(all, query), Err(Denied::Ambiguous), "{all:?} {query:?}");
        }
        assert_eq!(found(&[], Some("token=%ff")), Err(Denied::Malformed));
    }

    #[test]
    fn one_offered_subprotocol_is_selected() {
        let selected = |offer: &'static str| subprotocol(&headers(&[("sec-websocket-protocol", offer)]));
        assert_eq!(selected("causeway.bearer.t, causeway").unwrap(), "causeway");
        assert_eq!(selected("chat,causeway.bearer.t").unwrap(), "causeway.bearer.t");
        assert_eq!(selected("chat, CAUSEWAY"), None);
        assert_eq!(subprotocol(&HeaderMap::new()), None);
    }
}
