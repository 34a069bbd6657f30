//! The `causeway` command: arguments, allocator, wiring.

mod allocator;
mod tools;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use causeway::admin::commands::Commands;
use causeway::admin::control::Control;
use causeway::admin::fit::warn_of_all;
use causeway::admin::http::{AdminListener, Token};
use causeway::backup::check_restored;
use causeway::config::{Config, ENV_CONFIG, SETTINGS, flag};
use causeway::logging;
use causeway::metrics::runtime;
use causeway::reload::Reloader;
use causeway::schema_file::{self, Follows};
use causeway::server::{Server, resolve};
use causeway::tls::Tls;
use causeway_storage::{ChangeStore, Schema};
use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

fn main() -> ExitCode {
    let arguments = command().get_matches();
    let (name, arguments) = arguments.subcommand().unwrap_or(("serve", &arguments));
    match load(arguments).map_err(|e| e.to_string()).and_then(|config| {
        if arguments.get_flag("print-config") {
            print!("{}", config.to_toml());
            return Ok(true);
        }
        match name {
            "serve" => serve(config, arguments).map(|()| true),
            name => tools::run(name, arguments, &config),
        }
    }) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("causeway: {e}");
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    let options = |command: Command| {
        command
            .arg(
                Arg::new("config")
                    .long("config")
                    .value_name("FILE")
                    .env(ENV_CONFIG)
                    .help("A configuration file in TOML"),
            )
            .arg(
                Arg::new("print-config")
                    .long("print-config")
                    .action(ArgAction::SetTrue)
                    .help("Print the effective configuration, with a comment per key, and exit"),
            )
            .args(SETTINGS.iter().map(|setting| {
                let argument = Arg::new(setting.name)
                    .long(setting.name.replace('_', "-"))
                    .value_name("VALUE")
                    .help(setting.about.trim());
                match setting.is_switch {
                    true => argument.num_args(0..=1).default_missing_value("true"),
                    false => argument,
                }
            }))
    };
    options(Command::new("causeway"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("A relay for local-first apps: merges CRDT changes, keeps them safe, forwards them at once")
        .after_help("Every setting is also read from the environment, as CAUSEWAY_… in upper case, and from --config.")
        .args_conflicts_with_subcommands(true)
        .subcommand(options(Command::new("serve").about("Run the relay; the same as no command at all")))
        .subcommands(tools::commands(options))
}

fn load(arguments: &ArgMatches) -> Result<Config, causeway::config::ConfigError> {
    let file = arguments.get_one::<String>("config").map(std::path::Path::new);
    let flags = SETTINGS.iter().filter_map(|setting| {
        Some((setting.name.to_owned(), arguments.get_one::<String>(setting.name)?.clone()))
    });
    Config::load(file, std::env::vars(), flags)
}

fn serve(config: Config, arguments: &ArgMatches) -> Result<(), String> {
    logging::start(&config.log, config.log_format).map_err(|e| format!("{}: {e}", flag("log")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.io_thread_count())
        .max_blocking_threads(config.page_readers + DECODE_THREADS)
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start: {e}"))?;
    // Before anything that takes time: from here on SIGHUP does not end the process.
    let hangups = {
        let _runtime = runtime.enter();
        signal(SignalKind::hangup()).map_err(|e| format!("cannot wait for signals: {e}"))?
    };
    let schema = schema_file::load(&config)?;
    let tls = Tls::load(&config).map_err(|e| e.to_string())?;
    for warning in tls.iter().flat_map(|tls| tls.warnings()) {
        tracing::warn!("{warning}");
    }
    raise_file_limit();
    let reload = Reload { arguments: arguments.clone(), hangups };
    let result = runtime.block_on(run(config, schema, tls, reload));
    // What has not ended within the drain is given up, and says so.
    runtime.shutdown_timeout(LAST_WORDS);
    result
}

/// How long what is given up at the end has to say so; only a disk that hangs takes longer.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Blocking threads beside those that read pages: large messages are decoded there.
const DECODE_THREADS: usize = 2;

/// When the configuration is read again, and from where.
struct Reload {
    arguments: ArgMatches,
    hangups: Signal,
}

async fn run(
    config: Config,
    schema: Option<Arc<Schema>>,
    tls: Option<Arc<Tls>>,
    reload: Reload,
) -> Result<(), String> {
    let (server, listener, address) = Server::bind(&config, tls.clone()).map_err(|e| e.to_string())?;
    let Reload { arguments, hangups } = reload;
    let reloader = Reloader::new(config.clone(), move || load(&arguments), server.clone(), tls.clone());
    let (leave, terminal_closed) = oneshot::channel();
    tokio::spawn(async move {
        reloader.run(hangups).await;
        let _ = leave.send(());
    });
    survive_file_limit().map_err(|e| format!("cannot handle signals: {e}"))?;
    let stop = stop_signal(terminal_closed).map_err(|e| format!("cannot wait for signals: {e}"))?;
    let admin = match &config.admin_listen {
        Some(listen) => Some(admin_listener(&config, listen).await?),
        None => None,
    };
    if let Some(tls) = &tls {
        tokio::spawn(tls.clone().watch(server.metrics()));
    }
    let running = tokio::spawn(server.clone().run(listener, stop));
    server.metrics().watch_allocator(allocator::committed_bytes);
    tokio::spawn(runtime::watch(server.metrics()));

    let backend = causeway_storage::backend(&config.store).map_err(|e| e.to_string())?;
    let options = config.store_options(schema.clone());
    check_restored(&config.data)?;
    let store = blocking(move || (backend.open)(&options)).await?;
    let unchecked = match &schema {
        _ if !backend.persistent => false,
        Some(schema) => schema_file::follow(&config.data, schema)? != Follows::Same,
        None => {
            schema_file::note_unchecked(&config.data)?;
            false
        }
    };
    let relay = server.open(store.clone(), schema.clone()).map_err(|e| format!("cannot start: {e}"))?;
    let commands = Commands::new(store.clone(), backend, relay);
    let control = if backend.persistent {
        let started = Control::start(&config.data, commands.clone());
        Some(started.map_err(|e| format!("cannot listen for commands in {}: {e}", config.data.display()))?)
    } else {
        None
    };
    let keys = server.auth().map(|auth| auth.state().0);
    if keys.is_none() && !address.ip().to_canonical().is_loopback() {
        tracing::warn!("everybody who reaches {address} may read and write everything (insecure_no_auth)");
    }
    println!(
        "{}",
        banner(&config, address, keys, admin.as_ref().map(|admin| admin.address), schema.as_deref())
    );
    tracing::info!(
        %address,
        version = env!("CARGO_PKG_VERSION"),
        store = config.store,
        durability = %config.durability,
        data = %config.data.display(),
        "started",
    );
    if let (Some(schema), true) = (schema, unchecked) {
        look_for_unfit_cells(store.clone(), schema, &config.data)
            .map_err(|e| format!("cannot start a thread: {e}"))?;
    }
    let admin = admin.map(|admin| admin.serve(commands, tls.filter(|_| config.admin_tls)));

    let in_time = running.await.map_err(|e| format!("the server has failed: {e}"))?;
    if !in_time {
        tracing::warn!("some connections did not end within drain_timeout");
    }
    drop((control, admin));
    let drain_timeout = Duration::from_millis(config.drain_timeout_ms);
    let closed = blocking(move || {
        server.stop_bus();
        if let Some(relay) = server.relay() {
            relay.readers.close();
            relay.shards.stop();
        }
        store.close()
    });
    match tokio::time::timeout(drain_timeout, closed).await {
        Ok(closed) => closed?,
        Err(_) => tracing::warn!("the store did not close in time; nothing acked is lost"),
    }
    tracing::info!("stopped");
    Ok(())
}

/// Holds the cells that are there against a schema that they were not checked against, on a thread of its own: it may take long.
/// If it does not come to its end, the next start begins anew.
fn look_for_unfit_cells(
    store: Arc<dyn ChangeStore>,
    schema: Arc<Schema>,
    data: &Path,
) -> std::io::Result<()> {
    let data = data.to_owned();
    let look = move || {
        warn_of_all(store.as_ref(), &schema);
        if let Err(e) = schema_file::note_checked(&data, &schema) {
            tracing::warn!("{e}");
        }
    };
    std::thread::Builder::new().name("fit".into()).spawn(look).map(drop)
}

async fn admin_listener(config: &Config, listen: &str) -> Result<AdminListener, String> {
    let failed = |e| format!("cannot listen on {listen} (admin_listen): {e}");
    let address = resolve(listen).map_err(failed)?;
    if !config.admin_tls && !address.ip().is_loopback() {
        tracing::warn!(
            "admin_listen {listen}: operators show their token there in plain; set admin_tls, or listen on loopback"
        );
    }
    // Configurations without it are not taken.
    let token = Token::read(config.admin_token_file.as_deref().unwrap_or(Path::new("")))?;
    AdminListener::bind(address, token).await.map_err(failed)
}

/// Runs what may block on the disk.
async fn blocking<T: Send + 'static, E: Display + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|e| format!("a thread has failed: {e}"))?;
    done.map_err(|e| e.to_string())
}

/// `keys` is how many there are, where clients have to show tokens.
fn banner(
    config: &Config,
    address: SocketAddr,
    keys: Option<usize>,
    admin: Option<SocketAddr>,
    schema: Option<&Schema>,
) -> String {
    let data = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
    let s = |tls| if tls { "s" } else { "" };
    let admin = admin.map_or_else(String::new, |admin| {
        format!("  operators   http{}://{admin}/admin/channels\n", s(config.admin_tls))
    });
    let schema = match (&config.schema, schema) {
        (Some(path), Some(schema)) => {
            format!("  schema      {}: {}\n", path.display(), schema_file::describe(schema))
        }
        _ => String::new(),
    };
    let (access, header) = match keys {
        Some(keys) => (format!("by token; keys: {keys}"), "-H 'Authorization: Bearer TOKEN' "),
        None => ("everybody who reaches the address, to everything".into(), ""),
    };
    let node = match (&config.node, &config.redis) {
        // Without its password, as it is always shown.
        (Some(node), Some(redis)) => format!("  node        {node}, with others over {redis}\n"),
        _ => String::new(),
    };
    format!(
        "Causeway {version}\n  \
         listening   ws{s}://{address}/?channel=NAME\n{admin}{node}  \
         store       {store}, durability {durability}\n  \
         data        {data}\n{schema}  \
         access      {access}\n  \
         try it      npx wscat {header}-c 'ws{s}://{address}/?channel=test-channel'",
        version = env!("CARGO_PKG_VERSION"),
        s = s(config.tls_cert.is_some()),
        store = config.store,
        durability = config.durability,
        data = data.display(),
    )
}

/// Becomes ready at the first SIGINT or SIGTERM, or when the terminal was closed; the second ends the process at once.
fn stop_signal(
    terminal_closed: oneshot::Receiver<()>,
) -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, Ok(()) = terminal_closed => {} }
        tracing::info!("stopping; a second signal stops at once");
        tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            std::process::exit(130);
        });
    })
}

/// Where files have a limit (`LimitFSIZE`, `ulimit -f`), a write beyond it is to fail as on a full disk, not to end the
/// process.
fn survive_file_limit() -> std::io::Result<()> {
    /// Linux, macOS and the BSDs agree on it.
    const SIGXFSZ: i32 = 25;
    // Handled once, it stays so.
    signal(SignalKind::from_raw(SIGXFSZ)).map(drop)
}

/// A connection is a file, and so is an open channel: as many as the system lets us have.
fn raise_file_limit() {
    if let Err(e) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!("cannot raise the limit of open files: {e}");
    }
}
