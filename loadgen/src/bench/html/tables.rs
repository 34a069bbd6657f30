//! The parts of the page that are text: who wins, what is to be known of each workload, and what it all ran on.

use super::plot::with_spread;
use super::series::Look;
use super::unit::Unit;
use super::{anchor, groups, name, title};
use crate::bench::contender::Described;
use crate::bench::document::{Document, Loaded};
use crate::bench::figures::FIGURES;
use crate::bench::junit::escaped;
use crate::bench::markdown;
use crate::bench::probe::Judgement;
use crate::bench::stats::Verdict;
use crate::report::grouped;
use crate::scenario::server::quoted;

/// What is compared in the table of winners.
const COMPARED: [(&str, &str); 4] = [
    ("rate", "rate"),
    ("p99_ms", "p99 latency"),
    ("cpu_us_per_unit", "server CPU"),
    ("written_bytes_per_change", "bytes written"),
];

/// The title, what makes the report less worth, and who is in it.
pub(super) fn head(document: &Document, looks: &[Look]) -> String {
    let (class, passed) = if document.passed { ("", "passed") } else { ("bad", "FAILED") };
    let mut out = format!(
        "<header>\n<h1>Load test: <span class=\"{class}\">{passed}</span></h1>\n<p class=\"soft\">{}, {}. {}</p>\n",
        date(document.environment.made_unix_s),
        markdown::rounds(document),
        command(document)
    );
    if document.quick {
        out += "<p class=\"warn\"><b>Short form (<code>--quick</code>): it shows that all works; do not believe the figures.</b></p>\n";
    }
    let class = if document.probe.judgement == Judgement::Plausible { "soft" } else { "warn" };
    out += &format!("<p class=\"{class}\">Disk: {}.</p>\n", escaped(&document.probe.says));
    if let Some(cores) = markdown::others_cores(document) {
        out += &format!(
            "<p class=\"warn\">Other processes kept {cores:.1} cores busy in the median round, or a host took as much away: rates and \
             times are worse than on a quiet machine, and spread more.</p>\n"
        );
    }
    out += "<ul>\n";
    for failure in document.failures() {
        out += &format!("<li><span class=\"bad\">FAILED</span> {}</li>\n", escaped(&failure));
    }
    for check in document.gate.iter().flat_map(|gate| &gate.checks).filter(|check| check.passed) {
        let [workload, what, says] = [&check.workload, &check.what, &check.says].map(|text| escaped(text));
        out += &format!("<li>ok {workload}: {what}: {says}</li>\n");
    }
    out += "</ul>\n";
    out += "<ul class=\"legend\">\n";
    for look in looks {
        out += &format!("<li>{}{}</li>\n", key(look), escaped(&look.name));
    }
    out += "</ul>\n<nav>\n<a href=\"#winners\">Who wins</a>\n";
    for group in groups(&document.workloads) {
        out += &format!("<a href=\"#w-{}\">{}</a>\n", anchor(name(group)), escaped(name(group)));
    }
    out + "<a href=\"#conditions\">Machine, versions, settings</a>\n</nav>\n</header>\n"
}

/// A small picture of how a contender looks.
fn key(look: &Look) -> String {
    let Look { colour, .. } = look;
    format!(
        "<svg class=\"key\" viewBox=\"0 0 24 10\" aria-hidden=\"true\"><line class=\"line {colour}\" x1=\"0\" y1=\"5\" x2=\"24\" y2=\"5\" \
         stroke-dasharray=\"{}\"/>{}</circle></svg>",
        look.dash(),
        look.mark(12.0, 5.0, 3.5)
    )
}

/// Who is best at what, for each durability.
pub(super) fn winners(document: &Document, looks: &[Look]) -> String {
    let mut out = String::from("<section id=\"winners\">\n<h2>Who wins</h2>\n");
    let mut levels: Vec<&str> = Vec::new();
    for verdict in document.workloads.iter().flat_map(|workload| &workload.verdicts) {
        if !levels.contains(&verdict.among.as_str()) {
            levels.push(&verdict.among);
        }
    }
    if levels.is_empty() {
        out += "<p>Nobody: no two contenders promise the same, so there is nobody to be better than.</p>\n";
    }
    for level in levels {
        if !level.is_empty() {
            out += &format!("<h3>{}</h3>\n", escaped(&super::capital(level)));
        }
        out += "<table class=\"verdicts\">\n<thead><tr><th scope=\"col\">workload</th>";
        for (_, title) in COMPARED {
            out += &format!("<th scope=\"col\">{title}</th>");
        }
        out += "</tr></thead>\n<tbody>\n";
        for workload in &document.workloads {
            out += &format!("<tr><th scope=\"row\">{}</th>", escaped(&workload.name));
            for (figure, title) in COMPARED {
                let verdict = workload
                    .verdicts
                    .iter()
                    .find(|verdict| verdict.figure == figure && verdict.among == level);
                out += &winner(verdict, title, looks);
            }
            out += "</tr>\n";
        }
        out += "</tbody>\n</table>\n";
    }
    out += "<p class=\"soft\">Better by the median of the rounds. A tie: the spreads overlap, so nobody can say who is better. Only those \
            of the same durability are compared; what keeps nothing is a yardstick, and who lost something is out: they are not ranked.</p>\n";
    out + "</section>\n"
}

fn winner(verdict: Option<&Verdict>, title: &str, looks: &[Look]) -> String {
    let Some(verdict) = verdict else { return format!("<td data-of=\"{title}\" class=\"soft\">–</td>") };
    let of = |best: &String| super::look(looks, best).map(key).unwrap_or_default();
    let keys: String = verdict.best.iter().map(of).collect();
    let says = escaped(&verdict.says);
    match (verdict.tie, verdict.best.first()) {
        (true, _) => format!(
            "<td data-of=\"{title}\" class=\"tie\">{keys}<b>tie</b> {}</td>",
            says.replacen("a tie ", "", 1)
        ),
        (false, Some(best)) => {
            let best = escaped(best);
            let rest = says.strip_prefix(&best).unwrap_or(&says);
            format!("<td data-of=\"{title}\">{keys}<b>{best}</b><span class=\"soft\">{rest}</span></td>")
        }
        (false, None) => format!("<td data-of=\"{title}\" class=\"soft\">{says}</td>"),
    }
}

/// What is to be known of a workload's results: warnings, what was verified, its settings.
pub(super) fn notes(workload: &Loaded) -> String {
    let mut notes = markdown::said_of(workload);
    for result in &workload.results {
        for round in &result.rounds {
            let of_round = |note: &String| format!("{}, round {}: {note}", result.contender, round.round);
            notes.extend(round.notes.iter().map(of_round));
        }
    }
    notes.push(markdown::verified(workload));
    let mut out = String::from("<ul>\n");
    for note in &notes {
        let bad = ["FAILED", "FAULT", "was the limit"].iter().any(|word| note.contains(word));
        out += &format!("<li{}>{}</li>\n", if bad { " class=\"bad\"" } else { "" }, escaped(note));
    }
    let settings: Vec<_> = workload
        .settings
        .iter()
        .map(|(key, value)| format!("<code>{} = {}</code>", escaped(key), escaped(value)))
        .collect();
    out += &format!(
        "<li>settings: <code>scenario = {}</code>, {}, <code>seed = {}</code></li>\n</ul>\n",
        workload.scenario,
        settings.join(", "),
        workload.seed
    );
    out
}

/// Every figure of every contender.
pub(super) fn all_figures(workload: &Loaded) -> String {
    let mut out = String::from(
        "<details>\n<summary>All figures</summary>\n<div class=\"wide\"><table>\n<thead><tr><th scope=\"col\">figure</th>",
    );
    for result in &workload.results {
        out += &format!("<th scope=\"col\">{}</th>", escaped(&result.contender));
    }
    out += "</tr></thead>\n<tbody>\n";
    for figure in FIGURES {
        let cells: Vec<_> = workload.results.iter().map(|result| result.summary.get(figure.name)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        out += &format!("<tr><th scope=\"row\" title=\"{}\">{}</th>", escaped(figure.about), figure.title);
        for cell in cells {
            let said = cell.map_or("–".into(), |summary| with_spread(summary, Unit::of(figure.name)));
            out += &format!("<td class=\"n\">{}</td>", escaped(&said));
        }
        out += "</tr>\n";
    }
    out += "</tbody>\n</table></div>\n";
    let others = workload.verdicts.iter().map(|verdict| {
        format!(
            "<li>{}{}: {}</li>\n",
            title(verdict.figure, workload),
            escaped(&verdict.among_said()),
            escaped(&verdict.says)
        )
    });
    let others: String = others.collect();
    if !others.is_empty() {
        out += &format!("<ul>\n{others}</ul>\n");
    }
    out + "</details>\n"
}

/// The machine, its disk, who was compared, and what the figures mean.
pub(super) fn conditions(document: &Document) -> String {
    let (environment, probe) = (&document.environment, &document.probe);
    let data = &environment.data;
    let mut rows = vec![
        ("command", command(document)),
        ("made", date(environment.made_unix_s)),
        ("CPU", format!("{}, {} cores", escaped(&environment.machine.cpu), environment.machine.cores)),
        (
            "virtual machine",
            if environment.machine.virtual_machine { "yes" } else { "not as far as the kernel tells" }.into(),
        ),
        ("memory", Unit::Bytes.say(environment.machine.memory_bytes as f64)),
        ("kernel", escaped(&environment.machine.kernel)),
        ("load average before", format!("{:.2}", environment.machine.load_average)),
        (
            "data on",
            format!(
                "{} {} ({})",
                escaped(&data.filesystem),
                escaped(&data.device),
                escaped(&data.mount_options)
            ),
        ),
    ];
    rows.extend(data.rotational.map(|it| ("disk rotates", if it { "yes" } else { "no" }.to_owned())));
    rows.extend(data.write_cache.as_ref().map(|cache| ("disk's cache", escaped(cache))));
    rows.push((
        "generator",
        format!(
            "causeway-loadgen {}, {} threads",
            environment.loadgen_version, environment.generator_threads
        ),
    ));
    rows.push((
        "sync of the disk",
        format!(
            "{} writes of {} bytes, each synced: p50 {:.3} ms, p90 {:.3} ms, p99 {:.3} ms, at most {:.3} ms; without sync {:.3} ms",
            grouped(probe.syncs as f64), probe.write_bytes, probe.p50_ms, probe.p90_ms, probe.p99_ms, probe.max_ms, probe.write_only_p50_ms
        ),
    ));
    rows.push(("what that means", escaped(&probe.says)));
    let mut out =
        String::from("<section id=\"conditions\">\n<h2>Machine, versions, settings</h2>\n<table>\n<tbody>\n");
    for (title, text) in rows {
        out += &format!("<tr><th scope=\"row\">{title}</th><td>{text}</td></tr>\n");
    }
    out += "</tbody>\n</table>\n<h3>Who was compared</h3>\n<ul>\n";
    document.contenders.iter().for_each(|contender| out += &described(contender));
    out += "</ul>\n<h3>What the figures are</h3>\n<p>Each is the median of its rounds, with the spread in brackets: the least and the \
            most, from 4 rounds on the quartiles. In plots bars and lines are medians, whiskers are spreads, and each dot on a bar is a round.</p>\n<ul>\n";
    for figure in &document.figures {
        out += &format!("<li><b>{}</b>: {}</li>\n", escaped(figure.title), escaped(figure.about));
    }
    out + "</ul>\n</section>\n"
}

fn described(contender: &Described) -> String {
    let Described { name, kind, version, at, arguments, .. } = contender;
    let version = version.as_deref().unwrap_or("version not known");
    let [name, version, promise, at] = [name, version, &contender.promise_said(), at].map(escaped);
    let arguments: String = arguments.iter().map(|argument| format!(" {}", escaped(argument))).collect();
    format!("<li><b>{name}</b>: {version}, {promise}, {kind} <code>{at}{arguments}</code></li>\n")
}

/// The command as a shell takes it.
fn command(document: &Document) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=%+@".contains(c);
    let shown = |word: &String| match !word.is_empty() && word.chars().all(is_plain) {
        true => escaped(word),
        false => escaped(&quoted(word)),
    };
    let words: Vec<_> = document.environment.command.iter().map(shown).collect();
    format!("<code>causeway-loadgen {}</code>", words.join(" "))
}

/// Of seconds since 1970, in UTC.
fn date(unix_s: u64) -> String {
    // Years that begin in March have their leap day at the end.
    let (days, second) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (day, hour, minute) = (day - (153 * march + 2) / 5 + 1, second / 3_600, second / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let all = [0, 951_826_500, 1_709_251_199, 1_735_689_600].map(date);
        assert_eq!(
            all,
            ["1970-01-01 00:00 UTC", "2000-02-29 12:15 UTC", "2024-02-29 23:59 UTC", "2025-01-01 00:00 UTC"]
        );
    }
}
