//! Certificates and keys in files, right and wrong ones, at the start. The right ones are made by `openssl`, as operators make them.

use crate::common::{Certificate, Finished, Server, run};
use crate::trusting;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Runs commands in a directory.
pub(crate) fn shell(dir: &Path, script: &str) {
    let done = Command::new("sh").args(["-euc", script]).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

#[test]
fn keys_of_every_kind_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = "openssl req -x509 -new -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
        -addext basicConstraints=CA:FALSE";
    let keys = [
        (
            "rsa",
            "openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.key",
            "BEGIN PRIVATE KEY",
        ),
        ("pkcs1", "openssl rsa -in rsa.key -traditional -out pkcs1.key", "BEGIN RSA PRIVATE KEY"),
        (
            "p256",
            "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out p256.key",
            "BEGIN PRIVATE KEY",
        ),
        ("sec1", "openssl ec -in p256.key -out sec1.key", "BEGIN EC PRIVATE KEY"),
        // With the curve's parameters before it, as `openssl ecparam` writes it.
        ("ecparam", "openssl ecparam -name secp384r1 -genkey -out ecparam.key", "BEGIN EC PARAMETERS"),
        ("ed25519", "openssl genpkey -algorithm ED25519 -out ed25519.key", "BEGIN PRIVATE KEY"),
    ];
    for (name, make, head) in keys {
        shell(dir.path(), &format!("{make}\n{certificate} -key {name}.key -out {name}.pem"));
        let (cert, key) =
            (path(dir.path(), &format!("{name}.pem")), path(dir.path(), &format!("{name}.key")));
        assert!(fs::read_to_string(&key).unwrap().contains(head), "{name}");
        let server = Server::with("memory", &[("tls-cert", &cert), ("tls-key", &key)]);
        assert_eq!(trusting(&server, Path::new(&cert)), Some(200), "{name}");
    }
    // Both in one file.
    shell(dir.path(), "cat sec1.key p256.pem > both.pem; chmod 600 both.pem");
    let both = path(dir.path(), "both.pem");
    let server = Server::with("memory", &[("tls-cert", &both), ("tls-key", &both)]);
    assert_eq!(trusting(&server, Path::new(&path(dir.path(), "p256.pem"))), Some(200));
}

#[test]
fn what_cannot_be_used_is_told_with_file_and_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (Certificate::new(), Certificate::new());
    ours.write(dir.path());
    let write = |name: &str, content: &str| fs::write(dir.path().join(name), content).unwrap();
    write("empty.pem", "");
    write("text.pem", "this is no certificate\n");
    write("cut.pem", &ours.cert_pem[..200]);
    write("damaged.pem", &ours.cert_pem.replace('M', "!"));
    write("wrong.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    write("reversed.pem", &[&other.cert_pem[..], &ours.cert_pem].concat());
    write("other.key", &other.key_pem);
    write("cut.key", &ours.key_pem[..100]);
    write("damaged.key", &ours.key_pem.replace('M', "!"));
    write("large.pem", &" ".repeat((1 << 20) + 1));
    shell(
        dir.path(),
        "openssl pkey -in key.pem -aes256 -passout pass:secret -out pkcs8.key
        openssl ec -in key.pem -aes256 -passout pass:secret -out sec1.key
        openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out weak.key
        openssl req -x509 -key weak.key -days 30 -subj /CN=localhost -out weak.pem
        mkdir directory; mkfifo pipe",
    );
    let cases = [
        ("missing.pem", "key.pem", "tls_cert", "No such file"),
        ("empty.pem", "key.pem", "tls_cert", "there is no certificate in it"),
        ("text.pem", "key.pem", "tls_cert", "BEGIN CERTIFICATE"),
        ("key.pem", "key.pem", "tls_cert", "there is no certificate in it"),
        ("cut.pem", "key.pem", "tls_cert", "ends in the middle"),
        ("damaged.pem", "key.pem", "tls_cert", "damaged"),
        ("wrong.pem", "key.pem", "tls_cert", "damaged"),
        ("large.pem", "key.pem", "tls_cert", "larger than 1 MiB"),
        ("directory", "key.pem", "tls_cert", "not a file"),
        ("cert.pem", "pipe", "tls_key", "not a file"),
        ("reversed.pem", "key.pem", "tls_key", "the server's own certificate first"),
        ("cert.pem", "other.key", "tls_key", "not the key of the first certificate"),
        ("cert.pem", "missing.key", "tls_key", "No such file"),
        ("cert.pem", "cert.pem", "tls_key", "there is no private key in it"),
        ("cert.pem", "cut.key", "tls_key", "ends in the middle"),
        ("cert.pem", "damaged.key", "tls_key", "damaged"),
        ("cert.pem", "pkcs8.key", "tls_key", "encrypted"),
        ("cert.pem", "sec1.key", "tls_key", "openssl pkey -in"),
        ("weak.pem", "weak.key", "tls_key", "2048"),
    ];
    let data = path(dir.path(), "data");
    for (cert, key, setting, told) in cases {
        let (cert, key) = (path(dir.path(), cert), path(dir.path(), key));
        let files = ["--tls-cert", &cert, "--tls-key", &key, "--data", &data];
        for command in ["serve", "check-config"] {
            let finished = run(&[&[command, "--listen", "127.0.0.1:0"][..], &files].concat(), &[]);
            let Finished { code, stdout, stderr } = &finished;
            assert_eq!(*code, Some(1), "{finished:?}");
            let said = if command == "serve" { stderr } else { stdout };
            let named = if setting == "tls_cert" { &cert } else { &key };
            let problem = said.lines().find(|line| line.contains(&format!("{setting} {named}: ")));
            assert!(problem.is_some_and(|problem| problem.contains(told)), "{told}: {finished:?}");
            let secret = ours.key_pem.lines().nth(1).unwrap();
            assert!(!stderr.contains(&secret[..20]) && !stdout.contains(&secret[..20]), "{finished:?}");
        }
    }
    let finished = run(&["check-config", "--tls-cert", &path(dir.path(), "cert.pem")], &[]);
    assert!(finished.code == Some(1) && finished.stderr.contains("tls_key"), "{finished:?}");
    assert!(!Path::new(&data).exists());
}

#[test]
fn what_is_doubtful_is_told_and_served() {
    let dir = tempfile::tempdir().unwrap();
    let now = std::time::SystemTime::now();
    let day = std::time::Duration::from_secs(86_400);
    let expired = Certificate::with(|params| {
        (params.not_before, params.not_after) = ((now - 2 * day).into(), (now - day).into());
    });
    let early = Certificate::with(|params| params.not_before = (now + day).into());
    for (certificate, told) in [(expired, "has expired"), (early, "not valid yet")] {
        let server = Server::over_tls_in(dir.path(), "memory", &certificate, &[]);
        // Its clients refuse it.
        assert!(std::io::Write::write_all(&mut server.stream(), b"x").is_err());
        assert!(server.stop_and_log().contains(told));
    }
    let open = Certificate::new();
    for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true)] {
        let server = Server::over_tls_in(dir.path(), "memory", &open, &[]);
        drop(server);
        fs::set_permissions(dir.path().join("key.pem"), fs::Permissions::from_mode(mode)).unwrap();
        let (cert, key) = (path(dir.path(), "cert.pem"), path(dir.path(), "key.pem"));
        let finished = run(&["check-config", "--tls-cert", &cert, "--tls-key", &key], &[]);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert_eq!(finished.stdout.contains("chmod 600"), warned, "{mode:o}: {finished:?}");
    }
}
