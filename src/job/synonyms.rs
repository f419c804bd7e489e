//! Words of other systems, with the keys of the job file that mean the same: those of Slurm, PBS,
//! Snakemake, Nextflow, CWL, HyperQueue, Makeflow, GNU make and GNU parallel.
//!
//! A word may mean different keys in different tables (`nodes` of a task and of `[capacity]`); the
//! first that is valid in the table is meant. Only in the large tables, which are easily mistaken
//! for each other ([`MISTAKEN_TABLES`]), a word may also mean a key of another table.

/// Words with the same meaning.
struct Synonyms {
    /// In lower case with underscores, separated by spaces.
    words: &'static str,
    /// The keys that mean this, in order of preference.
    keys: &'static [&'static str],
    /// How to write it, if the key alone does not say so.
    example: &'static str,
}

const fn same(words: &'static str, keys: &'static [&'static str]) -> Synonyms {
    Synonyms { words, keys, example: "" }
}

const fn as_in(words: &'static str, keys: &'static [&'static str], example: &'static str) -> Synonyms {
    Synonyms { words, keys, example }
}

const SYNONYMS: &[Synonyms] = &[
    // Resources and limits of a task.
    as_in(
        "mem ram rss mem_mb mem_mib mem_gb memory_mb memory_gb mem_per_cpu mem_per_task max_memory maxmemory vmem pmem \
         h_vmem mem_free rammin ram_min ramMax resident",
        &["memory"],
        "memory = \"4G\"",
    ),
    as_in(
        "walltime wall_time wallclock timeout time_limit timelimit time_request max_time maxtime max_runtime runtime \
         duration h_rt kill_after timelimit_s timeout_s toolTimeLimit",
        &["time", "estimate", "deadline", "lasting"],
        "time = \"2h\"",
    ),
    as_in(
        "threads cores cpu ncpus num_cpus n_cpus cpu_count cpus_per_task num_threads n_threads ncores num_cores \
         coresmin cores_min nthreads omp_num_threads slots c",
        &["cpus"],
        "cpus = 4",
    ),
    as_in("gpu gres ngpus num_gpus n_gpus gpus_per_task gpus_per_node accelerator accelerators", &["gpus"], "gpus = 1"),
    as_in(
        "nodes ntasks np nprocs nranks ranks mpi_ranks processes procs tasks_per_node ntasks_per_node ppn per_node n \
         nodelist nnodes n_nodes num_nodes select",
        &["mpi", "ranks", "nodes_per_block", "max_ranks"],
        "mpi = { ranks = 8 }, or { ranks = 8, per_node = 4 }",
    ),
    as_in(
        "retry max_retries maxretries attempts max_attempts restart_times restarts restart max_fails requeue \
         error_strategy errorstrategy tries",
        &["retries", "count"],
        "retries = 2",
    ),
    same("prio nice urgency qos", &["priority"]),
    same("expected expected_time time_estimate estimated_time runtime_estimate", &["estimate"]),
    // What a task does.
    as_in(
        "cmd run script shell_command shellcmd exec executable commandline command_line basecommand base_command \
         program action recipe argv do execute process_command body",
        &["command"],
        "command = \"echo hello\"",
    ),
    as_in("interpreter shell_executable", &["shell"], "shell = \"bash\""),
    same("id title label rule job_name jobname task_name taskname process step_name", &["name"]),
    same("arguments parameters_of_kernel", &["args"]),
    as_in("environment envs env_vars vars variables export environ", &["env"], "env = { KEY = \"value\" }"),
    same("cwd workdir work_dir chdir directory working_dir workingdir working_directory wd initialdir", &["dir"]),
    same("log logfile log_file out_log stdout_file output_log outfile_log", &["stdout"]),
    same("error err errfile stderr_file error_log join_output", &["stderr"]),
    same("stdin_file infile_stdin", &["stdin"]),
    as_in(
        "module modules envmodules module_load conda conda_env before_script beforescript before_all preamble pre \
         setup init",
        &["prologue"],
        "prologue = [\"module load ...\"] in [job]; docs/recipes.md has modules and conda",
    ),
    as_in(
        "container_image image singularity apptainer docker podman charliecloud sif containeroptions",
        &["container"],
        "container = { image = \"tools.sif\" }",
    ),
    // Dependencies.
    as_in(
        "depends depends_on dependson dependency dependencies deps dep after afterok afterany afternotok aftercorr \
         requires require prerequisites prereqs parents parent upstream follows wait_for waits_for need runs_after",
        &["needs"],
        "needs = \"a\", or [\"a\", \"b\"]",
    ),
    as_in(
        "input in infile infiles input_file input_files stage_in stageinput reads sources",
        &["inputs", "file"],
        "inputs = [\"a.txt\"]",
    ),
    as_in(
        "output out outfile outfiles output_file output_files product products produces target targets publishdir \
         stage_out creates writes results",
        &["outputs", "file"],
        "outputs = [\"b.txt\"]",
    ),
    as_in("temp temporary tmp is_temp is_temporary intermediate", &["keep"], "keep = false"),
    as_in(
        "licenses license licences licence resources resource tokens semaphore semaphores throttles quota",
        &["pools"],
        "pools = { licences = 1 } with a table [pools.licences]",
    ),
    as_in("units max_units", &["capacity"], "capacity = 4"),
    as_in(
        "submit_rate_limit submitratelimit max_jobs_per_timespan per_second starts_per_second",
        &["rate"],
        "rate = \"10/s\"",
    ),
    // Families of tasks.
    as_in(
        "indices array_indices range replicas num_tasks array_size times job_array jobarray arrayid",
        &["array"],
        "array = \"0-99\"",
    ),
    as_in(
        "max_parallel maxparallel max_running max_jobs maxforks max_forks concurrency parallelism parallel throttle \
         limit slot_limit jobs_at_once",
        &["array"],
        "array = \"0-99%5\" runs at most 5 at once",
    ),
    as_in(
        "scatter foreach for_each each sweep grid params parameters wildcards expand product_of entries items samples",
        &["matrix"],
        "matrix = { sample = [\"a\", \"b\"] }",
    ),
    // The job.
    same("desc comment info about doc help", &["description"]),
    same("fail_fast failfast keep_going max_errors error_limit stop_on_failure", &["max_failures"]),
    same("latency_wait output_timeout filesystem_wait", &["output_wait"]),
    same("tasks jobs job_list steps step rules processes process", &["task"]),
    as_in("rule", &["task"], "[[task]] for what is to be run, [[scaling.rule]] for a rule of scaling"),
    same("config configuration settings global project general workflow options", &["job"]),
    same("default common defaults_task job_defaults default_resources", &["defaults"]),
    same("autoscale autoscaling scale elastic", &["scaling"]),
    same("price prices pricing budget_table", &["cost"]),
    same("cluster provision provisioning allocation nodes_from resources executor", &["capacity"]),
    same("alerts alarm alarms notify notification notifications", &["alert"]),
    same("advice adviser llm ai assistant", &["advisor"]),
    same("graphs dataset data", &["graph"]),
    same("divided distribute distributed shard sharded", &["divide"]),
    // Scaling, cost, capacity, alerts.
    same("min min_nodes min_workers minimum_ranks min_size minsize nodes_min least", &["min_ranks"]),
    same("max max_nodes max_workers maximum_ranks max_size maxsize nodes_max most workers", &["max_ranks"]),
    same("strategy mode algorithm scaler", &["policy"]),
    same("goal objective optimize optimise aim", &["intent"]),
    same("period every tick poll", &["interval", "repeat"]),
    same("cooldown cooldown_up scale_up_cooldown cooldown_out grow_cooldown", &["cooldown_grow", "repeat"]),
    same("cooldown_down scale_down_cooldown cooldown_in shrink_cooldown", &["cooldown_shrink"]),
    same("price_per_hour hourly hourly_price rate price cost_per_hour node_price", &["node_hour"]),
    same("max_cost cost_limit cap money max_budget", &["budget"]),
    same("hourly_budget budget_hour max_cost_per_hour", &["budget_per_hour"]),
    as_in(
        "queue partition slurm_partition partitions",
        &["partition"],
        "partition = \"short\" in [capacity]; that of the whole run: `phalanx submit JOB --partition=short`",
    ),
    as_in(
        "sbatch sbatch_options slurm_options slurm_args extra_args qos_name constraint options native \
         native_specification clusteroptions cluster_options reservation exclusive",
        &["extra"],
        "extra = [\"--qos=long\"] in [capacity]; for the whole run: `phalanx submit JOB --qos=long`",
    ),
    as_in(
        "account charge_account project_account",
        &["account"],
        "account = \"abc\" in [capacity]; that of the whole run: `phalanx submit JOB --account=abc`",
    ),
    same("backend type kind system batch_system", &["provider"]),
    same("hosts hostlist machinefile machines host_file", &["hostfile"]),
    same("threshold gt greater_than over upper", &["above"]),
    same("lt less_than under lower", &["below"]),
    same("for during duration_for hold_for since", &["lasting"]),
    same("url hook slack http", &["webhook"]),
    same("condition on type status", &["when"]),
    same("delay wait pause backoff_s sleep", &["backoff"]),
    same("on needs_task from", &["task"]),
    same("path filename src", &["file"]),
    same("max max_retries attempts max_attempts tries max_tries times limit number", &["count"]),
];

/// The key among `valid` that means the same as a word of another system, with an example; `None`
/// for an unknown word or one that means nothing here.
pub(crate) fn meaning<'a>(word: &str, valid: &[&'a str]) -> Option<(&'a str, &'static str)> {
    of(word).find_map(|synonyms| {
        let key = synonyms.keys.iter().find_map(|key| valid.iter().copied().find(|valid| valid == key))?;
        Some((key, if key == synonyms.keys[0] { synonyms.example } else { "" }))
    })
}

/// Tables in which somebody may write what belongs in another one, as messages call them.
const MISTAKEN_TABLES: [&str; 8] =
    ["the job file", "[[task]]", "job", "defaults", "scaling", "cost", "capacity", "site"];

/// The key of other tables that means the same as a word in this table, with an example.
pub(crate) fn meaning_elsewhere(word: &str, table: &str) -> Option<(&'static str, &'static str)> {
    of(word).next().filter(|_| MISTAKEN_TABLES.contains(&table)).map(|synonyms| (synonyms.keys[0], synonyms.example))
}

/// How to write a key whose name alone does not say so.
pub(crate) fn example(key: &str) -> Option<&'static str> {
    SYNONYMS.iter().find(|synonyms| synonyms.keys[0] == key && !synonyms.example.is_empty()).map(|found| found.example)
}

fn of(word: &str) -> impl Iterator<Item = &'static Synonyms> {
    let word = word.to_lowercase().replace('-', "_");
    SYNONYMS.iter().filter(move |synonyms| synonyms.words.split_whitespace().any(|known| known.to_lowercase() == word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::spec;

    const TASK: [&str; 8] = ["command", "cpus", "memory", "time", "needs", "inputs", "mpi", "array"];

    #[test]
    fn words_of_others_mean_the_key_of_the_table() {
        let cases = [
            ("mem", "memory"),
            ("mem-per-cpu", "memory"),
            ("walltime", "time"),
            ("threads", "cpus"),
            ("depends", "needs"),
            ("after", "needs"),
            ("cmd", "command"),
            ("nodes", "mpi"),
            ("ntasks", "mpi"),
            ("CPUs-per-task", "cpus"),
            ("input", "inputs"),
            ("shell_command", "command"),
            ("maxForks", "array"),
            ("baseCommand", "command"),
        ];
        for (word, key) in cases {
            assert_eq!(meaning(word, &TASK).map(|found| found.0), Some(key), "{word}");
        }
        assert_eq!(meaning("nodes", &["provider", "nodes_per_block"]).map(|found| found.0), Some("nodes_per_block"));
        assert_eq!(meaning("nodes", &["ranks", "per_node"]).map(|found| found.0), Some("ranks"));
        assert_eq!(meaning("temp", &["file", "keep"]), Some(("keep", "keep = false")));
        assert_eq!(meaning_elsewhere("account", "[[task]]").map(|found| found.0), Some("account"));
        assert_eq!(meaning_elsewhere("threads", "job").map(|found| found.0), Some("cpus"));
        assert_eq!(meaning("rule", &["task", "scaling"]).map(|found| found.0), Some("task"));
        // A small table is not mistaken for a task.
        for table in ["generate", "outputs", "mpi"] {
            assert_eq!(meaning_elsewhere("threads", table), None, "{table}");
            assert_eq!(meaning_elsewhere("directory", table), None, "{table}");
        }
        assert_eq!(meaning("banana", &TASK), None);
        assert_eq!(meaning("memory", &["cpus"]), None);
    }

    #[test]
    fn every_key_of_the_table_exists() {
        for key in SYNONYMS.iter().flat_map(|synonyms| synonyms.keys) {
            let in_small_tables = ["keep", "ranks", "count", "backoff", "when", "task", "mpi"];
            assert!(!spec::homes_of(key).is_empty() || in_small_tables.contains(key), "{key}");
        }
    }
}
