//! The tools of `phalanx mcp`: their arguments, from which their schemas are generated, and the
//! command line that each stands for.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::control::Scale;
use crate::system::bounded_command;
use crate::text::shell_word;

/// Upper limit on the duration of a call; a large simulation is the longest.
const MAX_CALL: Duration = Duration::from_secs(600);

/// Upper limit on the text of an answer in bytes, so that it fits what an agent can read.
const MAX_TEXT: usize = 256 << 10;

/// Arguments of a tool that looks at a job file.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JobArgs {
    /// Path of the job file.
    job: String,
}

/// Arguments of a tool that looks at a run.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RunArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name, or `latest`.
    run: Option<String>,
}

/// Arguments of `explain`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExplainArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name, or `latest`.
    run: Option<String>,
    /// Explain the state of this task (`tile[3]`, `tile[0-9]`, `align[sample=NA3]`, `tile`) instead
    /// of the scaling decisions.
    task: Option<String>,
}

/// Arguments of `scale`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ScaleArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name, or `latest`.
    run: Option<String>,
    /// `+2` adds ranks, `-1` removes one, `6` sets the total, `auto` returns control to the policy.
    ranks: String,
    /// Say what would be asked, and how the run stands, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Arguments of `drain`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DrainArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name, or `latest`.
    run: Option<String>,
    /// Name of a node, or number of a rank.
    what: String,
    /// Say what would be asked, and how the run stands, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Arguments of `cancel`, `pause` and `resume`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TasksArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name, or `latest`.
    run: Option<String>,
    /// Only these tasks (`tile[3]`, `tile[0-9]`, `tile`); without it the whole run.
    task: Option<String>,
    /// Say what would be asked, and how the run or its tasks stand, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Arguments of `limit`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LimitArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name, or `latest`.
    run: Option<String>,
    /// Name of the pool, or of the task whose array has a limit.
    pool: String,
    /// Units that may be in use at once, such as `8`; `0` starts nothing more, `none` lifts the
    /// limit.
    units: String,
    /// Say what would be asked, and how the run stands, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Arguments of `add`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name, or `latest`.
    run: Option<String>,
    /// `[[task]]` tables as in a job file (TOML). They may need tasks of the run.
    tables: String,
    /// Check the tables against the run, and add nothing.
    #[serde(default)]
    dry_run: bool,
}

/// A call as command lines of phalanx.
struct Plan {
    /// The words after `phalanx`.
    words: Vec<String>,
    /// For a dry run: the words that show what the change would meet.
    shows_instead: Option<Vec<String>>,
    /// A folder that is removed after the call.
    folder: Option<tempfile::TempDir>,
}

impl Plan {
    fn reads(words: &[&str]) -> Plan {
        Plan { words: owned(words), shows_instead: None, folder: None }
    }

    fn changes(words: &[&str], dry_run: bool, shows: &[&str]) -> Plan {
        Plan { words: owned(words), shows_instead: dry_run.then(|| owned(shows)), folder: None }
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A tool: its name and description, its schema, whether it changes a run, and what it calls. The
/// first argument of `plan` is the run of a call that names none.
struct Tool {
    name: &'static str,
    about: &'static str,
    schema: fn() -> Value,
    changes: bool,
    plan: fn(&str, Value) -> Result<Plan, String>,
}

fn schema_of<T: JsonSchema>() -> Value {
    SchemaGenerator::default().into_root_schema_for::<T>().to_value()
}

fn arguments<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| format!("the arguments do not fit the tool: {error}"))
}

/// A tool that calls a verb with a job file.
fn of_job(name: &'static str, about: &'static str, plan: fn(&str, Value) -> Result<Plan, String>) -> Tool {
    Tool { name, about, schema: schema_of::<JobArgs>, changes: false, plan }
}

/// A tool that calls a verb with a run.
fn of_run(name: &'static str, about: &'static str, plan: fn(&str, Value) -> Result<Plan, String>) -> Tool {
    Tool { name, about, schema: schema_of::<RunArgs>, changes: false, plan }
}

fn job_words(before: &[&str], value: Value) -> Result<Plan, String> {
    let JobArgs { job } = arguments(value)?;
    Ok(Plan::reads(&[before, &["--", &job]].concat()))
}

fn run_words(before: &[&str], run: &str, value: Value) -> Result<Plan, String> {
    let args: RunArgs = arguments(value)?;
    Ok(Plan::reads(&[before, &["--", args.run.as_deref().unwrap_or(run)]].concat()))
}

/// A tool that changes a run, or some of its tasks.
fn of_tasks(name: &'static str, about: &'static str, plan: fn(&str, Value) -> Result<Plan, String>) -> Tool {
    Tool { name, about, schema: schema_of::<TasksArgs>, changes: true, plan }
}

fn tasks_words(verb: &str, run: &str, value: Value) -> Result<Plan, String> {
    let TasksArgs { run: named, task, dry_run } = arguments(value)?;
    let run = named.unwrap_or_else(|| run.to_owned());
    let option = task.as_ref().map(|task| format!("--task={task}"));
    let words: Vec<&str> = [verb, "--", &run].into_iter().chain(task.as_deref()).collect();
    let shows = match &option {
        Some(option) => vec!["explain", option, "--json", "--", &run],
        None => vec!["status", "--json", "--", &run],
    };
    Ok(Plan::changes(&words, dry_run, &shows))
}

fn tools() -> [Tool; 16] {
    [
        of_job("check", "Checks a job file: all of its mistakes at once, else a summary of its graph.", |_, args| {
            job_words(&["check", "--json"], args)
        }),
        of_job("plan", "Compares numbers of ranks for a job by time and cost, and recommends one.", |_, args| {
            job_words(&["plan", "--json"], args)
        }),
        of_job("simulate", "Runs a job in virtual time and says how long it takes and what it costs.", |_, args| {
            let JobArgs { job } = arguments(args)?;
            // A run directory of its own would be the `latest` run from then on.
            let folder = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
            let run_dir = format!("--run-dir={}", folder.path().join("run").display());
            Ok(Plan { folder: Some(folder), ..Plan::reads(&["simulate", "--json", &run_dir, "--", &job]) })
        }),
        of_job(
            "recommend",
            "Recommends memory, CPUs and time limits for the tasks of a job, from what its earlier runs used.",
            |_, args| job_words(&["recommend", "--json"], args),
        ),
        of_run("status", "The state of a run: its tasks, ranks, nodes and latest decisions.", |run, args| {
            run_words(&["status", "--json"], run, args)
        }),
        Tool {
            name: "explain",
            about: "Why a run grew or shrank, or with `task` why that task waits, runs, failed or was skipped.",
            schema: schema_of::<ExplainArgs>,
            changes: false,
            plan: |run, value| {
                let ExplainArgs { run: named, task } = arguments(value)?;
                let task = task.map(|task| format!("--task={task}"));
                let run = named.unwrap_or_else(|| run.to_owned());
                let words: Vec<&str> = ["explain", "--json"].into_iter().chain(task.as_deref()).collect();
                Ok(Plan::reads(&[&words[..], &["--", &run]].concat()))
            },
        },
        of_run("report", "The figures of a run: states, times, cost, utilisation, failures.", |run, args| {
            run_words(&["report", "--json"], run, args)
        }),
        of_run("failures", "The failed tasks of a run, each with the end of its output.", |run, args| {
            run_words(&["report", "--failed", "--json"], run, args)
        }),
        of_run("analyze", "What bounded a run, and what to change in its job file.", |run, args| {
            run_words(&["analyze", "--json"], run, args)
        }),
        Tool {
            name: "scale",
            about: "Changes the number of ranks of a live run. Call it with `dry_run` first.",
            schema: schema_of::<ScaleArgs>,
            changes: true,
            plan: |run, value| {
                let ScaleArgs { run: named, ranks, dry_run } = arguments(value)?;
                let run = named.unwrap_or_else(|| run.to_owned());
                ranks.parse::<Scale>()?;
                Ok(Plan::changes(&["scale", "--", &run, &ranks], dry_run, &["status", "--json", "--", &run]))
            },
        },
        Tool {
            name: "drain",
            about: "Lets a node or a rank of a live run complete its tasks and leave. Call it with `dry_run` first.",
            schema: schema_of::<DrainArgs>,
            changes: true,
            plan: |run, value| {
                let DrainArgs { run: named, what, dry_run } = arguments(value)?;
                let run = named.unwrap_or_else(|| run.to_owned());
                Ok(Plan::changes(&["drain", "--", &run, &what], dry_run, &["status", "--json", "--", &run]))
            },
        },
        Tool {
            name: "limit",
            about: "Changes how many units of a pool of a live run may be in use. Call it with `dry_run` first.",
            schema: schema_of::<LimitArgs>,
            changes: true,
            plan: |run, value| {
                let LimitArgs { run: named, pool, units, dry_run } = arguments(value)?;
                let run = named.unwrap_or_else(|| run.to_owned());
                let limit = format!("{pool}={units}");
                Ok(Plan::changes(&["limit", "--", &run, &limit], dry_run, &["status", "--json", "--", &run]))
            },
        },
        Tool {
            name: "add",
            about: "Adds tasks to a live run. Call it with `dry_run` first.",
            schema: schema_of::<AddArgs>,
            changes: true,
            plan: |run, value| {
                let AddArgs { run: named, tables, dry_run } = arguments(value)?;
                let run = named.unwrap_or_else(|| run.to_owned());
                let written = tempfile::tempdir().and_then(|folder| {
                    let file = folder.path().join("tables");
                    std::fs::write(&file, tables)?;
                    Ok((folder, file.display().to_string()))
                });
                let (folder, file) = written.map_err(|error| format!("no temporary file: {error}"))?;
                let plan =
                    Plan::changes(&["add", "--", &run, &file], dry_run, &["add", "--dry-run", "--", &run, &file]);
                Ok(Plan { folder: Some(folder), ..plan })
            },
        },
        of_tasks(
            "pause",
            "Starts no further tasks of a live run, or none of these. Call it with `dry_run` first.",
            |run, value| tasks_words("pause", run, value),
        ),
        of_tasks("resume", "Starts paused tasks of a live run again. Call it with `dry_run` first.", |run, value| {
            tasks_words("resume", run, value)
        }),
        of_tasks(
            "cancel",
            "Cancels tasks of a live run, or all of it; --resume continues it. Call it with `dry_run` first.",
            |run, value| tasks_words("cancel", run, value),
        ),
    ]
}

/// All tools, as the protocol lists them.
pub(super) fn descriptions() -> Vec<Value> {
    let describe = |tool: &Tool| {
        json!({
            "name": tool.name,
            "description": tool.about,
            "inputSchema": (tool.schema)(),
            "annotations": { "readOnlyHint": !tool.changes, "destructiveHint": tool.changes },
        })
    };
    tools().iter().map(describe).collect()
}

/// Calls a tool: its output, or why there is none; `None` if there is no such tool.
pub(super) fn call(run: &str, name: &str, arguments: Value) -> Option<Result<String, String>> {
    let tool = tools().into_iter().find(|tool| tool.name == name)?;
    let answer = |plan: Plan| {
        let answer = carry_out(&plan);
        drop(plan.folder);
        answer
    };
    Some((tool.plan)(run, arguments).and_then(answer))
}

fn carry_out(plan: &Plan) -> Result<String, String> {
    let Some(shows) = &plan.shows_instead else { return phalanx(&plan.words) };
    let now = phalanx(shows)?;
    let line: Vec<String> = plan.words.iter().filter(|word| *word != "--").map(|word| shell_word(word)).collect();
    let now: Value = serde_json::from_str(&now).unwrap_or(Value::String(now));
    if let Some(why) = has_ended(&now) {
        return Err(why);
    }
    Ok(json!({ "dry_run": true, "would_run": format!("phalanx {}", line.join(" ")), "now": now }).to_string())
}

/// Why nothing can be changed any more, from the status of a run or the explanation of its tasks.
fn has_ended(now: &Value) -> Option<String> {
    if let Some(state) = now["run_state"].as_str().filter(|state| *state != "RUNNING") {
        return Some(format!("the run has ended ({state}): it would be refused"));
    }
    let is_open = |task: &Value| ["PENDING", "READY", "RUNNING"].contains(&task["state"].as_str().unwrap_or_default());
    let tasks = now["tasks"].as_array()?;
    (!tasks.iter().any(is_open)).then(|| "these tasks have ended already: it would be refused".to_owned())
}

/// Runs this program with these words; the output of one that failed says why.
fn phalanx(words: &[String]) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let until = Instant::now() + MAX_CALL;
    let output = bounded_command::run(&mut command, &|| until).map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| shortened(String::from_utf8_lossy(bytes).trim().to_owned());
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err([text(&output.stdout), text(&output.stderr)].join("\n").trim().to_owned()),
    }
}

/// A text that is too long loses its end, and says so.
fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let cut = (0..=MAX_TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(cut);
        text += "\n... (the rest is left out; ask for less)";
    }
    text
}
