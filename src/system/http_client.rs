//! Requests to HTTP servers of the user: webhooks, and the endpoint of an advisor.

use std::io;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Variable with the key for the endpoint of `[advisor]`, which concerns rank 0 alone.
pub(crate) const ADVISOR_KEY: &str = "PHALANX_ADVISOR_KEY";

/// A client for one address, which gives up after `timeout`; HTTPS through the proxy of the
/// environment, if there is one. A redirect is an answer like any other, so that the user corrects
/// the address.
///
/// # Errors
/// If the certificates of the system cannot be read.
pub(crate) fn client(url: &str, timeout: Duration) -> io::Result<Agent> {
    let config = Agent::config_builder().timeout_global(Some(timeout)).max_redirects(0).http_status_as_error(false);
    let config = match url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:")) {
        true => config.tls_config(TlsConfig::builder().root_certs(roots()?).build()),
        // For HTTP ureq would open a tunnel, which most proxies allow for the HTTPS port only.
        false => config.proxy(None),
    };
    Ok(config.build().new_agent())
}

/// The trusted certificates: those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, else those of the system,
/// else (in a container without any) the built-in ones of Mozilla.
fn roots() -> io::Result<RootCerts> {
    let found = rustls_native_certs::load_native_certs();
    if !found.certs.is_empty() {
        return Ok(RootCerts::from(found.certs.iter().map(|cert| Certificate::from_der(cert).to_owned())));
    }
    match found.errors.into_iter().next() {
        Some(error) => Err(io::Error::other(format!("{error}: check SSL_CERT_FILE and SSL_CERT_DIR"))),
        None => Ok(RootCerts::WebPki),
    }
}

#[cfg(test)]
#[path = "../../tests/support/hook.rs"]
pub(crate) mod hook;
