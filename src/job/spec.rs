//! The job file as typed: every section with its fields, before anything is resolved.
//!
//! These declarations are the reference of the format: the reader, the check for unknown keys and the JSON Schema follow
//! from them (see `read`), and their comments are what an editor shows. What the fields mean together (defaults, arrays,
//! dependencies) is worked out in `resolve`.

use serde_json::Value;

use super::diagnostic::Findings;
use super::read::{
    At, Field, Read, Section, Tables, TomlNode, Whole, check_keys, check_required, section, table, table_schema,
};
use super::values::{
    Amount, ArgsSpec, ArraySpec, Background, Budget, CommandSpec, DurationSpec, EnvSpec, EstimateSpec, FilesSpec,
    FlushSpec, Fraction, GraphWeights, MatrixSpec, MemorySpec, NeedsSpec, OneOf, OperationName, RetriesSpec, ShellSpec,
    Signed, SizeSpec, Strings, TriggerSpec,
};
use super::{Above, Intent, KeepOutput, PartitionMethod, PolicyKind, ProviderKind};
use crate::data::format::GraphFormat;
use crate::data::generate::GeneratedKind;
use crate::graph::pattern::Dependence;

section! {
    /// A Phalanx job: the tasks of one run and what they need of each other
    FileSpec {
        /// What holds for the job as a whole
        job: JobSpec,
        /// Settings for every task that does not set them itself
        defaults: Common,
        /// The tasks, one table each
        task: Tables<TaskSpec>,
        /// Data graphs that operations run on, one table each
        graph: Tables<GraphSpec>,
        /// How the number of ranks changes while the job runs
        scaling: ScalingSpec,
        /// Prices, budget and deadline
        cost: CostSpec,
        /// Where further nodes come from while the job runs
        capacity: CapacitySpec,
        /// Values of the run that somebody wants to hear of, one table each
        alert: Tables<AlertSpec>,
    }
}

section! {
    /// What holds for the job as a whole
    JobSpec {
        /// Name of the job and of its run directories: letters, digits and `. _ - + @ =`
        name: String = "the name of the file without its ending",
        /// What the job is for, in words
        description: String,
        /// Directory that relative paths and commands start from, relative to where Phalanx is started (as with sbatch)
        dir: String = "the directory where Phalanx is started",
        /// Environment variables for every task
        env: EnvSpec,
        /// Shell lines that run before every command, such as `module load gcc`; options that they
        /// set hold for the command
        prologue: Strings,
        /// The shell that runs lines of shell, as "bash" or with its options: ["bash", "-euo",
        /// "pipefail", "-c"]
        shell: ShellSpec = "[\"sh\", \"-c\"]",
        /// How long a declared output on a file system that nodes share may take to be seen after
        /// its task has ended
        output_wait: DurationSpec = "\"5s\"",
        /// Which captured output is kept; that of failed tasks always is
        output: OneOf<KeepOutput> = "\"all\"",
        /// How soon the journal is forced to disk: `always` (each record), `never`, or at most a duration later
        flush: FlushSpec = "\"1s\"",
        /// Stop starting tasks once so many have failed
        max_failures: Whole<1, { u32::MAX as i64 }> = "no limit",
        /// How tasks are divided among the ranks
        partition: OneOf<PartitionMethod> = "\"bands\"",
    }
}

section! {
    /// Settings for every task that does not set them itself
    Common {
        /// CPUs that each task takes; for MPI tasks, per MPI rank
        cpus: Whole<1, 65536> = "1",
        /// Memory that each task may use, as 512M, 4G or 4GiB; a bare number is megabytes
        memory: MemorySpec = "no limit",
        /// GPUs that each task takes
        gpus: Whole<0, 1024> = "0",
        /// Time limit, as 30s, 10m, 1.5h, HH:MM:SS or D-HH:MM:SS; a bare number is minutes
        time: DurationSpec = "no limit",
        /// What happens after a failure: further attempts, or a table with how they are made
        retries: RetriesSpec = "0",
        /// Of the tasks that could start, those with a higher number start first
        priority: Whole<{ i32::MIN as i64 }, { i32::MAX as i64 }> = "0",
        /// How long one task will probably take; may contain `{...}`
        estimate: EstimateSpec = "learnt while running",
        /// Name under which durations are learnt and shown
        class: String = "the name of the task",
        /// Directory that the task runs in, relative to the job's; may contain `{...}`
        dir: String = "the job's",
        /// Environment variables; values may contain `{...}`
        env: EnvSpec,
        /// File for standard output; may contain `{...}` and `%x` (task), `%a` (index), `%j` (run), `%N` (node), `%t` (rank)
        stdout: String = "kept in the run directory",
        /// File for standard error, like stdout
        stderr: String = "kept in the run directory",
        /// The shell that runs a line of shell, as "bash" or with its options: ["bash", "-euo",
        /// "pipefail", "-c"]
        shell: ShellSpec = "the job's",
    }
}

section! {
    /// One task, or with `array`, `matrix` or `pattern` a whole family of tasks
    TaskFields {
        /// Name of the task: letters, digits and `. _ - + @ =`
        name: String = required,
        /// What to run: a list is a program with its arguments, a string is a line for the shell;
        /// may contain `{...}`
        command: CommandSpec,
        /// Function of Phalanx itself to run instead of a command
        kernel: String,
        /// Arguments of the kernel; strings may contain `{...}`, and a string that is one `{...}` becomes the value itself
        args: ArgsSpec,
        /// Data graph (a `[[graph]]` table) that the operation runs on
        graph: String,
        /// Operation on the graph to run instead of a command or a kernel
        operation: OneOf<OperationName>,
        /// File that the operation writes a line `id value` to for each vertex; may contain `{...}`
        output: String,
        /// So many of the largest values are printed
        top: Whole<1, 1_000_000> = "none",
        /// Start the command on several MPI ranks
        mpi: MpiSpec,
        /// One task for each index: "0-99", "1-100:2", "1,3,7-9"; "0-99%5" runs at most 5 at once
        array: ArraySpec,
        /// One task for each combination of values: { alpha = [0.1, 0.2], seed = "0-9" }; the last axis varies fastest
        matrix: MatrixSpec,
        /// One task for each point of a grid of `steps` times `width` points, which need points of the step before as this pattern of Task Bench says
        pattern: OneOf<Dependence>,
        /// Points in each step of the pattern; at most so many where steps differ
        width: Whole<1, 100_000_000>,
        /// Steps of the pattern
        steps: Whole<1, 100_000_000>,
        /// How many points a point needs, for `nearest`, `spread` and `random_nearest`
        radix: Whole<1, 1_000_000> = "5",
        /// How probably `random_nearest` needs each neighbour, from 0 to 1
        fraction: Fraction = "0.25",
        /// Another number gives another choice of `random_nearest`
        seed: Whole<0, { i64::MAX }> = "0",
        /// Tasks that must end first: "a", "a[3]", "a[0-9]", "a[{index}]", "a[{index}-1]", "afternotok:a", "afterany:a", "aftercorr:a"
        needs: NeedsSpec,
        /// Files that the task reads; where another task lists one as output, this task needs that one
        inputs: FilesSpec,
        /// Files that the task writes: it has failed if one is not there when its command has ended
        outputs: FilesSpec,
        /// What becomes of processes that the command leaves running when it ends
        background: OneOf<Background> = "\"end\"",
        /// File for standard input; may contain the same as stdout
        stdin: String = "empty",
    }
}

section! {
    /// A data graph, which is loaded when the first operation needs it and stays until the run ends
    GraphSpec {
        /// Name of the graph: letters, digits and `. _ - + @ =`
        name: String = required,
        /// File that it is read from, relative to the job's directory; may be compressed (`.gz`, `.zst`)
        file: String,
        /// Make the graph from a seed instead of reading a file
        generate: GenerateSpec,
        /// Format of the file
        format: OneOf<GraphFormat> = "by the ending of the file's name",
        /// Whether edges have a direction
        directed: bool = "what the format says, else true",
        /// Weights of the edges: "none", "file", or { uniform = [1, 255], seed = 1 } for whole numbers drawn at random
        weights: GraphWeights = "\"file\" where the format has weights, else \"none\"",
    }
}

section! {
    /// A graph made from a seed; it is undirected
    GenerateSpec {
        /// What kind of graph
        kind: OneOf<GeneratedKind> = required,
        /// The graph has 2^scale vertices
        scale: Whole<0, 31> = required,
        /// Edges for each vertex, before doubles and loops are taken out; a grid has none to choose
        degree: Whole<1, 65536> = "16",
        /// Another number gives another graph
        seed: Whole<0, { u32::MAX as i64 }> = "27491095, which gives the graphs of the GAP benchmark suite",
    }
}

section! {
    /// How a command is started on several MPI ranks
    MpiSpec {
        /// How many MPI ranks
        ranks: Whole<1, 1_000_000> = required,
        /// At most so many of them on one node
        per_node: Whole<1, 1_000_000> = "as many as fit",
    }
}

section! {
    /// How a failed task is tried again
    RetryTable {
        /// Further attempts after the first
        count: Whole<0, 65535> = required,
        /// Wait before the first further attempt
        backoff: DurationSpec = "\"1s\"",
        /// The wait grows by this factor with each attempt
        factor: super::values::Factor = "2.0",
        /// Try again on another rank, where there is one
        elsewhere: bool = "false",
    }
}

section! {
    /// A task that must end first
    NeedTable {
        /// The task: "a", "a[3]", "a[0-9]", "a[{index}]", "a[{index}-1]"
        task: String = required,
        /// Which end of it lets this task start
        when: OneOf<super::values::When> = "\"afterok\"",
    }
}

section! {
    /// A file with its size
    FileTable {
        /// Its name, relative to the directory of the task; may contain `{...}`
        file: String = required,
        /// Its size, as 2G or 512M; a bare number is bytes
        size: SizeSpec = "unknown",
        /// The task may end well without writing it; for outputs
        optional: bool = "false",
    }
}

section! {
    /// How the number of ranks changes while the job runs
    ScalingSpec {
        /// By what the number of ranks is decided
        policy: OneOf<PolicyKind> = "\"hybrid\"",
        /// What matters: how much time counts against money
        intent: OneOf<Intent> = "\"balanced\"",
        /// Never fewer ranks than this
        min_ranks: Whole<1, 1_000_000> = "1",
        /// Never more ranks than this
        max_ranks: Whole<1, 1_000_000> = "10, or min_ranks if that is more",
        /// Time between two decisions
        interval: DurationSpec = "\"5s\"",
        /// After a rule made the job grow, no rule does so again for this long
        cooldown_grow: DurationSpec = "\"300s\"",
        /// After a rule made the job shrink, no rule does so again for this long
        cooldown_shrink: DurationSpec = "\"600s\"",
        /// Ranks that a rule adds at once
        step_grow: Whole<1, 1_000_000> = "1",
        /// Ranks that a rule gives back at once
        step_shrink: Whole<1, 1_000_000> = "1",
        /// Wishes of a policy that is less sure than this are not followed, 0 to 1
        confidence: Fraction = "0.7",
        /// How much each measure counts in the score of load that settles between rules
        weights: WeightsSpec = "{ cpu = 0.30, queue = 0.25, memory = 0.20, latency = 0.20, errors = 0.05 }",
        /// Rules of the policies `reactive` and `hybrid`, one table each
        rule: Tables<RuleSpec> = "one for each trigger but `predictive`",
    }
}

section! {
    /// How much each measure counts in the score of load; only their proportions matter
    WeightsSpec {
        /// CPU utilisation
        cpu: Amount = "0.30",
        /// Ready tasks per rank
        queue: Amount = "0.25",
        /// Memory utilisation
        memory: Amount = "0.20",
        /// How long ready tasks wait
        latency: Amount = "0.20",
        /// Attempts that fail
        errors: Amount = "0.05",
    }
}

section! {
    /// One threshold, and what happens beyond it
    RuleSpec {
        /// What is measured
        trigger: TriggerSpec = required,
        /// Above this value `act` happens
        above: Signed,
        /// Below this value ranks are given back
        below: Signed,
        /// What happens above
        act: OneOf<Above> = "\"grow\"; for error_rate, cost and imbalance \"hold\"",
        /// Ranks added or given back at once
        step: Whole<1, 1_000_000> = "step_grow or step_shrink",
        /// After this rule has acted it is silent for this long
        cooldown: DurationSpec = "only the cooldowns of [scaling]",
    }
}

section! {
    /// Prices, budget and deadline
    CostSpec {
        /// Price of one node for one hour, in any currency
        node_hour: Amount = "1, so that costs are node-hours",
        /// The least time that a node is charged for
        minimum: DurationSpec = "\"60s\"",
        /// Charged time is rounded up to a multiple of this
        granularity: DurationSpec = "\"1s\"",
        /// The run never costs more: it stops before, and can be resumed
        budget: Budget = "no limit",
        /// The nodes held at one time never cost more per hour
        budget_per_hour: Budget = "no limit",
        /// When the run should be over, counted from its beginning
        deadline: DurationSpec = "none",
        /// Node types with prices of their own, one table each
        node: Tables<NodePriceSpec>,
    }
}

section! {
    /// A node type with a price of its own
    NodePriceSpec {
        /// Name of the node type
        name: String = required,
        /// Price of one such node for one hour
        node_hour: Amount = required,
        /// The least time that it is charged for
        minimum: DurationSpec = "as in [cost]",
        /// Charged time is rounded up to a multiple of this
        granularity: DurationSpec = "as in [cost]",
    }
}

section! {
    /// Where further nodes come from while the job runs
    CapacitySpec {
        /// Who gives them
        provider: OneOf<ProviderKind> = "\"none\"",
        /// Partition of Slurm that blocks are asked from
        partition: String = "Slurm's default",
        /// A request for several nodes is put to Slurm as jobs of at most so many; each node still goes alone, the first of a job last
        nodes_per_block: Whole<1, 1024> = "1",
        /// Hosts of the provider `local`, as mpirun reads them; those that are not this machine are reached by ssh
        hostfile: String = "this machine alone",
        /// How long a block may last
        time: DurationSpec = "as the partition says",
        /// Further options of sbatch, such as an account
        extra: Strings,
        /// Address of rank 0's node that blocks connect to, as HOST or HOST:PORT
        listen: String = "127.0.0.1 for \"local\" without `hostfile`, else all that other nodes can reach",
    }
}

section! {
    /// A value of the run that somebody wants to hear of
    AlertSpec {
        /// Name of the alert
        name: String = required,
        /// What is watched, such as `failed`, `remaining_s`, `p95_s.CLASS` or `custom.NAME`
        metric: String = required,
        /// The alert holds while the value is above this
        above: Signed,
        /// The alert holds while the value is below this
        below: Signed,
        /// It is told once it has held for so long without a break
        lasting: DurationSpec = "\"0s\"",
        /// While it goes on holding, it is told again after so long and not before
        repeat: DurationSpec = "\"10m\"",
        /// File that a line is added to, relative to the job's directory
        file: String,
        /// Address that it is posted to as JSON, such as `https://host/path`
        webhook: String,
        /// Command that is run, with the alert as JSON on its standard input and in `PHALANX_ALERT...`
        command: CommandSpec,
    }
}

/// A `[[task]]` table: its own fields and those that `[defaults]` may give.
#[derive(Clone, Debug)]
pub(crate) struct TaskSpec {
    pub own: TaskFields,
    pub common: Common,
    /// The fields that were typed, also those whose values could not be read: nobody need be told that they are missing.
    pub typed: Vec<&'static str>,
}

const TASK_FIELDS: [&[Field]; 2] = [TaskFields::FIELDS, Common::FIELDS];

impl Read for TaskSpec {
    fn expected() -> String {
        "a table".into()
    }

    fn schema() -> Value {
        table_schema("One task, or with `array`, `matrix` or `pattern` a whole family of tasks", &TASK_FIELDS)
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let fields = table::<Self>(key, node, findings)?;
        check_keys("[[task]]", fields, &TASK_FIELDS, findings);
        check_required("[[task]]", node, TaskFields::FIELDS, findings);
        let name = |key: &str| TASK_FIELDS.iter().flat_map(|f| f.iter()).map(|f| f.name).find(|name| *name == key);
        Some(TaskSpec {
            own: TaskFields::read_fields(fields, findings),
            common: Common::read_fields(fields, findings),
            typed: fields.keys().filter_map(|key| name(key.get_ref())).collect(),
        })
    }
}

/// The sections in which a key would be right.
pub(crate) fn homes_of(key: &str) -> Vec<&'static str> {
    let has = |fields: &[Field]| fields.iter().any(|f| f.name == key);
    let homes = [
        ("[job]", has(JobSpec::FIELDS)),
        ("[defaults]", has(Common::FIELDS)),
        ("[[task]]", has(TaskFields::FIELDS) || has(Common::FIELDS)),
        ("[scaling]", has(ScalingSpec::FIELDS)),
        ("[[scaling.rule]]", has(RuleSpec::FIELDS)),
        ("[cost]", has(CostSpec::FIELDS)),
        ("[capacity]", has(CapacitySpec::FIELDS)),
        ("[[alert]]", has(AlertSpec::FIELDS)),
        ("[[graph]]", has(GraphSpec::FIELDS)),
        ("the top of the file", has(FileSpec::FIELDS)),
    ];
    homes.into_iter().filter(|(_, right)| *right).map(|(home, _)| home).collect()
}

/// Reads a whole file.
pub(crate) fn read_file(root: &toml::de::DeTable<'_>, findings: &mut Findings) -> FileSpec {
    check_keys("the job file", root, &[FileSpec::FIELDS], findings);
    FileSpec::read_fields(root, findings)
}

impl FileSpec {
    /// The `[[alert]]` tables.
    pub(crate) fn alerts(&self) -> &[At<AlertSpec>] {
        self.alert.as_ref().map_or(&[], |alerts| &alerts.value.0)
    }

    /// The `[[graph]]` tables.
    pub(crate) fn graphs(&self) -> &[At<GraphSpec>] {
        self.graph.as_ref().map_or(&[], |graphs| &graphs.value.0)
    }

    /// The `[[task]]` tables.
    pub(crate) fn tasks(&self) -> &[At<TaskSpec>] {
        self.task.as_ref().map_or(&[], |tasks| &tasks.value.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_and_own_fields_of_a_task_do_not_collide() {
        for own in TaskFields::FIELDS {
            assert!(Common::FIELDS.iter().all(|common| common.name != own.name), "{}", own.name);
        }
    }

    #[test]
    fn every_field_is_documented() {
        let scaling = [ScalingSpec::FIELDS, RuleSpec::FIELDS, CostSpec::FIELDS, NodePriceSpec::FIELDS];
        let others = [CapacitySpec::FIELDS, FileSpec::FIELDS, JobSpec::FIELDS, Common::FIELDS, TaskFields::FIELDS];
        for field in scaling
            .into_iter()
            .chain(others)
            .chain([AlertSpec::FIELDS, GraphSpec::FIELDS, GenerateSpec::FIELDS])
            .flatten()
        {
            assert!(field.doc.trim().len() > 10, "{}", field.name);
        }
    }
}
