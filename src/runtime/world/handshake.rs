//! The ranks of a world before and after a run: they gather, are dismissed, and leave together.

use std::time::{Duration, Instant};

use crate::fabric::{Fabric, wire};
use crate::model::Rank;
use crate::runtime::RunError;
use crate::runtime::event_wait::EventWait;
use crate::schedule::protocol::{Message, Welcome};

/// How long rank 0 waits for the others to say what they have, and they for it.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(300);

/// How often a rank that waits for another looks whether something came.
pub(crate) const LOOK: Duration = Duration::from_micros(100);

/// Waits until every rank has said one thing; `mine` is what rank 0 says itself.
pub(crate) fn gather<T>(
    fabric: &mut dyn Fabric,
    wake: &EventWait,
    mine: T,
    pick: impl Fn(Message) -> Option<T>,
) -> Result<Vec<T>, RunError> {
    let mut said: Vec<Option<T>> = (0..fabric.size()).map(|_| None).collect();
    said[0] = Some(mine);
    let end = Instant::now() + HANDSHAKE;
    while said.iter().any(Option::is_none) {
        match receive(fabric)? {
            Some((from, Message::Broken { reason })) => {
                return Err(RunError::Refused(format!("{from} cannot take part: {reason}")));
            }
            Some((from, message)) => {
                if let Some(picked) = pick(message) {
                    said[from.index()] = Some(picked);
                }
            }
            None if Instant::now() > end => {
                let missing = said.iter().enumerate().filter(|s| s.1.is_none()).map(|s| s.0 as u32).collect();
                return Err(RunError::Missing { ranks: missing, seconds: HANDSHAKE.as_secs() });
            }
            None => pause(wake)?,
        }
    }
    Ok(said.into_iter().flatten().collect())
}

/// Waits for what rank 0 has to say; `None` if it says that there is nothing to do.
pub(crate) fn await_welcome(fabric: &mut dyn Fabric, wake: &EventWait) -> Result<Option<Welcome>, RunError> {
    let end = Instant::now() + HANDSHAKE;
    loop {
        match receive(fabric)? {
            Some((_, Message::Welcome(welcome))) => return Ok(Some(*welcome)),
            Some((_, Message::Finish)) => return Ok(None),
            Some(_) => {}
            None if Instant::now() > end => {
                return Err(RunError::Missing { ranks: vec![0], seconds: HANDSHAKE.as_secs() });
            }
            None => pause(wake)?,
        }
    }
}

/// Waits a moment, unless a signal asks to give up. SIGUSR1 only warns of an end that is far away yet.
fn pause(wake: &EventWait) -> Result<(), RunError> {
    match wake.next_signal() {
        Some(signal) if signal != libc::SIGUSR1 => Err(RunError::Interrupted(signal)),
        _ => {
            std::thread::sleep(LOOK);
            Ok(())
        }
    }
}

/// Tells all other ranks that there will be no run. Those that cannot be told are beyond help.
pub(crate) fn dismiss(fabric: &mut dyn Fabric) {
    for rank in 1..fabric.size() {
        if let Err(error) = send(fabric, Rank(rank), &Message::Finish) {
            tracing::error!("{error}");
        }
    }
}

/// Sends a message.
pub(crate) fn send(fabric: &mut dyn Fabric, to: Rank, message: &Message) -> Result<(), RunError> {
    let mut frame = Vec::new();
    let refused = |error| RunError::Broken(format!("{to} cannot be sent what concerns it: {error}"));
    wire::encode(message, &mut frame).map_err(refused)?;
    Ok(fabric.send(to, &mut frame)?)
}

fn receive(fabric: &mut dyn Fabric) -> Result<Option<(Rank, Message)>, RunError> {
    let mut frame = Vec::new();
    let Some(from) = fabric.receive(&mut frame)? else { return Ok(None) };
    let message = wire::decode(&frame).map_err(|error| RunError::Broken(format!("{from}: {error}")))?;
    Ok(Some((from, message)))
}

/// Moves what is under way until every frame has left, or `limit` is over. What still comes is dropped, so that the others' frames
/// leave too.
pub(crate) fn settle(fabric: &mut dyn Fabric, limit: Duration) {
    let end = Instant::now() + limit;
    let mut dropped = Vec::new();
    loop {
        let came = matches!(fabric.receive(&mut dropped), Ok(Some(_)));
        if (!came && fabric.drained()) || Instant::now() > end {
            return;
        }
        if !came {
            std::thread::sleep(LOOK);
        }
    }
}
