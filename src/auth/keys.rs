//! The keys that tokens are checked with, as their files have them. A key serves one algorithm, which its file decides and no
//! token: so a public key's text is never taken for a secret.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;

use super::claims::is_subject;
use super::crypto::sha256;
use super::patterns::Channels;
use crate::config::Config;
use crate::protocol::decode::push_unhex;
use crate::secret_file;

/// The most keys in one file that tokens are signed with: a token that names no key is tried with all of its algorithm.
const KEYS_MAX: usize = 16;

/// The most API keys: every one shown is compared with all.
const API_KEYS_MAX: usize = 1024;

/// The shortest HS256 secret, in bytes: as long as the hash, as RFC 7518 (3.2) wants it.
pub const SECRET_MIN_BYTES: usize = 32;

/// The shortest modulus of an RSA key, in bytes: 2,048 bits.
const RSA_MIN_BYTES: usize = 256;

/// Names a key by its content: a file that is read again names the same keys.
pub type KeyId = [u8; 32];

/// A file of keys that cannot be taken.
#[derive(Debug, thiserror::Error)]
#[error("{setting} {}: {problem}", path.display())]
pub struct AuthError {
    /// The setting that names it.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// Where the keys are.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyFiles {
    hs256_secret: Option<PathBuf>,
    public_keys: Option<PathBuf>,
    jwks: Option<PathBuf>,
    api_keys: Option<PathBuf>,
}

impl KeyFiles {
    pub(super) fn of(config: &Config) -> Self {
        KeyFiles {
            hs256_secret: config.auth_hs256_secret_file.clone(),
            public_keys: config.auth_public_keys_file.clone(),
            jwks: config.auth_jwks_file.clone(),
            api_keys: config.auth_api_keys_file.clone(),
        }
    }

    /// All that there are, each with its setting.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let all = [
            ("auth_hs256_secret_file", &self.hs256_secret),
            ("auth_public_keys_file", &self.public_keys),
            ("auth_jwks_file", &self.jwks),
            ("auth_api_keys_file", &self.api_keys),
        ];
        all.into_iter().filter_map(|(setting, path)| Some((setting, path.as_deref()?)))
    }
}

/// A key that tokens are signed with.
pub(super) struct Key {
    pub(super) id: KeyId,
    pub(super) algorithm: Algorithm,
    /// The name that tokens may call it by.
    pub(super) name: Option<String>,
    pub(super) key: DecodingKey,
}

/// A key that is itself what its owner shows.
pub(super) struct ApiKey {
    /// Of its hash, its subject and what it allows: if that changes it is another key.
    pub(super) id: KeyId,
    hash: [u8; 32],
    pub(super) subject: String,
    pub(super) channels: Channels,
}

/// Every key of the files.
#[derive(Default)]
pub(super) struct Keys {
    pub(super) signing: Vec<Key>,
    pub(super) api: Vec<ApiKey>,
}

impl Keys {
    /// Reads the files.
    pub(super) fn read(files: &KeyFiles) -> Result<Self, AuthError> {
        super::crypto::install();
        let mut keys = Keys::default();
        for (setting, path) in files.all() {
            let failed = |problem| AuthError { setting, path: path.into(), problem };
            let text = secret_file::read(path).map_err(failed)?;
            warn_of_mode(setting, path);
            match setting {
                "auth_hs256_secret_file" => keys.signing.extend(secrets(&text).map_err(failed)?),
                "auth_public_keys_file" => keys.signing.extend(pem(&text).map_err(failed)?),
                "auth_jwks_file" => keys.signing.extend(jwks(&text).map_err(failed)?),
                _ => keys.api = api_keys(&text).map_err(failed)?,
            }
        }
        Ok(keys)
    }

    /// Those that may have signed a token with that header: the one it names, else all of its algorithm without a name,
    /// or all if it names none.
    pub(super) fn candidates(&self, algorithm: Algorithm, name: Option<&str>) -> impl Iterator<Item = &Key> {
        let fits = move |key: &&Key| key.algorithm == algorithm;
        let named = name.is_some_and(|name| {
            self.signing.iter().filter(fits).any(|key| key.name.as_deref() == Some(name))
        });
        self.signing.iter().filter(fits).filter(move |key| match (named, name) {
            (true, _) => key.name.as_deref() == name,
            (false, Some(_)) => key.name.is_none(),
            (false, None) => true,
        })
    }

    /// The API key that is shown. A key is random and long, so that a fast hash keeps it as well as a slow one would: there is
    /// nothing to guess.
    pub(super) fn api_key(&self, shown: &str) -> Option<&ApiKey> {
        let hash = sha256(shown.as_bytes());
        self.api.iter().fold(None, |found, key| if is_same(&key.hash, &hash) { Some(key) } else { found })
    }

    pub(super) fn has(&self, id: &KeyId) -> bool {
        self.ids().any(|known| known == id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &KeyId> {
        self.signing.iter().map(|key| &key.id).chain(self.api.iter().map(|key| &key.id))
    }
}

/// Whether two secrets are the same; takes the same time wherever two of one length differ.
pub fn is_same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |differences, (a, b)| black_box(differences | (a ^ b)));
    a.len() == b.len() && differences == 0
}

/// Who can read a secret can make tokens, and so can who can put a key of theirs into a file.
fn warn_of_mode(setting: &str, path: &Path) {
    if setting == "auth_hs256_secret_file" && secret_file::warn_if_readable(setting, path) {
        return;
    }
    let mode = secret_file::mode(path);
    if mode & 0o022 != 0 {
        let path = path.display();
        tracing::warn!("{setting} {path}: others can write it (mode {mode:03o}), and so let anybody in");
    }
}

/// A secret a line; the first is the one that `causeway token` signs with.
pub(super) fn secret_lines(text: &str) -> Result<Vec<&str>, String> {
    if text.contains("-----BEGIN") {
        return Err("this is a PEM file, not a secret; public keys belong into auth_public_keys_file".into());
    }
    let secrets: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if let Some(short) = secrets.iter().position(|secret| secret.len() < SECRET_MIN_BYTES) {
        let nth = short + 1;
        return Err(format!(
            "secret {nth} is shorter than {SECRET_MIN_BYTES} bytes; try openssl rand -hex 32"
        ));
    }
    bounded(secrets)
}

fn secrets(text: &str) -> Result<Vec<Key>, String> {
    let secrets = secret_lines(text)?.into_iter();
    Ok(secrets
        .map(|secret| Key::new(Algorithm::HS256, None, DecodingKey::from_secret(secret.as_bytes())))
        .collect())
}

/// Every `PUBLIC KEY` of a PEM file.
fn pem(text: &str) -> Result<Vec<Key>, String> {
    let blocks = text.split("-----BEGIN ").skip(1).map(|block| format!("-----BEGIN {block}"));
    let keys = blocks.enumerate().map(|(n, block)| {
        let nth = n + 1;
        if block.contains("PRIVATE KEY-----") {
            return Err(format!(
                "block {nth} is a private key: only public ones belong here (openssl pkey -pubout)"
            ));
        }
        public_key(block.as_bytes()).ok_or_else(|| {
            format!(
                "block {nth} is none of an RSA key of 2048 bits or more, an EC key on P-256, an Ed25519 key"
            )
        })
    });
    bounded(keys.collect::<Result<_, _>>()?)
}

fn public_key(block: &[u8]) -> Option<Key> {
    if !(block.starts_with(b"-----BEGIN PUBLIC KEY") || block.starts_with(b"-----BEGIN RSA PUBLIC KEY")) {
        return None;
    }
    let (algorithm, key) = DecodingKey::from_ec_pem(block)
        .map(|key| (Algorithm::ES256, key))
        .or_else(|_| DecodingKey::from_ed_pem(block).map(|key| (Algorithm::EdDSA, key)))
        .or_else(|_| DecodingKey::from_rsa_pem(block).map(|key| (Algorithm::RS256, key)))
        .ok()?;
    let key = Key::new(algorithm, None, key);
    key.is_sound().then_some(key)
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

/// The keys of a JWKS file that sign; an identity provider's may have others beside them.
fn jwks(text: &str) -> Result<Vec<Key>, String> {
    let set: JwkSet =
        serde_json::from_str(text).map_err(|_| "it is not {\"keys\": […]} in JSON".to_owned())?;
    let mut keys = Vec::new();
    for (n, value) in set.keys.into_iter().enumerate() {
        let nth = n + 1;
        if value.get("d").is_some() || value.get("k").is_some() {
            return Err(format!("key {nth} is a private or a secret one: only public ones belong here"));
        }
        match serde_json::from_value(value).ok().and_then(|jwk: Jwk| Some((algorithm_of(&jwk)?, jwk))) {
            Some((algorithm, jwk)) => {
                let key = DecodingKey::from_jwk(&jwk).map(|key| Key::new(algorithm, jwk.common.key_id, key));
                let key = key.ok().filter(Key::is_sound);
                keys.push(
                    key.ok_or_else(|| format!("key {nth} is not sound, or an RSA key under 2048 bits"))?,
                );
            }
            None => tracing::info!("auth_jwks_file: key {nth} is for none of RS256, ES256, EdDSA; left out"),
        }
    }
    bounded(keys)
}

/// What a key of a JWKS file verifies, if it is ours.
fn algorithm_of(jwk: &Jwk) -> Option<Algorithm> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let common = &jwk.common;
    let is_said = common.key_algorithm.is_none_or(|said| said == algorithm.into());
    let signs = common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
    let verifies = common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    (is_said && signs && verifies).then_some(algorithm)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiKeyEntry {
    sha256: String,
    channels: Channels,
}

/// API keys: a TOML table for each, named after its subject, with the key's hash and its channels.
fn api_keys(text: &str) -> Result<Vec<ApiKey>, String> {
    let table: BTreeMap<String, ApiKeyEntry> = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        format!("line {line}: {}", e.message())
    })?;
    if table.len() > API_KEYS_MAX {
        return Err(format!("there are {} keys, the most is {API_KEYS_MAX}", table.len()));
    }
    let keys = table.into_iter().map(|(subject, ApiKeyEntry { sha256: hex, channels })| {
        if !is_subject(&subject) {
            return Err("a subject is 1 to 255 bytes without control characters".to_owned());
        }
        let mut hash = Vec::new();
        let is_hex = push_unhex(&hex, &mut hash);
        let Some(hash) = hash.try_into().ok().filter(|_| is_hex) else {
            return Err(format!(
                "{subject}: sha256 is 64 hexadecimal digits (causeway token --api-key makes them)"
            ));
        };
        let id = sha256(format!("{hex}\0{subject}\0{channels:?}").as_bytes());
        Ok(ApiKey { id, hash, subject, channels })
    });
    keys.collect()
}

/// At least one, as a file is there to have some, and not too many.
fn bounded<T>(keys: Vec<T>) -> Result<Vec<T>, String> {
    match keys.len() {
        0 => Err("there is no key in it".into()),
        1..=KEYS_MAX => Ok(keys),
        n => Err(format!("there are {n} keys, the most is {KEYS_MAX}")),
    }
}

impl Key {
    fn new(algorithm: Algorithm, name: Option<String>, key: DecodingKey) -> Self {
        let mut bytes = format!("{algorithm:?}\0{name:?}\0").into_bytes();
        match key.kind() {
            DecodingKeyKind::SecretOrDer(content) => bytes.extend_from_slice(content),
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                bytes.extend_from_slice(n);
                bytes.push(0);
                bytes.extend_from_slice(e);
            }
        }
        Key { id: sha256(&bytes), algorithm, name, key }
    }

    /// Whether it can ever verify anything: else every token would be refused, and nobody told why.
    fn is_sound(&self) -> bool {
        match (self.algorithm, self.key.kind()) {
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, .. }) => {
                n.iter().skip_while(|byte| **byte == 0).count() >= RSA_MIN_BYTES
            }
            // The modulus, and a few bytes around it.
            (Algorithm::RS256, DecodingKeyKind::SecretOrDer(der)) => der.len() > RSA_MIN_BYTES,
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => point.len() == 65 && point[0] == 4,
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(key)) => key.len() == 32,
            _ => false,
        }
    }
}
