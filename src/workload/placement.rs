//! Which tasks fit on which ranks: refusals before the run, and the homes of tasks.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::estimates::TaskEstimates;
use super::{fair, requirements};
use crate::graph::deal::LoadRule;
use crate::graph::link::GroupId;
use crate::graph::partition::{self, Method, Partition, PartitionProblem};
use crate::graph::{Order, TaskGraph};
use crate::job::{self, Group, Job};
use crate::model::TaskId;
use crate::schedule::coordinator::{Advice, Member};
use crate::schedule::gang;
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

/// Refuses a job with a task that can never run: on no rank or, for an MPI task, on no set of
/// ranks. Groups that are not `wanted` are not looked at.
///
/// # Errors
///
/// One line per such task: what it needs, what there is, and a remedy.
pub(crate) fn check(job: &Job, members: &[Member], wanted: &dyn Fn(&Group) -> bool) -> Result<(), String> {
    let groups = job.groups.iter().filter(|group| wanted(group));
    let misfits: Vec<String> = groups.filter_map(|group| misfit(group, members)).collect();
    if misfits.is_empty() { Ok(()) } else { Err(misfits.join("\n")) }
}

/// True if the rank alone can run the group's tasks.
fn fits(group: &Group, member: &Member) -> bool {
    let (ranks, spread) = group.mpi.map_or((1, false), |mpi| (mpi.ranks, mpi.per_node.is_some_and(|n| n < mpi.ranks)));
    member.slots > 0
        && !spread
        && group.cpus.saturating_mul(ranks) <= member.slots
        && group.memory.is_none_or(|memory| memory <= member.memory)
        && group.gpus <= member.gpus
        && has_labels(group, member)
}

/// True if the rank has the labels that the group's tasks ask for.
fn has_labels(group: &Group, member: &Member) -> bool {
    group.labels.iter().all(|label| member.labels.contains(label))
}

fn misfit(group: &Group, members: &[Member]) -> Option<String> {
    if members.iter().any(|member| fits(group, member)) {
        return None;
    }
    let name = &group.name;
    if !members.iter().any(|member| member.slots > 0 && has_labels(group, member)) {
        return Some(unlabelled(group, members));
    }
    let Some(mpi) = group.mpi else { return Some(too_large(group, members)) };
    if gang::place(requirements::shape(group), members).is_none() {
        let all: u64 = members.iter().map(|m| u64::from(m.slots)).sum();
        return Some(format!(
            "task `{name}` needs {} of {}, but this run has {} on {}: start more ranks, or give each more slots with --slots",
            counted(mpi.ranks, "MPI rank"),
            counted(group.cpus, "CPU"),
            counted(all, "slot"),
            counted(members.len() as u64, "rank")
        ));
    }
    let asked = [("memory", group.memory.is_some()), ("gpus", group.gpus > 0), ("labels", !group.labels.is_empty())];
    let (what, _) = asked.iter().find(|asked| asked.1)?;
    Some(format!(
        "task `{name}` needs several ranks and asks for {what}, which is not built yet for such tasks: leave that out, or start ranks with enough slots to hold it alone"
    ))
}

/// The refusal of a task whose labels no rank has.
fn unlabelled(group: &Group, members: &[Member]) -> String {
    let mut known: Vec<&str> = members.iter().flat_map(|member| member.labels.iter()).map(String::as_str).collect();
    known.sort_unstable();
    known.dedup();
    let there = match known.is_empty() {
        true => "no rank has a label".to_owned(),
        false => format!("the labels of the ranks are {}", known.join(", ")),
    };
    format!(
        "task `{}` asks for a rank with the label{} {}, and none has {}: {there}; give a rank its labels with --labels or in PHALANX_LABELS (`mpirun -n 1 -x PHALANX_LABELS={} phalanx ... : -n 3 phalanx ...`), or correct `labels` of the task",
        group.name,
        if group.labels.len() == 1 { "" } else { "s" },
        group.labels.join(", "),
        if group.labels.len() == 1 { "it" } else { "all of them" },
        group.labels.join(","),
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
    /// For each group, whether some rank alone can run its tasks.
    alone: Vec<bool>,
    /// For each group, the first group of its class.
    classes: Vec<u32>,
}

impl PlacementRules {
    pub(crate) fn new(job: Arc<Job>, estimates: Arc<TaskEstimates>, members: &[Member]) -> PlacementRules {
        let (classes, firsts) = job.classes();
        let classes = classes.into_iter().map(|class| firsts[class as usize]).collect();
        let mut rules = PlacementRules { job, estimates, alone: Vec::new(), classes };
        rules.meet(members);
        rules
    }

    fn group(&self, task: TaskId) -> (usize, &Group) {
        let id = self.job.group_of(task).0 as usize;
        (id, &self.job.groups[id])
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

    fn fits(&self, task: TaskId, member: &Member) -> bool {
        let (id, group) = self.group(task);
        // An MPI task that no single rank can hold may be at home anywhere: the coordinator
        // assembles its gang.
        (group.mpi.is_some() && !self.alone[id]) || fits(group, member)
    }

    fn meet(&mut self, members: &[Member]) {
        self.alone = self.job.groups.iter().map(|group| members.iter().any(|m| fits(group, m))).collect();
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
    let may = May::of(job, members, rules);
    let fitting = |task: TaskId, rank: usize| may.on(job.group_of(task).0, rank);
    let problem = PartitionProblem { graph, order, duration, slots: &slots, fits: &fitting };
    let mut divided = partition::partition(&problem, method);
    if fair::is_fair(job) {
        fair::spread(job, &slots, &|group, rank| may.on(group, rank), &mut divided.home);
        return partition::measure(graph, duration, &slots, divided.home);
    }
    divided
}

/// True if a rank has a label that tasks of the job ask for, and those of the group do not.
fn has_wanted_label(member: &Member, group: &Group, wanted: &HashSet<&String>) -> bool {
    member.labels.iter().any(|label| wanted.contains(label) && !group.labels.contains(label))
}

/// The ranks on which each group may run. Groups with equal needs share an entry, so neither a
/// million tasks nor a million groups repeat the check.
struct May {
    row_of: Vec<u32>,
    rows: Vec<Vec<bool>>,
}

impl May {
    fn of(job: &Job, members: &[Member], rules: &PlacementRules) -> May {
        let wanted: HashSet<&String> = job.groups.iter().flat_map(|group| group.labels.iter()).collect();
        let mut known: HashMap<_, u32> = HashMap::new();
        let mut rows = Vec::new();
        let mut row_of = Vec::with_capacity(job.groups.len());
        for group in &job.groups {
            let asked = (group.cpus, group.memory, group.gpus, &group.labels, group.mpi);
            row_of.push(*known.entry(asked).or_insert_with(|| {
                let able: Vec<bool> = members.iter().map(|member| rules.fits(group.first, member)).collect();
                // A rank is kept free for tasks that ask for its labels, if others can do the rest.
                // Without such tasks it steals.
                let spare = |(&able, member): (&bool, &Member)| able && !has_wanted_label(member, group, &wanted);
                let spared: Vec<bool> = able.iter().zip(members).map(spare).collect();
                rows.push(if spared.contains(&true) { spared } else { able });
                rows.len() as u32 - 1
            }));
        }
        May { row_of, rows }
    }

    fn on(&self, group: GroupId, rank: usize) -> bool {
        self.rows[self.row_of[group as usize] as usize][rank]
    }
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
        let refused = check(&prepared.job, &[member(&hellos[2])], &|_| true).unwrap_err();
        assert!(refused.contains("`big` asks for a rank with the label highmem"), "{refused}");
        assert!(refused.contains("the labels of the ranks are ssd"), "{refused}");
    }

    #[test]
    fn what_fits_nowhere_is_refused_with_what_there_is() {
        let check = |job: &Job, hellos: &[Hello]| check(job, &members(hellos), &|_| true);
        let refused = |text: &str, hellos: &[Hello]| check(&job(text), hellos).expect_err("refused");
        let wide = "[[task]]\nname = \"a\"\ncpus = 3\nkernel = \"noop\"\n";
        assert!(refused(wide, &[hello(2, 1), hello(2, 1)]).contains("3 CPUs"));
        let mpi = "[[task]]\nname = \"a\"\ncommand = \"x\"\nmpi = { ranks = 4 }\n";
        assert!(check(&job(mpi), &[hello(2, 1), hello(2, 1)]).is_ok());
        assert!(refused(mpi, &[hello(2, 1), hello(1, 1)]).contains("4 MPI ranks"));
        let hungry = format!("{mpi}memory = \"1M\"\n");
        assert!(refused(&hungry, &[hello(2, 1 << 30), hello(2, 1 << 30)]).contains("memory"));
        assert!(check(&job(&hungry), &[hello(4, 1 << 30)]).is_ok());
    }
}
