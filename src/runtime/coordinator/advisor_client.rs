//! Asks the advisor of the job file: an OpenAI-compatible endpoint, or a command.
//!
//! Each question has a thread of its own, which nothing waits for: the driver looks for answers at
//! its ticks, and what they mean is decided in `scale/advisor`. A question is text made of numbers.
//! The key of an endpoint is sent to it and to nobody else. A command that runs at the end of the
//! run is killed.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::{Value, json};
use ureq::Body;
use ureq::http::{Response, StatusCode};

use crate::exec::user_command;
use crate::job::AdvisorAddress;
use crate::scale::advisor::{Answer, MAX_WAIT, Question};
use crate::system::bounded_command;
use crate::system::http_client::{self, ADVISOR_KEY};

/// Maximum size of an endpoint's answer in bytes.
const MAX_ANSWER: u64 = 1 << 16;

/// Tells a model what it is asked.
const INSTRUCTION: &str = "You advise the autoscaler of a batch run on a cluster. The user sends one decision as JSON: \
    the state of the run, candidate numbers of ranks with predicted end (seconds since the start) and cost, the present \
    number (`ranks`), and the index of the candidate that the policy wants (`wanted`). Answer with one JSON object: \
    {\"candidate\": INDEX, \"reason\": \"one short sentence\"}. INDEX is the index of one of the listed candidates, or null \
    if the number of ranks should stay as it is.";

/// The answer to the question of a number, or why there is none.
type NumberedAnswer = (u32, Result<Answer, String>);

/// Asks questions and collects the answers.
pub(super) struct AdvisorClient {
    address: Arc<AdvisorAddress>,
    answers: (Sender<NumberedAnswer>, Receiver<NumberedAnswer>),
    /// The run has ended.
    is_over: Arc<AtomicBool>,
    /// The threads that wait for a command.
    commands: Vec<JoinHandle<()>>,
}

impl AdvisorClient {
    /// A client for this advisor.
    pub(super) fn new(address: &AdvisorAddress) -> AdvisorClient {
        let address = Arc::new(address.clone());
        AdvisorClient { address, answers: channel(), is_over: Arc::default(), commands: Vec::new() }
    }

    /// Sends a question; does not wait.
    pub(super) fn ask(&mut self, question: Question) {
        let (address, answers, is_over) =
            (Arc::clone(&self.address), self.answers.0.clone(), Arc::clone(&self.is_over));
        let (number, until) = (question.question, Instant::now() + MAX_WAIT);
        let thread = std::thread::Builder::new().name("advisor".to_owned());
        let asking = thread.spawn(move || {
            let deadline = || if is_over.load(Relaxed) { Instant::now() } else { until };
            // If the run has ended, nobody takes the answer.
            let _ = answers.send((number, answer(&address, &question, &deadline)));
        });
        self.commands.retain(|thread| !thread.is_finished());
        match asking {
            Ok(thread) if matches!(*self.address, AdvisorAddress::Command(_)) => self.commands.push(thread),
            // A request cannot be interrupted, and leaves nothing behind.
            Ok(_) => {}
            Err(error) => {
                let _ = self.answers.0.send((number, Err(format!("no thread could be started: {error}"))));
            }
        }
    }

    /// The next answer that has come.
    pub(super) fn next_answer(&self) -> Option<NumberedAnswer> {
        self.answers.1.try_recv().ok()
    }
}

impl Drop for AdvisorClient {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        for thread in self.commands.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that asked the advisor has panicked");
            }
        }
    }
}

/// Asks and waits for the answer until the deadline, which may come nearer meanwhile.
fn answer(address: &AdvisorAddress, question: &Question, deadline: &dyn Fn() -> Instant) -> Result<Answer, String> {
    let question = serde_json::to_string(question).map_err(|error| error.to_string())?;
    let text = match address {
        AdvisorAddress::Endpoint { url, model } => ask_endpoint(url, model, &question, deadline()),
        AdvisorAddress::Command(words) => ask_command(words, &question, deadline),
    };
    Answer::parse(&text.map_err(|error| error.to_string())?)
}

/// Asks an endpoint and returns what the model wrote. One that does not know schemas (status 400)
/// is asked once more for any JSON object.
fn ask_endpoint(url: &str, model: &str, question: &str, until: Instant) -> io::Result<String> {
    let schema = json!({
        "type": "object",
        "properties": { "candidate": { "type": ["integer", "null"] }, "reason": { "type": "string" } },
        "required": ["candidate", "reason"],
        "additionalProperties": false,
    });
    let strict =
        json!({ "type": "json_schema", "json_schema": { "name": "advice", "strict": true, "schema": schema } });
    let mut response = post(url, model, question, &strict, until)?;
    if response.status() == StatusCode::BAD_REQUEST {
        response = post(url, model, question, &json!({ "type": "json_object" }), until)?;
    }
    if !response.status().is_success() {
        return Err(io::Error::other(format!("the endpoint answered {}", response.status())));
    }
    let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string().map_err(ureq::Error::into_io)?;
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    match body["choices"][0]["message"]["content"].as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(io::Error::other("the endpoint sent no `choices[0].message.content`")),
    }
}

fn post(url: &str, model: &str, question: &str, format: &Value, until: Instant) -> io::Result<Response<Body>> {
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut request = http_client::client(url, left)?.post(url).content_type("application/json");
    if let Ok(key) = std::env::var(ADVISOR_KEY) {
        request = request.header("Authorization", format!("Bearer {key}"));
    }
    let body = json!({
        "model": model,
        "temperature": 0,
        "messages": [{ "role": "system", "content": INSTRUCTION }, { "role": "user", "content": question }],
        "response_format": format,
    });
    request.send(body.to_string()).map_err(ureq::Error::into_io)
}

/// Runs a command with the question on standard input and returns what it prints.
fn ask_command(words: &[String], question: &str, deadline: &dyn Fn() -> Instant) -> io::Result<String> {
    let Some(mut command) = user_command(words) else { return Err(io::Error::other("`command` is empty")) };
    // A file without a name: a pipe could be full before anybody reads it.
    let mut input = File::from(memfd_create(c"phalanx-question", MemfdFlags::CLOEXEC)?);
    writeln!(input, "{question}")?;
    input.rewind()?;
    let output = bounded_command::run(command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::null()), deadline)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(io::Error::other(format!("the command ended with {}", output.status))),
    }
}

#[cfg(test)]
mod tests;
