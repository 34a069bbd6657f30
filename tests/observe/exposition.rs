//! `/metrics`, read as Prometheus reads it, and what has to be in it.

use crate::common::{Server, cell};
use crate::used_scrape;
use std::collections::{BTreeMap, BTreeSet};

/// A sample's labels.
pub(crate) type Labels = BTreeMap<String, String>;

/// What one scrape gives.
#[derive(Default)]
pub(crate) struct Scrape {
    /// The type of each family, by the name that operators see: a counter's ends in `_total`.
    pub(crate) families: BTreeMap<String, String>,
    /// Everything that can be asked for, by its name.
    pub(crate) samples: BTreeMap<String, Vec<(Labels, f64)>>,
}

impl Scrape {
    pub(crate) fn of(server: &Server) -> Self {
        let text = server.http_get("/metrics").text();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let mut scrape = Self::default();
        let mut raw = BTreeMap::new();
        for line in text.lines() {
            if let Some(line) = line.strip_prefix("# TYPE ") {
                let (name, kind) = line.split_once(' ').unwrap();
                assert_eq!(raw.insert(name.to_owned(), kind.to_owned()), None, "{name} is there twice");
                let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
                scrape.families.insert(name, kind.to_owned());
            } else if !line.starts_with('#') {
                let (name, labels, value) = sample(line);
                let family = ["_total", "_bucket", "_count", "_sum"]
                    .iter()
                    .filter_map(|suffix| name.strip_suffix(suffix))
                    .chain([name.as_str()])
                    .find(|family| raw.contains_key(*family));
                assert!(family.is_some(), "a sample without a type: {line}");
                let samples = scrape.samples.entry(name.clone()).or_default();
                assert!(samples.iter().all(|(other, _)| *other != labels), "twice: {line}");
                samples.push((labels, value));
            }
        }
        scrape
    }

    /// The sum of all samples of that name with these labels.
    #[track_caller]
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let samples = self.samples.get(name).unwrap_or_else(|| panic!("no {name}"));
        let has =
            |all: &Labels| labels.iter().all(|(label, value)| all.get(*label).is_some_and(|v| v == value));
        let found: Vec<f64> = samples.iter().filter(|(all, _)| has(all)).map(|(_, value)| *value).collect();
        assert!(!found.is_empty(), "no {name} with {labels:?}");
        found.iter().sum()
    }
}

/// `name{label="value",…} number`; no value here has a quote in it.
fn sample(line: &str) -> (String, Labels, f64) {
    let (head, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = head.split_once('{').unwrap_or((head, "}"));
    let pairs = labels.strip_suffix('}').unwrap().split_terminator(',').map(|pair| {
        let (label, value) = pair.split_once("=\"").unwrap();
        (label.to_owned(), value.strip_suffix('"').unwrap().to_owned())
    });
    (name.to_owned(), pairs.collect(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

#[test]
fn histograms_are_cumulative_and_end_with_their_count() {
    let scrape = used_scrape();
    let histograms = scrape.families.iter().filter(|(_, kind)| *kind == "histogram");
    let names: Vec<_> = histograms.map(|(name, _)| name.clone()).collect();
    assert!(names.len() >= 6, "{names:?}");
    for name in names {
        let buckets = &scrape.samples[&format!("{name}_bucket")];
        let bound = |labels: &Labels| match labels["le"].as_str() {
            "+Inf" => f64::INFINITY,
            number => number.parse().unwrap(),
        };
        assert!(buckets.is_sorted_by(|a, b| bound(&a.0) < bound(&b.0) && a.1 <= b.1), "{name}: {buckets:?}");
        assert_eq!(buckets.last().unwrap().1, scrape.get(&format!("{name}_count"), &[]), "{name}");
    }
}

#[test]
fn what_happens_is_counted() {
    let server = Server::start("sqlite");
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    for n in 1..=5 {
        client.update(n, &[cell(&format!("k{n}"), "c", "v", 1)]);
        other.recv_type("update");
    }
    other.pull(0);
    server.wait_for_metric("queue_bytes", 0);
    let scrape = Scrape::of(&server);
    assert_eq!(scrape.get("causeway_ack_seconds_count", &[]), 5.0);
    assert!(scrape.get("causeway_ack_seconds_sum", &[]) >= scrape.get("causeway_commit_seconds_sum", &[]));
    assert_eq!(
        scrape.get("causeway_fanout_seconds_count", &[]),
        scrape.get("causeway_commit_seconds_count", &[])
    );
    assert!(scrape.get("causeway_page_read_seconds_count", &[]) >= 1.0);
    assert_eq!(scrape.get("causeway_http_responses_total", &[("status", "101")]), 2.0);
    assert_eq!(scrape.get("causeway_http_responses_total", &[("status", "404")]), 0.0);
    server.http_get("/nowhere");
    assert_eq!(Scrape::of(&server).get("causeway_http_responses_total", &[("status", "404")]), 1.0);
    let build = [("store", "sqlite"), ("durability", "full"), ("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(scrape.get("causeway_build_info", &build), 1.0);
    assert_eq!(scrape.get("causeway_limit", &[("setting", "page_readers")]), 2.0);
    for (name, wanted) in [
        ("causeway_ready", 1.0),
        ("causeway_pulls", 0.0),
        ("causeway_pages_reading", 0.0),
        ("causeway_pages_waiting", 0.0),
    ] {
        assert_eq!(scrape.get(name, &[]), wanted, "{name}");
    }
}

/// What stands in everybody's dashboards, and is true.
#[test]
#[cfg(target_os = "linux")]
fn the_process_is_told_as_the_system_sees_it() {
    let server = Server::start("memory");
    let before = Scrape::of(&server);
    let clients: Vec<_> = (0..40).map(|_| server.connect("list")).collect();
    let scrape = Scrape::of(&server);
    let get = |name| scrape.get(name, &[]);
    let files = get("process_open_fds") - before.get("process_open_fds", &[]);
    assert!((40.0..45.0).contains(&files), "{files} more files");
    assert!(get("process_max_fds") > get("process_open_fds"));
    assert!(get("process_threads") >= 5.0 && get("causeway_tokio_workers") >= 1.0);
    assert!(get("causeway_tokio_alive_tasks") >= clients.len() as f64);
    let peak = server.peak_memory_bytes().unwrap() as f64;
    let resident = get("process_resident_memory_bytes");
    assert!((4e6..=peak).contains(&resident), "{resident} of {peak}");
    assert!(get("process_virtual_memory_bytes") > resident);
    assert!(get("causeway_allocator_committed_bytes") > 0.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - 3600.0..=now).contains(&get("process_start_time_seconds")));
    assert!(get("process_cpu_seconds_total") >= before.get("process_cpu_seconds_total", &[]));
    assert!(get("causeway_tokio_busy_seconds_total") > 0.0);
    // A task is woken every quarter of a second to see how late it is.
    server.wait_until("wake_delay_seconds_count", |count| count >= 2);
}

/// What is to be alerted on is there before it happens: a rate needs the zero.
#[test]
fn what_has_not_happened_yet_is_zero() {
    let server = Server::start("memory");
    let scrape = Scrape::of(&server);
    for (name, label, values) in [
        ("causeway_storage_errors_total", "kind", &["corrupt", "full", "engine"][..]),
        ("causeway_channels_unavailable", "to", &["read", "write"]),
        ("causeway_connections_closed_total", "reason", &["slow", "silent", "abandoned"]),
        ("causeway_connections_refused_total", "reason", &["over_limit", "handshake_timeout"]),
        ("causeway_errors_total", "code", &["storage", "rate_limited", "malformed"]),
        ("causeway_http_responses_total", "status", &["401", "503"]),
    ] {
        let known: BTreeSet<_> =
            scrape.samples[name].iter().map(|(labels, _)| labels[label].as_str()).collect();
        for value in values {
            assert!(known.contains(value), "{name}: {value}");
            assert_eq!(scrape.get(name, &[(label, value)]), 0.0, "{name}: {value}");
        }
    }
}
