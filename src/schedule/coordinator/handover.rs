//! Sends each rank its changes after new homes have been chosen. Only changes are sent, so the
//! bytes of an epoch are proportional to the tasks that move. A rank that is new, or holds nothing
//! any more, gets a whole part.

use rustc_hash::FxHashMap;

use super::cut::Cut;
use super::{Coordinator, CoordinatorAction};
use crate::graph::TaskGraph;
use crate::model::{Rank, RankState, TaskId, Time};
use crate::schedule::dependency_counts::End;
use crate::schedule::handout::Pieces;
use crate::schedule::homes::NOWHERE;
use crate::schedule::protocol::{Amendment, HandOut, Message};
use crate::schedule::ranks::Ranks;

/// The hand-over to one rank.
#[derive(Default)]
struct PartHandover {
    /// True if it gets its whole part.
    whole: bool,
    come: Vec<u32>,
    gone: Vec<u32>,
    ended: Vec<(u32, End)>,
    needed: Vec<(u32, u32)>,
    hand_out: HandOut,
}

impl Coordinator {
    /// Sends each rank its changes of the new homes. If a message would be too long, all
    /// homes stay as they were `before`; then returns the rank and the length of its longest list.
    pub(super) fn hand_over(
        &mut self,
        now: Time,
        graph: &TaskGraph,
        cut: &Cut,
        before: &[u32],
        actions: &mut Vec<CoordinatorAction>,
    ) -> Option<(Rank, usize)> {
        let evacuated = self.evacuated.clone();
        let hand_outs = self.hand_outs(now, graph, cut, before);
        let oversize = hand_outs.iter().find_map(|(to, hand_out)| Some((*to, hand_out.oversize(self.longest_list)?)));
        let hand_outs = match oversize {
            None => hand_outs,
            Some(_) => {
                self.tasks.home = before.to_vec();
                self.evacuated = evacuated;
                self.hand_outs(now, graph, cut, before)
            }
        };
        let send = |(to, hand_out)| CoordinatorAction::Send { to, message: Message::HandOut(Box::new(hand_out)) };
        actions.extend(hand_outs.into_iter().map(send));
        oversize
    }

    fn hand_outs(&mut self, now: Time, graph: &TaskGraph, cut: &Cut, before: &[u32]) -> Vec<(Rank, HandOut)> {
        let home = &self.tasks.home;
        let mut turns: Vec<PartHandover> = (0..self.members.len()).map(|_| PartHandover::default()).collect();
        for (rank, turn) in (0..).zip(&mut turns) {
            turn.whole = !self.members.has_part(Rank(rank));
        }
        let open = |node: u32| self.ends[node as usize].is_none();
        let has_home = |node: u32| home[node as usize] != NOWHERE;
        for node in (0..home.len() as u32).filter(|&node| open(node) && has_home(node)) {
            let (from, to) = (before[node as usize], home[node as usize]);
            if turns[to as usize].whole || from != to {
                turns[to as usize].come.push(node);
            }
            if from != to {
                if from != NOWHERE {
                    turns[from as usize].gone.push(node);
                }
                self.note_needed(graph, cut, before, node, &mut turns);
            }
        }
        self.send_ends(graph, cut, &mut turns);
        self.send_kept(cut, before, &mut turns);
        let home = &self.tasks.home;
        let pieces = Pieces::new(graph, home, &self.tasks.urgency, &self.ends, &cut.begun);
        let mut local = vec![u32::MAX; home.len()];
        let active: Ranks = self.members.active().map(|rank| rank.0).collect();
        let lost: Ranks = self.members.lost().map(|rank| rank.0).collect();
        let (mut hand_outs, terms) = (Vec::new(), self.steal_terms());
        for to in self.members.here() {
            let turn = &mut turns[to.index()];
            let amends = (!turn.whole).then(|| {
                turn.needed.sort_unstable();
                turn.needed.dedup();
                turn.ended.sort_unstable_by_key(|ended| ended.0);
                turn.ended.dedup_by_key(|ended| ended.0);
                Box::new(Amendment {
                    gone: turn.gone.iter().copied().collect(),
                    ended: std::mem::take(&mut turn.ended),
                    needed: std::mem::take(&mut turn.needed),
                })
            });
            let hand_out = HandOut {
                epoch: self.epoch,
                now,
                part: pieces.piece(to.0, &turn.come, &mut local),
                amends,
                lost: lost.clone(),
                active: active.clone(),
                leave: self.members.standing(to) == Some(RankState::Draining),
                stealing: terms[to.index()],
                ..std::mem::take(&mut turn.hand_out)
            };
            hand_outs.push((to, hand_out));
        }
        hand_outs
    }

    /// Notifies homes that stay of nodes elsewhere that need them from now on.
    fn note_needed(&self, graph: &TaskGraph, cut: &Cut, before: &[u32], node: u32, turns: &mut [PartHandover]) {
        if cut.begun.contains(&node) {
            return;
        }
        let (home, to) = (&self.tasks.home, self.tasks.home[node as usize]);
        for needed in graph.predecessors(node).map(|edge| edge.node()) {
            let at = home[needed as usize];
            let stays = self.ends[needed as usize].is_none() && before[needed as usize] == at;
            if stays && at != to && at != NOWHERE && !turns[at as usize].whole {
                turns[at as usize].needed.push((needed, to));
            }
        }
    }

    /// Sends the ends that have just been inferred, and those on ranks that hold nothing any more,
    /// whose own messages may be lost.
    fn send_ends(&mut self, graph: &TaskGraph, cut: &Cut, turns: &mut [PartHandover]) {
        let active: Ranks = self.members.active().map(|rank| rank.0).collect();
        let all = (0..self.members.len() as u32).map(Rank);
        let inactive = all.filter(|&rank| !active.contains(rank)).collect();
        let known = std::mem::replace(&mut self.evacuated, inactive);
        let home = &self.tasks.home;
        let mut newly_known = cut.newly_known.clone();
        if self.evacuated.iter().any(|rank| !known.contains(rank)) {
            let is_fresh = |rank: Rank| self.evacuated.contains(&rank) && !known.contains(&rank);
            let fresh: Vec<bool> = (0..self.members.len() as u32).map(|rank| is_fresh(Rank(rank))).collect();
            newly_known
                .extend((0..home.len() as u32).filter(|&node| fresh.get(home[node as usize] as usize) == Some(&true)));
        }
        for node in newly_known {
            let Some(end) = self.ends[node as usize] else { continue };
            if home[node as usize] != NOWHERE {
                turns[home[node as usize] as usize].ended.push((node, end));
            }
            let mut last = home[node as usize];
            for successor in graph.successors(node).map(|edge| edge.node()) {
                let at = home[successor as usize];
                if at != last && at != NOWHERE && self.ends[successor as usize].is_none() {
                    turns[at as usize].ended.push((node, end));
                    last = at;
                }
            }
        }
    }

    /// Sends which ranks keep which tasks, and the tasks with unsuccessful attempts.
    fn send_kept(&self, cut: &Cut, before: &[u32], turns: &mut [PartHandover]) {
        let home = &self.tasks.home;
        let kept: &FxHashMap<TaskId, Rank> = &cut.kept;
        if self.homeless.tasks > 0 {
            let open = (0..self.finals.len() as u32).filter(|&task| self.ends[task as usize].is_none()).map(TaskId);
            for task in open.filter(|task| !kept.contains_key(task)) {
                let at = Rank(home[task.index()]);
                let fits = self.members.member(at).is_some_and(|member| self.tasks.advice.fits(task, member));
                if let Some(turn) = turns.get_mut(at.index()).filter(|_| !fits) {
                    turn.hand_out.out.push(task);
                }
            }
        }
        for (&task, keeper) in kept.iter().filter(|(task, keeper)| home[task.index()] != keeper.0) {
            let at = home[task.index()];
            turns[at as usize].hand_out.out.push(task);
            turns[keeper.index()].hand_out.leases.push((task, Rank(at)));
        }
        for tried in self.tried.values() {
            let (at, was) = (home[tried.task.index()], before[tried.task.index()]);
            let turn = &mut turns[at as usize];
            if turn.whole || at != was || cut.retried.contains(&tried.task) {
                turn.hand_out.tried.push(*tried);
            }
        }
        for PartHandover { hand_out, .. } in turns {
            hand_out.out.sort_unstable();
            hand_out.leases.sort_unstable();
            hand_out.tried.sort_unstable_by_key(|tried| tried.task);
        }
    }
}
