//! Who is compared: our server with a store and a durability level, a server that a command starts, one that runs somewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use super::workload::Workload;
use crate::identity::Identity;
use crate::options::{Program, Scenario, Serving};
use crate::scenario::server::{Launch, find};

/// The store that keeps nothing, and so has no durability levels.
const MEMORY: &str = "memory";

/// One that is compared.
#[derive(Debug, Clone)]
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Causeway(Serving),
    /// A shell command with `{port}` and `{data}`.
    Command(String),
    /// With what it says of itself.
    Url(String, Option<Identity>),
}

/// What the report says of a contender.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Described {
    pub(crate) name: String,
    /// `causeway`, `command` or `url`.
    pub(crate) kind: &'static str,
    pub(crate) store: Option<String>,
    pub(crate) durability: Option<String>,
    /// What the server says of its version; null where it cannot be asked.
    pub(crate) version: Option<String>,
    /// The program, the command, or the URL.
    pub(crate) at: String,
    pub(crate) arguments: Vec<String>,
}

impl Described {
    /// What its acks promise, in words.
    pub(crate) fn promise_said(&self) -> String {
        match (&self.store, &self.durability) {
            (Some(_), Some(durability)) => format!("durability {durability}"),
            (Some(_), None) => "no durability levels: it keeps nothing".into(),
            (None, _) => "settings not known".into(),
        }
    }
}

/// Only those who promise the same can be better or worse than each other.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Promise {
    Durability(String),
    /// It keeps nothing: a yardstick, which is not ranked.
    Nothing,
    /// Nobody here knows, so it is ranked with all.
    #[default]
    Unknown,
}

impl Contender {
    /// Our server, once for each store and level; memory once.
    pub(crate) fn of_stores(program: &Program, stores: &[String], levels: &[String]) -> Vec<Self> {
        let one = |name: String, store: &str, level: &str| Self {
            name,
            kind: Kind::Causeway(Serving {
                store: store.into(),
                durability: level.into(),
                program: program.clone(),
            }),
        };
        let of_store = |store: &String| match store.as_str() {
            MEMORY => vec![one(MEMORY.into(), MEMORY, "off")],
            store => levels.iter().map(|level| one(format!("{store}/{level}"), store, level)).collect(),
        };
        stores.iter().flat_map(of_store).collect()
    }

    /// From `NAME=COMMAND`.
    pub(crate) fn of_command(text: &str) -> Result<Self, String> {
        let (name, command) = named("--server-cmd", text, "COMMAND")?;
        if !command.contains("{port}") {
            return Err(format!(
                "--server-cmd {name}: the command must have {{port}} in it, where the server is to listen"
            ));
        }
        Ok(Self { name, kind: Kind::Command(command) })
    }

    /// From `NAME=URL`, or a URL, which is its own name.
    pub(crate) fn of_url(text: &str) -> Result<Self, String> {
        let (name, url) = match text.starts_with("ws://") {
            true => (text.to_owned(), text.to_owned()),
            false => named("--url", text, "ws://HOST:PORT/")?,
        };
        crate::target::Target::parse(&url)?;
        Ok(Self { name, kind: Kind::Url(url, None) })
    }

    /// Asks one that runs already what it is.
    pub(crate) async fn ask(&mut self) {
        if let Kind::Url(url, identity) = &mut self.kind {
            *identity = Identity::ask(url).await;
        }
    }

    /// How it is started on this data directory; None if it runs already.
    pub(crate) fn launch(&self, data: &Path) -> Result<Option<Launch>, String> {
        match &self.kind {
            Kind::Causeway(serving) => Launch::new(serving, data.to_owned(), &[]).map(Some),
            Kind::Command(command) => Ok(Some(Launch::command(command, data.to_owned()))),
            Kind::Url(..) => Ok(None),
        }
    }

    /// Whether what it commits outlives its process, as far as is known.
    pub(crate) fn keeps(&self) -> bool {
        self.identity().is_none_or(|identity| identity.store != MEMORY)
    }

    /// What is known of it.
    fn identity(&self) -> Option<Identity> {
        match &self.kind {
            Kind::Causeway(serving) => Some(Identity::of(serving)),
            Kind::Command(_) => None,
            Kind::Url(_, identity) => identity.clone(),
        }
    }

    /// What it promises of an acked change.
    pub(crate) fn promise(&self) -> Promise {
        match self.identity() {
            None => Promise::Unknown,
            Some(identity) if identity.store == MEMORY => Promise::Nothing,
            Some(identity) => Promise::Durability(identity.durability),
        }
    }

    /// Why it cannot run the workload.
    pub(crate) fn cannot(&self, workload: &Workload) -> Option<String> {
        if !matches!(workload.scenario, Scenario::Restart(_)) {
            return None;
        }
        match self.kind {
            Kind::Url(..) => Some("a server that this program has not started cannot be restarted".into()),
            _ if !self.keeps() => Some("the memory store keeps nothing over a restart".into()),
            _ => None,
        }
    }

    /// Asks the server itself whether it knows the store and the level, and which version it is, before anything runs.
    pub(crate) fn check(&self, scratch: &Path) -> Result<Described, String> {
        let identity = self.identity();
        let mut described = Described {
            name: self.name.clone(),
            kind: "url",
            store: identity.as_ref().map(|identity| identity.store.clone()),
            durability: match self.promise() {
                Promise::Durability(level) => Some(level),
                Promise::Nothing | Promise::Unknown => None,
            },
            version: identity.and_then(|identity| Some(format!("causeway {}", identity.version?))),
            at: String::new(),
            arguments: Vec::new(),
        };
        match &self.kind {
            Kind::Url(url, _) => described.at.clone_from(url),
            Kind::Command(command) => (described.kind, described.at) = ("command", command.clone()),
            Kind::Causeway(serving) => {
                let program = find(serving.program.server.as_deref())?;
                described.version = Some(ask_version(&program)?);
                self.ask_settings(&program, serving, scratch)?;
                described.kind = "causeway";
                described.at = program.display().to_string();
                described.arguments.clone_from(&serving.program.server_args);
            }
        }
        Ok(described)
    }

    fn ask_settings(&self, program: &PathBuf, serving: &Serving, scratch: &Path) -> Result<(), String> {
        let output = Command::new(program)
            .arg("check-config")
            .args(["--store", &serving.store, "--durability", &serving.durability, "--data"])
            .arg(scratch)
            .args(&serving.program.server_args)
            .output()
            .map_err(|e| format!("{}: {e}", program.display()))?;
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        if output.status.success() || said.contains("unrecognized subcommand") {
            return Ok(());
        }
        let why = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        Err(format!("{} cannot run {}: {}", program.display(), self.name, why.trim()))
    }
}

fn named(option: &str, text: &str, what: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(format!("{option} {text:?}: it must be NAME={what}")),
    }
}

fn ask_version(program: &Path) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|e| format!("{}: {e}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Contenders must have names of their own.
pub(crate) fn distinct(all: &[Contender]) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    match all.iter().find(|contender| !seen.insert(&contender.name)) {
        Some(twice) => Err(format!("{} is there twice", twice.name)),
        None if all.is_empty() => Err("there is nothing to run against".into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(|one| (*one).to_owned()).collect()
    }

    #[test]
    fn each_store_is_there_at_each_level_but_memory_has_none() {
        let program = Program::default();
        let all =
            Contender::of_stores(&program, &strings(&["sqlite", "memory"]), &strings(&["full", "normal"]));
        let names: Vec<_> = all.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["sqlite/full", "sqlite/normal", "memory"]);
        assert_eq!(distinct(&all), Ok(()));
        let twice = Contender::of_stores(&program, &strings(&["memory", "memory"]), &[]);
        assert!(distinct(&twice).is_err_and(|e| e.contains("memory is there twice")));
        assert!(distinct(&[]).is_err());
    }

    #[test]
    fn servers_of_others_have_names() {
        let node = Contender::of_command("node=node server.mjs --port {port} --data={data}").expect("good");
        assert!(matches!(&node.kind, Kind::Command(command) if command.ends_with("--data={data}")));
        assert!(Contender::of_command("node server.mjs").is_err());
        assert!(Contender::of_command("n=node server.mjs").is_err_and(|e| e.contains("{port}")));
        assert_eq!(Contender::of_url("a=ws://127.0.0.1:1/").expect("good").name, "a");
        assert_eq!(Contender::of_url("ws://127.0.0.1:1/").expect("good").name, "ws://127.0.0.1:1/");
        assert!(Contender::of_url("a=http://127.0.0.1:1/").is_err());
    }
}
