//! `record` and `replay`: bytes pass unchanged, nothing of them is in the trace but its shape, and what is replayed has
//! that shape again.

mod server;
mod support;
#[path = "trace/tools.rs"]
mod tools;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{Dialect, Mistake};
use tools::{Recorder, Trace, frame, loadgen, serve, upgrade};

/// What is recorded of `mixed` and replayed, at another speed, is what was recorded.
#[test]
fn a_replay_is_what_was_recorded() {
    let dir = tempfile::tempdir().expect("a directory");
    let [first, second, third] = ["1", "2", "3"].map(|name| dir.path().join(name));
    let server = serve(&dir.path().join("data-1"));
    let recorder = Recorder::start(&server.url, &first, "");
    let mixed = "mixed --seconds 1.5 --warmup-seconds 0.1 --channels 2 --clients 2 --rows 40 --in-flight 1";
    let ran = loadgen(mixed, &["--url", &recorder.url, "--values", "any", "--columns", "3"]);
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    recorder.wait_for_closes(&first);
    let said = recorder.stop("INT");
    let recorded = Trace::read(&first);
    let counts = recorded.counts();
    assert!(said.contains(&format!("{} updates with {} changes", counts.updates, counts.changes)), "{said}");
    assert!(counts.deletes > 10 && counts.pulls > 10 && counts.updates > 100, "{counts:?}");
    drop(server);

    let server = serve(&dir.path().join("data-2"));
    let recorder = Recorder::start(&server.url, &second, "");
    let recorder_is_up = Instant::now();
    let (file, speed) = (first.to_str().expect("UTF-8"), 0.7);
    let begins = Instant::now();
    let ran =
        loadgen(&format!("replay --speed {speed}"), &[file, "--url", &recorder.url, "--pid", &server.pid]);
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    recorder.wait_for_closes(&second);
    recorder.stop("TERM");
    let replayed = Trace::read(&second).before_connection(counts.connections);
    let again = replayed.counts();
    assert_eq!(tools::Counts { bytes: 0, ..again }, tools::Counts { bytes: 0, ..counts });
    // The names of channels and the versions have other lengths.
    assert!(again.bytes.abs_diff(counts.bytes) * 20 < counts.bytes, "{} {}", again.bytes, counts.bytes);
    assert_eq!(replayed.connections(), recorded.connections(), "what each connection did, in its order");
    // Nothing comes before it is due, which counts from some time after the replay was started.
    let gap_us = begins.duration_since(recorder_is_up).as_micros() as f64;
    let (due, came) = (recorded.times_us(), replayed.times_us());
    for (due, came) in due.iter().map(|due| due - due_first(&recorded)).zip(&came) {
        assert!(*came as f64 + 1.0 >= gap_us + due as f64 / speed, "{came} {due}");
    }
    let report = &ran.report;
    assert_eq!(report["facts"]["updates sent"].as_f64(), Some(counts.updates as f64), "{report}");
    assert_eq!(report["facts"]["deletes sent"].as_f64(), Some(counts.deletes as f64), "{report}");
    assert_eq!(report["rates"][0]["total"].as_u64(), Some(counts.changes), "all acked: {report}");
    assert_eq!(report["latencies"][0]["count"].as_u64(), Some(counts.updates), "{report}");
    assert!(report["verification"]["checked"].as_u64() > Some(0) && report["server"].is_object(), "{report}");

    // As fast as it can be, and only the beginning.
    let recorder = Recorder::start(&server.url, &third, "");
    let ran = loadgen("replay --speed max", &[file, "--url", &recorder.url]);
    assert_eq!(
        (ran.code, ran.report["rates"][0]["total"].as_u64()),
        (Some(0), Some(counts.changes)),
        "{}",
        ran.text
    );
    recorder.wait_for_closes(&third);
    recorder.stop("INT");
    let replayed = Trace::read(&third).before_connection(counts.connections);
    assert_eq!(replayed.connections(), recorded.connections());
    let ran = loadgen("replay --first 0.5", &[file, "--url", &server.url]);
    let some = ran.report["rates"][0]["total"].as_u64();
    assert!(ran.code == Some(0) && some > Some(0) && some < Some(counts.changes), "{}", ran.text);
}

fn due_first(trace: &Trace) -> u64 {
    trace.times_us()[0]
}

/// Traffic with markers wherever a user's data, names, tokens and addresses can be: none is in the file, however spelled.
#[test]
fn nothing_of_what_was_said_is_in_the_trace() {
    const TEXT: &str = "Zanzibar7MARKERquokka";
    const NUMBERS: [&str; 4] = ["481516234", "8675309.125", "7070707070707", "987654321"];
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("trace");
    let recorder = Recorder::start(&support::start(Mistake::None, Dialect::Paged), &file, "");
    let hex: String = TEXT.bytes().map(|byte| format!("{byte:02X}")).collect();
    let head = format!(
        "GET /?channel={TEXT}&token={TEXT} HTTP/1.1\r\nHost: {TEXT}\r\nAuthorization: Bearer {TEXT}\r\nCookie: {TEXT}\r\n\
         Sec-WebSocket-Protocol: {TEXT}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    );
    let mut client = upgrade(&recorder.url, &head);
    let [integer, real, version, col_version] = NUMBERS;
    let changes = format!(
        r#"["{TEXT}","{hex}","{TEXT}","{TEXT}",1,{version},"{TEXT}",1,0],
           ["{TEXT}","{TEXT}","{TEXT}",{{"$blob":"{hex}"}},1,{version},"{TEXT}",1,1],
           ["{TEXT}","{TEXT}2","-1",null,2,{version},"{TEXT}",2,2],
           ["{TEXT}","{TEXT}","{TEXT}2",{integer},1,{version},"{TEXT}",1,3],
           ["{TEXT}","{TEXT}","{TEXT}3",{real},1,{version},"{TEXT}",1,4]"#
    );
    let messages = [
        format!(r#"{{"type":"auth","token":"{TEXT}"}}"#),
        format!(r#"{{"type":"pull","siteId":"{TEXT}","version":0,"channel":"{TEXT}","{TEXT}":"{TEXT}"}}"#),
        format!(
            r#"{{"type":"update","siteId":"{TEXT}","version":{version},"channel":"{TEXT}","changes":[{changes}]}}"#
        ),
        format!(r#"{{"type":"{TEXT}","{TEXT}":{integer}}}"#),
        // Refused for its clock, so it is not told either.
        format!(
            r#"{{"type":"update","version":1,"changes":[["t","{TEXT}","c",1,{col_version},1,"S",0,0]]}}"#
        ),
    ];
    for message in &messages {
        client.write_all(&frame(0x81, message.as_bytes())).expect("written");
    }
    client.write_all(&frame(0x89, TEXT.as_bytes())).expect("written");
    recorder.wait_for(&file, 7);
    // The connection is still open.
    recorder.stop("INT");
    drop(client);

    let written = fs::read_to_string(&file).expect("written");
    let trace = Trace::read(&file);
    let kinds: Vec<_> = trace.events.iter().map(|event| tools::kind(&event[2])).collect();
    assert_eq!(kinds, ["open", "auth", "pull", "update", "other", "other"], "{written}");
    assert_eq!(trace.counts().deletes, 1);
    let mut forbidden: Vec<String> = NUMBERS.iter().map(|number| (*number).to_owned()).collect();
    forbidden.extend(["127.0.0.1", "Bearer", "http", "siteId"].map(str::to_owned));
    // Every seven bytes of the marker: as they are, in hex, and in base64 wherever they begin.
    for part in TEXT.as_bytes().windows(7) {
        forbidden.push(String::from_utf8_lossy(part).into_owned());
        forbidden.push(part.iter().map(|byte| format!("{byte:02x}")).collect());
        forbidden.push(tools::base64(&part[..6]));
    }
    for secret in forbidden {
        assert!(!written.to_lowercase().contains(&secret.to_lowercase()), "{secret} in {written}");
    }
    // The same search finds what it looks for.
    assert!(tools::base64(TEXT.as_bytes()).contains(&tools::base64(&TEXT.as_bytes()[..6])));
}

/// Whatever the two sides send, also what is no WebSocket, passes as it is.
#[test]
fn bytes_pass_unchanged() {
    let mut noise = 1_u64;
    let mut noisy = |len: usize| -> Vec<u8> {
        let next = |_| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 56) as u8
        };
        (0..len).map(next).collect()
    };
    let websocket: &[u8] = b"GET /?channel=a HTTP/1.1\r\nUpgrade: websocket\r\nX-Odd:  \t spaces \r\n\r\n";
    let upgraded: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x02hi";
    let frames = [
        frame(0x89, b"ping"),
        frame(0x01, b"{\"type\":"),
        frame(0x8a, b""),
        frame(0x80, b"\"pull\",\"version\":3}"),
        frame(0x82, &noisy(200_000)),
        frame(0xc1, b"compressed"),
        frame(0x8f, b"no such opcode"),
        frame(0x88, b"\x03\xe8bye"),
    ]
    .concat();
    let (chaos, answer) = (noisy(3_000_000), noisy(3_000_000));
    for (request, response, up, down) in [
        (websocket, upgraded, &frames[..], &b"\x8a\x04ping\x01\x01a\x80\x01b\x88\x02\x03\xe8"[..]),
        (websocket, upgraded, &chaos, &answer),
        (websocket, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", b"GET /", b"HTTP/1.1"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"", &answer),
        (b"\x16\x03\x01 not HTTP \r\n\r\n", b"\x15\x03", &chaos, b""),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
        let dir = tempfile::tempdir().expect("a directory");
        let recorder = Recorder::start(&url, &dir.path().join("trace"), "");
        let sent = [request, up].concat();
        let (at_server, at_client) = thread::scope(|scope| {
            let serving = scope.spawn(|| {
                let (mut stream, _) = listener.accept().expect("it connects");
                let mut heard = vec![0; request.len()];
                stream.read_exact(&mut heard).expect("the request");
                stream.write_all(response).expect("written");
                exchange(stream, heard, down)
            });
            let mut stream =
                TcpStream::connect(&recorder.url["ws://".len()..recorder.url.len() - 1]).expect("up");
            stream.write_all(request).expect("written");
            let mut heard = vec![0; response.len()];
            stream.read_exact(&mut heard).expect("the response");
            let at_client = exchange(stream, heard, up);
            (serving.join().expect("no panic"), at_client)
        });
        assert!(
            at_server == sent && at_client == [response, down].concat(),
            "{}",
            String::from_utf8_lossy(request)
        );
        recorder.stop("INT");
    }
}

/// Writes all and says so, while it reads to the end; all that was read.
fn exchange(mut stream: TcpStream, mut heard: Vec<u8>, say: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().expect("a handle");
    thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(say).expect("written");
            writer.shutdown(Shutdown::Write).expect("shut");
        });
        stream.read_to_end(&mut heard).expect("to its end");
    });
    heard
}

/// A client that does not read stops its server, and takes no memory.
#[test]
fn a_slow_reader_slows_the_sender() {
    const TOTAL: usize = 200 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = Recorder::start(&url, &dir.path().join("trace"), "");
    let written = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&written);
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it connects");
        assert!(stream.read(&mut [0; 4_096]).expect("the request") > 0);
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").expect("written");
        // One message that never ends.
        stream.write_all(&[&[0x81, 127][..], &(TOTAL as u64 * 2).to_be_bytes()].concat()).expect("written");
        let chunk = vec![b'x'; 64 << 10];
        while counted.fetch_add(chunk.len(), Ordering::Relaxed) < TOTAL {
            stream.write_all(&chunk).expect("written");
        }
    });
    let mut client = upgrade(&recorder.url, "GET /?channel=a HTTP/1.1\r\nUpgrade: websocket\r\n\r\n");
    let mut before = usize::MAX;
    while written.load(Ordering::Relaxed) != before {
        before = written.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(300));
    }
    assert!(before < TOTAL, "all was taken from the server, and nobody had read it");
    let mut read = 0;
    let mut chunk = vec![0; 1 << 20];
    while read < TOTAL {
        read += client.read(&mut chunk).expect("there is more");
    }
    let peak = recorder.memory_peak_kib();
    assert!(peak < 64 << 10, "{peak} KiB");
    recorder.stop("INT");
}

/// At its limit the file is complete, and connections go on.
#[test]
fn a_full_trace_ends_and_the_traffic_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("trace");
    let recorder =
        Recorder::start(&support::start(Mistake::None, Dialect::Paged), &file, "--max-bytes 20000");
    let merge =
        "merge --seconds 0.5 --warmup-seconds 0.1 --channels 2 --connections-per-channel 2 --changes 3";
    let ran = loadgen(merge, &["--url", &recorder.url]);
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    let said = recorder.stop("INT");
    assert!(said.contains("the trace is full"), "{said}");
    let trace = Trace::read(&file);
    assert!(trace.end["full"] == true && fs::metadata(&file).expect("written").len() <= 20_000);
    assert!(ran.report["rates"][0]["total"].as_u64() > Some(trace.counts().changes), "{}", ran.text);
    let url = support::start(Mistake::None, Dialect::Paged);
    let ran = loadgen("replay", &[file.to_str().expect("UTF-8"), "--url", &url]);
    assert!(ran.code == Some(0) && ran.text.contains("--max-bytes"), "{}", ran.text);
}

/// Two clients that follow each other, and a third that only reads.
const SMALL: &str = r#"{"causeway_trace":1}
[900000000,0,{"open":{"channel":0}}]
[900000000,1,{"open":{"channel":0}}]
[900000000,0,{"pull":{"site":0,"bytes":80}}]
[900000000,1,{"pull":{"site":1,"bytes":80}}]
[900100000,0,{"update":{"site":0,"bytes":200,"changes":[[0,0,8,0,"s20",1,1],[0,1,8,0,"i3",1,1]]}}]
[900200000,1,{"update":{"site":1,"bytes":200,"changes":[[1,0,76,0,"s20",1,1]]}}]
[900300000,0,{"update":{"site":0,"bytes":200,"changes":[[0,0,8,0,"s20",0,1]]}}]
[900400000,1,{"auth":{"bytes":200}}]
[900400000,2,{"open":{"channel":0}}]
[900400000,2,{"pull":{"site":2,"bytes":80,"behind":1}}]
[900500000,1,{"update":{"site":1,"bytes":200,"changes":[[0,1,8,0,"r5",0,1]]}}]
[900600000,0,"close"]
{"end":900600000,"full":false}
"#;

/// Replays this text on a server that makes one mistake.
fn replay(text: &str, mistake: Mistake, arguments: &[&str]) -> tools::Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("trace");
    fs::write(&file, text).expect("written");
    let url = support::start(mistake, Dialect::Paged);
    let all = [arguments, &[file.to_str().expect("UTF-8"), "--url", &url, "--drain-seconds", "1"]].concat();
    loadgen("replay", &all)
}

#[test]
fn a_replay_finds_what_a_server_does_wrong() {
    let began = Instant::now();
    let well = replay(SMALL, Mistake::None, &[]);
    assert!(began.elapsed() >= Duration::from_millis(600), "it took its time");
    assert!(well.code == Some(0) && well.text.contains("1 messages were neither"), "{}", well.text);
    assert_eq!(well.report["facts"]["connections opened"], 3.0, "{}", well.report);
    for (mistake, named) in [
        (Mistake::ForgetsAcked, "the last pull"),
        (Mistake::SkipsFollower, "client "),
        (Mistake::AltersValue, "client "),
        (Mistake::VersionFalls, "version fell from 2 to 1"),
        (Mistake::AnswersError, "error storage"),
        (Mistake::NeverAcks, "no answer within 1 s"),
        (Mistake::HangsUp, "closed with code 1013"),
    ] {
        let found = replay(SMALL, mistake, &[]);
        assert!(found.code == Some(1) && found.text.contains(named), "{mistake:?}: {}", found.text);
    }
}

#[test]
fn a_cut_trace_is_replayed_and_rubbish_is_named_by_its_line() {
    let cut = replay(&SMALL[..SMALL.len() - 130], Mistake::None, &[]);
    assert!(cut.code == Some(0) && cut.text.contains("the trace was cut"), "{}", cut.text);
    for (from, to, named) in [
        (r#"{"causeway_trace":1}"#, "hello", "this is no trace"),
        (r#"{"causeway_trace":1}"#, r#"{"causeway_trace":2}"#, "a trace of version 2"),
        (r#"[900400000,1,{"auth""#, r#"[900400000,1,{"rubbish""#, "line 9:"),
        (r#"[900400000,1,{"auth""#, r#"[900400000,7,{"auth""#, "line 9: connection 7 is not open"),
        (r#""s20",0,1"#, r#""s20",1,1"#, "line 8: change 0"),
    ] {
        let bad = replay(&SMALL.replacen(from, to, 1), Mistake::None, &[]);
        assert!(bad.code == Some(2) && bad.text.contains(named), "{named}: {}", bad.text);
    }
}
