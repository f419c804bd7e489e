//! The ranks of a world before and after a run: they exchange facts, or are dismissed, and leave
//! together.

use std::time::{Duration, Instant};

use crate::fabric::{Fabric, wire};
use crate::model::Rank;
use crate::runtime::RunError;
use crate::runtime::event_wait::EventWait;
use crate::schedule::protocol::{Message, Welcome};

/// Time limit of each step of the handshake.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(300);

/// Poll interval of a rank that waits for another.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_micros(100);

/// Waits until every rank has sent one fact; `mine` is that of rank 0.
pub(crate) fn gather<T>(
    fabric: &mut dyn Fabric,
    wake: &EventWait,
    mine: T,
    pick: impl Fn(Message) -> Option<T>,
) -> Result<Vec<T>, RunError> {
    let mut said: Vec<Option<T>> = (0..fabric.size()).map(|_| None).collect();
    said[0] = Some(mine);
    let end = Instant::now() + HANDSHAKE_TIMEOUT;
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
            None if !fabric.lost().is_empty() => return Err(RunError::Lost { ranks: numbers(&fabric.lost()) }),
            None if Instant::now() > end => {
                let missing = said.iter().enumerate().filter(|s| s.1.is_none()).map(|s| s.0 as u32).collect();
                return Err(RunError::Missing { ranks: missing, seconds: HANDSHAKE_TIMEOUT.as_secs() });
            }
            None => pause(wake)?,
        }
    }
    Ok(said.into_iter().flatten().collect())
}

/// Waits for the welcome of rank 0; `None` if there is no run.
pub(crate) fn await_welcome(fabric: &mut dyn Fabric, wake: &EventWait) -> Result<Option<Welcome>, RunError> {
    let end = Instant::now() + HANDSHAKE_TIMEOUT;
    loop {
        match receive(fabric)? {
            Some((_, Message::Welcome(welcome))) => return Ok(Some(*welcome)),
            Some((_, Message::Finish)) => return Ok(None),
            Some(_) => {}
            None if fabric.lost().contains(&Rank::ZERO) => return Err(RunError::Orphaned),
            None if Instant::now() > end => {
                return Err(RunError::Missing { ranks: vec![0], seconds: HANDSHAKE_TIMEOUT.as_secs() });
            }
            None => pause(wake)?,
        }
    }
}

pub(super) fn numbers(ranks: &[Rank]) -> Vec<u32> {
    ranks.iter().map(|rank| rank.0).collect()
}

/// Sleeps for one poll interval, unless a signal ends the wait. SIGUSR1 only warns of a later end.
fn pause(wake: &EventWait) -> Result<(), RunError> {
    match wake.next_signal() {
        Some(signal) if signal != libc::SIGUSR1 => Err(RunError::Interrupted(signal)),
        _ => {
            std::thread::sleep(POLL_INTERVAL);
            Ok(())
        }
    }
}

/// How long a rank waits for the answer to its message that it cannot take part.
const DISMISSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits until rank 0 has answered that this rank cannot take part. The loss of a process that
/// ended at once might be noticed before its message.
pub(crate) fn await_dismissal(fabric: &mut dyn Fabric) {
    let end = Instant::now() + DISMISSAL_TIMEOUT;
    while Instant::now() < end {
        match receive(fabric) {
            Ok(Some((_, Message::Finish))) | Err(_) => return,
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

/// Notifies all other ranks that there is no run.
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

/// Drives the fabric until every frame has left, or `limit` is over. Frames that arrive are
/// dropped, so that the other ranks can send theirs.
pub(crate) fn settle(fabric: &mut dyn Fabric, limit: Duration) {
    let end = Instant::now() + limit;
    let mut dropped = Vec::new();
    loop {
        let came = matches!(fabric.receive(&mut dropped), Ok(Some(_)));
        if (!came && fabric.drained()) || Instant::now() > end {
            return;
        }
        if !came {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}
