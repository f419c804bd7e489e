//! The job file as typed: all sections with their fields, before resolution.
//!
//! These declarations define the format: the reader, the check for unknown keys and the JSON Schema
//! are generated from them (see `read`), and editors show their comments. `resolve` determines what
//! the fields mean together (defaults, arrays, dependencies).

mod cache;
mod container;

use serde_json::Value;

pub(crate) use cache::{CacheSpec, CacheTable};
pub(crate) use container::ContainerTable;

use super::diagnostic::Findings;
use super::read::{
    At, Field, Read, Section, Tables, TomlNode, Whole, check_keys, check_required, section, table, table_schema,
};
use super::values::{
    Amount, ArgsSpec, ArraySpec, Background, Budget, CacheUse, CommandSpec, ContainerUse, DurationSpec, EnvSpec,
    EstimateSpec, FilesSpec, FlushSpec, Fraction, GraphWeights, MatrixSpec, MemoryRequest, MemorySpec, NeedsSpec,
    OneOf, OperationName, PoolAmounts, PoolsSpec, RateSpec, RetriesSpec, ShellSpec, Signed, SizeSpec, SlotCountSpec,
    SlotsSpec, StageUse, Strings, TriggerSpec,
};
use super::{Above, Intent, KeepOutput, Placement, PolicyKind, ProviderKind};
use crate::data::format::GraphFormat;
use crate::data::generate::GeneratedKind;
use crate::graph::pattern::Dependence;

section! {
    /// A Phalanx job: the tasks of one run and their dependencies
    FileSpec {
        /// Settings of the whole job
        job: JobSpec,
        /// Default settings of tasks
        defaults: Common,
        /// The tasks, one table each
        task: Tables<TaskSpec>,
        /// Data graphs for operations, one table each
        graph: Tables<GraphSpec>,
        /// Resources that all ranks share, one table each: [pools.licences]
        pools: PoolsSpec,
        /// How the number of ranks changes while the job runs
        scaling: ScalingSpec,
        /// Prices, budget and deadline
        cost: CostSpec,
        /// Where further nodes come from while the job runs
        capacity: CapacitySpec,
        /// Several places where further nodes come from, one table each
        site: Tables<SiteSpec>,
        /// Where results of tasks are kept, so that equal tasks are not run again
        cache: CacheSpec,
        /// Who is asked about each change of the number of ranks before it is carried out
        advisor: AdvisorSpec,
        /// Alerts: metrics of the run to watch, one table each
        alert: Tables<AlertSpec>,
    }
}

section! {
    /// Settings of the whole job
    JobSpec {
        /// Name of the job and of its run directories: letters, digits and `. _ - + @ =`
        name: String = "the name of the file without its ending",
        /// Description of the job
        description: String,
        /// Base directory of relative paths and commands, relative to where Phalanx is started (as
        /// with sbatch)
        dir: String = "the directory where Phalanx is started",
        /// Environment variables of every task
        env: EnvSpec,
        /// Shell lines that run before every command, such as `module load gcc`; shell options that
        /// they set apply to the command
        prologue: Strings,
        /// Shell for command lines, as "bash" or with its options: ["bash", "-euo", "pipefail",
        /// "-c"]
        shell: ShellSpec = "[\"sh\", \"-c\"]",
        /// Maximum time for a declared output to appear on a shared file system after its task has
        /// ended
        output_wait: DurationSpec = "\"5s\"",
        /// Which captured output is kept; that of failed tasks always is
        output: OneOf<KeepOutput> = "\"all\"",
        /// When the journal is synced to disk: `always` (after each record), `never`, or at most a
        /// duration later
        flush: FlushSpec = "\"1s\"",
        /// Stop starting tasks after this number of failed tasks
        max_failures: Whole<1, { u32::MAX as i64 }> = "no limit",
        /// Wait for further tasks (`phalanx add`) when all have ended, until `phalanx close`
        open: bool = "false",
        /// Share of the slot time that this job gets while other jobs of its run have work, too;
        /// only ratios matter
        share: Whole<1, 10_000> = "none, or 1 where another job has one",
        /// Slots of each rank: a number, a multiple of its CPUs such as "2x", or a range within
        /// which the number follows the use of CPUs and memory: { min = 2, max = "2x" }
        slots: SlotsSpec = "one per CPU",
        /// How tasks are placed on the ranks, at the start and whenever homes change
        placement: OneOf<Placement> = "\"bands\"",
        /// Former name of `placement`
        partition: OneOf<Placement>,
    }
}

section! {
    /// The least and the most slots of a rank
    SlotsTable {
        /// The least slots, which there are at the beginning
        min: SlotCountSpec = "one per CPU",
        /// The most slots, while CPUs idle and memory is free
        max: SlotCountSpec = "as many as the least",
    }
}

section! {
    /// Default settings of tasks
    Common {
        /// CPUs per task; for MPI tasks, per MPI rank
        cpus: Whole<1, 65536> = "1",
        /// Memory limit per task, as 512M, 4G or 4GiB; a bare number is megabytes; "auto": what
        /// earlier runs recommend, and more after OUT_OF_MEMORY
        memory: MemoryRequest = "no limit",
        /// GPUs per task
        gpus: Whole<0, 1024> = "0",
        /// Labels that a rank must have to run the task
        labels: Strings,
        /// Time limit, as 30s, 10m, 1.5h, HH:MM:SS or D-HH:MM:SS; a bare number is minutes
        time: DurationSpec = "no limit",
        /// Further attempts after a failure: their number, or a table with options
        retries: RetriesSpec = "0",
        /// Ready tasks with a higher priority start first
        priority: Whole<{ i32::MIN as i64 }, { i32::MAX as i64 }> = "0",
        /// Share of the slot time that the tasks of this table get while others have work, too;
        /// only ratios matter
        share: Whole<1, 10_000> = "none, or 1 where another table has one",
        /// Units of pools that a task holds while it runs: { licences = 1 }
        pools: PoolAmounts,
        /// Estimated duration of one task; may contain `{...}`
        estimate: EstimateSpec = "learnt while running",
        /// Name under which durations are learnt and shown
        class: String = "the name of the task",
        /// Working directory of the task, relative to that of the job; may contain `{...}`
        dir: String = "the job's",
        /// Environment variables; values may contain `{...}`
        env: EnvSpec,
        /// File for standard output; may contain `{...}` and `%x` (task), `%a` (index), `%j` (run),
        /// `%N` (node), `%t` (rank)
        stdout: String = "kept in the run directory",
        /// File for standard error, like stdout
        stderr: String = "kept in the run directory",
        /// Shell for command lines, as "bash" or with its options: ["bash", "-euo", "pipefail",
        /// "-c"]
        shell: ShellSpec = "the job's",
        /// Take the outputs of an equal task of this or an earlier run instead of running the task:
        /// true, or a table with options
        cache: CacheUse = "false",
        /// Run commands in a container: { image = "tools.sif" }; false for a task without
        container: ContainerUse = "none",
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
        /// Built-in function of Phalanx to run instead of a command
        kernel: String,
        /// Arguments of the kernel; strings may contain `{...}`, and a string that is a single
        /// `{...}` becomes the value itself
        args: ArgsSpec,
        /// Data graph (a `[[graph]]` table) that the operation runs on
        graph: String,
        /// Operation on the graph to run instead of a command or a kernel
        operation: OneOf<OperationName>,
        /// File to which the operation writes a line `id value` per vertex; may contain `{...}`
        output: String,
        /// Number of largest values to print
        top: Whole<1, 1_000_000> = "none",
        /// Start the command on several MPI ranks
        mpi: MpiSpec,
        /// One task per index: "0-99", "1-100:2", "1,3,7-9"; "0-99%5" runs at most 5 at once
        array: ArraySpec,
        /// One task per combination of values: { alpha = [0.1, 0.2], seed = "0-9" }; the last axis
        /// varies fastest. Values may come from files: { sample = { file = "samples.txt" } }, or
        /// { csv = "samples.csv" }, whose columns are axes
        matrix: MatrixSpec,
        /// One task per point of a grid of `steps` times `width` points, where a point depends on
        /// points of the previous step by this pattern of Task Bench
        pattern: OneOf<Dependence>,
        /// Points per step of the pattern; the maximum where steps differ
        width: Whole<1, 100_000_000>,
        /// Number of steps of the pattern
        steps: Whole<1, 100_000_000>,
        /// Number of dependencies per point, for `nearest`, `spread` and `random_nearest`
        radix: Whole<1, 1_000_000> = "5",
        /// Probability of each neighbour of `random_nearest`, from 0 to 1
        fraction: Fraction = "0.25",
        /// Seed of `random_nearest`
        seed: Whole<0, { i64::MAX }> = "0",
        /// Tasks that must end first: "a", "a[3]", "a[0-9]", "a[{index}]", "a[{index}-1]",
        /// "afternotok:a", "afterany:a", "aftercorr:a"
        needs: NeedsSpec,
        /// Files that the task reads; if another task lists one as output, this task depends on it
        inputs: FilesSpec,
        /// Files that the task writes; the task fails if one is missing after its command has ended
        outputs: FilesSpec,
        /// Number of tasks that one shell runs one after the other, for very short command lines
        batch: Whole<1, 1_000_000> = "1: a shell for each",
        /// Run the task in a directory of its own on the node's disk, where its declared inputs
        /// are; its declared outputs are moved from there to their places
        stage: OneOf<StageUse> = "in its directory",
        /// What happens to processes that the command leaves running
        background: OneOf<Background> = "\"end\"",
        /// File for standard input; may contain the same placeholders as stdout
        stdin: String = "empty",
    }
}

section! {
    /// A data graph; it is loaded when the first operation needs it, and kept until the run ends
    GraphSpec {
        /// Name of the graph: letters, digits and `. _ - + @ =`
        name: String = required,
        /// File of the graph, relative to the job's directory; may be compressed (`.gz`, `.zst`)
        file: String,
        /// Generate the graph from a seed instead of reading a file
        generate: GenerateSpec,
        /// Format of the file
        format: OneOf<GraphFormat> = "by the ending of the file's name",
        /// Whether edges are directed
        directed: bool = "what the format says, else true",
        /// Weights of the edges: "none", "file", or { uniform = [1, 255], seed = 1 } for random
        /// integers
        weights: GraphWeights = "\"file\" where the format has weights, else \"none\"",
        /// Divide the graph among the active ranks, which then execute each operation together;
        /// `false`: each rank that executes operations holds all of it
        divide: bool = "true if the graph has about a million edges or more",
    }
}

section! {
    /// A resource that all ranks share
    PoolSpec {
        /// Units in use at once, over all ranks together
        capacity: Whole<0, { u32::MAX as i64 - 1 }> = "no limit",
        /// Starts per time over all ranks together, as "10/s" or "50/2m"
        rate: RateSpec = "no limit",
    }
}

section! {
    /// A generated graph; it is undirected
    GenerateSpec {
        /// Kind of graph
        kind: OneOf<GeneratedKind> = required,
        /// The graph has 2^scale vertices, `kron` and `urand` without those after the last with an
        /// edge
        scale: Whole<0, 31> = required,
        /// Edges per vertex, before duplicates and loops are removed; does not apply to a grid
        degree: Whole<1, 65536> = "16",
        /// Seed of the generator
        seed: Whole<0, { u32::MAX as i64 }> = "27491095, which gives the graphs of the GAP benchmark suite",
    }
}

section! {
    /// How a command is started on several MPI ranks
    MpiSpec {
        /// Number of MPI ranks
        ranks: Whole<1, 1_000_000> = required,
        /// Maximum number of MPI ranks per node
        per_node: Whole<1, 1_000_000> = "as many as fit",
    }
}

section! {
    /// How a failed task is retried
    RetryTable {
        /// Number of further attempts
        count: Whole<0, 65535> = required,
        /// Delay before the first further attempt
        backoff: DurationSpec = "\"1s\"",
        /// The delay is multiplied by this factor with each attempt
        factor: super::values::Factor = "2.0",
        /// Retry on another rank if there is one
        elsewhere: bool = "false",
        /// After OUT_OF_MEMORY the task gets this many times as much memory, up to all of its node
        memory_factor: super::values::Factor = "1.0; 1.5 with `memory = \"auto\"`",
        /// After TIMEOUT the task gets this many times as much time
        time_factor: super::values::Factor = "1.0",
    }
}

section! {
    /// A task that must end first
    NeedTable {
        /// The task: "a", "a[3]", "a[0-9]", "a[{index}]", "a[{index}-1]"
        task: String = required,
        /// Condition on its end
        when: OneOf<super::values::When> = "\"afterok\"",
    }
}

section! {
    /// A file with its size
    FileTable {
        /// File name, relative to the directory of the task; may contain `{...}`
        file: String = required,
        /// Size, as 2G or 512M; a bare number is bytes
        size: SizeSpec = "unknown",
        /// An input that may be missing when the task starts, an output that it may end well
        /// without
        optional: bool = "false",
        /// False for an output that lives in the store of the node until its last reader is done
        keep: bool = "true",
    }
}

section! {
    /// Values along an axis that a file lists
    ListTable {
        /// File with one value per line, relative to the directory of the job; "samples.txt%5" runs
        /// at most 5 tasks of the matrix at once
        file: String,
        /// Table (CSV or TSV) whose columns are axes, as `csv` beside the axes
        csv: String,
    }
}

section! {
    /// How the number of ranks changes while the job runs
    ScalingSpec {
        /// Scaling policy
        policy: OneOf<PolicyKind> = "\"hybrid\"",
        /// How time is weighed against cost
        intent: OneOf<Intent> = "\"balanced\"",
        /// Minimum number of ranks
        min_ranks: Whole<1, 1_000_000> = "1",
        /// Maximum number of ranks
        max_ranks: Whole<1, 1_000_000> = "10, or min_ranks if that is more",
        /// Time between two scaling decisions
        interval: DurationSpec = "\"5s\"",
        /// After a rule has added ranks, rules add none for this long
        cooldown_grow: DurationSpec = "\"300s\"",
        /// After a rule has released ranks, rules release none for this long
        cooldown_shrink: DurationSpec = "\"600s\"",
        /// Ranks that a rule adds at once
        step_grow: Whole<1, 1_000_000> = "1",
        /// Ranks that a rule releases at once
        step_shrink: Whole<1, 1_000_000> = "1",
        /// Targets of a policy with a confidence below this are ignored, 0 to 1
        confidence: Fraction = "0.7",
        /// Weight of each measure in the load score, which decides between conflicting rules
        weights: WeightsSpec = "{ cpu = 0.30, queue = 0.25, memory = 0.20, latency = 0.20, errors = 0.05 }",
        /// Rules of the policies `reactive` and `hybrid`, one table each
        rule: Tables<RuleSpec> = "one for each trigger but `predictive`",
    }
}

section! {
    /// Weight of each measure in the load score; only ratios matter
    WeightsSpec {
        /// CPU utilisation
        cpu: Amount = "0.30",
        /// Ready tasks per rank
        queue: Amount = "0.25",
        /// Memory utilisation
        memory: Amount = "0.20",
        /// Time that ready tasks wait
        latency: Amount = "0.20",
        /// Share of attempts that fail
        errors: Amount = "0.05",
    }
}

section! {
    /// A threshold and an action
    RuleSpec {
        /// Measured quantity
        trigger: TriggerSpec = required,
        /// Above this value `act` is taken
        above: Signed,
        /// Below this value ranks are released
        below: Signed,
        /// Action above the threshold
        act: OneOf<Above> = "\"grow\"; for error_rate, cost and imbalance \"hold\"",
        /// Number of ranks added or released at once
        step: Whole<1, 1_000_000> = "step_grow or step_shrink",
        /// After this rule has acted, it does not act for this long
        cooldown: DurationSpec = "only the cooldowns of [scaling]",
    }
}

section! {
    /// Prices, budget and deadline
    CostSpec {
        /// Price of one node for one hour, in any currency
        node_hour: Amount = "1, so that costs are node-hours",
        /// Minimum charged time per node
        minimum: DurationSpec = "\"60s\"",
        /// Charged time is rounded up to a multiple of this
        granularity: DurationSpec = "\"1s\"",
        /// Maximum cost of the run: the run stops before, and can be resumed
        budget: Budget = "no limit",
        /// Maximum hourly cost of the nodes held at one time
        budget_per_hour: Budget = "no limit",
        /// Target end of the run, counted from its start
        deadline: DurationSpec = "none",
        /// Types of nodes that the run may get, one table each
        node: Tables<NodeTypeSpec>,
    }
}

section! {
    /// A type of nodes
    NodeTypeSpec {
        /// Name of the node type
        name: String = required,
        /// Price of one such node for one hour
        node_hour: Amount = required,
        /// Minimum charged time
        minimum: DurationSpec = "as in [cost]",
        /// Charged time is rounded up to a multiple of this
        granularity: DurationSpec = "as in [cost]",
        /// Slots of a rank there
        slots: Whole<1, 4096> = "as many as the first ranks have",
        /// Memory of such a node for tasks, as 64G; a bare number is megabytes
        memory: MemorySpec = "unknown until one has joined",
        /// GPUs of such a node
        gpus: Whole<0, 1024> = "unknown until one has joined",
        /// Labels of all ranks there
        labels: Strings,
        /// Maximum number of such nodes at a time
        limit: Whole<1, 1_000_000> = "no limit",
        /// Partition or queue of these nodes
        partition: String = "that of [capacity] or of the site",
    }
}

impl CostSpec {
    /// The `[[cost.node]]` tables.
    pub(crate) fn node_types(&self) -> &[At<NodeTypeSpec>] {
        self.node.as_ref().map_or(&[], |types| &types.value.0)
    }
}

/// A `[capacity]` table.
#[derive(Clone, Debug, Default)]
pub(crate) struct CapacitySpec {
    pub own: CapacityFields,
    pub nodes: NodesSpec,
}

/// A `[[site]]` table.
#[derive(Clone, Debug, Default)]
pub(crate) struct SiteSpec {
    pub own: SiteFields,
    pub nodes: NodesSpec,
}

impl Read for CapacitySpec {
    fn expected() -> String {
        "a table".into()
    }

    fn schema() -> Value {
        let about = "Where further nodes come from while the job runs";
        table_schema(about, &[NodesSpec::FIELDS, CapacityFields::FIELDS])
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let fields = table::<Self>(key, node, findings)?;
        check_keys(key, fields, &[NodesSpec::FIELDS, CapacityFields::FIELDS], findings);
        let own = CapacityFields::read_fields(fields, findings);
        Some(CapacitySpec { own, nodes: NodesSpec::read_fields(fields, findings) })
    }
}

impl Read for SiteSpec {
    fn expected() -> String {
        "a table".into()
    }

    fn schema() -> Value {
        table_schema("One of several places where further nodes come from", &[SiteFields::FIELDS, NodesSpec::FIELDS])
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let fields = table::<Self>(key, node, findings)?;
        check_keys(key, fields, &[SiteFields::FIELDS, NodesSpec::FIELDS], findings);
        check_required(key, node, SiteFields::FIELDS, findings);
        let own = SiteFields::read_fields(fields, findings);
        Some(SiteSpec { own, nodes: NodesSpec::read_fields(fields, findings) })
    }
}

section! {
    /// What only `[capacity]` has
    CapacityFields {
        /// Address on rank 0's node that blocks connect to, as HOST or HOST:PORT
        listen: String = "127.0.0.1 for \"local\" without `hostfile`, else all that other nodes can reach",
    }
}

section! {
    /// What only a `[[site]]` has
    SiteFields {
        /// Name of the site
        name: String = required,
        /// Type of its nodes, a `[[cost.node]]`
        node: String = "nodes as described here",
        /// Price of one of its nodes for one hour; required with a budget
        node_hour: Amount = "as in [cost]",
        /// Minimum charged time
        minimum: DurationSpec = "as in [cost]",
        /// Charged time is rounded up to a multiple of this
        granularity: DurationSpec = "as in [cost]",
        /// Slots of a rank there: sites are compared by price per slot
        slots: Whole<1, 65536> = "as many as the first ranks have",
        /// Maximum number of its nodes at a time
        limit: Whole<1, 1_000_000> = "no limit",
        /// A node that has not been granted for this long is requested from the next site, too, and
        /// the request that loses is withdrawn
        patience: DurationSpec = "\"5m\"",
        /// Bandwidth between its nodes and rank 0, per second, as 100M or 1G: of sites with the
        /// same price and wait the one with the most is asked first
        bandwidth: SizeSpec = "unknown",
    }
}

section! {
    /// How nodes are requested
    NodesSpec {
        /// Provider of nodes
        provider: OneOf<ProviderKind> = "\"none\"",
        /// Slurm partition of the blocks
        partition: String = "Slurm's default",
        /// Account that Slurm charges for the blocks
        account: String = "Slurm's default",
        /// Cluster of Slurm: its name in Slurm's database (as with `sbatch -M`), or the path of its
        /// configuration (as in `SLURM_CONF`)
        cluster: String = "that of this machine",
        /// Maximum number of nodes per Slurm job; a larger request becomes several jobs. Each node
        /// is still released by itself, the first node of a job last
        nodes_per_block: Whole<1, 1024> = "1",
        /// Hosts of the provider `local` in the format of mpirun; other machines are reached by ssh
        hostfile: String = "this machine alone",
        /// Time limit of a block
        time: DurationSpec = "as the partition says",
        /// Labels of all ranks of the blocks, beside those of their hosts and of Slurm's nodes
        labels: Strings,
        /// Further options of sbatch, such as an account
        extra: Strings,
        /// Lines of the provider `commands`
        commands: CommandsSpec,
    }
}

section! {
    /// How the provider `commands` speaks to a batch system
    CommandsSpec {
        /// Shell line that submits the script of a block, with `{script}`, `{name}`, `{log}`,
        /// `{partition}`, `{account}`, `{cluster}`, `{labels}`, `{extra}` and `{time}` (HH:MM:SS),
        /// `{minutes}` or `{seconds}`
        submit: String = required,
        /// Regular expression that finds the job's id in what `submit` prints: its first group,
        /// else all of the match
        job_id: String = "\"\\\\S+\", the first word",
        /// Shell line that prints the state of the job `{id}`
        state: String = required,
        /// Regular expression that matches what `state` prints for a job that waits
        waiting: String = required,
        /// Regular expression that matches what `state` prints for a job that runs
        running: String = required,
        /// Regular expression that matches what `state` prints for a job that is over
        ended: String = "whatever is neither waiting nor running",
        /// Regular expression that finds the name of the node in what `state` prints for a job that
        /// runs
        node: String = "the job's id",
        /// Shell line that cancels the job `{id}`
        cancel: String = required,
        /// Shell line that gives the node of the job `{id}` back, whose ranks have left
        release: String = "none: the job ends with its script",
    }
}

section! {
    /// Who is asked about each change of the number of ranks before it is carried out
    AdvisorSpec {
        /// Address of an OpenAI-compatible endpoint for chat completions, such as
        /// `https://host/v1/chat/completions`; a key is taken from `PHALANX_ADVISOR_KEY`
        url: String,
        /// Name of the model that the endpoint runs
        model: String,
        /// Command that gets the question as JSON on standard input and prints the answer as JSON
        command: CommandSpec,
    }
}

section! {
    /// An alert: a metric with a threshold, and the receivers of notifications
    AlertSpec {
        /// Name of the alert
        name: String = required,
        /// Metric, such as `failed`, `remaining_s`, `p95_s.CLASS` or `custom.NAME`
        metric: String = required,
        /// The alert holds while the value is above this
        above: Signed,
        /// The alert holds while the value is below this
        below: Signed,
        /// Notify after the condition has held for this long without interruption
        lasting: DurationSpec = "\"0s\"",
        /// Minimum time between two notifications
        repeat: DurationSpec = "\"10m\"",
        /// File to which a line is appended, relative to the job's directory
        file: String,
        /// Address that receives the alert as a JSON POST, such as `https://host/path`
        webhook: String,
        /// Command that receives the alert as JSON on standard input and in `PHALANX_ALERT...`
        command: CommandSpec,
    }
}

/// A `[[task]]` table: its own fields and those that `[defaults]` may give.
#[derive(Clone, Debug)]
pub(crate) struct TaskSpec {
    pub own: TaskFields,
    pub common: Common,
    /// The fields that were typed, including invalid ones, which must not be reported as missing.
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

/// The sections in which a key is valid.
pub(crate) fn homes_of(key: &str) -> Vec<&'static str> {
    let has = |fields: &[Field]| fields.iter().any(|f| f.name == key);
    let homes = [
        ("[job]", has(JobSpec::FIELDS)),
        ("[defaults]", has(Common::FIELDS)),
        ("[[task]]", has(TaskFields::FIELDS) || has(Common::FIELDS)),
        ("[scaling]", has(ScalingSpec::FIELDS)),
        ("[[scaling.rule]]", has(RuleSpec::FIELDS)),
        ("[cost]", has(CostSpec::FIELDS)),
        ("[capacity]", has(CapacityFields::FIELDS) || has(NodesSpec::FIELDS)),
        ("[[site]]", has(SiteFields::FIELDS) || has(NodesSpec::FIELDS)),
        ("[capacity.commands]", has(CommandsSpec::FIELDS)),
        ("[cache]", has(CacheSpec::FIELDS)),
        ("[advisor]", has(AdvisorSpec::FIELDS)),
        ("[[alert]]", has(AlertSpec::FIELDS)),
        ("[[graph]]", has(GraphSpec::FIELDS)),
        ("[pools.NAME]", has(PoolSpec::FIELDS)),
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

    /// The `[[site]]` tables.
    pub(crate) fn sites(&self) -> &[At<SiteSpec>] {
        self.site.as_ref().map_or(&[], |sites| &sites.value.0)
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
        let scaling = [ScalingSpec::FIELDS, RuleSpec::FIELDS, CostSpec::FIELDS, NodeTypeSpec::FIELDS];
        let others = [
            NodesSpec::FIELDS,
            CapacityFields::FIELDS,
            FileSpec::FIELDS,
            JobSpec::FIELDS,
            Common::FIELDS,
            TaskFields::FIELDS,
        ];
        for field in scaling
            .into_iter()
            .chain(others)
            .chain([
                CacheSpec::FIELDS,
                CacheTable::FIELDS,
                SlotsTable::FIELDS,
                ContainerTable::FIELDS,
                AdvisorSpec::FIELDS,
                AlertSpec::FIELDS,
                GraphSpec::FIELDS,
                GenerateSpec::FIELDS,
                PoolSpec::FIELDS,
                CommandsSpec::FIELDS,
            ])
            .flatten()
        {
            assert!(field.doc.trim().len() > 10, "{}", field.name);
        }
    }
}
