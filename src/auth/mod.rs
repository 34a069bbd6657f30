//! Who may do what: tokens, the keys they are checked with, and what they grant.
//!
//! | module | what it does |
//! | --- | --- |
//! | `request` | finds the token of a request |
//! | `keys`, `crypto` | the keys' files; the four algorithms |
//! | [`claims`], [`patterns`] | what a token says; which channels that is |
//! | [`session`] | what a connection may do, and until when |
//! | [`mint`] | makes tokens |
//!
//! A token is looked at in one order: its form, its signature, then what it says. So who has no key learns nothing of what
//! a token would have to say. Nothing here writes a token, or a part of one, into a log or an error.

pub mod claims;
mod crypto;
mod keys;
pub mod mint;
pub mod patterns;
pub mod request;
pub mod session;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};

use crate::config::Config;
use crate::file_stamp::FileStamp;
use crate::protocol::Token;
use crate::protocol::decode::MAX_TOKEN_BYTES;

pub use claims::Grant;
use claims::{Claims, Rules};
pub use keys::{AuthError, KeyId, SECRET_MIN_BYTES, is_same};
use keys::{KeyFiles, Keys};
pub use patterns::Access;
pub use session::Session;

/// How often the files of keys are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why somebody is not let in, or not any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nothing was shown.
    #[error(
        "a token is wanted: as Authorization: Bearer, as ?token=, or as the subprotocol causeway.bearer.TOKEN"
    )]
    Missing,
    /// Two tokens that differ.
    #[error("there are several tokens, and they differ")]
    Ambiguous,
    /// It has not the form of a token, or wants what is not done here.
    #[error(
        "the token is malformed: neither a JWT (HS256, RS256, ES256 or EdDSA, without crit) nor an API key"
    )]
    Malformed,
    /// No key here has made it.
    #[error("the token is not signed with a key of this server, or is no API key of it")]
    Signature,
    /// Its claims are missing or of another kind.
    #[error(
        "the token's claims are not as they have to be: sub is a name, exp a number, channels an object of patterns, each \
         with \"read\" or \"write\""
    )]
    Claims,
    /// `iss` is not the configured one.
    #[error("the token is from another issuer than this server's")]
    Issuer,
    /// `aud` is not the configured one.
    #[error("the token is for another audience than this server")]
    Audience,
    /// `nbf` is to come.
    #[error("the token is not yet valid")]
    NotYetValid,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// A fresh token is another subject's.
    #[error("the fresh token is not for the subject of this connection")]
    Subject,
    /// The key that it was made with is no longer among the server's.
    #[error("the key of the token is no longer valid")]
    Revoked,
    /// What it grants does not have the channel.
    #[error("the token does not grant what was asked for")]
    Channel,
}

impl Denied {
    /// Every reason, for the metrics.
    pub const ALL: [Denied; 12] = [
        Denied::Missing,
        Denied::Ambiguous,
        Denied::Malformed,
        Denied::Signature,
        Denied::Claims,
        Denied::Issuer,
        Denied::Audience,
        Denied::NotYetValid,
        Denied::Expired,
        Denied::Subject,
        Denied::Revoked,
        Denied::Channel,
    ];

    /// It in a word, for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Denied::Missing => "missing",
            Denied::Ambiguous => "ambiguous",
            Denied::Malformed => "malformed",
            Denied::Signature => "signature",
            Denied::Claims => "claims",
            Denied::Issuer => "issuer",
            Denied::Audience => "audience",
            Denied::NotYetValid => "not_yet_valid",
            Denied::Expired => "expired",
            Denied::Subject => "subject",
            Denied::Revoked => "revoked",
            Denied::Channel => "channel",
        }
    }
}

/// What [`Auth::reload`] has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys that are new.
    pub added: usize,
    /// Keys that are gone. The connections that came with them are closed within `ping_interval_ms`.
    pub removed: usize,
    /// Keys that there are now.
    pub total: usize,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys added, {} removed, {} in all", self.added, self.removed, self.total)
    }
}

/// The keys of a server, as their files have them.
pub struct Auth {
    files: KeyFiles,
    rules: Rules,
    keys: RwLock<Arc<Keys>>,
    /// Whether the files have changed to what cannot be taken.
    stale: AtomicBool,
    /// The files when they were last read. Whoever holds it reads them.
    seen: Mutex<Vec<Option<FileStamp>>>,
}

impl Auth {
    /// Reads the keys that are configured; `None` if none are: then everybody may do everything.
    pub fn open(config: &Config) -> Result<Option<Arc<Self>>, AuthError> {
        let files = KeyFiles::of(config);
        if files.all().next().is_none() {
            return Ok(None);
        }
        let rules = Rules {
            issuer: config.auth_issuer.clone(),
            audience: config.auth_audience.clone(),
            leeway_s: config.auth_leeway_s,
        };
        let seen = Mutex::new(stamps(&files));
        let keys = RwLock::new(Arc::new(Keys::read(&files)?));
        Ok(Some(Arc::new(Auth { files, rules, keys, stale: AtomicBool::new(false), seen })))
    }

    /// Reads the keys again whenever a file has changed, until this is dropped.
    pub fn watch(self: &Arc<Self>) -> io::Result<()> {
        let auth = Arc::downgrade(self);
        let watch = move || loop {
            thread::sleep(LOOK_INTERVAL);
            let Some(auth) = auth.upgrade() else { return };
            let changed = *auth.seen.lock().unwrap_or_else(PoisonError::into_inner) != stamps(&auth.files);
            if changed {
                // It says itself what is wrong.
                if let Ok(reloaded) = auth.reload() {
                    tracing::info!("keys of authentication read again: {reloaded}");
                }
            }
        };
        thread::Builder::new().name("auth-files".into()).spawn(watch).map(drop)
    }

    /// Reads the files again. If one cannot be taken, all keys stay as they were, and the log says why. Blocks on the disk.
    pub fn reload(&self) -> Result<Reloaded, AuthError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Before they are read: what changes meanwhile is read again.
        *seen = stamps(&self.files);
        let new = Keys::read(&self.files);
        self.stale.store(new.is_err(), Relaxed);
        let new = new.inspect_err(|e| {
            tracing::error!("{e}; the keys of before stay in use until the file is put right");
        })?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let ids = |keys: &Keys| keys.ids().copied().collect::<HashSet<_>>();
        let (before, after) = (ids(&keys), ids(&new));
        *keys = Arc::new(new);
        drop(keys);
        Ok(Reloaded {
            added: after.difference(&before).count(),
            removed: before.difference(&after).count(),
            total: after.len(),
        })
    }

    /// How many keys there are, and whether their files have changed since to what cannot be taken.
    pub fn state(&self) -> (usize, bool) {
        (self.keys().ids().count(), self.stale.load(Relaxed))
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the token grants at `now_ms`, in milliseconds since 1970.
    pub fn verify(&self, token: &Token, now_ms: u64) -> Result<Grant, Denied> {
        let (token, keys) = (token.as_str(), self.keys());
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Denied::Malformed);
        }
        if !token.contains('.') {
            if keys.api.is_empty() {
                return Err(Denied::Malformed);
            }
            let key = keys.api_key(token).ok_or(Denied::Signature)?;
            let (subject, channels) = (key.subject.as_str().into(), key.channels.clone());
            return Ok(Grant { subject, channels, expires_ms: u64::MAX, key: key.id });
        }
        let header = decode_header(token).map_err(|_| Denied::Malformed)?;
        // Nothing that could be critical is known here (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Err(Denied::Malformed);
        }
        let validation = signature_only(header.alg);
        for key in keys.candidates(header.alg, header.kid.as_deref()) {
            match decode::<Claims>(token, &key.key, &validation) {
                Ok(token) => return token.claims.grant(&self.rules, key.id, now_ms),
                Err(e) => match e.kind() {
                    ErrorKind::InvalidSignature => {}
                    // The signature comes first.
                    ErrorKind::Json(_) => return Err(Denied::Claims),
                    _ => return Err(Denied::Malformed),
                },
            }
        }
        Err(Denied::Signature)
    }
}

/// Claims are checked in [`claims`], by a time that is given and to the millisecond.
fn signature_only(algorithm: jsonwebtoken::Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    validation
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn stamps(files: &KeyFiles) -> Vec<Option<FileStamp>> {
    files.all().map(|(_, path)| FileStamp::of(path)).collect()
}

#[cfg(test)]
mod tests;
