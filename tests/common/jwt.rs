//! Makes tokens, right and wrong ones, without the code that is tested. Its unit tests take this in by `#[path]`.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use ring::{digest, hmac};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The secret of the tests' servers.
pub const SECRET: &str = "the first secret, 32 bytes or more";

/// Writes it into a file of the directory, for `auth_hs256_secret_file`.
pub fn secret_file(dir: &Path) -> PathBuf {
    let path = dir.join("secret");
    std::fs::write(&path, SECRET).unwrap();
    path
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Claims of somebody who may write into `list` for an hour, and those given.
pub fn claims(more: Value) -> Value {
    let mut claims = json!({"sub": "ann", "exp": now() + 3600.0, "channels": {"list": "write"}});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

/// Their token, by [`SECRET`].
pub fn token(more: Value) -> String {
    sign(hs256(SECRET.as_bytes()), &claims(more))
}

/// The algorithm and its private key: the secret, or a PEM.
#[derive(Clone, Copy, Debug)]
pub struct Signer<'a> {
    pub alg: &'a str,
    pub key: &'a [u8],
}

pub fn hs256(secret: &[u8]) -> Signer<'_> {
    Signer { alg: "HS256", key: secret }
}

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with those claims, and more in its header than the algorithm.
pub fn sign_with(signer: Signer<'_>, header: Value, claims: &Value) -> String {
    let mut all = json!({"typ": "JWT", "alg": signer.alg});
    for (name, value) in header.as_object().unwrap() {
        all[name] = value.clone();
    }
    sign_parts(signer, &all.to_string(), &claims.to_string())
}

pub fn sign(signer: Signer<'_>, claims: &Value) -> String {
    sign_with(signer, json!({}), claims)
}

/// The same of any texts.
pub fn sign_parts(signer: Signer<'_>, header: &str, claims: &str) -> String {
    let message = format!("{}.{}", base64url(header), base64url(claims));
    let signature = signature(signer, message.as_bytes());
    format!("{message}.{}", base64url(signature))
}

fn signature(Signer { alg, key }: Signer<'_>, message: &[u8]) -> Vec<u8> {
    let random = SystemRandom::new();
    match alg {
        "HS256" => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec(),
        "HS512" => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, key), message).as_ref().to_vec(),
        "RS256" => {
            let pair = RsaKeyPair::from_pkcs8(&der(key)).unwrap();
            let mut signature = vec![0; pair.public().modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
            signature
        }
        "ES256" => {
            let pair =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der(key), &random).unwrap();
            pair.sign(&random, message).unwrap().as_ref().to_vec()
        }
        "EdDSA" => {
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der(key)).unwrap().sign(message).as_ref().to_vec()
        }
        _ => Vec::new(),
    }
}

fn der(pem: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(pem).unwrap();
    let lines: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    BASE64_STANDARD.decode(lines).unwrap()
}

pub fn sha256_hex(text: &str) -> String {
    let sum = digest::digest(&digest::SHA256, text.as_bytes());
    sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
