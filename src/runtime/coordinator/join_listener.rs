//! Admits ranks to a run that is under way, and detects when one is gone.
//!
//! | a world that joins | event | effect |
//! |---|---|---|
//! | requests admission | its first rank sends a request | its ranks get numbers and are *requested* |
//! | is welcomed | all its ranks have sent their places, or are gone | each that is present is sent the run's facts |
//! | arrives | a rank sends its resources | the rank *arrives* and receives tasks with the next epoch |
//! | loses ranks | a link ends | the rank is *lost*, and so are those of its world that never linked |
//! | is late | ranks do not arrive in time | they are *lost* |
//!
//! The end of a link means nothing for a rank that has left in order. The coordinator handles the
//! tasks that a lost rank was running. The listener makes no decisions: it turns events of the
//! bridge into changes of the node table and events for the coordinator.
//!
//! Ranks that join share the CPUs of a node within their own world only. Whoever starts two worlds
//! on one node has divided its CPUs already.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::join_address::{JoinAddress, Listen};
use crate::capacity::slurm::NodeFeatures;
use crate::capacity::{BlockId, NodeTable, SiteId};
use crate::fabric::bridge::Ask;
use crate::fabric::bridge::contact::{Contact, Secret};
use crate::fabric::bridge::hub::{Hub, LinkEvent, LinkId, Outer};
use crate::journal::Level;
use crate::model::{Rank, Time};
use crate::runtime::event_wait::EventWait;
use crate::runtime::{RunError, contact_of};
use crate::schedule::coordinator::{Change, CoordinatorEvent};
use crate::schedule::protocol::{Message, Welcome};
use crate::text::counted;
use crate::workload::placement;

/// Time that a world has to arrive after it was admitted.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(300);

/// Upper bound on the ranks of one world.
const MAX_WORLD_SIZE: u32 = 4096;

/// Listens for ranks that join.
pub(super) struct JoinListener {
    hub: Hub,
    news: Receiver<LinkEvent>,
    welcome: Welcome,
    features: NodeFeatures,
    contact: PathBuf,
    /// Where ranks are whose world has not been welcomed.
    places: HashMap<Rank, Place>,
}

/// The CPUs that a rank may use.
struct Place {
    node: String,
    mask: Vec<u32>,
}

/// The effects of an event of the bridge, or from a message of a rank that joins.
#[derive(Default)]
pub(super) struct JoinEffects {
    /// For the coordinator, in this order.
    pub(super) events: Vec<CoordinatorEvent>,
    /// To be sent.
    pub(super) messages: Vec<(Rank, Message)>,
    /// For the user and the journal.
    pub(super) notes: Vec<(Level, String)>,
    /// Times that requested nodes took to join, with their sites.
    pub(super) delays: Vec<(SiteId, Duration)>,
}

impl JoinEffects {
    fn change(&mut self, rank: Rank, change: Change) {
        self.events.push(CoordinatorEvent::Change { rank, change });
    }
}

impl JoinListener {
    /// Listens on an address of this machine and writes the contact file.
    ///
    /// # Errors
    /// If the address cannot be used, or the contact file cannot be written.
    pub(super) fn open(
        listen: &Listen,
        welcome: Welcome,
        features: NodeFeatures,
        wait: Arc<EventWait>,
    ) -> Result<(JoinListener, Outer), RunError> {
        let system = |what| move |source| RunError::System { what, source };
        let secret = Secret::random().map_err(system("make a secret"))?;
        let address = JoinAddress::choose(listen)?;
        let (hub, outer, news) = Hub::open(address.bind, secret.clone(), move || wait.notify())
            .map_err(system("listen for ranks that join"))?;
        let path = contact_of(Path::new(&welcome.run_dir));
        let addresses = address.published(hub.address().port());
        tracing::info!("ranks may join at {}: phalanx join --contact {}", addresses.join(", "), path.display());
        let (run, session_ms) = (welcome.run_name.clone(), welcome.began_unix_ns / 1_000_000);
        Contact { run, session_ms, addresses, secret }.write(&path)?;
        Ok((JoinListener { hub, news, welcome, features, contact: path, places: HashMap::new() }, outer))
    }

    /// Handles all events of the bridge, and gives up ranks that are late. No rank is admitted
    /// unless the run is `open`, and no block unless it is still expected.
    pub(super) fn poll(&mut self, now: Time, nodes: &mut NodeTable, open: bool) -> JoinEffects {
        let mut effects = JoinEffects::default();
        while let Ok(news) = self.news.try_recv() {
            match news {
                LinkEvent::Knock { link, .. } if !open => self.hub.refuse(link, "the run is ending"),
                LinkEvent::Knock { link, ask: Ask::World { ranks, block, node }, peer } => {
                    let block = block.map(BlockId);
                    if !(1..=MAX_WORLD_SIZE).contains(&ranks) {
                        self.hub.refuse(link, &format!("a world has 1 to {MAX_WORLD_SIZE} ranks"));
                        continue;
                    }
                    if block.is_some_and(|id| !nodes.blocks.is_coming(id)) {
                        self.hub.refuse(link, "this block is not wanted any more");
                        continue;
                    }
                    let first = nodes.add_world(now, ranks, block, &node);
                    let text = format!("{ranks} ranks from {node} ({peer}) join, as {first} and following");
                    effects.notes.push((Level::Info, text));
                    nodes.mates(first).into_iter().for_each(|rank| effects.change(rank, Change::Request));
                    self.link(now, link, first, nodes, &mut effects);
                }
                LinkEvent::Knock { link, ask: Ask::Rank { rank }, .. } => {
                    self.link(now, link, Rank(rank), nodes, &mut effects);
                }
                LinkEvent::Gone { rank, why } => self.lose(now, rank, &why, nodes, &mut effects),
            }
        }
        for rank in nodes.give_up(now, ARRIVAL_TIMEOUT) {
            self.hub.cut(rank);
            let text = format!("{rank} was let in but did not arrive within {} s", ARRIVAL_TIMEOUT.as_secs());
            effects.notes.push((Level::Warning, text));
            effects.change(rank, Change::Lose);
        }
        effects
    }

    /// Links a rank under the number that it was given.
    fn link(&mut self, now: Time, link: LinkId, rank: Rank, nodes: &mut NodeTable, effects: &mut JoinEffects) {
        if !nodes.link(rank) {
            self.hub.refuse(link, "no rank of this number is expected");
        } else if !self.hub.admit(link, rank) {
            self.lose(now, rank, "it hung up at once", nodes, effects);
        }
    }

    fn lose(&mut self, now: Time, rank: Rank, why: &str, nodes: &mut NodeTable, effects: &mut JoinEffects) {
        for rank in nodes.lose(now, rank) {
            tracing::debug!(%rank, "its link has ended: {why}");
            effects.change(rank, Change::Lose);
        }
        // The others may have waited for this rank only.
        self.welcome_world(rank, nodes, effects);
    }

    /// Handles a message of a rank that joins; `None` if it is not for the listener.
    pub(super) fn on_message(
        &mut self,
        now: Time,
        from: Rank,
        message: &Message,
        nodes: &mut NodeTable,
    ) -> Option<JoinEffects> {
        let world = nodes.world_of(from)?.ranks();
        let mut effects = JoinEffects::default();
        match message {
            Message::Arrived { node, mask } => {
                if nodes.is_linked(from) {
                    self.places.insert(from, Place { node: node.clone(), mask: mask.clone() });
                    self.welcome_world(from, nodes, &mut effects);
                }
            }
            Message::Hello(hello) => {
                if let Some(arrival) = nodes.arrive(now, from, hello.slots, hello.pid) {
                    let (node, slots) = (&hello.node, hello.slots);
                    effects
                        .notes
                        .push((Level::Info, format!("{from} on {node} takes part with {}", counted(slots, "slot"))));
                    let mut hello = hello.clone();
                    hello.add_labels(self.features.of(&hello.node));
                    effects.change(from, Change::Arrive(placement::member(&hello)));
                    effects.delays.extend(arrival.delay);
                }
            }
            // The others can continue without it.
            Message::Broken { reason } => {
                effects.notes.push((Level::Error, format!("{from} cannot take part: {reason}")));
                self.lose(now, from, reason, nodes, &mut effects);
                self.hub.cut(from);
            }
            // It may live: without its link it ends what it runs.
            Message::RankLost { rank } if world.clone().any(|mate| mate == *rank) => {
                self.lose(now, *rank, "its world has lost it", nodes, &mut effects);
                self.hub.cut(*rank);
            }
            Message::Leaving => {
                effects.notes.push((Level::Info, format!("{from} was told to go, and drains with its world")));
                world.for_each(|rank| effects.change(rank, Change::Drain));
            }
            _ => return None,
        }
        Some(effects)
    }

    /// Welcomes the ranks of a world, once: when all of them have sent their places, or are gone.
    fn welcome_world(&mut self, rank: Rank, nodes: &mut NodeTable, effects: &mut JoinEffects) {
        let mates = nodes.mates(rank);
        if !mates.iter().all(|&mate| self.places.contains_key(&mate) || nodes.is_gone(mate)) {
            return;
        }
        let places: Vec<(Rank, Place)> =
            mates.iter().filter_map(|&mate| Some((mate, self.places.remove(&mate)?))).collect();
        let here: Vec<&(Rank, Place)> = places.iter().filter(|(mate, _)| !nodes.is_gone(*mate)).collect();
        for (mate, place) in &here {
            let on_node = here.iter().filter(|(_, other)| other.node == place.node);
            let masks = on_node.map(|(_, other)| other.mask.clone()).collect();
            let welcome = Welcome { masks, open: false, ..self.welcome.clone() };
            effects.messages.push((*mate, Message::Welcome(Box::new(welcome))));
            nodes.welcome(*mate);
        }
    }
}

impl Drop for JoinListener {
    fn drop(&mut self) {
        // Nobody can use it any more; one that stays behind does no harm.
        let _ = std::fs::remove_file(&self.contact);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::capacity::RankFacts;
    use crate::fabric::bridge::join::{Joined, join};

    /// A listener, and the table of a run with one rank.
    fn listener(dir: &Path) -> (JoinListener, NodeTable) {
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
            auto_memory: Vec::new(),
            divided_graphs: Vec::new(),
            short: Vec::new(),
            user_variables: Vec::new(),
            process: [0; 3],
        };
        let wait = Arc::new(EventWait::new().unwrap());
        let (listener, _) =
            JoinListener::open(&Listen::On("127.0.0.1".into()), welcome, NodeFeatures::default(), wait).unwrap();
        (listener, NodeTable::new([RankFacts::default()]))
    }

    /// Polls until this many events have arrived.
    fn poll(listener: &mut JoinListener, nodes: &mut NodeTable, events: usize) -> JoinEffects {
        let (mut all, until) = (JoinEffects::default(), Instant::now() + Duration::from_secs(60));
        while all.events.len() < events {
            let effects = listener.poll(Time::ZERO, nodes, true);
            all.events.extend(effects.events);
            all.messages.extend(effects.messages);
            assert!(Instant::now() < until, "nothing happens");
            std::thread::sleep(Duration::from_millis(1));
        }
        all
    }

    /// A world of two ranks; the second has its link.
    fn world(listener: &mut JoinListener, nodes: &mut NodeTable) -> [Joined; 2] {
        let contact = Contact::read(&listener.contact).unwrap();
        let asks = [Ask::World { ranks: 2, block: None, node: "n".into() }, Ask::Rank { rank: 2 }];
        asks.map(|ask| {
            let contact = contact.clone();
            let joining = std::thread::spawn(move || join(&contact, &ask, || {}).unwrap().1);
            let until = Instant::now() + Duration::from_secs(60);
            while !joining.is_finished() {
                listener.poll(Time::ZERO, nodes, true);
                assert!(Instant::now() < until, "it is not let in");
                std::thread::sleep(Duration::from_millis(1));
            }
            joining.join().unwrap()
        })
    }

    #[test]
    fn a_rank_that_dies_before_it_has_said_where_it_is_is_not_waited_for() {
        let arrived = Message::Arrived { node: "n".into(), mask: vec![0] };
        let is_welcome = |effects: &JoinEffects| matches!(&effects.messages[..], [(Rank(1), Message::Welcome(_))]);
        let dir = tempfile::tempdir().unwrap();
        let (mut listener, mut nodes) = listener(dir.path());
        let [_first, second] = world(&mut listener, &mut nodes);
        let arrive = |listener: &mut JoinListener, nodes: &mut NodeTable| {
            listener.on_message(Time::ZERO, Rank(1), &arrived, nodes).unwrap().messages
        };
        assert!(arrive(&mut listener, &mut nodes).is_empty(), "the other may still come");
        drop(second);
        let effects = poll(&mut listener, &mut nodes, 1);
        assert!(is_welcome(&effects), "{:?}", effects.messages);
        assert!(arrive(&mut listener, &mut nodes).is_empty(), "welcomed once");
    }
}
