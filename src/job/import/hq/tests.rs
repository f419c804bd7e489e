use super::*;

#[test]
fn tasks_with_dependencies_and_requests() {
    let text = "name = \"t\"\nmax_fails = 11\n[[task]]\nid = 10\ncommand = [\"bash\", \"-c\", \"echo $ABC\"]\nenv = { ABC = \"1\" }\nstdout = \"out-%{TASK_ID}\"\nstderr = { path = \"e\", mode = \"rm-if-finished\" }\ntime_limit = \"1m 10s\"\npriority = -1\n[[task.request]]\nresources = { cpus = \"4 compact!\", gpus = 2 }\n[[task]]\ncommand = [\"true\"]\ndeps = [10]\n";
    let imported = hq(text, &Options::default()).unwrap();
    for part in [
        "max_failures = 12",
        "name = \"task-10\"",
        "stdout = \"out-10\"",
        "time = \"1m10s\"",
        "cpus = 4",
        "gpus = 2",
        "name = \"task-11\"",
        "needs = [\"task-10\"]",
        "HQ_TASK_ID = \"10\"",
    ] {
        assert!(imported.toml.contains(part), "{part} in\n{}", imported.toml);
    }
    assert_eq!(imported.warnings.len(), 2, "{:?}", imported.warnings);
}

#[test]
fn mistakes_name_their_line() {
    for (text, line) in [
        ("x = 1\n", 1),
        ("[[task]]\n", 1),
        ("[[task]]\ncommand = [\"a\"]\ncrash_limit = 0\n", 3),
        ("[[task]]\ncommand = [\"a\"]\nstdout = { path = \"e\", on_close = \"x\" }\n", 3),
        ("[[task]]\ncommand = [\"a\"]\npin = \"x\"\n", 3),
        ("[[task]]\ncommand = [\"a\"]\ntime_limit = \"10\"\n", 3),
        ("[array]\nids = \"1-3\"\nentries = [\"a\"]\ncommand = [\"a\"]\n", 2),
        ("[array]\nids = \"3-1\"\ncommand = [\"a\"]\n", 2),
        ("[[task]]\ncommand = [\"a\"]\n[[task.request]]\nresources = { cpus = \"x\" }\n", 4),
        ("[[task]]\ncommand = [\"a\"]\ndeps = [7]\n", 1),
        ("[array]\ncommand = [\"a\"]\n", 1),
        ("\n[[task]\n", 2),
        ("", 1),
        ("[[task]]\ncommand = [\"a\"]\ncwd = \"%{JOB_ID}\"\n", 3),
    ] {
        assert_eq!(hq(text, &Options::default()).unwrap_err().line, line, "{text:?}");
    }
}

#[test]
fn tasks_without_ids_are_numbered_from_the_highest_on() {
    let text = "[[task]]\ncommand = [\"a\"]\n[[task]]\nid = 12\ncommand = [\"b\"]\n[[task]]\ncommand = [\"c\"]\ndeps = [13, 13]\nstdout = \"%{TASK_ID}\"\n";
    let toml = hq(text, &Options::default()).unwrap().toml;
    for part in ["\"task-13\"", "\"task-12\"", "\"task-14\"", "stdout = \"14\"", "needs = [\"task-13\"]"] {
        assert!(toml.contains(part), "{part} in\n{toml}");
    }
    assert!(hq("[[task]]\ncommand = [\"a\"]\n", &Options::default()).unwrap().toml.contains("\"task-1\""));
}

#[test]
fn what_has_no_counterpart_is_named_with_its_line() {
    let text = "data_layer = true\n[[task]]\ncommand = [\"sh\", \"-c\", \"echo $HQ_TASK_ID $HQ_NODE_FILE\"]\ncrash_limit = \"never-restart\"\npin = \"none\"\ntime_limit = \"1h 30min\"\nstdin = \"x\"\nstderr = { path = \"e\", on_close = \"none\" }\nstdout = { path = \"o\", on_close = \"rm-if-finished\" }\n[[task.request]]\nn_nodes = 2\nweight = 11.2\ntime_request = \"10s\"\nresources = { cpus = \"all\", gpus = 1.1, mem = \"1_000\" }\n[[task.request]]\n[[task]]\ncommand = [\"a\"]\ncrash_limit = \"unlimited\"\n";
    let imported = hq(text, &Options::default()).unwrap();
    for part in ["time = \"1h30m\"", "gpus = 2", "memory = \"1000M\"", "stderr = \"e\""] {
        assert!(imported.toml.contains(part), "{part} in\n{}", imported.toml);
    }
    let line = |warning: &String| warning["line ".len()..].split(':').next().unwrap().parse().unwrap();
    let mut lines: Vec<usize> = imported.warnings.iter().map(line).collect();
    lines.sort_unstable();
    assert_eq!(lines, [1, 3, 4, 9, 11, 12, 13, 14, 14, 15], "{:#?}", imported.warnings);
}

#[test]
fn entries_may_have_ids_of_their_own() {
    let text = "[array]\nids = \"2, 10-11\"\nentries = [\"a\", \"{name}\", \"c\"]\ncommand = [\"a\"]\npin = \"omp\"\n";
    let imported = hq(text, &Options::default()).unwrap();
    let table: toml::Table = toml::from_str(&imported.toml).unwrap();
    let env = |at: usize, key: &str| table["task"][at]["env"][key].as_str().unwrap().to_string();
    assert_eq!((env(0, "HQ_TASK_ID"), env(0, "HQ_ENTRY")), ("2".into(), "a".into()));
    assert_eq!((env(1, "HQ_TASK_ID"), env(1, "HQ_ENTRY")), ("10".into(), "{{name}}".into()));
    assert_eq!(table["task"][2]["name"].as_str(), Some("task-11"));
    assert_eq!(imported.warnings.len(), 1);
}

#[test]
fn text_for_standard_input_gets_there() {
    let text = "[[task]]\ncommand = [\"cat\", \"-\"]\nstdin = \"it's \\\"$x\\\" %s\\n\"\n";
    let table: toml::Table = toml::from_str(&hq(text, &Options::default()).unwrap().toml).unwrap();
    let words = table["task"][0]["command"].as_array().unwrap().clone();
    let words: Vec<&str> = words.iter().map(|word| word.as_str().unwrap()).collect();
    let output = std::process::Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "it's \"$x\" %s\n");
}
