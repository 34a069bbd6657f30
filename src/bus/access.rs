//! How Redis is reached: its address, the password for it, and whose certificate is believed. Files are read anew for each
//! connection, so that what they hold can change while the server runs.

use std::path::PathBuf;

use ::redis::{Client, ProtocolVersion, TlsCertificates};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::config::{Config, RedisUrl};
use crate::secret_file;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{setting} {}: {problem}", path.display())]
pub struct AccessError {
    /// The setting that names it.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Access {
    url: RedisUrl,
    password_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

impl Access {
    /// As the configuration has it; `None` if the server is alone.
    pub fn new(config: &Config) -> Option<Self> {
        let url = config.redis.clone()?;
        Some(Access { url, password_file: config.redis_password_file.clone(), ca: config.redis_ca.clone() })
    }

    /// Warns of files that others can read.
    pub fn warn(&self) {
        if let Some(path) = &self.password_file {
            secret_file::warn_if_readable("redis_password_file", path);
        }
    }

    /// Who connects as the files say now. Blocks on the disk.
    pub fn client(&self) -> Result<Client, AccessError> {
        let info = self.url.info();
        // Messages come by themselves in RESP3 only; Redis speaks it since version 6. And without a name it needs no permission to say it.
        let mut settings =
            info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        if let Some(path) = &self.password_file {
            let failed =
                |problem| AccessError { setting: "redis_password_file", path: path.clone(), problem };
            let text = secret_file::read(path).map_err(failed)?;
            let password = text.trim();
            if password.is_empty() || password.contains('\n') {
                return Err(failed("it must have the password and nothing else, on one line".into()));
            }
            settings = settings.set_password(password);
        }
        let info = info.set_redis_settings(settings);
        let Some(path) = &self.ca else {
            return Ok(Client::open(info).expect("it takes all that was parsed"));
        };
        let failed = |problem| AccessError { setting: "redis_ca", path: path.clone(), problem };
        let pem = secret_file::read(path).map_err(failed)?;
        if CertificateDer::pem_slice_iter(pem.as_bytes()).next().is_none() {
            return Err(failed(
                "there is no certificate in it; it has to be PEM (`-----BEGIN CERTIFICATE-----`)".into(),
            ));
        }
        let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem.into()) };
        Client::build_with_tls(info, certificates).map_err(|e| failed(e.to_string()))
    }
}

impl std::fmt::Display for Access {
    /// The URL, without a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.url.fmt(f)
    }
}
