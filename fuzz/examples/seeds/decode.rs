//! The guide's messages, and values at every edge of the contract.

const SITE: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The inputs by name.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: &str, message: &str| seeds.push((format!("{name}.json"), message.into()));

    let todo = format!(
        r#"["todos","010B0178","text","buy milk",1,1,"{SITE}",1,0],["todos","010B0178","completed",false,1,1,"{SITE}",1,1]"#
    );
    add("guide-update", &update(&todo));
    add("guide-pull", &format!(r#"{{"type":"pull","siteId":"{SITE}","version":0,"channel":"list"}}"#));
    add("auth", r#"{"type":"auth","token":"t"}"#);
    add(
        "keys-in-another-order",
        &format!(r#"{{"changes":[],"extra":[{{}}],"version":7,"siteId":"{SITE}","type":"update"}}"#),
    );
    add("spaces", "\u{20}{ \"type\" :\t\"pull\" , \"version\" : 1 }\r\n");
    add("another-channel", r#"{"type":"pull","version":1,"channel":"other"}"#);
    add("too-many-changes", &update(&vec![change("1"); 3].join(",")));
    for (name, kind) in [("unknown-type", "\"connected\""), ("type-not-a-string", "1")] {
        add(name, &format!(r#"{{"type":{kind},"version":1}}"#));
    }
    for (name, change) in [
        ("sentinel", r#"["t","p","-1",null,3,1,"s",3,0]"#),
        ("delete", r#"["t","p","-1",null,2,1,"s",2,0]"#),
        ("sentinel-with-a-value", r#"["t","p","-1",1,2,1,"s",2,0]"#),
        ("sentinel-of-two-clocks", r#"["t","p","-1",null,1,1,"s",2,0]"#),
        ("cell-of-a-dead-row", r#"["t","p","c",1,1,1,"s",2,0]"#),
        ("eight-values", r#"["t","p","c",1,1,1,"s",1]"#),
        ("ten-values", r#"["t","p","c",1,1,1,"s",1,0,0]"#),
        ("not-a-change", r#"{"t":1}"#),
        (
            "highest-clocks",
            r#"["t","p","c",1,9007199254740991,9007199254740991,"s",9007199254740991,9007199254740991]"#,
        ),
        ("clock-too-high", r#"["t","p","c",1,9007199254740992,1,"s",1,0]"#),
        ("clock-a-real", r#"["t","p","c",1,1.0,1,"s",1,0]"#),
        ("clock-negative", r#"["t","p","c",1,1,-1,"s",1,0]"#),
        ("nul-in-a-name", r#"["t\u0000","p","c",1,1,1,"s",1,0]"#),
        ("nul-in-a-key", r#"["t","p\u0000","c",1,1,1,"s",1,0]"#),
        ("empty-name", r#"["","p","c",1,1,1,"s",1,0]"#),
        ("good-then-bad", r#"["t","p","c",1,1,1,"s",1,0],["t","p","c",[],1,1,"s",1,0]"#),
    ] {
        add(name, &update(change));
    }
    for (name, at, max) in [("table", 0, 255), ("pk", 1, 4096), ("cid", 2, 255), ("site-id", 6, 64)] {
        for bytes in [max, max + 1] {
            let text = format!("\"{}\"", "x".repeat(bytes));
            let mut row = [r#""t""#, r#""p""#, r#""c""#, "1", "1", "1", r#""s""#, "1", "1"];
            row[at] = &text;
            add(&format!("{name}-of-{bytes}"), &update(&format!("[{}]", row.join(","))));
        }
    }
    for (name, val) in [
        ("null", "null"),
        ("true", "true"),
        ("integer-highest", "9223372036854775807"),
        ("integer-lowest", "-9223372036854775808"),
        ("integer-that-is-a-real", "9223372036854775808"),
        ("integer-beyond-64-bits", "18446744073709551616"),
        ("integer-minus-zero", "-0"),
        ("integer-of-40-digits", "1234567890123456789012345678901234567890"),
        ("real-one", "1.0"),
        ("real-minus-zero", "-0.0"),
        ("real-exponent", "1E+2"),
        ("real-smallest", "5e-324"),
        ("real-to-nothing", "1e-400"),
        ("real-largest", "1.7976931348623157e308"),
        ("real-beyond", "1e309"),
        ("real-half-way", "1.00000000000000011102230246251565404236316680908203125"),
        ("real-slowest", "2.2250738585072011e-308"),
        ("number-with-a-zero", "01"),
        ("number-without-a-digit", "1."),
        ("text-escapes", r#""\"\\\/\b\f\n\r\t\u00e9\u0000\ud83d\ude00""#),
        ("text-unicode", "\"é😀\u{7f}\u{ffff}\""),
        ("text-lone-surrogate", r#""\ud800""#),
        ("text-swapped-surrogates", r#""\udc00\ud800""#),
        ("text-of-two-blocks", &format!("\"{}\\n{}\"", "a".repeat(61), "é".repeat(33))),
        ("text-control", "\"\u{1}\""),
        ("blob", r#"{"$blob":"00fFa9"}"#),
        ("blob-escaped-key", r#"{"\u0024blob":""}"#),
        ("blob-odd", r#"{"$blob":"0"}"#),
        ("blob-twice", r#"{"$blob":"00","$blob":"01"}"#),
        ("blob-and-more", r#"{"$blob":"00","x":1}"#),
        ("array", "[1]"),
    ] {
        add(&format!("val-{name}"), &update(&change(val)));
    }
    for (name, message) in [
        ("empty", ""),
        ("not-an-object", "[1]"),
        ("duplicate-key", r#"{"type":"pull","version":1,"\u0074ype":"pull"}"#),
        ("duplicate-key-below", r#"{"type":"pull","version":1,"x":[{"a":1,"a":2}]}"#),
        ("trailing-bytes", r#"{"type":"pull","version":1}{"#),
        ("byte-order-mark", "\u{feff}{}"),
        ("cut-short", r#"{"type":"pull","version":1,"x":"a"#),
    ] {
        add(name, message);
    }
    let keys: String = (0..17).map(|n| format!(r#","k{n}":{n}"#)).collect();
    add("many-keys", &format!(r#"{{"type":"pull","version":1{keys}}}"#));
    add("many-keys-one-twice", &format!(r#"{{"type":"pull","version":1{keys},"k3":3}}"#));
    for levels in [64, 65] {
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        add(&format!("{levels}-levels"), &format!(r#"{{"type":"pull","version":1,"x":{open}{close}}}"#));
    }
    seeds
        .push(("not-utf8.json".into(), b"{\"type\":\"pull\",\"version\":1,\"x\":\"\xed\xa0\x80\"}".to_vec()));
    seeds
}

fn update(changes: &str) -> String {
    format!(r#"{{"type":"update","siteId":"{SITE}","version":7,"channel":"list","changes":[{changes}]}}"#)
}

fn change(val: &str) -> String {
    format!(r#"["t","p","c",{val},1,2,"s",1,0]"#)
}
