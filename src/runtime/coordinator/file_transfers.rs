//! What rank 0 does about files on their way between ranks: it names sources, and lets ranks leave
//! when they have sent what others are receiving.

use std::time::Duration;

use super::driver::{CoordinatorDriver, Messages};
use crate::capacity::NodeTable;
use crate::model::{Rank, RankState, Time};
use crate::schedule::coordinator::Coordinator;
use crate::schedule::file_messages::FileMessage;
use crate::schedule::protocol::Message;
use crate::schedule::transfers::Granted;

/// A rank that has no work any more stays for this long at most while others receive files from it.
const MAX_HANDOVER: Duration = Duration::from_secs(30);

impl CoordinatorDriver {
    /// Handles what a rank says about a file that it needs or holds.
    pub(super) fn on_file_message(&mut self, now: Time, about: (Rank, u32), message: FileMessage) -> Messages {
        let mut messages = self.grant(now, about, message);
        messages.extend(self.finish_leaving(now));
        messages
    }

    fn grant(&mut self, now: Time, about: (Rank, u32), message: FileMessage) -> Messages {
        let node = node_of(&self.nodes, &self.coordinator);
        granted(match message {
            FileMessage::Seek { file, ahead } => self.transfers.seek(now, about, file, ahead, &node),
            FileMessage::Hurry => self.transfers.hurry(now, about, &node),
            FileMessage::CameAhead { counts } => {
                self.transfers.note_ahead(counts);
                Vec::new()
            }
            FileMessage::Ended { arrived } => self.transfers.end(now, about, arrived, &node),
            FileMessage::Holds { name, version } => {
                self.transfers.hold(about.0, name, version);
                Vec::new()
            }
            _ => Vec::new(),
        })
    }

    /// A rank has no work any more: it leaves, once it has sent what others are receiving. It is no
    /// source for anything else.
    pub(super) fn let_leave(&mut self, now: Time, rank: Rank) -> Messages {
        let granted = granted(self.transfers.retire(now, rank, &node_of(&self.nodes, &self.coordinator)));
        self.leaving.insert(rank, now.after(MAX_HANDOVER));
        granted
    }

    /// Lets ranks leave that others receive nothing from any more, or for too long.
    pub(super) fn finish_leaving(&mut self, now: Time) -> Messages {
        let is_due = |rank: Rank, until: Time| until <= now || !self.transfers.is_sending(rank);
        let is_over = self.finished.is_some();
        let due: Vec<Rank> = self
            .leaving
            .iter()
            .filter(|&(&rank, &until)| is_over || is_due(rank, until))
            .map(|(rank, _)| *rank)
            .collect();
        let mut messages = Messages::new();
        for rank in due {
            messages.push((rank, Message::Finish));
            messages.extend(self.end_transfers_of(now, rank));
        }
        messages
    }

    /// A rank has left or is lost: others get their files elsewhere, and rank 0 puts in place no
    /// more of what attempts there have left.
    pub(super) fn end_transfers_of(&mut self, now: Time, rank: Rank) -> Messages {
        self.leaving.remove(&rank);
        let gone = Message::Files { id: 0, message: FileMessage::Gone { rank } };
        let mut receivers = self.transfers.receivers(rank);
        receivers.insert(Rank::ZERO);
        receivers.remove(&rank);
        let mut messages: Messages = receivers.into_iter().map(|to| (to, gone.clone())).collect();
        let node = node_of(&self.nodes, &self.coordinator);
        let here = |other| node(other).filter(|_| other != rank);
        messages.extend(granted(self.transfers.lose(now, rank, &here)));
        messages
    }
}

/// Says on which node a rank is; `None`: it is not here.
fn node_of<'a>(nodes: &'a NodeTable, coordinator: &'a Coordinator) -> impl Fn(Rank) -> Option<&'a str> {
    let is_here = |rank: &Rank| !coordinator.standing(*rank).is_none_or(RankState::is_gone);
    move |rank| nodes.rank(rank).filter(|_| is_here(&rank)).map(|rank| rank.facts.node.as_str())
}

/// The answers to ranks that sought files.
fn granted(granted: Vec<Granted>) -> Messages {
    let answer =
        |Granted { to, id, source }| (to, Message::Files { id, message: FileMessage::Source { rank: source } });
    granted.into_iter().map(answer).collect()
}
