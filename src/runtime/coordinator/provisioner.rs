//! Requests nodes for a run and gives them back, through the providers of its sites.
//!
//! A run may own nodes without a world from the start (the allocation that it was started in), and
//! request more if its job names a provider. The blocks themselves are in the node table. Which of
//! several sites is asked is decided in `scale/sites`.

use std::path::Path;
use std::time::Duration;

use super::join_address::Listen;
use super::planned_sites::{default_delay, usual_wait, view_of};
use super::pricing::{known_of, type_of};
use crate::capacity::commands::{self, CommandProvider};
use crate::capacity::local::{self, Local, hosts};
use crate::capacity::slurm::{self, Allocation, Slurm};
use crate::capacity::{
    Block, BlockId, BlockNote, Blocks, Launch, OverdueNeed, Provider, ProviderOrder, SiteId, State, Wanted, folder_of,
    withdraw_others,
};
use crate::fabric::bridge::contact::FILE;
use crate::job::{Capacity, Job, ProviderKind, Site, SiteTerms};
use crate::journal::{EndedSessions, Level};
use crate::model::{Labels, NodeNeed, NodeOffer, Offers, Time, labels_of};
use crate::runtime::{Options, RunError};
use crate::scale::sites::rank_sites;
use crate::scale::{NodeTypeId, SiteView, WaitSource};
use crate::schedule::coordinator::Member;
use crate::schedule::protocol::Welcome;

/// Folder in the run directory with the output of blocks and the name of their jobs.
pub const BLOCKS: &str = "blocks";

/// Names the files of the allocation if the nodes of `[capacity]` are on another cluster.
const ALLOCATION: &str = "allocation";

/// Puts requests and orders to the providers of the sites.
pub(super) struct Provisioner {
    /// By place in the job; the allocation of the run is the last where it is none of them.
    sites: Vec<ProvidedSite>,
}

/// A site with its provider.
struct ProvidedSite {
    provider: Box<dyn Provider>,
    kind: ProviderKind,
    /// Maximum duration of a block.
    time: Option<Duration>,
    /// Labels of all its blocks.
    labels: Labels,
    node_type: NodeTypeId,
    /// What its nodes are said to have besides labels.
    said: NodeOffer,
    /// What they have, as far as it is known.
    known: NodeOffer,
    /// Of a `[[site]]`.
    terms: Option<SiteTerms>,
}

/// Where rank 0 listens for ranks that join; `None` if none can join.
pub(super) fn listen_on(options: &Options, job: &Job) -> Option<Listen> {
    if let Some(named) = options.join_on.as_ref().or(job.listen.as_ref()) {
        return Some(Listen::On(named.clone()));
    }
    let is_here = |site: &Site| site.capacity.provider == ProviderKind::Local && site.capacity.hostfile.is_none();
    match &job.sites[..] {
        [] => Allocation::from_environment().map(|_| Listen::Reachable),
        sites if sites.iter().all(is_here) => Some(Listen::On("127.0.0.1".into())),
        _ => Some(Listen::Reachable),
    }
}

/// Refuses providers that cannot work, before anything has begun.
///
/// # Errors
/// If a hostfile cannot be used.
pub(super) fn check(sites: &[Site]) -> Result<(), RunError> {
    let files = sites.iter().filter_map(|site| site.capacity.hostfile.as_ref());
    files.into_iter().try_for_each(|file| hosts(file).map(drop).map_err(RunError::Refused))
}

/// The nodes that these sites can give, by their labels, before there is a provisioner.
///
/// # Errors
/// If a hostfile cannot be used.
pub(super) fn offers(sites: &[Site]) -> Result<Offers, RunError> {
    sites
        .iter()
        .try_fold(Offers::Nothing, |offers, site| Ok(offers.or(offers_of(&site.capacity)?.with(&known_of(Some(site))))))
}

fn offers_of(capacity: &Capacity) -> Result<Offers, RunError> {
    Ok(match (capacity.provider, &capacity.hostfile) {
        (ProviderKind::None, _) => Offers::Nothing,
        (ProviderKind::Slurm, _) => slurm::offers(capacity),
        (ProviderKind::Commands, _) => commands::offers(capacity),
        (ProviderKind::Local, None) => local::offers(None, &capacity.labels),
        (ProviderKind::Local, Some(file)) => {
            local::offers(Some(&hosts(file).map_err(RunError::Refused)?), &capacity.labels)
        }
    })
}

impl ProvidedSite {
    /// A site whose nodes join the run of `launch`. Nodes of the allocation become blocks at once.
    fn new(
        (site, place, node_type): (&Site, SiteId, NodeTypeId),
        launch: Launch,
        allocation: Option<Allocation>,
        ended: &EndedSessions,
        blocks: &mut Blocks,
    ) -> Result<ProvidedSite, RunError> {
        let system = |what| move |source| RunError::System { what, source };
        std::fs::create_dir_all(&launch.logs).map_err(system("make the folder of the blocks' logs"))?;
        let (capacity, terms) = (&site.capacity, site.terms.clone());
        let labels = labels_of(capacity.labels.iter().cloned());
        let provider: Box<dyn Provider> = match (capacity.provider, &capacity.hostfile) {
            (ProviderKind::Commands, _) => {
                let commands = CommandProvider::new(launch, capacity, ended);
                Box::new(commands.map_err(system("use the lines of the provider `commands`"))?)
            }
            (ProviderKind::Local, file) => {
                let hosts = file.as_ref().map(|file| hosts(file).map_err(RunError::Refused)).transpose()?;
                Box::new(Local::new(launch, hosts, Labels::clone(&labels)))
            }
            (ProviderKind::None | ProviderKind::Slurm, _) => {
                let nodes = allocation.iter().flat_map(|allocation| allocation.others.clone());
                let own: Vec<(BlockId, String)> = nodes.map(|node| (blocks.own(Time::ZERO, place), node)).collect();
                let slurm = Slurm::new(launch, capacity.clone(), allocation, ended, terms.is_some());
                let mut slurm = slurm.map_err(system("speak to Slurm"))?;
                own.into_iter().for_each(|(id, node)| slurm.adopt(id, node));
                Box::new(slurm)
            }
        };
        let (kind, said) = (capacity.provider, known_of(Some(site)));
        Ok(ProvidedSite { provider, kind, time: capacity.time, labels, node_type, known: said.clone(), said, terms })
    }

    /// Limits a block that is needed for at most `needed`, where the provider does not say when it
    /// ends.
    fn limit(&self, blocks: &mut Blocks, id: BlockId, needed: Option<Duration>) {
        let lasts = match self.kind {
            // Its lines request the shorter time, too.
            ProviderKind::Commands => self.time.map(|time| commands::requested_time(time, needed)),
            ProviderKind::Local => self.time,
            ProviderKind::None | ProviderKind::Slurm => None,
        };
        if let Some(lasts) = lasts {
            blocks.limit(id, lasts);
        }
    }

    /// The nodes that can be requested.
    fn offers(&self) -> Offers {
        self.provider.offers().with(&self.known)
    }

    /// Time in seconds until a node joins that is requested now, by the batch system's estimate.
    fn batch_estimate(&self, now: Time) -> Option<f64> {
        let start = self.provider.expected_start().filter(|_| self.terms.is_some())?;
        Some((start.since(now) + default_delay(self.kind)).as_secs_f64())
    }

    /// Number of further nodes that it can hold; `None` if it is not known.
    fn room(&self, site: SiteId, blocks: &Blocks) -> Option<u32> {
        if self.kind == ProviderKind::None {
            return Some(held(blocks) as u32);
        }
        let limit = self.terms.as_ref().and_then(|terms| terms.node.limit);
        let most = self.provider.most_blocks().into_iter().chain(limit).min()?;
        let taken = blocks.iter().filter(|block| block.site == site && !block.state.is_over()).count() as u32;
        Some(most.saturating_sub(taken))
    }
}

impl Provisioner {
    /// The provisioner of a run that ranks can join; `None` if it has neither nodes without a world
    /// nor a provider. Nodes of its own become blocks at once.
    ///
    /// # Errors
    /// If a provider cannot be used.
    pub(super) fn new(
        job: &Job,
        welcome: &Welcome,
        ended: &EndedSessions,
        blocks: &mut Blocks,
    ) -> Result<Option<Provisioner>, RunError> {
        let dir = Path::new(&welcome.run_dir);
        let logs = dir.join(BLOCKS);
        let names: Vec<Option<&str>> = job.sites.iter().map(Site::name).collect();
        withdraw_others(&logs, &names, ended).iter().for_each(|why| tracing::warn!("{why}"));
        let mut allocation = Allocation::from_environment();
        let system = |what| move |source| RunError::System { what, source };
        let program = std::env::current_exe().map_err(system("find this program"))?;
        let launch = |site: Option<&str>, slots: Option<u32>| Launch {
            program: program.clone(),
            contact: dir.join(FILE),
            logs: folder_of(&logs, site),
            run: site.map_or_else(|| welcome.run_name.clone(), |site| format!("{}-{site}", welcome.run_name)),
            began_unix_ns: welcome.began_unix_ns,
            slots,
        };
        let mut sites = Vec::new();
        for (place, site) in (0..).map(SiteId).zip(&job.sites) {
            // Slurm gives the nodes of the allocation back, as those of `[capacity]` on its
            // cluster.
            let own = allocation.take_if(|_| site.terms.is_none() && site.capacity.cluster.is_none());
            let own = own.filter(|_| site.capacity.provider == ProviderKind::Slurm);
            let about = (site, place, type_of(job, Some(place)));
            let launch = launch(site.name(), site.capacity.slots);
            sites.push(ProvidedSite::new(about, launch, own, ended, blocks)?);
        }
        blocks.set_sites(sites.len());
        if allocation.is_some() {
            let (site, place) = (Site { capacity: Capacity::default(), terms: None }, SiteId(sites.len() as u32));
            let about = (&site, place, type_of(job, Some(place)));
            // `[capacity]` keeps its files where those of the only source of nodes are.
            let name = names.contains(&None).then_some(ALLOCATION);
            sites.push(ProvidedSite::new(about, launch(name, None), allocation, ended, blocks)?);
        }
        Ok((!sites.is_empty()).then_some(Provisioner { sites }))
    }

    /// The batch systems' present estimates of the time in seconds until a node of a type joins.
    pub(super) fn batch_estimates(&self, now: Time) -> Vec<(NodeTypeId, Option<f64>)> {
        let sites = self.sites.iter().filter(|site| site.terms.is_some() && site.kind == ProviderKind::Slurm);
        sites.map(|site| (site.node_type, site.batch_estimate(now))).collect()
    }

    /// The `[[site]]`s, in the order in which they are asked; `delay_s` is how long a node of a
    /// type takes to join, in seconds, and what that is based on, where it is known, `base_slots`
    /// the slots of the first ranks.
    pub(super) fn views(
        &self,
        now: Time,
        blocks: &Blocks,
        delay_s: &dyn Fn(NodeTypeId) -> Option<(f64, WaitSource)>,
        base_slots: u32,
    ) -> Vec<SiteView> {
        let view = |(place, site): (SiteId, &ProvidedSite)| {
            let terms = site.terms.as_ref()?;
            let (usual_s, source) =
                delay_s(site.node_type).unwrap_or_else(|| usual_wait(site.kind, None, site.batch_estimate(now)));
            let usual = Duration::try_from_secs_f64(usual_s).unwrap_or(Duration::MAX);
            // An estimate of the batch system is about the queue as it is.
            let is_present = matches!(source, WaitSource::Slurm | WaitSource::LearntAndSlurm);
            let doubted = if is_present { Duration::MAX } else { terms.patience };
            let wait = blocks.expected_wait(now, place, usual, doubted);
            let wait_from = if wait > usual { WaitSource::Requests } else { source };
            Some(SiteView {
                room: site.room(place, blocks),
                closed: blocks.closed(now, place),
                ..view_of((place, site.node_type, terms), (wait.as_secs_f64(), wait_from), base_slots)
            })
        };
        let mut views: Vec<SiteView> = (0..).map(SiteId).zip(&self.sites).filter_map(view).collect();
        rank_sites(&mut views);
        views
    }

    /// A rank of a site has joined: what it has is what the site's nodes have. Returns what is
    /// known now of the nodes of that type, if that has changed.
    pub(super) fn learn(&mut self, site: SiteId, member: &Member) -> Option<(NodeTypeId, NodeOffer)> {
        let site = self.sites.get_mut(site.index())?;
        let is_mixed = matches!(site.provider.offers(), Offers::Nodes(nodes) if nodes.len() > 1);
        let has = (member.slots, member.memory, member.gpus);
        let known = site.known.learnt(has, site.terms.is_some() && !is_mixed);
        (std::mem::replace(&mut site.known, known.clone()) != known).then_some((site.node_type, known))
    }

    /// What a node must have that is requested with these labels: what nodes of a type are said to
    /// have, if they may have the labels.
    pub(super) fn need_of(&self, node_type: Option<NodeTypeId>, labels: Labels) -> NodeNeed {
        let need = NodeNeed { labels, ..NodeNeed::default() };
        let is_of_type = |site: &&ProvidedSite| site.terms.is_some() && Some(site.node_type) == node_type;
        let site = self.sites.iter().find(is_of_type).filter(|site| site.offers().may_serve(&need));
        let Some(ProvidedSite { said, known, .. }) = site else { return need };
        NodeNeed {
            slots: said.slots.and(known.slots).unwrap_or_default(),
            memory: said.memory.and(known.memory).unwrap_or_default(),
            gpus: said.gpus.and(known.gpus).unwrap_or_default(),
            ..need
        }
    }

    /// What a block has, as far as it is known.
    pub(super) fn offer_of(&self, block: &Block) -> NodeOffer {
        let known = self.sites.get(block.site.index()).map(|site| site.known.clone()).unwrap_or_default();
        NodeOffer { labels: Some(Labels::clone(&block.labels)), ..known }
    }

    /// The sites that may have a node for this need, in the order in which they are asked, and
    /// how many nodes of each at most. A node of the allocation that is billed without a world
    /// comes first, then those of the `preferred` type, then those that are known to meet the need.
    pub(super) fn order(
        &self,
        blocks: &Blocks,
        views: &[SiteView],
        need: &NodeNeed,
        preferred: Option<NodeTypeId>,
    ) -> Vec<(SiteId, u32)> {
        let unnamed = (0..).map(SiteId).zip(&self.sites).filter(|(_, site)| site.terms.is_none());
        let unnamed = unnamed.map(|(place, site)| match site.kind {
            ProviderKind::None => (place, held(blocks) as u32),
            _ => (place, u32::MAX),
        });
        let mut order: Vec<(SiteId, u32)> = unnamed.collect();
        order.sort_by_key(|(_, most)| *most);
        let mut named: Vec<&SiteView> = views.iter().filter(|view| self.can_give(view, need)).collect();
        named.sort_by_key(|view| (Some(view.node_type) != preferred, !self.is_known_for(view, need)));
        order.extend(named.iter().map(|view| (SiteId(view.site), view.room.unwrap_or(u32::MAX))));
        order
    }

    /// True if a `[[site]]` can be asked for a node for this need.
    pub(super) fn can_give(&self, view: &SiteView, need: &NodeNeed) -> bool {
        let may_have = |site: &ProvidedSite| site.offers().may_serve(need);
        view.can_be_asked() && self.sites.get(view.site as usize).is_some_and(may_have)
    }

    /// True if the nodes of a `[[site]]` are known to have what a need asks for beside labels.
    pub(super) fn is_known_for(&self, view: &SiteView, need: &NodeNeed) -> bool {
        self.sites.get(view.site as usize).is_some_and(|site| site.offers().are_known_for(need))
    }

    /// Requests up to this number of nodes from a site; returns the requests.
    pub(super) fn request(
        &mut self,
        now: Time,
        blocks: &mut Blocks,
        (place, nodes): (SiteId, u32),
        wanted: &Wanted,
    ) -> Vec<BlockId> {
        let Some(site) = self.sites.get_mut(place.index()) else { return Vec::new() };
        let request = |_| blocks.request(now, place, wanted, &site.labels);
        let ids: Vec<BlockId> = (0..nodes).map_while(request).collect();
        if !ids.is_empty() {
            ids.iter().for_each(|&id| site.limit(blocks, id, wanted.limit));
            site.provider.request(&ids, &wanted.need.labels, wanted.limit);
        }
        ids
    }

    /// Requests the node of a need, which lasts for at most `limit`, from one more site.
    pub(super) fn request_too(
        &mut self,
        now: Time,
        blocks: &mut Blocks,
        (need, limit): (&OverdueNeed, Option<Duration>),
        place: SiteId,
    ) -> Option<BlockId> {
        let site = self.sites.get_mut(place.index())?;
        let id = blocks.request_too(now, need, place, &site.labels)?;
        site.limit(blocks, id, limit);
        site.provider.request(&[id], &need.wanted.need.labels, limit);
        Some(id)
    }

    /// Of a need's last site, how long it has at most to grant a node.
    pub(super) fn patience(&self, site: SiteId) -> Duration {
        let terms = self.sites.get(site.index()).and_then(|site| site.terms.as_ref());
        terms.map_or(Duration::MAX, |terms| terms.patience)
    }

    /// The nodes that can be requested, by their labels, of sites that have not failed for good.
    pub(super) fn offers(&self, blocks: &Blocks) -> Offers {
        let works = |(place, site): &(SiteId, &ProvidedSite)| {
            site.kind != ProviderKind::None && blocks.paused().is_none() && !blocks.is_given_up(*place)
        };
        let sources = (0..).map(SiteId).zip(&self.sites).filter(works);
        sources.fold(Offers::Nothing, |offers, (_, site)| offers.or(site.offers()))
    }

    /// Number of further nodes that the sites can hold; `None` if it is not known.
    pub(super) fn room(&self, blocks: &Blocks) -> Option<u32> {
        let room = |(place, site): (SiteId, &ProvidedSite)| site.room(place, blocks);
        let rooms: Option<Vec<u32>> = (0..).map(SiteId).zip(&self.sites).map(room).collect();
        rooms.map(|rooms| rooms.into_iter().fold(0, u32::saturating_add))
    }

    /// What gives the nodes, for messages.
    pub(super) fn name(&self) -> String {
        match &self.sites[..] {
            [ProvidedSite { terms: None, kind: ProviderKind::None, .. }] => "the allocation".to_owned(),
            [ProvidedSite { terms: None, kind, .. }] => format!("the provider `{}`", kind.name()),
            [ProvidedSite { terms: Some(terms), .. }] => format!("the site `{}`", terms.name),
            sites => format!("all {} sites together", sites.len()),
        }
    }

    /// Takes the events of the providers, and puts the resulting orders to them. Tasks take up to
    /// `task`, if that is known.
    pub(super) fn poll(&mut self, now: Time, blocks: &mut Blocks, task: Option<Duration>) -> Vec<(Level, String)> {
        for (id, event) in self.sites.iter_mut().flat_map(|site| site.provider.poll()) {
            blocks.step(now, id, event);
        }
        blocks.tick(now, task);
        self.execute_orders(blocks);
        let note = |note| match note {
            BlockNote::Info(text) => (Level::Info, text),
            BlockNote::Warning(text) => (Level::Warning, text),
        };
        blocks.take_notes().into_iter().map(note).collect()
    }

    /// Puts orders to the providers that follow from events of blocks.
    pub(super) fn execute_orders(&mut self, blocks: &mut Blocks) {
        for order in blocks.take_orders() {
            let (ProviderOrder::Release(id) | ProviderOrder::Withdraw(id)) = order;
            let site = blocks.get(id).and_then(|block| self.sites.get_mut(block.site.index()));
            match (site, order) {
                (Some(site), ProviderOrder::Release(id)) => site.provider.release(id),
                (Some(site), ProviderOrder::Withdraw(id)) => site.provider.withdraw(id),
                (None, _) => {}
            }
        }
    }

    /// Gives everything back, and waits until the providers confirm it or a limit has passed. One
    /// that gives no answer delays no other.
    pub(super) fn close(&mut self, now: Time, blocks: &mut Blocks) -> Vec<(Level, String)> {
        blocks.withdraw_waiting(now, usize::MAX);
        std::thread::scope(|scope| {
            self.sites.iter_mut().for_each(|site| _ = scope.spawn(|| site.provider.close()));
        });
        self.poll(now, blocks, None)
    }
}

/// Number of nodes of the run's own allocation that are billed without a world.
fn held(blocks: &Blocks) -> usize {
    blocks.iter().filter(|block| block.state == State::Held && block.own).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::NodeTerms;

    /// A site of this machine.
    fn site(place: u32, node: NodeTerms) -> ProvidedSite {
        let launch = Launch {
            program: "true".into(),
            contact: "contact".into(),
            logs: "logs".into(),
            run: "run".into(),
            began_unix_ns: 0,
            slots: node.slots,
        };
        let capacity = Capacity { provider: ProviderKind::Local, slots: node.slots, ..Capacity::default() };
        let terms = SiteTerms { name: place.to_string(), node, patience: Duration::MAX, bandwidth: None };
        let site = Site { capacity, terms: Some(terms) };
        let said = known_of(Some(&site));
        ProvidedSite {
            provider: Box::new(Local::new(launch, None, Labels::default())),
            kind: ProviderKind::Local,
            time: None,
            labels: Labels::default(),
            node_type: NodeTypeId(1 + place),
            known: said.clone(),
            said,
            terms: site.terms,
        }
    }

    fn places(provisioner: &Provisioner, need: &NodeNeed, preferred: Option<NodeTypeId>) -> Vec<u32> {
        let blocks = Blocks::default();
        let views = provisioner.views(Time::ZERO, &blocks, &|_| None, 1);
        provisioner.order(&blocks, &views, need, preferred).iter().map(|(site, _)| site.0).collect()
    }

    #[test]
    fn nodes_that_surely_serve_come_first_and_what_a_node_lacks_is_learnt() {
        let plain = NodeTerms { node_hour: 1.0, ..NodeTerms::default() };
        let gpu = NodeTerms { node_hour: 5.0, gpus: Some(1), ..NodeTerms::default() };
        let mut provisioner = Provisioner { sites: vec![site(0, plain), site(1, gpu)] };
        let need = NodeNeed { gpus: 1, ..NodeNeed::default() };
        assert_eq!(places(&provisioner, &need, None), [1, 0]);
        assert_eq!(places(&provisioner, &NodeNeed::default(), None), [0, 1], "the cheapest");
        let member = Member { slots: 4, memory: 1 << 30, gpus: 0, ..Member::default() };
        let known = NodeOffer { labels: None, slots: Some(4), memory: Some(1 << 30), gpus: Some(0) };
        assert_eq!(provisioner.learn(SiteId(0), &member), Some((NodeTypeId(1), known)));
        assert_eq!(provisioner.learn(SiteId(0), &member), None);
        assert_eq!(places(&provisioner, &need, None), [1]);
    }

    #[test]
    fn only_nodes_with_as_much_take_the_place_of_those_of_a_type() {
        let node = |node_hour, slots| NodeTerms { node_hour, slots: Some(slots), ..NodeTerms::default() };
        let provisioner =
            Provisioner { sites: vec![site(0, node(1.0, 1)), site(1, node(5.0, 2)), site(2, node(9.0, 4))] };
        let of_type = |number| provisioner.need_of(Some(NodeTypeId(number)), Labels::default());
        assert_eq!(places(&provisioner, &of_type(2), Some(NodeTypeId(2))), [1, 2]);
        assert_eq!(places(&provisioner, &of_type(3), Some(NodeTypeId(3))), [2]);
        assert_eq!(provisioner.need_of(None, Labels::default()), NodeNeed::default());
        let labels: Labels = ["other".to_owned()].into();
        let need = provisioner.need_of(Some(NodeTypeId(2)), Labels::clone(&labels));
        assert_eq!(need, NodeNeed { labels, ..NodeNeed::default() }, "nodes of the type do not have the label");
    }
}
