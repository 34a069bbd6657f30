//! The `causeway` command: arguments, allocator, wiring.

mod tools;

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use causeway::admin::commands::Commands;
use causeway::admin::control::Control;
use causeway::admin::http::{AdminListener, Token};
use causeway::backup::check_restored;
use causeway::config::{Config, ENV_CONFIG, SETTINGS, flag};
use causeway::server::{Server, resolve};
use causeway_storage::{Schema, schema};
use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::signal::unix::{SignalKind, signal};

// Slabs are made on one thread and freed on another: glibc's allocator takes a lock for that, mimalloc does not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = command().get_matches();
    let (name, arguments) = arguments.subcommand().unwrap_or(("serve", &arguments));
    match load(arguments).map_err(|e| e.to_string()).and_then(|config| {
        if arguments.get_flag("print-config") {
            print!("{}", config.to_toml());
            return Ok(true);
        }
        match name {
            "serve" => serve(config).map(|()| true),
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
                Arg::new(setting.name)
                    .long(setting.name.replace('_', "-"))
                    .value_name("VALUE")
                    .help(setting.about.trim())
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

fn serve(config: Config) -> Result<(), String> {
    let filter =
        tracing_subscriber::EnvFilter::try_new(&config.log).map_err(|e| format!("{}: {e}", flag("log")))?;
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(terminal).with_writer(std::io::stderr).init();
    let schema = load_schema(&config)?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.io_thread_count())
        .max_blocking_threads(config.page_readers + DECODE_THREADS)
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start: {e}"))?;
    let result = runtime.block_on(run(config, schema));
    // What has not ended within the drain is given up.
    runtime.shutdown_background();
    result
}

/// Reads the application's schema, if there is to be one.
fn load_schema(config: &Config) -> Result<Option<Arc<Schema>>, String> {
    let Some(path) = &config.schema else { return Ok(None) };
    let mut text = String::new();
    // One byte more than may be is enough to be told so.
    let read = File::open(path)
        .and_then(|file| file.take(schema::MAX_FILE_BYTES as u64 + 1).read_to_string(&mut text));
    read.map_err(|e| format!("{} {}: {e}", flag("schema"), path.display()))?;
    let schema = Schema::parse(&text, &path.to_string_lossy(), config.key_format);
    schema.map(|schema| Some(Arc::new(schema))).map_err(|e| e.to_string())
}

/// The schema that the data directory was last served with, in the data directory.
const LAST_SCHEMA: &str = "causeway.schema.sql";

/// Notes the schema in the data directory, unless what is there was made with one that it does not follow.
fn follow_schema(data: &Path, schema: &Schema) -> Result<(), String> {
    let path = data.join(LAST_SCHEMA);
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let format = format!("-- key_format = {}", schema.key_format());
    let text = format!("{format}\n{}", schema.to_sql());
    match fs::read_to_string(&path) {
        Ok(last) if last == text => return Ok(()),
        Ok(last) if last.lines().next() != Some(&format) => {
            let last = last.lines().next().unwrap_or_default().trim_start_matches("-- ").to_owned();
            return Err(format!("{}: the data directory was served with {last}", flag("key_format")));
        }
        Ok(last) => {
            let last = Schema::parse(&last, &path.to_string_lossy(), schema.key_format());
            schema
                .follows(&last.map_err(|e| e.to_string())?)
                .map_err(|e| format!("{}: {e}", flag("schema")))?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    let unfinished = path.with_extension("sql.unfinished");
    fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, &path)).map_err(failed)
}

/// Blocking threads beside those that read pages: large messages are decoded there.
const DECODE_THREADS: usize = 2;

async fn run(config: Config, schema: Option<Arc<Schema>>) -> Result<(), String> {
    let (server, listener, address) =
        Server::bind(&config).map_err(|e| format!("cannot listen on {}: {e}", config.listen))?;
    survive_file_limit().map_err(|e| format!("cannot handle signals: {e}"))?;
    let stop = stop_signal().map_err(|e| format!("cannot wait for signals: {e}"))?;
    let admin = match &config.admin_listen {
        Some(listen) => Some(admin_listener(&config, listen).await?),
        None => None,
    };
    let running = tokio::spawn(server.clone().run(listener, stop));

    let backend = causeway_storage::backend(&config.store).map_err(|e| e.to_string())?;
    let options = config.store_options(schema.clone());
    check_restored(&config.data)?;
    let store = blocking(move || (backend.open)(&options)).await?;
    if let (Some(schema), true) = (&schema, backend.persistent) {
        follow_schema(&config.data, schema)?;
    }
    let relay = server.open(store.clone(), schema).map_err(|e| format!("cannot start: {e}"))?;
    let commands = Commands::new(store.clone(), relay);
    let control = if backend.persistent {
        let started = Control::start(&config.data, commands.clone());
        Some(started.map_err(|e| format!("cannot listen for commands in {}: {e}", config.data.display()))?)
    } else {
        None
    };
    println!("{}", banner(&config, address, admin.as_ref().map(|admin| admin.address)));
    let admin = admin.map(|admin| admin.serve(commands));

    let in_time = running.await.map_err(|e| format!("the server has failed: {e}"))?;
    if !in_time {
        tracing::warn!("some connections did not end within drain_timeout");
    }
    drop((control, admin));
    let drain_timeout = Duration::from_millis(config.drain_timeout_ms);
    let closed = blocking(move || {
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

async fn admin_listener(config: &Config, listen: &str) -> Result<AdminListener, String> {
    let failed = |e| format!("cannot listen on {listen} (admin_listen): {e}");
    // Configurations without it are not taken.
    let token = Token::read(config.admin_token_file.as_deref().unwrap_or(Path::new("")))?;
    AdminListener::bind(resolve(listen).map_err(failed)?, token).await.map_err(failed)
}

/// Runs what may block on the disk.
async fn blocking<T: Send + 'static, E: Display + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|e| format!("a thread has failed: {e}"))?;
    done.map_err(|e| e.to_string())
}

fn banner(config: &Config, address: SocketAddr, admin: Option<SocketAddr>) -> String {
    let data = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
    let admin =
        admin.map_or_else(String::new, |admin| format!("  operators   http://{admin}/admin/channels\n"));
    format!(
        "Causeway {version}\n  \
         listening   ws://{address}/?channel=NAME\n{admin}  \
         store       {store}, durability {durability}\n  \
         data        {data}\n  \
         try it      npx wscat -c 'ws://{address}/?channel=test-channel'",
        version = env!("CARGO_PKG_VERSION"),
        store = config.store,
        durability = config.durability,
        data = data.display(),
    )
}

/// Becomes ready at the first SIGINT or SIGTERM; the second ends the process at once.
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
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
