//! What a token says, once its signature is known to be good.

use std::sync::Arc;

use serde::Deserialize;

use super::Denied;
use super::keys::KeyId;
use super::patterns::Channels;

/// The longest subject, in bytes.
pub const SUBJECT_MAX_BYTES: usize = 255;

/// What is asked of every token.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The `iss` that it must have, if any.
    pub issuer: Option<String>,
    /// The `aud` that it must have, perhaps among others, if any.
    pub audience: Option<String>,
    /// How far the issuer's clock may be from this one, in seconds.
    pub leeway_s: u64,
}

/// The claims of a token; it may have more, which mean nothing here.
#[derive(Deserialize)]
pub(super) struct Claims {
    sub: String,
    /// In seconds since 1970, as `nbf`; RFC 7519 has them with fractions too.
    exp: f64,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Audience>,
    channels: Channels,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// What a token allows, and to whom.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Who shows it.
    pub subject: Arc<str>,
    /// Where it allows what.
    pub channels: Channels,
    /// When it ends, in milliseconds since 1970, the leeway included; what never ends has `u64::MAX`.
    pub expires_ms: u64,
    /// The key that it was made with.
    pub key: KeyId,
}

impl Claims {
    /// What they allow at `now_ms`.
    pub(super) fn grant(self, rules: &Rules, key: KeyId, now_ms: u64) -> Result<Grant, Denied> {
        if !is_subject(&self.sub) {
            return Err(Denied::Claims);
        }
        if rules.issuer.is_some() && rules.issuer != self.iss {
            return Err(Denied::Issuer);
        }
        if let Some(wanted) = &rules.audience {
            let is_for_us = match &self.aud {
                None => false,
                Some(Audience::One(audience)) => audience == wanted,
                Some(Audience::Several(audiences)) => audiences.contains(wanted),
            };
            if !is_for_us {
                return Err(Denied::Audience);
            }
        }
        // `as` takes what is below zero for 0, and what is too large for the most.
        let ms = |seconds: f64| (seconds * 1000.0) as u64;
        let leeway_ms = rules.leeway_s.saturating_mul(1000);
        if self.nbf.is_some_and(|nbf| ms(nbf) > now_ms.saturating_add(leeway_ms)) {
            return Err(Denied::NotYetValid);
        }
        // Below what never ends, however far it is.
        let expires_ms = ms(self.exp).saturating_add(leeway_ms).min(u64::MAX - 1);
        if expires_ms <= now_ms {
            return Err(Denied::Expired);
        }
        Ok(Grant { subject: self.sub.into(), channels: self.channels, expires_ms, key })
    }
}

/// Whether it can name somebody: it may stand in a log.
pub(super) fn is_subject(subject: &str) -> bool {
    (1..=SUBJECT_MAX_BYTES).contains(&subject.len()) && !subject.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW_S: u64 = 1_000_000;

    fn rules() -> Rules {
        Rules { leeway_s: 5, ..Rules::default() }
    }

    fn grant_at(claims: Value, rules: &Rules, now_ms: u64) -> Result<Grant, Denied> {
        let mut all = json!({"sub": "ann", "exp": NOW_S + 60, "channels": {"*": "read"}});
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        let claims: Claims = serde_json::from_value(all).map_err(|_| Denied::Claims)?;
        claims.grant(rules, KeyId::default(), now_ms)
    }

    fn grant(claims: Value, rules: &Rules) -> Result<Grant, Denied> {
        grant_at(claims, rules, NOW_S * 1000)
    }

    #[test]
    fn a_token_ends_at_exp_and_leeway_to_the_millisecond() {
        let ends_ms = (NOW_S + 65) * 1000;
        assert_eq!(grant_at(json!({}), &rules(), ends_ms - 1).unwrap().expires_ms, ends_ms);
        assert_eq!(grant_at(json!({}), &rules(), ends_ms).unwrap_err(), Denied::Expired);
        let half = grant(json!({"exp": NOW_S as f64 + 0.5}), &rules()).unwrap();
        assert_eq!(half.expires_ms, NOW_S * 1000 + 5500);
    }

    #[test]
    fn no_exp_is_too_far_and_none_too_long_ago() {
        for far in [json!(u64::MAX), json!(i64::MAX), json!(1e300), json!(f64::MAX)] {
            assert_eq!(grant(json!({ "exp": far }), &rules()).unwrap().expires_ms, u64::MAX - 1);
        }
        for past in [json!(0), json!(-1), json!(i64::MIN), json!(-1e300)] {
            assert_eq!(grant(json!({ "exp": past }), &rules()).unwrap_err(), Denied::Expired);
        }
    }

    #[test]
    fn a_token_begins_at_nbf_less_leeway() {
        assert!(grant(json!({"nbf": NOW_S + 5}), &rules()).is_ok());
        assert!(grant(json!({ "nbf": null }), &rules()).is_ok());
        assert_eq!(grant(json!({"nbf": NOW_S + 6}), &rules()).unwrap_err(), Denied::NotYetValid);
        assert_eq!(grant(json!({"nbf": 1e300}), &rules()).unwrap_err(), Denied::NotYetValid);
    }

    #[test]
    fn issuer_and_audience_are_checked_if_they_are_configured() {
        assert!(grant(json!({"iss": "x", "aud": "y"}), &rules()).is_ok());
        let rules = Rules { issuer: Some("us".into()), audience: Some("relay".into()), ..rules() };
        for aud in [json!("relay"), json!(["other", "relay"])] {
            assert!(grant(json!({"iss": "us", "aud": aud}), &rules).is_ok());
        }
        for (claims, denied) in [
            (json!({"aud": "relay"}), Denied::Issuer),
            (json!({"iss": "US", "aud": "relay"}), Denied::Issuer),
            (json!({"iss": "us"}), Denied::Audience),
            (json!({"iss": "us", "aud": []}), Denied::Audience),
            (json!({"iss": "us", "aud": "relays"}), Denied::Audience),
        ] {
            assert_eq!(grant(claims.clone(), &rules).unwrap_err(), denied, "{claims}");
        }
    }

    #[test]
    fn claims_of_other_kinds_are_refused() {
        for claims in [
            json!({ "sub": null }),
            json!({"sub": ""}),
            json!({"sub": 7}),
            json!({"sub": "x".repeat(256)}),
            json!({"sub": "a\nb"}),
            json!({ "exp": null }),
            json!({"exp": "1"}),
            json!({"nbf": "1"}),
            json!({"aud": 1}),
            json!({ "channels": null }),
            json!({"channels": ["*"]}),
            json!({"channels": {"*": "admin"}}),
        ] {
            assert_eq!(grant(claims.clone(), &rules()).unwrap_err(), Denied::Claims, "{claims}");
        }
        let twice = r#"{"sub":"a","sub":"b","exp":1e9,"channels":{}}"#;
        assert!(serde_json::from_str::<Claims>(twice).is_err());
    }
}
