//! Which tasks fit on which ranks: refusals before the run, and the homes of tasks.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::estimates::TaskEstimates;
use super::{fair, requirements};
use crate::graph::deal::LoadRule;
use crate::graph::link::GroupId;
use crate::graph::partition::{self, Method, Partition, PartitionProblem};
use crate::graph::{Order, TaskGraph};
use crate::job::{self, Group, Job};
use crate::model::{self, Labels, NodeNeed, Offers, Shortfalls, TaskId, labels_of};
use crate::schedule::coordinator::{Advice, Member};
use crate::schedule::gang::{self, Shape};
use crate::schedule::protocol::Hello;
use crate::text::counted;

/// The ranks in the coordinator's terms.
pub(crate) fn members(hellos: &[Hello]) -> Vec<Member> {
    hellos.iter().map(member).collect()
}

/// A rank in the coordinator's terms.
pub(crate) fn member(hello: &Hello) -> Member {
    let cpus = hello.cpus.as_slice().into();
    let labels = hello.labels.as_slice().into();
    Member { node: hello.node.clone(), slots: hello.slots, memory: hello.memory, gpus: hello.gpus, cpus, labels }
}

/// The nodes that a run can get beside its ranks.
#[derive(Clone, Debug, Default)]
pub(crate) struct FurtherNodes {
    /// What they have.
    pub(crate) offers: Offers,
    /// Upper limit on the ranks of the run, present ones included.
    pub(crate) most_ranks: u32,
}

/// Refuses a job with a task that can never run: on no rank, on none that it could get and, for an
/// MPI task, on no set of ranks. Groups that are not `wanted` are not looked at.
///
/// # Errors
///
/// One line per such task: what it needs, what there is, and a remedy.
pub(crate) fn check(
    job: &Job,
    members: &[Member],
    further: &FurtherNodes,
    wanted: &dyn Fn(&Group) -> bool,
) -> Result<(), String> {
    let groups = job.groups.iter().filter(|group| wanted(group));
    let misfits: Vec<String> = groups.filter_map(|group| misfit(group, members, further)).collect();
    if misfits.is_empty() { Ok(()) } else { Err(misfits.join("\n")) }
}

/// True if some tasks fit on none of these ranks: `check` depends on what the run could get.
pub(crate) fn lacks_ranks(job: &Job, members: &[Member]) -> bool {
    let together = |group: &Group| group.mpi.is_some() && gang::place(&requirements::shape(group), members).is_some();
    job.groups.iter().any(|group| !members.iter().any(|member| fits(group, member)) && !together(group))
}

/// What a node must have to run the group's tasks.
pub(crate) fn need(group: &Group) -> NodeNeed {
    let (labels, memory) = (Labels::clone(&group.labels), group.memory.unwrap_or(0));
    NodeNeed { labels, slots: requirements::slots(group), memory, gpus: group.gpus }
}

/// For each rank, the open tasks at home there that no rank can run: it counts what they wait for,
/// and does not start them.
pub(crate) fn unplaced(
    job: &Job,
    members: &[Member],
    rules: &PlacementRules,
    home: &[u32],
    is_open: &dyn Fn(u32) -> bool,
) -> Vec<Vec<TaskId>> {
    let fits = |group: &Group| members.iter().any(|member| member.slots > 0 && rules.fits(group.first, member));
    let mut unplaced = vec![Vec::new(); members.len()];
    for group in job.groups.iter().filter(|group| !fits(group)) {
        for task in (group.first.0..group.first.0 + group.count).filter(|&task| is_open(task)) {
            unplaced[home[task as usize] as usize].push(TaskId(task));
        }
    }
    unplaced
}

/// True if the rank alone can run the group's tasks.
fn fits(group: &Group, member: &Member) -> bool {
    let (ranks, spread) = group.mpi.map_or((1, false), |mpi| (mpi.ranks, mpi.per_node.is_some_and(|n| n < mpi.ranks)));
    member.slots > 0
        && !spread
        && group.cpus.saturating_mul(ranks) <= member.slots
        && group.limits(Shortfalls::NONE, member.memory).memory.is_none_or(|memory| memory <= member.memory)
        && group.gpus <= member.gpus
        && has_labels(group, member)
}

/// True if the rank has the labels that the group's tasks ask for.
fn has_labels(group: &Group, member: &Member) -> bool {
    model::has_labels(&member.labels, &group.labels)
}

fn misfit(group: &Group, members: &[Member], further: &FurtherNodes) -> Option<String> {
    let (name, offers) = (&group.name, &further.offers);
    if let Some(what) = requirements::unsuited_to_division(group).filter(|_| group.is_divided) {
        return Some(format!(
            "task `{name}` is an operation on a divided graph and asks for {what}, which is not built yet for such tasks: leave that out, or set `divide = false` for the graph"
        ));
    }
    if members.iter().any(|member| fits(group, member)) {
        return None;
    }
    let lacks_labels = !members.iter().any(|member| member.slots > 0 && has_labels(group, member));
    if group.mpi.is_some() {
        let shape = requirements::shape(group);
        return match gang::place(&shape, members).is_some() || can_grow_to(&shape, members, further) {
            true => None,
            false if lacks_labels && !offers.may_have(&group.labels) => Some(unlabelled(group, members, offers)),
            false => Some(too_few_ranks(group, &shape, members, further)),
        };
    }
    if lacks_labels {
        // What else such a node has is not known before it is there.
        return (!offers.may_serve(&need(group))).then(|| unlabelled(group, members, offers));
    }
    (!offers.surely_serve(&need(group))).then(|| too_large(group, members))
}

/// True if a run can get the nodes that an MPI task needs beside these ranks. Nodes of which the
/// slots are not known may have as many as it needs.
fn can_grow_to(shape: &Shape, members: &[Member], further: &FurtherNodes) -> bool {
    let need = shape.need();
    let each = further.offers.most_for(&need, |node| shape.mpi_ranks_on(node));
    let nodes = each.map_or(1, |each| gang::nodes_missing(shape, members, each));
    further.offers.may_serve(&need) && nodes <= further.room(members)
}

impl FurtherNodes {
    /// How many more ranks the run may have.
    fn room(&self, members: &[Member]) -> u32 {
        self.most_ranks.saturating_sub(members.iter().filter(|member| member.slots > 0).count() as u32)
    }
}

/// The refusal of an MPI task for which neither the ranks nor those that the run could get suffice.
fn too_few_ranks(group: &Group, shape: &Shape, members: &[Member], further: &FurtherNodes) -> String {
    let need = shape.need();
    let able = || members.iter().filter(|member| has_labels(group, member));
    let (slots, ranks) = able().fold((0u64, 0u64), |sum, member| (sum.0 + u64::from(member.slots), sum.1 + 1));
    let with = match group.labels.is_empty() {
        true => String::new(),
        false => {
            format!(" with the label{} {}", if group.labels.len() == 1 { "" } else { "s" }, group.labels.join(", "))
        }
    };
    let could = match further.offers.may_serve(&need) {
        true => format!(
            ", and may get at most {} beside them (`max_ranks` of [scaling], and what the provider holds)",
            counted(further.room(members), "rank")
        ),
        false => String::new(),
    };
    let mpi_ranks = group.mpi.map_or(1, |mpi| mpi.ranks);
    let spread = group.mpi.and_then(|mpi| mpi.per_node).filter(|most| *most < mpi_ranks);
    let nodes = able().map(|member| &member.node).collect::<BTreeSet<_>>().len() as u32;
    let (on, per_node, remedy) = match spread.map(|most| (most, mpi_ranks.div_ceil(most.max(1)))) {
        Some((most, needed)) => (
            format!(" of {}", counted(nodes, "node")),
            format!(", at most {most} per node (`per_node`), so {}", counted(needed, "node")),
            if nodes < needed { "start the run on more nodes, or raise `per_node`" } else { MORE_SLOTS },
        ),
        None => (String::new(), String::new(), MORE_SLOTS),
    };
    let (asked, there) = memory_and_gpus(group, able());
    format!(
        "task `{}` needs {} of {}{asked}{with}{per_node}, but this run has {}{there} on {}{on}{with}{could}: {remedy}",
        group.name,
        counted(mpi_ranks, "MPI rank"),
        counted(group.cpus, "CPU"),
        counted(slots, "slot"),
        counted(ranks, "rank")
    )
}

/// The memory and the GPUs that an MPI task asks for, and the most that a rank has; empty for a
/// task that asks for neither.
fn memory_and_gpus<'a>(group: &Group, ranks: impl Iterator<Item = &'a Member> + Clone) -> (String, String) {
    let (mut asked, mut there) = (String::new(), String::new());
    if let Some(memory) = group.memory {
        asked += &format!(", {} MiB of memory together", memory >> 20);
        there += &match ranks.clone().map(|member| member.memory).max().unwrap_or(0) {
            u64::MAX => ", unlimited memory".to_owned(),
            most => format!(", at most {} MiB of memory per rank", most >> 20),
        };
    }
    if group.gpus > 0 {
        asked += &format!(", {} together", counted(group.gpus, "GPU"));
        there += &format!(", at most {} per rank", counted(ranks.map(|member| member.gpus).max().unwrap_or(0), "GPU"));
    }
    (asked, there)
}

/// The remedy for too few slots.
const MORE_SLOTS: &str = "start more ranks, or give each more slots with --slots";

/// The refusal of a task whose labels no rank has, and none that the run could get.
fn unlabelled(group: &Group, members: &[Member], offers: &Offers) -> String {
    let known = labels_of(members.iter().flat_map(|member| member.labels.iter().cloned()));
    let there = match known.is_empty() {
        true => "no rank has a label".to_owned(),
        false => format!("the labels of the ranks are {}", known.join(", ")),
    };
    let offered = match (offers.has_any(), offers.labels()) {
        (false, _) => String::new(),
        (true, labels) if labels.is_empty() => ", and the nodes that it can request have none".to_owned(),
        (true, labels) => format!(", and those of the nodes that it can request {}", labels.join(", ")),
    };
    let asked = group.labels.join(",");
    let also = if offers.has_any() { " in `[capacity] labels`, in the hostfile (`HOST # labels={}`)," } else { "" };
    format!(
        "task `{}` asks for a rank with the label{} {}, and none has {}: {there}{offered}; give a rank its labels{} with --labels or in PHALANX_LABELS (`mpirun -n 1 -x PHALANX_LABELS={asked} phalanx ... : -n 3 phalanx ...`), or correct `labels` of the task",
        group.name,
        if group.labels.len() == 1 { "" } else { "s" },
        group.labels.join(", "),
        if group.labels.len() == 1 { "it" } else { "all of them" },
        also.replace("{}", &asked),
    )
}

fn too_large(group: &Group, members: &[Member]) -> String {
    let most = |of: fn(&Member) -> u64| members.iter().map(of).max().unwrap_or(0);
    let mut asked = vec![counted(group.cpus, "CPU")];
    let mut there = vec![counted(most(|member| member.slots.into()), "slot")];
    if let Some(memory) = group.memory {
        asked.push(format!("{} MiB of memory", memory >> 20));
        there.push(match most(|member| member.memory) {
            u64::MAX => "unlimited memory".to_owned(),
            memory => format!("{} MiB", memory >> 20),
        });
    }
    if group.gpus > 0 {
        asked.push(counted(group.gpus, "GPU"));
        there.push(counted(most(|member| member.gpus.into()), "GPU"));
    }
    format!(
        "task `{}` fits on no rank: it asks for {}; the most that a rank has is {}: lower what it asks for, or start ranks with more (--slots, or the launcher's options)",
        group.name,
        asked.join(", "),
        there.join(", "),
    )
}

/// The coordinator's [`Advice`]: where each task may run, and how much work it is.
pub(crate) struct PlacementRules {
    job: Arc<Job>,
    estimates: Arc<TaskEstimates>,
    /// Groups with equal needs share a row, so neither a million tasks nor a million groups repeat
    /// a check.
    rows: Vec<NeedsRow>,
    row_of: Vec<u32>,
    /// For each group, the first group of its class.
    classes: Vec<u32>,
    /// The sets of labels that groups ask for, each once.
    label_sets: Vec<Labels>,
    /// Some group asks for GPUs.
    asks_for_gpus: bool,
    /// The least memory that some group asks for and not all ranks have.
    scarce_memory: Option<u64>,
    /// Some group has a share.
    is_fair: bool,
    /// Tasks read on the disk of their node what others have written there.
    passes_files: bool,
}

/// Groups with equal needs.
struct NeedsRow {
    /// One of the groups.
    group: u32,
    /// The estimated work of all of them in nanoseconds.
    work: f64,
    /// Some rank alone can run their tasks.
    is_alone: bool,
    /// Ranks with special equipment are kept free of them.
    spares: bool,
    /// Some ranks can run them and others cannot.
    is_bound: bool,
}

/// Ranks with special equipment are kept free of other tasks unless the remaining ranks would then
/// have more than this many times their share of the work.
const MAX_OVERLOAD: f64 = 2.0;

impl PlacementRules {
    pub(crate) fn new(job: Arc<Job>, estimates: Arc<TaskEstimates>, members: &[Member]) -> PlacementRules {
        let (classes, firsts) = job.classes();
        let classes = classes.into_iter().map(|class| firsts[class as usize]).collect();
        let (mut rows, mut row_of, mut known) = (Vec::new(), Vec::new(), HashMap::new());
        let mut label_sets = BTreeSet::new();
        for (id, group) in (0..).zip(&job.groups) {
            let asked = (group.cpus, group.memory, group.gpus, &group.labels, group.mpi);
            let row: u32 = *known.entry(asked).or_insert_with(|| {
                rows.push(NeedsRow { group: id, work: 0.0, is_alone: false, spares: false, is_bound: false });
                rows.len() as u32 - 1
            });
            rows[row as usize].work += estimates.ns((id, 0)) as f64 * f64::from(group.count);
            row_of.push(row);
            if !group.labels.is_empty() {
                label_sets.insert(Labels::clone(&group.labels));
            }
        }
        drop(known);
        let label_sets = label_sets.into_iter().collect();
        let asks_for_gpus = job.groups.iter().any(|group| group.gpus > 0);
        let (scarce_memory, is_fair, passes_files) = (None, fair::is_fair(&job), job.passes_files_between_tasks());
        let mut rules = PlacementRules {
            job,
            estimates,
            rows,
            row_of,
            classes,
            label_sets,
            asks_for_gpus,
            scarce_memory,
            is_fair,
            passes_files,
        };
        rules.meet(members);
        rules
    }

    fn group(&self, task: TaskId) -> (usize, &Group) {
        let id = self.job.group_of(task).0 as usize;
        (id, &self.job.groups[id])
    }

    fn row(&self, group: usize) -> &NeedsRow {
        &self.rows[self.row_of[group] as usize]
    }

    /// True if a rank has equipment that other tasks need and the group's tasks do not: labels,
    /// GPUs, or more memory than all ranks have.
    fn is_special(&self, group: &Group, member: &Member) -> bool {
        let asked = |label: &String| self.label_sets.iter().any(|set| set.contains(label));
        let large = |scarce| member.memory >= scarce && group.memory.unwrap_or(0) < scarce;
        member.labels.iter().any(|label| !group.labels.contains(label) && asked(label))
            || (member.gpus > 0 && group.gpus == 0 && self.asks_for_gpus)
            || self.scarce_memory.is_some_and(large)
    }

    /// True if a rank has what a group needs.
    fn group_fits(&self, id: usize, member: &Member) -> bool {
        let group = &self.job.groups[id];
        // An MPI task that no single rank can hold may be at home on any that would not start it
        // alone: the coordinator assembles its gang.
        (group.mpi.is_some() && !self.row(id).is_alone && group.spans_ranks(member.room())) || fits(group, member)
    }

    /// True if a rank has what a group needs, and is not kept free for others.
    fn group_suits(&self, id: usize, member: &Member) -> bool {
        let spared = || self.row(id).spares && self.is_special(&self.job.groups[id], member);
        self.group_fits(id, member) && !spared()
    }

    /// Decides of which tasks special ranks are kept free.
    fn spare(&mut self, members: &[Member]) {
        let all: f64 = members.iter().map(|member| f64::from(member.slots)).sum();
        let total: f64 = self.rows.iter().map(|row| row.work).sum();
        // The work of groups that the same ranks can run which have nothing special for them.
        let mut plain: HashMap<Vec<bool>, f64> = HashMap::new();
        let mut ranks_of = Vec::new();
        for row in &self.rows {
            let id = row.group as usize;
            let is_plain = |member: &Member| {
                member.slots > 0 && self.group_fits(id, member) && !self.is_special(&self.job.groups[id], member)
            };
            let ranks: Vec<bool> = members.iter().map(is_plain).collect();
            *plain.entry(ranks.clone()).or_default() += row.work;
            ranks_of.push(ranks);
        }
        for (row, ranks) in self.rows.iter_mut().zip(ranks_of) {
            let slots: f64 = ranks.iter().zip(members).filter(|it| *it.0).map(|it| f64::from(it.1.slots)).sum();
            let work = plain.get(&ranks).copied().unwrap_or_default();
            row.spares = slots > 0.0 && work * all <= MAX_OVERLOAD * total * slots;
        }
    }
}

impl Advice for PlacementRules {
    fn class(&self, task: TaskId) -> (u32, Range<u32>) {
        let (id, group) = self.group(task);
        (self.classes[id], group.first.0..group.first.0 + group.count)
    }

    fn work(&self, task: TaskId) -> u64 {
        self.estimates.ns(self.job.group_of(task))
    }

    fn width(&self, task: TaskId) -> u32 {
        requirements::slots(self.group(task).1)
    }

    fn is_movable(&self, task: TaskId) -> bool {
        !self.is_fair && !requirements::is_special(self.group(task).1)
    }

    fn fits(&self, task: TaskId, member: &Member) -> bool {
        self.group_fits(self.group(task).0, member)
    }

    fn suits(&self, task: TaskId, member: &Member) -> bool {
        self.group_suits(self.group(task).0, member)
    }

    fn binds_tasks(&self) -> bool {
        self.rows.iter().any(|row| row.is_bound)
    }

    fn is_bound(&self, task: TaskId) -> bool {
        self.row(self.group(task).0).is_bound
    }

    fn labels(&self, task: TaskId) -> Labels {
        Labels::clone(&self.group(task).1.labels)
    }

    fn need(&self, task: TaskId) -> NodeNeed {
        need(self.group(task).1)
    }

    fn label_sets(&self) -> &[Labels] {
        &self.label_sets
    }

    fn passes_files(&self) -> bool {
        self.passes_files
    }

    fn meet(&mut self, members: &[Member]) {
        let here = || members.iter().filter(|member| member.slots > 0);
        for row in &mut self.rows {
            let fits = |member| fits(&self.job.groups[row.group as usize], member);
            row.is_alone = here().any(fits);
            row.is_bound = row.is_alone && !here().all(fits);
        }
        let asked = self.rows.iter().filter_map(|row| self.job.groups[row.group as usize].memory);
        self.scarce_memory = asked.filter(|asked| here().any(|member| member.memory < *asked)).min();
        self.spare(members);
    }

    fn load_rule(&self) -> Option<LoadRule> {
        match self.job.placement {
            job::Placement::Load(rule) => Some(rule),
            job::Placement::Bands | job::Placement::EarliestFinish => None,
        }
    }
}

/// The method of the first hand-out that the job requests.
pub(crate) fn method(job: &Job) -> Method {
    match job.placement {
        job::Placement::Bands => Method::Bands,
        job::Placement::EarliestFinish => Method::EarliestFinish,
        job::Placement::Load(rule) => Method::Load(rule),
    }
}

/// Chooses homes for the graph's nodes on ranks with the resources that the tasks need.
pub(crate) fn homes(
    job: &Job,
    graph: &TaskGraph,
    order: &Order,
    duration: &dyn Fn(TaskId) -> u64,
    members: &[Member],
    rules: &PlacementRules,
    method: Method,
) -> Partition {
    let slots: Vec<u32> = members.iter().map(|m| m.slots).collect();
    let suiting = |row: &NeedsRow| members.iter().map(|m| rules.group_suits(row.group as usize, m)).collect();
    let may: Vec<Vec<bool>> = rules.rows.iter().map(suiting).collect();
    let may_be = |group: GroupId, rank: usize| may[rules.row_of[group as usize] as usize][rank];
    let fitting = |task: TaskId, rank: usize| may_be(job.group_of(task).0, rank);
    let width = |task: TaskId| requirements::slots(&job.groups[job.group_of(task).0 as usize]);
    let is_fair = fair::is_fair(job);
    let is_movable = |task: TaskId| !is_fair && !requirements::is_special(&job.groups[job.group_of(task).0 as usize]);
    let problem = PartitionProblem {
        graph,
        order,
        duration,
        slots: &slots,
        width: &width,
        is_movable: &is_movable,
        fits: &fitting,
    };
    let mut divided = partition::partition(&problem, method);
    if is_fair {
        fair::spread(job, &slots, &may_be, &mut divided.home);
        return partition::measure(graph, duration, &slots, divided.home);
    }
    divided
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Kernels;

    fn job(text: &str) -> Job {
        job::parse(text, "t.toml", std::path::Path::new("/"), &Kernels::builtin()).expect("a good job").job
    }

    fn hello(slots: u32, memory: u64) -> Hello {
        Hello { node: "n1".into(), pid: 1, slots, memory, gpus: 0, cpus: Vec::new(), labels: Vec::new() }
    }

    #[test]
    fn labels_filter_and_labelled_ranks_are_kept_free() {
        let text = "[[task]]\nname = 'big'\nlabels = ['highmem']\narray = '0-9'\nkernel = 'noop'\n\
                    [[task]]\nname = 'small'\narray = '0-19'\nkernel = 'noop'\n";
        let labelled =
            |labels: &[&str]| Hello { labels: labels.iter().map(|&label| label.to_owned()).collect(), ..hello(2, 1) };
        let hellos = [labelled(&[]), labelled(&["highmem", "ssd"]), labelled(&["ssd"])];
        let prepared = crate::workload::PreparedJob::new(
            job(text),
            std::sync::Arc::new(crate::graph::TaskGraph::build(&[10, 20], &[]).unwrap()),
        );
        let members = members(&hellos);
        let homes = prepared.divide(&members, &prepared.placement_rules(&members)).home;
        assert!(homes[..10].iter().all(|&rank| rank == 1), "{homes:?}");
        assert!(homes[10..].iter().all(|&rank| rank != 1) && homes[10..].contains(&2), "{homes:?}");
        // One rank alone does everything.
        let alone = &members[1..2];
        assert!(prepared.divide(alone, &prepared.placement_rules(alone)).home.iter().all(|&rank| rank == 0));
        let further = |offers: &Offers| FurtherNodes { offers: offers.clone(), most_ranks: 4 };
        let check = |offers: &Offers| check(&prepared.job, &[member(&hellos[2])], &further(offers), &|_| true);
        let refused = check(&Offers::Nothing).unwrap_err();
        assert!(refused.contains("`big` asks for a rank with the label highmem"), "{refused}");
        assert!(refused.contains("the labels of the ranks are ssd;"), "{refused}");
        let refused = check(&Offers::of([labels_of(["gpu"])])).unwrap_err();
        assert!(refused.contains("and those of the nodes that it can request gpu;"), "{refused}");
        assert!(refused.contains("HOST # labels=highmem"), "{refused}");
        assert!(
            check(&Offers::of([labels_of(["gpu"]), labels_of(["highmem"])])).is_ok() && check(&Offers::Unknown).is_ok()
        );
    }

    /// How many tasks of two groups are at home on each of three ranks of two slots: the first has
    /// nothing special, the second has GPUs and much memory.
    fn homes_of(special: &str, plain: u32) -> [[usize; 3]; 2] {
        let text = format!(
            "[[task]]\nname = 'special'\n{special}\narray = '1-10'\nkernel = 'noop'\n\
             [[task]]\nname = 'plain'\narray = '1-{plain}'\nkernel = 'noop'\n"
        );
        let hellos = [hello(2, 1 << 30), Hello { gpus: 2, ..hello(2, 64 << 30) }, hello(2, 1 << 30)];
        let graph = crate::graph::TaskGraph::build(&[10, plain], &[]).unwrap();
        let prepared = crate::workload::PreparedJob::new(job(&text), std::sync::Arc::new(graph));
        let members = members(&hellos);
        let homes = prepared.divide(&members, &prepared.placement_rules(&members)).home;
        let count = |homes: &[u32]| [0, 1, 2].map(|rank| homes.iter().filter(|&&home| home == rank).count());
        [count(&homes[..10]), count(&homes[10..])]
    }

    #[test]
    fn ranks_with_gpus_and_large_memory_are_kept_free_unless_the_others_have_too_much() {
        for special in ["gpus = 1", "memory = '4G'"] {
            let [special, plain] = homes_of(special, 20);
            assert_eq!((special, plain[1]), ([0, 10, 0], 0));
            assert!(plain[0] > 0 && plain[2] > 0, "{plain:?}");
        }
        let [_, plain] = homes_of("memory = '512M'", 20);
        assert!(plain[1] > 0, "all ranks have that: {plain:?}");
        // One slot of nine is too little for 99 of a hundred tasks.
        let hellos = [hello(1, 1), Hello { gpus: 2, ..hello(8, 1) }];
        let text = "[[task]]\nname = 'a'\ngpus = 1\nkernel = 'noop'\n\
                    [[task]]\nname = 'b'\narray = '1-99'\nkernel = 'noop'\n";
        let graph = crate::graph::TaskGraph::build(&[1, 99], &[]).unwrap();
        let prepared = crate::workload::PreparedJob::new(job(text), std::sync::Arc::new(graph));
        let members = members(&hellos);
        let homes = prepared.divide(&members, &prepared.placement_rules(&members)).home;
        assert!(homes[1..].iter().filter(|&&home| home == 1).count() > 50, "{homes:?}");
    }

    #[test]
    fn what_fits_nowhere_is_refused_with_what_there_is() {
        let check = |job: &Job, hellos: &[Hello]| check(job, &members(hellos), &FurtherNodes::default(), &|_| true);
        let refused = |text: &str, hellos: &[Hello]| check(&job(text), hellos).expect_err("refused");
        let wide = "[[task]]\nname = \"a\"\ncpus = 3\nkernel = \"noop\"\n";
        assert!(refused(wide, &[hello(2, 1), hello(2, 1)]).contains("3 CPUs"));
        let mpi = "[[task]]\nname = \"a\"\ncommand = \"x\"\nmpi = { ranks = 4 }\n";
        assert!(check(&job(mpi), &[hello(2, 1), hello(2, 1)]).is_ok());
        assert!(refused(mpi, &[hello(2, 1), hello(1, 1)]).contains("4 MPI ranks"));
        let spread = "[[task]]\nname = \"a\"\ncommand = \"x\"\nmpi = { ranks = 3, per_node = 1 }\n";
        let why = refused(spread, &[hello(1, 1), hello(1, 1), hello(1, 1)]);
        assert!(
            why.contains("at most 1 per node (`per_node`), so 3 nodes, but this run has 3 slots on 3 ranks of 1 node")
        );
        assert!(why.ends_with("start the run on more nodes, or raise `per_node`"), "{why}");
        let hungry = format!("{mpi}memory = \"1G\"\n");
        assert!(check(&job(&hungry), &[hello(2, 1 << 29), hello(2, 1 << 29)]).is_ok());
        assert!(check(&job(&hungry), &[hello(4, 1 << 29), hello(4, 1 << 29)]).is_ok(), "slots on one, memory on both");
        assert!(check(&job(&hungry), &[hello(4, 1 << 30)]).is_ok());
        let why = refused(&hungry, &[hello(2, 1 << 29), hello(2, 1 << 28)]);
        let text = "needs 4 MPI ranks of 1 CPU, 1024 MiB of memory together, \
                    but this run has 4 slots, at most 512 MiB of memory per rank on 2 ranks";
        assert!(why.contains(text), "{why}");
        let with_gpus = format!("{mpi}gpus = 2\n");
        let with = |gpus| Hello { gpus, ..hello(2, 1) };
        assert!(check(&job(&with_gpus), &[with(1), with(1)]).is_ok());
        let why = refused(&with_gpus, &[with(1), with(0)]);
        assert!(why.contains("2 GPUs together, but this run has 4 slots, at most 1 GPU per rank on 2 ranks"), "{why}");
    }
}
