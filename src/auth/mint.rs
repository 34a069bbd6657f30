//! Makes tokens and API keys, for `causeway token`.

use std::fs;
use std::path::PathBuf;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Map, Value, json};

use super::claims::is_subject;
use super::patterns::{Access, PATTERNS_MAX, Pattern};
use super::{crypto, keys};
use crate::config::Config;

/// What precedes an API key, so that those who look for secrets in the wrong place find it.
const API_KEY_PREFIX: &str = "causeway_";

const NO_PRIVATE_KEY: &str = "no private key in PEM (PKCS #8): RSA from 2048 bits, EC on P-256, or Ed25519";

/// What a token is to say.
#[derive(Debug)]
pub struct Wanted {
    /// Who shows it.
    pub subject: String,
    /// Patterns, each with `read` or `write`.
    pub channels: Vec<(String, String)>,
    /// How long it is valid, in seconds.
    pub expires_in_s: u64,
    /// A private key in PEM to sign it with, instead of the configured secret.
    pub private_key_file: Option<PathBuf>,
}

/// Makes a token with the first secret of `auth_hs256_secret_file`, or with a private key; with the issuer and audience that
/// are configured.
pub fn token(config: &Config, wanted: &Wanted, now_s: u64) -> Result<String, String> {
    crypto::install();
    let (algorithm, key) = signing_key(config, wanted)?;
    let mut claims = json!({
        "sub": subject(wanted)?,
        "iat": now_s,
        "exp": now_s.saturating_add(wanted.expires_in_s),
        "channels": channels(wanted)?,
    });
    if let Some(issuer) = &config.auth_issuer {
        claims["iss"] = issuer.as_str().into();
    }
    if let Some(audience) = &config.auth_audience {
        claims["aud"] = audience.as_str().into();
    }
    encode(&Header::new(algorithm), &claims, &key)
        .map_err(|_| format!("the key cannot sign: it is {NO_PRIVATE_KEY}"))
}

/// Makes an API key, and its entry for `auth_api_keys_file`.
pub fn api_key(wanted: &Wanted) -> Result<(String, String), String> {
    let random = crypto::random::<32>().map_err(|_| "the system gives no random bytes".to_owned())?;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let key = format!("{API_KEY_PREFIX}{}", hex(&random));
    let hash = hex(&crypto::sha256(key.as_bytes()));
    let entry = toml::toml! { sha256 = hash };
    let mut entry: toml::Table = entry;
    let channels = channels(wanted)?.into_iter();
    let channels: toml::Table =
        channels.map(|(pattern, access)| (pattern, access.as_str().unwrap_or_default().into())).collect();
    entry.insert("channels".into(), channels.into());
    let table: toml::Table = [(subject(wanted)?.to_owned(), entry.into())].into_iter().collect();
    Ok((key, table.to_string()))
}

fn subject(wanted: &Wanted) -> Result<&str, String> {
    match is_subject(&wanted.subject) {
        true => Ok(&wanted.subject),
        false => Err("--subject: it is 1 to 255 bytes without control characters".into()),
    }
}

fn channels(wanted: &Wanted) -> Result<Map<String, Value>, String> {
    if wanted.channels.len() > PATTERNS_MAX {
        return Err(format!("--channel: the most is {PATTERNS_MAX} patterns"));
    }
    let channels = wanted.channels.iter().map(|(pattern, access)| {
        Pattern::parse(pattern).map_err(|e| format!("--channel {pattern:?}: {e}"))?;
        Access::parse(access).ok_or_else(|| format!("--channel {pattern:?}: its access is read or write"))?;
        Ok((pattern.clone(), access.as_str().into()))
    });
    channels.collect()
}

fn signing_key(config: &Config, wanted: &Wanted) -> Result<(Algorithm, EncodingKey), String> {
    let Some(path) = &wanted.private_key_file else { return secret(config) };
    let failed = |problem: &str| format!("--private-key-file {}: {problem}", path.display());
    let pem = fs::read(path).map_err(|e| failed(&e.to_string()))?;
    EncodingKey::from_ec_pem(&pem)
        .map(|key| (Algorithm::ES256, key))
        .or_else(|_| EncodingKey::from_ed_pem(&pem).map(|key| (Algorithm::EdDSA, key)))
        .or_else(|_| EncodingKey::from_rsa_pem(&pem).map(|key| (Algorithm::RS256, key)))
        .map_err(|_| failed(&format!("it is {NO_PRIVATE_KEY}")))
}

fn secret(config: &Config) -> Result<(Algorithm, EncodingKey), String> {
    let Some(path) = &config.auth_hs256_secret_file else {
        return Err("there is no secret to sign with: openssl rand -hex 32 > secret, then give \
            --auth-hs256-secret-file secret here and to the server; or sign with --private-key-file"
            .into());
    };
    let failed = |problem| format!("auth_hs256_secret_file {}: {problem}", path.display());
    let text = fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let secrets = keys::secret_lines(&text).map_err(failed)?;
    Ok((Algorithm::HS256, EncodingKey::from_secret(secrets[0].as_bytes())))
}
