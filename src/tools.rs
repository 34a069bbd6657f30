//! The commands beside `serve`. They ask the server that has the data directory open, or open it themselves if there is none.

mod check_config;
mod health;
mod report;
mod token;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use causeway::admin::{
    Alone, Connections, Line, OpenStore, ROWS_DEFAULT, ROWS_MAX, Request, control, execute,
};
use causeway::backup::{RestoreOptions, check_restored, restore};
use causeway::config::Config;
use causeway::schema_file;
use causeway_storage::{Backend, ChangeStore, Schema};
use clap::{Arg, ArgAction, ArgMatches, Command};

use report::Report;

/// The commands, each with the server's settings as well.
pub(crate) fn commands(settings: impl Fn(Command) -> Command) -> Vec<Command> {
    let json = || {
        Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .help("Lines of JSON, for scripts, instead of a table")
    };
    let channels = || Arg::new("channel").action(ArgAction::Append).value_name("CHANNEL");
    let dir = |name: &'static str| {
        Arg::new(name).long(name).value_name("DIR").required(true).value_parser(clap::value_parser!(PathBuf))
    };
    let backup = Command::new("backup")
        .about("Copy all channels into a directory, while the server runs or while it does not")
        .arg(dir("to").help("Where to; it must be empty or not there"))
        .arg(json());
    let restore = Command::new("restore")
        .about("Restore channels from a backup; the server must not run")
        .arg(dir("from").help("A backup"))
        .arg(channels().long("channel").help("Only this channel; may be given several times"))
        .arg(
            Arg::new("replace")
                .long("replace")
                .action(ArgAction::SetTrue)
                .help("Remove what is there of these channels first"),
        )
        .arg(Arg::new("keep-site-ids").long("keep-site-ids").action(ArgAction::SetTrue).help(
            "Keep the channels' site ids. Right only if nothing was written since the backup; else clients that keep \
             a cursor for each site id miss what is written from now on",
        ))
        .arg(json());
    let verify = Command::new("verify")
        .about("Check channels: digests, indexes, counts; exit 1 if one is not as it has to be")
        .arg(channels().help("Which; all if none is named"))
        .arg(json());
    let channel = || Arg::new("channel").value_name("CHANNEL").required(true).help("Its name");
    let list =
        Command::new("channels").about("Show every channel: version, cells, connections, size").arg(json());
    let inspect = Command::new("inspect")
        .about("Show what a channel holds: version, digest, tables, peers")
        .arg(channel())
        .arg(json());
    let rows = Command::new("rows")
        .about("Show the rows of a table as users see them: those that live, ordered by key")
        .arg(channel())
        .arg(Arg::new("table").value_name("TABLE").required(true).help("Its name"))
        .arg(
            Arg::new("limit")
                .long("limit")
                .value_name("N")
                .default_value(ROWS_DEFAULT.to_string())
                .value_parser(clap::value_parser!(u64).range(1..=ROWS_MAX as u64))
                .help("At most so many rows; fewer if they are large"),
        )
        .arg(
            Arg::new("after")
                .long("after")
                .value_name("KEY")
                .help("Only rows above this key, as it is stored"),
        )
        .arg(json());
    let delete = Command::new("delete")
        .about("Remove a channel; its clients connect again and find a new, empty one")
        .arg(channel())
        .arg(Arg::new("yes").long("yes").action(ArgAction::SetTrue).help("Do not ask for the name again"))
        .arg(json());
    let rebuild = Command::new("rebuild")
        .about("Make the application's tables of a channel anew from its cells; clients stay connected")
        .arg(channel())
        .arg(json());
    let check_config = Command::new("check-config")
        .about("Check the configuration, and the files that it names, without starting anything; exit 1 if it is wrong")
        .arg(json());
    let health = Command::new("health")
        .about("Ask the running server, at the address of `listen`, whether it lives; exit 1 if it does not answer")
        .arg(
            Arg::new("ready")
                .long("ready")
                .action(ArgAction::SetTrue)
                .help("Ask whether it takes clients in; exit 1 while it starts or drains"),
        );
    [backup, restore, verify, list, inspect, rows, delete, rebuild, token::command(), check_config, health]
        .map(settings)
        .into()
}

/// Runs the command of that name; `false` if something was not as it has to be.
pub(crate) fn run(name: &str, arguments: &ArgMatches, config: &Config) -> Result<bool, String> {
    if name == "token" {
        return token::run(arguments, config).map(|()| true);
    }
    if name == "health" {
        let told = health::ask(config, if arguments.get_flag("ready") { "/readyz" } else { "/healthz" })?;
        let _ = writeln!(std::io::stdout(), "{told}");
        return Ok(true);
    }
    let mut report = Report::new(arguments.get_flag("json"));
    if name == "check-config" {
        check_config::check(config, &mut |line| report.tell(line));
        return report.end();
    }
    if !backend(config)?.persistent {
        return Err(format!("the {} store keeps nothing on a disk that {name} could use", config.store));
    }
    let text = |name| arguments.get_one::<String>(name).cloned();
    let channels = || arguments.get_many("channel").unwrap_or_default().cloned().collect::<Vec<String>>();
    let channel = || text("channel").expect("clap requires it");
    let path = |name| arguments.get_one::<PathBuf>(name).expect("clap requires it").clone();
    let request = match name {
        "backup" => {
            let to = std::path::absolute(path("to")).map_err(|e| format!("--to: {e}"))?;
            Request::Backup { to }
        }
        "verify" => Request::Verify { channels: channels() },
        "channels" => Request::Channels,
        "inspect" => Request::Inspect { channel: channel() },
        "rows" => Request::Rows {
            channel: channel(),
            table: text("table").expect("clap requires it"),
            limit: *arguments.get_one::<u64>("limit").expect("it has a default") as usize,
            after: text("after"),
        },
        "delete" => {
            if !arguments.get_flag("yes") {
                confirm(&channel())?;
            }
            Request::Delete { channel: channel() }
        }
        "rebuild" => Request::Rebuild { channel: channel() },
        _ => {
            let options = RestoreOptions {
                channels: channels(),
                replace: arguments.get_flag("replace"),
                keep_site_ids: arguments.get_flag("keep-site-ids"),
            };
            let store = open(config, None)?;
            schema_file::note_unchecked(&config.data)?;
            let from = path("from");
            restore(&from, &config.data, store.as_ref(), &options, &mut |outcome| {
                report.tell(outcome.into())
            })
            .map_err(|e| e.to_string())?;
            report.tell(Line::End);
            return report.end();
        }
    };
    ask(config, &request, &mut report)?;
    report.end()
}

/// Has the name of a channel that is to be removed typed once more.
fn confirm(channel: &str) -> Result<(), String> {
    if !std::io::stdin().is_terminal() {
        return Err("delete asks for the name again, and there is no terminal to ask on; give --yes".into());
    }
    eprint!("This removes all of channel {channel:?}. Type its name to go on: ");
    let _ = std::io::stderr().flush();
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed).map_err(|e| format!("cannot read the name: {e}"))?;
    if typed.trim_end_matches(['\r', '\n']) == channel {
        return Ok(());
    }
    Err("that is not its name; nothing was removed".into())
}

fn ask(config: &Config, request: &Request, report: &mut Report) -> Result<(), String> {
    let asked = control::ask(&config.data, request, &mut |line| report.tell(line));
    if asked.map_err(|e| format!("the server in {}: {e}", config.data.display()))? {
        return Ok(());
    }
    if !config.data.is_dir() {
        return Err(format!("data directory {}: there is none", config.data.display()));
    }
    check_restored(&config.data)?;
    let schema = match request {
        Request::Inspect { .. } | Request::Rebuild { .. } => schema_file::load(config)?,
        _ => None,
    };
    let store = open(config, schema.clone())?;
    if let (Some(schema), Request::Rebuild { .. }) = (&schema, request) {
        schema_file::follow(&config.data, schema)?;
    }
    let open = OpenStore {
        store: store.as_ref(),
        backend: backend(config)?,
        schema: schema.as_deref(),
        connections: &Connections::default(),
        writer: &Alone(store.clone()),
    };
    execute(&open, request, &mut |line| {
        report.tell(line);
        true
    });
    store.close().map_err(|e| e.to_string())
}

fn open(config: &Config, schema: Option<Arc<Schema>>) -> Result<Arc<dyn ChangeStore>, String> {
    (backend(config)?.open)(&config.store_options(schema)).map_err(|e| e.to_string())
}

fn backend(config: &Config) -> Result<&'static Backend, String> {
    causeway_storage::backend(&config.store).map_err(|e| e.to_string())
}
