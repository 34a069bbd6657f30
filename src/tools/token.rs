//! `causeway token`: a token or an API key to try a server with.

use std::io::Write;
use std::path::PathBuf;

use causeway::auth::{mint, now_ms};
use causeway::config::Config;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// The command.
pub(super) fn command() -> Command {
    Command::new("token")
        .about("Make a token, signed with the first secret of auth_hs256_secret_file, or an API key; only it is printed")
        .arg(Arg::new("subject").long("subject").value_name("NAME").required(true).help("Who is to show it"))
        .arg(
            Arg::new("channel")
                .long("channel")
                .action(ArgAction::Append)
                .value_name("PATTERN=read|write")
                .required(true)
                .help("Channels and what is allowed there; * is any characters. May be given several times"),
        )
        .arg(
            Arg::new("expires-in")
                .long("expires-in")
                .value_name("TIME")
                .default_value("1h")
                .value_parser(parse_seconds)
                .help("How long it is valid: a number with s, m, h or d"),
        )
        .arg(
            Arg::new("private-key-file")
                .long("private-key-file")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Sign with this private key instead (PEM, PKCS #8: RSA, EC on P-256, Ed25519)"),
        )
        .arg(
            Arg::new("api-key")
                .long("api-key")
                .action(ArgAction::SetTrue)
                .conflicts_with_all(["expires-in", "private-key-file"])
                .help("Make an API key instead, and print its entry for auth_api_keys_file on standard error"),
        )
}

/// Prints a token, and nothing else, on standard output.
pub(super) fn run(arguments: &ArgMatches, config: &Config) -> Result<(), String> {
    let channels = arguments.get_many::<String>("channel").unwrap_or_default();
    let channels = channels.map(|channel| {
        let parts = channel.rsplit_once('=').map(|(pattern, access)| (pattern.to_owned(), access.to_owned()));
        parts.ok_or_else(|| format!("--channel {channel:?}: it is PATTERN=read or PATTERN=write"))
    });
    let wanted = mint::Wanted {
        subject: arguments.get_one::<String>("subject").expect("clap requires it").clone(),
        channels: channels.collect::<Result<_, _>>()?,
        expires_in_s: *arguments.get_one::<u64>("expires-in").expect("it has a default"),
        private_key_file: arguments.get_one::<PathBuf>("private-key-file").cloned(),
    };
    let token = if arguments.get_flag("api-key") {
        let (key, entry) = mint::api_key(&wanted)?;
        eprint!("{entry}");
        key
    } else {
        mint::token(config, &wanted, now_ms() / 1000)?
    };
    writeln!(std::io::stdout(), "{token}").map_err(|e| format!("cannot print the token: {e}"))
}

/// Reads a time as a number of seconds.
fn parse_seconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("it is a number with s, m, h or d".into()),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    number.filter(|seconds| *seconds > 0).ok_or_else(|| "it is a number with s, m, h or d".into())
}
