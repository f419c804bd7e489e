//! What is done to a simulated world: ranks join, leave and die, the network fails, users ask.

use std::cmp::Reverse;

use super::{Life, Way, World, member};
use crate::model::{Labels, NodeOffer, Offers, Rank};
use crate::schedule::coordinator::{self, Change, ProvisioningState, StopReason};
use crate::schedule::protocol::{Message, Stop};
use crate::schedule::tests::job::labels_of_slots;

/// What is done to the world.
#[derive(Clone, Debug)]
pub(in crate::schedule::tests) enum Happening {
    /// The run is stopped.
    Stop(Stop),
    /// A process dies; its loss is detected after this time.
    Kill(Rank, u64),
    /// The detector takes it for dead.
    Suspect(Rank),
    /// It was found dead.
    Notice(Rank),
    /// A rank with this number of slots arrives, requested or not.
    Join(u32, bool),
    /// It arrives now.
    Arrive(Rank, u32),
    /// A change of a rank is requested.
    Request(Rank, Change),
    /// A rebalance.
    Rebalance,
    /// Nodes are requested for tasks that no rank can run; again after a while.
    Provide,
    /// A requested node with these labels comes, or the request has failed.
    Gain(Labels),
    /// No messages pass between rank 0 and a rank in this direction for this time.
    Cut(Rank, Way, u64),
    /// A process stands still for this time.
    Freeze(Rank, u64),
    /// One side of a link may have waited for too long.
    Silent(Rank, Way),
    /// A rank that was given up reads the end of its link.
    LinkEnded(Rank),
    /// It notices the silence of rank 0, or its end.
    LinkChanged(Rank, bool),
    /// A task is not wanted any more.
    Cancel(u32),
    /// The capacity of a resource of the pools changes.
    Limit(u32, u32),
    /// Tasks are paused, or resumed.
    Pause(u32, u32, bool),
    /// The next rank that returns a task which completed on lease dies before it reports it; the
    /// loss is detected after this time.
    KillThief(u64),
}

impl World {
    pub(super) fn happen(&mut self, what: Happening) {
        if self.trace {
            eprintln!("{:>9} {what:?}", self.now);
        }
        if let Some(thaw) = self.waits_for(&what) {
            return self.at(thaw, what);
        }
        let is_alive = |rank: Rank| self.life.get(rank.index()) == Some(&Life::Alive);
        match what {
            Happening::Stop(how) => {
                self.coordinate(coordinator::CoordinatorEvent::Stop { how, why: StopReason::Signal(2) })
            }
            Happening::Kill(rank, notice) if rank != Rank::ZERO && is_alive(rank) => {
                self.kill(rank);
                self.at(self.now + notice, Happening::Notice(rank));
            }
            Happening::Suspect(rank) if rank != Rank::ZERO && is_alive(rank) => {
                self.life[rank.index()] = Life::DeclaredLost;
                self.haunt(rank.index());
                self.declared_lost.insert(rank.index());
                self.lose(rank);
            }
            Happening::Notice(rank) => self.lose(rank),
            // No rank would answer it any more.
            Happening::Join(..) if self.finished.is_some() => {}
            Happening::Join(slots, asked) => {
                let rank = self.coordinator.next_rank();
                self.add(slots);
                if asked {
                    self.change(rank, Change::Request);
                    let later = self.now + self.rng.u64(0..2_000_000);
                    self.at(later, Happening::Arrive(rank, slots));
                } else {
                    self.change(rank, Change::Arrive(member(slots)));
                }
            }
            Happening::Arrive(rank, _) if self.finished.is_some() => self.life[rank.index()] = Life::Left,
            Happening::Arrive(rank, slots) if is_alive(rank) => self.change(rank, Change::Arrive(member(slots))),
            Happening::Request(rank, change) => self.change(rank, change),
            Happening::Provide | Happening::Gain(_) if self.finished.is_some() => {}
            Happening::Provide => self.provide(),
            Happening::Gain(labels) => {
                let at = self.coming.iter().position(|coming| *coming == labels).expect("it was requested");
                self.coming.remove(at);
                if self.rng.u32(0..8) > 0 {
                    self.gained += 1;
                    let slots = if labels.is_empty() { self.rng.u32(1..3) } else { 3 };
                    let asked = self.rng.bool();
                    self.happen(Happening::Join(slots, asked));
                }
            }
            Happening::Cancel(task) => self.coordinate(coordinator::CoordinatorEvent::Cancel { tasks: task..task + 1 }),
            Happening::Cut(rank, way, time) if rank != Rank::ZERO && is_alive(rank) => self.cut(rank, way, time),
            Happening::Freeze(rank, time) if is_alive(rank) => self.freeze(rank, time),
            Happening::Silent(rank, way) => self.silent(rank, way),
            Happening::LinkEnded(rank) => self.link_ended(rank),
            Happening::LinkChanged(rank, is_connected) if self.lives(rank.index()) => {
                self.link_changed(rank, is_connected)
            }
            Happening::Rebalance => self.coordinate(coordinator::CoordinatorEvent::Rebalance),
            Happening::Limit(resource, units) => {
                self.capacity_changed(resource, units);
                self.coordinate(coordinator::CoordinatorEvent::Limit { resource, units });
            }
            Happening::Pause(from, to, paused) => {
                let tasks = std::iter::once(from..to).collect();
                self.coordinate(coordinator::CoordinatorEvent::Pause { tasks, paused });
            }
            Happening::KillThief(notice) => self.thief_dies = Some(notice),
            _ => {}
        }
    }

    /// When the process that this happens to goes on, if it stands still.
    fn waits_for(&self, what: &Happening) -> Option<u64> {
        let process = match what {
            Happening::LinkChanged(rank, _) | Happening::LinkEnded(rank) | Happening::Silent(rank, Way::Down) => *rank,
            Happening::Kill(..) | Happening::KillThief(_) | Happening::Cut(..) | Happening::Freeze(..) => return None,
            _ => Rank::ZERO,
        };
        Some(self.thaw(process)).filter(|&thaw| thaw > self.now)
    }

    fn provide(&mut self) {
        let offers = Offers::of([Labels::default(), labels_of_slots(3)]);
        let state = ProvisioningState {
            offers,
            coming: self.coming.iter().cloned().map(NodeOffer::with_labels).collect(),
            most: 9,
        };
        self.coordinate(coordinator::CoordinatorEvent::Provisioning(state));
        let wanted = self.coordinator.wanted_nodes();
        for labels in wanted.iter().flat_map(|(need, nodes)| std::iter::repeat_n(&need.labels, *nodes as usize)) {
            self.coming.push(Labels::clone(labels));
            let later = self.now + self.rng.u64(0..2_000_000);
            self.at(later, Happening::Gain(Labels::clone(labels)));
        }
        assert!(self.coming.len() <= 9, "{:?} of {wanted:?}", self.coming);
        assert!(self.coordinator.wanted_nodes().is_empty() || !self.coming.is_empty());
        self.at(self.now + 300_000, Happening::Provide);
    }

    /// A process dies: its running attempts are lost, and of its messages to each rank the last
    /// ones may be.
    pub(super) fn kill(&mut self, rank: Rank) {
        self.life[rank.index()] = Life::Dead;
        self.haunt(rank.index());
        let ends = std::mem::take(&mut self.ends);
        self.ends = ends.into_iter().filter(|Reverse(end)| end.1 != rank.0).collect();
        self.known.retain(|known| known.0 != rank);
        self.drop_unarrived(rank);
    }

    /// Of what a rank has sent, some of the last to each rank is lost.
    ///
    /// A rank that leaves joined later, so that all that it sends passes through rank 0: what it
    /// sent before an `Emptied` that arrives, to whomever, arrives too.
    pub(super) fn drop_unarrived(&mut self, rank: Rank) {
        for to in 0..self.workers.len() as u32 {
            let sent: Vec<_> =
                self.in_flight.iter().filter(|m| m.1.0 == rank && m.1.1 == Rank(to)).map(|m| *m.0).collect();
            let arrive = self.rng.usize(0..=sent.len());
            let lost = sent[arrive..].iter().copied();
            // Rank 0 comes first.
            let emptied = self.emptied.get(&rank).copied().unwrap_or(0);
            let lost: Vec<_> = lost.filter(|key| to == 0 || key.1 > emptied).collect();
            for key in lost {
                let (_, _, message) = self.in_flight.remove(&key).expect("in flight");
                if matches!(message, Message::Emptied { .. }) {
                    self.emptied.remove(&rank);
                }
            }
        }
    }
}
