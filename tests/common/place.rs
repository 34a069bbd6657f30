//! Data directories beside each other, a store, and the commands that an operator runs on them.

use super::server::{Finished, Server, run};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// A data directory, and a place for others, for backups and files beside it.
pub struct Place {
    dir: Arc<TempDir>,
    pub store: &'static str,
    data: String,
}

impl Place {
    /// An empty place, whose data directory is `data`.
    pub fn new(store: &'static str) -> Self {
        Place { dir: Arc::new(tempfile::tempdir().unwrap()), store, data: "data".into() }
    }

    /// The same place with another data directory.
    pub fn at(&self, data: &str) -> Self {
        Place { dir: self.dir.clone(), store: self.store, data: data.into() }
    }

    /// The same place with another store.
    pub fn with_store(&self, store: &'static str) -> Self {
        Place { dir: self.dir.clone(), store, data: self.data.clone() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn data(&self) -> PathBuf {
        self.path(&self.data)
    }

    /// Writes a file of the place, and gives its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    /// The same with more flags, each a name without dashes and a value.
    pub fn serve_with(&self, settings: &[(&str, &str)]) -> Server {
        Server::at(&self.data(), self.store, settings)
    }

    /// Runs a command on the data directory. An argument with a slash before it is a name in this place.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        let in_place = |argument: &&str| match argument.strip_prefix('/') {
            Some(name) => self.path(name).to_str().unwrap().to_owned(),
            None => (*argument).to_owned(),
        };
        let arguments: Vec<String> = arguments.iter().map(in_place).collect();
        let mut all: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let data = self.data();
        all.extend(["--store", self.store, "--data", data.to_str().unwrap()]);
        run(&all, &[])
    }

    /// Runs a command that must succeed, and gives what it prints for people.
    #[track_caller]
    pub fn people(&self, arguments: &[&str]) -> Vec<String> {
        let finished = self.run(arguments);
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        finished.stdout.lines().map(str::to_owned).collect()
    }

    /// The same, its lines of JSON but for the last.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        lines(&self.people(&[arguments, &["--json"]].concat()).join("\n"))
    }
}

/// Lines of JSON, up to the one that says that they are all.
#[track_caller]
pub fn lines(text: &str) -> Vec<Value> {
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.pop(), Some(json!({"line": "end"})), "{text}");
    lines
}
