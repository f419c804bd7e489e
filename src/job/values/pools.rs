//! Values about pools: rates, the pools of a job, and what a task needs of them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::{At, Read, TomlNode, Whole, mismatch, table};
use crate::job::spec::PoolSpec;
use crate::job::units::{parse_duration, shorten};

/// A number of starts per time: "10/s", "50/2m".
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RateSpec {
    pub starts: u32,
    pub per: Duration,
}

impl RateSpec {
    fn parse(text: &str) -> Result<RateSpec, String> {
        let (starts, per) =
            text.split_once('/').ok_or("write starts per time, such as \"10/s\" or \"50/2m\"".to_owned())?;
        let typed = starts.trim();
        let starts = match typed.parse::<u32>() {
            Ok(0) => {
                Err("a rate of 0 would start none of its tasks; `phalanx limit RUN POOL=0` pauses a pool".to_owned())
            }
            Ok(starts) => Ok(starts),
            Err(_) if typed.contains('.') => {
                Err("starts are a whole number: write a longer time, such as \"5/10s\" for 0.5 per second".to_owned())
            }
            Err(_) => Err(format!("`{}` is no whole number of starts from 1 to {}", shorten(typed), u32::MAX)),
        }?;
        let per = per.trim();
        let per = if per.starts_with(|c: char| c.is_ascii_digit()) { per.to_owned() } else { format!("1{per}") };
        if per.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("the time has no unit: write \"10/s\", \"10/m\" or \"10/h\"".into());
        }
        let per = parse_duration(&per).map_err(|error| error.to_string())?;
        if per.is_zero() {
            return Err("the time of a rate must be longer than 0".into());
        }
        Ok(RateSpec { starts, per })
    }
}

impl Read for RateSpec {
    fn expected() -> String {
        "starts per time, such as \"10/s\" or \"50/2m\"".into()
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": "^ *[1-9][0-9]* */", "examples": ["10/s", "600/m", "50/2m"] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(text) = node.get_ref().as_str() else {
            mismatch::<Self>(key, node, findings);
            return None;
        };
        let refuse = |reason| findings.push(Diagnostic::error(format!("`{key}`: {reason}")).at(&node.span()));
        RateSpec::parse(text).map_err(refuse).ok()
    }
}

/// The pools of a job, in file order.
#[derive(Clone, Debug, Default)]
pub(crate) struct PoolsSpec(pub Vec<NamedPool>);

/// A `[pools.NAME]` table.
#[derive(Clone, Debug)]
pub(crate) struct NamedPool {
    pub name: At<String>,
    pub spec: At<PoolSpec>,
    /// True if the table has no field that the pool needs, not even an invalid one.
    pub is_bare: bool,
}

impl Read for PoolsSpec {
    fn expected() -> String {
        "a table of pools, such as [pools.licences]".into()
    }

    fn schema() -> Value {
        json!({
            "description": "Resources that all ranks share, one table each",
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z0-9._+@=-]+$" },
            "additionalProperties": PoolSpec::schema(),
        })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let pools = table::<Self>(key, node, findings)?;
        let mut pools: Vec<_> = pools
            .iter()
            .filter_map(|(name, node)| {
                let spec = PoolSpec::read(&format!("pools.{}", shorten(name.get_ref())), node, findings)?;
                let fields = node.get_ref().as_table();
                let is_bare = fields.is_none_or(|f| !f.contains_key("capacity") && !f.contains_key("rate"));
                let name = At::new(name.get_ref().to_string(), name.span());
                Some(NamedPool { name, spec: At::new(spec, node.span()), is_bare })
            })
            .collect();
        // The tree is sorted by key.
        pools.sort_by_key(|pool| pool.name.span.start);
        Some(PoolsSpec(pools))
    }
}

/// Units of a pool that a task may need. What many tasks need together still fits 32 bits.
type Amount = Whole<1, 1_000_000>;

/// What a task needs of pools: names and amounts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PoolAmounts(pub Vec<(At<String>, At<u32>)>);

impl Read for PoolAmounts {
    fn expected() -> String {
        "a table of pools and amounts, such as { licences = 1 }".into()
    }

    fn schema() -> Value {
        json!({ "type": "object", "additionalProperties": Amount::schema() })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let value = node.get_ref();
        let Some(amounts) = value.as_table() else {
            let named = value.as_str().or_else(|| value.as_array()?.first()?.get_ref().as_str());
            let name = named.map_or_else(|| "licences".to_owned(), shorten);
            let error = Diagnostic::error(format!("`{key}` must be {}", Self::expected())).at(&node.span());
            findings.push(error.help(format!("write `{key} = {{ {name} = 1 }}`")));
            return None;
        };
        let amount = |(name, node): (&toml::Spanned<std::borrow::Cow<'_, str>>, &TomlNode<'_>)| {
            let name_of = format!("{key}.{}", shorten(name.get_ref()));
            let amount = Amount::read(&name_of, node, findings)?;
            Some((At::new(name.get_ref().to_string(), name.span()), At::new(amount.0 as u32, node.span())))
        };
        let read: Vec<_> = amounts.iter().filter_map(amount).collect();
        (read.len() == amounts.len()).then_some(PoolAmounts(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_of_starts_in_a_time() {
        let rate = |text| RateSpec::parse(text).map(|rate| (rate.starts, rate.per.as_millis()));
        assert_eq!(rate("10/s"), Ok((10, 1000)));
        assert_eq!(rate(" 600 / m "), Ok((600, 60_000)));
        assert_eq!(rate("50/2m"), Ok((50, 120_000)));
        assert_eq!(rate("3/500ms"), Ok((3, 500)));
        for wrong in
            ["10", "/s", "0/s", "-1/s", "1.5/s", "10/", "10/5", "10/0s", "ten/s", "10/fortnight", "99999999999/s"]
        {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
