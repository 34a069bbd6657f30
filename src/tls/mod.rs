//! TLS on the relay's port: rustls, versions 1.2 and 1.3 only, with a certificate that can be changed while connections
//! are open.
//!
//! A client costs no memory beyond its connection: sessions are resumed from tickets that clients keep, and
//! what waits in rustls to be sent is bounded.

mod files;
mod handshake;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use files::Files;
pub use files::{CertificateInfo, TlsError};
pub use handshake::HandshakeFailure;

use crate::config::Config;
use crate::file_stamp::FileStamp;
use crate::metrics::Metrics;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The certificate that is served, and where it is from.
pub struct Tls {
    files: Files,
    provider: Arc<CryptoProvider>,
    acceptor: TlsAcceptor,
    served: Arc<Served>,
    state: Mutex<State>,
}

/// The certificate and key of handshakes from now on.
#[derive(Debug)]
struct Served(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

struct State {
    info: CertificateInfo,
    warnings: Vec<String>,
    /// The files when they were last read.
    stamps: [Option<FileStamp>; 2],
    /// Why what is in the files is not used, if it is not.
    problem: Option<String>,
}

/// What a reload has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// The files hold what is served.
    Unchanged,
    /// Handshakes from now on get this certificate.
    Changed(CertificateInfo),
}

impl Tls {
    /// Reads the files that the configuration names; `None` if it names none. Blocks on the disk.
    pub fn load(config: &Config) -> Result<Option<Arc<Self>>, TlsError> {
        match (&config.tls_cert, &config.tls_key) {
            (Some(cert), Some(key)) => Self::open(cert, key).map(|tls| Some(Arc::new(tls))),
            // One without the other is not taken as a configuration.
            _ => Ok(None),
        }
    }

    fn open(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = Files { cert: cert.into(), key: key.into() };
        let provider = Arc::new(ring::default_provider());
        let stamps = files.stamps();
        let identity = files.read(&provider)?;
        let warnings = files.warnings(&identity);
        let served = Arc::new(Served(RwLock::new(Arc::new(identity.certified))));
        let mut config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(served.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Tickets under keys that change every six hours: a client that comes back spares us a signature, and nothing is kept for it.
        config.ticketer = ring::Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        // A request that can be replayed could be an update.
        config.max_early_data_size = 0;
        let state = State { info: identity.info, warnings, stamps, problem: None };
        Ok(Tls { files, provider, acceptor: Arc::new(config).into(), served, state: Mutex::new(state) })
    }

    /// Reads the files again, and has handshakes from now on served what they hold; connections stay as they are. If they
    /// cannot be used, what is served stays. Blocks on the disk.
    pub fn reload(&self) -> Result<Reloaded, TlsError> {
        // One at a time: what was read first must not be put over what was read last.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Before they are read: a change meanwhile is seen next time.
        state.stamps = self.files.stamps();
        let identity = match self.files.read(&self.provider) {
            Ok(identity) => identity,
            Err(e) => {
                state.problem = Some(e.to_string());
                return Err(e);
            }
        };
        state.problem = None;
        let mut served = self.served.0.write().unwrap_or_else(PoisonError::into_inner);
        if served.cert == identity.certified.cert {
            return Ok(Reloaded::Unchanged);
        }
        state.warnings = self.files.warnings(&identity);
        state.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        *served = Arc::new(identity.certified);
        state.info = identity.info.clone();
        Ok(Reloaded::Changed(identity.info))
    }

    /// The certificate that is served.
    pub fn info(&self) -> CertificateInfo {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).info.clone()
    }

    /// What an operator should know of it: that it has expired, that its key is open to all.
    pub fn warnings(&self) -> Vec<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).warnings.clone()
    }

    /// Looks at the files once a second for as long as it is polled, and reloads them when they have changed.
    pub async fn watch(self: Arc<Self>, metrics: Arc<Metrics>) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let tls = self.clone();
            let Ok((until_unix_s, failing)) = tokio::task::spawn_blocking(move || tls.look()).await else {
                return;
            };
            metrics.tls_certificate(until_unix_s, failing);
        }
    }

    /// Reloads if a file has changed, or could not be used before; logs what comes of it, the same problem once. Gives the
    /// end of what is served, in seconds since 1970, and whether the files cannot be used.
    fn look(&self) -> (u64, bool) {
        let stamps = self.files.stamps();
        let before = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.stamps == stamps && state.problem.is_none() {
                return (state.info.until_unix_s, false);
            }
            state.problem.clone()
        };
        let reloaded = self.reload();
        match &reloaded {
            Ok(Reloaded::Changed(info)) => tracing::info!("a new TLS certificate is served: {info}"),
            Ok(Reloaded::Unchanged) if before.is_some() => tracing::info!("the TLS files are as they were"),
            Ok(Reloaded::Unchanged) => {}
            Err(e) if before == Some(e.to_string()) => {}
            Err(e) => tracing::warn!("the TLS certificate stays as it is, its files cannot be used: {e}"),
        }
        (self.info().until_unix_s, reloaded.is_err())
    }
}
