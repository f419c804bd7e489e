//! The advisor's edge against a server in this process, and against commands.

use std::net::TcpListener;
use std::thread;

use super::*;
use crate::scale::advisor::OfferedCandidate;
use crate::system::http_client::hook;

fn question() -> Question {
    let offered = |index| OfferedCandidate { index, ranks: index + 1, forecast: None, feasible: None };
    Question {
        question: 7,
        time_s: 1.0,
        policy: "hybrid".into(),
        ranks: 1,
        min_ranks: 1,
        max_ranks: 2,
        wanted: 1,
        confidence: 0.9,
        candidates: vec![offered(0), offered(1)],
        active: 1,
        joining: 0,
        requested: 0,
        parked: 0,
        draining: 0,
        tasks_ready: 3,
        tasks_running: 1,
        tasks_remaining: 4,
        utilisation: 1.0,
        spent: 0.0,
        committed: 0.0,
        budget: None,
        deadline_s: None,
        provisioning_s: 1.0,
    }
}

fn answer_within(limit: Duration, address: &AdvisorAddress) -> Result<Answer, String> {
    let until = Instant::now() + limit;
    answer(address, &question(), &|| until)
}

fn shell(line: &str) -> AdvisorClient {
    AdvisorClient::new(&AdvisorAddress::Command(["sh", "-c", line].map(str::to_owned).into()))
}

/// What an endpoint sends that wrote `text`.
fn completion(text: &str) -> String {
    json!({ "choices": [{ "message": { "role": "assistant", "content": text } }] }).to_string()
}

/// Asks an endpoint that answers one request after the other with these statuses and bodies;
/// returns what came of it, and the requests.
fn asked(answers: Vec<(&'static str, String)>) -> (Result<Answer, String>, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/chat/completions", listener.local_addr().unwrap());
    let serving = thread::spawn(move || {
        let serve = |(status, body): (&str, String)| hook::answer(listener.accept().unwrap().0, status, &body).unwrap();
        answers.into_iter().map(serve).collect::<Vec<String>>()
    });
    let address = AdvisorAddress::Endpoint { url, model: "small".into() };
    let answer = answer_within(MAX_WAIT, &address);
    (answer, serving.join().unwrap())
}

#[test]
fn an_endpoint_gets_numbers_and_its_answer_is_read() {
    let (answer, requests) = asked(vec![("200 OK", completion(r#"{"candidate":1,"reason":"more work than slots"}"#))]);
    assert_eq!(answer, Ok(Answer { candidate: Some(1), reason: "more work than slots".into() }));
    let body: Value = serde_json::from_str(requests[0].split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((&body["model"], &body["response_format"]["type"]), (&json!("small"), &json!("json_schema")));
    let sent: Value = serde_json::from_str(body["messages"][1]["content"].as_str().unwrap()).unwrap();
    assert_eq!((&sent["question"], &sent["candidates"][1]["ranks"]), (&json!(7), &json!(2)));
}

#[test]
fn an_endpoint_that_knows_no_schemas_is_asked_once_more() {
    let (answer, requests) =
        asked(vec![("400 Bad Request", String::new()), ("200 OK", completion(r#"{"candidate":null,"reason":""}"#))]);
    assert_eq!(answer.map(|answer| answer.candidate), Ok(None));
    assert!(requests[1].contains(r#""response_format":{"type":"json_object"}"#), "{}", requests[1]);
    let (answer, requests) = asked(vec![("400 Bad Request", String::new()), ("400 Bad Request", String::new())]);
    assert_eq!((answer, requests.len()), (Err("the endpoint answered 400 Bad Request".into()), 2));
}

#[test]
fn what_an_endpoint_gets_wrong_is_said() {
    let why = |status, body: &str| asked(vec![(status, body.to_owned())]).0.unwrap_err();
    assert!(why("500 Oh", "").contains("answered 500"));
    assert!(why("200 OK", "{}").contains("no `choices[0].message.content`"));
    assert!(why("200 OK", "not JSON").contains("no `choices[0].message.content`"));
    assert!(why("200 OK", &completion("Let us grow!")).contains("no JSON object"));
    // Nobody listens any more.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = AdvisorAddress::Endpoint { url: format!("http://{gone}/"), model: "small".into() };
    assert!(answer_within(MAX_WAIT, &address).is_err());
}

#[test]
fn a_command_reads_the_question_and_prints_the_answer() {
    let ask = |line: &str| {
        let mut client = shell(line);
        client.ask(question());
        client.answers.1.recv().unwrap()
    };
    let (number, answer) = ask(r#"grep -q '"wanted":1' && echo '{"candidate": 0, "reason": "it is late"}'"#);
    assert_eq!((number, answer), (7, Ok(Answer { candidate: Some(0), reason: "it is late".into() })));
    assert!(ask("echo; exit 3").1.is_err_and(|why| why.contains("exit status: 3")));
    assert!(ask("echo grow").1.is_err_and(|why| why.contains("no JSON object")));
    let mut client = AdvisorClient::new(&AdvisorAddress::Command(vec!["/nonexistent".into()]));
    client.ask(question());
    assert!(client.answers.1.recv().unwrap().1.is_err_and(|why| why.contains("No such file")));
}

#[test]
fn a_command_may_get_more_than_a_pipe_holds() {
    let few = question();
    let candidates: Vec<_> = few.candidates.iter().cycle().take(20_000).cloned().collect();
    let mut client = shell(r#"test $(wc -c) -gt 1000000 && echo '{"candidate": null}'"#);
    client.ask(Question { candidates, ..few });
    assert_eq!(client.answers.1.recv().unwrap().1.map(|answer| answer.candidate), Ok(None));
}

#[test]
fn a_command_does_not_outlive_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let mut client = shell(&format!("echo $$ > {}; exec sleep 3600", file.display()));
    client.ask(question());
    let pid = loop {
        match std::fs::read_to_string(&file) {
            Ok(text) if text.ends_with('\n') => break text,
            _ => thread::sleep(Duration::from_millis(1)),
        }
    };
    drop(client);
    let environ = std::fs::read(format!("/proc/{}/environ", pid.trim()));
    assert!(!environ.is_ok_and(|text| !text.is_empty()), "it lives on");
}

#[test]
fn nobody_is_waited_for_longer_than_the_limit() {
    let limit = Duration::from_millis(50);
    // It accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let endpoint = AdvisorAddress::Endpoint { url, model: "small".into() };
    assert!(answer_within(limit, &endpoint).is_err());
    let command = AdvisorAddress::Command(["sleep", "3600"].map(str::to_owned).into());
    assert!(answer_within(limit, &command).is_err_and(|why| why.contains("was killed")));
}
