//! The HTTP server of a run, on its own thread: authentication and dispatch of requests.
//!
//! - Every request needs the token of the run, which is generated per session and kept in a file of
//!   the run directory that only its owner can read. It is printed to a terminal, never to a log.
//!   The user chooses the address; there is no default, so nothing listens unless asked to.
//! - Requests are limited in size of head and body, time to arrive, and duration of the connection.
//! - Every connection is accepted at once. At most 64 are kept that have not shown the token (one
//!   more closes the oldest of the address with most of them), and 32 that have (one more closes
//!   the oldest). So connections without a token never block others.
//! - Answers are computed from the files of the run. The thread sleeps between requests.
//! - Requests that change the run (`steer`) are POSTs with the token in a header, which no link or
//!   form of another site can send.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::Live;
use super::openapi::ApiError;
use super::routes::{JSON, Query, ROUTES, to_json};
use super::steer::{self, CHANGES, ChangePath};
use crate::journal::{RunDir, Session};
use crate::observe::job_view::SessionJob;
use crate::observe::terminal::tell;
use crate::system::strangers::Strangers;
use crate::system::{launcher, private_file};

/// Loads the job of a session from its first record.
type SessionReader = fn(&Session) -> Result<SessionJob, String>;

/// Maximum size of the head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Timeout for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for the body of an authenticated request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum duration of a connection; browsers reconnect by themselves.
const MAX_CONNECTION_TIME: Duration = Duration::from_secs(120);
/// Maximum number of connections that have not shown the token.
const MAX_STRANGERS: usize = 64;
/// Maximum number of connections that have.
const MAX_KNOWN: usize = 32;
/// Time that an answer to a change has to leave after the run has ended.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Answers within this time use the same snapshot of the run.
const SNAPSHOT_LIFETIME: Duration = Duration::from_millis(200);

/// A bound address, before the run exists.
pub struct Listener {
    listener: TcpListener,
    bound: SocketAddr,
    token: String,
}

/// Serves a run until it is dropped.
pub struct Serving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// The file with the address.
    page: PathBuf,
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    /// If the address is not available.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Listener { bound: listener.local_addr()?, listener, token: secret()? })
    }

    /// Starts to serve a run, writes the URL of the page to a file of the run directory and says
    /// where. `read` loads the job of a session.
    ///
    /// # Errors
    /// If the thread or the file cannot be created.
    pub fn serve(self, dir: &RunDir, read: SessionReader) -> io::Result<Serving> {
        let Listener { listener, bound, token } = self;
        let url = format!("http://{bound}/?token={token}");
        let page = dir.page();
        private_file::write(&page, &format!("{url}\n"))?;
        let (stop, stopped) = oneshot::channel();
        let dir = dir.clone();
        let serve = move || match runtime(listener, &dir, read, token, stopped) {
            Ok(()) => {}
            Err(error) => tracing::error!("the live page has ended: {error}"),
        };
        let thread = std::thread::Builder::new().name("phalanx-listen".to_owned()).spawn(serve)?;
        // Others may read a log, so the token stands only where the user alone sees it.
        let is_seen = io::stderr().is_terminal() || launcher::prints_to_terminal();
        let shown = if is_seen { url } else { format!("http://{bound}/ with the token in {}", page.display()) };
        tell(&format!("the run's page: {shown}"));
        if !bound.ip().is_loopback() {
            tracing::warn!("{bound} is reachable from other machines, and the connection is not encrypted");
        }
        Ok(Serving { stop: Some(stop), thread: Some(thread), page })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // A thread that has ended by itself has logged why.
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // It may have been removed with the run directory.
        let _ = std::fs::remove_file(&self.page);
    }
}

/// 128 random bits in hexadecimal.
fn secret() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Main function of the thread.
fn runtime(
    listener: TcpListener,
    dir: &RunDir,
    read: SessionReader,
    token: String,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let desk = Rc::new(Handler {
        dir: dir.clone(),
        read,
        token,
        live: RefCell::new(None),
        asking: Cell::new(0),
        guests: RefCell::default(),
    });
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let accepting = tokio::task::spawn_local(accept(listener, Rc::clone(&desk)));
        // Stopped explicitly, or because the sender was dropped.
        let _ = stopped.await;
        accepting.abort();
        // A client that cancelled the run through this server waits for the answer.
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, desk.settled()).await;
        Ok(())
    }))
}

async fn accept(listener: tokio::net::TcpListener, desk: Rc<Handler>) {
    for number in 0.. {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the connection is already closed: both are temporary.
                tracing::debug!("a connection was not accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let own = Rc::clone(&desk);
        let serving = tokio::task::spawn_local(async move {
            let desk = Rc::clone(&own);
            let service = service_fn(move |request| {
                let desk = Rc::clone(&desk);
                async move { Ok::<_, Infallible>(desk.answer(request, peer, number).await) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
            let connection = server.serve_connection(TokioIo::new(stream), service);
            // A client that does not speak HTTP or disconnects does not affect the run.
            let _ = tokio::time::timeout(MAX_CONNECTION_TIME, connection).await;
            own.guests.borrow_mut().leave(number);
        });
        desk.guests.borrow_mut().come(number, peer.ip(), serving.abort_handle());
    }
}

/// Open connections, oldest first: number, and a handle that closes each.
struct Guests {
    strangers: Strangers<AbortHandle>,
    known: VecDeque<(u64, AbortHandle)>,
}

impl Default for Guests {
    fn default() -> Guests {
        Guests { strangers: Strangers::new(MAX_STRANGERS), known: VecDeque::new() }
    }
}

impl Guests {
    fn come(&mut self, number: u64, from: IpAddr, end: AbortHandle) {
        if let Some(end) = self.strangers.come(number, from, end) {
            end.abort();
        }
    }

    /// Marks a connection as authenticated.
    fn trust(&mut self, number: u64) {
        self.known.extend(self.strangers.leave(number).map(|end| (number, end)));
        if self.known.len() > MAX_KNOWN
            && let Some((_, oldest)) = self.known.pop_front()
        {
            oldest.abort();
        }
    }

    fn leave(&mut self, number: u64) {
        self.strangers.leave(number);
        self.known.retain(|(known, _)| *known != number);
    }
}

/// Answers requests.
struct Handler {
    dir: RunDir,
    read: SessionReader,
    token: String,
    /// Snapshot of the run and its time; `None` before the first request.
    live: RefCell<Option<(Instant, Live)>>,
    /// Number of requested changes whose answers have not been sent yet.
    asking: Cell<u32>,
    guests: RefCell<Guests>,
}

/// Counts a requested change until it is dropped.
struct Asking<'a>(&'a Cell<u32>);

impl<'a> Asking<'a> {
    fn begin(count: &'a Cell<u32>) -> Asking<'a> {
        count.set(count.get() + 1);
        Asking(count)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Handler {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr, number: u64) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        if let Some(change) = CHANGES.iter().find(|change| change.path == path) {
            return self.change(request, change, peer, number).await;
        }
        let query = Query(request.uri().query().unwrap_or_default());
        if !self.holds_token(bearer(&request).or_else(|| query.text("token"))) {
            return refuse_stranger("this requires the token that the run printed");
        }
        self.guests.borrow_mut().trust(number);
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return refuse_method("GET, HEAD");
        }
        if path == "/" {
            return match secret() {
                Ok(nonce) => respond(StatusCode::OK, ResponseBody::page(nonce)),
                Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, ResponseBody::error(&error.to_string())),
            };
        }
        match ROUTES.iter().find(|route| route.path == path) {
            None => respond(StatusCode::NOT_FOUND, ResponseBody::error("no such path; see /api/v1/openapi.json")),
            Some(route) => {
                let body = |live: &Live| ResponseBody {
                    kind: route.media_type,
                    text: (route.answer)(live, &query),
                    nonce: None,
                };
                self.with_live(body)
            }
        }
    }

    /// Sends a change to the run and answers with its result.
    async fn change(
        &self,
        request: Request<Incoming>,
        change: &ChangePath,
        peer: SocketAddr,
        number: u64,
    ) -> Response<Full<Bytes>> {
        if !self.holds_token(bearer(&request)) {
            return refuse_stranger(
                "this requires the token that the run printed, as the header `Authorization: Bearer TOKEN`",
            );
        }
        self.guests.borrow_mut().trust(number);
        if *request.method() != Method::POST {
            return refuse_method("POST");
        }
        // Rejects a large body by its announced length, or else as soon as too much has arrived.
        let too_large = || closing(StatusCode::PAYLOAD_TOO_LARGE, ResponseBody::error("the body is too large"));
        if request.body().size_hint().lower() > change.max_bytes as u64 {
            return too_large();
        }
        let body = match tokio::time::timeout(BODY_TIMEOUT, Limited::new(request, change.max_bytes).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return too_large(),
            Ok(Err(error)) => return respond(StatusCode::BAD_REQUEST, ResponseBody::error(&error.to_string())),
            Err(_) => {
                return respond(StatusCode::REQUEST_TIMEOUT, ResponseBody::error("the body did not arrive in time"));
            }
        };
        let question = match (change.question)(&body) {
            Ok(question) => question,
            Err(error) => return respond(StatusCode::BAD_REQUEST, ResponseBody::error(&error)),
        };
        let asking = Asking::begin(&self.asking);
        let run = self.dir.path().to_owned();
        let asked = tokio::task::spawn_blocking(move || steer::put(&run, &peer.to_string(), &question)).await;
        drop(asking);
        match asked {
            Ok((status, did)) => respond(status, ResponseBody::json(&did)),
            Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, ResponseBody::error(&error.to_string())),
        }
    }

    /// Waits until all requested changes are answered.
    async fn settled(&self) {
        let pause = Duration::from_millis(20);
        while self.asking.get() > 0 {
            tokio::time::sleep(pause).await;
        }
        // The last answer is still on its way to the client.
        tokio::time::sleep(pause).await;
    }

    fn holds_token(&self, given: Option<&str>) -> bool {
        given.is_some_and(|given| same(given.as_bytes(), self.token.as_bytes()))
    }

    /// Calls `answer` with a current snapshot of the run.
    fn with_live(&self, answer: impl FnOnce(&Live) -> ResponseBody) -> Response<Full<Bytes>> {
        let mut live = self.live.borrow_mut();
        let read = match live.take() {
            Some((at, live)) if at.elapsed() < SNAPSHOT_LIFETIME => Ok((at, live)),
            Some((_, mut live)) => live.refresh(&self.read).map(|()| (Instant::now(), live)),
            None => Live::open(&self.dir, &self.read).map(|live| (Instant::now(), live)),
        };
        match read {
            Ok(read) => respond(StatusCode::OK, answer(&live.insert(read).1)),
            Err(error) => respond(StatusCode::SERVICE_UNAVAILABLE, ResponseBody::error(&error.to_string())),
        }
    }
}

/// The token in the header of a request.
fn bearer(request: &Request<Incoming>) -> Option<&str> {
    request.headers().get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Answers a request without the token, and closes the connection.
fn refuse_stranger(text: &str) -> Response<Full<Bytes>> {
    closing(StatusCode::UNAUTHORIZED, ResponseBody::error(text))
}

/// An answer after which the connection is closed.
fn closing(status: StatusCode, body: ResponseBody) -> Response<Full<Bytes>> {
    let mut response = respond(status, body);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn refuse_method(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response =
        respond(StatusCode::METHOD_NOT_ALLOWED, ResponseBody::error(&format!("only {allowed} is allowed here")));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Compares in constant time.
fn same(given: &[u8], expected: &[u8]) -> bool {
    given.len() == expected.len() && given.iter().zip(expected).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// The body of an answer.
struct ResponseBody {
    kind: &'static str,
    text: String,
    /// For a page: the nonce that allows its own script.
    nonce: Option<String>,
}

impl ResponseBody {
    fn json(value: &impl Serialize) -> ResponseBody {
        ResponseBody { kind: JSON, text: to_json(value), nonce: None }
    }

    fn error(text: &str) -> ResponseBody {
        ResponseBody::json(&ApiError { error: text.to_owned() })
    }

    fn page(nonce: String) -> ResponseBody {
        let text = include_str!("page.html")
            .replace("/*STYLE*/", include_str!("../html/style.css"))
            .replace("NONCE", &nonce)
            .replace("/*SCRIPT*/", include_str!("page.js"));
        ResponseBody { kind: "text/html; charset=utf-8", text, nonce: Some(nonce) }
    }
}

fn respond(status: StatusCode, body: ResponseBody) -> Response<Full<Bytes>> {
    let policy = match &body.nonce {
        Some(nonce) => format!(
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; frame-ancestors 'none'"
        ),
        None => "default-src 'none'; frame-ancestors 'none'".to_owned(),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(body.kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_connection_of_a_kind_makes_room_for_the_newest() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut guests = Guests::default();
        let numbers = |list: &VecDeque<(u64, AbortHandle)>| list.iter().map(|(number, _)| *number).collect::<Vec<_>>();
        let waiting = || runtime.spawn(std::future::pending::<()>());
        let (first, from) = (waiting(), IpAddr::from([127, 0, 0, 1]));
        guests.come(0, from, first.abort_handle());
        guests.trust(0);
        (1..=200).for_each(|number| guests.come(number, from, waiting().abort_handle()));
        assert_eq!(numbers(&guests.known), [0]);
        (1..=200).for_each(|number| guests.trust(number));
        assert_eq!(numbers(&guests.known), (169..=200).collect::<Vec<_>>());
        assert!(runtime.block_on(first).unwrap_err().is_cancelled());
        guests.leave(180);
        assert_eq!(guests.known.len(), 31);
    }

    #[test]
    fn only_the_whole_secret_will_do() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abd", b"abc") && !same(b"ab", b"abc") && !same(b"", b"abc"));
        let (one, other) = (secret().unwrap(), secret().unwrap());
        assert!(one.len() == 32 && one != other);
    }
}
