//! Sends the notifications of an alert: a line in a file, a POST to a webhook, a command.
//!
//! All three receive the same JSON object. Each has a timeout. Failures are returned as text for
//! the journal, because a lost notification must be visible.

use std::fs::{self, File};
use std::io::{self, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::watch::Told;
use crate::exec::user_command;
use crate::job::Alert;
use crate::system::bounded_command;
use crate::system::http_client::client;

/// Timeout of a webhook.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// The JSON object of a notification. Its field names are stable.
#[derive(Serialize)]
pub(crate) struct Telling<'a> {
    /// Name of the run, e.g. `mosaic-3`.
    pub(crate) run: &'a str,
    /// Name of the job.
    pub(crate) job: &'a str,
    /// Run directory.
    pub(crate) run_dir: String,
    /// Name of the alert.
    pub(crate) alert: &'a str,
    /// Name of the metric.
    pub(crate) metric: &'a str,
    /// Value of the metric.
    pub(crate) value: f64,
    /// Threshold of the alert.
    pub(crate) threshold: f64,
    /// Seconds since the session began.
    pub(crate) t: f64,
    /// Duration for which the condition has held, in seconds.
    pub(crate) for_s: f64,
    /// Time of the alert in UTC.
    pub(crate) time: String,
    /// The alert as a sentence.
    pub(crate) text: &'a str,
}

/// Sends a notification to all receivers of an alert; returns the failures.
pub(crate) fn tell(alert: &Alert, told: &Told, telling: &Telling<'_>) -> Vec<String> {
    let mut line = match serde_json::to_string(telling) {
        Ok(line) => line,
        Err(error) => return vec![format!("alert {}: cannot be converted to JSON: {error}", alert.name)],
    };
    line.push('\n');
    let mut troubles = Vec::new();
    let mut trouble = |what: String, error: io::Error| troubles.push(format!("alert {}: {what}: {error}", alert.name));
    if let Some(file) = &alert.file
        && let Err(error) = append(file, &line)
    {
        trouble(format!("cannot write {}", file.display()), error);
    }
    if let Some(webhook) = &alert.webhook
        && let Err(error) = post(webhook, &line)
    {
        trouble(format!("cannot post to {}", without_secret(webhook)), error);
    }
    if let Some(words) = &alert.command
        && let Err(error) = run(words, told, telling, &line)
    {
        trouble(format!("command {:?}", words.first().map_or("", String::as_str)), error);
    }
    troubles
}

/// An address without its path, query and user, which may hold the key to it.
fn without_secret(webhook: &str) -> String {
    let (scheme, rest) = webhook.split_once("://").unwrap_or(("", webhook));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}/...")
}

fn append(path: &std::path::Path, line: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::options().create(true).append(true).open(path)?.write_all(line.as_bytes())
}

/// Posts the JSON object to an HTTP or HTTPS address.
fn post(webhook: &str, line: &str) -> io::Result<()> {
    let request = client(webhook, WEBHOOK_TIMEOUT)?.post(webhook).content_type("application/json");
    let answer = request.send(line).map_err(ureq::Error::into_io)?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(io::Error::other(format!("the answer was {status}"))),
    }
}

/// Runs a command with the JSON object on standard input. Its output is discarded.
fn run(words: &[String], told: &Told, telling: &Telling<'_>, line: &str) -> io::Result<()> {
    let Some(mut command) = user_command(words) else { return Ok(()) };
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.env("PHALANX_ALERT", telling.alert).env("PHALANX_ALERT_METRIC", telling.metric);
    command.env("PHALANX_ALERT_VALUE", told.value.to_string()).env("PHALANX_ALERT_TEXT", telling.text);
    command.env("PHALANX_RUN_DIR", &telling.run_dir);
    // The object fits in the pipe buffer, so writing does not block if the command does not read.
    let (input, mut writer) = io::pipe()?;
    writer.write_all(line.as_bytes())?;
    drop(writer);
    let deadline = Instant::now() + COMMAND_TIMEOUT;
    match bounded_command::run(command.stdin(input), &|| deadline)?.status {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("ended with {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::system::http_client::hook;

    fn alert() -> Alert {
        Alert {
            name: "a".into(),
            metric: "failed".into(),
            above: Some(0.0),
            below: None,
            lasting: Duration::ZERO,
            repeat: Duration::ZERO,
            file: None,
            webhook: None,
            command: None,
        }
    }

    fn told(alert: &Alert) -> Vec<String> {
        let told = Told { t: 2.0, value: 1.0, threshold: 0.0, for_s: 0.0, text: "alert a: it \"is\"".into() };
        let telling = Telling {
            run: "r-1",
            job: "r",
            run_dir: "/tmp/r-1".into(),
            alert: &alert.name,
            metric: &alert.metric,
            value: told.value,
            threshold: told.threshold,
            t: told.t,
            for_s: told.for_s,
            time: String::new(),
            text: &told.text,
        };
        tell(alert, &told, &telling)
    }

    #[test]
    fn a_file_grows_by_a_line_and_a_command_sees_all() {
        let dir = tempfile::tempdir().unwrap();
        let (file, out) = (dir.path().join("deep/alerts.jsonl"), dir.path().join("out"));
        let line = format!("cat > {0}; echo \"$PHALANX_ALERT $PHALANX_ALERT_VALUE\" >> {0}", out.display());
        let command = Some(vec!["sh".into(), "-c".into(), line]);
        let alert = Alert { file: Some(file.clone()), command, ..alert() };
        assert_eq!((told(&alert), told(&alert)), (vec![], vec![]));
        let lines: Vec<serde_json::Value> =
            fs::read_to_string(&file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines.len(), &lines[0]["text"]), (2, &"alert a: it \"is\"".into()));
        let seen = fs::read_to_string(&out).unwrap();
        assert!(seen.starts_with("{\"run\":\"r-1\"") && seen.ends_with("\na 1\n"), "{seen}");
    }

    #[test]
    fn a_webhook_gets_the_object() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            ["204 No Content", "500 Oh"].map(|status| hook::answer(listener.accept().unwrap().0, status, "").unwrap())
        });
        let alert = Alert { webhook: Some(format!("http://{address}/hook?x=1")), ..alert() };
        assert_eq!(told(&alert), Vec::<String>::new());
        assert!(told(&alert)[0].contains("the answer was 500"));
        let [request, _] = serving.join().unwrap();
        assert!(request.starts_with("POST /hook?x=1 HTTP/1.1\r\n") && request.contains("\"alert\":\"a\""), "{request}");
        // No server is listening any more.
        assert!(told(&alert)[0].contains("cannot post to http://"));
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert!(told(&Alert { command: words(&["false"]), ..alert() })[0].contains("exit status: 1"));
        assert!(told(&Alert { command: words(&["/nonexistent"]), ..alert() })[0].contains("No such file"));
        assert!(told(&Alert { file: Some("/proc/nothing/x".into()), ..alert() })[0].contains("cannot write"));
    }
}
