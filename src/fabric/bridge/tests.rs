//! Tests of the bridge over real sockets: which connections are admitted and refused, and that
//! refused ones do not disturb the others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::contact::{Contact, Secret};
use super::hub::{Hub, LinkEvent, Outer};
use super::join::{JoinError, Joined, Pauses, join};
use super::{Ask, JoinAnswer, secure};
use crate::fabric::routed::{Outside, Passed};
use crate::fabric::{FabricError, wire};
use crate::model::Rank;

const LONG: Duration = Duration::from_secs(60);

struct Run {
    hub: Hub,
    outer: Outer,
    events: Receiver<LinkEvent>,
    contact: Contact,
}

fn run() -> Run {
    run_with(256 << 20)
}

fn run_with(most_unread: usize) -> Run {
    let secret = Secret::random().unwrap();
    let address = "127.0.0.1:0".parse().unwrap();
    let (hub, outer, events) = Hub::bounded(address, secret.clone(), || {}, most_unread).unwrap();
    let contact = Contact { run: "r-1".into(), session_ms: 0, addresses: vec![hub.address().to_string()], secret };
    Run { hub, outer, events, contact }
}

fn world() -> Ask {
    Ask::World { ranks: 1, block: None, node: "n1".into() }
}

impl Run {
    /// Admits the next request.
    fn admit_next(&self, rank: u32) {
        match self.events.recv_timeout(LONG).unwrap() {
            LinkEvent::Knock { link, ask, .. } => {
                assert_eq!(ask, world());
                assert!(self.hub.admit(link, Rank(rank)));
            }
            other => panic!("{other:?}"),
        }
    }

    fn joined(&self, rank: u32) -> Joined {
        let contact = self.contact.clone();
        let other = std::thread::spawn(move || join(&contact, &world(), || {}).unwrap());
        self.admit_next(rank);
        let (me, joined) = other.join().unwrap();
        assert_eq!(me, Rank(rank));
        joined
    }

    fn address(&self) -> SocketAddr {
        self.hub.address()
    }
}

fn take(side: &mut dyn Outside) -> Passed {
    let end = Instant::now() + LONG;
    loop {
        match side.receive().unwrap() {
            Some(passed) => return passed,
            None if Instant::now() > end => panic!("nothing came"),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Asserts that frames pass between the run and a rank in both directions.
fn assert_alive(run: &mut Run, rank: u32, joined: &mut Joined) {
    joined.send(Rank(rank), Rank::ZERO, b"up");
    let came = take(&mut run.outer);
    assert_eq!((came.from, came.to, came.frame), (Rank(rank), Rank::ZERO, b"up".to_vec()));
    run.outer.send(Rank(3), Rank(rank), b"down");
    let came = take(joined);
    assert_eq!((came.from, came.to, came.frame), (Rank(3), Rank(rank), b"down".to_vec()));
}

#[test]
fn ranks_join_talk_and_are_told_of_when_they_go() {
    let mut run = run();
    let (mut a, mut b) = (run.joined(1), run.joined(2));
    assert_alive(&mut run, 1, &mut a);
    assert_alive(&mut run, 2, &mut b);
    let large: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7) as u8).collect();
    a.send(Rank(1), Rank(2), &large);
    let came = take(&mut run.outer);
    assert!(came.to == Rank(2) && came.frame == large);
    drop(a);
    let LinkEvent::Gone { rank: Rank(1), .. } = run.events.recv_timeout(LONG).unwrap() else { panic!("not told") };
    run.outer.send(Rank(0), Rank(1), b"lost");
    assert_alive(&mut run, 2, &mut b);
}

#[test]
fn who_is_refused_is_told_why() {
    let run = run();
    let contact = run.contact.clone();
    let other = std::thread::spawn(move || join(&contact, &world(), || {}).err().unwrap());
    let LinkEvent::Knock { link, .. } = run.events.recv_timeout(LONG).unwrap() else { panic!("no knock") };
    run.hub.refuse(link, "the run is ending");
    assert!(matches!(other.join().unwrap(), JoinError::Refused(why) if why == "the run is ending"));
}

#[test]
fn strangers_are_refused_and_disturb_nobody() {
    let mut run = run();
    let mut good = run.joined(1);
    // Another secret.
    let wrong = Contact { secret: Secret([9; 32]), ..run.contact.clone() };
    assert!(matches!(join(&wrong, &world(), || {}), Err(JoinError::Stranger { .. })));
    // Other protocols, noise, and an announced length of four gigabytes: the hub closes each
    // connection.
    let mut noise = vec![0u8; 100_000];
    fastrand::Rng::with_seed(7).fill(&mut noise);
    let huge = [b"PHALANX\n\x00\x00".as_slice(), &[0xFF; 64]].concat();
    for bytes in [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".as_slice(), &noise, &huge, &[0; 80]] {
        let mut stream = TcpStream::connect(run.address()).unwrap();
        // The hub may close the connection before all bytes are sent.
        let _ = stream.write_all(bytes);
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut answer = [0; 64];
        while stream.read(&mut answer).is_ok_and(|read| read > 0) {}
    }
    // Half-open connections stay for a while and must not disturb others.
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(run.address()).unwrap()).collect();
    assert_alive(&mut run, 1, &mut good);
    let mut other = run.joined(2);
    assert_alive(&mut run, 2, &mut other);
    drop(silent);
    assert!(run.events.try_recv().is_err(), "refused connections cause no event");
}

/// Joins with retries, as a rank does.
fn join_patiently(contact: &Contact) -> Joined {
    let mut pauses = Pauses::begin();
    loop {
        match join(contact, &world(), || {}) {
            Ok((_, joined)) => return joined,
            Err(error) => std::thread::sleep(pauses.after(&error).unwrap_or_else(|| panic!("{error}"))),
        }
    }
}

#[test]
fn a_world_of_200_ranks_comes_in_at_once_past_connections_that_say_nothing() {
    let run = run();
    let idle = || (0..300).map(|_| TcpStream::connect(run.address()).unwrap()).collect::<Vec<_>>();
    let before = idle();
    let joined: Vec<Joined> = std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..200).map(|_| scope.spawn(|| join_patiently(&run.contact))).collect();
        let also = idle();
        (0..200).for_each(|rank| run.admit_next(rank + 1));
        drop(also);
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert_eq!(joined.len(), 200);
    drop(before);
}

#[test]
fn a_run_is_found_at_the_address_that_leads_to_it() {
    let run = run();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stranger = other.local_addr().unwrap().to_string();
    // Another server listens at one address, and none at another.
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = other.accept() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n and so on");
            kept.push(stream);
        }
    });
    let addresses = vec![stranger, "127.0.0.1:1".into(), run.address().to_string()];
    let contact = Contact { addresses: addresses.clone(), ..run.contact.clone() };
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| join(&contact, &world(), || {}).unwrap());
        run.admit_next(1);
        assert_eq!(joining.join().unwrap().0, Rank(1));
    });
    let nowhere = Contact { addresses: addresses[..2].to_vec(), ..contact };
    let error = join(&nowhere, &world(), || {}).err().unwrap();
    assert!(addresses[..2].iter().all(|address| error.to_string().contains(address)), "{error}");
    assert!(Pauses::begin().after(&error).is_none(), "nothing there will become the run");
}

/// A peer that knows the secret but does not follow the protocol.
fn intruder(run: &Run) -> secure::Channel {
    let stream = TcpStream::connect(run.address()).unwrap();
    secure::connect(stream, &run.contact.secret, LONG).unwrap()
}

#[test]
fn who_knows_the_secret_but_misbehaves_is_cut_off() {
    let mut run = run();
    let mut good = run.joined(1);
    let frame = |kind: u8, from: u32, size: u32| {
        [&[kind][..], &from.to_le_bytes(), &0u32.to_le_bytes(), &size.to_le_bytes()].concat()
    };
    let ask = postcard::to_stdvec(&world()).unwrap();
    let asking = [frame(3, 0, ask.len() as u32), ask].concat();
    // Frames of four gigabytes, of an unknown kind, and under another rank's number.
    for bad in [frame(1, 2, u32::MAX), frame(77, 2, 0), frame(1, 1, 0), frame(4, 2, 0)] {
        let mut intruder = intruder(&run);
        intruder.writer.write(&asking).unwrap();
        run.admit_next(2);
        let answer = intruder.reader.read().unwrap().unwrap();
        assert_eq!(postcard::from_bytes::<JoinAnswer>(&answer[13..]).unwrap(), JoinAnswer::Admitted { rank: 2 });
        intruder.writer.write(&bad).unwrap();
        let LinkEvent::Gone { rank: Rank(2), .. } = run.events.recv_timeout(LONG).unwrap() else {
            panic!("not cut off")
        };
    }
    // A frame that is no request, and a request without content.
    for bad in [frame(1, 0, 0), frame(3, 0, 0)] {
        let mut intruder = intruder(&run);
        intruder.writer.write(&bad).unwrap();
        while let Ok(Some(_)) = intruder.reader.read() {}
    }
    assert_alive(&mut run, 1, &mut good);
    assert!(run.events.try_recv().is_err() && wire::MOST < u32::MAX as usize);
}

#[test]
fn a_run_that_ends_delivers_its_last_frames() {
    let mut run = run();
    let mut joined = run.joined(1);
    for turn in 0..100u8 {
        run.outer.send(Rank(0), Rank(1), &[turn]);
    }
    let closer = std::thread::spawn(move || run.outer.close(LONG));
    for turn in 0..100u8 {
        assert_eq!(take(&mut joined).frame, [turn]);
    }
    let end = Instant::now() + LONG;
    while !matches!(joined.receive(), Err(FabricError::Gone(Rank::ZERO))) {
        assert!(Instant::now() < end, "the end was not noticed");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(joined);
    closer.join().unwrap();
}

#[test]
fn who_does_not_read_is_cut_off_before_memory_is_full() {
    let mut run = run();
    let mut good = run.joined(1);
    let ask = postcard::to_stdvec(&world()).unwrap();
    let mut deaf = intruder(&run);
    let head = [&[3u8][..], &[0; 8], &(ask.len() as u32).to_le_bytes(), &ask].concat();
    deaf.writer.write(&head).unwrap();
    run.admit_next(2);
    // The peer is admitted and then reads nothing. Bytes in the system's buffers do not count.
    let (frame, most) = (vec![0; 1 << 16], 4 * (super::link::MAX_QUEUED_BYTES >> 16));
    let mut was_full = false;
    let gone = (0..most).find_map(|_| {
        run.outer.send(Rank::ZERO, Rank(2), &frame);
        was_full |= run.outer.is_full();
        run.events.try_recv().ok()
    });
    let gone = gone.or_else(|| run.events.recv_timeout(LONG).ok());
    let Some(LinkEvent::Gone { rank: Rank(2), why }) = gone else { panic!("{gone:?}") };
    assert!(why.contains("does not read what it is sent"), "{why}");
    assert!(was_full && !run.outer.is_full(), "it is full until it is cut");
    assert_alive(&mut run, 1, &mut good);
    drop(deaf);
}

#[test]
fn where_rank_0_does_not_look_senders_wait() {
    let most = 1 << 20;
    let mut run = run_with(most);
    let (mut a, mut b) = (run.joined(1), run.joined(2));
    // Two megabytes from one, and one frame that is larger than the bound from another.
    let frames = 32;
    for turn in 0..frames {
        a.send(Rank(1), Rank::ZERO, &vec![turn; 1 << 16]);
    }
    b.send(Rank(2), Rank::ZERO, &vec![0; 2 * most]);
    let full = || run.outer.unread() > most / 2;
    let end = Instant::now() + LONG;
    while !full() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(full(), "nothing waits");
    let mut of_a = 0;
    for _ in 0..=frames {
        let unread = run.outer.unread();
        assert!(unread <= most || unread == 2 * most, "{unread} bytes wait");
        let came = take(&mut run.outer);
        if came.from == Rank(1) {
            assert_eq!(came.frame[0], of_a);
            of_a += 1;
        }
    }
    assert_eq!(of_a, frames);
    assert_alive(&mut run, 1, &mut a);
    assert_alive(&mut run, 2, &mut b);
}

#[test]
fn a_run_that_ends_frees_senders_that_wait() {
    let mut run = run_with(1 << 16);
    let mut sender = run.joined(1);
    for _ in 0..8 {
        sender.send(Rank(1), Rank::ZERO, &vec![0; 1 << 16]);
    }
    run.outer.send(Rank::ZERO, Rank(1), b"last");
    let mut outer = run.outer;
    let closer = std::thread::spawn(move || outer.close(LONG));
    assert_eq!(take(&mut sender).frame, b"last", "what comes meanwhile does not end the link");
    drop(sender);
    closer.join().unwrap();
    let LinkEvent::Gone { rank: Rank(1), .. } = run.events.recv_timeout(LONG).unwrap() else { panic!("not told") };
}
