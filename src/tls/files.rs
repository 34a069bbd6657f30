//! The certificate's and the key's files: read, checked, and looked at for changes.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, InconsistentKeys};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::file_stamp::FileStamp;

/// The largest file that is read, in bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// What "anybody" may do with a file, in its mode.
const MODE_ANYBODY: u32 = 0o007;

/// Why a certificate and its key cannot be used. No message holds anything of the key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{setting} {path}: {source}", path = path.display())]
    Read {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{setting} {path}: {problem}", path = path.display())]
    Content {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The key is another certificate's.
    #[error(
        "tls_key {key}: this is not the key of the first certificate in tls_cert {cert}; put the server's own certificate \
         first, the rest of its chain after it",
        key = key.display(), cert = cert.display()
    )]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// rustls does not take it.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// What is told of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Whose it is, as it says.
    pub subject: String,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Until when it is valid.
    pub until: String,
    /// The same in seconds since 1970.
    pub until_unix_s: u64,
    /// From when it is valid, in seconds since 1970.
    pub from_unix_s: u64,
    /// Certificates in the file: the chain.
    pub chain: usize,
}

impl fmt::Display for CertificateInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CertificateInfo { subject, serial, until, chain, .. } = self;
        write!(f, "subject {subject:?}, serial {serial}, valid until {until}, {chain} in the chain")
    }
}

/// Both files as they were read together.
pub(super) struct Identity {
    pub(super) certified: CertifiedKey,
    pub(super) info: CertificateInfo,
    /// The key's file is open to anybody on this machine.
    pub(super) key_open: bool,
}

/// The files that the settings name.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

impl Files {
    /// The state of both files; blocks on the disk.
    pub(super) fn stamps(&self) -> [Option<FileStamp>; 2] {
        [&self.cert, &self.key].map(|path| FileStamp::of(path))
    }

    /// Reads both, and sees that they belong together; blocks on the disk.
    pub(super) fn read(&self, provider: &CryptoProvider) -> Result<Identity, TlsError> {
        let (cert_pem, _) = read("tls_cert", &self.cert)?;
        let (key_pem, key_mode) = read("tls_key", &self.key)?;
        let chain = self.chain(&cert_pem)?;
        let info = self.info(&chain)?;
        let key = self.key(&key_pem)?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|e| match e {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::Mismatch { cert: self.cert.clone(), key: self.key.clone() }
            }
            rustls::Error::InvalidCertificate(e) => self.bad_cert(format!("it cannot be used: {e}")),
            _ => self.bad_key(
                "this kind of key cannot be used; RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, and Ed25519 can",
            ),
        })?;
        Ok(Identity { certified, info, key_open: key_mode & MODE_ANYBODY != 0 })
    }

    /// What an operator should know of an identity that is used.
    pub(super) fn warnings(&self, identity: &Identity) -> Vec<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let info = &identity.info;
        let mut warnings = Vec::new();
        if info.until_unix_s <= now {
            warnings.push(format!("the TLS certificate has expired, clients will refuse it: {info}"));
        }
        if info.from_unix_s > now {
            warnings.push(format!("the TLS certificate is not valid yet, clients will refuse it: {info}"));
        }
        if identity.key_open {
            let key = self.key.display();
            warnings.push(format!("tls_key {key}: anybody on this machine may use it; `chmod 600 {key}`"));
        }
        warnings
    }

    fn chain(&self, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        let chain = chain.map_err(|e| match e {
            pem::Error::MissingSectionEnd { .. } => {
                self.bad_cert("it ends in the middle of a section".into())
            }
            _ => self.bad_cert("it is not PEM, or damaged".into()),
        })?;
        if chain.is_empty() {
            let problem = "there is no certificate in it; it has to be PEM (`-----BEGIN CERTIFICATE-----`), the server's \
                own certificate first, the rest of its chain after it";
            return Err(self.bad_cert(problem.into()));
        }
        Ok(chain)
    }

    fn info(&self, chain: &[CertificateDer<'_>]) -> Result<CertificateInfo, TlsError> {
        let parsed: Result<Vec<_>, _> = chain.iter().map(|der| Certificate::from_der(der)).collect();
        let parsed =
            parsed.map_err(|e| self.bad_cert(format!("there is a damaged certificate in it: {e}")))?;
        let certificate = &parsed[0].tbs_certificate;
        let seconds = |time: x509_cert::time::Time| time.to_unix_duration().as_secs();
        Ok(CertificateInfo {
            subject: certificate.subject.to_string(),
            serial: certificate.serial_number.to_string().replace(':', ""),
            until: certificate.validity.not_after.to_string(),
            until_unix_s: seconds(certificate.validity.not_after),
            from_unix_s: seconds(certificate.validity.not_before),
            chain: chain.len(),
        })
    }

    fn key(&self, text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
        let has = |mark: &[u8]| text.windows(mark.len()).any(|window| window == mark);
        if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
            let problem = "the key is encrypted, and nobody is asked for its password; write it decrypted (`openssl pkey -in \
                KEY -out PLAIN`) to a file that only the server may read";
            return Err(self.bad_key(problem));
        }
        PrivateKeyDer::from_pem_slice(text).map_err(|e| match e {
            pem::Error::NoItemsFound => self.bad_key(
                "there is no private key in it; it has to be PEM (`-----BEGIN PRIVATE KEY-----`, `RSA PRIVATE KEY` or \
                 `EC PRIVATE KEY`)",
            ),
            pem::Error::MissingSectionEnd { .. } => self.bad_key("it ends in the middle of a section"),
            // What the parser says could quote the file.
            _ => self.bad_key("it is not PEM, or damaged"),
        })
    }

    fn bad_cert(&self, problem: String) -> TlsError {
        TlsError::Content { setting: "tls_cert", path: self.cert.clone(), problem }
    }

    fn bad_key(&self, problem: &str) -> TlsError {
        TlsError::Content { setting: "tls_key", path: self.key.clone(), problem: problem.into() }
    }
}

/// A file's content and mode.
fn read(setting: &'static str, path: &Path) -> Result<(Vec<u8>, u32), TlsError> {
    let failed = |source| TlsError::Read { setting, path: path.into(), source };
    let wrong = |problem: &str| TlsError::Content { setting, path: path.into(), problem: problem.into() };
    // Opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(wrong("it is not a file"));
    }
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode();
    let mut content = Vec::new();
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > FILE_MAX_BYTES {
        return Err(wrong("it is larger than 1 MiB, so it is not what it should be"));
    }
    Ok((content, mode))
}
