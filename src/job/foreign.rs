//! Files of other formats that are given where a job file is expected.

use std::path::Path;

/// What a text that is no TOML seems to be, and what to do with it. `None` for a job file with
/// mistakes, and if nothing is known of the text.
pub(super) fn recognise(text: &str, file: &str) -> Option<(&'static str, String)> {
    if text.lines().any(is_header) {
        return None;
    }
    let path = Path::new(file);
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let is = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let starts = |words: &[&str]| text.lines().any(|line| words.iter().any(|word| line.starts_with(word)));
    let word = crate::text::shell_word(file);
    let import = |format: &str| format!("turn it into a job file: `phalanx import {format} {word} -o job.toml`");
    let toml = || "job files are TOML; `phalanx new pipeline` writes one to start from".to_owned();
    let found = if first.starts_with('{') {
        let is_workflow = text.contains("\"workflow\"") && text.contains("\"tasks\"");
        ("JSON", if is_workflow { import("wfcommons") } else { toml() })
    } else if name.starts_with("snakefile") || is(&[".smk"]) || starts(&["rule ", "checkpoint "]) {
        (
            "a Snakefile",
            "there is no importer for it: write a task for each rule, with `inputs`, `outputs` and a `matrix`"
                .to_owned(),
        )
    } else if is(&[".nf"]) || starts(&["process "]) {
        ("a Nextflow script", "there is no importer for it: write a task for each process".to_owned())
    } else if is(&[".cwl", ".wdl"]) {
        ("a workflow in CWL or WDL", "there is no importer for it: write a task for each step".to_owned())
    } else if is(&[".dag"]) || starts(&["JOB ", "TASK "]) {
        ("a DAG file", import("dag"))
    } else if is(&[".makeflow", ".mf"]) {
        ("a Makeflow file", import("makeflow"))
    } else if first.starts_with("#!") || is(&[".sh", ".bash"]) {
        (
            "a shell script",
            format!(
                "name it in a task: `command = [\"{file}\"]`; or, if each line of it is a task of its own, {}",
                import("lines")
            ),
        )
    } else if is(&[".yaml", ".yml"]) || first == "---" || first.ends_with(':') {
        ("YAML", toml())
    } else if is(&[".txt", ".lst", ".list", ".cmd", ".cmds", ".joblist"]) || (!name.contains('.') && file != "stdin") {
        ("a list of commands", import("lines"))
    } else {
        return None;
    };
    Some(found)
}

/// True for the header of a table of job files, however it is spaced.
fn is_header(line: &str) -> bool {
    let tight: String = line.split_whitespace().collect();
    ["[[task]]", "[[graph]]", "[job]", "[defaults]", "[scaling]", "[capacity]", "[cost]"]
        .iter()
        .any(|header| tight.starts_with(header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_formats_are_recognised() {
        for (file, text, what) in [
            ("job.yaml", "tasks:\n  - name: a\n", "YAML"),
            ("a.toml", "tasks:\n  - name: a\n", "YAML"),
            ("job.json", "{\"task\": []}", "JSON"),
            ("Snakefile", "rule a:\n  shell: 'x'\n", "a Snakefile"),
            ("main.nf", "process A {\n}\n", "a Nextflow script"),
            ("run.sh", "echo hi\n", "a shell script"),
            ("run", "#!/bin/bash\n#SBATCH -n 4\n", "a shell script"),
            ("commands.txt", "echo a\necho b\n", "a list of commands"),
            ("x.dag", "JOB A a.sub\n", "a DAG file"),
        ] {
            assert_eq!(recognise(text, file).map(|found| found.0), Some(what), "{file}");
        }
        assert_eq!(recognise("[[task]]\nname: a\n", "job.yaml"), None);
        assert_eq!(recognise("[[ task ]] # one\nname = \n", "job"), None);
        assert_eq!(recognise("name = \n", "job.toml"), None);
        let workflow = recognise("{\"workflow\": {\"tasks\": []}}", "my flow.json").expect("JSON").1;
        assert!(workflow.contains("phalanx import wfcommons 'my flow.json'"), "{workflow}");
    }
}
