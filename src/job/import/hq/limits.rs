//! Limits, priorities and requests for resources of a task.

use super::HqWriter;
use super::format::{CrashLimit, HqTask};
use crate::job::import::ImportError;
use crate::job::import::write::JobFileWriter;
use crate::job::read::Span;
use crate::job::units::format_duration;

impl HqWriter<'_> {
    pub(super) fn limits(&mut self, spec: &HqTask, document: &mut JobFileWriter) -> Result<(), ImportError> {
        if let Some(limit) = &spec.time_limit {
            match humantime::parse_duration(&limit.value) {
                Ok(time) if !time.is_zero() => document.field("time", format_duration(time)),
                _ => return self.refuse(&limit.span, format!("`time_limit = \"{}\"` is not a duration", limit.value)),
            }
        }
        document.optional("priority", spec.priority.as_ref().map(|priority| priority.value.0));
        if let Some(pin) = spec.pin.as_ref().filter(|pin| !["none", "taskset", "omp"].contains(&pin.value.as_str())) {
            return self
                .refuse(&pin.span, format!("`pin = \"{}\"` is not known; none, taskset and omp are", pin.value));
        }
        let ignored = [
            (
                spec.task_dir.as_ref().filter(|dir| dir.value).map(|at| &at.span),
                "`task_dir` is left out; every task has PHALANX_TASK_DIR",
            ),
            (
                spec.pin.as_ref().filter(|pin| pin.value != "none").map(|at| &at.span),
                "`pin` is left out; slots are pinned anyway",
            ),
            (
                // A task of a lost rank always runs again, as with `unlimited`.
                spec.crash_limit.as_ref().filter(|limit| limit.value != CrashLimit::Unlimited).map(|at| &at.span),
                "`crash_limit` is left out; tasks of a lost rank run again elsewhere, however often that happens",
            ),
        ];
        for (span, text) in ignored {
            if let Some(span) = span {
                self.warn(span, text);
            }
        }
        Ok(())
    }

    pub(super) fn requests(&mut self, spec: &HqTask, document: &mut JobFileWriter) -> Result<(), ImportError> {
        let requests = spec.request.as_ref().map_or(&[][..], |requests| &requests.value.0);
        if let Some(second) = requests.get(1) {
            self.warn(&second.span, "alternative requests are left out; the first is used");
        }
        let Some(request) = requests.first() else { return Ok(()) };
        if let Some(nodes) = request.value.n_nodes.as_ref().filter(|nodes| nodes.value.0 > 1) {
            self.warn(
                &nodes.span,
                "`n_nodes` is left out and the task gets one node; if its command is an MPI program, give it `mpi = { ranks = ... }`",
            );
        }
        if let Some(time) = &request.value.time_request {
            if humantime::parse_duration(&time.value).is_err() {
                return self.refuse(&time.span, format!("`time_request = \"{}\"` is not a duration", time.value));
            }
            self.warn(&time.span, "`time_request` is left out; the task may start shortly before the allocation ends");
        }
        if let Some(weight) = &request.value.weight {
            self.warn(&weight.span, "`weight` is left out; use `priority` instead");
        }
        let Some(resources) = &request.value.resources else { return Ok(()) };
        for (name, amount) in &resources.value.0 {
            self.resource(name, amount, &resources.span, document)?;
        }
        Ok(())
    }

    fn resource(
        &mut self,
        name: &str,
        amount: &str,
        span: &Span,
        document: &mut JobFileWriter,
    ) -> Result<(), ImportError> {
        let (key, most) = match name {
            "cpus" => ("cpus", 65536.0),
            "gpus" | "gpus/nvidia" | "gpus/amd" => ("gpus", 1024.0),
            "mem" => ("memory", f64::from(u32::MAX)),
            _ => {
                self.warn(span, &format!("the resource `{name}` is left out"));
                return Ok(());
            }
        };
        let amount = amount.trim();
        if amount == "all" {
            self.warn(span, &format!("`{name} = \"all\"` is left out; give the number that a node has"));
            return Ok(());
        }
        let (number, policy) = amount.split_once(' ').unwrap_or((amount, ""));
        let number = number.replace('_', "").parse().ok().filter(|number| (0.0..=most).contains(number));
        let Some(number): Option<f64> = number else {
            return self.refuse(span, format!("`{name} = \"{amount}\"` is no amount; give a number"));
        };
        if number.fract() != 0.0 {
            self.warn(span, &format!("`{name} = \"{amount}\"` is rounded up; fractions are not supported"));
        }
        match (key, number.ceil()) {
            ("cpus" | "memory", 0.0) => self.warn(span, &format!("`{name} = 0` is left out")),
            ("memory", number) => document.field(key, format!("{number}M")),
            (key, number) => document.field(key, number as i64),
        }
        if !policy.is_empty() {
            self.warn(span, &format!("the policy of `{name} = \"{amount}\"` is left out"));
        }
        Ok(())
    }
}
