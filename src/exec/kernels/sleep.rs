//! `sleep { seconds }`: takes time and nothing else; stands for any task when a workload's shape is rehearsed.

use std::sync::Arc;

use crate::exec::args::{ArgError, Args};
use crate::exec::kernel::Prepared;

pub(super) fn prepare(args: &toml::Table) -> Result<Prepared, ArgError> {
    let time = super::seconds(&Args::new(args, &["seconds"])?, "seconds")?;
    let time = time.ok_or_else(|| super::missing("seconds", "seconds"))?;
    Ok(Arc::new(move |context| {
        // Why it ended early is the runner's to say.
        context.sleep(time);
        Ok(())
    }))
}
