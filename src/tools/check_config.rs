//! `causeway check-config`: the configuration, and the files that it names.

use causeway::admin::http::Token;
use causeway::admin::{Line, Problem};
use causeway::auth::Auth;
use causeway::bus::access::Access;
use causeway::config::Config;
use causeway::logging;
use causeway::schema_file::{self, Follows};
use causeway::server::{listen_address, resolve};
use causeway::tls::Tls;
use causeway_storage::Schema;

/// Checks what no setting can tell of itself: what was set is well-formed when it gets here. Tells all that is well, and all that
/// is not; writes nothing.
pub(super) fn check(config: &Config, tell: &mut dyn FnMut(Line)) {
    let mut check = |setting: &str, checked: Result<String, String>| {
        tell(match checked {
            Ok(found) => Line::Checked { setting: setting.to_owned(), found },
            Err(problem) => Line::Problem(Problem::failed(problem)),
        });
    };
    let address = |name: &str, listen: &String| match resolve(listen) {
        Ok(_) => Ok(listen.clone()),
        Err(e) => Err(format!("{name} {listen:?} is not an address: {e}")),
    };
    let listen = address("listen", &config.listen);
    check(
        "listen",
        listen.and_then(|found| listen_address(config).map(|_| found).map_err(|e| e.to_string())),
    );
    if config.has_auth() {
        check(
            "auth",
            Auth::open(config)
                .map(|auth| auth.map_or(0, |auth| auth.state().0))
                .map(|keys| format!("keys: {keys}"))
                .map_err(|e| e.to_string()),
        );
    }
    if let Some(listen) = &config.admin_listen {
        check("admin_listen", address("admin_listen", listen));
    }
    if let Some(path) = &config.admin_token_file {
        check("admin_token_file", Token::read(path).map(|_| path.display().to_string()));
    }
    match Tls::load(config) {
        Ok(None) => {}
        Ok(Some(tls)) => {
            let warnings = tls.warnings().into_iter().map(|warning| format!("; {warning}"));
            check("tls_cert", Ok(tls.info().to_string() + &warnings.collect::<String>()));
        }
        Err(e) => check("tls_cert", Err(e.to_string())),
    }
    if let Some(access) = Access::new(config) {
        check("redis", access.client().map(|_| access.to_string()).map_err(|e| e.to_string()));
    }
    let filter = logging::check_filter(&config.log);
    check("log", filter.map(|_| config.log.clone()).map_err(|e| format!("log: {e}")));
    check("data", check_data(config));
    if let Some(path) = &config.schema {
        let schema = schema_file::load(config).and_then(|schema| check_schema(config, schema.as_deref()));
        check("schema", schema.map(|found| format!("{}: {found}", path.display())));
    }
    tell(Line::End);
}

fn check_data(config: &Config) -> Result<String, String> {
    let data = config.data.display();
    match config.data.metadata() {
        Ok(found) if !found.is_dir() => Err(format!("data {data}: it is not a directory")),
        Ok(_) => Ok(format!("{data}, for the {} store", config.store)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(format!("{data}, not there yet")),
        Err(e) => Err(format!("data {data}: {e}")),
    }
}

fn check_schema(config: &Config, schema: Option<&Schema>) -> Result<String, String> {
    let Some(schema) = schema else { return Ok(String::new()) };
    let last = match schema_file::follows(&config.data, schema)? {
        Follows::First => "the first for this data directory",
        Follows::Same => "the data directory's last",
        Follows::Unchecked => {
            "follows the data directory's last; the next start looks for cells that do not fit"
        }
    };
    Ok(format!("{}; {last}", schema_file::describe(schema)))
}
