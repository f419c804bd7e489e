//! Resolves the axes of a matrix, of which some come from files.

use std::path::Path;

use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::At;
use crate::job::space::Axis;
use crate::job::value_files::{Mistake, ValueFiles, read_list, read_table};
use crate::job::values::{AxisSource, AxisSpec, MatrixSpec};

/// The axes; `None` if a file cannot be used.
pub(super) fn resolve_axes(
    matrix: &MatrixSpec,
    dir: &Path,
    files: &ValueFiles,
    findings: &mut Findings,
) -> Option<Vec<Axis>> {
    let mut axes: Vec<Axis> = Vec::new();
    let mut failed = false;
    for (name, source) in &matrix.axes {
        let further = match source {
            AxisSource::Given(values) => Some(vec![Axis::new(&name.value, values.clone())]),
            AxisSource::List(file) => read(file, dir, files, findings, read_list)
                .map(|values| vec![Axis::new(&name.value, AxisSpec::List(values))]),
            AxisSource::Table(file) => read(file, dir, files, findings, read_table).map(|columns| {
                let columns = columns.into_iter().map(|(name, values)| Axis::new(&name, AxisSpec::List(values)));
                columns.enumerate().map(|(at, column)| Axis { tied: at > 0, ..column }).collect()
            }),
        };
        for axis in further.iter().flatten().filter(|axis| axes.iter().any(|other| other.name == axis.name)) {
            let message = format!("the axis `{}` comes from a table and from another axis", axis.name);
            findings.push(Diagnostic::error(message).at(&name.span).help("rename one of them, or remove it"));
        }
        failed |= further.is_none();
        axes.extend(further.into_iter().flatten());
    }
    (!failed).then_some(axes)
}

fn read<T>(
    file: &At<String>,
    dir: &Path,
    files: &ValueFiles,
    findings: &mut Findings,
    parse: impl Fn(&str) -> Result<T, Mistake>,
) -> Option<T> {
    let name = &file.value;
    let content = files.content(name, dir);
    let parsed =
        content.and_then(|text| parse(&text).map_err(|Mistake { line, text }| format!("{name}, line {line}: {text}")));
    parsed.map_err(|message| findings.push(Diagnostic::error(message).at(&file.span))).ok()
}
