use super::*;

fn load(env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let own = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>().into_iter()
    };
    Config::load(None, own(env), own(flags))
}

#[test]
fn a_flag_goes_before_the_environment() {
    let env = [("CAUSEWAY_SHARDS", "3"), ("CAUSEWAY_STRICT_CHANNEL", "true"), ("HOME", "/root")];
    let config = load(&env, &[("shards", "5")]).unwrap();
    assert_eq!((config.shards, config.strict_channel), (5, true));
}

#[test]
fn what_is_wrong_is_named() {
    for (env, flags, name) in [
        (&[("CAUSEWAY_SHARDSS", "3")][..], &[][..], "CAUSEWAY_SHARDSS"),
        (&[], &[("page_max_changes", "0")], "--page-max-changes"),
        (&[], &[("durability", "most")], "--durability"),
        (&[], &[("key_format", "json")], "--key-format"),
        (&[], &[("store", "oracle")], "store"),
        (&[], &[("admin_listen", "127.0.0.1:1")], "admin_listen"),
        (&[], &[("tls_cert", "cert.pem")], "tls_cert"),
        (&[], &[("tls_key", "key.pem")], "tls_key"),
        (&[], &[("admin_tls", "true")], "admin_tls"),
        (&[], &[("redis", "redis://127.0.0.1")], "redis: it needs node"),
        (&[], &[("node", "a")], "node: it needs redis"),
        (&[], &[("redis", "http://127.0.0.1"), ("node", "a")], "redis"),
        (&[], &[("redis_password_file", "f")], "redis_password_file: it needs redis"),
        (&[], &[("redis_ca", "f")], "redis_ca: it needs redis"),
        (&[], &[("redis", "redis://h"), ("node", "a"), ("redis_ca", "f")], "redis_ca"),
        (
            &[],
            &[("redis", "redis://:p@h"), ("node", "a"), ("redis_password_file", "f")],
            "redis_password_file: `redis` has",
        ),
        (&[], &[("redis", "redis://127.0.0.1"), ("node", "a b")], "node"),
        (&[], &[("auth_issuer", "us")], "auth_issuer"),
        (&[("CAUSEWAY_AUTH_AUDIENCE", "us")], &[], "auth_audience"),
        (&[], &[("auth_leeway_s", "601")], "--auth-leeway-s"),
        (&[], &[("trusted_proxies", "10.0.0.0/8,me")], "--trusted-proxies"),
        (&[], &[("allowed_origins", "example.com")], "--allowed-origins"),
    ] {
        assert!(load(env, flags).unwrap_err().to_string().contains(name));
    }
}

#[test]
fn a_tables_name_goes_before_its_settings() {
    let read = |text: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        Config::load(Some(file.path()), [].into_iter(), [].into_iter()).map_err(|e| e.to_string())
    };
    let config =
        read("shards = 3\n[auth]\njwks_file = \"j\"\nleeway_s = 1\n[page]\nmax_bytes = 300\n").unwrap();
    assert_eq!((config.auth_jwks_file, config.auth_leeway_s), (Some("j".into()), 1));
    assert_eq!((config.shards, config.page_max_bytes), (3, 300));
    for (wrong, told) in [
        ("[auth]\nsecret = 1", "auth_secret: there is no such setting"),
        ("[auth]\nauth_leeway_s = 1", "auth_auth_leeway_s: there is no such setting"),
        ("auth_leeway_s = 1\n[auth]\nleeway_s = 2", "auth_leeway_s: it is set twice"),
        ("[auth.leeway]\ns = 1", "auth_leeway: table is not a value"),
    ] {
        let error = read(wrong).unwrap_err();
        assert!(error.contains(told), "{wrong}: {error}");
    }
}

#[test]
fn the_readme_has_every_setting_with_its_default() {
    let rows: Vec<_> =
        include_str!("../../README.md").lines().filter(|line| line.starts_with("| `")).collect();
    let default = Config::default();
    for setting in SETTINGS {
        let value = match default.toml(setting.name).trim_matches('"') {
            "" | "[]" => String::new(),
            value => format!("`{value}` "),
        };
        let row = format!("| `{}` | {value}| {} |", setting.name, setting.about.trim());
        assert!(rows.contains(&&*row), "the README lacks {row}");
    }
}

#[test]
fn what_is_printed_can_be_read() {
    let set = Config { data: "a \"quoted\" path".into(), shards: 7, ..Config::default() };
    let set = Config {
        schema: Some("s.sql".into()),
        key_format: KeyFormat::Plain,
        admin_listen: Some("127.0.0.1:1".into()),
        admin_token_file: Some("token".into()),
        tls_cert: Some("cert.pem".into()),
        tls_key: Some("key.pem".into()),
        admin_tls: true,
        insecure_no_auth: true,
        auth_hs256_secret_file: Some("secret".into()),
        auth_issuer: Some("us".into()),
        trusted_proxies: List(vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()]),
        allowed_origins: List(vec!["https://*.example.com".parse().unwrap()]),
        ..set
    };
    let mut node = set.clone();
    for (name, value) in [
        ("redis", "rediss://user@127.0.0.1"),
        ("redis_password_file", "password"),
        ("redis_ca", "ca.pem"),
        ("node", "a"),
    ] {
        node.set(name, value).unwrap();
    }
    for config in [set, node, Config::default()] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, config.to_toml()).unwrap();
        assert_eq!(Config::load(Some(file.path()), [].into_iter(), [].into_iter()).unwrap(), config);
    }
}
