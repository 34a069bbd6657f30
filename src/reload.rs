//! What SIGHUP does: the configuration and the files of keys and of the certificate are read again, and what can change while
//! the server runs, does. The log says what has changed, and what would need a restart.

use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::Signal;

use crate::config::{Config, ConfigError};
use crate::limits::settings::Settings;
use crate::logging;
use crate::server::Server;
use crate::tls::{self, Tls};

/// The settings that are limits to be replaced ([`Settings`]).
const LIMITS: &[&str] = &[
    "max_partial_bytes",
    "max_connections",
    "max_connections_per_ip",
    "max_connections_per_subject",
    "max_connections_per_channel",
    "max_new_connections_per_s",
    "max_new_connections_per_ip_per_s",
    "ipv6_prefix",
    "trusted_proxies",
    "allowed_origins",
    "max_messages_per_s",
    "max_bytes_per_s",
    "max_changes_per_s",
    "max_subject_messages_per_s",
    "max_subject_bytes_per_s",
    "max_subject_changes_per_s",
    "max_rate_limited_per_min",
    "max_channels",
    "max_channel_bytes",
    "max_channel_rows",
];

/// Whether a reload puts the setting into effect. All that are not named here need a restart.
pub fn is_reloaded(setting: &str) -> bool {
    setting == "log" || LIMITS.contains(&setting)
}

/// Reads the configuration from where it was read at the start.
type Read = dyn Fn() -> Result<Config, ConfigError> + Send + Sync;

/// What a reload changes.
pub struct Reloader {
    read: Box<Read>,
    server: Arc<Server>,
    tls: Option<Arc<Tls>>,
    /// What is in effect: as at the start, but for what reloads have changed.
    config: Mutex<Config>,
}

impl Reloader {
    /// A reloader of a server that runs with `config`; `read` gives it anew, and may block on the disk.
    pub fn new(
        config: Config,
        read: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
        server: Arc<Server>,
        tls: Option<Arc<Tls>>,
    ) -> Arc<Self> {
        Arc::new(Reloader { read: Box::new(read), server, tls, config: Mutex::new(config) })
    }

    /// Reloads at each of the signals, one after the other; those that come during one are the next one together. Ends when
    /// it was the terminal with the log that has hung up: then nobody asks for a reload, and nothing can be logged.
    pub async fn run(self: Arc<Self>, mut hangups: Signal) {
        let on_terminal = io::stderr().is_terminal();
        while hangups.recv().await.is_some() {
            if on_terminal && !io::stderr().is_terminal() {
                // A line that cannot be written would be a panic.
                let _ = logging::set_filter("off");
                return;
            }
            let reloader = self.clone();
            // A panic has been logged, and the next one may do better.
            let _ = tokio::task::spawn_blocking(move || reloader.reload()).await;
        }
    }

    /// Reads all again. A configuration that cannot be taken changes nothing at all; keys, or a certificate, that cannot be used stay
    /// as they were. Blocks on the disk.
    pub fn reload(&self) {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let new = match self.read() {
            Ok(new) => new,
            Err(problem) => {
                tracing::error!("nothing is reloaded, all stays as it was: {problem}");
                return;
            }
        };
        let (now, later): (Vec<_>, Vec<_>) =
            config.differing(&new).into_iter().partition(|setting| is_reloaded(setting));
        let mut changed: Vec<String> =
            now.iter().map(|name| format!("{name}: {} -> {}", config.toml(name), new.toml(name))).collect();
        now.iter().for_each(|name| config.take(name, &new));
        self.server.limits().settings.replace(Settings::from(&*config));
        self.server.metrics().describe(&config);

        // Of the two filters, that one which lets more through is in effect while all this is told.
        let set_filter = || match logging::set_filter(&config.log) {
            Ok(()) => {}
            Err(e) => tracing::error!("log: {e}"),
        };
        let silent = !tracing::enabled!(tracing::Level::INFO);
        if silent {
            set_filter();
        }
        let keys = self.server.auth().map(|auth| auth.reload()).transpose();
        let certificate = self.tls.as_ref().map(|tls| tls.reload()).transpose();
        let failed = keys.is_err() || certificate.is_err();
        if let Ok(Some(keys)) = keys
            && (keys.added, keys.removed) != (0, 0)
        {
            changed.push(format!("keys: {keys}"));
        }
        match certificate {
            Ok(Some(tls::Reloaded::Changed(info))) => changed.push(format!("certificate: {info}")),
            Ok(_) => {}
            Err(e) => tracing::error!("the TLS certificate stays as it was, its files cannot be used: {e}"),
        }
        if changed.is_empty() && later.is_empty() && !failed {
            tracing::info!("reloaded: nothing has changed");
        }
        changed.iter().for_each(|change| tracing::info!("reloaded: {change}"));
        for name in later {
            let (old, new) = (config.toml(name), new.toml(name));
            tracing::warn!("not reloaded: {name}: {old} -> {new} needs a restart");
        }
        if !silent {
            set_filter();
        }
    }

    /// The configuration as it is to be, or what is wrong with it, in one line.
    fn read(&self) -> Result<Config, String> {
        let config =
            (self.read)().map_err(|e| e.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" "))?;
        logging::check_filter(&config.log).map_err(|e| format!("log: {e}"))?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;

    /// The configuration with another value of a setting.
    fn with_another(setting: &str) -> Config {
        let values = [
            "7",
            "65536",
            "true",
            "debug",
            "normal",
            "json",
            "plain",
            "sled",
            "10.0.0.0/8",
            "https://a.example",
            "redis://127.0.0.1",
        ];
        let with = |value: &&str| {
            let mut config = Config::default();
            config.set(setting, value).ok().map(|()| config)
        };
        let differs = |config: &Config| config.differing(&Config::default()) == [setting];
        values.iter().filter_map(with).find(differs).unwrap_or_else(|| panic!("no other value for {setting}"))
    }

    #[test]
    fn what_is_reloaded_is_what_the_limits_take() {
        let default = Settings::from(&Config::default());
        let taken = |name: &&str| Settings::from(&with_another(name)) != default;
        let names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        assert_eq!(names.into_iter().filter(taken).collect::<Vec<_>>(), LIMITS);
    }

    #[test]
    fn a_setting_is_taken_over_by_its_name() {
        for setting in SETTINGS {
            let (mut config, other) = (Config::default(), with_another(setting.name));
            config.take(setting.name, &other);
            assert_eq!(config, other);
        }
    }
}
