//! Builds the `mpirun` command of an MPI task.
//!
//! The task's ranks form an MPI world of their own, independent of ours: the environment holds no
//! traces of our world (see `env`), and on a single node options keep Open MPI from using Slurm or
//! searching for other nodes. The launcher and its ranks inherit the CPU mask of the slot. The
//! launcher must not bind ranks itself, because it would count CPUs from zero, outside the mask.

use std::path::Path;
use std::sync::OnceLock;

use super::env::TaskEnv;
use super::{ExecContext, Fault};
use crate::job::MpiShape;
use crate::model::{GangNode, State};
use crate::system::ulfm;

/// Families of launchers, which have different options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    /// Open MPI and PRRTE.
    OpenMpi,
    /// Hydra: MPICH, Intel MPI, MVAPICH.
    Hydra,
}

/// The launcher of this site; its family is detected at the first MPI task.
pub(super) struct Launcher {
    command: Vec<String>,
    flavour: OnceLock<Flavour>,
}

impl Launcher {
    pub(super) fn new(command: Vec<String>) -> Launcher {
        Launcher { command: without_survival(command), flavour: OnceLock::new() }
    }

    /// Returns the words that start `words` on the ranks of `shape`, and adds to `env` what the
    /// launcher needs. `ask` runs a program as the task would, and returns its two output streams.
    pub(super) fn words(
        &self,
        words: Vec<String>,
        job: &MpiJob,
        env: &mut TaskEnv,
        ask: impl FnOnce(&TaskEnv, Vec<String>) -> Result<[String; 2], Fault>,
    ) -> Result<Vec<String>, Fault> {
        let flavour = self.flavour(|words| ask(env, words))?;
        if let Some(agent) = job.agent {
            let agent = format!("sh {}", agent.display());
            let settings =
                [("plm_rsh_agent", &*agent), ("plm_rsh_no_tree_spawn", "1"), ("orte_leave_session_attached", "1")];
            let later = [("plm_ssh_agent", &*agent), ("plm_ssh_no_tree_spawn", "1")];
            let settings = settings.map(|(name, value)| (format!("OMPI_MCA_{name}"), value));
            // As Open MPI 5 calls them.
            let later = later.map(|(name, value)| (format!("PRTE_MCA_{name}"), value));
            for (name, value) in settings.iter().chain(&later).filter(|_| flavour == Flavour::OpenMpi) {
                env.set(name, value)?;
            }
        } else if !job.seat.hosts.is_empty() {
            env.show_allocation()?;
        } else if flavour == Flavour::OpenMpi {
            env.set("OMPI_MCA_plm", "isolated")?;
            env.set("OMPI_MCA_ras", "^slurm")?;
        }
        if job.is_contained && flavour == Flavour::OpenMpi {
            // Ranks in containers of their own must not read each other's memory (CMA); shared
            // memory works.
            for name in ["OMPI_MCA_btl_vader_single_copy_mechanism", "OMPI_MCA_btl_sm_use_cma"] {
                if env.get(name).is_none() {
                    env.set(name, if name.ends_with("cma") { "0" } else { "none" })?;
                }
            }
        }
        Ok(self.command.iter().cloned().chain(job.words(flavour, env, &words)).collect())
    }

    /// Detects the family of the launcher that the task itself would find, possibly through the
    /// prologue.
    fn flavour(&self, ask: impl FnOnce(Vec<String>) -> Result<[String; 2], Fault>) -> Result<Flavour, Fault> {
        if let Some(&flavour) = self.flavour.get() {
            return Ok(flavour);
        }
        let program = self.command.first().map_or("mpirun", String::as_str);
        let failed = |said: &str| {
            let remedy = "an MPI task needs the mpirun of Open MPI, MPICH or Intel MPI; set PHALANX_MPIRUN to its path";
            Fault::with_exit(127, format!("`{program} --version` failed: {}\nphalanx: {remedy}", said.trim()))
        };
        let answer = ask(vec![program.to_owned(), "--version".to_owned()]);
        let [version, said] =
            answer.map_err(|fault| if fault.state == State::Failed { failed(&fault.text) } else { fault })?;
        let flavour = recognise(&version).ok_or_else(|| failed(&said))?;
        Ok(*self.flavour.get_or_init(|| flavour))
    }
}

/// The words of a launcher without the option that lets ranks survive a lost one: the ranks of a
/// task must end with one that crashes.
fn without_survival(command: Vec<String>) -> Vec<String> {
    let mut words = command.into_iter();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match word == ulfm::OPTION {
            true => drop(words.next()),
            false => kept.push(word),
        }
    }
    kept
}

fn recognise(version: &str) -> Option<Flavour> {
    let has = |word| version.contains(word);
    if has("Open MPI") || has("OpenRTE") || has("PRRTE") || has("prterun") {
        Some(Flavour::OpenMpi)
    } else if has("HYDRA") || has("Hydra") || has("Intel(R) MPI") || has("MVAPICH") {
        Some(Flavour::Hydra)
    } else {
        None
    }
}

/// The inputs for a launcher's options.
pub(super) struct MpiJob<'a> {
    pub(super) shape: MpiShape,
    pub(super) cpus_per_rank: u32,
    pub(super) seat: &'a ExecContext<'a>,
    /// Each rank runs in a container.
    pub(super) is_contained: bool,
    /// The script that starts the launcher's daemons, if its own way does not reach all nodes.
    pub(super) agent: Option<&'a Path>,
}

/// Ranks that are started with the same environment.
struct RankSet {
    ranks: u32,
    /// The host list `node:ranks,...`.
    hosts: String,
    /// The variable that shows them their GPUs, if it differs from that of others.
    gpus: Option<String>,
}

impl MpiJob<'_> {
    /// The options of the launcher and the words that it starts, several times if some ranks need
    /// another environment than others.
    fn words(&self, flavour: Flavour, env: &TaskEnv, words: &[String]) -> Vec<String> {
        let sets = self.rank_sets(env);
        let options = |(at, set): (usize, &RankSet)| match flavour {
            Flavour::OpenMpi => self.open_mpi(set, env),
            Flavour::Hydra => self.hydra(set, at == 0),
        };
        let lines: Vec<Vec<String>> = sets.iter().enumerate().map(options).collect();
        let lines: Vec<Vec<String>> = lines.into_iter().map(|line| [&line, words].concat()).collect();
        lines.join(&":".to_owned())
    }

    /// One set, or one for each node if their GPUs have different names.
    fn rank_sets(&self, env: &TaskEnv) -> Vec<RankSet> {
        let (variable, hosts) = (env.gpu_variable(), self.seat.hosts);
        let differ = hosts.iter().any(|host| host.gpus != hosts[0].gpus);
        // What the job or the task has set stays.
        let is_ours = || env.get(variable).is_some_and(|value| value == hosts[0].gpus.join(",").as_bytes());
        if !differ || !is_ours() {
            return vec![RankSet { ranks: self.shape.ranks, hosts: self.hosts(), gpus: None }];
        }
        let set = |host: &GangNode| RankSet {
            ranks: host.mpi_ranks,
            hosts: format!("{}:{}", host.node, host.mpi_ranks),
            gpus: Some(format!("{variable}={}", host.gpus.join(","))),
        };
        hosts.iter().map(set).collect()
    }

    /// The host list `node:ranks,...`; for this node alone with as many places as ranks.
    fn hosts(&self) -> String {
        if self.seat.hosts.is_empty() {
            return format!("localhost:{}", self.shape.ranks);
        }
        let hosts: Vec<String> =
            self.seat.hosts.iter().map(|host| format!("{}:{}", host.node, host.mpi_ranks)).collect();
        hosts.join(",")
    }

    /// True if ranks share CPUs and therefore must not spin while they wait.
    fn is_crowded(&self) -> bool {
        // The CPUs are those of this node, which is the first of several.
        let here = self.seat.hosts.first().map_or(self.shape.ranks, |host| host.mpi_ranks);
        let wanted = u64::from(here) * u64::from(self.cpus_per_rank.max(1));
        !self.seat.cpus.is_empty() && wanted > self.seat.cpus.len() as u64
    }

    fn open_mpi(&self, set: &RankSet, env: &TaskEnv) -> Vec<String> {
        let mut options = vec!["-n".to_owned(), set.ranks.to_string(), "--host".to_owned(), set.hosts.clone()];
        options.extend(["--bind-to".to_owned(), "none".to_owned()]);
        if self.is_crowded() {
            options.push("--oversubscribe".to_owned());
        }
        if !self.seat.hosts.is_empty() {
            if let Some(per_node) = self.shape.per_node.filter(|_| set.gpus.is_none()) {
                options.extend(["--map-by".to_owned(), format!("ppr:{per_node}:node")]);
            }
            let is_set = |name: &String| set.gpus.is_none() || name != env.gpu_variable();
            options.extend(env.names().filter(is_set).chain(set.gpus.clone()).flat_map(|name| ["-x".to_owned(), name]));
        }
        options
    }

    /// `is_first`: the set comes first on the command line, where options stand that hold for all.
    fn hydra(&self, set: &RankSet, is_first: bool) -> Vec<String> {
        let mut options = vec!["-n".to_owned(), set.ranks.to_string()];
        if is_first {
            options.extend(["-hosts".to_owned(), self.hosts(), "-bind-to".to_owned(), "none".to_owned()]);
            if let Some(agent) = self.agent {
                let agent = agent.to_string_lossy().into_owned();
                options.extend(["-launcher".to_owned(), "rsh".to_owned(), "-launcher-exec".to_owned(), agent]);
            }
            if let Some(per_node) = self.shape.per_node.filter(|_| !self.seat.hosts.is_empty()) {
                options.extend(["-ppn".to_owned(), per_node.to_string()]);
            }
        }
        if let Some((name, value)) = set.gpus.as_ref().and_then(|gpus| gpus.split_once('=')) {
            options.extend(["-env".to_owned(), name.to_owned(), value.to_owned()]);
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pool() -> Arc<rayon::ThreadPool> {
        Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap())
    }

    fn hydra(ranks: u32, cpus: &[u32], hosts: &[GangNode]) -> (String, bool) {
        let seat = ExecContext {
            peers: None,
            slot: 0,
            attempt: 1,
            short: Default::default(),
            cpus,
            numa: None,
            gpus: &[],
            hosts,
            rayon: &pool,
        };
        let line = MpiJob {
            shape: MpiShape { ranks, per_node: Some(2) },
            cpus_per_rank: 1,
            seat: &seat,
            is_contained: false,
            agent: None,
        };
        let set = RankSet { ranks, hosts: line.hosts(), gpus: None };
        (line.hydra(&set, true).join(" "), line.is_crowded())
    }

    #[test]
    fn ranks_go_where_the_seat_says() {
        assert_eq!(hydra(4, &[0, 1], &[]), ("-n 4 -hosts localhost:4 -bind-to none".to_owned(), true));
        let host = |node: &str| GangNode { node: node.to_owned(), mpi_ranks: 2, ..GangNode::default() };
        let hosts = ["n1", "n2"].map(host);
        assert_eq!(hydra(4, &[0, 1], &hosts), ("-n 4 -hosts n1:2,n2:2 -bind-to none -ppn 2".to_owned(), false));
        assert!(!hydra(2, &[4, 5], &[]).1);
    }

    #[test]
    fn launchers_are_told_apart() {
        assert_eq!(recognise("mpirun (Open MPI) 4.1.4"), Some(Flavour::OpenMpi));
        assert_eq!(recognise("HYDRA build details:"), Some(Flavour::Hydra));
        assert_eq!(recognise("usage: mpirun"), None);
    }
}
