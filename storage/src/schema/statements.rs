//! A text into SQL statements and their tokens: as much of SQL as it takes to tell a keyword from a name, a text and a comment.

/// A statement of a text.
pub(super) struct Statement<'a> {
    /// Where it begins in the text, in bytes.
    pub(super) start: usize,
    /// From its first token to its last, without the semicolon.
    pub(super) sql: &'a str,
    /// Its tokens, without spaces and comments; what is quoted still has its quotes.
    pub(super) tokens: Vec<&'a str>,
}

impl Statement<'_> {
    /// Whether the keyword stands in it. Only right for words that are reserved, which nothing else can be.
    pub(super) fn has_keyword(&self, keyword: &str) -> bool {
        self.tokens.iter().any(|token| token.eq_ignore_ascii_case(keyword))
    }
}

/// The statements of a text that have any token.
pub(super) fn statements(text: &str) -> Vec<Statement<'_>> {
    let mut statements: Vec<Statement<'_>> = Vec::new();
    let mut goes_on = false;
    let mut at = 0;
    while at < text.len() {
        let len = token_len(&text.as_bytes()[at..]);
        let token = &text[at..at + len];
        let skipped = token.starts_with("--") || token.starts_with("/*") || is_space(token.as_bytes()[0]);
        match statements.last_mut().filter(|_| goes_on) {
            _ if skipped => {}
            _ if token == ";" => goes_on = false,
            Some(statement) => {
                statement.sql = &text[statement.start..at + len];
                statement.tokens.push(token);
            }
            None => {
                statements.push(Statement { start: at, sql: token, tokens: vec![token] });
                goes_on = true;
            }
        }
        at += len;
    }
    statements
}

/// The length of the token that begins the text, or of the space or comment. What has no end goes on to the text's.
fn token_len(text: &[u8]) -> usize {
    let to = |from: usize, end: &[u8]| {
        let found = text[from..].windows(end.len()).position(|window| window == end);
        found.map_or(text.len(), |at| from + at + end.len())
    };
    let run = |of: fn(u8) -> bool| text.iter().take_while(|byte| of(**byte)).count();
    match text {
        // A quote that stands for itself stands twice: two tokens here, which does no harm.
        [quote @ (b'\'' | b'"' | b'`'), ..] => to(1, &[*quote]),
        [b'[', ..] => to(1, b"]"),
        [b'-', b'-', ..] => to(2, b"\n"),
        [b'/', b'*', ..] => to(2, b"*/"),
        [byte, ..] if is_space(*byte) => run(is_space),
        [byte, ..] if is_word(*byte) => run(is_word),
        _ => 1,
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0c')
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_comments_hide_what_ends_a_statement() {
        let text = "-- a; b\nCREATE TABLE \"a;\"\"b\" (/* ; */ `c;` [d;] DEFAULT ';''') ; ;\n x'00' -- end";
        let found = statements(text);
        let starts: Vec<_> = found.iter().map(|statement| statement.start).collect();
        assert_eq!(starts, [8, text.find("x'00'").unwrap()]);
        assert_eq!(
            found[0].tokens,
            ["CREATE", "TABLE", "\"a;\"", "\"b\"", "(", "`c;`", "[d;]", "DEFAULT", "';'", "''", ")"]
        );
        assert!(found[0].sql.starts_with("CREATE") && found[0].sql.ends_with(')'));
        assert!(found[0].has_keyword("default") && !found[0].has_keyword("a"));
        assert_eq!(found[1].sql, "x'00'");
        for open in ["'a;", "\"a;", "`a;", "[a;", "/* a;", "-- a;", "é;"] {
            assert!(statements(open).len() <= 1, "{open}");
        }
    }
}
