//! Rank 0's listener: lets ranks into a run that is under way, and hears when one has gone.
//!
//! | a world that joins | event | next |
//! |---|---|---|
//! | knocking | its first rank asks | numbers are given out; its ranks are *requested* |
//! | coming | all its ranks have said where they are, or are gone | each that is there is welcomed |
//! | coming | a rank has said what it has | that rank *arrives* and is handed tasks with the next epoch |
//! | any | a link ends | that rank is *lost*, and so are those of its world that never came |
//! | coming | it takes too long | what has not come of it is lost |
//!
//! A rank that had left in order is gone for good, and that its link ends then means nothing. What is lost costs the tasks that it was
//! running; that is for the coordinator to see to. The listener decides nothing: it turns news of the bridge into events.
//!
//! Ranks that join share the CPUs of a node with their own world, not with others: whoever starts two worlds on one node means it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::join_address::{JoinAddress, Listen};
use crate::fabric::bridge::Ask;
use crate::fabric::bridge::contact::{Contact, FILE, Secret};
use crate::fabric::bridge::hub::{Hub, LinkEvent, LinkId, Outer};
use crate::journal::{Level, RankChange, RankInfo, Record};
use crate::model::{Rank, RankState, Time};
use crate::runtime::RunError;
use crate::runtime::event_wait::EventWait;
use crate::scale::NodeTypeId;
use crate::schedule::coordinator::{Change, Coordinator, Event};
use crate::schedule::protocol::{Hello, Message, Welcome};
use crate::workload::placement;

/// A world that has been let in must have arrived in this time.
const ARRIVAL: Duration = Duration::from_secs(300);

/// A world is not larger than this.
const LARGEST: u32 = 4096;

/// See the module's text.
pub(super) struct JoinListener {
    hub: Hub,
    news: Receiver<LinkEvent>,
    welcome: Welcome,
    contact: PathBuf,
    worlds: Vec<JoinedWorld>,
}

/// Ranks that came together.
pub(super) struct JoinedWorld {
    pub(super) first: Rank,
    pub(super) block: Option<u64>,
    pub(super) node: String,
    since: Time,
    /// Since when its node is billed, and until when if it is gone.
    pub(super) billed: (Time, Option<Time>),
    /// Its ranks have been told what the run is.
    welcomed: bool,
    /// The provisioner has been told that it is in, or gone.
    pub(super) told: [bool; 2],
    pub(super) ranks: Vec<JoinedRank>,
}

/// One of them.
#[derive(Default)]
pub(super) struct JoinedRank {
    linked: bool,
    /// Its node and CPUs.
    place: Option<(String, Vec<u32>)>,
    pub(super) hello: Option<Hello>,
    pub(super) gone: bool,
    state: Option<RankState>,
}

/// What follows from news.
#[derive(Default)]
pub(super) struct JoinEffects {
    /// For the coordinator, in this order.
    pub(super) events: Vec<Event>,
    /// To be sent.
    pub(super) messages: Vec<(Rank, Message)>,
    /// For the user and the journal.
    pub(super) notes: Vec<(Level, String)>,
}

impl JoinEffects {
    fn change(&mut self, rank: Rank, change: Change) {
        self.events.push(Event::Change { rank, change });
    }
}

impl JoinListener {
    /// Opens the listener on an address of this machine and writes the contact file.
    pub(super) fn open(
        listen: &Listen,
        welcome: Welcome,
        wake: Arc<EventWait>,
    ) -> Result<(JoinListener, Outer), RunError> {
        let system = |what| move |source| RunError::System { what, source };
        let secret = Secret::random().map_err(system("make a secret"))?;
        let address = JoinAddress::choose(listen)?;
        let (hub, outer, news) = Hub::open(address.bind, secret.clone(), move || wake.notify())
            .map_err(system("listen for ranks that join"))?;
        let path = Path::new(&welcome.run_dir).join(FILE);
        let addresses = address.told(hub.address().port());
        tracing::info!("ranks may join at {}: phalanx join --contact {}", addresses.join(", "), path.display());
        Contact { run: welcome.run_name.clone(), addresses, secret }.write(&path)?;
        Ok((JoinListener { hub, news, welcome, contact: path, worlds: Vec::new() }, outer))
    }

    /// The worlds that ever came.
    pub(super) fn worlds(&self) -> &[JoinedWorld] {
        &self.worlds
    }

    /// The ranks of the world that a rank came with.
    pub(super) fn mates(&self, rank: Rank) -> Vec<Rank> {
        self.position(rank).map(|(world, _)| self.worlds[world].numbers().collect()).unwrap_or_default()
    }

    fn position(&self, rank: Rank) -> Option<(usize, usize)> {
        let inside =
            |world: &JoinedWorld| (rank.0.checked_sub(world.first.0)? < world.ranks.len() as u32).then_some(());
        let world = self.worlds.iter().position(|world| inside(world).is_some())?;
        Some((world, (rank.0 - self.worlds[world].first.0) as usize))
    }

    /// The world that a rank came with.
    pub(super) fn world_of(&self, rank: Rank) -> Option<&JoinedWorld> {
        self.position(rank).map(|(world, _)| &self.worlds[world])
    }

    /// The worlds that ever came, to be told more about.
    pub(super) fn worlds_mut(&mut self) -> &mut [JoinedWorld] {
        &mut self.worlds
    }

    fn joiner(&mut self, rank: Rank) -> Option<&mut JoinedRank> {
        let (world, at) = self.position(rank)?;
        self.worlds[world].ranks.get_mut(at)
    }

    /// Takes the news. `next` is the number that the next rank will have; nobody is let in unless the run is `open`, and no block unless it
    /// is `expected`.
    pub(super) fn look(
        &mut self,
        now: Time,
        mut next: Rank,
        open: bool,
        expected: &dyn Fn(u64) -> bool,
    ) -> JoinEffects {
        let mut steps = JoinEffects::default();
        while let Ok(news) = self.news.try_recv() {
            match news {
                LinkEvent::Knock { link, .. } if !open => self.hub.refuse(link, "the run is ending"),
                LinkEvent::Knock { link, ask: Ask::World { ranks, block, node }, peer } => {
                    if !(1..=LARGEST).contains(&ranks) {
                        self.hub.refuse(link, &format!("a world has 1 to {LARGEST} ranks"));
                        continue;
                    }
                    if block.is_some_and(|block| !expected(block)) {
                        self.hub.refuse(link, "this block is not wanted any more");
                        continue;
                    }
                    let text = format!("{ranks} ranks from {node} ({peer}) join, as {next} and following");
                    steps.notes.push((Level::Info, text));
                    let world = JoinedWorld::new(next, ranks, block, node, now);
                    world.numbers().for_each(|rank| steps.change(rank, Change::Request));
                    next = Rank(next.0 + ranks);
                    let first = world.first;
                    self.worlds.push(world);
                    self.link(link, first, &mut steps);
                }
                LinkEvent::Knock { link, ask: Ask::Rank { rank }, .. } => self.link(link, Rank(rank), &mut steps),
                LinkEvent::Gone { rank, why } => self.gone(rank, &why, &mut steps),
            }
        }
        self.give_up(now, &mut steps);
        // The end of a block's bill is told by its provider.
        for world in self.worlds.iter_mut().filter(|world| world.block.is_none() && world.is_gone()) {
            world.billed.1.get_or_insert(now);
        }
        steps
    }

    /// A rank is linked under the number that it was given.
    fn link(&mut self, link: LinkId, rank: Rank, steps: &mut JoinEffects) {
        match self.joiner(rank) {
            Some(joiner) if !joiner.linked && !joiner.gone => {
                joiner.linked = true;
                if !self.hub.admit(link, rank) {
                    self.gone(rank, "it hung up at once", steps);
                }
            }
            _ => self.hub.refuse(link, "no rank of this number is expected"),
        }
    }

    fn gone(&mut self, rank: Rank, why: &str, steps: &mut JoinEffects) {
        let Some((world, _)) = self.position(rank) else { return };
        let world = &mut self.worlds[world];
        let lost: Vec<Rank> = world.lose(rank).collect();
        for rank in lost {
            tracing::debug!(%rank, "its link has ended: {why}");
            steps.change(rank, Change::Lose);
        }
        // It may be the only one that the others waited for.
        steps.messages.extend(world.welcomes(&self.welcome));
    }

    /// Worlds that do not come are not waited for.
    fn give_up(&mut self, now: Time, steps: &mut JoinEffects) {
        let late: Vec<Rank> = self
            .worlds
            .iter()
            .filter(|world| now.since(world.since) > ARRIVAL)
            .flat_map(JoinedWorld::missing)
            .collect();
        for rank in late {
            if let Some(joiner) = self.joiner(rank) {
                joiner.gone = true;
            }
            self.hub.cut(rank);
            let text = format!("{rank} was let in but did not arrive within {} s", ARRIVAL.as_secs());
            steps.notes.push((Level::Warning, text));
            steps.change(rank, Change::Lose);
        }
    }

    /// Takes a message of a rank that joins; `None` if it is not for the listener.
    pub(super) fn on_message(&mut self, from: Rank, message: &Message) -> Option<JoinEffects> {
        let (at, _) = self.position(from)?;
        let mut steps = JoinEffects::default();
        match message {
            Message::Arrived { node, mask } => {
                self.joiner(from)?.place = Some((node.clone(), mask.clone()));
                steps.messages.extend(self.worlds[at].welcomes(&self.welcome));
            }
            Message::Hello(hello) => {
                let joiner = self.joiner(from)?;
                if !joiner.gone && joiner.hello.is_none() {
                    joiner.hello = Some(hello.clone());
                    let (node, slots) = (&hello.node, hello.slots);
                    steps.notes.push((Level::Info, format!("{from} on {node} takes part with {slots} slots")));
                    steps.change(from, Change::Arrive(placement::member(hello)));
                }
            }
            // That a rank which joined cannot go on is no reason for the others to stop.
            Message::Broken { reason } => {
                steps.notes.push((Level::Error, format!("{from} cannot take part: {reason}")));
                self.gone(from, reason, &mut steps);
                self.hub.cut(from);
            }
            Message::Leaving => {
                steps.notes.push((Level::Info, format!("{from} was told to go, and drains with its world")));
                self.worlds[at].numbers().for_each(|rank| steps.change(rank, Change::Drain));
            }
            _ => return None,
        }
        Some(steps)
    }

    /// What has changed about the ranks that joined since it was last asked.
    pub(super) fn changes(&mut self, now: Time, coordinator: &Coordinator) -> Vec<Record> {
        let mut changes = Vec::new();
        for world in &mut self.worlds {
            for (rank, joiner) in (world.first.0..).zip(&mut world.ranks) {
                let Some(state) = coordinator.standing(Rank(rank)) else { continue };
                if joiner.state.replace(state) == Some(state) || (state == RankState::Requested) {
                    continue;
                }
                let (slots, pid) = joiner.hello.as_ref().map_or((0, 0), |hello| (hello.slots, hello.pid));
                let info = RankInfo { rank, node: world.node.clone(), slots, pid };
                let (node_type, billed_since) = (NodeTypeId(0), world.billed.0);
                changes.push(Record::Rank(RankChange { time: now, info, node_type, state, billed_since }));
            }
        }
        changes
    }
}

impl Drop for JoinListener {
    fn drop(&mut self) {
        // Nobody can use it any more; that it stays behind harms nobody.
        let _ = std::fs::remove_file(&self.contact);
    }
}

impl JoinedWorld {
    fn new(first: Rank, ranks: u32, block: Option<u64>, node: String, since: Time) -> JoinedWorld {
        JoinedWorld {
            first,
            block,
            node,
            since,
            billed: (since, None),
            welcomed: false,
            told: [false; 2],
            ranks: (0..ranks).map(|_| JoinedRank::default()).collect(),
        }
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = Rank> + use<> {
        (self.first.0..self.first.0 + self.ranks.len() as u32).map(Rank)
    }

    /// Slots of one of its ranks.
    pub(super) fn slots(&self, rank: Rank) -> u32 {
        let joiner = rank.0.checked_sub(self.first.0).and_then(|at| self.ranks.get(at as usize));
        joiner.and_then(|joiner| joiner.hello.as_ref()).map_or(0, |hello| hello.slots)
    }

    /// True once any of its ranks takes part.
    pub(super) fn is_in(&self) -> bool {
        self.ranks.iter().any(|joiner| joiner.hello.is_some())
    }

    /// True once all of its ranks have gone.
    pub(super) fn is_gone(&self) -> bool {
        self.ranks.iter().all(|joiner| joiner.gone)
    }

    /// Ranks that have neither come nor gone.
    fn missing(&self) -> impl Iterator<Item = Rank> + '_ {
        let missing = |joiner: &JoinedRank| !joiner.gone && joiner.hello.is_none();
        self.numbers().zip(&self.ranks).filter(move |(_, joiner)| missing(joiner)).map(|(rank, _)| rank)
    }

    /// A rank is gone; with it go those that never came. Returns all of them that were not known to be gone.
    fn lose(&mut self, rank: Rank) -> impl Iterator<Item = Rank> + '_ {
        self.numbers().zip(&mut self.ranks).filter_map(move |(other, joiner)| {
            let goes = other == rank || !joiner.linked;
            (goes && !std::mem::replace(&mut joiner.gone, true)).then_some(other)
        })
    }

    /// What its ranks are told, once: when all of them have said where they are, or are gone.
    fn welcomes(&mut self, welcome: &Welcome) -> Vec<(Rank, Message)> {
        let is_complete = self.ranks.iter().all(|joiner| joiner.place.is_some() || joiner.gone);
        if !is_complete || std::mem::replace(&mut self.welcomed, true) {
            return Vec::new();
        }
        let places = || self.ranks.iter().filter(|joiner| !joiner.gone).filter_map(|joiner| joiner.place.as_ref());
        let masks = |node: &str| places().filter(|place| place.0 == node).map(|place| place.1.clone()).collect();
        let told = |(rank, joiner): (Rank, &JoinedRank)| {
            let (node, _) = joiner.place.as_ref().filter(|_| !joiner.gone)?;
            let welcome = Welcome { masks: masks(node), open: false, ..welcome.clone() };
            Some((rank, Message::Welcome(Box::new(welcome))))
        };
        self.numbers().zip(&self.ranks).filter_map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::fabric::bridge::join::{Joined, join};

    fn listener(dir: &Path) -> JoinListener {
        let welcome = Welcome {
            job_text: "".into(),
            job_path: String::new(),
            base_dir: String::new(),
            run_dir: dir.display().to_string(),
            run_name: "r-1".into(),
            session: 1,
            began_unix_ns: 0,
            works: true,
            slots: None,
            masks: Vec::new(),
            open: true,
            max_failures: None,
        };
        JoinListener::open(&Listen::On("127.0.0.1".into()), welcome, Arc::new(EventWait::new().unwrap())).unwrap().0
    }

    /// Looks until as many changes have come as there should be.
    fn look(listener: &mut JoinListener, changes: usize) -> JoinEffects {
        let (mut all, until) = (JoinEffects::default(), Instant::now() + Duration::from_secs(60));
        while all.events.len() < changes {
            let steps = listener.look(Time::ZERO, Rank(1), true, &|_| true);
            all.events.extend(steps.events);
            all.messages.extend(steps.messages);
            assert!(Instant::now() < until, "nothing happens");
            std::thread::sleep(Duration::from_millis(1));
        }
        all
    }

    /// A world of two ranks; the second has its link.
    fn world(listener: &mut JoinListener) -> [Joined; 2] {
        let contact = Contact::read(&listener.contact).unwrap();
        let asks = [Ask::World { ranks: 2, block: None, node: "n".into() }, Ask::Rank { rank: 2 }];
        asks.map(|ask| {
            let contact = contact.clone();
            let joining = std::thread::spawn(move || join(&contact, &ask, || {}).unwrap().1);
            let until = Instant::now() + Duration::from_secs(60);
            while !joining.is_finished() {
                listener.look(Time::ZERO, Rank(1), true, &|_| true);
                assert!(Instant::now() < until, "it is not let in");
                std::thread::sleep(Duration::from_millis(1));
            }
            joining.join().unwrap()
        })
    }

    #[test]
    fn a_rank_that_dies_before_it_has_said_where_it_is_is_not_waited_for() {
        let arrived = Message::Arrived { node: "n".into(), mask: vec![0] };
        let is_welcome = |steps: &JoinEffects| matches!(&steps.messages[..], [(Rank(1), Message::Welcome(_))]);
        let dir = tempfile::tempdir().unwrap();
        let mut listener = listener(dir.path());
        let [_first, second] = world(&mut listener);
        assert!(listener.on_message(Rank(1), &arrived).unwrap().messages.is_empty(), "the other may still come");
        drop(second);
        let steps = look(&mut listener, 1);
        assert!(is_welcome(&steps), "{:?}", steps.messages);
        assert!(listener.on_message(Rank(1), &arrived).unwrap().messages.is_empty(), "told once");
    }
}
