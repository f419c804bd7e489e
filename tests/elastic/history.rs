//! What runs of a job leave for later ones: durations that the job file does not give, what a run
//! usually takes, and what is unusual.

use crate::support::{Dir, mpirun, phalanx};
use serde_json::Value;

const FILE: &str = "phalanx-runs/sleepy.history.jsonl";

/// Three tasks that sleep, and one after them; the job file says nothing of how long.
fn sleepy(seconds: f64) -> String {
    format!(
        "[job]\nname = \"sleepy\"\n\
         [[task]]\nname = \"nap\"\narray = \"1-3\"\nkernel = \"sleep\"\nargs = {{ seconds = {seconds} }}\n\
         [[task]]\nname = \"wake\"\nkernel = \"sleep\"\nargs = {{ seconds = 0.1 }}\nneeds = [\"nap\"]\n"
    )
}

fn lines(dir: &Dir) -> Vec<Value> {
    dir.read(FILE).lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn report(dir: &Dir) -> Value {
    phalanx(dir).args(["report", "latest", "--json"]).run().ok().json()
}

#[test]
fn a_slow_run_is_told_from_the_usual_ones() {
    let dir = Dir::new("history");
    dir.job("job.toml", &sleepy(0.3));
    let run = || phalanx(&dir).args(["run", "job.toml", "--slots", "3"]).run();
    run().ok();
    let first = report(&dir);
    assert!(first["past"].is_null() && first["unusual"] == Value::Array(Vec::new()), "{first:#}");
    (0..5).for_each(|_| drop(run().ok()));
    let found = lines(&dir);
    assert_eq!(found.len(), 6);
    assert!(found.iter().all(|line| line["whole"] == true && line["tasks"] == 4 && line["slots"] == 3), "{found:#?}");
    let nap = &found[0]["classes"][0];
    assert_eq!((nap["name"].as_str(), nap["seen"].as_u64()), (Some("nap"), Some(3)));

    // Durations come from the runs before, and a plan counts with them.
    let past = &report(&dir)["past"];
    assert_eq!(past["runs"], 5);
    assert_eq!(past["learnt"][0]["class"], "nap");
    let seconds = past["learnt"][0]["seconds"].as_f64().expect("a number");
    assert!((0.29..10.0).contains(&seconds), "{seconds}");
    assert!(past["wall"]["seconds"]["q50"].as_f64().is_some_and(|wall| wall >= 0.4), "{past:#}");
    let plan = phalanx(&dir).args(["plan", "job.toml", "--ranks", "1", "--slots", "3"]).run().ok();
    drop(plan.says("history: 6 runs of this job").says("durations learnt for tasks without an estimate").says("`nap`"));
    let planned = phalanx(&dir).args(["plan", "job.toml", "--ranks", "1", "--slots", "3", "--json"]).run().ok().json();
    let foreseen = planned["candidates"][0]["makespan_q50_s"].as_f64().expect("a number");
    assert!((0.35..20.0).contains(&foreseen), "without a history it would be two seconds: {foreseen}");
    let elsewhere = ["plan", "job.toml", "--ranks", "1", "--history", "none.jsonl", "--json"];
    assert_eq!(phalanx(&dir).args(elsewhere).run().ok().json()["past"]["runs"], 0);

    // Twenty times as slow.
    dir.job("job.toml", &sleepy(6.0));
    run().ok().says("unusual:").says("x the usual duration");
    let slow = report(&dir);
    let unusual = slow["unusual"].as_array().expect("a list");
    // On a busy machine the runs before differ so much that this one may be among the usual.
    let is_usual = slow["past"]["wall"]["usual"][1].as_f64() > Some(6.0);
    assert!(is_usual || unusual.iter().any(|anomaly| anomaly["what"] == "wall"), "{slow:#}");
    let class = unusual.iter().find(|anomaly| anomaly["what"]["class"] == "nap").expect("the class that was slow");
    assert!(class["found_s"].as_f64() >= Some(6.0) && class["runs"] == 6, "{class:#}");
    phalanx(&dir).args(["report", "latest"]).run().ok().says("unusual:").says("a task of `nap` took ");
    phalanx(&dir).args(["explain", "latest"]).run().ok().says("Unusual:").says("Known before:");
}

#[test]
fn runs_that_end_together_and_torn_lines_do_no_harm() {
    let dir = Dir::new("history-many");
    dir.job("job.toml", &sleepy(0.2));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| phalanx(&dir).args(["run", "job.toml", "--slots", "3"]).run().ok());
        }
    });
    mpirun(&dir, 2).args(["run", "job.toml", "--slots", "2"]).run().ok();
    let found = lines(&dir);
    assert_eq!(found.len(), 4);
    assert_eq!(found.iter().filter(|line| line["slots"] == 4).count(), 1);

    let torn = dir.read(FILE);
    dir.file(FILE, &format!("{torn}{}", &torn[..40]));
    phalanx(&dir).args(["run", "job.toml", "--slots", "3"]).run().ok().says("that cannot be read are skipped: 1");
    assert_eq!(report(&dir)["past"]["runs"], 4);
    assert_eq!(dir.read(FILE).lines().count(), 6, "the torn line, and a new one behind it");

    // What has an estimate keeps it.
    let given = sleepy(0.2).replace("name = \"nap\"\n", "name = \"nap\"\nestimate = \"90s\"\n");
    dir.job("job.toml", &given);
    phalanx(&dir).args(["run", "job.toml", "--slots", "3"]).run().ok();
    let past = &report(&dir)["past"];
    let names: Vec<&str> =
        past["learnt"].as_array().unwrap().iter().filter_map(|learnt| learnt["class"].as_str()).collect();
    assert_eq!(names, ["wake"]);
}

#[test]
fn only_whole_runs_say_how_long_a_run_takes() {
    let dir = Dir::new("history-failed");
    let failing = sleepy(0.1) + "[[task]]\nname = \"bad\"\ncommand = \"false\"\n";
    dir.job("job.toml", &failing);
    phalanx(&dir).args(["run", "job.toml"]).run().code(1);
    phalanx(&dir).args(["run", "job.toml", "--resume"]).run().code(1);
    let found = lines(&dir);
    // The second session ran nothing that completed, and so found nothing.
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["whole"], false);
    // A simulated run is no experience.
    phalanx(&dir).args(["simulate", "job.toml"]).run();
    assert_eq!(lines(&dir).len(), 1);
}
