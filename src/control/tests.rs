//! Tests of the control socket from both ends.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::*;

#[test]
fn a_question_is_answered_however_deep_the_directory_lies() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("a".repeat(120)).join("b".repeat(120));
    std::fs::create_dir_all(&run).unwrap();
    assert!(matches!(ask(&run, &Question::Status), Err(ControlError::Unreachable(_))));
    let (bell, rings) = channel();
    let server = Server::open(&run, move || bell.send(()).unwrap_or_default()).unwrap();
    assert_eq!(std::fs::metadata(folder(&run)).unwrap().permissions().mode() & 0o777, 0o700);
    let (there, question) = (run.clone(), Question::Scale { to: Scale::More(2), force: false });
    let asking = std::thread::spawn(move || ask(&there, &question));
    rings.recv_timeout(Duration::from_secs(60)).unwrap();
    let call = server.next().unwrap();
    assert_eq!((&call.question, &call.by), (&Question::Scale { to: Scale::More(2), force: false }, &None));
    call.answer(Answer::done("well"));
    assert_eq!(asking.join().unwrap().unwrap(), Answer::done("well"));
    let there = run.clone();
    let asking = std::thread::spawn(move || ask_as("somebody", &there, &Question::Rebalance));
    rings.recv_timeout(Duration::from_secs(60)).unwrap();
    let call = server.next().unwrap();
    assert_eq!((&call.question, call.by.as_deref()), (&Question::Rebalance, Some("somebody")));
    call.answer(Answer::refused("no"));
    assert!(!asking.join().unwrap().unwrap().ok);
    drop(server);
    assert!(!folder(&run).exists());
}

#[test]
fn what_is_no_question_gets_an_answer_too() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::open(root.path(), || {}).unwrap();
    for bytes in [b"\n".as_slice(), b"{}\n", &[0xFF; 9000], &b"[".repeat(5000)] {
        let mut stream = UnixStream::connect(folder(root.path()).join(SOCKET)).unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(!answer.contains("\"ok\":true"), "{answer}");
    }
    assert!(server.next().is_none());
}

#[test]
fn numbers_of_ranks_are_read_as_typed() {
    assert_eq!("+2".parse(), Ok(Scale::More(2)));
    assert_eq!("-1".parse(), Ok(Scale::Fewer(1)));
    assert_eq!("6".parse(), Ok(Scale::To(6)));
    assert_eq!("auto".parse(), Ok(Scale::Auto));
    for text in ["", "+", "x", "--1", "é", "1.5"] {
        assert!(text.parse::<Scale>().is_err(), "{text}");
    }
}
