//! What was checked, as JUnit XML for a CI server.

use super::gate::Check;

/// A test case for each check.
pub(crate) fn xml(checks: &[Check]) -> String {
    let failures = checks.iter().filter(|check| !check.passed).count();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"causeway-loadgen\" tests=\"{}\" failures=\"{failures}\">\n",
        checks.len()
    );
    for Check { workload, what, passed, says } in checks {
        let [workload, what, says] = [workload, what, says].map(|text| escaped(text));
        out.push_str(&format!("  <testcase classname=\"{workload}\" name=\"{what}\">"));
        match passed {
            true => out.push_str(&format!("<system-out>{says}</system-out>")),
            false => out.push_str(&format!("<failure message=\"{says}\"/>")),
        }
        out.push_str("</testcase>\n");
    }
    out + "</testsuite>\n"
}

/// Text as XML and HTML take it; what they cannot take at all is left out.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_and_text_is_escaped() {
        let check = |passed, says: &str| Check {
            workload: "w".into(),
            what: "p99_ms<50".into(),
            passed,
            says: says.into(),
        };
        let xml = xml(&[check(true, "it is 3"), check(false, "\"a\" & <b>\u{1}\nc")]);
        assert!(xml.contains("tests=\"2\" failures=\"1\""), "{xml}");
        assert!(xml.contains("name=\"p99_ms&lt;50\"><system-out>it is 3</system-out></testcase>"), "{xml}");
        assert!(xml.contains("<failure message=\"&quot;a&quot; &amp; &lt;b&gt; c\"/>"), "{xml}");
    }
}
