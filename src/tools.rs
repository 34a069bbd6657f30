//! The commands beside `serve`: backup, restore, verify. They ask the server that has the data directory open, or open it
//! themselves if there is none.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use causeway::admin::{Line, Request, control, execute};
use causeway::backup::{RestoreOptions, check_restored, restore};
use causeway::config::Config;
use causeway_storage::{ChangeStore, StoreOptions};
use clap::{Arg, ArgAction, ArgMatches, Command};

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
    [backup, restore, verify].map(settings).into()
}

/// Runs the command of that name; `false` if something was not as it has to be.
pub(crate) fn run(name: &str, arguments: &ArgMatches, config: &Config) -> Result<bool, String> {
    if !causeway_storage::backend(&config.store).map_err(|e| e.to_string())?.persistent {
        return Err(format!("the {} store keeps nothing that there could be a {name} of", config.store));
    }
    let channels = || arguments.get_many("channel").unwrap_or_default().cloned().collect::<Vec<String>>();
    let path = |name| arguments.get_one::<PathBuf>(name).expect("clap requires it").clone();
    let mut report = Report::new(arguments.get_flag("json"));
    match name {
        "backup" => {
            let to = std::path::absolute(path("to")).map_err(|e| format!("--to: {e}"))?;
            ask(config, &Request::Backup { to }, &mut report)?;
        }
        "verify" => ask(config, &Request::Verify { channels: channels() }, &mut report)?,
        _ => {
            let options = RestoreOptions {
                channels: channels(),
                replace: arguments.get_flag("replace"),
                keep_site_ids: arguments.get_flag("keep-site-ids"),
            };
            let store = open(config)?;
            let from = path("from");
            restore(&from, &config.data, store.as_ref(), &options, &mut |outcome| {
                report.tell(outcome.into())
            })
            .map_err(|e| e.to_string())?;
            report.tell(Line::End);
        }
    }
    report.end()
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
    let store = open(config)?;
    execute(store.as_ref(), request, &mut |line| {
        report.tell(line);
        true
    });
    store.close().map_err(|e| e.to_string())
}

fn open(config: &Config) -> Result<Arc<dyn ChangeStore>, String> {
    let backend = causeway_storage::backend(&config.store).map_err(|e| e.to_string())?;
    let options = StoreOptions {
        dir: config.data.clone(),
        durability: config.durability,
        cache_bytes: config.cache_bytes,
        schema: None,
    };
    (backend.open)(&options).map_err(|e| e.to_string())
}

/// What is printed: a line as it comes, for people or for scripts, and what it came to.
struct Report {
    json: bool,
    good: usize,
    bad: usize,
    ended: bool,
}

impl Report {
    fn new(json: bool) -> Self {
        Report { json, good: 0, bad: 0, ended: false }
    }

    fn tell(&mut self, line: Line) {
        let text = match (&line, self.json) {
            (_, true) => serde_json::to_string(&line).unwrap_or_else(|e| e.to_string()),
            (Line::Ok { channel, version, digest, cells }, _) => {
                format!("ok       {channel:<24} version {version:>8}  cells {cells:>8}  digest {digest}")
            }
            (Line::Problem { channel, problem }, _) => {
                format!("PROBLEM  {:<24} {problem}", channel.as_deref().unwrap_or("-"))
            }
            (Line::End, _) => String::new(),
        };
        match line {
            Line::Ok { .. } => self.good += 1,
            Line::Problem { .. } => self.bad += 1,
            Line::End => self.ended = true,
        }
        if !text.is_empty() {
            // Nobody may be reading any more; what there is to do is done all the same.
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }

    fn end(self) -> Result<bool, String> {
        if !self.ended {
            return Err("the server went away before all was done".into());
        }
        if !self.json {
            let problems = if self.bad == 1 { "problem" } else { "problems" };
            let _ = writeln!(std::io::stdout(), "{} ok, {} {problems}", self.good, self.bad);
        }
        Ok(self.bad == 0)
    }
}
