//! As much of PromQL as is needed to see what a query asks for: its metrics, their labels, and the values that these are to have.

/// A metric that a query asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct Selector {
    pub(crate) metric: String,
    /// Label, operator, value.
    pub(crate) matchers: Vec<(String, String, String)>,
}

/// What a query names.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Query {
    pub(crate) selectors: Vec<Selector>,
    /// Labels that it groups or joins by.
    pub(crate) labels: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number,
    /// An operator, or a bracket.
    Sign(String),
}

const FUNCTIONS: &[&str] = &[
    "rate",
    "increase",
    "irate",
    "delta",
    "deriv",
    "changes",
    "histogram_quantile",
    "sum",
    "min",
    "max",
    "avg",
    "count",
    "topk",
    "bottomk",
    "quantile",
    "clamp_min",
    "clamp_max",
    "absent",
    "time",
    "vector",
    "label_values",
];
const OPERATORS: &[&str] = &["and", "or", "unless", "bool", "offset"];
/// What labels in parentheses follow.
const GROUPINGS: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];

fn tokens(query: &str) -> Result<Vec<Token>, String> {
    let mut rest = query.trim_start();
    let mut tokens = Vec::new();
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
        let end_of = |is: &dyn Fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
        let (token, length) = if first == '"' {
            let end = rest[1..].find('"').ok_or("a text without an end")? + 2;
            (Token::Text(rest[1..end - 1].to_owned()), end)
        } else if first.is_ascii_digit() {
            (Token::Number, end_of(&|c| c.is_ascii_alphanumeric() || c == '.'))
        } else if first == '$' {
            // Grafana's; here it is always a time.
            (Token::Number, 1 + rest[1..].find(|c| !word(c)).unwrap_or(rest.len() - 1))
        } else if word(first) {
            let end = end_of(&word);
            (Token::Word(rest[..end].to_owned()), end)
        } else {
            let two = ["=~", "!~", "!=", "==", ">=", "<="].iter().any(|sign| rest.starts_with(sign));
            let length = if two { 2 } else { first.len_utf8() };
            let sign = &rest[..length];
            if !two && !"(){}[],=<>+-*/%^".contains(sign) {
                return Err(format!("{sign:?} is no sign of PromQL"));
            }
            (Token::Sign(sign.to_owned()), length)
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

pub(crate) fn parse(query: &str) -> Result<Query, String> {
    let tokens = tokens(query)?;
    let sign = |at: usize, sign: &str| matches!(tokens.get(at), Some(Token::Sign(s)) if s == sign);
    let mut brackets = Vec::new();
    let mut parsed = Query::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            Token::Sign(s) if "([".contains(s.as_str()) => brackets.push(s.clone()),
            Token::Sign(s) if ")]".contains(s.as_str()) => {
                let open = if s == ")" { "(" } else { "[" };
                if brackets.pop().as_deref() != Some(open) {
                    return Err(format!("{s} closes nothing"));
                }
            }
            Token::Sign(s) if "{}".contains(s.as_str()) => return Err("a selector without a metric".into()),
            Token::Word(word) if GROUPINGS.contains(&word.as_str()) => {
                if !sign(at, "(") {
                    return Err(format!("{word} without labels"));
                }
                at += 1;
                while let Some(Token::Word(label)) = tokens.get(at) {
                    parsed.labels.push(label.clone());
                    at += 1 + usize::from(sign(at + 1, ","));
                }
                if !sign(at, ")") {
                    return Err(format!("the labels of {word} do not end"));
                }
                at += 1;
            }
            Token::Word(word) if OPERATORS.contains(&word.as_str()) => {}
            Token::Word(word) if FUNCTIONS.contains(&word.as_str()) => {
                let grouped =
                    matches!(tokens.get(at), Some(Token::Word(next)) if GROUPINGS.contains(&next.as_str()));
                if !sign(at, "(") && !grouped {
                    return Err(format!("{word} of nothing"));
                }
            }
            Token::Word(word) if sign(at, "(") => return Err(format!("there is no function {word}")),
            Token::Word(metric) => {
                let mut matchers = Vec::new();
                if sign(at, "{") {
                    at += 1;
                    while let (
                        Some(Token::Word(label)),
                        Some(Token::Sign(operator)),
                        Some(Token::Text(value)),
                    ) = (tokens.get(at), tokens.get(at + 1), tokens.get(at + 2))
                    {
                        matchers.push((label.clone(), operator.clone(), value.clone()));
                        at += 3 + usize::from(sign(at + 3, ","));
                    }
                    if !sign(at, "}") {
                        return Err(format!("the labels of {metric} do not end"));
                    }
                    at += 1;
                }
                parsed.selectors.push(Selector { metric: metric.clone(), matchers });
            }
            Token::Sign(_) | Token::Number | Token::Text(_) => {}
        }
    }
    if brackets.is_empty() { Ok(parsed) } else { Err(format!("{} brackets are open", brackets.len())) }
}

#[test]
fn what_a_query_names_is_found() {
    let query = r#"histogram_quantile(0.99, sum by (instance, le) (rate(a_bucket{x=~"b|c", y!="d"}[5m]))) > 1e9 and on (job) e == 1"#;
    let parsed = parse(query).unwrap();
    let matcher =
        |label: &str, sign: &str, value: &str| (label.to_owned(), sign.to_owned(), value.to_owned());
    let first = Selector {
        metric: "a_bucket".into(),
        matchers: vec![matcher("x", "=~", "b|c"), matcher("y", "!=", "d")],
    };
    assert_eq!(parsed.selectors, [first, Selector { metric: "e".into(), matchers: vec![] }]);
    assert_eq!(parsed.labels, ["instance", "le", "job"]);
    for wrong in [
        "rate(a[5m)",
        "sum by (a)) (b)",
        "a{b=}",
        "nosuch(a)",
        "sum(a",
        r#"a{b="c}"#,
        "rate",
        "sum by a",
        "a ; b",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}
