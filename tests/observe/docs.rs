//! `docs/operations.md` tells of what there is, all of it and nothing else.

use crate::common::{Client, Server};
use crate::logs::ends;
use crate::{repository, used_scrape};
use causeway::ending::{Reason, Refused};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The rows of the tables under a heading, each as its cells.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let text = repository("docs/operations.md");
    let level = heading.chars().take_while(|c| *c == '#').count();
    let mut lines = text.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "no {heading}");
    let ends = |line: &str| {
        let hashes = line.chars().take_while(|c| *c == '#').count();
        (1..=level).contains(&hashes)
    };
    lines
        .take_while(|line| !ends(line))
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// The names of the rows, which stand in backquotes in the first cell.
fn names(heading: &str) -> BTreeSet<String> {
    rows(heading).into_iter().map(|row| row[0].trim_matches('`').to_owned()).collect()
}

#[test]
fn every_metric_is_documented_with_its_type() {
    let scrape = used_scrape();
    let mut documented = BTreeMap::new();
    for row in rows("## Metrics") {
        let [name, kind, labels, meaning, alert] = &row[..] else { panic!("five cells: {row:?}") };
        let name = name.trim_matches('`').to_owned();
        let told: BTreeSet<_> = scrape
            .samples
            .iter()
            .filter(|(sample, _)| {
                **sample == name
                    || ["_bucket", "_sum", "_count"].iter().any(|end| **sample == format!("{name}{end}"))
            })
            .flat_map(|(_, samples)| samples)
            .flat_map(|(labels, _)| labels.keys())
            .filter(|label| *label != "le")
            .collect();
        let said: BTreeSet<String> = labels
            .split(", ")
            .map(|label| label.trim_matches('`').to_owned())
            .filter(|label| label != "-")
            .collect();
        assert_eq!(told, said.iter().collect(), "the labels of {name}");
        assert!(!meaning.is_empty() && !alert.is_empty(), "{row:?}");
        assert_eq!(documented.insert(name, kind.clone()), None, "twice: {row:?}");
    }
    assert_eq!(documented, scrape.families);
}

#[test]
fn every_reason_is_documented() {
    let reasons: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str().to_owned()).collect();
    assert_eq!(names("### Why a connection has ended"), reasons);
    let refused: BTreeSet<_> = Refused::ALL.iter().map(|refused| refused.as_str().to_owned()).collect();
    assert_eq!(names("### Why a connection was refused"), refused);
}

#[test]
fn every_field_of_the_line_is_documented() {
    let server = Server::with("memory", &[("log-format", "json"), ("trusted-proxies", "127.0.0.1")]);
    let forwarded_for = "X-Forwarded-For: 192.0.2.1\r\n";
    let client = Client::try_connect_from(Ipv4Addr::LOCALHOST, server.addr, "list", forwarded_for);
    client.unwrap().send_bytes(&crate::common::close_frame(1000, b""));
    server.wait_for_metric("connections_closed_total", 1);
    let ends = ends(&server.stop_and_log());
    let fields: BTreeSet<_> = ends[0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(names("### The line of a connection"), fields);
}
