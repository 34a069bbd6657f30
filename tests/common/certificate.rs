//! Certificates for the tests' servers, in files, and clients that trust them and nothing else.

use super::stream::NAME;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

/// A certificate that signs itself, and its key.
pub struct Certificate {
    pub der: CertificateDer<'static>,
    pub cert_pem: String,
    pub key_pem: String,
}

impl Certificate {
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    /// One that differs.
    pub fn with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, NAME);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().clone(), cert_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    /// Writes both into a directory, where they are found by [`cert_file`] and [`key_file`].
    pub fn write(&self, dir: &Path) {
        write_certificate(dir, &self.cert_pem);
        write_key(dir, &self.key_pem);
    }

    /// A client of both versions.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client_of(&[&version::TLS13, &version::TLS12])
    }

    /// A client of these versions; it remembers no session of another client's.
    pub fn client_of(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let client = client.with_protocol_versions(versions).unwrap();
        Arc::new(client.with_root_certificates(roots).with_no_client_auth())
    }
}

pub fn cert_file(dir: &Path) -> PathBuf {
    dir.join("cert.pem")
}

pub fn key_file(dir: &Path) -> PathBuf {
    dir.join("key.pem")
}

pub fn write_certificate(dir: &Path, pem: &str) {
    write(&cert_file(dir), pem);
}

pub fn write_key(dir: &Path, pem: &str) {
    write(&key_file(dir), pem);
}

/// At once, so that nobody reads half of it.
fn write(path: &Path, content: &str) {
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, content).unwrap();
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(unfinished, path).unwrap();
}
