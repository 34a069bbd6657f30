#![allow(clippy::unwrap_used)]

mod messages;
mod oracle;

use std::cell::Cell;
use std::fmt::Write;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use oracle::Val;

const RULES: DecodeRules<'static> = DecodeRules { max_changes: 3, strict_channel: None };
const SITE: &str = "AAAABBBBCCCCDDDD";

fn decode_str(message: impl AsRef<[u8]>) -> Result<Incoming, Refusal> {
    decode(&mut message.as_ref().to_vec(), RULES)
}

/// An update of version 7 with one change, whose value is as given.
fn with_val(val: &str) -> String {
    with_change(&format!(r#"["t","p","c",{val},1,2,"s",1,0]"#))
}

fn with_change(change: &str) -> String {
    format!(r#"{{"type":"update","siteId":"{SITE}","version":7,"channel":"c","changes":[{change}]}}"#)
}

fn val_of(val: &str) -> Result<Val, Refusal> {
    match decode_str(with_val(val)).map(|incoming| oracle::message_of(&incoming))? {
        oracle::Message::Update { mut changes, .. } => Ok(changes.remove(0).val),
        other => panic!("{other:?}"),
    }
}

/// Both decoders must say the same. Gives whether they took the message.
fn compare(bytes: &[u8], rules: DecodeRules<'_>) -> bool {
    oracle::compare(bytes, rules).is_ok()
}

/// Runs `test` on many values; it says which of them count. At least one in `share` must.
fn run<T: std::fmt::Debug>(
    cases: u32,
    share: u32,
    strategy: impl Strategy<Value = T>,
    test: impl Fn(T) -> Result<bool, TestCaseError>,
) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let counted = Cell::new(0);
    let test = |value| test(value).map(|counts| counted.set(counted.get() + u32::from(counts)));
    TestRunner::new(config).run(&strategy, test).unwrap_or_else(|e| panic!("{e}"));
    assert!(counted.get() >= cases / share, "only {} of {cases} test anything", counted.get());
}

#[test]
fn messages_mean_what_serde_json_says() {
    run(3000, 4, messages::message(), |message| Ok(compare(message.as_bytes(), RULES)));
}

#[test]
fn broken_messages_are_taken_and_refused_alike() {
    run(6000, 50, messages::broken(), |bytes| Ok(compare(&bytes, RULES)));
}

#[test]
fn noise_is_refused_alike() {
    let pieces = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u",
        "d800",
        "0",
        "1",
        "-",
        ".",
        "e",
        "true",
        "null",
        " ",
        "\0",
        "\u{feff}",
        "\"type\"",
        "\"pull\"",
        "\"version\"",
    ]);
    let noise = prop::collection::vec(pieces, 0..14).prop_map(|pieces| pieces.concat());
    run(3000, u32::MAX, noise, |noise| Ok(compare(noise.as_bytes(), RULES)));
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    run(1000, u32::MAX, bytes, |bytes| Ok(compare(&bytes, RULES)));
}

#[test]
fn every_cut_of_a_message_is_refused() {
    let whole = with_val(r#""a\ud83d\ude00é""#);
    assert!(decode_str(&whole).is_ok());
    for cut in 0..whole.len() {
        let refusal = decode_str(&whole.as_bytes()[..cut]).unwrap_err();
        assert_eq!((refusal.code, refusal.received), (Code::Malformed, None), "cut at {cut}");
    }
}

#[test]
fn a_channel_matters_only_where_it_is_strict() {
    let message = with_val("1");
    for (strict_channel, taken) in [(None, true), (Some("c"), true), (Some("other"), false)] {
        let rules = DecodeRules { strict_channel, ..RULES };
        assert_eq!(compare(message.as_bytes(), rules), taken);
        assert!(compare(br#"{"type":"pull","version":1}"#, rules), "no channel is no mismatch");
        assert!(compare(br#"{"type":"pull","version":1,"channel":5}"#, rules));
        assert_eq!(compare(br#"{"type":"pull","version":1,"channel":"c"}"#, rules), taken);
    }
    let refusal =
        decode(&mut message.into_bytes(), DecodeRules { strict_channel: Some("d"), ..RULES }).unwrap_err();
    assert_eq!((refusal.code, refusal.received), (Code::WrongChannel, Some(7)));
}

#[test]
fn numbers_keep_their_type_and_every_bit() {
    let integers = [
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
        ("-0", 0),
        ("0", 0),
        ("9007199254740993", 9_007_199_254_740_993),
        ("1", 1),
    ];
    for (text, i) in integers {
        assert_eq!(val_of(text), Ok(Val::Integer(i)), "{text}");
    }
    let reals = [
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        "-18446744073709551616",
        "100000000000000000000",
        "123456789012345678901234567890123456789012345678901234567890",
        "-0.0",
        "-0e0",
        "1.0",
        "1e0",
        "1E+2",
        "5e-324",
        "2.4703282292062327e-324",
        "1e-400",
        "1.7976931348623157e308",
        "2.2250738585072011e-308",
        "2.2250738585072014e-308",
        "9007199254740993.0",
        "0.1",
        "1.00000000000000011102230246251565404236316680908203125",
        "1.00000000000000011102230246251565404236316680908203124",
        "1.00000000000000011102230246251565404236316680908203126",
        "8.41e21",
        "123456789012345678e-20",
        "0.00000000000000000000000000000000000000000000000000000000001e59",
    ];
    for text in reals {
        let bits = text.parse::<f64>().unwrap().to_bits();
        assert_eq!(val_of(text), Ok(Val::Real(bits)), "{text}");
    }
    for text in [
        "1e400",
        "-1e400",
        "1e309",
        "1.7976931348623159e308",
        &"9".repeat(310),
        &format!("-{}", "9".repeat(400)),
    ] {
        assert_eq!(val_of(text).unwrap_err().code, Code::Malformed, "{text}");
    }
    for text in [
        "01",
        "-01",
        "+1",
        ".5",
        "1.",
        "1e",
        "1e+",
        "-",
        "0x10",
        "NaN",
        "Infinity",
        "-Infinity",
        "1_000",
        "1.e5",
        "00",
    ] {
        assert_eq!(val_of(text).unwrap_err().code, Code::Malformed, "{text}");
    }
}

#[test]
fn doubles_are_those_of_the_standard_library() {
    run(20_000, 2, messages::number(), |text| {
        let r = text.parse::<f64>().unwrap();
        let integer = text.parse::<i64>().map(Val::Integer);
        let expected = r.is_finite().then_some(integer.unwrap_or(Val::Real(r.to_bits())));
        prop_assert_eq!(val_of(&text).ok(), expected, "{}", text);
        Ok(text.contains(['.', 'e', 'E']))
    });
}

#[test]
fn integer_fields_end_at_what_javascript_counts() {
    let change = |at: usize, number: &str| {
        let mut row = [r#""t""#, r#""p""#, r#""c""#, "1", "1", "1", r#""s""#, "1", "1"];
        row[at] = number;
        decode_str(with_change(&format!("[{}]", row.join(","))))
    };
    let top = |kind: &str, number: &str| {
        decode_str(format!(r#"{{"type":"{kind}","siteId":"s","changes":[],"version":{number}}}"#))
    };
    for number in [
        "1",
        "9007199254740991",
        "-0",
        "9007199254740992",
        "9223372036854775808",
        "1e20",
        "-1",
        "1.0",
        "1e0",
        "\"1\"",
        "null",
        "true",
        "[]",
    ] {
        let good = matches!(number, "1" | "9007199254740991" | "-0");
        for (at, field) in [(4, "col_version"), (5, "db_version"), (7, "cl"), (8, "seq")] {
            match change(at, number) {
                Ok(_) => assert!(good && (at != 7 || number != "-0"), "{field} {number}"),
                Err(refusal) => {
                    assert!(!good || (at == 7 && number == "-0"), "{field} {number}: {refusal}");
                    assert_eq!((refusal.code, refusal.received), (Code::InvalidChange, Some(7)));
                    let start = format!("changes[0].{field}: must be an integer from");
                    assert!(refusal.message.starts_with(&start), "{refusal}");
                }
            }
        }
        for kind in ["update", "pull"] {
            match top(kind, number) {
                Ok(_) => assert!(good, "{kind} {number}"),
                Err(refusal) => {
                    assert!(!good, "{kind} {number}: {refusal}");
                    assert_eq!((refusal.code, refusal.received), (Code::Malformed, None));
                    assert!(refusal.message.starts_with("version: "), "{refusal}");
                }
            }
        }
    }
}

#[test]
fn texts_are_unicode_or_refused() {
    let good = [
        (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r#""\u00e9\u00E9\u0041""#, "ééA"),
        (r#""\ud83d\ude00\uD83D\uDE00😀""#, "😀😀😀"),
        (r#""\udbff\udfff\uffff""#, "\u{10ffff}\u{ffff}"),
        (r#""a\u0000b""#, "a\0b"),
        ("\"\u{7f}\u{80}\"", "\u{7f}\u{80}"),
        (r#""""#, ""),
    ];
    for (json, text) in good {
        assert_eq!(val_of(json), Ok(Val::Text(text.into())), "{json}");
    }
    let bad = [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800\u0041""#,
        r#""\ud800A""#,
        r#""\ud800\n""#,
        r#""\ud800\ud800""#,
        r#""\udc00\ud800""#,
        r#""\ud83d\ude00\ud83d""#,
        r#""\u12""#,
        r#""\u12G4""#,
        r#""\x41""#,
        r#""\u{41}""#,
        r#""\U0041""#,
        r#""\""#,
        "\"\n\"",
        "\"\0\"",
        "\"\u{1f}\"",
        "'a'",
    ];
    for json in bad {
        assert_eq!(val_of(json).unwrap_err().code, Code::Malformed, "{json}");
        let key = format!(r#"{{"type":"pull","version":1,{json}:1}}"#);
        assert_eq!(decode_str(&key).unwrap_err().code, Code::Malformed, "{key}");
    }
}

#[test]
fn invalid_utf8_is_refused_wherever_it_stands() {
    let message =
        r#"{"type":"update","siteId":"@","version":1,"changes":[["@","@","@","@",1,1,"@",1,1]],"x@":"@"}"#;
    let places: Vec<usize> = message.match_indices('@').map(|(at, _)| at).collect();
    let bad: [&[u8]; 8] = [
        b"\xff",
        b"\x80",
        b"\xc3",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
        b"\xf0\x9f\x98",
    ];
    for at in places {
        for bad in bad {
            // Near the start of a block, and across blocks, of the parser's 64 bytes.
            for pad in [0, 40, 63] {
                let mut bytes = message.as_bytes().to_vec();
                bytes.splice(at..=at, bad.iter().copied());
                bytes.splice(1..1, std::iter::repeat_n(b' ', pad));
                let refusal = decode_str(&bytes).unwrap_err();
                assert_eq!(refusal.code, Code::Malformed, "{}", String::from_utf8_lossy(&bytes));
            }
        }
    }
}

#[test]
fn a_key_stands_once() {
    let twice = [
        r#"{"type":"pull","type":"pull","version":1}"#,
        r#"{"type":"pull","version":1,"\u0074ype":"pull"}"#,
        r#"{"type":"pull","version":1,"version":1}"#,
        r#"{"type":"pull","version":1,"x":{"a":1,"b":2,"\u0061":3}}"#,
        r#"{"type":"pull","version":1,"x":[[{"":1,"":3}]]}"#,
        r#"{"type":"pull","version":1,"x":"x","x":{}}"#,
        &with_val(r#"{"$blob":"00","$blob":"00"}"#),
        &with_val(r#"{"$blob":"00","\u0024blob":"00"}"#),
    ];
    for message in twice {
        let refusal = decode_str(message).unwrap_err();
        assert_eq!(refusal.code, Code::Malformed, "{message}");
        assert!(refusal.message.ends_with("stands twice in one object"), "{refusal}");
    }
    // Few keys and many are looked through in different ways.
    for keys in [FEW_KEYS - 1, FEW_KEYS, FEW_KEYS + 1, 200] {
        let extra = |n: usize| format!(r#","k{n}":{{"k{n}":[1,{{}}]}}"#);
        let mut message =
            r#"{"type":"pull","version":1"#.to_owned() + &(2..keys).map(extra).collect::<String>();
        assert!(decode_str(message.clone() + "}").is_ok(), "{keys} keys");
        message += r#","k\u0032":1}"#;
        assert_eq!(
            decode_str(&message).unwrap_err().code,
            Code::Malformed,
            "{keys} keys and one of them again"
        );
    }
    // The same key in two objects, a key that is a value too.
    assert!(
        decode_str(r#"{"type":"pull","version":1,"x":{"type":"x","x":"type","y":{"x":1}},"z":"z"}"#).is_ok()
    );
}

#[test]
fn nothing_follows_a_message_but_space() {
    let message = r#"{"type":"pull","version":1}"#;
    for (before, after) in [("", " "), (" \t\r\n", "\n\n"), ("", &*" ".repeat(1000))] {
        assert!(decode_str(format!("{before}{message}{after}")).is_ok(), "{before:?} {after:?}");
    }
    for after in ["x", "0", ",", "}", "{}", "\0", " \0", "\u{b}", "\u{c}", "\u{a0}", "null", "\"", message] {
        assert!(decode_str(format!("{message}{after}")).is_err(), "{after:?} behind");
    }
    for before in ["\u{feff}", "\0", "\u{c}", "x", "[", ")]}'\n"] {
        assert!(decode_str(format!("{before}{message}")).is_err(), "{before:?} before");
    }
    for not_an_object in
        ["", " ", "null", "true", "1", "-1.5", "\"type\"", "[]", r#"["type"]"#, "\0", "nul", "{"]
    {
        let refusal = decode_str(not_an_object).unwrap_err();
        assert_eq!((refusal.code, refusal.received), (Code::Malformed, None), "{not_an_object}");
    }
}

#[test]
fn nesting_ends_at_64_levels() {
    // The message itself is the first level.
    let nested = |levels: usize, open: &str, inner: &str, close: &str| {
        let inner = open.repeat(levels - 1) + inner + &close.repeat(levels - 1);
        format!(r#"{{"type":"pull","version":1,"x":{inner}}}"#)
    };
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[1,"#, r#",{"b":2}]"#)] {
        assert!(decode_str(nested(MAX_NESTING - 1, open, "1", close)).is_ok(), "63 levels of {open}");
        for levels in [MAX_NESTING + 1, 200, 100_000] {
            let refusal = decode_str(nested(levels, open, "1", close)).unwrap_err();
            assert_eq!(refusal.code, Code::Malformed, "{levels} levels of {open}");
            // What is never closed, too.
            assert!(decode_str(&nested(levels, open, "1", close)[..levels]).is_err());
        }
    }
    for (open, inner, close) in [("[", "1", "]"), (r#"{"a":"#, "1", "}")] {
        let message = nested(MAX_NESTING, open, inner, close);
        assert!(compare(message.as_bytes(), RULES), "64 levels of {open}");
        for empty in ["[]", "{}"] {
            assert!(decode_str(nested(MAX_NESTING - 1, open, empty, close)).is_ok());
            assert!(decode_str(nested(MAX_NESTING, open, empty, close)).is_err());
        }
    }
    assert!(decode_str("[".repeat(100_000)).is_err());
}

#[test]
fn bounds_of_texts_are_in_bytes() {
    let fields = [(0, "table", 255), (1, "pk", 4096), (2, "cid", 255), (6, "site_id", 64)];
    for (at, field, max) in fields {
        let texts = [
            ("x".repeat(max), true),
            ("x".repeat(max + 1), false),
            (format!("{}{}", "é".repeat(max / 2), "x".repeat(max % 2)), true),
            ("é".repeat(max / 2 + 1), false),
            ("\\u00e9".repeat(max / 2), true),
            (String::new(), false),
            ("a\\u0000b".into(), matches!(at, 1 | 6)),
        ];
        for (text, good) in texts {
            let text = format!("\"{text}\"");
            let mut row = [r#""t""#, r#""p""#, r#""c""#, "1", "1", "1", r#""s""#, "1", "1"];
            row[at] = &text;
            match decode_str(with_change(&format!("[{}]", row.join(",")))) {
                Ok(_) => assert!(good, "{field} {text}"),
                Err(refusal) => {
                    assert!(!good, "{field} {text}: {refusal}");
                    assert!(refusal.message.starts_with(&format!("changes[0].{field}: must ")), "{refusal}");
                }
            }
        }
    }
    for (len, good) in [(0, false), (1, true), (64, true), (65, false)] {
        let message =
            format!(r#"{{"type":"update","siteId":"{}","version":7,"changes":[]}}"#, "s".repeat(len));
        assert_eq!(compare(message.as_bytes(), RULES), good, "{len}");
    }
}

#[test]
fn sentinels_and_cells_have_clocks_of_their_own() {
    let cases = [
        (r#"["t","p","-1",null,3,1,"s",3,0]"#, None),
        (r#"["t","p","-1",null,2,1,"s",2,0]"#, None),
        (r#"["t","p","-1",null,1,1,"s",2,0]"#, Some("col_version")),
        (r#"["t","p","-1",1,2,1,"s",2,0]"#, Some("val")),
        (r#"["t","p","-1",false,2,1,"s",2,0]"#, Some("val")),
        (r#"["t","p","c",1,9,1,"s",2,0]"#, Some("cl")),
        (r#"["t","p","c",1,9,1,"s",0,0]"#, Some("cl")),
        (r#"["t","p","c",1,0,1,"s",3,0]"#, None),
        (r#"["t","p","-2",1,9,1,"s",1,0]"#, None),
    ];
    for (change, wrong) in cases {
        let refused = decode_str(with_change(change)).err().map(|refusal| refusal.message);
        assert_eq!(
            refused.as_deref().and_then(|m| m["changes[0].".len()..].split(':').next()),
            wrong,
            "{change}"
        );
    }
}

#[test]
fn one_bad_change_refuses_all_and_is_named() {
    let good = r#"["t","p","c",1,1,1,"s",1,0]"#;
    for bad in 0..3 {
        let mut changes = [good; 3];
        changes[bad] = r#"["t","p","c",[1],1,1,"s",1,0]"#;
        let refusal = decode_str(with_change(&changes.join(","))).unwrap_err();
        assert_eq!((refusal.code, refusal.received), (Code::InvalidChange, Some(7)));
        assert!(refusal.message.starts_with(&format!("changes[{bad}].val: ")), "{refusal}");
        changes[bad] = r#"["t","p","c",1,1,1,"s",1]"#;
        let refusal = decode_str(with_change(&changes.join(","))).unwrap_err();
        assert!(refusal.message.starts_with(&format!("changes[{bad}]")), "{refusal}");
    }
    let refusal = decode_str(with_change(&[good; 4].join(","))).unwrap_err();
    assert_eq!((refusal.code, refusal.received), (Code::TooManyChanges, Some(7)));
    assert!(decode_str(with_change(&[good; 3].join(","))).is_ok());
}

#[test]
fn what_is_forwarded_says_the_same() {
    let rules = DecodeRules { max_changes: 100, strict_channel: None };
    run(3000, 5, (messages::message(), any::<u32>()), |(message, chosen)| {
        let Ok(Incoming::Update(update)) = decode(&mut message.clone().into_bytes(), rules) else {
            return Ok(false);
        };
        let oracle::Message::Update { changes, .. } = oracle::decode(message.as_bytes(), rules).unwrap()
        else {
            return Err(TestCaseError::fail("not an update"));
        };
        let all: Vec<u32> = (0..update.len() as u32).collect();
        prop_assert_eq!(oracle::forwarded(&update, &all), &changes[..], "{}", message);
        let some: Vec<u32> = all.into_iter().filter(|i| chosen >> i & 1 == 1).collect();
        let expected: Vec<_> = some.iter().map(|i| changes[*i as usize].clone()).collect();
        prop_assert_eq!(oracle::forwarded(&update, &some), expected, "{}", message);
        Ok(!update.is_empty())
    });
}

#[test]
fn a_blob_is_forwarded_as_it_was_spelt() {
    let Ok(Incoming::Update(update)) = decode_str(with_val(r#"{"\u0024blob":"aBc0"}"#)) else { panic!() };
    let mut json = Vec::new();
    update.write_json(&[0], &mut json);
    assert_eq!(String::from_utf8(json).unwrap(), r#"["t","p","c",{"$blob":"aBc0"},1,2,"s",1,0]"#);
    for bad in [
        r#"{"$blob":"0"}"#,
        r#"{"$blob":"0g"}"#,
        r#"{"$blob":1}"#,
        r#"{"$Blob":""}"#,
        "{}",
        r#"{"$blob":"","x":1}"#,
        r#"{"$blob":"é"}"#,
    ] {
        assert_eq!(val_of(bad).unwrap_err().code, Code::InvalidChange, "{bad}");
    }
}

/// The thread's buffers are used again; a message of any size, taken or refused, leaves nothing for the next.
#[test]
fn one_message_leaves_nothing_for_the_next() {
    let mut large = String::new();
    for n in 0..2000 {
        write!(large, r#","key{n}":"{}""#, "x".repeat(n % 300)).unwrap();
    }
    let large = format!(r#"{{"type":"pull","version":3{large}}}"#);
    assert!(large.len() > KEEP_BUFFERS_BYTES);
    let messages = [
        large.as_str(),
        &with_val("1"),
        r#"{"type":"auth","token":"t"}"#,
        "{\"a\":[[[",
        "",
        &large[..300_000],
        "[1,2,3",
    ];
    for first in messages {
        for second in messages {
            compare(first.as_bytes(), RULES);
            compare(second.as_bytes(), RULES);
        }
    }
}
