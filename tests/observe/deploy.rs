//! What `deploy/` has is true of the server: every query of the dashboard and of the alerts asks for something that it tells.

use crate::exposition::Scrape;
use crate::promql::{Query, parse};
use crate::{repository, used_scrape};
use causeway::config::Config;
use serde_json::Value;
use std::collections::BTreeSet;
use yaml_rust2::{Yaml, YamlLoader};

const DASHBOARD: &str = "deploy/grafana/causeway.json";
const RULES: &str = "deploy/prometheus/causeway.rules.yml";

/// Labels that Prometheus adds.
const OF_THE_TARGET: &[&str] = &["job", "instance"];

/// Metrics that Prometheus makes.
const OF_PROMETHEUS: &[&str] = &["up"];

/// What in a query is not there to be asked for.
fn problems(scrape: &Scrape, query: &Query) -> Vec<String> {
    let mut problems = Vec::new();
    let mut known: BTreeSet<&str> = OF_THE_TARGET.iter().copied().collect();
    for selector in &query.selectors {
        if OF_PROMETHEUS.contains(&selector.metric.as_str()) {
            continue;
        }
        let Some(samples) = scrape.samples.get(&selector.metric) else {
            problems.push(format!("there is no metric {}", selector.metric));
            continue;
        };
        known.extend(samples.iter().flat_map(|(labels, _)| labels.keys()).map(String::as_str));
        for (label, operator, value) in &selector.matchers {
            let values: BTreeSet<_> = samples.iter().filter_map(|(labels, _)| labels.get(label)).collect();
            if OF_THE_TARGET.contains(&label.as_str()) {
                continue;
            }
            if values.is_empty() {
                problems.push(format!("{} has no label {label}", selector.metric));
            }
            let wanted =
                if operator.ends_with('~') { value.split('|').collect() } else { vec![value.as_str()] };
            for wanted in wanted {
                if !values.iter().any(|value| *value == wanted) {
                    problems.push(format!("{}: {label} is never {wanted:?}", selector.metric));
                }
            }
        }
    }
    let unknown = query.labels.iter().filter(|label| !known.contains(label.as_str()));
    problems.extend(unknown.map(|label| format!("nothing in it has the label {label}")));
    problems
}

#[track_caller]
fn assert_answered(scrape: &Scrape, source: &str, query: &str) {
    let parsed = parse(query).unwrap_or_else(|e| panic!("{source}: {e} in {query}"));
    assert!(!parsed.selectors.is_empty(), "{source}: {query} asks for nothing");
    assert_eq!(problems(scrape, &parsed), Vec::<String>::new(), "{source}: {query}");
}

/// All values of that key, however deep.
fn collect<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            if name == key {
                found.push(value);
            }
            collect(value, key, found);
        }),
        Value::Array(values) => values.iter().for_each(|value| collect(value, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let scrape = used_scrape();
    let dashboard: Value = serde_json::from_str(&repository(DASHBOARD)).unwrap();
    let mut queries = Vec::new();
    collect(&dashboard, "expr", &mut queries);
    assert!(queries.len() > 40, "{} queries", queries.len());
    for query in queries {
        assert_answered(&scrape, DASHBOARD, query.as_str().unwrap());
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            let query = variable["query"].as_str().unwrap();
            let metric = query.strip_prefix("label_values(").and_then(|rest| rest.split(',').next()).unwrap();
            assert!(scrape.samples.contains_key(metric), "{query}");
        }
    }
    let mut ids = Vec::new();
    collect(&dashboard["panels"], "id", &mut ids);
    let different: BTreeSet<_> = ids.iter().map(|id| id.as_u64().unwrap()).collect();
    assert_eq!(different.len(), ids.len(), "each panel has an id of its own");
}

#[test]
fn the_alerts_ask_for_what_there_is_and_say_what_to_do() {
    let scrape = used_scrape();
    let rules = YamlLoader::load_from_str(&repository(RULES)).unwrap();
    let guide = repository("docs/operations.md");
    let anchor = |heading: &str| {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect::<String>()
    };
    let anchors: BTreeSet<_> = guide
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches(['#', ' '])))
        .collect();
    let mut names = BTreeSet::new();
    for group in rules[0]["groups"].as_vec().unwrap() {
        for rule in group["rules"].as_vec().unwrap() {
            let text = |value: &Yaml| {
                value.as_str().unwrap_or_else(|| panic!("a text is missing in {rule:?}")).to_owned()
            };
            let name = text(&rule["alert"]);
            assert_answered(&scrape, &name, &text(&rule["expr"]));
            assert!(["page", "ticket"].contains(&text(&rule["labels"]["severity"]).as_str()), "{name}");
            assert!(!text(&rule["annotations"]["summary"]).is_empty(), "{name}");
            let runbook = text(&rule["annotations"]["runbook"]);
            let at =
                runbook.strip_prefix("docs/operations.md#").unwrap_or_else(|| panic!("{name}: {runbook}"));
            assert!(anchors.contains(at), "{name}: {runbook} is not in {anchors:?}");
            assert!(guide.contains(&format!("`{name}`")), "docs/operations.md says nothing of {name}");
            assert!(names.insert(name), "twice");
        }
    }
    assert!(names.len() >= 15, "{names:?}");
}

/// A check that cannot find anything would be none.
#[test]
fn what_is_not_there_is_found() {
    let scrape = used_scrape();
    for (query, problem) in [
        ("rate(causeway_nothing_total[5m])", "no metric causeway_nothing_total"),
        (r#"causeway_errors_total{kind="x"}"#, "no label kind"),
        (r#"causeway_errors_total{code="nosuch"}"#, r#"code is never "nosuch""#),
        (r#"causeway_errors_total{code=~"storage|nosuch"}"#, r#"code is never "nosuch""#),
        ("sum by (colour) (causeway_errors_total)", "the label colour"),
        // A counter is asked for by its samples' name.
        ("rate(causeway_errors[5m])", "no metric causeway_errors"),
    ] {
        let found = problems(&scrape, &parse(query).unwrap());
        assert!(found.iter().any(|found| found.contains(problem)), "{query}: {found:?}");
    }
}

/// The number after a word of a file.
fn number(path: &str, before: &str) -> u64 {
    let text = repository(path);
    let line = text.lines().map(str::trim).find_map(|line| line.strip_prefix(before));
    let digits: String = line
        .unwrap_or_else(|| panic!("no {before} in {path}"))
        .trim_start()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().unwrap_or_else(|_| panic!("no number after {before} in {path}"))
}

/// What waits for the server waits long enough.
#[test]
fn times_fit_the_servers_own() {
    let config = Config::default();
    let (unit, proxy) = ("deploy/systemd/causeway.service", "deploy/nginx/causeway.conf");
    assert!(
        number(unit, "TimeoutStopSec=") * 1000 > 2 * config.drain_timeout_ms,
        "clients drain, then the store"
    );
    assert!(number(proxy, "proxy_read_timeout") * 1000 > config.ping_interval_ms);
    assert!(number(proxy, "proxy_send_timeout") * 1000 > config.slow_client_timeout_ms);
    assert!(
        number(unit, "LimitNOFILE=") > config.max_connections as u64 + 3 * config.max_open_channels as u64
    );
    let image = repository("deploy/docker/Dockerfile");
    for line in ["USER 65532:65532", "STOPSIGNAL SIGTERM", r#"CMD ["/usr/local/bin/causeway", "health"]"#] {
        assert!(image.contains(line), "{line}");
    }
}
