use std::time::Duration;

use hyper::HeaderMap;
use tokio::time::advance;

use super::meter::Meter;
use super::partial::Partial;
use super::*;
use crate::config::{Config, List};

fn limits(config: Config) -> Arc<Limits> {
    Limits::new(Settings::from(&config), Arc::default())
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

#[track_caller]
fn assert_refused(admitted: Result<Admission, Refused>, limit: Limit) {
    assert_eq!(admitted.err().map(|refused| refused.limit()), Some(limit));
}

fn forwarded_for(address: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-for", address.parse().unwrap());
    headers
}

#[tokio::test]
async fn connections_are_counted_while_they_last() {
    let limits = limits(Config { max_connections: 3, max_connections_per_ip: 2, ..Config::default() });
    let first = limits.admit(ip("192.0.2.1")).unwrap();
    let _second = limits.admit(ip("::ffff:192.0.2.1")).unwrap();
    assert_refused(limits.admit(ip("192.0.2.1")), Limit::ConnectionsPerIp);
    let _third = limits.admit(ip("2001:db8::1")).unwrap();
    assert_refused(limits.admit(ip("192.0.2.2")), Limit::Connections);
    drop(first);
    // Who was refused is not counted.
    limits.admit(ip("192.0.2.1")).unwrap();
}

#[tokio::test]
async fn a_network_of_ipv6_is_one_client() {
    let limits = limits(Config { max_connections_per_ip: 1, ipv6_prefix: 56, ..Config::default() });
    let _first = limits.admit(ip("2001:db8:0:1::1")).unwrap();
    assert_refused(limits.admit(ip("2001:db8:0:ff::2")), Limit::ConnectionsPerIp);
    limits.admit(ip("2001:db8:0:100::1")).unwrap();
}

#[tokio::test(start_paused = true)]
async fn new_connections_come_at_their_rate() {
    let config =
        Config { max_new_connections_per_ip_per_s: 1, max_new_connections_per_s: 2, ..Config::default() };
    let limits = limits(config);
    for _ in 0..10 {
        limits.admit(ip("192.0.2.1")).unwrap();
    }
    // What is refused for its own haste takes nothing from the others.
    for _ in 0..100 {
        assert_refused(limits.admit(ip("192.0.2.1")), Limit::NewConnectionsPerIp);
    }
    for _ in 0..10 {
        limits.admit(ip("192.0.2.2")).unwrap();
    }
    assert_refused(limits.admit(ip("192.0.2.3")), Limit::NewConnections);
    advance(Duration::from_millis(500)).await;
    limits.admit(ip("192.0.2.3")).unwrap();
    assert_refused(limits.admit(ip("192.0.2.4")), Limit::NewConnections);
}

#[tokio::test]
async fn behind_a_proxy_the_client_is_counted() {
    let limits = limits(Config {
        max_connections_per_ip: 1,
        trusted_proxies: List(vec!["10.0.0.0/8".parse().unwrap()]),
        ..Config::default()
    });
    let proxied: Vec<_> = (0..3).map(|_| limits.admit(ip("10.0.0.1")).unwrap()).collect();
    let admit = |n: usize, client| limits.admit_request(&proxied[n], &forwarded_for(client));
    let first = admit(0, "6.6.6.6, 192.0.2.1").unwrap();
    let refused = admit(1, "192.0.2.1").unwrap_err();
    assert_eq!(refused, Refused::Full(Limit::ConnectionsPerIp));
    let _second = admit(1, "192.0.2.2").unwrap();
    assert_refused(limits.admit(ip("192.0.2.2")), Limit::ConnectionsPerIp);
    drop(first);
    admit(2, "192.0.2.1").unwrap();

    // Who is no trusted proxy is not believed, and counted once.
    let direct = limits.admit(ip("192.0.2.9")).unwrap();
    let place = limits.admit_request(&direct, &forwarded_for("192.0.2.2")).unwrap();
    assert_eq!(place.address, ip("192.0.2.9"));
}

#[tokio::test(start_paused = true)]
async fn behind_a_proxy_each_request_is_charged() {
    let limits = limits(Config {
        max_new_connections_per_ip_per_s: 1,
        trusted_proxies: List(vec!["10.0.0.1".parse().unwrap()]),
        ..Config::default()
    });
    let proxied = limits.admit(ip("10.0.0.1")).unwrap();
    let ask = |client| limits.admit_request(&proxied, &forwarded_for(client));
    for _ in 0..10 {
        assert_eq!(ask("192.0.2.1").unwrap().address, ip("192.0.2.1"));
    }
    assert_eq!(ask("192.0.2.1").unwrap_err().limit(), Limit::NewConnectionsPerIp);
    ask("192.0.2.2").unwrap();
    // What a connection asks for that has an address of its own was paid for with the connection.
    let direct = limits.admit(ip("192.0.2.9")).unwrap();
    for _ in 0..20 {
        limits.admit_request(&direct, &HeaderMap::new()).unwrap();
    }
}

#[tokio::test]
async fn a_subjects_connections_are_counted() {
    let limits = limits(Config { max_connections_per_subject: 1, ..Config::default() });
    let (ada, bob): (Arc<str>, Arc<str>) = ("ada".into(), "bob".into());
    let admission = limits.admit(ip("192.0.2.1")).unwrap();
    let admit = |subject| {
        let mut place = limits.admit_request(&admission, &HeaderMap::new())?;
        limits.admit_subject(&mut place, subject).map(|()| place)
    };
    let first = admit(&ada).unwrap();
    assert_eq!(admit(&ada).unwrap_err(), Refused::Full(Limit::ConnectionsPerSubject));
    admit(&bob).unwrap();
    drop(first);
    admit(&ada).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_subjects_connections_share_its_rates() {
    let limits = limits(Config {
        max_subject_messages_per_s: 1,
        max_subject_changes_per_s: 100,
        max_messages_per_s: 0,
        ..Config::default()
    });
    let ada: Arc<str> = "ada".into();
    let admission = limits.admit(ip("192.0.2.1")).unwrap();
    let admit = || {
        let mut place = limits.admit_request(&admission, &HeaderMap::new()).unwrap();
        limits.admit_subject(&mut place, &ada).unwrap();
        place
    };
    let places = [admit(), admit()];
    let [mut one, mut two] = places.each_ref().map(|place| Meter::new(&limits, place.subject.as_ref()));
    for _ in 0..5 {
        one.take(1, 10).unwrap();
        two.take(1, 10).unwrap();
    }
    let limited = Limited { limit: Limit::SubjectMessages, retry_after: Duration::from_nanos(1) };
    assert_eq!((one.take(1, 10), limited.retry_after_ms()), (Err(limited), 1));
    // An update larger than the burst is possible; those after it wait.
    one.take_changes(5_000).unwrap();
    let limited = two.take_changes(1).unwrap_err();
    assert_eq!((limited.limit, limited.retry_after_ms()), (Limit::SubjectChanges, 40_001));
    // To come back as another connection changes nothing.
    drop((one, two));
    drop(places);
    let again = admit();
    let mut again = Meter::new(&limits, again.subject.as_ref());
    assert!(again.take(1, 10).is_err());
    advance(Duration::from_secs(41)).await;
    again.read(Instant::now());
    again.take(1, 10).unwrap();
    again.take_changes(1).unwrap();
}

#[tokio::test]
async fn messages_that_are_not_whole_share_what_there_is() {
    let config = Config { max_partial_bytes: 1 << 20, max_message_bytes: 1 << 19, ..Config::default() };
    let limits = limits(config.clone());
    let [mut one, mut two] = [(); 2].map(|()| Partial::new(&limits));
    assert!(one.hold(1 << 20) && one.hold(900_000), "all of it, and less");
    // Small messages are not among them.
    assert!(two.hold(65_536) && two.hold(100_000));
    assert!(!two.hold(200_000));
    drop(two);
    let mut three = Partial::new(&limits);
    assert!(three.hold(1 << 17));
    assert!(one.hold(10_000) && three.hold(1 << 20));
    drop((one, three));
    assert!(Partial::new(&limits).hold(1 << 20) && !Partial::new(&limits).hold((1 << 20) + 1));
    // A message has room, however little there is for all.
    let small = Config { max_partial_bytes: 1, ..config };
    assert_eq!(Settings::from(&small).max_partial_bytes, 1 << 20);
}

#[tokio::test(start_paused = true)]
async fn settings_can_be_replaced() {
    let config = Config { max_messages_per_s: 1, max_rate_limited_per_min: 2, ..Config::default() };
    let limits = limits(config.clone());
    let mut meter = Meter::new(&limits, None);
    for _ in 0..10 {
        meter.take(1, 0).unwrap();
    }
    let limited = meter.take(1, 0).unwrap_err();
    assert_eq!([(); 3].map(|()| meter.refused(limited)), [false, false, true]);
    limits.settings.replace(Settings::from(&Config { max_messages_per_s: 2, ..config }));
    meter.take(1, 0).unwrap_err();
    meter.read(Instant::now());
    meter.take(1, 0).unwrap();
}
